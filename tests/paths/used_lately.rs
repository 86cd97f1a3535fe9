//! A path that an adapter has used lately, so that it still has the lock. If another file has this name by now, it is
//! treated as if it were new.

use std::fs;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use atomic_file_adapter::{AtomicFileAdapter, Error, FileKind};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::names;
use crate::spellings::relative;
use crate::{BY_PATH, Scratch, contents, errors, promptly};

/// Two files, of which the first was used by its path in this spelling.
fn used(how: Spelling) -> (Scratch, std::path::PathBuf) {
    let scratch = Scratch::new();
    scratch.make("file");
    scratch.make("other");
    let path = how(&scratch);
    use_it(&scratch.adapter, &path);
    (scratch, path)
}

#[track_caller]
fn use_it(adapter: &AtomicFileAdapter, path: &std::path::Path) {
    for _ in 0..2 {
        adapter.update(path, |old| old.unwrap_or_default().to_vec()).unwrap();
    }
}

type Spelling = fn(&Scratch) -> std::path::PathBuf;

const SPELLINGS: [Spelling; 3] = [
    |scratch| scratch.path("file"),
    |scratch| scratch.path("../files/./file"),
    |scratch| relative(&scratch.dir).join("file"),
];

/// Replaces the file with something else. The file must be gone.
fn replace(scratch: &Scratch, put: impl FnOnce()) {
    fs::remove_file(scratch.path("file")).unwrap();
    put();
}

#[test]
fn a_link_is_followed_and_left_in_place() {
    for how in SPELLINGS {
        let (scratch, path) = used(how);
        replace(&scratch, || drop(scratch.link("other", "file")));
        assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap().unwrap(), "other");
        scratch.adapter.write_atomic(&path, "new").unwrap();
        assert_eq!(contents(&scratch.path("other")), "new");
        let mut changes = 0;
        let change = |old: Option<&[u8]>| {
            changes += 1;
            [old.unwrap(), b"er"].concat()
        };
        scratch.adapter.update(&path, change).unwrap();
        assert_eq!((contents(&scratch.path("other")).as_str(), changes), ("newer", 1));
        assert!(scratch.path("file").is_symlink() && scratch.adapter.exists(&path));
        assert!(scratch.adapter.delete_with_lock(&path).unwrap());
        assert!(!scratch.adapter.exists(&path));
        scratch.holds_only(&["file"]);
        // The target of the link is made anew.
        scratch.adapter.write_atomic(&path, "new").unwrap();
        scratch.holds_only(&["file", "other"]);

        // A file again, which has the old lock.
        replace(&scratch, || drop(scratch.make("file")));
        assert_eq!(scratch.adapter.read_to_string_with_lock(&path).unwrap().unwrap(), "file");
        scratch.adapter.write_atomic(&path, "again").unwrap();
        assert_eq!([contents(&scratch.path("file")), contents(&scratch.path("other"))], ["again", "new"]);
        assert!(!scratch.path("file").is_symlink());
    }
}

#[test]
fn it_takes_the_lock_of_what_the_link_leads_to_and_no_other() {
    // Each verb is the first after the swap.
    for ((verb, call), in_the_way) in BY_PATH.into_iter().flat_map(|verb| [(verb, "other"), (verb, "file")]) {
        let (scratch, path) = used(SPELLINGS[0]);
        let held = scratch.adapter.file(scratch.path(in_the_way)).unwrap();
        replace(&scratch, || drop(scratch.link("other", "file")));
        let _guard = held.lock().unwrap();
        match call(&scratch.adapter, &path) {
            Ok(()) => assert_eq!(in_the_way, "file", "{verb}"),
            Err(Error::Deadlock { path, .. }) => assert_eq!((in_the_way, &*path), ("other", held.path()), "{verb}"),
            Err(error) => panic!("{verb}: {error}"),
        }
        assert!(scratch.path("file").is_symlink(), "{verb}");
    }
}

#[test]
fn a_link_is_not_waited_for_longer_than_the_limit() {
    for ((verb, call), both) in BY_PATH.into_iter().flat_map(|verb| [(verb, true), (verb, false)]) {
        let (scratch, path) = used(SPELLINGS[0]);
        let builder = AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir());
        let hasty = builder.lock_timeout(Duration::from_millis(1)).build().unwrap();
        use_it(&hasty, &path);
        let [file, other] = ["file", "other"].map(|name| scratch.adapter.file(scratch.path(name)).unwrap());
        replace(&scratch, || drop(scratch.link("other", "file")));
        std::thread::scope(|scope| {
            // The lock is held by another thread than the one that asks.
            let _guards = (file.lock().unwrap(), both.then(|| other.lock().unwrap()));
            match scope.spawn(|| call(&hasty, &path)).join().unwrap() {
                Ok(()) => assert!(!both, "{verb}"),
                Err(Error::Timeout { path, .. }) => assert_eq!((both, &*path), (true, other.path()), "{verb}"),
                Err(error) => panic!("{verb}: {error}"),
            }
        });
        assert!(scratch.path("file").is_symlink(), "{verb}");
    }
}

/// An error about the file itself is reported as usual.
#[test]
fn a_taken_lock_is_reported() {
    for (verb, call) in BY_PATH {
        let (scratch, path) = used(SPELLINGS[0]);
        let _guard = scratch.adapter.file(&path).unwrap().lock().unwrap();
        let error = call(&scratch.adapter, &path).unwrap_err();
        assert!(matches!(&error, Error::Deadlock { path, .. } if *path == scratch.path("file")), "{verb}: {error:?}");
    }
}

#[test]
fn a_link_is_refused_where_none_is_followed() {
    for (verb, call) in BY_PATH {
        let (scratch, path) = used(SPELLINGS[0]);
        let strict = AtomicFileAdapter::builder().lock_dir(scratch.adapter.lock_dir()).follow_links(false);
        let strict = strict.build().unwrap();
        use_it(&strict, &path);
        for target in ["other", "nowhere"] {
            replace(&scratch, || drop(scratch.link(target, "file")));
            let error = call(&strict, &path).unwrap_err();
            assert!(matches!(&error, Error::SymbolicLink { link, .. } if *link == path), "{verb}: {error:?}");
            assert!(!strict.exists(&path));
        }
        assert_eq!((contents(&scratch.path("other")), names(&scratch.dir).len()), ("other".to_owned(), 2), "{verb}");
        replace(&scratch, || drop(scratch.make("file")));
        call(&strict, &path).unwrap();
    }
}

#[test]
fn what_is_not_a_regular_file_is_refused_and_left_alone() {
    type Put = fn(&Scratch, &str);
    let kinds: [(FileKind, Put); 3] = [
        (FileKind::Directory, |scratch, name| fs::create_dir(scratch.path(name)).unwrap()),
        (FileKind::Fifo, |scratch, name| mkfifo(&scratch.path(name), Mode::S_IRWXU).unwrap()),
        (FileKind::Socket, |scratch, name| drop(UnixListener::bind(scratch.path(name)).unwrap())),
    ];
    for (kind, put) in kinds {
        for by_link in [false, true] {
            let (scratch, path) = used(SPELLINGS[0]);
            let name = if by_link { "special" } else { "file" };
            replace(&scratch, || put(&scratch, name));
            if by_link {
                scratch.link("special", "file");
            }
            let before = names(&scratch.dir);
            let (adapter, theirs) = (scratch.adapter.clone(), path.clone());
            for (what, error) in promptly(move || errors(&adapter, &theirs)) {
                let Error::NotRegularFile { kind: told, path, .. } = &error else { panic!("{what}: {error:?}") };
                assert_eq!((*told, &**path), (kind, &*scratch.path(if by_link { "file" } else { name })), "{what}");
            }
            assert!(!scratch.adapter.exists(&path));
            assert_eq!(names(&scratch.dir), before);
        }
    }
}

#[test]
fn a_file_that_is_gone_is_missing() {
    let (scratch, path) = used(SPELLINGS[0]);
    replace(&scratch, || {});
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap(), None);
    assert!(!scratch.adapter.delete_with_lock(&path).unwrap());
    scratch.adapter.update(&path, |old| old.map_or(b"new".to_vec(), |_| panic!("there is a file"))).unwrap();
    assert_eq!(contents(&path), "new");
}

#[test]
fn a_directory_that_replaced_the_files_directory_has_its_own_locks() {
    let scratch = Scratch::new();
    let path = scratch.make("dir/file");
    let other = scratch.make("elsewhere/file");
    use_it(&scratch.adapter, &path);
    fs::rename(scratch.path("dir"), scratch.path("moved")).unwrap();
    scratch.link("elsewhere", "dir");
    let guard = scratch.adapter.file(&other).unwrap().lock().unwrap();
    for (verb, call) in BY_PATH {
        let error = call(&scratch.adapter, &path).unwrap_err();
        assert!(matches!(&error, Error::Deadlock { path, .. } if *path == other), "{verb}: {error:?}");
    }
    drop(guard);
    scratch.adapter.write_atomic(&path, "new").unwrap();
    assert_eq!([contents(&other), contents(&scratch.path("moved/file"))], ["new", "dir/file"]);
}

#[cfg(feature = "fault-injection")]
mod at_each_call {
    use atomic_file_adapter::fault::{Action, inject};

    use super::*;

    /// The same with the directory. This thread holds the lock of the link's target, so that nobody may read the
    /// target.
    #[test]
    fn what_a_link_leads_to_for_a_moment_is_not_read_without_its_lock() {
        const CALLS: usize = 32;
        let mut refused = 0;
        for (put, back) in (0..CALLS).flat_map(|put| (put + 1..=CALLS).map(move |back| (put, back))) {
            let scratch = Scratch::new();
            let (path, other) = (scratch.make("dir/file"), scratch.make("elsewhere/file"));
            use_it(&scratch.adapter, &path);
            let _guard = scratch.adapter.file(&other).unwrap().lock().unwrap();
            let [dir, aside, link] = ["dir", "aside", "link"].map(|name| scratch.path(name));
            scratch.link("elsewhere", "link");
            let swap = move |call: &atomic_file_adapter::fault::Call<'_>| {
                if call.number == put {
                    fs::rename(&dir, &aside).unwrap();
                    fs::rename(&link, &dir).unwrap();
                } else if call.number == back && aside.exists() {
                    fs::rename(&dir, &link).unwrap();
                    fs::rename(&aside, &dir).unwrap();
                }
                Action::Proceed
            };
            match inject(swap, || scratch.adapter.read_to_string_with_lock(&path)).0 {
                Ok(read) => assert_eq!(read.as_deref(), Some("dir/file"), "{put} {back}"),
                Err(Error::Deadlock { path, .. }) => {
                    assert_eq!(path, other, "{put} {back}");
                    refused += 1;
                }
                other => panic!("{put} {back}: {other:?}"),
            }
        }
        assert!(refused > 0);
    }

    /// Replaces the file with a link before one call, and restores the file before another one. Whatever the call sees,
    /// it works on one of the two files under the lock of that file, or reports an error.
    #[test]
    fn a_link_that_comes_and_goes_is_never_read_as_a_file() {
        const CALLS: usize = 16;
        for (put, back) in (0..CALLS).flat_map(|put| (put + 1..=CALLS).map(move |back| (put, back))) {
            let (scratch, path) = used(SPELLINGS[0]);
            scratch.make("kept");
            let [file, aside, link] = ["file", "aside", "link"].map(|name| scratch.path(name));
            scratch.link("other", "link");
            let swap = move |call: &atomic_file_adapter::fault::Call<'_>| {
                if call.number == put {
                    fs::rename(&file, &aside).unwrap();
                    fs::rename(&link, &file).unwrap();
                } else if call.number == back && aside.exists() {
                    fs::rename(&file, &link).unwrap();
                    fs::rename(&aside, &file).unwrap();
                }
                Action::Proceed
            };
            let read = inject(swap, || scratch.adapter.read_to_string_with_lock(&path)).0;
            match read {
                Ok(Some(read)) => assert!(["file", "other"].contains(&&*read), "{put} {back}: {read}"),
                Err(Error::NotRegularFile { kind: FileKind::Symlink, .. }) => {}
                // The call opened the file or read the link when it was the other one.
                Err(Error::Io { source, .. })
                    if [libc::ELOOP, libc::EINVAL].map(Some).contains(&source.raw_os_error()) => {}
                other => panic!("{put} {back}: {other:?}"),
            }
        }
    }
}
