//! The command's arguments, and the text of its help and its manual page.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{StyledStr, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Locked reads and durable atomic writes of files that several processes share.
///
/// Readers always get one complete version of a file, and no writer loses the update of another. When a write has
/// returned, the new version survives a power cut. If the power goes before that, the file is the old or the new
/// version, complete.
#[derive(Parser)]
#[command(name = "atomic-file", version, max_term_width = 100, after_long_help = long_help())]
pub struct Cli {
    /// Directory of the lock files [default: .jerry/local/locks]
    ///
    /// Programs exclude each other only if they use the same directory. The default is below the current directory, or
    /// below --lock-root. The directory is made if it is missing. You must trust everybody who can write to it or to a
    /// directory above it: they can take part in every lock, or lead it elsewhere with a link.
    #[arg(long, value_name = "DIR", global = true)]
    pub lock_dir: Option<PathBuf>,
    /// Name locks by paths below DIR, which may be at another path for other programs
    ///
    /// For example, a container and its host, or two machines that mount one export at different paths. Each program
    /// gives its own path of the directory, and the locks of the files in it are the same. All programs must do so,
    /// because without a lock root a file has another lock. A path that leads out of DIR is refused.
    #[arg(long, value_name = "DIR", global = true)]
    pub lock_root: Option<PathBuf>,
    /// The exact mode of new lock files, in octal [default: as the directory says]
    ///
    /// If the lock directory is shared (its group or others may write to it, or it is setgid), lock files have its bits
    /// for reading and writing. Otherwise they have 0666 less the umask. A writer of a file must be able to read and
    /// write its lock file.
    #[arg(long, value_name = "MODE", global = true, value_parser = octal)]
    pub lock_mode: Option<u32>,
    /// Refuse a path with a symbolic link in it
    ///
    /// For root, for example, in directories that other users can write to. Links in --lock-dir are followed all the
    /// same.
    #[arg(long, global = true)]
    pub no_follow: bool,
    /// Give up after so many seconds of waiting for a lock; 0 tries once [default: wait for ever]
    #[arg(long, value_name = "SECONDS", global = true, value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// The exit status if the lock was not free in time
    ///
    /// Useful if CMD itself may end with 4.
    #[arg(short = 'E', long, value_name = "N", global = true, default_value_t = TIMED_OUT)]
    pub conflict_exit_code: u8,
    /// Say which process holds the lock, if it is not free within a second
    ///
    /// One line on standard error names the file and the process. On a terminal this is the default, and the line is
    /// erased when the wait is over. If the command waits for several files, the line names the first of them.
    #[arg(short = 'v', long, global = true)]
    pub verbose: bool,
    /// What a write promises for a power cut
    #[arg(long, value_name = "LEVEL", global = true, default_value = "full")]
    pub durability: Level,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Level {
    /// The new version is on the device when the command ends
    Full,
    /// The file is the old or the new version, complete
    Ordered,
    /// Nothing: the write is atomic for other processes only
    None,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Write the contents to standard output
    ///
    /// Appending a file to itself (read f >>f) would never end, so it is refused.
    Read {
        /// The file
        path: PathBuf,
        /// Exit with status 3 if there is no such file, instead of printing nothing with status 0
        #[arg(long)]
        must_exist: bool,
    },
    /// Replace the contents with standard input, or append it
    ///
    /// Up to 1 MiB of input is read before the lock is taken. The rest of a larger input is read under the lock. A
    /// signal that ends this program before the new contents are complete changes nothing, and leaves no temporary
    /// file.
    ///
    /// A closed standard input is refused. So is /dev/null if it is open for reading and writing, because that looks
    /// the same; </dev/null empties the file.
    Write {
        /// The file; missing directories above it are made
        path: PathBuf,
        /// Keep the old contents, and append standard input to them
        ///
        /// The whole file is still replaced, so a long file is copied each time.
        #[arg(short, long)]
        append: bool,
    },
    /// Pass the contents through a command
    ///
    /// CMD gets the old contents on standard input. Its standard output becomes the new file. All of this happens under
    /// one exclusive lock. If CMD fails, nothing changes and its status is passed on. The output ends when no process
    /// has it open any more, as in $(...) of a shell.
    ///
    /// Signals are handled as by run. After a SIGHUP, SIGINT, SIGQUIT or SIGTERM nothing changes, however CMD ends.
    /// Processes that CMD has left in the background are not waited for then.
    Update {
        /// The file; it need not exist
        path: PathBuf,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Remove the file; status 3 if there was none
    Delete {
        /// The file
        path: PathBuf,
    },
    /// Run a command while the locks of paths are held
    ///
    /// Meanwhile nobody else reads or writes with these locks (--shared: nobody else writes). CMD must not ask for them
    /// itself: atomic-file on the same file in CMD waits for the lock of its own parent, for ever without --timeout.
    /// Several locks are taken in the same order by all programs, so that no cycle of waits can form.
    ///
    /// This program does not end before CMD. SIGTERM and SIGHUP are passed on to CMD, and so are other signals that
    /// would end this program, such as SIGUSR1 and SIGALRM. SIGINT and SIGQUIT are not passed on: on Ctrl-C the
    /// terminal sends them to CMD itself. SIGPIPE, SIGXFSZ and real-time signals do nothing. Signals that were ignored
    /// at the start, by nohup for example, stay ignored. While this program is stopped it holds the lock. Ctrl-Z stops
    /// CMD, too.
    ///
    /// If this program is killed with SIGKILL, or by a signal of a fault (SIGILL, SIGBUS, SIGFPE, SIGSEGV, SIGSYS), the
    /// lock is free although CMD goes on.
    Run {
        /// The files; they need not exist
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Take shared locks instead of exclusive ones
        #[arg(long)]
        shared: bool,
        /// Hold the locks as long as any process lives that CMD has started (Linux)
        ///
        /// Record locks are not inherited, so this program waits for CMD, and then for all processes that CMD has left
        /// in the background, daemons included. The status is that of CMD. When CMD has ended, SIGTERM and SIGHUP are
        /// passed on to those processes, and Ctrl-C sends them SIGTERM. Processes that others start for CMD (systemd,
        /// cron, at, the daemon of a container) are not waited for.
        ///
        /// If this program is killed with SIGKILL, the locks are free, as without this option.
        #[arg(long)]
        inherit: bool,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Run a command on copies of files, and then replace all of them at once
    ///
    /// All the locks are held. CMD gets the paths of the copies as its last arguments, in the order of the files. Each
    /// copy has its file's name, in its own directory under TMPDIR or /tmp, which only this user may open. If CMD ends
    /// with 0, the copies replace all the files: either all or none, even if this program is killed or, with
    /// --durability full, the power goes (then the next program that takes one of the locks finishes the change). A
    /// reader that locks several files together, as with run --shared, sees all old or all new. If a copy was removed,
    /// its file is removed. A file that does not exist has no copy, and is made if CMD makes one. If nothing was
    /// changed, nothing is written.
    ///
    /// If CMD fails, nothing changes and its status is passed on. Signals are handled as by run. After a SIGHUP,
    /// SIGINT, SIGQUIT or SIGTERM nothing changes, however CMD ends. The copies are removed in any case, unless this
    /// program is killed with SIGKILL or by a signal of a fault. Then remove atomic-file.* under TMPDIR or /tmp
    /// yourself, when no edit runs. CMD must not ask for the same locks itself.
    Edit {
        /// The files; they need not exist
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// The command and its first arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Print the path of the lock file
    LockPath {
        /// The file, which need not exist
        path: PathBuf,
        #[command(flatten)]
        ends: Ends,
    },
    /// List the files that have locks, who holds them, and who waits for them
    ///
    /// Prints a table for people, or nothing if there are no lock files. Held locks come first. There is a row for the
    /// process that holds the lock, with its program and its user, and below it a row for each process that waits. If
    /// several processes share a lock, one of them is listed. A "-" means that the system does not tell.
    ///
    /// A file that does not exist, or was never locked, is free. A process that holds a lock for run, update or edit is
    /// listed as atomic-file with its CMD.
    ///
    /// If a lock file does not contain the path of its file, the lock file itself is listed. A file that is no lock
    /// file, or may not be opened, is "unknown". Standard error then has a line with the reason, and the status is 1.
    /// At the end there are the unfinished changes of several files, and their files.
    ///
    /// With PATHs, the status is 0 if one of them is held, and 3 if none is.
    ///
    /// Waiters, programs and users are known on Linux only. Processes of another PID namespace or on another machine
    /// are not listed.
    Locks {
        /// The files [default: all that have lock files]
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// A JSON array of objects, for programs
        ///
        /// The manual page and "atomic-file --help" describe it.
        #[arg(long)]
        json: bool,
    },
    /// Finish the changes of several files that killed processes have begun, and print their intents
    ///
    /// Every program that takes the lock of one of the files does this, too. If a change cannot be finished, the others
    /// are finished all the same. Standard error then has a line with the reason, and the status is 1. If the obstacle
    /// cannot be removed, give the change up.
    Recover {
        /// Finish as many files of this change as possible, forget the rest, and print the unfinished files
        ///
        /// The status is 1 then. The unfinished files are as they were, although others may be changed: look at them.
        #[arg(long, value_name = "INTENT")]
        give_up: Option<PathBuf>,
        #[command(flatten)]
        ends: Ends,
    },
    /// Remove the lock files that nobody holds, and print their paths
    ///
    /// If one cannot be removed, the others are removed all the same. Standard error then has a line with the reason,
    /// and the status is 1.
    Prune {
        #[command(flatten)]
        ends: Ends,
    },
    /// Remove the temporary files that killed writers have left, and print their paths
    ///
    /// The next write to the same file also removes those that are an hour old (in a directory of up to 1000 names).
    ///
    /// If PATH is a directory, the temporary files of all files in it are removed, otherwise those of that file. Files
    /// that a live writer uses stay. If one cannot be removed, the others are removed all the same. Standard error then
    /// has a line with the reason, and the status is 1.
    Sweep {
        /// A file or a directory
        path: PathBuf,
        #[command(flatten)]
        ends: Ends,
    },
    /// Print the completions for a shell
    ///
    /// In ~/.bashrc: eval "$(atomic-file completions bash)"
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    ///
    /// To read it: atomic-file man >atomic-file.1; man ./atomic-file.1
    Man,
}

/// What follows each path.
#[derive(Args)]
pub struct Ends {
    /// End each path with a zero byte instead of a newline
    ///
    /// Without it, and on a terminal only, control characters, backslashes, characters that change the direction of
    /// text, and bytes that are not UTF-8 are escaped as in Rust: \n, \\, \u{1b}, \xff.
    #[arg(short = '0', long)]
    pub null: bool,
}

pub const FAILED: u8 = 1;
pub const MISSING: u8 = 3;
pub const TIMED_OUT: u8 = 4;
pub const CANNOT_RUN: u8 = 126;
pub const NOT_FOUND: u8 = 127;

/// A section of the long help and of the manual page.
pub struct Section {
    pub title: &'static str,
    pub entries: &'static [(&'static str, &'static str)],
    /// The text below the entries.
    pub note: &'static str,
}

pub const SECTIONS: [Section; 5] = [
    Section {
        title: "Examples",
        entries: &[
            ("atomic-file read settings.toml", "Print one complete version, even while others write."),
            ("make-settings | atomic-file write settings.toml", "Replace it as a whole, or not at all."),
            (
                "atomic-file update settings.toml -- sed s/red/blue/",
                "Edit it under one lock; if sed fails, nothing changes.",
            ),
            ("atomic-file run settings.toml -- my-editor settings.toml", "Exclude all others while the editor runs."),
            (
                "atomic-file edit a.toml b.toml -- sed -i s/red/blue/",
                "Edit both as one; if sed fails or a process dies, neither is changed alone.",
            ),
            (
                "atomic-file --timeout 5 delete settings.toml",
                "Give up, with status 4, if the lock is not free in time.",
            ),
            ("atomic-file locks settings.toml", "Show who holds its lock, and who waits; status 3 if it is free."),
            ("atomic-file locks --json | jq '.[] | select(.held)'", "The locks that are held now."),
        ],
        note: "",
    },
    Section {
        title: "Exit status",
        entries: &[
            ("0", "Done."),
            ("1", "Failed; a line on standard error says why."),
            ("2", "Wrong usage; nothing was done."),
            ("3", "There is no such file (delete, read --must-exist), or its lock is free (locks PATH)."),
            ("4", "The lock was not free in time (--timeout); another status with -E."),
            ("126", "CMD of update, run or edit cannot be run."),
            ("127", "CMD of update, run or edit was not found."),
        ],
        note: "If CMD of update, run or edit fails, its status is passed on, or 128 + N if signal N ended it. After a signal N \
               that asked for an end, update and edit have the status 128 + N, too, even if CMD ended with 0. CMD's own status may \
               be 1, 2, 4, 126 or 127, too. The status is this program's if standard error ends with a line \"atomic-file: ...\" \
               (other than the line about a wait, of -v). For 2 the line is \"error: ...\". With CMD, 3 is always CMD's. -E sets a \
               status for a timeout that CMD does not use.",
    },
    Section {
        title: "Output of locks --json",
        entries: &[
            ("path", "String: the lock file."),
            ("file", "String or null: the file that it is for, below the lock root if there is one."),
            ("held", "Boolean or null: whether a process holds the lock."),
            ("exclusive", "Boolean or null: whether it is held exclusively."),
            ("pid", "Number or null: the process that holds it, one of them if it is shared."),
            ("program", "String or null: the name of its program, up to 15 bytes of it."),
            ("user", "String or null: its effective user, a login name, or a number without one."),
            ("waiters", "Array or null: the processes that wait, objects of pid, program, user."),
            ("intent", "String or null: the unfinished change of several files."),
            ("problem", "String or null: why it is not known whether the lock is held."),
        ],
        note: "The output is an array with an object for each lock file or, if paths were given, for each file. null means that there \
               is no value, or that the system does not tell. Later versions may add fields, and keep these. In a path, U+FFFD stands \
               for bytes that are not UTF-8. The last name in path and intent is always ASCII.",
    },
    Section {
        title: "Environment",
        entries: &[
            ("NO_COLOR", "If it is set, no colours; they are for terminals only anyway."),
            ("TERM", "If it is dumb, there is no progress bar, and the line about a wait is not erased."),
        ],
        note: "",
    },
    Section {
        title: "See also",
        entries: &[
            ("fcntl(2), fsync(2), rename(2)", "What it is made of."),
            ("flock(1)", "Another kind of lock, which excludes nobody here."),
            ("https://docs.rs/atomic-file-adapter", "The library, and the protocol for programs in other languages."),
        ],
        note: "",
    },
];

fn long_help() -> StyledStr {
    let styles = Styles::styled();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let section = |section: &Section| {
        let mut text = format!("{header}{}:{header:#}\n", section.title);
        let width = section.entries.iter().map(|(term, _)| term.len()).max().unwrap_or(0);
        for (term, what) in section.entries {
            // Beside each other if the entries fit into a terminal.
            match width < 10 {
                true => text += &format!("  {literal}{term:width$}{literal:#}  {what}\n"),
                false => text += &format!("  {literal}{term}{literal:#}\n          {what}\n"),
            }
        }
        if !section.note.is_empty() {
            text += &format!("  {}\n", section.note);
        }
        text
    };
    SECTIONS.iter().map(section).collect::<Vec<_>>().join("\n").trim_end().to_owned().into()
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).map_err(|_| "not an octal number")?;
    if mode <= 0o777 { Ok(mode) } else { Err("more than nine permission bits".into()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
