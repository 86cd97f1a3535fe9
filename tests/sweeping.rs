//! The files that killed writers leave behind are removed, and no others.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atomic_file_adapter::{AtomicFileAdapter, Error, Step};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::common::{Scratch, Work, Worker, hear, names, tell, temporary_name, test};

const WORKERS: &[(&str, Work)] = &[("write_half", write_half)];

fn main() -> ExitCode {
    common::main(
        vec![
            test("a_killed_writers_temporary_file_is_swept", a_killed_writers_temporary_file_is_swept),
            test("a_live_writers_temporary_file_stays", a_live_writers_temporary_file_stays),
            test("ones_own_temporary_file_stays", ones_own_temporary_file_stays),
            test("a_directory_is_swept_file_by_file", a_directory_is_swept_file_by_file),
            test("long_names_are_told_apart", long_names_are_told_apart),
            test("a_name_that_may_be_two_files_needs_both_locks", a_name_that_may_be_two_files_needs_both_locks),
            test("what_only_looks_similar_stays", what_only_looks_similar_stays),
            test("a_users_file_with_a_similar_name_stays", a_users_file_with_a_similar_name_stays),
            test("a_file_that_cannot_be_locked_does_not_stop_sweep", a_file_that_cannot_be_locked_does_not_stop_sweep),
            test("a_path_that_leads_nowhere_is_known_first", a_path_that_leads_nowhere_is_known_first),
            test("a_link_leads_to_the_files_directory", a_link_leads_to_the_files_directory),
            test("the_first_write_to_a_file_removes_its_litter", the_first_write_to_a_file_removes_its_litter),
            test("a_write_removes_nothing_else", a_write_removes_nothing_else),
            test("ones_own_temporary_file_is_no_litter", ones_own_temporary_file_is_no_litter),
            test("while_there_is_an_intent_a_write_removes_nothing", while_there_is_an_intent_a_write_removes_nothing),
            test("a_gitignore_that_was_never_finished_is_swept", a_gitignore_that_was_never_finished_is_swept),
            test("where_there_is_nothing_nothing_is_swept", where_there_is_nothing_nothing_is_swept),
        ],
        WORKERS,
    )
}

/// A writer in another process, which has written half of a new version.
fn writer(scratch: &Scratch, name: &str) -> Worker {
    let locks = scratch.adapter.lock_dir().to_str().unwrap();
    let mut writer = Worker::start("write_half", &[locks, scratch.path(name).to_str().unwrap()]);
    writer.expect("half");
    writer
}

/// A temporary file as a killed writer leaves it.
fn leave(scratch: &Scratch, name: &str) -> PathBuf {
    let before = names(&scratch.files);
    writer(scratch, name).kill();
    let left: Vec<_> = names(&scratch.files).into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(left.len(), 1);
    scratch.path(&left[0])
}

fn sweep(scratch: &Scratch, name: &str) -> Vec<PathBuf> {
    scratch.adapter.sweep(scratch.path(name)).unwrap()
}

fn write_half(args: &[String]) {
    let [locks, path] = args else { panic!("{args:?}") };
    let file = AtomicFileAdapter::with_lock_dir(locks).unwrap().file(path).unwrap();
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    writer.write_all(b"half").unwrap();
    tell("half");
    assert_eq!(hear(), "commit");
    writer.commit().unwrap();
    tell("done");
}

fn a_killed_writers_temporary_file_is_swept() {
    let scratch = Scratch::new();
    scratch.adapter.write_atomic(scratch.path("file"), "whole").unwrap();
    let left = leave(&scratch, "file");
    let left_name = left.file_name().unwrap().to_str().unwrap();
    let random = left_name.strip_prefix(".file.").unwrap().get(..7).unwrap();
    assert_eq!(left_name, temporary_name("file", random));
    assert_eq!(sweep(&scratch, "another"), [""; 0].map(PathBuf::from));
    assert_eq!(sweep(&scratch, "file"), [left]);
    assert_eq!(names(&scratch.files), ["file"]);
    assert_eq!(fs::read(scratch.path("file")).unwrap(), b"whole");
}

type Writing = fn(&AtomicFileAdapter, &Path);

/// With a new handle, or with a path that was not written before.
const WRITES: [(&str, Writing); 6] = [
    ("a handle", |adapter, path| adapter.file(path).unwrap().write("new").unwrap()),
    ("an update", |adapter, path| adapter.file(path).unwrap().update(|_| b"new".to_vec()).unwrap()),
    ("a guard", |adapter, path| adapter.file(path).unwrap().lock().unwrap().write("new").unwrap()),
    ("a writer", |adapter, path| {
        let file = adapter.file(path).unwrap();
        let guard = file.lock().unwrap();
        let mut writer = guard.writer().unwrap();
        writer.write_all(b"new").unwrap();
        writer.commit().unwrap();
    }),
    ("a path", |adapter, path| adapter.write_atomic(path, "new").unwrap()),
    ("a path that was read", |adapter, path| {
        adapter.read_with_lock(path).unwrap();
        adapter.update(path, |_| b"new".to_vec()).unwrap();
    }),
];

/// Makes the files look as if nobody had written to them for so many minutes.
fn age(dir: &Path, minutes: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let then = TimeSpec::from(now - Duration::from_secs(60 * minutes));
    for name in names(dir) {
        utimensat(AT_FDCWD, &dir.join(name), &then, &then, UtimensatFlags::NoFollowSymlink).unwrap();
    }
}

fn again(scratch: &Scratch) -> AtomicFileAdapter {
    AtomicFileAdapter::with_lock_dir(scratch.adapter.lock_dir()).unwrap()
}

fn the_first_write_to_a_file_removes_its_litter() {
    for (how, write) in WRITES {
        let scratch = Scratch::new();
        scratch.adapter.write_atomic(scratch.path("file"), "whole").unwrap();
        writer(&scratch, "file").kill();
        // It may belong to a writer with another lock directory.
        age(&scratch.files, 50);
        writer(&scratch, "file").kill();
        assert_eq!(names(&scratch.files).len(), 3, "{how}");
        age(&scratch.files, 61);
        // The next writer removes the leftovers of the earlier ones.
        writer(&scratch, "file").kill();
        assert_eq!(names(&scratch.files).len(), 2, "{how}");
        age(&scratch.files, 61);
        write(&again(&scratch), &scratch.path("file"));
        assert_eq!(names(&scratch.files), ["file"], "{how}");
        assert_eq!(fs::read(scratch.path("file")).unwrap(), b"new", "{how}");
    }
}

fn a_write_removes_nothing_else() {
    for (how, write) in WRITES {
        let scratch = Scratch::new();
        let long = "l".repeat(250);
        for name in ["file", "other", &long] {
            scratch.adapter.write_atomic(scratch.path(name), "whole").unwrap();
        }
        leave(&scratch, "other");
        leave(&scratch, &long);
        age(&scratch.files, 61);
        let mut live = writer(&scratch, "live");
        // It has the right name, but is not a regular file.
        fs::create_dir(scratch.path(&temporary_name("file", "aaaaaaa"))).unwrap();
        symlink("other", scratch.path(&temporary_name("file", "bbbbbbb"))).unwrap();
        // The check is wrong.
        let right = temporary_name("file", "ccccccc");
        let digit = if right.ends_with("a.tmp") { "b.tmp" } else { "a.tmp" };
        fs::write(scratch.path(&(right[..right.len() - 5].to_owned() + digit)), "").unwrap();
        age(&scratch.files, 61);
        let before = names(&scratch.files);
        for name in ["file", &long] {
            write(&again(&scratch), &scratch.path(name));
        }
        assert_eq!(names(&scratch.files), before, "{how}");
        live.tell("commit");
        live.expect("done");
        live.finish();
    }
}

fn ones_own_temporary_file_is_no_litter() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    fs::write(&path, "old").unwrap();
    // Two guards of one lock, and two writers of one guard.
    let guards = scratch.adapter.lock_many([&path, &path]).unwrap();
    let mut writers: Vec<_> = guards.iter().chain(&guards).map(|guard| guard.writer().unwrap()).collect();
    for (n, writer) in writers.iter_mut().enumerate() {
        write!(writer, "{n}").unwrap();
    }
    for (n, writer) in writers.into_iter().enumerate() {
        writer.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), n.to_string().into_bytes());
    }
    drop(guards);
    let file = again(&scratch).file(&path).unwrap();
    let guard = file.lock().unwrap();
    let (mut first, second) = (guard.writer().unwrap(), guard.writer().unwrap());
    first.write_all(b"first").unwrap();
    drop(second);
    first.commit().unwrap();
    assert_eq!(names(&scratch.files), ["file"]);
}

/// The intent may name one of these files, although the mark of the lock file is gone.
fn while_there_is_an_intent_a_write_removes_nothing() {
    for (how, write) in WRITES {
        let scratch = Scratch::new();
        scratch.adapter.write_atomic(scratch.path("file"), "whole").unwrap();
        let left = leave(&scratch, "file");
        age(&scratch.files, 61);
        let intent = scratch.adapter.lock_dir().join("0123456789abcdef.abcdefg234.intent");
        fs::write(&intent, "").unwrap();
        write(&again(&scratch), &scratch.path("file"));
        assert!(left.exists(), "{how}");
        fs::remove_file(&intent).unwrap();
        write(&again(&scratch), &scratch.path("file"));
        assert!(!left.exists(), "{how}");
    }
}

fn a_live_writers_temporary_file_stays() {
    let scratch = Scratch::new();
    let mut live = writer(&scratch, "file");
    for path in ["file", "."] {
        assert_eq!(sweep(&scratch, path).len(), 0);
    }
    live.tell("commit");
    live.expect("done");
    live.finish();
    assert_eq!(names(&scratch.files), ["file"]);
    assert_eq!(fs::read(scratch.path("file")).unwrap(), b"half");
}

fn ones_own_temporary_file_stays() {
    let scratch = Scratch::new();
    let file = scratch.adapter.file(scratch.path("file")).unwrap();
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    writer.write_all(b"own").unwrap();
    assert_eq!(sweep(&scratch, "file").len(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(sweep(&scratch, ".").len(), 0));
    });
    writer.commit().unwrap();
    assert_eq!(guard.read().unwrap().as_deref(), Some(&b"own"[..]));
}

fn a_directory_is_swept_file_by_file() {
    let scratch = Scratch::new();
    let mut left = ["one", "two", "two", ".hidden"].map(|name| leave(&scratch, name)).to_vec();
    left.sort();
    let mut live = writer(&scratch, "three");
    fs::create_dir(scratch.path("below")).unwrap();
    let below = scratch.path("below").join(temporary_name("one", "abcdefg"));
    fs::write(&below, "").unwrap();
    assert_eq!(sweep(&scratch, "."), left);
    assert!(below.exists(), "directories below are not looked at");
    live.tell("commit");
    live.expect("done");
    assert_eq!(names(&scratch.files), ["below", "three"]);
}

fn long_names_are_told_apart() {
    let scratch = Scratch::new();
    // The names differ only in the part that is cut from the temporary files' names. The cut must not split a
    // character.
    for filler in ["x", "é", "€", "𝄞"] {
        let long = |last: &str| {
            let name = filler.repeat(250 / filler.len());
            let room = 255 - name.len();
            format!("{name}{}{last}", "_".repeat(room - last.len()))
        };
        let (one, two) = (long("1"), long("2"));
        let (left_by_one, left_by_two) = (leave(&scratch, &one), leave(&scratch, &two));
        assert_eq!(sweep(&scratch, &one), [left_by_one]);
        let mut live = writer(&scratch, &one);
        assert_eq!(sweep(&scratch, "."), [left_by_two], "{filler}");
        live.kill();
        assert_eq!(sweep(&scratch, ".").len(), 1, "{filler}");
        assert_eq!(names(&scratch.files), [""; 0]);
    }
}

fn a_name_that_may_be_two_files_needs_both_locks() {
    let scratch = Scratch::new();
    // A file whose name looks like another file's temporary file, but without the random part.
    let long = "x".repeat(255);
    let left = leave(&scratch, &long);
    let left_name = left.file_name().unwrap().to_str().unwrap();
    let namesake = left_name.strip_prefix('.').unwrap().rsplitn(3, '.').nth(2).unwrap();
    for (holder, other) in [(namesake, long.as_str()), (&long, namesake)] {
        let held = scratch.adapter.file(scratch.path(holder)).unwrap();
        let guard = held.lock().unwrap();
        for path in [other, holder, "."] {
            assert_eq!(sweep(&scratch, path).len(), 0, "{path}");
        }
        drop(guard);
    }
    assert_eq!(sweep(&scratch, namesake), [left]);
}

fn what_only_looks_similar_stays() {
    let scratch = Scratch::new();
    // All have the right check, so the check is not the reason why they stay.
    let ours = temporary_name("file", "abcdefg");
    let similar = [
        &temporary_name("file", "abcdef"),
        &temporary_name("file", "abcdefgh"),
        &temporary_name("file", "abcdef1"),
        &temporary_name("file", "ABCDEFG"),
        &format!("{ours}~"),
        &ours[1..],
        &temporary_name("", "abcdefg"),
        &temporary_name("", "abcdefg")[1..],
        ".tmp",
    ];
    for name in similar {
        fs::write(scratch.path(name), name).unwrap();
    }
    fs::create_dir(scratch.path(&ours)).unwrap();
    symlink("nowhere", scratch.path(&temporary_name("file", "gfedcba"))).unwrap();
    let before = names(&scratch.files);
    for path in ["file", "."] {
        assert_eq!(sweep(&scratch, path).len(), 0);
    }
    assert_eq!(names(&scratch.files), before);
}

fn a_users_file_with_a_similar_name_stays() {
    let scratch = Scratch::new();
    // Each has ten characters of the alphabet. By chance one in 32768 such names has the right check.
    let theirs = ["notes.javascript", "notes.typescript", "old.background", "a.2223334445", "file.abcdefghij"];
    for name in theirs {
        fs::write(scratch.path(&format!(".{name}.tmp")), name).unwrap();
    }
    let before = names(&scratch.files);
    for path in ["notes", "file", "."] {
        assert_eq!(sweep(&scratch, path), [""; 0].map(PathBuf::from), "{path}");
    }
    assert_eq!(names(&scratch.files), before);
}

fn a_file_that_cannot_be_locked_does_not_stop_sweep() {
    let scratch = Scratch::new();
    let mut left = ["one", "three", "two"].map(|name| leave(&scratch, name)).to_vec();
    let [foreign, in_the_way] = ["two", "one"].map(|name| scratch.adapter.lock_path(scratch.path(name)).unwrap());
    // The lock files of `one` and `two` are replaced by something else.
    for path in [&foreign, &in_the_way] {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }
    let of_lock_dir = scratch.adapter.lock_dir().join(".gitignore.tmp.1234");
    fs::write(&of_lock_dir, "*").unwrap();
    let error = scratch.adapter.sweep(scratch.path(".")).unwrap_err();
    let text = error.to_string();
    let Error::Partial { done, failed, .. } = error else { panic!("{error:?}") };
    assert_eq!(done, [left.remove(1), of_lock_dir]);
    let mut paths: Vec<_> = failed.iter().map(Error::path).collect();
    paths.sort();
    let mut expected = [&*foreign, &*in_the_way];
    expected.sort();
    assert_eq!(paths, expected);
    assert!(text.starts_with("not everything could be done (done: 2, failed: 2):\n"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(left.iter().all(|path| path.exists()));
    assert_eq!(names(&scratch.files).len(), 2);
}

fn a_path_that_leads_nowhere_is_known_first() {
    let scratch = Scratch::new();
    scratch.adapter.write_atomic(scratch.path("file"), "whole").unwrap();
    let of_lock_dir = scratch.adapter.lock_dir().join(".gitignore.tmp.1234");
    fs::write(&of_lock_dir, "*").unwrap();
    let error = scratch.adapter.sweep(scratch.path("file/below")).unwrap_err();
    assert!(matches!(error, Error::Io { step: Step::Resolve, .. }), "{error:?}");
    assert!(of_lock_dir.exists(), "it was removed without a report");
}

fn a_link_leads_to_the_files_directory() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("elsewhere")).unwrap();
    symlink("elsewhere/file", scratch.path("link")).unwrap();
    symlink("elsewhere", scratch.path("directory")).unwrap();
    for path in ["link", "directory", "elsewhere/../directory/"] {
        let left = scratch.path("elsewhere").join(temporary_name("file", "abcdefg"));
        fs::write(&left, "").unwrap();
        assert_eq!(sweep(&scratch, path), [left], "{path}");
    }
}

fn a_gitignore_that_was_never_finished_is_swept() {
    let scratch = Scratch::new();
    scratch.adapter.write_atomic(scratch.path("file"), "whole").unwrap();
    let locks = scratch.adapter.lock_dir();
    for stays in [".gitignore.tmp.", ".gitignore.tmp.1x", ".gitignore.tmp", "gitignore.tmp.1", "1"] {
        fs::write(locks.join(stays), "").unwrap();
    }
    fs::create_dir(locks.join(".gitignore.tmp.2")).unwrap();
    symlink("nowhere", locks.join(".gitignore.tmp.3")).unwrap();
    let before = names(locks);
    // Whatever the pid in the name. It may belong to another process by now.
    let left = [locks.join(".gitignore.tmp.1234"), locks.join(format!(".gitignore.tmp.{}", std::process::id()))];
    left.iter().for_each(|path| fs::write(path, "*").unwrap());
    let mut swept = sweep(&scratch, "file");
    swept.sort();
    let mut expected = left.to_vec();
    expected.sort();
    assert_eq!(swept, expected);
    assert_eq!(names(locks), before);
}

fn where_there_is_nothing_nothing_is_swept() {
    let scratch = Scratch::new();
    for path in ["file", "missing/directory/file", "."] {
        assert_eq!(sweep(&scratch, path).len(), 0);
    }
    assert_eq!(names(&scratch.files), [""; 0]);
    assert!(!Path::new(scratch.adapter.lock_dir()).exists());
}
