//! `edit`: a command works on copies of files, and the copies replace all the files at once.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use atomic_file_adapter::AtomicFileAdapter;
use tempfile::TempDir;

use crate::Failure;
use crate::child::{Running, passed_on, status_of};

/// Only this user may read the copies, because the files may be secret.
const PRIVATE_DIR: u32 = 0o700;
const PRIVATE: u32 = 0o600;

pub fn edit(adapter: &AtomicFileAdapter, paths: &[PathBuf], command: &[OsString]) -> Result<(), Failure> {
    let files = files(adapter, paths)?;
    adapter.try_update_many(&files.distinct, |old| {
        let signals = crate::catch_signals()?;
        let staged = Staged::new(&files.distinct, old)?;
        let copies = files.given.iter().map(|file| &staged.copies[*file]);
        let mut child = Running::start(command, signals, |command| command.args(copies))?;
        passed_on(child.wait()?)?;
        let new = staged.contents()?;
        match child.request() {
            Some(signal) => Err(Failure::Status(status_of(signal))),
            // Replacing files with the same contents would wake programs that watch them.
            None if new == old => Err(Failure::Status(0)),
            None => Ok(new),
        }
    })
}

/// The files without duplicates. Two copies of one file would lose the changes of one of them.
struct Files {
    distinct: Vec<PathBuf>,
    /// For each given path, the number of its file.
    given: Vec<usize>,
}

fn files(adapter: &AtomicFileAdapter, paths: &[PathBuf]) -> Result<Files, Failure> {
    let mut files = Files { distinct: Vec::new(), given: Vec::new() };
    let mut known = std::collections::HashMap::new();
    for path in paths {
        let file = adapter.file(path)?.path().to_owned();
        let n = *known.entry(file.clone()).or_insert(files.distinct.len());
        if n == files.distinct.len() {
            files.distinct.push(file);
        }
        files.given.push(n);
    }
    Ok(files)
}

/// Copies of files. They are removed on drop.
struct Staged {
    copies: Vec<PathBuf>,
    dir: TempDir,
}

impl Staged {
    /// Each copy has its file's name, because programs look at the ending. So each has a directory of its own.
    fn new(files: &[PathBuf], contents: &[Option<Vec<u8>>]) -> Result<Self, Failure> {
        let make = || {
            let private = Permissions::from_mode(PRIVATE_DIR);
            let dir = tempfile::Builder::new().prefix("atomic-file.").permissions(private).tempdir()?;
            let mut staged = Staged { copies: Vec::new(), dir };
            for (n, (file, contents)) in files.iter().zip(contents).enumerate() {
                let dir = staged.dir.path().join((n + 1).to_string());
                DirBuilder::new().mode(PRIVATE_DIR).create(&dir)?;
                let copy = dir.join(file.file_name().unwrap_or_default());
                if let Some(contents) = contents {
                    OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&copy)?.write_all(contents)?;
                }
                staged.copies.push(copy);
            }
            Ok(staged)
        };
        make().map_err(|error| Failure::Io("cannot make copies for the command below TMPDIR or /tmp".into(), error))
    }

    /// The contents of the copies. `None`: there is no such copy (any more).
    fn contents(&self) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        let read = |copy: &PathBuf| {
            contents(copy).map_err(|error| Failure::Io(format!("cannot read the copy {}", copy.display()), error))
        };
        self.copies.iter().map(read).collect()
    }
}

fn contents(copy: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::symlink_metadata(copy) {
        // A link may lead to a file that changes later, and opening a FIFO may block for ever.
        Ok(meta) if !meta.is_file() => {
            Err(io::Error::other("it is not a regular file any more, and nothing was changed"))
        }
        Ok(_) => fs::read(copy).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
