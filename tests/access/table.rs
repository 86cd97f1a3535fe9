//! The table of who could open which file at which step. At every system call of a write, each neighbour tries to open
//! every file in the directory. No neighbour may use a new version in a way that the old one did not allow.
//!
//! One exception: the writer may own the new version, because he knows its contents.

use std::cell::RefCell;
use std::env;
use std::ffi::{CStr, CString};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use atomic_file_adapter::fault::{Action, Call, Syscall, inject};
use atomic_file_adapter::{AtomicFileAdapter, Error, Result};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cases::{Case, Verb, Writer, shuffled};
use crate::common::acl::{ACCESS, DEFAULT, READ, WRITE, attribute, set_acl, set_attribute};
use crate::common::{Worker, names, tell, thorough_or};
use crate::oracle::Protection;
use crate::report::{self, Counts};
use crate::users::{GROUP, Granted, Neighbours, OWNER, User, end_with_parent, in_a_child, neighbours};

/// The number of cases of each writer on each file system, in the thorough and in the short form. `ACCESS` sets another number, or
/// `full`.
const CASES: [usize; 2] = [250, 50];
/// The number of cases for each call that is refused, in both forms.
const CASES_REFUSED: [usize; 2] = [10, 3];
/// How many faults are printed in full.
const DESCRIBED: usize = 10;

const LABEL: &CStr = c"user.label";

/// What differs from the usual write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    /// A program without the adapter, which copies only the mode.
    CopyTheModeOnly,
    /// This call always fails with this error.
    Refuse(&'static str, i32),
}

/// Calls about the file's attributes that a kernel, a file system or a sandbox may refuse.
pub(crate) const REFUSALS: [Twist; 22] = [
    Twist::None,
    Twist::CopyTheModeOnly,
    Twist::Refuse("Fchown", libc::EPERM),
    Twist::Refuse("Fchown", libc::EINVAL),
    Twist::Refuse("Fchown", libc::EIO),
    Twist::Refuse("Fchmod", libc::EPERM),
    Twist::Refuse("Fchmod", libc::EIO),
    Twist::Refuse("Llistxattr", libc::EIO),
    Twist::Refuse("Llistxattr", libc::EACCES),
    Twist::Refuse("Llistxattr", libc::ELOOP),
    // There is no /proc.
    Twist::Refuse("Llistxattr", libc::ENOENT),
    Twist::Refuse("Lgetxattr", libc::EIO),
    Twist::Refuse("Lgetxattr", libc::EACCES),
    Twist::Refuse("Flistxattr", libc::EIO),
    Twist::Refuse("Fgetxattr", libc::EIO),
    Twist::Refuse("Fsetxattr", libc::EPERM),
    Twist::Refuse("Fsetxattr", libc::EACCES),
    Twist::Refuse("Fsetxattr", libc::ENOTSUP),
    Twist::Refuse("Fsetxattr", libc::ENOSPC),
    Twist::Refuse("Fsetxattr", libc::EINVAL),
    Twist::Refuse("Fremovexattr", libc::EPERM),
    Twist::Refuse("Fremovexattr", libc::EIO),
];

pub(crate) fn nobody_gets_in(base: &Path, writer: Writer) {
    let cases = match env::var("ACCESS").as_deref() {
        Ok("full") => usize::MAX,
        Ok(number) => number.parse().expect("ACCESS is `full` or a number"),
        Err(_) => thorough_or(CASES[0], CASES[1]),
    };
    let (counts, complaints) = perform(base, writer, cases, Twist::None);
    let file_system = report::file_system(base);
    report::add(&file_system, writer.name(), &counts);
    assert!(counts.cases > 0 && counts.granted > 0, "{counts:?}");
    let none = counts.widened + counts.inexact + counts.oracle == 0;
    let (file_system, writer) = (file_system, writer.name());
    assert!(none && complaints.is_empty(), "{file_system}, {writer}: {counts:?}\n{}", complaints.join("\n"));
}

/// A kernel would not always report these errors. So the test checks only who gets in, and that an error leaves the old
/// version.
pub(crate) fn nobody_gets_in_when_a_call_is_refused(base: &Path, writer: Writer) {
    let mut all = Counts::default();
    let mut wrong = Vec::new();
    for twist in REFUSALS.into_iter().filter(|twist| matches!(twist, Twist::Refuse(..))) {
        let (counts, complaints) = perform(base, writer, thorough_or(CASES_REFUSED[0], CASES_REFUSED[1]), twist);
        all.add(&counts);
        wrong.extend(complaints.into_iter().map(|complaint| format!("{twist:?}: {complaint}")));
    }
    report::add(&report::file_system(base), &format!("{}, a call refused", writer.name()), &all);
    assert!(wrong.is_empty(), "{all:?}\n{}", wrong.join("\n"));
}

/// Tests the table itself.
pub(crate) fn a_copy_of_the_mode_alone_is_noticed() {
    for writer in [Writer::Root, Writer::Stranger] {
        let (counts, _) = perform(&env::temp_dir(), writer, thorough_or(CASES[0], CASES[1]), Twist::CopyTheModeOnly);
        assert!(counts.widened > 0 && counts.oracle == 0, "{counts:?}");
        assert!(counts.inexact > 0 || !writer.keeps_everything(), "{counts:?}");
    }
}

/// In a process of its own, because it forks.
fn perform(base: &Path, writer: Writer, cases: usize, twist: Twist) -> (Counts, Vec<String>) {
    let dir = tempfile::tempdir_in(base).unwrap();
    let number = |known: Option<usize>| known.unwrap().to_string();
    let writer = number(Writer::ALL.iter().position(|known| *known == writer));
    let twist = number(REFUSALS.iter().position(|known| *known == twist));
    let real = dir.path().canonicalize().unwrap();
    let args = [real.to_str().unwrap(), &writer, &cases.to_string(), &twist, &report::file_system(base)];
    let mut worker = Worker::start("table", &args);
    let mut complaints = Vec::new();
    let counts = loop {
        let line = worker.hear();
        if let Some(counts) = line.strip_prefix("counts ") {
            break Counts::parse(counts);
        }
        assert!(!line.is_empty(), "the writer ended early");
        if complaints.len() < DESCRIBED {
            complaints.push(line);
        }
    };
    worker.finish();
    (counts, complaints)
}

/// The worker: prepares each case as root, and lets a child write.
pub(crate) fn table(args: &[String]) {
    let [dir, writer, most, twist, salt] = args else { panic!("{args:?}") };
    let number = |text: &String| text.parse::<usize>().unwrap();
    let (writer, twist) = (Writer::ALL[number(writer)], REFUSALS[number(twist)]);
    let mut cases = shuffled(&format!("{salt} {writer:?} {twist:?}"));
    cases.truncate(number(most));

    umask(Mode::empty());
    let stage = Stage::new(Path::new(dir), writer.user().gid);
    let neighbours = Neighbours::start(neighbours(writer.user().gid), &stage.files);
    let (mut talk, theirs) = UnixStream::pair().unwrap();
    if in_a_child() {
        drop(talk);
        let counts = Play { stage, writer, twist, neighbours: Rc::new(neighbours) }.perform(&cases, theirs);
        tell(&format!("counts {counts}"));
        return;
    }
    drop((theirs, neighbours));
    for case in &cases {
        stage.set(case);
        talk.write_all(&[0]).unwrap();
        let mut written = [0];
        talk.read_exact(&mut written).unwrap();
        let expected = if written == [1] { NEW } else { OLD };
        assert_eq!(fs::read_to_string(stage.file()).unwrap(), expected, "{case}");
        assert_eq!(names(&stage.files), ["file"], "{case}");
    }
    // The neighbours end with the writer.
    while let Ok(end) = waitpid(None::<Pid>, None) {
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}");
    }
}

const OLD: &str = "old";
const NEW: &str = "the new version";

/// The directory of the cases.
struct Stage {
    files: PathBuf,
    locks: PathBuf,
    writers_group: u32,
}

impl Stage {
    fn new(dir: &Path, writers_group: u32) -> Self {
        let stage = Stage { files: dir.join("files"), locks: dir.join("locks"), writers_group };
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        for dir in [&stage.files, &stage.locks] {
            fs::create_dir(dir).unwrap();
            fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
        }
        stage
    }

    fn file(&self) -> PathBuf {
        self.files.join("file")
    }

    /// Makes the directory and the old version of the case.
    fn set(&self, case: &Case) {
        let file = self.file();
        let _ = fs::remove_file(&file);
        set_acl(&self.files, DEFAULT, None);
        fs::write(&file, OLD).unwrap();
        chown(&file, Some(OWNER), Some(GROUP)).unwrap();
        if case.labelled {
            set_attribute(&file, LABEL, b"a label").unwrap();
        }
        fs::set_permissions(&file, Permissions::from_mode(case.mode)).unwrap();
        if let Some(acl) = case.access.of_file(case.mode, self.writers_group) {
            set_acl(&file, ACCESS, Some(&acl));
        }
        chown(&self.files, None, Some(case.directory.group().unwrap_or(0))).unwrap();
        let set_group_id = case.directory.group().map_or(0, |_| 0o2000);
        fs::set_permissions(&self.files, Permissions::from_mode(0o777 | set_group_id)).unwrap();
        set_acl(&self.files, DEFAULT, case.directory.default_acl().as_ref());
    }
}

/// The part of the writer.
struct Play {
    stage: Stage,
    writer: Writer,
    twist: Twist,
    neighbours: Rc<Neighbours>,
}

impl Play {
    fn perform(&self, cases: &[Case], mut cues: UnixStream) -> Counts {
        self.writer.user().become_it();
        if self.writer == Writer::RootWithoutChown {
            drop_chown().unwrap();
        }
        end_with_parent();
        let adapter = AtomicFileAdapter::with_lock_dir(&self.stage.locks).unwrap();
        let mut counts = Counts::default();
        for case in cases {
            cues.read_exact(&mut [0]).unwrap();
            umask(Mode::from_bits(case.umask).unwrap());
            let watch = Rc::new(RefCell::new(Watch::new(&self.stage, case, self.writer, self.neighbours.clone())));
            let written = self.write(&adapter, case, &watch);
            let mut watch = watch.borrow_mut();
            let expected = watch.judge_result(&self.stage, case, self.writer, self.twist, written.as_ref().err());
            watch.judge_end(&self.stage, case, self.writer, self.twist, expected && written.is_ok());
            counts.add(&watch.counts);
            watch.complaints.iter().for_each(|complaint| tell(&format!("{case}; old: {}: {complaint}", watch.old)));
            cues.write_all(&[u8::from(written.is_ok())]).unwrap();
        }
        counts
    }

    fn write(&self, adapter: &AtomicFileAdapter, case: &Case, watch: &Rc<RefCell<Watch>>) -> Result<()> {
        let file = self.stage.file();
        if self.twist == Twist::CopyTheModeOnly {
            copy_the_mode_only(&file, |step| watch.borrow_mut().look(step));
            return Ok(());
        }
        let (watching, twist) = (watch.clone(), self.twist);
        let decide = move |call: &Call<'_>| {
            watching.borrow_mut().before(call);
            match twist {
                Twist::Refuse(name, errno) if format!("{:?}", call.syscall) == name => Action::Fail(errno),
                // The test is not about disks.
                _ if [Syscall::Fsync, Syscall::Syncfs].contains(&call.syscall) => Action::Skip,
                _ => Action::Proceed,
            }
        };
        let (written, _) = inject(decide, || match case.verb {
            Verb::Write => adapter.write_atomic(&file, NEW),
            Verb::Update => adapter.update(&file, |_| NEW.into()),
            Verb::Batch => adapter.batch().write(&file, NEW).commit(),
            Verb::Writer => {
                let file = adapter.file(&file)?;
                let guard = file.lock()?;
                let mut writer = guard.writer()?;
                for piece in NEW.as_bytes().chunks(8) {
                    writer.write_all(piece).map_err(|error| error.downcast::<Error>().unwrap())?;
                }
                writer.commit()
            }
        });
        written
    }
}

/// A program that copies only the mode.
fn copy_the_mode_only(file: &Path, mut look: impl FnMut(&str)) {
    let old = file.metadata().unwrap();
    let temporary = file.with_extension("tmp");
    let mut new = OpenOptions::new().write(true).create_new(true).mode(old.mode() & 0o777).open(&temporary).unwrap();
    look("after the creation");
    new.write_all(NEW.as_bytes()).unwrap();
    // This fails if the writer has no permission.
    let _ = fchown(&new, Some(old.uid()), Some(old.gid()));
    look("after the change of owner");
    new.set_permissions(Permissions::from_mode(old.mode() & 0o7777)).unwrap();
    look("after the change of mode");
    fs::rename(&temporary, file).unwrap();
}

/// Takes CAP_CHOWN from this process (capset(2)).
fn drop_chown() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_CHOWN: u32 = 1 << 0;
    let mut header = [VERSION_3, 0];
    // Effective, permitted and inheritable, twice.
    let mut sets = [0u32; 6];
    // SAFETY: both structs are as capget(2) describes them for this version.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        sets[..3].iter_mut().for_each(|set| *set &= !CAP_CHOWN);
        if libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The rights of the neighbours in the directory.
struct Watch {
    files: PathBuf,
    neighbours: Rc<Neighbours>,
    old: Protection,
    old_inode: u64,
    old_acl: Option<Vec<u8>>,
    /// The rights of each neighbour in the old version, by the oracle.
    allowed: Vec<Granted>,
    /// The writer himself is exempt.
    exempt: Vec<bool>,
    last_call: String,
    counts: Counts,
    complaints: Vec<String>,
}

impl Watch {
    fn new(stage: &Stage, case: &Case, writer: Writer, neighbours: Rc<Neighbours>) -> Self {
        let file = stage.file();
        let old = Protection::of(&file);
        let asked = Protection {
            uid: OWNER,
            gid: GROUP,
            mode: old.mode,
            acl: case.access.of_file(case.mode, stage.writers_group),
        };
        assert!(old == asked && (old.mode == case.mode || old.acl.is_some()), "{case}: {old}");
        Watch {
            old_inode: file.metadata().unwrap().ino(),
            old_acl: attribute(&file, ACCESS),
            allowed: neighbours.users.iter().map(|user| lets(&old, user)).collect(),
            exempt: neighbours.users.iter().map(|user| user.uid == writer.user().uid).collect(),
            old,
            neighbours,
            files: stage.files.clone(),
            last_call: "the start".to_owned(),
            counts: Counts { cases: 1, ..Counts::default() },
            complaints: Vec::new(),
        }
    }

    fn before(&mut self, call: &Call<'_>) {
        let when = format!("after {}", self.last_call);
        self.look(&when);
        self.last_call = call.to_string();
    }

    fn look(&mut self, when: &str) {
        self.counts.looks += 1;
        let entries = self.files.read_dir().unwrap().map(|entry| entry.unwrap());
        let (names, inodes): (Vec<CString>, Vec<u64>) = entries
            .map(|entry| {
                let inode = entry.metadata().unwrap().ino();
                (CString::new(entry.file_name().into_vec()).unwrap(), inode)
            })
            .unzip();
        for (number, granted) in self.neighbours.try_to_open(&names).into_iter().enumerate() {
            for ((name, inode), granted) in names.iter().zip(&inodes).zip(granted) {
                self.counts.opens += 2;
                self.counts.granted += granted.count_ones() as usize;
                let (allowed, user) = (self.allowed[number], &self.neighbours.users[number].name);
                if *inode == self.old_inode {
                    if granted != allowed {
                        self.counts.oracle += 1;
                        self.complaints.push(format!("oracle: {user}: {allowed}, but the kernel: {granted}"));
                    }
                } else if !self.exempt[number] && granted & !allowed != 0 {
                    self.counts.widened += 1;
                    let (may, might) = (letters(granted), letters(allowed));
                    self.complaints.push(format!("{when}: {user} may open {name:?} {may}, the old version {might}"));
                }
            }
        }
    }

    fn inexact(&mut self, complaint: String) {
        self.counts.inexact += 1;
        self.complaints.push(complaint);
    }

    /// An error is right if the writer has to read what he may not read, or if a call was refused.
    fn judge_result(
        &mut self,
        stage: &Stage,
        case: &Case,
        writer: Writer,
        twist: Twist,
        error: Option<&Error>,
    ) -> bool {
        let Some(error) = error else { return true };
        let user = writer.user();
        let cannot_read = case.verb == Verb::Update && user.uid != 0 && !self.old.lets(&user, READ);
        if !cannot_read && !matches!(twist, Twist::Refuse(..)) {
            self.inexact(format!("the write failed: {error}"));
        }
        if stage.file().metadata().unwrap().ino() != self.old_inode || Protection::of(&stage.file()) != self.old {
            self.inexact(format!("the write failed, and the old version is gone: {error}"));
        }
        false
    }

    /// Checks the rights of each neighbour in the new version, and that the writer has kept all rights if he could.
    fn judge_end(&mut self, stage: &Stage, case: &Case, writer: Writer, twist: Twist, written: bool) {
        self.look("at the end");
        if !written {
            return;
        }
        let file = stage.file();
        let new = Protection::of(&file);
        let name = CString::new("file").unwrap();
        let granted = self.neighbours.try_to_open(&[name]);
        for (user, granted) in self.neighbours.users.iter().zip(granted) {
            if lets(&new, user) != granted[0] {
                self.counts.oracle += 1;
                self.complaints.push(format!("oracle: {new}: {}, the kernel: {}", user.name, granted[0]));
            }
        }
        if new.uid != self.old.uid && new.mode & 0o4000 != 0 || new.gid != self.old.gid && new.mode & 0o2000 != 0 {
            self.inexact(format!("runs with rights that are not the old ones: {new}"));
        }
        if !writer.keeps_everything() || matches!(twist, Twist::Refuse(..)) {
            return;
        }
        if new != self.old || attribute(&file, ACCESS) != self.old_acl {
            self.inexact(format!("new: {new}"));
        }
        let user = writer.user();
        let label = case.labelled.then(|| b"a label".to_vec());
        if (user.uid == 0 || self.old.lets(&user, READ)) && attribute(&file, LABEL) != label {
            self.inexact("the user attribute is lost".to_owned());
        }
    }
}

fn lets(protection: &Protection, user: &User) -> Granted {
    [READ, WRITE].into_iter().filter(|wanted| protection.lets(user, *wanted)).sum()
}

fn letters(granted: Granted) -> String {
    [(READ, 'r'), (WRITE, 'w')].map(|(bit, letter)| if granted & bit != 0 { letter } else { '-' }).iter().collect()
}
