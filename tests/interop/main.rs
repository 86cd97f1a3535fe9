//! Other programs: Python's record locks and its xxh3, and git.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "fault-injection")]
mod bank;
#[cfg(feature = "fault-injection")]
mod deaths;
mod git;
mod lock_names;
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code, reason = "the others use the rest"))]
mod python;
mod readme;
mod record_locks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter};
use tempfile::TempDir;

use crate::common::{no_program, say_what_is_left_out, test_if};

/// The command line tool, if it was built.
const TOOL: Option<&str> = option_env!("CARGO_BIN_EXE_atomic-file");

fn main() -> ExitCode {
    let workers: &[(&str, common::Work)] = &[
        ("count", python::count),
        #[cfg(feature = "fault-injection")]
        ("die", deaths::die),
        #[cfg(feature = "fault-injection")]
        ("teller", bank::teller),
    ];
    if common::is_worker() {
        // A worker need not know what this machine has.
        return common::main(Vec::new(), workers);
    }
    say_what_is_left_out("deaths of who finishes a change, at two thirds of the calls");
    let xxhash = no_program("python3", &["-c", "import xxhash"], "needs python3 with xxhash");
    let python = no_program("python3", &["--version"], "needs python3");
    let reader = xxhash.or(TOOL.is_none().then_some("needs the feature cli"));
    let git = no_program("git", &["--version"], "needs git");
    #[cfg_attr(not(feature = "fault-injection"), expect(unused_mut, reason = "more are added"))]
    let mut tests = vec![
        test_if(xxhash, "python_finds_what_the_vectors_say", python::it_finds_what_the_vectors_say),
        test_if(xxhash, "python_and_we_count_together", python::they_count_together),
        test_if(xxhash, "lock_names_are_those_of_another_xxh3", lock_names::lock_names_are_those_of_another_xxh3),
        test_if(
            xxhash,
            "temporary_names_are_those_of_another_xxh3",
            lock_names::temporary_names_are_those_of_another_xxh3,
        ),
        test_if(
            xxhash,
            "python_finds_the_lock_of_any_spelling_by_realpath",
            lock_names::python_finds_the_lock_of_any_spelling_by_realpath,
        ),
        test_if(
            xxhash,
            "lock_names_below_a_root_are_those_of_another_xxh3",
            lock_names::lock_names_below_a_root_are_those_of_another_xxh3,
        ),
        test_if(python, "pythons_exclusive_lock_keeps_us_out", record_locks::pythons_exclusive_lock_keeps_us_out),
        test_if(
            python,
            "a_write_waits_for_python_and_goes_on_when_it_is_done",
            record_locks::a_write_waits_for_python_and_goes_on_when_it_is_done,
        ),
        test_if(
            python,
            "pythons_shared_lock_lets_our_readers_in_only",
            record_locks::pythons_shared_lock_lets_our_readers_in_only,
        ),
        test_if(python, "our_write_guard_keeps_python_out", record_locks::our_write_guard_keeps_python_out),
        test_if(
            python,
            "our_read_guard_lets_pythons_readers_in_only",
            record_locks::our_read_guard_lets_pythons_readers_in_only,
        ),
        test_if(python, "a_killed_python_leaves_no_lock_behind", record_locks::a_killed_python_leaves_no_lock_behind),
        test_if(
            python,
            "no_update_is_lost_between_python_and_us",
            record_locks::no_update_is_lost_between_python_and_us,
        ),
        test_if(
            reader,
            "the_readmes_reader_reads_what_the_command_writes",
            readme::the_readmes_reader_reads_what_the_command_writes,
        ),
        test_if(reader, "the_readmes_reader_waits_for_the_command", readme::the_readmes_reader_waits_for_the_command),
        test_if(
            reader,
            "the_readmes_reader_keeps_the_commands_writers_out",
            readme::the_readmes_reader_keeps_the_commands_writers_out,
        ),
        test_if(
            reader,
            "the_readmes_reader_notices_that_its_lock_file_was_removed",
            readme::the_readmes_reader_notices_that_its_lock_file_was_removed,
        ),
        test_if(
            reader,
            "the_readmes_reader_has_the_commands_locks_below_a_root",
            readme::the_readmes_reader_has_the_commands_locks_below_a_root,
        ),
        test_if(git, "git_sees_the_users_file_only", git::git_sees_the_users_file_only),
        test_if(git, "a_gitignore_of_the_users_own_stays_as_it_is", git::a_gitignore_of_the_users_own_stays_as_it_is),
        test_if(git, "nothing_of_somebody_elses_is_hidden_from_git", git::nothing_of_somebody_elses_is_hidden_from_git),
    ];
    #[cfg(feature = "fault-injection")]
    tests.extend([
        test_if(xxhash, "python_dies_at_each_step_and_we_finish", deaths::python_dies_at_each_step_and_we_finish),
        test_if(xxhash, "we_die_at_each_step_and_python_finishes", deaths::we_die_at_each_step_and_python_finishes),
        test_if(xxhash, "python_dies_then_we_and_python_finishes", deaths::python_dies_then_we_and_python_finishes),
        test_if(xxhash, "we_die_then_python_and_we_finish", deaths::we_die_then_python_and_we_finish),
        test_if(xxhash, "a_bank_of_python_and_us_survives_kills", bank::it_survives_kills),
        test_if(xxhash, "a_durable_bank_of_python_and_us_survives_kills", bank::it_survives_kills_durably),
    ]);
    common::main(tests, workers)
}

/// An empty directory, with an adapter whose lock files are in `.jerry/local/locks` there.
struct Scratch {
    _dir: TempDir,
    path: PathBuf,
    adapter: AtomicFileAdapter,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let adapter = AtomicFileAdapter::with_lock_dir(path.join(AtomicFileAdapter::DEFAULT_LOCK_DIR)).unwrap();
        Scratch { _dir: dir, path, adapter }
    }

    fn lock_dir(&self) -> &Path {
        self.adapter.lock_dir()
    }

    /// A file in it.
    fn file(&self) -> AtomicFile {
        self.adapter.file(self.path.join("file")).unwrap()
    }
}
