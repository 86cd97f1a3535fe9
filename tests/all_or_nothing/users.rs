//! Several users with different rights.

use std::cell::Cell;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::rc::Rc;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Durability};
use nix::unistd::{Gid, Uid, setgid, setuid};

use crate::common::{Worker, tell, temporary_name};
use crate::hostile::{inode, plant};
use crate::place::{CHANGES, OLD, Place};

const USER: u32 = 7101;
const ANOTHER: u32 = 7102;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The worker: reads a file as that user, and prints the result.
pub(crate) fn read_as(args: &[String]) {
    let [user, locks, path] = args else { panic!("{args:?}") };
    let user: u32 = user.parse().unwrap();
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    // On other systems these tests are skipped.
    #[cfg(target_os = "linux")]
    nix::unistd::setgroups(&[]).unwrap();
    setgid(gid).unwrap();
    setuid(uid).unwrap();
    let adapter = AtomicFileAdapter::builder().lock_dir(locks).durability(Durability::None).build().unwrap();
    let syncs = Rc::new(Cell::new(0));
    let counter = syncs.clone();
    let count = move |call: &Call<'_>| {
        counter.set(counter.get() + usize::from(call.syscall == Syscall::Fsync));
        Action::Proceed
    };
    let read = inject(count, || adapter.read_to_string_with_lock(path)).0;
    // A user who may only read a lock file leaves its mark to those who may write to it, and must not wait for the disk
    // at each read.
    if fs::File::options().write(true).open(adapter.lock_path(path).unwrap()).is_err() {
        assert_eq!(syncs.get(), 0);
    }
    tell(&match read {
        Ok(contents) => format!("{contents:?}"),
        Err(error) => format!("error: {error}"),
    });
}

fn read_by(user: u32, place: &Place, name: &str) -> String {
    let args =
        [user.to_string(), place.locks().to_str().unwrap().to_owned(), place.path(name).to_str().unwrap().to_owned()];
    let mut worker = Worker::start("read_as", &args.each_ref().map(String::as_str));
    let said = worker.hear();
    worker.finish();
    said
}

/// A directory in which every user may take locks, and only root may change files.
fn shared() -> Place {
    let place = Place::quick();
    fs::create_dir(place.locks()).unwrap();
    set_mode(&place.above, 0o755);
    set_mode(&place.files, 0o755);
    set_mode(place.locks(), 0o777);
    place
}

/// Every user may open the lock files and the other files in the lock directory.
fn share_locks(place: &Place) {
    for entry in fs::read_dir(place.locks()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "lock") {
            set_mode(&path, 0o666);
        }
    }
}

pub(crate) fn a_user_who_may_not_finish_it_gets_an_error() {
    let place = shared();
    let intent = place.after_death(1);
    share_locks(&place);
    set_mode(&intent, 0o644);
    for name in ["replaced", "deleted", "made"] {
        for _ in 0..2 {
            let said = read_by(USER, &place, name);
            assert!(said.starts_with("error: ") && said.contains(intent.to_str().unwrap()), "{said}");
            assert!(said.contains(place.path(name).to_str().unwrap()), "{said}");
            assert!(said.contains(&std::io::Error::from_raw_os_error(libc::EACCES).to_string()), "{said}");
        }
    }
    assert!(intent.exists());
    // An intent that he may not even read.
    set_mode(&intent, 0o600);
    let said = read_by(USER, &place, "deleted");
    assert!(said.starts_with("error: ") && said.contains(intent.to_str().unwrap()), "{said}");
    assert_eq!(place.raw("deleted").as_deref(), Some("old"));
    // A user who may finish the change does so, and then every user can use the files.
    place.assert_is(&CHANGES);
    place.assert_nothing_left();
    assert_eq!(read_by(USER, &place, "deleted"), "None");
    assert_eq!(read_by(USER, &place, "replaced"), "Some(\"new\")");
}

/// No change is unfinished, so a user who may only read the lock files can go on.
pub(crate) fn a_user_who_may_only_read_goes_on() {
    let place = shared();
    place.make(&OLD);
    place.assert_is(&OLD);
    crate::hostile::mark(&place, "replaced", b"0123456789abcdef.abcdefghij.intent");
    for entry in fs::read_dir(place.locks()).unwrap() {
        set_mode(&entry.unwrap().path(), 0o644);
    }
    for directory in [0o755, 0o777] {
        set_mode(place.locks(), directory);
        assert_eq!(read_by(USER, &place, "replaced"), "Some(\"old\")");
    }
    place.assert_is(&OLD);
    place.assert_nothing_left();
}

/// The process that finds an intent carries it out with its own rights, perhaps root's. So an intent of another user
/// must not do what that user could not do himself.
pub(crate) fn an_intent_of_another_user() {
    // A directory: whether the user owns it, its mode, the owner of the new version, and whether he could have made the
    // change.
    let cases: &[(&str, u32, u32, u32, bool)] = &[
        ("root's, with a file of root's", 0, 0o755, 0, false),
        ("root's, and everybody may write there", 0, 0o777, USER, true),
        ("root's, everybody may write there, a file of root's", 0, 0o777, 0, false),
        ("root's, and sticky", 0, 0o1777, USER, false),
        ("his own", USER, 0o755, USER, true),
        ("another user's, with a file of his", ANOTHER, 0o755, ANOTHER, false),
        ("another user's, and sticky", ANOTHER, 0o1777, USER, false),
    ];
    for (what, owner, mode, version, allowed) in cases {
        let place = shared();
        fs::write(place.path("file"), "old").unwrap();
        drop(place.seen("file"));
        let temporary = temporary_name("file", "abcdefg");
        fs::write(place.path(&temporary), "planted").unwrap();
        chown(place.path(&temporary), Some(*version), None).unwrap();
        chown(&place.files, Some(*owner), None).unwrap();
        set_mode(&place.files, *mode);
        let inodes = ["", "file", &temporary].map(|name| inode(&place.path(name)));
        let fields = ["R", place.files.to_str().unwrap(), &inodes[0], "file", &temporary, &inodes[2], &inodes[1]];
        judge(&place, what, &fields, *allowed, Some("planted"));
    }
    // Removing.
    for (what, owner, mode, allowed) in [
        ("root's", 0, 0o755, false),
        ("root's, and sticky", 0, 0o1777, false),
        ("his own", USER, 0o755, true),
        ("another user's", ANOTHER, 0o755, false),
    ] {
        let place = shared();
        fs::write(place.path("file"), "old").unwrap();
        drop(place.seen("file"));
        chown(&place.files, Some(owner), None).unwrap();
        set_mode(&place.files, mode);
        let inodes = ["", "file"].map(|name| inode(&place.path(name)));
        let fields = ["D", place.files.to_str().unwrap(), &inodes[0], "file", &inodes[1]];
        judge(&place, what, &fields, allowed, None);
    }
    // Root's own intent, to which others can write.
    for (mode, allowed) in [(0o600, true), (0o644, true), (0o664, false), (0o666, false), (0o602, false)] {
        let place = shared();
        fs::write(place.path("file"), "old").unwrap();
        drop(place.seen("file"));
        let inodes = ["", "file"].map(|name| inode(&place.path(name)));
        let fields = ["D", place.files.to_str().unwrap(), &inodes[0], "file", &inodes[1]];
        let intent = plant(&place, &fields, &["file"]);
        set_mode(&intent, mode);
        judge_intent(&place, &format!("root's, {mode:o}"), &intent, allowed, None);
    }
    // The user's own directory, on a path with a link into another user's directory.
    let place = shared();
    fs::write(place.path("file"), "old").unwrap();
    drop(place.seen("file"));
    let his = place.above.join("his");
    fs::create_dir(&his).unwrap();
    chown(&his, Some(USER), None).unwrap();
    std::os::unix::fs::symlink(&place.files, his.join("link")).unwrap();
    let inodes = ["", "file"].map(|name| inode(&place.path(name)));
    for way in [his.join("link"), his.join("../files"), his.join(".").join("link")] {
        let fields = ["D", way.to_str().unwrap(), &inodes[0], "file", &inodes[1]];
        judge(&place, "through a link", &fields, false, None);
    }
}

#[track_caller]
fn judge(place: &Place, what: &str, fields: &[&str], allowed: bool, planted: Option<&str>) {
    let intent = plant(place, fields, &["file"]);
    chown(&intent, Some(USER), Some(USER)).unwrap();
    judge_intent(place, what, &intent, allowed, planted);
}

#[track_caller]
fn judge_intent(place: &Place, what: &str, intent: &Path, allowed: bool, planted: Option<&str>) {
    let read = place.adapter.read_to_string_with_lock(place.path("file"));
    let listed = place.adapter.recover();
    if allowed {
        assert_eq!(read.unwrap().as_deref(), planted, "{what}");
        assert_eq!(place.raw("file").as_deref(), planted, "{what}");
    } else {
        assert_eq!(place.raw("file").as_deref(), Some("old"), "{what}: {read:?}");
        if let Ok(contents) = read {
            assert_eq!(contents.as_deref(), Some("old"), "{what}");
        }
        let _ = listed;
        let _ = place.adapter.prune();
        let _ = place.adapter.sweep(&place.files);
        assert_eq!(place.raw("file").as_deref(), Some("old"), "{what}");
        // The user gives it up, and that does not make the change either.
        if intent.exists() {
            place.adapter.give_up(intent).unwrap();
        }
        assert_eq!(place.raw("file").as_deref(), Some("old"), "{what}");
        assert_eq!(place.seen("file").as_deref(), Some("old"), "{what}");
    }
}
