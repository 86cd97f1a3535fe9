//! Arbitrary bytes as paths, in a tree of files, directories, links, loops and other things.
//!
//! For each path the adapter finds the same place as an independent resolver: `realpath` for the part that exists, and
//! its rules for the rest. Two paths with one place have one lock name. The kernel reads by a path what the adapter has
//! written by it, and nothing else in the tree changes.

#![no_main]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, FileKind};
use atomic_file_adapter_fuzz::protocol::{is_lock_name, lock_name};
use atomic_file_adapter_fuzz::sandbox::{keep_inside, sandbox};
use libc::{ELOOP, ENAMETOOLONG};
use libfuzzer_sys::fuzz_target;
use nix::sys::stat::Mode;

struct World {
    tree: PathBuf,
    adapter: AtomicFileAdapter,
    /// The key is the path, but not as `Path`, which compares name by name and slowly.
    before: BTreeMap<OsString, Thing>,
}

static WORLD: OnceLock<World> = OnceLock::new();

impl World {
    fn new() -> Self {
        let tree = sandbox().join("t");
        let adapter = AtomicFileAdapter::builder()
            .lock_dir(sandbox().join("locks"))
            .durability(Durability::None)
            .build()
            .unwrap();
        for dir in ["", "d", "d/e", "sp ce"] {
            fs::create_dir(tree.join(dir)).unwrap();
        }
        let long = "n".repeat(255);
        for file in ["f", "d/f", "d/e/f", "...", "sp ce/é", &long] {
            fs::write(tree.join(file), file).unwrap();
        }
        fs::write(tree.join(OsStr::from_bytes(b"\xff\xfe")), "raw").unwrap();
        let tree_path = tree.to_str().unwrap();
        let absolute = format!("{tree_path}/d/e/f");
        for (link, to) in [
            ("l", "f"),
            ("ld", "d/"),
            ("up", ".."),
            ("here", "."),
            ("abs", &absolute),
            ("root", "/"),
            ("dang", "d/new"),
            ("dangdir", "d/no/such"),
            ("dangslash", "d/new/"),
            ("loop", "loop"),
            ("lp1", "lp2"),
            ("lp2", "d/../lp1"),
            ("d/up", "../l"),
            ("d/e/top", "../../ld/e"),
            ("tolong", &long),
            ("tofifo", "fifo"),
            ("todir", "d/e"),
            ("through", "f/x"),
            ("empty", "./"),
        ] {
            symlink(to, tree.join(link)).unwrap();
        }
        // One link more than the kernel follows.
        for n in 0..=40 {
            symlink(if n == 0 { "f".into() } else { format!("c{}", n - 1) }, tree.join(format!("c{n}"))).unwrap();
        }
        nix::unistd::mkfifo(&tree.join("fifo"), Mode::S_IRWXU).unwrap();
        drop(UnixListener::bind(tree.join("sock")).unwrap());
        std::env::set_current_dir(&tree).unwrap();
        let before = snapshot(&tree);
        World { tree, adapter, before }
    }
}

/// An entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    Directory,
    /// Its target is not compared, because no system call of the adapter changes it.
    Link,
    File(Vec<u8>),
    Other,
}

fn snapshot(tree: &Path) -> BTreeMap<OsString, Thing> {
    let mut found = BTreeMap::new();
    let mut todo = vec![tree.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let thing = if kind.is_dir() {
                todo.push(entry.path());
                Thing::Directory
            } else if kind.is_symlink() {
                Thing::Link
            } else if kind.is_file() {
                Thing::File(fs::read(entry.path()).unwrap())
            } else {
                Thing::Other
            };
            found.insert(entry.path().into(), thing);
        }
    }
    found
}

/// The reason why a path leads to no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum No {
    Invalid,
    NotRegular(FileKind),
    Io(i32),
}

fn told(error: &Error) -> No {
    match error {
        Error::InvalidPath { .. } => No::Invalid,
        Error::NotRegularFile { kind, .. } => No::NotRegular(*kind),
        Error::Io { source, .. } => No::Io(source.raw_os_error().unwrap_or_default()),
        other => panic!("an error that no path can have: {other:?}"),
    }
}

fn no(error: &io::Error) -> No {
    No::Io(error.raw_os_error().unwrap_or_default())
}

fn kind_of(meta: &fs::Metadata) -> Option<FileKind> {
    let kind = meta.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some(FileKind::Directory)
    } else if kind.is_symlink() {
        Some(FileKind::Symlink)
    } else if kind.is_fifo() {
        Some(FileKind::Fifo)
    } else if kind.is_socket() {
        Some(FileKind::Socket)
    } else {
        Some(FileKind::Device)
    }
}

/// The place of a path, by the rules of the lock protocol. A relative path starts at `start`.
fn resolve(start: &Path, path: &[u8], links: usize) -> Result<PathBuf, No> {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let (above, name) = slash.map_or((&b""[..], path), |slash| (&path[..slash + 1], &path[slash + 1..]));
    if path.contains(&0) || matches!(name, b"" | b"." | b"..") {
        // This text comes from a link, not from the caller.
        return Err(if links > 0 { No::NotRegular(FileKind::Directory) } else { No::Invalid });
    }
    let above = start.join(OsStr::from_bytes(above));
    let above = match above.join(".").canonicalize() {
        Ok(above) => above,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(missing(&above, 0)?.join(OsStr::from_bytes(name)));
        }
        Err(error) => return Err(no(&error)),
    };
    let place = above.join(OsStr::from_bytes(name));
    match place.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => {
            if let Some(kind) = place.metadata().ok().as_ref().and_then(kind_of) {
                return Err(No::NotRegular(kind));
            }
            if links == 40 {
                return Err(No::Io(ELOOP));
            }
            resolve(&above, fs::read_link(&place).unwrap().as_os_str().as_bytes(), links + 1)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(no(&error)),
        _ => Ok(place),
    }
}

/// The place of a directory that does not exist yet.
fn missing(path: &Path, links: usize) -> Result<PathBuf, No> {
    if links > 40 {
        return Err(No::Io(ELOOP));
    }
    // Not `components()`, which drops parts that the kernel does not.
    let names: Vec<&[u8]> = path.as_os_str().as_bytes().split(|byte| *byte == b'/').collect();
    let joined = |names: &[&[u8]]| PathBuf::from(OsStr::from_bytes(&names.join(&b'/')));
    let (mut real, mut reached) = (PathBuf::from("/"), 1);
    // The longest part that exists.
    while reached < names.len() {
        match joined(&names[..=reached]).join(".").canonicalize() {
            Ok(found) => (real, reached) = (found, reached + 1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(no(&error)),
        }
    }
    let rest = &names[reached..];
    if let Some(first) = rest.first() {
        if let Ok(to) = fs::read_link(real.join(OsStr::from_bytes(first))) {
            let led = [real.join(to).as_os_str().as_bytes(), &rest[1..].join(&b'/')].join(&b'/');
            return missing(Path::new(OsStr::from_bytes(&led)), links + 1);
        }
    }
    if rest.contains(&&b".."[..]) {
        return Err(No::Invalid);
    }
    let rest = rest.iter().filter(|name| !matches!(**name, b"" | b"."));
    Ok(rest.fold(real, |real, name| real.join(OsStr::from_bytes(name))))
}

fuzz_target!(|data: &[u8]| {
    let world = WORLD.get_or_init(World::new);
    let places: Vec<_> =
        data.splitn(2, |byte| *byte == b'\n').filter_map(|path| one(world, &absolute(world, path))).collect();
    if let [(one, one_lock), (other, other_lock)] = &places[..] {
        assert_eq!(one == other, one_lock == other_lock, "{one:?} and {other:?}");
    }
});

/// An `@` at the start is the tree's path, which differs in each run.
fn absolute(world: &World, path: &[u8]) -> Vec<u8> {
    let tree = world.tree.as_os_str().as_bytes();
    path.strip_prefix(b"@").map_or_else(|| path.to_owned(), |rest| [tree, rest].concat())
}

/// The place of a path, and its lock.
fn one(world: &World, path: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let spelled = Path::new(OsStr::from_bytes(path));
    let expected = resolve(&world.tree, path, 0).and_then(|place| {
        // The fuzzer does find their names.
        let name = place.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let is_lock_file = is_lock_name(&name) && place.parent() == Some(world.adapter.lock_dir());
        if is_lock_file { Err(No::Invalid) } else { Ok(place) }
    });
    let found = keep_inside(|| world.adapter.file(spelled));
    if let (Ok(whole), Ok(place)) = (spelled.canonicalize(), &expected) {
        assert_eq!(whole, *place, "the resolver is wrong about {spelled:?}");
    }
    let (file, place) = match (found, expected) {
        (Ok(file), Ok(place)) => (file, place),
        (Err(error), Err(no)) => {
            assert_eq!(told(&error), no, "{spelled:?}: {error}");
            assert!(error.to_string().lines().count() > 0);
            return None;
        }
        (found, expected) => {
            let found = found.map(|file| file.path().to_owned());
            panic!("{spelled:?} is {found:?}, not {expected:?}")
        }
    };
    assert_eq!(file.path(), place, "{spelled:?}");
    let lock = world.adapter.lock_dir().join(lock_name(&place));
    assert_eq!(file.lock_path(), lock, "{spelled:?}");
    let other_spelling = respell(path);
    let again = world.adapter.lock_path(Path::new(OsStr::from_bytes(&other_spelling)));
    match again {
        Ok(again) => assert_eq!(again, lock, "{spelled:?} in other words"),
        // The other spelling may be too long.
        Err(error) => assert_eq!(told(&error), No::Io(ENAMETOOLONG), "{spelled:?} in other words"),
    }
    if place.starts_with(&world.tree) && place != world.tree {
        keep_inside(|| use_it(world, spelled, &place));
        // Removed, because a million executions must not fill the memory. The next use notices that the lock file is
        // gone.
        fs::remove_file(&lock).unwrap();
    }
    Some((file.path().to_owned(), file.lock_path().to_owned()))
}

/// Another spelling of the same place: every slash but the first becomes `/.//`.
fn respell(path: &[u8]) -> Vec<u8> {
    let mut spelled = Vec::new();
    for (n, byte) in path.iter().enumerate() {
        spelled.push(*byte);
        if *byte == b'/' && n > 0 {
            spelled.extend(b".//");
        }
    }
    spelled
}

fn use_it(world: &World, spelled: &Path, place: &Path) {
    const NEW: &[u8] = b"new contents";
    let adapter = &world.adapter;
    let before = world.before.get(place.as_os_str());
    let expected = match before {
        None => Ok(None),
        Some(Thing::File(old)) => Ok(Some(old.clone())),
        Some(Thing::Directory) => Err(No::NotRegular(FileKind::Directory)),
        Some(Thing::Other) => Err(No::NotRegular(kind_of(&place.symlink_metadata().unwrap()).unwrap())),
        Some(Thing::Link) => panic!("{place:?} is a link"),
    };
    // A name that is too long is noticed only when it is used.
    let too_long = place.components().any(|name| name.as_os_str().len() > 255);
    let expected = if too_long { Err(No::Io(ENAMETOOLONG)) } else { expected };
    let read = adapter.read_with_lock(spelled).map_err(|error| told(&error));
    // If the directory is missing, the name is not looked at.
    assert!(read == expected || (too_long && read == Ok(None)), "{spelled:?} reads {read:?}, not {expected:?}");
    // The kernel counts the links of a whole path. The adapter counts those of the last name and those above it
    // separately.
    let too_many_links = spelled.metadata().is_err_and(|error| error.raw_os_error() == Some(ELOOP));
    let exists = matches!(before, Some(Thing::File(_))) && !too_many_links;
    assert_eq!(adapter.exists(spelled), exists, "{spelled:?}");
    let written = adapter.write_atomic(spelled, NEW).map_err(|error| told(&error));
    if let Err(no) = expected {
        assert_eq!(written, Err(no), "{spelled:?}");
        remove_new_directories(world, place);
        assert_eq!(snapshot(&world.tree), world.before, "a write of {spelled:?} that failed");
        return;
    }
    assert_eq!(written, Ok(()), "{spelled:?} cannot be written");
    // The kernel resolves the links of the path itself, and also `..` after directories that did not exist before.
    let by_kernel = if too_many_links { place } else { spelled };
    assert_eq!(fs::read(by_kernel).ok().as_deref(), Some(NEW), "{spelled:?} is not where the kernel finds it");
    let mut after = snapshot(&world.tree);
    assert_eq!(after.remove(place.as_os_str()), Some(Thing::File(NEW.to_vec())));
    assert_eq!(adapter.delete_with_lock(spelled).map_err(|error| told(&error)), Ok(true), "{spelled:?}");
    assert_eq!(adapter.delete_with_lock(spelled).map_err(|error| told(&error)), Ok(false), "{spelled:?}");
    if let Some(Thing::File(old)) = before {
        fs::write(place, old).unwrap();
    }
    // Only the directories that had to be made.
    for above in place.ancestors().skip(1).filter(|above| !world.before.contains_key(above.as_os_str())) {
        after.remove(above.as_os_str());
    }
    let others = world.before.iter().filter(|(path, _)| *path != place);
    assert!(after.iter().eq(others), "writing {spelled:?} has changed something else");
    remove_new_directories(world, place);
}

fn remove_new_directories(world: &World, place: &Path) {
    let new = place.ancestors().skip(1).filter(|above| above.starts_with(&world.tree) && *above != world.tree);
    if let Some(topmost) = new.filter(|above| !world.before.contains_key(above.as_os_str())).last() {
        // A failed write may have made none.
        let _ = fs::remove_dir_all(topmost);
    }
}
