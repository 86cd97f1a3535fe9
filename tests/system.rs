//! What the system decides: modes and owners, permissions, full and read-only disks, limits.

mod common;

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFileAdapter, Durability, Error, Result, Step};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};
use tempfile::TempDir;

use crate::common::{Work, Worker, hear, names, no_root, not_linux, tell, test, test_if};

const WORKERS: &[(&str, Work)] = &[
    ("call", call),
    ("keep_modes", keep_modes),
    ("make_like_std", make_like_std),
    ("make_exact", make_exact),
    ("hide_temporary_of_old", |args| hide_temporary(args, true)),
    ("hide_temporary_of_new", |args| hide_temporary(args, false)),
    ("exceed_size_limit", exceed_size_limit),
    ("name_locks_in_chroot", name_locks_in_chroot),
    #[cfg(target_os = "linux")]
    ("lease", lease),
];

fn main() -> ExitCode {
    common::main(
        vec![
            test("a_replaced_file_keeps_its_mode_whatever_the_umask", || with_each_umask("keep_modes")),
            test("a_new_file_has_the_mode_that_std_gives_it", || with_each_umask("make_like_std")),
            test("the_builders_mode_is_exact_whatever_the_umask", || with_each_umask("make_exact")),
            test("while_a_file_is_replaced_nobody_gets_in_who_may_not_see_it", || {
                with_each_umask("hide_temporary_of_old")
            }),
            test("while_a_file_is_made_nobody_gets_in_who_may_not_see_it", || with_each_umask("hide_temporary_of_new")),
            test_if(no_users(), "root_keeps_owner_group_and_setuid_bits", root_keeps_owner_group_and_setuid_bits),
            test_if(no_users(), "while_a_file_is_replaced_its_group_is_not_mistaken", group_of_a_temporary_file),
            test_if(no_users(), "setuid_is_not_taken_from_another_owner", setuid_is_not_taken_from_another_owner),
            test_if(no_users(), "a_group_is_kept_by_its_members", a_group_is_kept_by_its_members),
            test_if(no_users(), "without_write_permission_nothing_happens", without_write_permission_nothing_happens),
            test_if(no_users(), "what_may_not_be_seen_is_not_missing", what_may_not_be_seen_is_not_missing),
            test_if(
                no_users(),
                "a_directory_that_cannot_be_synced_is_known_before_the_rename",
                an_unreadable_directory,
            ),
            test_if(no_users(), "a_read_only_lock_file_serves_readers", a_read_only_lock_file_serves_readers),
            test_if(no_users(), "in_a_sticky_directory_links_of_others_are_refused", links_in_sticky_directories),
            test_if(no_users(), "in_a_sticky_directory_files_of_others_stay", files_in_sticky_directories),
            test_if(no_mounts(), "on_a_full_disk_the_old_version_stays", on_a_full_disk_the_old_version_stays),
            test_if(no_mounts(), "on_a_full_disk_deleting_makes_room", on_a_full_disk_deleting_makes_room),
            test_if(no_mounts(), "without_an_inode_the_old_version_stays", without_an_inode_the_old_version_stays),
            test_if(no_mounts(), "a_read_only_file_system_can_be_read", a_read_only_file_system_can_be_read),
            test_if(no_mounts(), "a_mount_point_cannot_be_replaced", a_mount_point_cannot_be_replaced),
            test_if(no_mounts(), "without_proc_locks_have_the_same_names", without_proc_locks_have_the_same_names),
            test_if(no_mounts(), "the_root_of_another_process_is_not_mistaken_for_ours", the_root_of_another_process),
            test_if(not_linux(), "a_file_with_a_lease_on_it_can_be_read", a_file_with_a_lease_can_be_read),
            test("beyond_the_file_size_limit_the_old_version_stays", beyond_the_file_size_limit),
        ],
        WORKERS,
    )
}

/// Why a test that acts as several users cannot run.
fn no_users() -> Option<&'static str> {
    not_linux().or_else(no_root)
}

/// Why a test that mounts something cannot run. Root in a container may not.
fn no_mounts() -> Option<&'static str> {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap_or(0);
    not_linux().or((effective & CAP_SYS_ADMIN == 0).then_some("needs root that may mount"))
}

/// A directory that every user may look into, with a lock directory that every user may use.
struct Scratch {
    dir: PathBuf,
    adapter: AtomicFileAdapter,
    _above: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let real = above.path().canonicalize().unwrap();
        set_mode(&real, 0o755);
        for (name, mode) in [("files", 0o755), ("locks", 0o777)] {
            fs::create_dir(real.join(name)).unwrap();
            set_mode(&real.join(name), mode);
        }
        let adapter = AtomicFileAdapter::with_lock_dir(real.join("locks")).unwrap();
        Scratch { dir: real.join("files"), adapter, _above: above }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn locks(&self) -> &str {
        utf8(self.adapter.lock_dir())
    }

    /// A file with "old" in it.
    fn make(&self, name: &str, owner: u32, mode: u32) -> PathBuf {
        self.make_in_group(name, owner, owner, mode)
    }

    fn make_in_group(&self, name: &str, owner: u32, group: u32, mode: u32) -> PathBuf {
        fs::write(self.path(name), "old").unwrap();
        chown(self.path(name), Some(owner), Some(group)).unwrap();
        set_mode(&self.path(name), mode);
        self.path(name)
    }

    fn make_dir(&self, name: &str, owner: u32, mode: u32) -> PathBuf {
        fs::create_dir(self.path(name)).unwrap();
        chown(self.path(name), Some(owner), Some(owner)).unwrap();
        set_mode(&self.path(name), mode);
        self.path(name)
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The twelve bits of `chmod`.
fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = path.metadata().unwrap();
    (meta.uid(), meta.gid())
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A way to make a new version of a file.
type Verb = fn(&AtomicFileAdapter, &Path, &[u8]) -> Result<()>;

const WRITING: [(&str, Verb); 3] = [
    ("write", |adapter, path, new| adapter.write_atomic(path, new)),
    ("update", |adapter, path, new| adapter.update(path, |_| new.to_vec())),
    ("writer", |adapter, path, new| {
        let file = adapter.file(path)?;
        let guard = file.lock()?;
        let mut writer = guard.writer()?;
        // The caller does not look at the error, and must be told by `commit`.
        let _ = writer.write_all(new);
        writer.commit()
    }),
];

// Acting as another user.

/// Nobody in particular.
const NOBODY: &str = "65534";
const NOBODYS_ID: u32 = 65534;
/// Somebody else.
const STRANGERS_ID: u32 = 1234;

/// One call as another user (its number, then the groups that it is in besides the one of that number), in a
/// process of its own; what it answered, or the error's kind, its step, and its text.
fn as_user(user: &str, verb: &str, scratch: &Scratch, path: &Path) -> String {
    let mut worker = Worker::start("call", &[user, verb, scratch.locks(), utf8(path)]);
    let answer = worker.hear();
    worker.finish();
    answer
}

fn call(args: &[String]) {
    let [user, verb, locks, path] = args else { panic!("{args:?}") };
    become_user(user);
    let builder = AtomicFileAdapter::builder().lock_dir(locks);
    let ordered = builder.clone().durability(Durability::Ordered).build().unwrap();
    let adapter = builder.build().unwrap();
    let answer = match verb.as_str() {
        "read" => adapter.read_to_string_with_lock(path).map(|contents| contents.unwrap_or("nothing".to_owned())),
        "delete" => adapter.delete_with_lock(path).map(|found| found.to_string()),
        "ordered write" => ordered.write_atomic(path, "new").map(|()| "done".to_owned()),
        "ordered delete" => ordered.delete_with_lock(path).map(|found| found.to_string()),
        _ => {
            let (_, write) = WRITING.into_iter().find(|(known, _)| known == verb).expect("a verb");
            write(&adapter, Path::new(path), b"new").map(|()| "done".to_owned())
        }
    };
    tell(&answer.unwrap_or_else(|error| {
        let step = if let Error::Io { step, .. } = &error { format!("{step:?}") } else { String::new() };
        format!("{:?} {step}: {error}", error.kind())
    }));
}

fn become_user(user: &str) {
    let mut ids = user.split(',').map(|id| id.parse().unwrap());
    let id = ids.next().unwrap();
    #[cfg(target_os = "linux")]
    nix::unistd::setgroups(&ids.map(Gid::from_raw).collect::<Vec<_>>()).unwrap();
    nix::unistd::setgid(Gid::from_raw(id)).unwrap();
    nix::unistd::setuid(Uid::from_raw(id)).unwrap();
}

#[track_caller]
fn assert_denied(answer: &str, step: Step, named: &Path) {
    let start = format!("PermissionDenied {step:?}: ");
    assert!(answer.starts_with(&start) && answer.contains(utf8(named)), "no {start:?} for {named:?}: {answer}");
}

// Modes and owners.

const UMASKS: [&str; 3] = ["0", "022", "077"];

/// Runs a worker for each umask, because a umask is the whole process's.
fn with_each_umask(worker: &str) {
    for umask in UMASKS {
        let scratch = Scratch::new();
        Worker::start(worker, &[umask, scratch.locks(), utf8(&scratch.dir)]).finish();
    }
}

/// In a worker of [`with_each_umask`]: the settings of an adapter, and the directory for the files.
fn under_umask(args: &[String]) -> (atomic_file_adapter::Builder, &Path) {
    let [mask, locks, dir] = args else { panic!("{args:?}") };
    umask(Mode::from_bits(libc::mode_t::from_str_radix(mask, 8).unwrap()).unwrap());
    (AtomicFileAdapter::builder().lock_dir(locks), Path::new(dir))
}

fn keep_modes(args: &[String]) {
    let (builder, dir) = under_umask(args);
    // A mode for new files is none of the old ones' business.
    for builder in [builder.clone(), builder.new_file_mode(0o604)] {
        let adapter = builder.build().unwrap();
        for before in [0o600, 0o640, 0o664, 0o755, 0o444, 0o666, 0o400, 0o777, 0o471, 0o2755, 0o4755, 0o1644] {
            for (verb, write) in WRITING {
                let path = dir.join("file");
                fs::write(&path, "old").unwrap();
                set_mode(&path, before);
                write(&adapter, &path, b"new").unwrap();
                assert_eq!(format!("{:o}", mode(&path)), format!("{before:o}"), "{verb}, {args:?}");
                assert_eq!(names(dir), ["file"]);
                fs::remove_file(&path).unwrap();
            }
        }
    }
}

fn make_like_std(args: &[String]) {
    let (builder, dir) = under_umask(args);
    let adapter = builder.build().unwrap();
    fs::write(dir.join("std"), "new").unwrap();
    fs::create_dir(dir.join("std-dir")).unwrap();
    for (verb, write) in WRITING {
        write(&adapter, &dir.join("dir").join(verb), b"new").unwrap();
        assert_eq!(mode(&dir.join("dir").join(verb)), mode(&dir.join("std")), "{verb}, {args:?}");
    }
    assert_eq!(mode(&dir.join("dir")), mode(&dir.join("std-dir")), "{args:?}");
}

fn make_exact(args: &[String]) {
    let (builder, dir) = under_umask(args);
    for exact in [0o640, 0o600, 0o666, 0o444, 0o777, 0] {
        let adapter = builder.clone().new_file_mode(exact).build().unwrap();
        for (verb, write) in WRITING {
            let path = dir.join(format!("{verb}-{exact}"));
            write(&adapter, &path, b"new").unwrap();
            assert_eq!(format!("{:o}", mode(&path)), format!("{exact:o}"), "{verb}, {args:?}");
        }
    }
}

/// Whoever opens the temporary file can still read from it when it has become the file.
fn hide_temporary(args: &[String], exists: bool) {
    let (builder, dir) = under_umask(args);
    let path = dir.join("file");
    for secret in [0o600, 0o640, 0o400, 0o604] {
        let adapter = builder.clone().new_file_mode(if exists { 0o666 } else { secret }).build().unwrap();
        if exists {
            fs::write(&path, "old").unwrap();
            set_mode(&path, secret);
        }
        let file = adapter.file(&path).unwrap();
        let guard = file.lock().unwrap();
        let _writer = guard.writer().unwrap();
        let temporary = names(dir).into_iter().find(|name| name != "file").expect("a temporary file");
        let extra = mode(&dir.join(temporary)) & !secret;
        assert_eq!(extra, 0, "the bits {extra:o}, which {secret:o} has not; {args:?}");
        if exists {
            fs::remove_file(&path).unwrap();
        }
    }
}

fn root_keeps_owner_group_and_setuid_bits() {
    let scratch = Scratch::new();
    for mode_before in [0o644, 0o4755, 0o2755, 0o6755, 0o2644, 0o600] {
        for (uid, gid) in [(STRANGERS_ID, 5678), (STRANGERS_ID, 0), (0, 5678), (0, 0)] {
            for (verb, write) in WRITING {
                let path = scratch.make_in_group("file", uid, gid, mode_before);
                write(&scratch.adapter, &path, b"new").unwrap();
                assert_eq!(owner(&path), (uid, gid), "{verb}");
                assert_eq!(format!("{:o}", mode(&path)), format!("{mode_before:o}"), "{verb}, {uid}:{gid}");
                assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            }
        }
    }
    assert_eq!(names(&scratch.dir), ["file"]);
}

/// As long as the temporary file is in the writer's group, that group must not have the rights of the file's.
fn group_of_a_temporary_file() {
    let scratch = Scratch::new();
    for before in [0o660, 0o640, 0o664, 0o754, 0o6775] {
        let path = scratch.make_in_group("file", STRANGERS_ID, 5678, before);
        let file = scratch.adapter.file(&path).unwrap();
        let guard = file.lock().unwrap();
        let _writer = guard.writer().unwrap();
        let temporary = names(&scratch.dir).into_iter().find(|name| name != "file").expect("a temporary file");
        let temporary = scratch.path(&temporary);
        let (groups, others) = ((mode(&temporary) & 0o070) >> 3, before & 0o007);
        assert!(owner(&temporary).1 == 5678 || groups & !others == 0, "{:o} for {before:o}", mode(&temporary));
        assert_eq!(mode(&temporary) & 0o6000, 0, "{before:o}: runs with the writer's rights");
    }
}

fn setuid_is_not_taken_from_another_owner() {
    let scratch = Scratch::new();
    let dir = scratch.make_dir("dir", NOBODYS_ID, 0o755);
    let (nobody, stranger) = (NOBODYS_ID, STRANGERS_ID);
    // The file's owner, group and mode; and the mode after Nobody has replaced it.
    let cases = [
        (0, 0, 0o6755, 0o755),
        (0, 0, 0o4755, 0o755),
        (stranger, stranger, 0o6755, 0o755),
        (stranger, nobody, 0o6755, 0o2755),
        (nobody, stranger, 0o6755, 0o4755),
        (nobody, nobody, 0o6755, 0o6755),
        (nobody, nobody, 0o4755, 0o4755),
        (0, 0, 0o644, 0o644),
    ];
    for (uid, gid, before, after) in cases {
        for (verb, _) in WRITING {
            let path = scratch.make_in_group("dir/file", uid, gid, before);
            assert_eq!(as_user(NOBODY, verb, &scratch, &path), "done");
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert_eq!(owner(&path), (nobody, nobody), "{verb}, {uid}:{gid}");
            assert_eq!(format!("{:o}", mode(&path)), format!("{after:o}"), "{verb}, {uid}:{gid} {before:o}");
            assert_eq!(names(&dir), ["file"]);
        }
    }
}

fn a_group_is_kept_by_its_members() {
    let scratch = Scratch::new();
    scratch.make_dir("dir", NOBODYS_ID, 0o755);
    for uid in [NOBODYS_ID, STRANGERS_ID] {
        for (user, gid_after) in [("65534,5678", 5678), ("65534,4321", NOBODYS_ID), (NOBODY, NOBODYS_ID)] {
            let path = scratch.make_in_group("dir/file", uid, 5678, 0o664);
            assert_eq!(as_user(user, "write", &scratch, &path), "done");
            assert_eq!(owner(&path), (NOBODYS_ID, gid_after), "{user}, file of {uid}");
        }
    }
}

// Permissions.

fn without_write_permission_nothing_happens() {
    let scratch = Scratch::new();
    let dir = scratch.make_dir("dir", 0, 0o555);
    // That the file itself may be written does not help.
    let path = scratch.make("dir/file", NOBODYS_ID, 0o666);
    let missing = dir.join("missing");
    let cases = [
        ("write", &path, Step::CreateTemporary),
        ("update", &path, Step::CreateTemporary),
        ("writer", &path, Step::CreateTemporary),
        ("delete", &path, Step::Remove),
        ("write", &missing, Step::CreateTemporary),
        ("write", &missing.join("file"), Step::CreateDirectory),
    ];
    for (verb, path, step) in cases {
        assert_denied(&as_user(NOBODY, verb, &scratch, path), step, path);
        assert_eq!(names(&dir), ["file"], "{verb}");
    }
    assert_eq!(as_user(NOBODY, "delete", &scratch, &missing), "false");
    assert_eq!(as_user(NOBODY, "read", &scratch, &missing), "nothing");
    assert_eq!(as_user(NOBODY, "read", &scratch, &path), "old");
}

fn what_may_not_be_seen_is_not_missing() {
    let scratch = Scratch::new();
    let secret = scratch.make("secret", 0, 0o600);
    scratch.make_dir("closed", 0, 0o700);
    let inside = scratch.make("closed/file", NOBODYS_ID, 0o666);
    for verb in ["read", "update", "write", "delete"] {
        for path in [&inside, &scratch.path("closed/missing"), &scratch.path("closed/missing/file")] {
            assert_denied(&as_user(NOBODY, verb, &scratch, path), Step::Resolve, path);
        }
    }
    assert_denied(&as_user(NOBODY, "read", &scratch, &secret), Step::Open, &secret);
    assert_eq!(names(&scratch.path("closed")), ["file"]);
    assert_eq!(fs::read_to_string(inside).unwrap(), "old");
}

fn an_unreadable_directory() {
    let scratch = Scratch::new();
    let dir = scratch.make_dir("dir", NOBODYS_ID, 0o311);
    let path = scratch.make("dir/file", NOBODYS_ID, 0o644);
    assert_eq!(as_user(NOBODY, "read", &scratch, &path), "old");
    let inode = path.metadata().unwrap().ino();
    for verb in ["write", "update", "writer", "delete"] {
        assert_denied(&as_user(NOBODY, verb, &scratch, &path), Step::SyncDirectory, &path);
        assert_eq!((fs::read_to_string(&path).unwrap(), path.metadata().unwrap().ino()), ("old".to_owned(), inode));
        assert_eq!(names(&dir), ["file"], "{verb}");
    }
    assert_eq!(as_user(NOBODY, "ordered write", &scratch, &path), "done");
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(names(&dir), ["file"]);
    assert_eq!(as_user(NOBODY, "ordered delete", &scratch, &path), "true");
    assert_eq!(names(&dir), [""; 0]);
}

fn a_read_only_lock_file_serves_readers() {
    let scratch = Scratch::new();
    let dir = scratch.make_dir("dir", NOBODYS_ID, 0o755);
    let path = scratch.make("dir/file", NOBODYS_ID, 0o644);
    scratch.adapter.read_with_lock(&path).unwrap();
    let lock = scratch.adapter.lock_path(&path).unwrap();
    set_mode(&lock, 0o644);
    set_mode(scratch.adapter.lock_dir(), 0o755);
    assert_eq!((owner(&lock), mode(&lock)), ((0, 0), 0o644));

    assert_eq!(as_user(NOBODY, "read", &scratch, &path), "old");
    for verb in ["write", "update", "writer", "delete"] {
        assert_denied(&as_user(NOBODY, verb, &scratch, &path), Step::OpenLock, &lock);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old", "{verb}");
        assert_eq!(names(&dir), ["file"], "{verb}");
    }

    // Without a lock file, and without permission to make one, even a reader would be alone.
    fs::remove_file(&lock).unwrap();
    assert_denied(&as_user(NOBODY, "read", &scratch, &path), Step::OpenLock, &lock);
}

fn links_in_sticky_directories() {
    let (nobody, stranger, root) = (NOBODYS_ID, STRANGERS_ID, 0);
    // The directory's owner and mode, the link's owner, the caller, and whether the link may be followed.
    let cases = [
        (root, 0o1777, stranger, NOBODY, false),
        (root, 0o1777, nobody, NOBODY, true),
        (root, 0o1777, root, NOBODY, true),
        (root, 0o0777, stranger, NOBODY, true),
        (root, 0o1775, stranger, NOBODY, true),
        (stranger, 0o1777, stranger, NOBODY, true),
        (stranger, 0o1777, root, NOBODY, false),
        (root, 0o1777, stranger, "0", false),
        (nobody, 0o1777, nobody, "0", true),
    ];
    for case @ (dirs_owner, dirs_mode, links_owner, caller, may_follow) in cases {
        let scratch = Scratch::new();
        let targets = scratch.make_dir("targets", NOBODYS_ID, 0o755);
        let target = scratch.make("targets/file", NOBODYS_ID, 0o644);
        let sticky = scratch.make_dir("sticky", dirs_owner, dirs_mode);
        for (link, target) in [("link", "file"), ("dangling", "new")] {
            symlink(targets.join(target), sticky.join(link)).unwrap();
            lchown(sticky.join(link), Some(links_owner), Some(links_owner)).unwrap();
        }
        // The second link of two is looked at, too.
        symlink("sticky/link", scratch.path("chain")).unwrap();

        for path in [&sticky.join("link"), &scratch.path("chain")] {
            if may_follow {
                assert_eq!(as_user(caller, "write", &scratch, path), "done", "{case:?}");
                assert_eq!(fs::read_to_string(&target).unwrap(), "new", "{case:?}");
                assert_eq!(as_user(caller, "read", &scratch, path), "new", "{case:?}");
                fs::write(&target, "old").unwrap();
            } else {
                for verb in ["write", "update", "writer", "delete", "read"] {
                    assert_denied(&as_user(caller, verb, &scratch, path), Step::Resolve, path);
                    assert_eq!(fs::read_to_string(&target).unwrap(), "old", "{case:?}");
                }
            }
        }
        let dangling = as_user(caller, "write", &scratch, &sticky.join("dangling"));
        assert_eq!(dangling == "done", may_follow, "{case:?}: {dangling}");
        assert_eq!(targets.join("new").exists(), may_follow, "{case:?}");
        assert_eq!(names(&sticky), ["dangling", "link"], "{case:?}");
        assert!(sticky.join("link").is_symlink() && sticky.join("dangling").is_symlink(), "{case:?}");
    }
}

fn files_in_sticky_directories() {
    let scratch = Scratch::new();
    let sticky = scratch.make_dir("sticky", 0, 0o1777);
    let theirs = scratch.make("sticky/theirs", STRANGERS_ID, 0o666);
    let own = scratch.make("sticky/own", NOBODYS_ID, 0o644);
    for (verb, step) in
        [("write", Step::Rename), ("update", Step::Rename), ("writer", Step::Rename), ("delete", Step::Remove)]
    {
        assert_denied(&as_user(NOBODY, verb, &scratch, &theirs), step, &theirs);
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "old", "{verb}");
        assert_eq!(names(&sticky), ["own", "theirs"], "{verb}");
    }
    assert_eq!(as_user(NOBODY, "read", &scratch, &theirs), "old");
    assert_eq!(as_user(NOBODY, "write", &scratch, &own), "done");
}

// Disks.

/// Something that is mounted until this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(on: &Path, args: &[&str]) -> Self {
        run("mount", &[args, &[utf8(on)]].concat());
        Mount(on.to_owned())
    }

    fn tmpfs(scratch: &Scratch, options: &str) -> Self {
        let on = scratch.make_dir("disk", 0, 0o755);
        Mount::new(&on, &["-t", "tmpfs", "-o", options, "tmpfs"])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, because a test that fails has files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[track_caller]
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Fails unless `result` is an error of this kind, at this step, that names the file.
#[track_caller]
fn assert_fails(result: Result<()>, expected: io::ErrorKind, at: Step, path: &Path, what: &str) {
    let error = result.expect_err(what);
    let Error::Io { step, .. } = &error else { panic!("{what}: {error:?}") };
    assert_eq!((error.kind(), *step, error.path()), (expected, at, path), "{what}: {error}");
    assert!(error.to_string().contains(utf8(path)), "{what}: {error}");
}

fn on_a_full_disk_the_old_version_stays() {
    let scratch = Scratch::new();
    let disk = Mount::tmpfs(&scratch, "size=1m");
    let path = disk.0.join("file");
    let old = b"0123456789".repeat(10_000);
    let too_much = vec![b'x'; 2_000_000];
    scratch.adapter.write_atomic(&path, &old).unwrap();
    for (verb, write) in WRITING {
        for (path, present) in [(&path, vec!["file"]), (&disk.0.join("other"), vec!["file"])] {
            let result = write(&scratch.adapter, path, &too_much);
            // What was wrong with it a writer has said before.
            let kind = if verb == "writer" { io::ErrorKind::Other } else { io::ErrorKind::StorageFull };
            assert_fails(result, kind, Step::Write, path, verb);
            assert_eq!(names(&disk.0), present, "{verb}");
        }
        assert!(scratch.adapter.read_with_lock(&path).unwrap().unwrap() == old, "{verb}");
    }

    let file = scratch.adapter.file(&path).unwrap();
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    assert_eq!(writer.write_all(&too_much).unwrap_err().kind(), io::ErrorKind::StorageFull);
    // Something that fits does not make up for what did not.
    fs::remove_file(&path).unwrap();
    writer.write_all(b"small").unwrap();
    assert_fails(writer.commit(), io::ErrorKind::Other, Step::Write, &path, "commit");
    assert_eq!(names(&disk.0), [""; 0]);
}

fn on_a_full_disk_deleting_makes_room() {
    let scratch = Scratch::new();
    let disk = Mount::tmpfs(&scratch, "size=1m");
    let (path, filler) = (disk.0.join("file"), disk.0.join("filler"));
    scratch.adapter.write_atomic(&path, b"0123456789".repeat(10_000)).unwrap();
    assert_eq!(fs::write(&filler, vec![b'x'; 2_000_000]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let small = b"9876543210".repeat(5_000);
    for (verb, write) in &WRITING[..2] {
        assert_fails(write(&scratch.adapter, &path, &small), io::ErrorKind::StorageFull, Step::Write, &path, verb);
        assert_eq!(names(&disk.0), ["file", "filler"], "{verb}");
    }
    assert!(scratch.adapter.delete_with_lock(&path).unwrap());
    assert_eq!(names(&disk.0), ["filler"]);
    write_when_there_is_room(&scratch.adapter, &path, &small);
    assert_eq!(fs::read(&path).unwrap(), small);
    assert_eq!(names(&disk.0), ["file", "filler"]);
}

/// A process that another test is starting just now has a copy of every descriptor until its exec, and keeps the space
/// of a deleted file for so long.
fn write_when_there_is_room(adapter: &AtomicFileAdapter, path: &Path, contents: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = adapter.write_atomic(path, contents) {
        assert!(error.kind() == io::ErrorKind::StorageFull && Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
}

fn without_an_inode_the_old_version_stays() {
    let scratch = Scratch::new();
    // One for the file system's root, one for the file.
    let disk = Mount::tmpfs(&scratch, "nr_inodes=2");
    let path = disk.0.join("file");
    scratch.adapter.write_atomic(&path, "old").unwrap();
    for (verb, write) in WRITING {
        let result = write(&scratch.adapter, &path, b"new");
        assert_fails(result, io::ErrorKind::StorageFull, Step::CreateTemporary, &path, verb);
        let (below, at) = (disk.0.join("dir/file"), Step::CreateDirectory);
        assert_fails(write(&scratch.adapter, &below, b"new"), io::ErrorKind::StorageFull, at, &below, verb);
        assert_eq!(names(&disk.0), ["file"], "{verb}");
        assert_eq!(fs::read(&path).unwrap(), b"old", "{verb}");
    }
    assert!(scratch.adapter.delete_with_lock(&path).unwrap());
    write_when_there_is_room(&scratch.adapter, &path, b"new");
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

fn a_read_only_file_system_can_be_read() {
    let scratch = Scratch::new();
    let disk = Mount::tmpfs(&scratch, "size=1m");
    let (path, below) = (disk.0.join("file"), disk.0.join("missing/file"));
    fs::write(&path, "old").unwrap();
    let locks_there = || AtomicFileAdapter::with_lock_dir(disk.0.join("locks")).unwrap();
    locks_there().read_with_lock(&path).unwrap();
    run("mount", &["-o", "remount,ro", utf8(&disk.0)]);

    let read_only = io::ErrorKind::ReadOnlyFilesystem;
    for (verb, write) in WRITING {
        assert_fails(write(&scratch.adapter, &path, b"new"), read_only, Step::CreateTemporary, &path, verb);
        assert_fails(write(&scratch.adapter, &below, b"new"), read_only, Step::CreateDirectory, &below, verb);
    }
    assert_fails(scratch.adapter.delete_with_lock(&path).map(drop), read_only, Step::Remove, &path, "delete");
    assert!(!scratch.adapter.delete_with_lock(&below).unwrap());
    assert_eq!(names(&disk.0), ["file", "locks"]);
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), b"old");
    // A lock file that is on it is good enough for readers.
    assert_eq!(locks_there().read_with_lock(&path).unwrap().unwrap(), b"old");
}

/// As a container's `/etc/hosts` is.
fn a_mount_point_cannot_be_replaced() {
    let scratch = Scratch::new();
    let (path, other) = (scratch.make("file", 0, 0o644), scratch.make("other", 0, 0o644));
    fs::write(&other, "mounted").unwrap();
    let _mount = Mount::new(&path, &["--bind", utf8(&other)]);
    for (verb, write) in WRITING {
        let result = write(&scratch.adapter, &path, b"new");
        assert_fails(result, io::ErrorKind::ResourceBusy, Step::Rename, &path, verb);
        assert_eq!(names(&scratch.dir), ["file", "other"], "{verb}");
    }
    let deleted = scratch.adapter.delete_with_lock(&path).map(drop);
    assert_fails(deleted, io::ErrorKind::ResourceBusy, Step::Remove, &path, "delete");
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), b"mounted");
}

fn without_proc_locks_have_the_same_names() {
    let scratch = Scratch::new();
    let proc = scratch.make_dir("proc", 0, 0o755);
    let mut worker = Worker::start("name_locks_in_chroot", &[utf8(&scratch.dir)]);
    worker.expect("without /proc");
    let _mount = Mount::new(&proc, &["-t", "proc", "proc"]);
    worker.tell("look again");
    worker.expect("with /proc");
    worker.finish();
}

/// What `/proc/PID/root` links to, the root of a container for example, cannot be told from the text of that link.
fn the_root_of_another_process() {
    let scratch = Scratch::new();
    let mount = format!("mount -t tmpfs tmpfs {} && echo ready && read line", scratch.dir.display());
    let mut other = Worker::spawn(Command::new("unshare").args(["--mount", "sh", "-c", &mount]));
    other.expect("ready");
    let there = PathBuf::from(format!("/proc/{}/root{}", other.pid(), scratch.dir.display()));
    for name in ["file", "missing/file", "missing/deeper/file"] {
        scratch.adapter.write_atomic(there.join(name), name).unwrap();
        assert_eq!(names(&scratch.dir), [""; 0], "{name} was written to this process's root");
        assert_eq!(fs::read_to_string(there.join(name)).unwrap(), name);
        assert_eq!(scratch.adapter.read_to_string_with_lock(there.join(name)).unwrap().unwrap(), name);
    }
    other.tell("done");
    other.finish();
}

fn name_locks_in_chroot(args: &[String]) {
    nix::unistd::chroot(args[0].as_str()).unwrap();
    fs::create_dir_all("/dir/sub").unwrap();
    fs::write("/dir/sub/file", "old").unwrap();
    for (target, link) in [
        ("dir/sub", "/relative"),
        ("/relative/..", "/absolute"),
        ("/missing", "/dangling"),
        ("../absolute/sub/file", "/dir/link"),
    ] {
        symlink(target, link).unwrap();
    }
    std::env::set_current_dir("/dir").unwrap();
    let adapter = AtomicFileAdapter::with_lock_dir("/locks").unwrap();
    let files = [
        ("/dir/sub/file", ["sub/../../relative/file", "/dir/link", "//relative/./file", "../../dir/sub/file"]),
        ("/dir/file", ["file", "/relative/../file", "/absolute/file", "./file"]),
        ("/file", ["../file", "/../file", "/absolute/../file", "sub/../../file"]),
        ("/missing/file", ["/dangling/file", "../missing/file", "/dir/../dangling/./file", "/missing//file"]),
        ("/dir/a/b/file", ["/relative/../a/b/file", "a/./b/file", "/absolute/a//b/file", "../dir/a/b/file"]),
    ];
    let look = || {
        files.map(|(file, spellings)| {
            let handle = adapter.file(file).unwrap();
            assert_eq!(handle.path(), Path::new(file));
            for spelling in spellings {
                assert_eq!(adapter.lock_path(spelling).unwrap(), handle.lock_path(), "{spelling} for {file}");
            }
            handle.lock_path().to_owned()
        })
    };
    assert!(!Path::new("/proc/self").exists());
    let without = look();
    for spelling in files[0].1 {
        adapter.write_atomic(spelling, spelling).unwrap();
        assert_eq!(fs::read_to_string("/dir/sub/file").unwrap(), spelling);
    }
    tell("without /proc");
    assert_eq!(hear(), "look again");
    assert!(Path::new("/proc/self").exists());
    assert_eq!(look(), without);
    tell("with /proc");
}

// Limits.

fn beyond_the_file_size_limit() {
    let scratch = Scratch::new();
    Worker::start("exceed_size_limit", &[scratch.locks(), utf8(&scratch.dir)]).finish();
}

fn exceed_size_limit(args: &[String]) {
    let [locks, dir] = args else { panic!("{args:?}") };
    const LIMIT: usize = 64 * 1024;
    // SAFETY: both calls are given valid values and no handler.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limit = libc::rlimit { rlim_cur: LIMIT as libc::rlim_t, rlim_max: LIMIT as libc::rlim_t };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let adapter = AtomicFileAdapter::with_lock_dir(locks).unwrap();
    let path = Path::new(dir).join("file");
    let old = vec![b'o'; LIMIT];
    adapter.write_atomic(&path, &old).unwrap();
    for (verb, write) in WRITING {
        let kind = if verb == "writer" { io::ErrorKind::Other } else { io::ErrorKind::FileTooLarge };
        assert_fails(write(&adapter, &path, &vec![b'n'; LIMIT + 1]), kind, Step::Write, &path, verb);
        assert_eq!(names(Path::new(dir)), ["file"], "{verb}");
        assert_eq!(fs::read(&path).unwrap(), old, "{verb}");
    }
}

fn a_file_with_a_lease_can_be_read() {
    let scratch = Scratch::new();
    let path = scratch.dir.join("leased");
    scratch.adapter.write_atomic(&path, "contents").unwrap();
    let mut holder = Worker::start("lease", &[path.to_str().unwrap()]);
    holder.expect("leased");
    // The holder gives the lease up when the kernel tells it to.
    assert_eq!(scratch.adapter.read_with_lock(&path).unwrap().unwrap(), b"contents");
    holder.expect("asked for it");
    holder.finish();
}

#[cfg(target_os = "linux")]
fn lease(args: &[String]) {
    use std::os::fd::AsRawFd;
    let mut told = nix::sys::signal::SigSet::empty();
    told.add(nix::sys::signal::Signal::SIGIO);
    told.thread_block().unwrap();
    let file = fs::File::open(&args[0]).unwrap();
    let set = |what: libc::c_int| {
        // SAFETY: takes a descriptor that is open and a number.
        while unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, what) } != 0 {
            // A process that another test is starting may have a copy of the writer's descriptor until its exec.
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
            std::thread::yield_now();
        }
    };
    // A read lease would not mind a reader.
    set(libc::F_WRLCK);
    tell("leased");
    told.wait().unwrap();
    set(libc::F_UNLCK);
    tell("asked for it");
}
