//! The modules of `src/` have the order that CONTRIBUTING.md lists, and every import goes down in that order.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The files and folders of `src/`, from the top, as CONTRIBUTING.md lists them.
#[derive(Debug)]
struct House {
    rooms: Vec<String>,
}

impl House {
    fn of(contributing: &str) -> Self {
        let list = contributing.split("```text\nlib.rs").nth(1).expect("the list of rooms");
        let list = list.split("```").next().unwrap();
        let mut rooms = vec!["lib.rs".to_owned()];
        let mut folder = String::new();
        for line in list.lines().skip(1) {
            let Some(name) = line.split_whitespace().next() else { continue };
            if line.starts_with(' ') {
                // If the files of a folder are listed, each of them has its own place.
                rooms.retain(|room| *room != folder);
                rooms.push(format!("{folder}{name}"));
            } else {
                folder = name.to_owned();
                rooms.push(name.to_owned());
            }
        }
        House { rooms }
    }

    /// The place of a file in the list, counted from the top.
    fn floor(&self, file: &str) -> Option<usize> {
        self.rooms.iter().position(|room| *room == file || room.ends_with('/') && file.starts_with(room.as_str()))
    }

    /// The file that a path such as `file::guard::WriteGuard` leads to.
    fn file_of(&self, path: &str) -> Option<String> {
        let modules: Vec<&str> =
            path.split("::").take_while(|name| name.starts_with(|first: char| first.is_lowercase())).collect();
        (1..=modules.len()).rev().find_map(|taken| {
            let stem = modules[..taken].join("/");
            let candidates = [format!("{stem}.rs"), format!("{stem}/mod.rs")];
            candidates.into_iter().find(|file| self.floor(file).is_some())
        })
    }

    /// The faults in the imports of one file.
    fn arrows_up(&self, file: &str, source: &str) -> Vec<String> {
        let Some(from) = self.floor(file) else { return vec![format!("{file} is not in the list")] };
        let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let mut wrong = Vec::new();
        for after in code.join("\n").split("crate::").skip(1) {
            let path: String = after.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
            let group = after[path.len()..].strip_prefix('{').map(|rest| rest.split('}').next().unwrap());
            if group.is_some_and(|names| names.contains("::")) {
                wrong.push(format!("{file}: one path a line, not crate::{path}{{...::...}}"));
            }
            for name in group.unwrap_or_default().split(',') {
                let path = path.clone() + name.trim();
                match self.file_of(&path) {
                    None => wrong.push(format!("{file}: crate::{path} is in no room")),
                    Some(to) if self.floor(&to) >= Some(from) => {}
                    Some(to) => wrong.push(format!("{file} imports {to}, which stands above it")),
                }
            }
        }
        // If the files of a folder have their own places, imports without `crate::` would not be checked.
        if !self.rooms[from].ends_with('/') && code.iter().any(|line| line.contains("super::")) {
            wrong.push(format!("{file}: `crate::`, not `super::`"));
        }
        wrong
    }
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The Rust files of the library, by their paths in `src/`.
fn library() -> BTreeSet<String> {
    let src = source_dir();
    let names = files(&src).into_iter().map(|file| file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned());
    names.filter(|name| !name.starts_with("bin/") && name.ends_with(".rs")).collect()
}

fn house() -> House {
    let contributing = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md");
    House::of(&fs::read_to_string(contributing).unwrap())
}

#[test]
fn every_import_goes_down() {
    let house = house();
    let wrong: Vec<String> = library()
        .iter()
        .flat_map(|file| house.arrows_up(file, &fs::read_to_string(source_dir().join(file)).unwrap()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_listed_file_exists() {
    let library = library();
    for room in house().rooms {
        let there = library.iter().any(|file| *file == room || room.ends_with('/') && file.starts_with(&room));
        assert!(there, "CONTRIBUTING.md lists {room}");
    }
}

#[test]
fn the_protocol_imports_nothing_but_std_and_xxhash() {
    for file in library().iter().filter(|file| file.starts_with("protocol/")) {
        for line in fs::read_to_string(source_dir().join(file)).unwrap().lines() {
            if let Some(import) = line.trim_start().strip_prefix("use ") {
                let own = ["std::", "xxhash_rust::", "crate::protocol::"];
                assert!(own.iter().any(|start| import.starts_with(start)), "{file}: {line}");
            }
        }
    }
}

/// The checks themselves: imports that they must report.
#[test]
fn an_import_upwards_is_reported() {
    let house = House::of("```text\nlib.rs  x\ntop/  x\n    a.rs  x\n    mod.rs  x\nlow.rs  x\ncellar/  x\n```");
    let wrong = |file: &str, source: &str| house.arrows_up(file, source).len();
    assert_eq!(wrong("top/a.rs", "use crate::top::Door;\nuse crate::low::{Floor, step};\n// crate::nowhere::X"), 0);
    assert_eq!(wrong("cellar/deep.rs", "use crate::cellar::barrel::Wine;"), 0);
    assert_eq!(wrong("low.rs", "use crate::top::a::Roof;"), 1);
    assert_eq!(wrong("low.rs", "fn f() { crate::top::call() }"), 1);
    assert_eq!(wrong("top/mod.rs", "use crate::top::a::Roof;"), 1);
    assert_eq!(wrong("top/mod.rs", "use crate::top::{a, b};"), 1);
    assert_eq!(wrong("cellar/deep.rs", "use crate::low::Floor;"), 1);
    assert_eq!(wrong("low.rs", "use super::top;"), 1);
    assert_eq!(wrong("low.rs", "use crate::{low::X, top::Y};"), 2);
    assert_eq!(wrong("attic.rs", ""), 1);
}

/// The Markdown files whose links are checked.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let markdown = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "md");
    let docs = files(&source_dir().join("docs")).into_iter().filter(markdown);
    docs.chain(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name))).collect()
}

/// The anchor of a heading in a link: the rule of GitHub and of rustdoc, for the characters that occur here.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    // The package that is published does not have it.
    let fuzz_is_here = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").is_dir();
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let defined = text.lines().filter(|line| line.starts_with('[')).filter_map(|line| line.split_once("]: "));
        for link in inline.chain(defined.map(|(_, target)| target)).filter(|link| !link.contains("://")) {
            if link.contains("fuzz/") && !fuzz_is_here {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let there = fs::read_to_string(target).is_ok_and(|text| {
                heading.is_empty() || text.lines().any(|line| line.starts_with('#') && anchor(line) == heading)
            });
            if !there {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
