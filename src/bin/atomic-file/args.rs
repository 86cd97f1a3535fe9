//! What the command understands, and what its help and its man page say about it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{StyledStr, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Locked reads and durable atomic writes of files that several processes share.
///
/// Whoever reads gets one whole version of a file, and no writer loses another's update. When a write has returned, the new
/// version survives a power cut; until then, the old or the new one does, whole.
#[derive(Parser)]
#[command(name = "atomic-file", version, max_term_width = 100, after_long_help = long_help())]
pub struct Cli {
    /// Directory of the lock files [default: .jerry/local/locks]
    ///
    /// Only programs with the same one keep out of each other's way; the default is under the current directory, or
    /// under --lock-root. It is made if there is none. It must be trusted: who can write to it, or to a directory above
    /// it, can take part in every lock, or lead it elsewhere by a link.
    #[arg(long, value_name = "DIR", global = true)]
    pub lock_dir: Option<PathBuf>,
    /// Name locks by paths below DIR, which others have at another path
    ///
    /// A container and its host, for example, or two machines that mount one export in different places: each says
    /// where it has the directory, and the lock of a file in it is the same. All must do so, because a lock without a
    /// root is another one. A path that does not lead below it is refused.
    #[arg(long, value_name = "DIR", global = true)]
    pub lock_root: Option<PathBuf>,
    /// The exact mode of new lock files, in octal [default: as the directory says]
    ///
    /// In a lock directory that is shared (its group or others may write, or it is setgid) they have its bits for
    /// reading and writing, elsewhere 0666 less the umask. Who writes a file needs to read and write its lock file.
    #[arg(long, value_name = "MODE", global = true, value_parser = octal)]
    pub lock_mode: Option<u32>,
    /// Refuse a path with a symbolic link in it
    ///
    /// For root, for example, in directories that others can write to. Links in --lock-dir are followed all the same.
    #[arg(long, global = true)]
    pub no_follow: bool,
    /// Give up waiting for a lock after so many seconds; 0 tries once [default: wait for ever]
    #[arg(long, value_name = "SECONDS", global = true, value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// The status if the lock was not free in time
    ///
    /// Useful if CMD itself may end with 4.
    #[arg(short = 'E', long, value_name = "N", global = true, default_value_t = TIMED_OUT)]
    pub conflict_exit_code: u8,
    /// Say which process holds the lock, if it is not free within a second
    ///
    /// One line on standard error names the file and the process. On a terminal that is so without this option, too, and the
    /// line is erased when the wait is over. Of several files, the first one that is waited for is named.
    #[arg(short = 'v', long, global = true)]
    pub verbose: bool,
    /// What a write promises about a power cut
    #[arg(long, value_name = "LEVEL", global = true, default_value = "full")]
    pub durability: Level,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Level {
    /// The new version is on the device when the command ends
    Full,
    /// The old or the new version, whole
    Ordered,
    /// Nothing: atomic for other processes only
    None,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Write the contents to standard output
    ///
    /// Appending a file to itself (read f >>f) would never end, and is refused.
    Read {
        /// The file
        path: PathBuf,
        /// Status 3 if there is no such file, instead of nothing and 0
        #[arg(long)]
        must_exist: bool,
    },
    /// Replace the contents with standard input, or append it
    ///
    /// Input of up to 1 MiB is read before the lock is taken; of a larger one, the rest is read under it. A signal that ends
    /// this program before the new contents are complete changes nothing, and leaves no temporary file.
    ///
    /// A closed standard input is refused, and so is /dev/null opened for reading and writing, which looks the same; </dev/null
    /// empties the file.
    Write {
        /// The file; directories above it are made
        path: PathBuf,
        /// Keep the old contents, and put standard input behind them
        ///
        /// The file is still replaced as a whole, so a long one is copied each time.
        #[arg(short, long)]
        append: bool,
    },
    /// Pass the contents through a command
    ///
    /// CMD gets the old contents on standard input; its standard output becomes the new file, all under one exclusive
    /// lock. If CMD fails, nothing changes and its status is passed on. The output ends when nobody has it open any more, as
    /// in $(...) of a shell.
    ///
    /// Signals are dealt with as by run. After a SIGHUP, SIGINT, SIGQUIT or SIGTERM nothing changes, however CMD ends;
    /// what it has left in the background is not waited for then.
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
    /// Nobody else reads or writes with these locks meanwhile (--shared: nobody else writes). CMD must not ask for them itself:
    /// atomic-file on the same file in CMD waits for the lock of its own parent, for ever without --timeout. Several locks are
    /// taken in an order that is the same for all, so that nobody waits in a circle.
    ///
    /// This program does not end before CMD. SIGTERM and SIGHUP are passed on to CMD, and so are others that would end this
    /// program, such as SIGUSR1 and SIGALRM. SIGINT and SIGQUIT are not: on Ctrl-C the terminal sends them to CMD itself.
    /// SIGPIPE, SIGXFSZ and real-time signals do nothing. What is ignored when it starts, by nohup for example, stays ignored.
    /// While it is stopped the lock is held; Ctrl-Z stops CMD, too.
    ///
    /// If this program is killed with SIGKILL, or as if by a fault of its own (SIGILL, SIGBUS, SIGFPE, SIGSEGV, SIGSYS), the
    /// lock is free although CMD goes on.
    Run {
        /// The files; they need not exist
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Hold the shared locks, not the exclusive ones
        #[arg(long)]
        shared: bool,
        /// Hold the locks for as long as anything lives that CMD has started (Linux)
        ///
        /// Record locks are not inherited, so this program waits: for CMD, and then for what CMD has left in the background,
        /// daemons included. The status is that of CMD. When CMD has ended, SIGTERM and SIGHUP are passed on to those that are
        /// left. What CMD has others start for it (systemd, cron, at, the daemon of a container) is not waited for.
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
    /// All the locks are held. CMD has the paths of the copies as its last arguments, in the order of the files; each has its
    /// file's name, in a directory of its own that only this user may open, under TMPDIR or /tmp. If CMD ends with 0, all files
    /// are replaced by what the copies are then: either all or none, also if this program is killed or, with --durability full,
    /// the power fails (then whoever takes one of the locks next finishes it). Who reads several files under one lock of all, as
    /// with run --shared, sees all old or all new. A copy that is gone removes its file; a file that does not exist has no copy,
    /// and is made if CMD makes one. If nothing was changed, nothing is written.
    ///
    /// If CMD fails, nothing changes and its status is passed on. Signals are dealt with as by run; after a SIGHUP, SIGINT,
    /// SIGQUIT or SIGTERM nothing changes, however CMD ends. The copies are removed in any case, unless this program is killed
    /// with SIGKILL or as if by a fault of its own; then remove atomic-file.* under TMPDIR or /tmp yourself, when no edit runs.
    /// CMD must not ask for the same locks itself.
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
    /// A table for people, or nothing if there are no lock files. What is held comes first: a row for the process that holds the
    /// lock, with its program and its user, and below it a row for each process that waits. If several processes share a
    /// lock, one of them is listed. A "-" stands for what the system does not say.
    ///
    /// A file that does not exist, or has never been locked, is free. What holds a lock for run, update or edit is listed as
    /// atomic-file with its CMD.
    ///
    /// A lock file that does not say which file it is for is listed itself. What is no lock file, or may not be opened, is
    /// unknown; standard error says why, a line for each, and the status is 1. At the end there are the changes of several files
    /// that are not finished, and their files.
    ///
    /// With PATHs, the status is 0 if one of them is held, and 3 if none is.
    ///
    /// Who waits is known on Linux only, and so are programs and users. Not listed are processes of another PID namespace or
    /// on another machine.
    Locks {
        /// The files [default: all that have lock files]
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// A JSON array of objects, for programs
        ///
        /// The manual page and "atomic-file --help" say what is in it.
        #[arg(long)]
        json: bool,
    },
    /// Finish the changes of several files that killed processes have begun, and print their intents
    ///
    /// Whoever takes the lock of one of the files does that, too. What cannot be finished does not keep the others; standard
    /// error says why, a line for each, and the status is 1. If what is in the way cannot be mended, give it up.
    Recover {
        /// Finish what can be finished of this one, forget the rest, and print the files that are not finished
        ///
        /// The status is 1 then. Those files are as they were, although others may be changed: look at them.
        #[arg(long, value_name = "INTENT")]
        give_up: Option<PathBuf>,
        #[command(flatten)]
        ends: Ends,
    },
    /// Remove the lock files that nobody holds, and print their paths
    ///
    /// What cannot be removed does not keep the others; standard error says why, a line for each, and the status is 1.
    Prune {
        #[command(flatten)]
        ends: Ends,
    },
    /// Remove the temporary files that killed writers have left, and print their paths
    ///
    /// The next write to the same file does that, too, when they are an hour old (in a directory of up to 1000 names).
    ///
    /// If PATH is a directory, those of all files in it; else those of that file. What a live writer is using is left. What
    /// cannot be removed does not keep the others; standard error says why, a line for each, and the status is 1.
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

/// What is after each path.
#[derive(Args)]
pub struct Ends {
    /// End each path with a zero byte, not a newline
    ///
    /// Without it, and on a terminal only, control characters, backslashes, characters that turn the direction of text, and
    /// what is not UTF-8 are escaped as in Rust: \n, \\, \u{1b}, \xff.
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
    /// Said below the entries.
    pub note: &'static str,
}

pub const SECTIONS: [Section; 5] = [
    Section {
        title: "Examples",
        entries: &[
            ("atomic-file read settings.toml", "Print one whole version, whoever writes meanwhile."),
            ("make-settings | atomic-file write settings.toml", "Replace it as a whole, or not at all."),
            (
                "atomic-file update settings.toml -- sed s/red/blue/",
                "Edit it under one lock; if sed fails, nothing changes.",
            ),
            (
                "atomic-file run settings.toml -- my-editor settings.toml",
                "Keep everybody else out while the editor runs.",
            ),
            (
                "atomic-file edit a.toml b.toml -- sed -i s/red/blue/",
                "Edit both at once; if sed fails, or anybody dies, neither is changed alone.",
            ),
            (
                "atomic-file --timeout 5 delete settings.toml",
                "Give up, with status 4, if the lock is not free in time.",
            ),
            ("atomic-file locks settings.toml", "Say who holds its lock, and who waits; status 3 if nobody holds it."),
            ("atomic-file locks --json | jq '.[] | select(.held)'", "The locks that are held now."),
        ],
        note: "",
    },
    Section {
        title: "Exit status",
        entries: &[
            ("0", "Done."),
            ("1", "Failed; standard error says at what, in a line."),
            ("2", "Wrong usage; nothing was done."),
            ("3", "There is no such file (delete, read --must-exist), or nobody holds it (locks PATH)."),
            ("4", "The lock was not free in time (--timeout); another status with -E."),
            ("126", "CMD of update, run or edit cannot be run."),
            ("127", "CMD of update, run or edit was not found."),
        ],
        note: "If CMD of update, run or edit fails, its status is passed on, or 128 + N if signal N ended it. After a signal N \
               that asked for an end, update and edit have the status 128 + N, too, if CMD ended well. CMD's own status may be \
               1, 2, 4, 126 or 127, too. If standard error ends with a line \"atomic-file: ...\" (not the one about a wait, of \
               -v), the status is this program's; for 2 it has a line \"error: ...\". 3 is always CMD's. -E sets a status for a \
               timeout that CMD does not use.",
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
            ("intent", "String or null: the change of several files that is to be finished."),
            ("problem", "String or null: why nobody can tell whether the lock is held."),
        ],
        note: "It is an array with an object for each lock file or, if paths were given, for each file. null stands for what there is \
               not, or what the system does not say. Later versions may add fields, and keep these. In a path that is not UTF-8, U+FFFD \
               stands for what is not; the last name in path and intent is always ASCII.",
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
            // Beside each other if that fits into a terminal.
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
