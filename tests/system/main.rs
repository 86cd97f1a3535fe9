//! Modes and owners, permissions, full and read-only disks, limits: the results depend on the system.

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod directory_syncs;
mod disks;
mod limits;
mod lock_files;
mod lock_roots;
mod modes;
mod overlays;
mod permissions;
mod roots;
mod users;

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atomic_file_adapter::{AtomicFileAdapter, Error, Result, Step};
use tempfile::TempDir;

use crate::common::{Work, no_mounts, no_root, not_linux, test, test_if};

const WORKERS: &[(&str, Work)] = &[
    ("call", users::call),
    ("keep_modes", modes::keep_modes),
    ("make_like_std", modes::make_like_std),
    ("make_exact", modes::make_exact),
    ("set_exactly", modes::set_exactly),
    ("follow_the_directory", lock_files::follow_the_directory),
    ("have_the_builders_mode", lock_files::have_the_builders_mode),
    ("hide_temporary_of_old", |args| modes::hide_temporary(args, true)),
    ("hide_temporary_of_new", |args| modes::hide_temporary(args, false)),
    ("exceed_size_limit", limits::exceed_size_limit),
    ("name_locks_in_chroot", roots::name_locks_in_chroot),
    ("hold_below", lock_roots::hold_below),
    ("count_below", lock_roots::count_below),
    ("wait_on_disk", disks::wait_on_disk),
    ("hold_on_overlay", overlays::hold_on_overlay),
    ("count_on_overlay", overlays::count_on_overlay),
    ("read_on_overlay", overlays::read_on_overlay),
    #[cfg(target_os = "linux")]
    ("write_without_syncs_of_directories", directory_syncs::write_without_syncs_of_directories),
    #[cfg(target_os = "linux")]
    ("lease", limits::lease),
];

fn main() -> ExitCode {
    common::main(
        vec![
            test("a_replaced_file_keeps_its_mode_whatever_the_umask", || modes::with_each_umask("keep_modes")),
            test("a_new_file_has_the_mode_that_std_gives_it", || modes::with_each_umask("make_like_std")),
            test("a_mode_that_is_set_is_exact_and_stays", || modes::with_each_umask("set_exactly")),
            test("the_builders_mode_is_exact_whatever_the_umask", || modes::with_each_umask("make_exact")),
            test("lock_files_follow_a_shared_lock_directory", || modes::with_each_umask("follow_the_directory")),
            test("the_builders_mode_of_lock_files_is_exact_whatever_the_umask", || {
                modes::with_each_umask("have_the_builders_mode")
            }),
            test_if(
                no_users(),
                "two_users_of_a_group_share_a_lock_directory",
                lock_files::two_users_of_a_group_share_a_directory,
            ),
            test_if(
                no_users(),
                "where_a_lock_directory_is_shared_root_locks_nobody_out",
                lock_files::a_write_of_roots_locks_nobody_out,
            ),
            test_if(
                no_users(),
                "in_a_private_lock_directory_whoever_comes_first_owns_the_lock_file",
                lock_files::in_a_private_directory_nothing_has_changed,
            ),
            test_if(
                no_users(),
                "a_default_access_control_list_of_the_lock_directory_counts",
                lock_files::a_default_list_of_the_directory_counts,
            ),
            test_if(
                no_users(),
                "a_lock_file_lets_no_group_in_that_its_directory_is_not_for",
                lock_files::another_group_than_the_directorys_gets_nothing,
            ),
            test("while_a_file_is_replaced_nobody_gets_in_who_may_not_see_it", || {
                modes::with_each_umask("hide_temporary_of_old")
            }),
            test("while_a_file_is_made_nobody_gets_in_who_may_not_see_it", || {
                modes::with_each_umask("hide_temporary_of_new")
            }),
            test_if(
                no_users(),
                "root_keeps_owner_group_and_setuid_bits",
                modes::root_keeps_owner_group_and_setuid_bits,
            ),
            test_if(no_users(), "while_a_file_is_replaced_its_group_is_not_mistaken", modes::group_of_a_temporary_file),
            test_if(
                no_users(),
                "setuid_is_not_taken_from_another_owner",
                modes::setuid_is_not_taken_from_another_owner,
            ),
            test_if(no_users(), "a_group_is_kept_by_its_members", modes::a_group_is_kept_by_its_members),
            test_if(
                no_users(),
                "without_write_permission_nothing_happens",
                permissions::without_write_permission_nothing_happens,
            ),
            test_if(
                no_users(),
                "what_may_not_be_seen_is_not_missing",
                permissions::what_may_not_be_seen_is_not_missing,
            ),
            test_if(
                no_users(),
                "a_directory_that_cannot_be_synced_is_known_before_the_rename",
                permissions::an_unreadable_directory,
            ),
            test_if(
                no_users(),
                "a_read_only_lock_file_serves_readers",
                permissions::a_read_only_lock_file_serves_readers,
            ),
            test_if(
                no_users(),
                "in_a_sticky_directory_links_of_others_are_refused",
                permissions::links_in_sticky_directories,
            ),
            test_if(
                no_users(),
                "a_link_in_a_sticky_directory_is_refused_where_a_file_was_used_lately",
                permissions::a_link_where_a_file_was_used_lately,
            ),
            test_if(no_users(), "in_a_sticky_directory_files_of_others_stay", permissions::files_in_sticky_directories),
            test_if(no_mounts(), "on_a_full_disk_the_old_version_stays", disks::on_a_full_disk_the_old_version_stays),
            test_if(no_mounts(), "on_a_full_disk_deleting_makes_room", disks::on_a_full_disk_deleting_makes_room),
            test_if(
                no_mounts(),
                "without_an_inode_the_old_version_stays",
                disks::without_an_inode_the_old_version_stays,
            ),
            test_if(no_mounts(), "a_read_only_file_system_can_be_read", disks::a_read_only_file_system_can_be_read),
            test_if(
                no_mounts().or(common::no_program("btrfs", &["--version"], "needs btrfs-progs")),
                "on_a_subvolume_of_btrfs_waiters_are_listed",
                disks::on_a_subvolume_of_btrfs_waiters_are_listed,
            ),
            test_if(no_mounts(), "a_mount_point_cannot_be_replaced", disks::a_mount_point_cannot_be_replaced),
            test_if(no_mounts(), "a_mount_point_of_another_path_is_busy", disks::a_mount_point_of_another_path_is_busy),
            #[cfg(target_os = "linux")]
            test_if(
                common::no_fuse(),
                "where_there_is_no_sync_of_directories_a_write_is_done",
                directory_syncs::where_there_is_no_sync_of_directories_a_write_is_done,
            ),
            test_if(
                no_mounts(),
                "without_proc_locks_have_the_same_names",
                roots::without_proc_locks_have_the_same_names,
            ),
            test_if(
                no_mounts(),
                "the_root_of_another_process_is_not_mistaken_for_ours",
                roots::the_root_of_another_process,
            ),
            test_if(
                no_mounts(),
                "two_paths_of_one_file_exclude_each_other",
                lock_roots::two_paths_of_one_file_exclude_each_other,
            ),
            test_if(no_mounts(), "no_update_by_two_paths_is_lost", lock_roots::no_update_by_two_paths_is_lost),
            test_if(
                no_mounts(),
                "with_and_without_a_root_do_not_exclude_each_other",
                lock_roots::with_and_without_a_root_do_not_exclude_each_other,
            ),
            test_if(
                no_mounts(),
                "upkeep_by_one_path_does_not_disturb_users_of_the_other",
                lock_roots::upkeep_by_one_path_does_not_disturb_users_of_the_other,
            ),
            test_if(
                no_mounts(),
                "a_thread_that_uses_both_paths_gets_a_deadlock_error",
                lock_roots::a_thread_that_uses_both_paths_gets_a_deadlock_error,
            ),
            test_if(
                common::no_overlay(),
                "a_lock_holds_through_the_copy_up_of_its_file",
                overlays::a_lock_holds_through_the_copy_up_of_its_file,
            ),
            test_if(common::no_overlay(), "no_update_is_lost_on_an_overlay", overlays::no_update_is_lost_on_an_overlay),
            test_if(
                common::no_overlay(),
                "a_file_of_the_image_is_replaced_removed_and_made_again",
                overlays::a_file_of_the_image_is_replaced_removed_and_made_again,
            ),
            test_if(
                common::no_overlay(),
                "what_is_left_in_the_image_is_swept_and_pruned",
                overlays::what_is_left_in_the_image_is_swept_and_pruned,
            ),
            test_if(
                common::no_overlay(),
                "a_lock_file_is_known_by_its_inode_on_an_overlay",
                overlays::a_lock_file_is_known_by_its_inode_on_an_overlay,
            ),
            test_if(
                common::no_overlay(),
                "a_file_is_never_missing_on_an_overlay",
                overlays::a_file_is_never_missing_on_an_overlay,
            ),
            test_if(
                common::no_overlay(),
                "two_overlays_of_one_image_have_locks_of_their_own",
                overlays::two_overlays_of_one_image_have_locks_of_their_own,
            ),
            test_if(not_linux(), "a_file_with_a_lease_on_it_can_be_read", limits::a_file_with_a_lease_can_be_read),
            test("beyond_the_file_size_limit_the_old_version_stays", limits::beyond_the_file_size_limit),
        ],
        WORKERS,
    )
}

/// The reason why a test with several users cannot run.
fn no_users() -> Option<&'static str> {
    not_linux().or_else(no_root)
}

/// A directory that every user may read, with a lock directory that every user may use.
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

    /// A file with the contents "old".
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
        // The caller ignores this error, and must get one from `commit`.
        let _ = writer.write_all(new);
        writer.commit()
    }),
];

/// Fails unless `result` is an error of this kind, at this step, that names the file.
#[track_caller]
fn assert_fails(result: Result<()>, expected: io::ErrorKind, at: Step, path: &Path, what: &str) {
    let error = result.expect_err(what);
    let Error::Io { step, .. } = &error else { panic!("{what}: {error:?}") };
    assert_eq!((error.kind(), *step, error.path()), (expected, at, path), "{what}: {error}");
    assert!(error.to_string().contains(utf8(path)), "{what}: {error}");
}
