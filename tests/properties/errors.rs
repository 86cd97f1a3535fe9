//! Each obstacle has its own error, which is the same for every verb. The obstacle stays as it is.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Error, FileKind, Result, Step};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

use crate::common::Scratch;
use crate::names::{Pick, name, numbered, pick};
use crate::{Entry, check, scratch, this_file, tree};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    Directory,
    Fifo,
    Socket,
    LinkLoop,
    LinkIntoMissingDirectory,
    MissingDirectory,
    FileAsDirectory,
    DotsAfterFile,
    DotsAfterMissingDirectory,
    LongName,
    LongDirectory,
    LongPath,
    Nul,
    NulInDirectory,
    Empty,
    Slash,
    Dot,
    Dots,
    LockFile,
}

use Obstacle::*;

const OBSTACLES: [Obstacle; 19] = [
    Directory,
    Fifo,
    Socket,
    LinkLoop,
    LinkIntoMissingDirectory,
    MissingDirectory,
    FileAsDirectory,
    DotsAfterFile,
    DotsAfterMissingDirectory,
    LongName,
    LongDirectory,
    LongPath,
    Nul,
    NulInDirectory,
    Empty,
    Slash,
    Dot,
    Dots,
    LockFile,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// No obstacle: there is no file yet.
    Nothing,
    NotRegular(FileKind),
    /// From resolving the path.
    System(i32),
    InvalidPath,
}

use Expected::*;

impl Obstacle {
    fn expected(self) -> Expected {
        match self {
            LinkIntoMissingDirectory | MissingDirectory => Nothing,
            Directory => NotRegular(FileKind::Directory),
            Fifo => NotRegular(FileKind::Fifo),
            Socket => NotRegular(FileKind::Socket),
            LinkLoop => System(libc::ELOOP),
            FileAsDirectory | DotsAfterFile => System(libc::ENOTDIR),
            LongName | LongDirectory | LongPath => System(libc::ENAMETOOLONG),
            DotsAfterMissingDirectory | Nul | NulInDirectory | Empty | Slash | Dot | Dots | LockFile => InvalidPath,
        }
    }

    /// Whether a symbolic link to it has the same result.
    fn can_be_linked_to(self) -> bool {
        !matches!(self, LongPath | Nul | NulInDirectory | Empty | Slash | Dot | Dots)
    }
}

#[derive(Debug, Clone)]
struct Case {
    obstacle: Obstacle,
    /// The directories above the file.
    above: Vec<OsString>,
    /// The first of them is spelled as a link to it.
    by_link: bool,
    name: OsString,
    /// The names after an obstacle that is not a directory, or the missing directories.
    more: Vec<OsString>,
    /// The path is a chain of links. For each: whether it is relative.
    links: Vec<bool>,
    /// The verb that writes if there is no obstacle.
    writes: Pick,
}

fn case() -> impl Strategy<Value = Case> {
    let above = (0..3usize).prop_flat_map(|len| (0..len).map(|n| numbered(10 + n)).collect::<Vec<_>>());
    let more = (1..4usize).prop_flat_map(|len| (0..len).map(|n| numbered(20 + n)).collect::<Vec<_>>());
    let links = prop_oneof![Just(Vec::new()), vec(any::<bool>(), 1..4)];
    (select(&OBSTACLES), above, any::<bool>(), more, links, pick(), name()).prop_map(
        |(obstacle, above, by_link, more, links, writes, name)| {
            let links = if obstacle.can_be_linked_to() { links } else { Vec::new() };
            Case { obstacle, above, by_link, name, more, links, writes }
        },
    )
}

impl Case {
    /// Makes the obstacle. Returns the path that leads to it, and the same path without links.
    fn build(&self, scratch: &Scratch) -> (PathBuf, PathBuf) {
        let real = self.above.iter().fold(scratch.path("real"), |dir, name| dir.join(name));
        fs::create_dir_all(&real).unwrap();
        symlink("real", scratch.path("door")).unwrap();
        fs::create_dir(scratch.path("links")).unwrap();
        let dir = if self.by_link {
            self.above.iter().fold(scratch.path("door"), |dir, name| dir.join(name))
        } else {
            real.clone()
        };

        let more = self.more.iter().collect::<PathBuf>();
        let there = real.join(&self.name);
        let last = match self.obstacle {
            Directory => {
                fs::create_dir(there).unwrap();
                self.name.clone().into()
            }
            Fifo => {
                mkfifo(&there, Mode::S_IRUSR).unwrap();
                self.name.clone().into()
            }
            Socket => {
                // The paths of sockets must be short.
                drop(UnixListener::bind(scratch.path("s")).unwrap());
                fs::rename(scratch.path("s"), there).unwrap();
                self.name.clone().into()
            }
            LinkLoop => {
                for (n, name) in self.more.iter().enumerate() {
                    symlink(&self.more[(n + 1) % self.more.len()], real.join(name)).unwrap();
                }
                PathBuf::from(&self.more[0])
            }
            LinkIntoMissingDirectory => {
                symlink(more.join(&self.name), real.join("link")).unwrap();
                "link".into()
            }
            MissingDirectory => more.join(&self.name),
            FileAsDirectory | DotsAfterFile => {
                fs::write(there, "in the way").unwrap();
                let up = if self.obstacle == DotsAfterFile { ".." } else { "" };
                Path::new(&self.name).join(up).join(&more)
            }
            DotsAfterMissingDirectory => more.join("..").join(&self.name),
            LongName => PathBuf::from("x".repeat(256)),
            LongDirectory => Path::new(&"x".repeat(256)).join(&self.name),
            LongPath => Path::new(&"x/".repeat(2100)).join(&self.name),
            Nul => OsStr::from_bytes(&[self.name.as_bytes(), b"\0"].concat()).into(),
            NulInDirectory => Path::new("x\0").join(&self.name),
            Slash => Path::new(&self.name).join(""),
            Dot => Path::new(&self.name).join("."),
            Dots => Path::new(&self.name).join(".."),
            Empty => return (PathBuf::new(), PathBuf::new()),
            LockFile => {
                let other = scratch.path("other");
                scratch.adapter.write_atomic(&other, "").unwrap();
                fs::remove_file(&other).unwrap();
                scratch.adapter.lock_path(&other).unwrap()
            }
        };
        let mut path = dir.join(&last);
        for (n, relative) in self.links.iter().enumerate() {
            let link = scratch.path("links").join(n.to_string());
            let relative = path.strip_prefix(&scratch.files).ok().filter(|_| *relative);
            symlink(relative.map_or(path.clone(), |path| Path::new("..").join(path)), &link).unwrap();
            path = link;
        }
        let real =
            if self.obstacle == LinkIntoMissingDirectory { real.join(more).join(&self.name) } else { real.join(last) };
        (path, real)
    }
}

/// A verb. True: it found a file or made one.
type Verb = fn(&AtomicFileAdapter, &Path) -> Result<bool>;

const LOOKING: [Verb; 9] = [
    |adapter, path| Ok(adapter.read_with_lock(path)?.is_some()),
    |adapter, path| Ok(adapter.read_to_string_with_lock(path)?.is_some()),
    |adapter, path| Ok(adapter.file(path)?.read_into(&mut Vec::new())?.is_some()),
    |adapter, path| Ok(adapter.file(path)?.open()?.is_some()),
    |adapter, path| Ok(adapter.file(path)?.lock_shared()?.read()?.is_some()),
    |adapter, path| Ok(adapter.file(path)?.lock()?.open()?.is_some()),
    |adapter, path| adapter.delete_with_lock(path),
    |adapter, path| adapter.file(path)?.lock()?.delete(),
    |adapter, path| adapter.batch().delete(path).commit().map_err(unpacked).map(|()| false),
];

const WRITING: [Verb; 6] = [
    |adapter, path| adapter.write_atomic(path, "new").map(|()| true),
    |adapter, path| adapter.file(path)?.lock()?.write("new").map(|()| true),
    |adapter, path| adapter.file(path)?.lock()?.writer()?.commit().map(|()| true),
    |adapter, path| adapter.update(path, |_| b"new".to_vec()).map(|()| true),
    |adapter, path| adapter.try_update(path, |_| Ok(b"new".to_vec())).map(|()| true),
    |adapter, path| adapter.batch().write(path, "new").commit().map_err(unpacked).map(|()| true),
];

/// The error in the error of a batch.
fn unpacked(error: Error) -> Error {
    match error {
        Error::Batch { replaced, source, .. } if replaced.is_empty() => *source,
        error => panic!("{error:?}"),
    }
}

pub fn obstacles_have_their_errors() {
    check(this_file!(), 300, &case(), |case| {
        let scratch = scratch();
        let (path, real) = case.build(&scratch);
        let expected = case.obstacle.expected();
        let before = tree(&scratch.files);
        let lock_file = Entry::at(&real);

        match scratch.adapter.lock_path(&path) {
            Ok(lock) => {
                // A file with a path has a lock. Through a link it has none, because the link is not followed.
                let has_path = expected == Nothing || matches!(expected, NotRegular(_)) && case.links.is_empty();
                prop_assert!(has_path, "{:?}", lock);
                prop_assert_eq!(lock, scratch.adapter.lock_path(&real)?);
            }
            Err(error) => is_expected(error, expected, &path, &real)?,
        }
        if case.obstacle != LockFile {
            prop_assert!(!scratch.adapter.exists(&path));
        }
        for verb in LOOKING.iter().chain(WRITING.iter().filter(|_| expected != Nothing)) {
            match verb(&scratch.adapter, &path) {
                Ok(found) => prop_assert!(!found && expected == Nothing),
                Err(error) => is_expected(error, expected, &path, &real)?,
            }
            prop_assert_eq!(&tree(&scratch.files), &before);
        }
        if expected == Nothing {
            prop_assert!(case.writes.get(&WRITING)(&scratch.adapter, &path)?);
            let made = matches!(Entry::at(&real), Some(Entry::File { .. }));
            prop_assert!(made, "{:?}", real);
            prop_assert!(scratch.adapter.delete_with_lock(&path)?);
            let mut after = tree(&scratch.files);
            after.retain(|path, entry| *entry != Entry::Directory || before.contains_key(path));
            prop_assert_eq!(after, before);
        } else {
            prop_assert_eq!(Entry::at(&real), lock_file);
        }
        Ok(())
    });
}

fn is_expected(error: Error, expected: Expected, path: &Path, real: &Path) -> TestCaseResult {
    let (as_expected, kind) = match expected {
        Nothing => (false, io::ErrorKind::Other),
        NotRegular(expected) => {
            let is_dir = expected == FileKind::Directory;
            let kind = if is_dir { io::ErrorKind::IsADirectory } else { io::ErrorKind::InvalidInput };
            (matches!(&error, Error::NotRegularFile { kind, .. } if *kind == expected), kind)
        }
        System(expected) => {
            let same = |source: &io::Error| source.raw_os_error() == Some(expected);
            let kind = io::Error::from_raw_os_error(expected).kind();
            (matches!(&error, Error::Io { step: Step::Resolve, source, .. } if same(source)), kind)
        }
        InvalidPath => (matches!(&error, Error::InvalidPath { .. }), io::ErrorKind::InvalidInput),
    };
    prop_assert!(as_expected, "{:?} instead of {:?}", error, expected);
    prop_assert_eq!(error.kind(), kind);
    prop_assert!(error.path() == path || error.path() == real, "{:?}", error);
    let (text, named) = (error.to_string(), error.path());
    prop_assert!(text.contains(&named.display().to_string()) || text.contains(&format!("{named:?}")), "{}", text);
    prop_assert_eq!(io::Error::from(error).kind(), kind);
    Ok(())
}
