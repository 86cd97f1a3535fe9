//! A file has one lock file, whatever spelling its path has and whether the file exists or not. Another file has
//! another lock file. The canonical path of a spelling comes from [`fs::canonicalize`], and is computed by hand if
//! nothing exists.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Error};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::common::{Scratch, Worker, hear, tell};
use crate::names::{Pick, numbered, pick};
use crate::{Entry, check, scratch, this_file, tree};

/// The directories, links and files of a case, in the order in which they are made.
#[derive(Debug, Clone)]
struct World {
    /// Each is in one of those before it.
    dirs: Vec<(Pick, OsString)>,
    files: Vec<File>,
    links: Vec<Link>,
}

/// A file that is made, removed and made again.
#[derive(Debug, Clone)]
struct File {
    dir: Pick,
    /// The directories on its path that do not exist at first.
    missing: Vec<OsString>,
    name: OsString,
}

#[derive(Debug, Clone)]
struct Link {
    dir: Pick,
    name: OsString,
    to: To,
    relative: bool,
}

#[derive(Debug, Clone)]
enum To {
    Dir(Pick),
    File(Pick),
    /// The first missing directory of a file.
    Missing(Pick),
    /// One of the links before it.
    Link(Pick),
}

fn world() -> impl Strategy<Value = World> {
    // All names differ, so nothing is in the way.
    let dirs = (10..14usize).prop_flat_map(|end| (10..end).map(|n| (pick(), numbered(n))).collect::<Vec<_>>());
    let file = |n: usize| {
        (pick(), (0..3usize), numbered(n), numbered(n + 1), numbered(n + 2)).prop_map(
            |(dir, missing, name, one, two)| File {
                dir,
                missing: [one, two].into_iter().take(missing).collect(),
                name,
            },
        )
    };
    let files = (2..5usize).prop_flat_map(move |files| (0..files).map(|n| file(20 + 3 * n)).collect::<Vec<_>>());
    let to = prop_oneof![
        pick().prop_map(To::Dir),
        pick().prop_map(To::File),
        pick().prop_map(To::Missing),
        pick().prop_map(To::Link),
    ];
    let link = move |n| {
        (pick(), numbered(n), to.clone(), any::<bool>()).prop_map(|(dir, name, to, relative)| Link {
            dir,
            name,
            to,
            relative,
        })
    };
    let links = (0..6usize).prop_flat_map(move |links| (0..links).map(|n| link(40 + n)).collect::<Vec<_>>());
    (dirs, files, links).prop_map(|(dirs, files, links)| World { dirs, files, links })
}

/// The paths of everything.
struct Built {
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
    /// A link, and the canonical path of its target.
    links: Vec<(PathBuf, PathBuf)>,
}

impl World {
    fn build(&self, top: &Path) -> Built {
        let mut dirs = vec![top.to_owned()];
        for (above, name) in &self.dirs {
            dirs.push(above.get(&dirs).join(name));
            fs::create_dir(dirs.last().unwrap()).unwrap();
        }
        let missing = |file: &File| file.missing.iter().fold(file.dir.get(&dirs).clone(), |path, name| path.join(name));
        let files: Vec<_> = self.files.iter().map(|file| missing(file).join(&file.name)).collect();
        let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
        for Link { dir, name, to, relative } in &self.links {
            let dir = dir.get(&dirs);
            let (to, canonical) = match to {
                To::Dir(to) => (to.get(&dirs).clone(), to.get(&dirs).clone()),
                To::File(to) => (to.get(&files).clone(), to.get(&files).clone()),
                To::Missing(to) => {
                    let file = to.get(&self.files);
                    let first = file.dir.get(&dirs).join(file.missing.first().unwrap_or(&file.name));
                    (first.clone(), first)
                }
                To::Link(_) if links.is_empty() => continue,
                To::Link(to) => to.get(&links).clone(),
            };
            symlink(if *relative { relative_to(dir, &to) } else { to }, dir.join(name)).unwrap();
            links.push((dir.join(name), canonical));
        }
        Built { dirs, files, links }
    }
}

/// A relative path from a real directory, through the root.
fn relative_to(dir: &Path, to: &Path) -> PathBuf {
    let up = dir.components().skip(1).map(|_| "..");
    up.collect::<PathBuf>().join(to.strip_prefix("/").unwrap())
}

impl Built {
    /// Another spelling of a file's path. `choices` has a choice for each name in it; 0 is the plain name.
    fn spell(&self, file: &Path, choices: &[u8]) -> Vec<u8> {
        let mut choices = choices.iter().copied();
        let mut here = PathBuf::from("/");
        let mut spelling = b"/".to_vec();
        for name in file.components().skip(1) {
            let choice = choices.next().unwrap_or(0);
            let below = self.dirs.iter().find(|dir| dir.parent() == Some(&here)).and_then(|dir| dir.file_name());
            match (choice % 8, here.file_name(), below) {
                (1, ..) => spelling.extend(b"./"),
                (2, ..) => spelling.extend(b"/"),
                // Not out of a directory that does not exist.
                (3, Some(name), _) if here.is_dir() => spelling.extend([b"../", name.as_bytes(), b"/"].concat()),
                (4, _, Some(below)) => spelling.extend([below.as_bytes(), b"/../"].concat()),
                _ => {}
            }
            here.push(name);
            let mut links = self.links.iter().filter(|(_, to)| *to == here);
            // Choices from 128 on use one of the links that lead here.
            match links.nth(usize::from(choice % 128) / 43) {
                Some((link, _)) if choice >= 128 => spelling = link.as_os_str().as_bytes().to_vec(),
                _ => spelling.extend(name.as_os_str().as_bytes()),
            }
            spelling.push(b'/');
        }
        spelling.pop();
        spelling
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// The canonical path of a path, which need not exist. `None`: there is none.
fn canonical(path: &Path, most_links: usize) -> Option<PathBuf> {
    match fs::canonicalize(path) {
        Ok(path) => return Some(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(_) => return None,
    }
    let (above, name) = (path.parent()?, path.file_name()?);
    match fs::read_link(path) {
        Ok(target) => canonical(&above.join(target), most_links.checked_sub(1)?),
        Err(_) => Some(canonical(above, most_links)?.join(name)),
    }
}

fn lock_file(scratch: &Scratch, canonical: &Path) -> PathBuf {
    let hash = xxhash_rust::xxh3::xxh3_64(canonical.as_os_str().as_bytes());
    scratch.adapter.lock_dir().join(format!("{hash:016x}.lock"))
}

pub fn every_spelling_of_a_file_has_one_lock() {
    let elsewhere = RefCell::new(Worker::start("lock_paths", &[]));
    let choices = vec(any::<u8>(), 0..14);
    let cases = (vec((pick(), choices), 1..12), pick(), world());
    check(this_file!(), 120, &cases, |(spellings, current_dir, world)| {
        let scratch = scratch();
        let built = world.build(&scratch.files);
        let current_dir = current_dir.get(&built.dirs);
        let spellings: Vec<(&PathBuf, Vec<u8>)> = spellings
            .iter()
            .map(|(file, choices)| (file.get(&built.files), choices))
            .map(|(file, choices)| (file, built.spell(file, choices)))
            .collect();
        let all_agree = |when: &str| -> TestCaseResult {
            let mut asked = Vec::new();
            for (file, spelling) in &spellings {
                let (spelling, lock) = (path_of(spelling), lock_file(&scratch, file));
                prop_assert_eq!(canonical(spelling, 40), Some(file.to_path_buf()), "{:?}, {}", spelling, when);
                prop_assert_eq!(&scratch.adapter.lock_path(spelling)?, &lock, "{:?}, {}", spelling, when);
                let handle = scratch.adapter.file(spelling)?;
                prop_assert_eq!((handle.path(), handle.lock_path()), (&***file, &*lock));
                asked.push((spelling.to_owned(), lock.clone()));
                asked.push((relative_to(current_dir, spelling), lock));
            }
            let answers = ask(&mut elsewhere.borrow_mut(), current_dir, scratch.adapter.lock_dir(), &asked);
            for ((spelling, lock), answer) in asked.iter().zip(answers) {
                prop_assert_eq!(&answer, lock, "{:?} in {:?} in another process, {}", spelling, current_dir, when);
            }
            Ok(())
        };
        let locks: HashSet<PathBuf> = built.files.iter().map(|file| lock_file(&scratch, file)).collect();
        prop_assert_eq!(locks.len(), built.files.len());
        let before = tree(&scratch.files);
        all_agree("before")?;
        prop_assert_eq!(&tree(&scratch.files), &before, "made something by looking");
        for (file, spelling) in &spellings {
            scratch.adapter.write_atomic(path_of(spelling), spelling)?;
            prop_assert_eq!(&fs::read(file)?, spelling);
            prop_assert_eq!(&fs::canonicalize(path_of(spelling))?, *file);
        }
        all_agree("while it is there")?;
        for (file, spelling) in spellings.iter().rev() {
            let was_there = file.exists();
            prop_assert_eq!(scratch.adapter.delete_with_lock(path_of(spelling))?, was_there);
            prop_assert!(!file.exists());
        }
        all_agree("afterwards")?;
        // The verbs took these locks and no others.
        let taken: BTreeSet<PathBuf> = scratch.adapter.locks()?.into_iter().map(|lock| lock.path).collect();
        prop_assert_eq!(taken, spellings.iter().map(|(file, _)| lock_file(&scratch, file)).collect());
        let after = tree(&scratch.files);
        prop_assert!(before.iter().all(|(path, entry)| after.get(path) == Some(entry)), "a link has changed");
        Ok(())
    });
}

/// The answer of another process whose current directory is `dir`.
fn ask(worker: &mut Worker, dir: &Path, locks: &Path, paths: &[(PathBuf, PathBuf)]) -> Vec<PathBuf> {
    let words = [dir, locks].into_iter().chain(paths.iter().map(|(path, _)| &**path)).map(to_hex);
    worker.tell(&words.collect::<Vec<_>>().join(" "));
    worker.hear().split(' ').map(from_hex).collect()
}

pub fn answer_lock_paths(_: &[String]) {
    loop {
        let line = hear();
        if line.is_empty() {
            return;
        }
        let mut words = line.split(' ').map(from_hex);
        std::env::set_current_dir(words.next().unwrap()).unwrap();
        let adapter = AtomicFileAdapter::with_lock_dir(words.next().unwrap()).unwrap();
        let answers: Vec<String> = words.map(|path| to_hex(&adapter.lock_path(path).unwrap())).collect();
        tell(&answers.join(" "));
    }
}

fn to_hex(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> PathBuf {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    OsString::from_vec((0..hex.len()).step_by(2).map(byte).collect()).into()
}

/// A step of a path: one of the existing names, or one of these.
const STEPS: [&str; 5] = ["..", ".", "", "missing", "missing/nothing"];

/// A path of existing and other names, and links in unusual forms.
pub fn any_path_leads_where_the_kernel_says() {
    let text = vec(pick(), 1..4);
    let links = vec((pick(), text), 0..5);
    let paths = vec(vec(pick(), 1..7), 1..12);
    // Earlier values are shrunk first.
    check(this_file!(), 150, &(paths, links, world()), |(paths, links, world)| {
        let scratch = scratch();
        let built = world.build(&scratch.files);
        let with_file = built.files.iter().step_by(2).filter(|file| file.parent().is_some_and(Path::is_dir));
        with_file.for_each(|file| fs::write(file, "old").unwrap());
        let mut names: Vec<OsString> = ["..", ".."].map(OsString::from).into();
        names.extend(tree(&scratch.files).into_keys().map(|path| path.file_name().unwrap().to_owned()));
        let odd: Vec<OsString> = (0..links.len()).map(|n| format!("{}-odd", 60 + n).into()).collect();
        names.extend(odd.iter().cloned());
        for ((dir, text), name) in links.iter().zip(&odd) {
            let text: PathBuf = text.iter().map(|name| name.get(&names)).collect();
            symlink(text, dir.get(&built.dirs).join(name))?;
        }
        for steps in paths {
            let mut path = scratch.files.as_os_str().as_bytes().to_vec();
            for step in steps {
                if !is_within(&path, &scratch.files) {
                    break;
                }
                // If the path so far leads to a directory, the next step is usually a name in it.
                let there = path_of(&path).read_dir().into_iter().flatten().map(|entry| entry.unwrap().file_name());
                let mut there: Vec<_> = there.collect();
                there.sort();
                there = [there.clone(), there.clone(), there].concat();
                there.extend(STEPS.map(OsString::from));
                path.extend([b"/", step.get(&there).as_bytes()].concat());
            }
            // Other programs have made the files outside.
            if is_within(&path, &scratch.files) {
                leads_where_the_kernel_says(&scratch, &path)?;
            }
        }
        Ok(())
    });
}

fn is_within(path: &[u8], dir: &Path) -> bool {
    canonical(path_of(path), 40).is_none_or(|real| real.starts_with(dir))
}

/// The part of the path up to the first link.
fn first_link(path: &[u8]) -> Option<PathBuf> {
    let ends = (1..=path.len()).filter(|end| *end == path.len() || path[*end] == b'/');
    ends.map(|end| path_of(&path[..end]).to_owned()).find(|path| path.is_symlink())
}

/// The canonical path of a link itself.
fn canonical_link(link: &Path) -> Option<PathBuf> {
    Some(link.parent()?.canonicalize().ok()?.join(link.file_name()?))
}

fn leads_where_the_kernel_says(scratch: &Scratch, spelling: &[u8]) -> TestCaseResult {
    let path = path_of(spelling);
    let before = tree(&scratch.files);
    let answer = scratch.adapter.lock_path(path);
    let strict = AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir()).follow_links(false).build()?;
    let strictly = strict.lock_path(path);
    prop_assert_eq!(&tree(&scratch.files), &before, "made something by looking");
    match (first_link(spelling), &answer, strictly) {
        (None, Ok(lock), Ok(strictly)) => prop_assert_eq!(lock, &strictly),
        (None, Err(_), Err(_)) | (Some(_), _, Err(Error::InvalidPath { .. })) => {}
        (Some(first), _, Err(Error::SymbolicLink { link, .. })) => {
            prop_assert_eq!(canonical_link(&first), Some(link), "{:?}", path);
        }
        (link, answer, strictly) => prop_assert!(false, "{:?}, {:?}: {:?}, {:?}", path, link, answer, strictly),
    }
    let last = spelling.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if matches!(last, b"" | b"." | b"..") {
        prop_assert!(matches!(answer, Err(Error::InvalidPath { .. })), "{:?}: {:?}", path, answer);
        return Ok(());
    }
    let Some(real) = canonical(path, 40) else {
        prop_assert!(answer.is_err(), "{:?}: {:?}", path, answer);
        return Ok(());
    };
    if real.is_dir() {
        // A lock, or an error without waiting.
        prop_assert!(answer.is_ok_and(|lock| lock == lock_file(scratch, &real)) || path.is_symlink(), "{:?}", path);
        prop_assert!(scratch.adapter.write_atomic(path, "new").is_err());
        prop_assert_eq!(&tree(&scratch.files), &before);
        return Ok(());
    }
    prop_assert_eq!(&answer?, &lock_file(scratch, &real), "{:?}", path);
    let relative = real.strip_prefix(&scratch.files)?;
    prop_assert_eq!(scratch.adapter.read_with_lock(path)?, fs::read(&real).ok(), "{:?}", path);
    scratch.adapter.write_atomic(path, "new")?;
    prop_assert_eq!(fs::read(&real)?, b"new", "{:?}", path);
    let others = |tree: BTreeMap<PathBuf, Entry>| -> BTreeMap<PathBuf, Entry> {
        tree.into_iter().filter(|(other, _)| !relative.starts_with(other)).collect()
    };
    prop_assert_eq!(others(tree(&scratch.files)), others(before), "{:?}", path);
    Ok(())
}
