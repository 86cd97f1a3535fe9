//! Every verb reads what any other verb has written, whatever the name and the contents. The mode stays, and the
//! directory contains nothing else.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Error};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

use crate::names::{Contents, contents, name};
use crate::{check, scratch, this_file, tree};

#[derive(Debug, Clone)]
enum Change {
    WriteAtomic(Contents),
    Write(Contents),
    GuardWrite(Contents),
    Writer(Vec<Contents>),
    WriterDropped(Contents),
    /// Appends this to the contents.
    Append(Contents),
    /// The same with the handle.
    AppendToFile(Contents),
    TryUpdateFails,
    Batch(Contents),
    Delete,
    GuardDelete,
    /// By another program.
    SetMode(u32),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        contents().prop_map(Change::WriteAtomic),
        contents().prop_map(Change::Write),
        contents().prop_map(Change::GuardWrite),
        vec(contents(), 0..6).prop_map(Change::Writer),
        contents().prop_map(Change::WriterDropped),
        contents().prop_map(Change::Append),
        contents().prop_map(Change::AppendToFile),
        Just(Change::TryUpdateFails),
        contents().prop_map(Change::Batch),
        Just(Change::Delete),
        Just(Change::GuardDelete),
        select(&[0o600, 0o644, 0o755, 0o444, 0o666, 0o4750][..]).prop_map(Change::SetMode),
    ]
}

pub fn what_is_written_is_read() {
    // The most bytes that a read or write moves at once.
    let at_once = option::of(500..20_000usize);
    // Earlier values are shrunk first.
    check(this_file!(), 100, &(vec(change(), 1..6), at_once, name()), |(changes, at_once, name)| {
        let scratch = scratch();
        let path = scratch.files.join(&name);
        let file = scratch.adapter.file(&path)?;
        let mut expected = None;
        for change in changes {
            let mode = mode_of(&path);
            in_pieces(at_once, || -> TestCaseResult {
                apply(&change, &scratch.adapter, &path, &file, &mut expected)?;
                read_in_every_way(&scratch.adapter, &path, &file, expected.as_deref())
            })?;
            let there: Vec<OsString> = tree(&scratch.files).into_keys().map(Into::into).collect();
            prop_assert_eq!(there, expected.iter().map(|_| name.clone()).collect::<Vec<_>>(), "after {:?}", change);
            if !matches!(change, Change::SetMode(_)) && mode.is_some() && expected.is_some() {
                prop_assert_eq!(mode_of(&path), mode, "after {:?}", change);
            }
        }
        prop_assert_eq!(scratch.adapter.delete_with_lock(&path)?, expected.is_some());
        prop_assert!(!scratch.adapter.delete_with_lock(&path)?);
        prop_assert_eq!(tree(&scratch.files).len(), 0);
        Ok(())
    });
}

fn mode_of(path: &Path) -> Option<u32> {
    path.metadata().ok().map(|meta| meta.mode())
}

/// Makes a change of the file, and of the expected file.
fn apply(
    change: &Change,
    adapter: &AtomicFileAdapter,
    path: &Path,
    file: &AtomicFile,
    expected: &mut Option<Vec<u8>>,
) -> TestCaseResult {
    let appended = |old: Option<&[u8]>, more: &Contents| [old.unwrap_or_default(), &more.bytes()].concat();
    let mut seen = expected.clone();
    let new = match change {
        Change::WriteAtomic(contents) | Change::Write(contents) | Change::GuardWrite(contents) => {
            let bytes = contents.bytes();
            match change {
                Change::WriteAtomic(_) => adapter.write_atomic(path, &bytes)?,
                Change::Write(_) => file.write(&bytes)?,
                _ => file.lock()?.write(&bytes)?,
            }
            Some(bytes)
        }
        Change::Writer(pieces) => {
            let guard = file.lock()?;
            let mut writer = guard.writer()?;
            for piece in pieces {
                writer.write_all(&piece.bytes())?;
            }
            writer.commit()?;
            Some(pieces.iter().flat_map(Contents::bytes).collect())
        }
        Change::WriterDropped(contents) => {
            file.lock()?.writer()?.write_all(&contents.bytes())?;
            expected.clone()
        }
        Change::Append(more) | Change::AppendToFile(more) => {
            let append = |old: Option<&[u8]>| {
                seen = old.map(<[u8]>::to_vec);
                appended(old, more)
            };
            match change {
                Change::Append(_) => adapter.update(path, append)?,
                _ => file.update(append)?,
            }
            Some(appended(expected.as_deref(), more))
        }
        Change::TryUpdateFails => {
            let failed = adapter.try_update(path, |old| {
                seen = old.map(<[u8]>::to_vec);
                Err::<Vec<u8>, io::Error>(io::Error::other("no"))
            });
            prop_assert_eq!(failed.unwrap_err().to_string(), "no");
            expected.clone()
        }
        Change::Batch(contents) => {
            adapter.batch().write(path, contents.bytes()).commit()?;
            Some(contents.bytes())
        }
        Change::Delete | Change::GuardDelete => {
            let was_there = if matches!(change, Change::Delete) { file.delete()? } else { file.lock()?.delete()? };
            prop_assert_eq!(was_there, expected.is_some());
            None
        }
        Change::SetMode(mode) => {
            if expected.is_some() {
                fs::set_permissions(path, Permissions::from_mode(*mode))?;
            }
            expected.clone()
        }
    };
    same("the update", seen.as_deref(), expected.as_deref())?;
    *expected = new;
    Ok(())
}

fn read_in_every_way(
    adapter: &AtomicFileAdapter,
    path: &Path,
    file: &AtomicFile,
    expected: Option<&[u8]>,
) -> TestCaseResult {
    let opened = |open: atomic_file_adapter::Result<Option<std::fs::File>>| -> Result<_, TestCaseError> {
        let Some(mut file) = open? else { return Ok(None) };
        let mut contents = Vec::new();
        file.read_to_end(&mut contents)?;
        Ok(Some(contents))
    };
    same("read_with_lock", adapter.read_with_lock(path)?.as_deref(), expected)?;
    same("read", file.read()?.as_deref(), expected)?;
    same("open", opened(file.open())?.as_deref(), expected)?;
    same("ReadGuard::read", file.lock_shared()?.read()?.as_deref(), expected)?;
    same("WriteGuard::read", file.lock()?.read()?.as_deref(), expected)?;
    same("WriteGuard::open", opened(file.lock()?.open())?.as_deref(), expected)?;
    prop_assert_eq!(adapter.exists(path), expected.is_some());
    // Into a buffer that is not empty, with room or without.
    let mut buffer = vec![b'x'; expected.map_or(7, |expected| expected.len() / 2 + 1)];
    for _ in 0..2 {
        let read = file.read_into(&mut buffer)?;
        prop_assert_eq!(read, expected.map(<[u8]>::len));
        same("read_into", Some(&buffer), Some(expected.unwrap_or_default()))?;
    }
    match (adapter.read_to_string_with_lock(path), expected.map(std::str::from_utf8).transpose()) {
        (Ok(text), Ok(expected)) => same("text", text.as_deref().map(str::as_bytes), expected.map(str::as_bytes)),
        (Err(Error::NotUtf8 { path: of, valid_up_to, .. }), Err(expected)) => {
            prop_assert_eq!((&*of, valid_up_to), (path, expected.valid_up_to()));
            Ok(())
        }
        (Err(error), Ok(_)) => Err(error.into()),
        (answer, Err(error)) => Err(TestCaseError::fail(format!("{answer:?} but {error}"))),
    }
}

/// Compares, without all the bytes in the message.
fn same(what: &str, found: Option<&[u8]>, expected: Option<&[u8]>) -> TestCaseResult {
    let at = || Some(found?.iter().zip(expected?).take_while(|(found, expected)| found == expected).count());
    prop_assert!(
        found == expected,
        "{what}: {:?} bytes instead of {:?}, the same up to {:?}",
        found.map(<[u8]>::len),
        expected.map(<[u8]>::len),
        at()
    );
    Ok(())
}

/// Runs `body`. Its reads and writes move no more than so many bytes at once.
#[cfg(feature = "fault-injection")]
fn in_pieces<T>(at_once: Option<usize>, body: impl FnOnce() -> T) -> T {
    use atomic_file_adapter::fault::{Action, inject};
    inject(move |_| at_once.map_or(Action::Proceed, Action::Short), body).0
}

#[cfg(not(feature = "fault-injection"))]
fn in_pieces<T>(_: Option<usize>, body: impl FnOnce() -> T) -> T {
    body()
}
