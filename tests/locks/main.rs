//! The lock layer. Deadlocks are reported, deadlines are kept, and turns are taken. A fork or a removed lock file does
//! no harm.

#[path = "../common/mod.rs"]
mod common;

mod commands;
mod deadlines;
mod deadlocks;
mod descriptors;
mod forks;
#[cfg(target_os = "linux")]
mod inode_numbers;
mod lock_files;
mod on_wait;
#[cfg(all(target_os = "linux", feature = "fault-injection"))]
mod remembered_names;
mod talk;
#[cfg(target_os = "linux")]
mod tracing;
mod turns;
mod waits;
mod watching;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Builder, Durability};
use libtest_mimic::Trial;

use crate::common::{Worker, end_after, is_thorough, say_what_is_left_out};

fn main() -> ExitCode {
    say_what_is_left_out("cases that wait for 20 or 30 seconds: deadlocks of two processes, and a false one");
    // They only wait, so all others run beside them.
    let patient = if is_thorough() { patient() } else { Vec::new() };
    let more_threads = patient.len();
    common::main_with(more_threads, patient.into_iter().chain(tests()).collect(), WORKERS)
}

/// Cases that wait until the crate believes a report of a deadlock, which it does after half a minute.
fn patient() -> Vec<Trial> {
    vec![
        test("of_two_processes_in_a_cycle_one_gets_an_error", deadlocks::of_two_processes_in_a_cycle_one_gets_an_error),
        test("a_cycle_through_the_queue_of_threads_is_found", deadlocks::a_cycle_through_the_queue_is_found),
        test_on_linux("a_false_deadlock_is_not_reported", || deadlocks::a_false_deadlock_is_not_reported(20)),
    ]
}

fn tests() -> Vec<Trial> {
    vec![
        // The longest, and it waits.
        #[cfg(target_os = "linux")]
        test_unless(
            common::no_fuse(),
            "every_call_ends_where_inode_numbers_change_at_each_look",
            inode_numbers::every_call_ends_where_inode_numbers_change,
        ),
        test("asking_again_for_a_held_lock_is_a_deadlock", deadlocks::asking_again_for_a_held_lock_is_a_deadlock),
        test_on_linux(
            "a_shared_lock_is_shared_with_its_own_thread",
            deadlocks::a_shared_lock_is_shared_with_its_own_thread,
        ),
        test(
            "a_verb_inside_an_update_of_the_same_file_is_a_deadlock",
            deadlocks::a_verb_inside_an_update_is_a_deadlock,
        ),
        test("a_deadlock_names_every_lock_of_the_thread", deadlocks::a_deadlock_names_every_lock_of_the_thread),
        test("of_two_threads_in_a_cycle_one_gets_an_error", deadlocks::of_two_threads_in_a_cycle_one_gets_an_error),
        test("of_three_threads_in_a_ring_one_gets_an_error", deadlocks::of_three_threads_in_a_ring_one_gets_an_error),
        test_on_linux("a_false_deadlock_is_not_reported_soon", || deadlocks::a_false_deadlock_is_not_reported(3)),
        test("a_deadline_is_kept_while_a_thread_holds_the_lock", deadlines::a_deadline_is_kept_beside_a_thread),
        test("a_deadline_is_kept_while_a_process_holds_the_lock", deadlines::a_deadline_is_kept_beside_a_process),
        test("the_builders_deadline_holds_for_every_verb", deadlines::the_builders_deadline_holds_for_every_verb),
        test("a_lock_freed_early_is_taken", deadlines::a_lock_freed_early_is_taken),
        test("a_deadline_beyond_the_clock_is_none", deadlines::a_deadline_beyond_the_clock_is_none),
        test("a_deadline_of_zero_tries_once", deadlines::a_deadline_of_zero_tries_once),
        test("waiting_burns_no_cpu", deadlines::waiting_burns_no_cpu),
        test("a_guard_is_inert_in_a_forked_child", || in_a_process("inert_guard")),
        test("a_half_written_version_survives_a_forked_child", || in_a_process("half_written")),
        test("a_forked_child_takes_locks_of_its_own", || in_a_process("own_locks")),
        test("a_forked_child_loses_no_lock_by_a_hard_link", || in_a_process("linked_lock_file")),
        test("a_grandchild_inherits_nothing_either", || in_a_process("grandchild")),
        #[cfg(feature = "fault-injection")]
        test_on_linux("a_fork_beside_a_first_call_makes_no_child_hang", || in_a_process("grandchild_of_a_first_call")),
        test_on_linux("a_forked_child_closes_the_lock_files_of_its_parent", || in_a_process("inherited_descriptors")),
        test("an_update_that_forks_changes_the_file_once", || in_a_process("update_that_forks")),
        test("forks_beside_busy_threads_do_not_hang", || in_a_process("fork_storm")),
        test_on_linux("a_command_inherits_no_lock_descriptor", commands::a_command_inherits_no_lock_descriptor),
        test("a_command_keeps_no_lock", commands::a_command_keeps_no_lock),
        test("a_writer_elsewhere_gets_in_between_readers", || turns::a_writer_gets_in("forever", Duration::ZERO)),
        test("a_writer_elsewhere_with_a_deadline_gets_in", || turns::a_writer_gets_in("deadline", Duration::ZERO)),
        test("a_writer_elsewhere_gets_in_between_slow_readers", || turns::a_writer_gets_in("forever", turns::SLOWLY)),
        test(
            "a_writer_that_comes_back_at_once_lets_another_process_in",
            turns::a_writer_that_comes_back_lets_others_in,
        ),
        test("two_processes_of_four_writers_share_a_lock", turns::two_processes_of_four_writers_share_a_lock),
        test_on_linux("a_reader_does_not_overtake_a_writer_that_waits", turns::a_reader_does_not_overtake_a_writer),
        test_on_linux(
            "a_reader_need_not_wait_until_others_have_woken_up",
            turns::a_reader_need_not_wait_until_others_have_woken_up,
        ),
        test("a_reader_may_join_a_reader_that_waits_for_it", turns::a_reader_may_join_a_reader_that_waits_for_it),
        test("a_reader_whom_nobody_is_in_the_way_of_is_never_refused", turns::a_reader_is_never_refused_beside_readers),
        test("hundreds_of_waiting_threads_all_get_their_turn", turns::hundreds_of_threads_get_their_turn),
        test("ten_thousand_paths_need_few_descriptors", || in_a_process("ten_thousand_paths")),
        test("a_wait_with_a_deadline_is_in_the_kernels_queue", waits::a_wait_with_a_deadline_is_in_the_kernels_queue),
        test_on_linux("what_nobody_wants_any_more_is_let_go_at_once", || in_a_process("nobody_wants_it")),
        test("a_try_gets_a_lock_that_others_gave_up", waits::a_try_gets_a_lock_that_others_gave_up),
        test(
            "a_timeout_of_zero_gets_a_lock_that_others_gave_up",
            waits::a_timeout_of_zero_gets_a_lock_that_others_gave_up,
        ),
        test_on_linux(
            "a_reader_does_not_wait_for_the_deputy_of_a_writer",
            waits::a_reader_does_not_wait_for_the_deputy_of_a_writer,
        ),
        #[cfg(target_os = "linux")]
        test("a_late_deputy_does_not_bring_a_released_lock", waits::a_late_deputy_does_not_bring_a_released_lock),
        test_on_linux(
            "nobody_is_inside_beside_a_writer_that_had_given_up_before",
            waits::nobody_is_inside_beside_a_writer_that_had_given_up_before,
        ),
        test_on_linux("a_hundred_waits_take_few_threads", || in_a_process("hundred_waits")),
        test_on_linux("who_gives_up_often_leaves_few_threads_behind", || in_a_process("few_deputies")),
        #[cfg(all(target_os = "linux", feature = "fault-injection"))]
        test("a_deputy_beside_a_failed_unlock_costs_no_lock", waits::a_deputy_beside_a_failed_unlock_costs_no_lock),
        test("a_fork_beside_a_deputy_costs_nobody_a_lock", || in_a_process("fork_beside_a_deputy")),
        test("how_late_a_wait_ends", waits::how_late_a_wait_ends),
        test("every_verb_that_waits_says_so_once", on_wait::every_verb_that_waits_says_so_once),
        test("a_wait_for_a_thread_names_this_process", on_wait::a_wait_for_a_thread_names_this_process),
        test(
            "a_call_that_waits_for_several_files_says_so_once_for_each",
            on_wait::a_call_that_waits_for_several_files_says_so_once_for_each,
        ),
        test("a_call_that_does_not_wait_is_not_reported", on_wait::a_call_that_does_not_wait_is_not_reported),
        test(
            "the_builder_sets_the_wait_after_which_the_callback_is_called",
            on_wait::the_builder_sets_the_wait_after_which_the_callback_is_called,
        ),
        test("a_panic_of_the_callback_ends_the_call", on_wait::a_panic_of_the_callback_ends_the_call),
        test("a_callback_may_use_other_files", on_wait::a_callback_may_use_other_files),
        test("during_the_callback_others_have_the_lock", on_wait::during_the_callback_others_have_the_lock),
        test(
            "a_cycle_through_a_lock_of_the_callback_is_reported",
            on_wait::a_cycle_through_a_lock_of_the_callback_is_reported,
        ),
        test("who_is_told_may_fork", || in_a_process("on_wait_forks")),
        test("who_is_told_may_fork_and_move_the_file", || in_a_process("on_wait_forks_and_links")),
        test("who_is_told_for_too_long_ends_no_lock", on_wait::a_callback_that_takes_too_long),
        test(
            "of_two_threads_with_callbacks_in_a_cycle_one_gets_an_error",
            on_wait::of_two_threads_with_callbacks_in_a_cycle_one_gets_an_error,
        ),
        test("what_is_told_is_send_sync_and_unwind_safe", on_wait::what_is_told_is_send_sync_and_unwind_safe),
        test_on_linux("waiters_are_listed", lock_files::waiters_are_listed),
        test("a_removed_lock_file_is_noticed_by_processes", lock_files::a_removed_lock_file_is_noticed_by_processes),
        test("a_removed_lock_file_is_noticed_by_threads", lock_files::a_removed_lock_file_is_noticed_by_threads),
        test(
            "a_lock_file_that_changes_while_it_is_opened_costs_no_lock",
            lock_files::a_lock_file_that_changes_costs_no_lock,
        ),
        #[cfg(feature = "fault-injection")]
        test(
            "a_slow_file_system_keeps_only_its_own_waiting",
            lock_files::a_slow_file_system_keeps_only_its_own_waiting,
        ),
        test("a_read_without_the_lock_waits_for_nobody", lock_files::a_read_without_the_lock_waits_for_nobody),
        test("a_hard_link_to_a_lock_file_costs_no_lock", lock_files::a_hard_link_to_a_lock_file_costs_no_lock),
        test("no_increment_is_lost_while_lock_files_are_removed", lock_files::no_increment_is_lost_while_lock_files_go),
        #[cfg(all(target_os = "linux", feature = "fault-injection"))]
        test_unless(
            common::no_fuse(),
            "what_a_file_system_in_fuse_lets_the_kernel_remember_no_call_makes_new",
            remembered_names::no_call_refreshes_the_names_that_fuse_caches,
        ),
    ]
}

const WORKERS: &[(&str, common::Work)] = &[
    ("talk", talk::talk),
    ("inert_guard", forks::inert_guard),
    ("half_written", forks::half_written),
    ("own_locks", forks::own_locks),
    ("linked_lock_file", forks::linked_lock_file),
    ("grandchild", forks::grandchild),
    #[cfg(feature = "fault-injection")]
    ("grandchild_of_a_first_call", forks::grandchild_of_a_first_call),
    ("inherited_descriptors", forks::inherited_descriptors),
    ("update_that_forks", forks::update_that_forks),
    ("fork_storm", forks::fork_storm),
    ("write_often", turns::write_often),
    ("share", turns::share),
    ("ten_thousand_paths", descriptors::ten_thousand_paths),
    ("nobody_wants_it", waits::nobody_wants_it),
    ("come_and_go", waits::come_and_go),
    ("give_up_often", waits::give_up_often),
    ("hundred_waits", waits::hundred_waits),
    ("fork_beside_a_deputy", waits::fork_beside_a_deputy),
    ("few_deputies", waits::few_deputies),
    ("on_wait_forks", on_wait::on_wait_forks),
    ("on_wait_forks_and_links", on_wait::on_wait_forks_and_links),
    ("increment", lock_files::increment),
    #[cfg(target_os = "linux")]
    ("call_where_inode_numbers_change", inode_numbers::call_where_inode_numbers_change),
    #[cfg(all(target_os = "linux", feature = "fault-injection"))]
    ("read_behind_the_kernels_back", remembered_names::read_behind_the_kernels_back),
];

const WATCHDOG: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

/// A test that ends the program with the test's name if it hangs.
fn test(name: &'static str, body: fn()) -> Trial {
    Trial::test(name, move || {
        let done = end_after(WATCHDOG, format!("{name} hangs"));
        body();
        drop(done);
        Ok(())
    })
}

/// A test that needs something which only Linux shows.
fn test_on_linux(name: &'static str, body: fn()) -> Trial {
    test_unless(common::not_linux(), name, body)
}

/// A test that needs something which may be missing.
fn test_unless(missing: Option<&'static str>, name: &'static str, body: fn()) -> Trial {
    if missing.is_none() { test(name, body) } else { common::test_if(missing, name, body) }
}

/// Runs a case that forks, in a process with one thread.
fn in_a_process(case: &str) {
    Scratch::new().worker(case, &[]).finish();
}

struct Scratch {
    dir: tempfile::TempDir,
    adapter: AtomicFileAdapter,
}

impl Scratch {
    /// In memory if possible, because these tests are not about disks.
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let adapter = adapter(dir.path());
        Scratch { dir, adapter }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str) -> AtomicFile {
        self.adapter.file(self.path(name)).unwrap()
    }

    fn worker(&self, name: &str, args: &[&str]) -> Worker {
        start(self.dir.path(), name, args)
    }
}

fn start(dir: &Path, name: &str, args: &[&str]) -> Worker {
    Worker::start(name, &[&[dir.to_str().unwrap()], args].concat())
}

fn settings(dir: &Path) -> Builder {
    AtomicFileAdapter::builder().lock_dir(dir.join("locks")).durability(Durability::None)
}

fn adapter(dir: &Path) -> AtomicFileAdapter {
    settings(dir).build().unwrap()
}

/// Sets a flag when dropped, so that the threads that watch the flag end if a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn next(old: Option<&[u8]>) -> Vec<u8> {
    let old: u64 = old.map_or(0, |old| std::str::from_utf8(old).unwrap().parse().unwrap());
    (old + 1).to_string().into()
}
