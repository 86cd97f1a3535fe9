//! Calls that fail: each call with each of its errors, and all calls from one on.

use std::io;
use std::os::unix::fs::MetadataExt;

use atomic_file_adapter::fault::{Action, Syscall};
use atomic_file_adapter::{Error, FileKind};
use libc::{EACCES, EEXIST, EINVAL, EIO, EMFILE, ENODATA, ENOENT, ENOTSUP, EPERM, EROFS};

use crate::common::one_of_each;
use crate::errors::errors_of;
use crate::laboratory::{EACH_DURABILITY, Laboratory, Scratch, Seen, calls_of, sample_of_call};
use crate::operations::{Did, Operation};

/// With how many errors each call fails in the short form; if there are many calls, for many files, with one.
const ERRORS_OF_A_CALL: usize = 2;

/// From one call of so many on everything fails in the short form.
const ONE_OF: usize = 2;

pub(crate) fn each_call_fails_in_each_way(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        let mut number = 0;
        let calls = calls_of(&laboratory, &mut number);
        let few = if operation.temporaries > 1 { 1 } else { ERRORS_OF_A_CALL };
        for (at, call) in calls.iter().enumerate() {
            if operation.on_disk && ![Syscall::Fstatfs, Syscall::Syncfs, Syscall::Fsync].contains(&call.syscall) {
                continue;
            }
            for errno in sample_of_call(operation, durability, at, errors_of(call.syscall), few) {
                number += 1;
                fails_once(&mut laboratory, number, at, call, errno);
            }
        }
    }
}

fn fails_once(laboratory: &mut Laboratory<'_>, number: usize, at: usize, call: &Seen, errno: i32) {
    let Operation { name, old, new, new_if_told_missing, .. } = *laboratory.operation;
    let mut scratch = laboratory.scratch(number);
    let inode = |scratch: &Scratch| (scratch.path().metadata().map(|meta| meta.ino()).ok(), scratch.protection());
    let before = inode(&scratch);
    let (result, calls) =
        laboratory.run(&scratch, move |call| if call.number == at { Action::Fail(errno) } else { Action::Proceed });
    assert!(calls > at);
    let os_error = io::Error::from_raw_os_error(errno);
    let what = format!("{name}, {:?}: call {at}, {}, fails with {os_error}", laboratory.durability, call.text);
    // If the kernel reports that something is missing, or that there are no attributes, the crate believes it.
    let told_missing = errno == ENOENT;
    use Syscall::{Fgetxattr, Flistxattr, Fstatat, Lgetxattr, Llistxattr, Openat};
    match (call.syscall, errno) {
        (Fstatat, ENOENT) => scratch.found = None,
        (Llistxattr | Lgetxattr | Flistxattr | Fgetxattr, ENODATA | ENOTSUP) => scratch.found = None,
        // If the file has to be opened for this. The manual page has this error only for O_TMPFILE.
        (Openat, ENOTSUP) => scratch.found = None,
        _ => {}
    }
    // If the removal of a temporary file fails, the file stays.
    let mut temporaries = usize::from(call.syscall == Syscall::Unlinkat);
    let contents = scratch.contents();
    // The file system has no sync of directories.
    let unsupported = call.syscall == Syscall::Fsync && call.syncs_directory && errno == EINVAL;
    assert!(result.is_ok() || !unsupported, "{what}");
    // The other calls have an alternative, or are only about the `.gitignore` of the lock directory.
    let must_be_told =
        [Syscall::Syncfs, Syscall::Write, Syscall::Fsync, Syscall::Fchmod, Syscall::Renameat].contains(&call.syscall);
    let must_be_told = must_be_told && !unsupported;
    // If a lock file was swept while it was made, it is made again.
    let made_anew = told_missing && call.syscall == Syscall::Fchmod && name == "write_with_a_lock_file_mode";
    let first_of_all = !laboratory.operation.warm && call.syscall == Syscall::Write;
    assert!(result.is_err() || !must_be_told || first_of_all || made_anew, "{what}");
    // The batch's error about this file is judged here.
    let result = match result {
        Err(Error::Batch { replaced, source, .. }) => {
            assert_eq!(replaced.contains(&scratch.path()), contents.as_deref() == new, "{what}: {replaced:?}");
            is_clear(&source, call.syscall, errno, &scratch, &what);
            if replaced.contains(&scratch.path()) { Ok(Did::It) } else { Err(*source) }
        }
        // One call has failed, so one file could not be removed.
        Err(Error::Partial { mut failed, .. }) => {
            assert_eq!(failed.len(), 1, "{what}: {failed:?}");
            Err(failed.remove(0))
        }
        result => result,
    };
    match &result {
        Ok(Did::It) => {
            let right = contents.as_deref() == new || told_missing && contents.as_deref() == new_if_told_missing;
            assert!(right, "{what}: {contents:?}");
        }
        Ok(Did::Nothing) => assert!(contents.as_deref() == old && (old.is_none() || told_missing), "{what}"),
        Ok(Did::Read(read)) => {
            let right = read.as_deref() == old.map(str::as_bytes);
            assert!(right || told_missing && read.is_none(), "{what}: {read:?}");
        }
        Err(error @ Error::NotDurable { .. }) => {
            assert_eq!((call.syscall, contents.as_deref()), (Syscall::Fsync, new), "{what}");
            let text = error.to_string();
            assert!(text.contains("was replaced or removed, but its directory could not be synced"), "{text}");
            assert!(text.contains(&os_error.to_string()), "{what}: {text}");
        }
        Err(error) => {
            assert_eq!((contents.as_deref(), inode(&scratch)), (old, before), "{what}: {error}");
            is_clear(error, call.syscall, errno, &scratch, &what);
        }
    }
    if name == "sweep" {
        temporaries = if result.is_ok() { 1 } else { 2 };
    }
    laboratory.check_afterwards(&scratch, &[contents.as_deref()], temporaries, &what);
}

/// The error names a path, and contains the error of the system.
fn is_clear(error: &Error, syscall: Syscall, errno: i32, scratch: &Scratch, what: &str) {
    let text = error.to_string();
    let above = scratch.files.parent().unwrap().to_str().unwrap();
    assert!(text.contains(above) || text.contains("target") || text.contains("../locks"), "{what}: {text}");
    match (syscall, errno, error) {
        // A moment later the file that the kernel reported as missing, or as existing, was not so.
        (Syscall::Fstatat, ENOENT, Error::NotRegularFile { kind: FileKind::Symlink, .. }) => {}
        (Syscall::Mkdirat, EEXIST, Error::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(ENOENT), "{what}: {text}");
        }
        (_, EACCES | EPERM, Error::LockFileDenied { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(errno), "{what}: {text}");
        }
        (_, _, Error::Io { source, .. } | Error::NotDurable { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(errno), "{what}: {text}")
        }
        (_, _, other) => panic!("{what}: {other}"),
    }
}

pub(crate) fn everything_fails_from_some_call_on(operation: &Operation) {
    for durability in EACH_DURABILITY {
        let mut laboratory = Laboratory::new(operation, durability);
        let mut number = 0;
        let calls = calls_of(&laboratory, &mut number);
        let some = one_of_each(ONE_OF, &format!("{} {durability:?}", operation.name));
        for first in some.take_while(|first| *first < calls.len()) {
            let call = &calls[first];
            for errno in sample_of_call(operation, durability, first, &[EIO, EROFS, EMFILE], 1) {
                number += 1;
                let scratch = laboratory.scratch(number);
                let had = scratch.temporaries().len();
                let (result, _) =
                    laboratory.run(
                        &scratch,
                        move |call| {
                            if call.number >= first { Action::Fail(errno) } else { Action::Proceed }
                        },
                    );
                let what =
                    format!("{}, {durability:?}: everything fails from {} on: {result:?}", operation.name, call.text);
                let allowed = [operation.old, operation.new];
                laboratory.check_afterwards(
                    &scratch,
                    if result.is_ok() { &allowed[1..] } else { &allowed },
                    had + operation.temporaries,
                    &what,
                );
            }
        }
    }
}
