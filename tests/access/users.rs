//! The users who write, and those who try to open files that they may not open. Each is a process that has become that
//! user.

use std::ffi::{CStr, CString};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};

use crate::common::acl::{READ, WRITE};
use crate::common::{Worker, hear, tell};

pub(crate) const OWNER: u32 = 7001;
pub(crate) const MEMBER: u32 = 7002;
pub(crate) const NAMED: u32 = 7004;
pub(crate) const NAMED_BY_DEFAULT: u32 = 7006;
pub(crate) const STRANGER: u32 = 7007;

/// The group of the file.
pub(crate) const GROUP: u32 = 8100;
pub(crate) const OTHER_GROUP: u32 = 8200;
pub(crate) const NAMED_GROUP: u32 = 8300;
pub(crate) const GROUP_NAMED_BY_DEFAULT: u32 = 8400;

#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

impl User {
    /// A user with a group of his own, as most users have, and with these groups.
    pub(crate) fn new(name: &'static str, uid: u32, groups: &[u32]) -> Self {
        let gid = if uid == 0 { 0 } else { uid + 1000 };
        User { name, uid, gid, groups: groups.to_vec() }
    }

    pub(crate) fn become_it(&self) {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).unwrap();
        setresgid(gid, gid, gid).unwrap();
        setresuid(uid, uid, uid).unwrap();
    }
}

/// The users who try. `writers_group` is the group that new files of the writer get.
pub(crate) fn neighbours(writers_group: u32) -> Vec<User> {
    vec![
        User::new("the owner", OWNER, &[]),
        User::new("the owner, a member of the group", OWNER, &[GROUP]),
        User::new("a member of the group", MEMBER, &[GROUP]),
        User::new("a member of another group", 7003, &[OTHER_GROUP]),
        User::new("the named user", NAMED, &[]),
        User::new("the named user, a member of the group", NAMED, &[GROUP]),
        User::new("a member of the named group", 7005, &[NAMED_GROUP]),
        User::new("a member of both groups", 7005, &[GROUP, NAMED_GROUP]),
        User::new("the user named by default", NAMED_BY_DEFAULT, &[]),
        User::new("a member of the group named by default", 7016, &[GROUP_NAMED_BY_DEFAULT]),
        User::new("a stranger", STRANGER, &[]),
        User::new("a member of the writer's group", 7008, &[writers_group]),
        User::new("a member of the writer's group and of the file's", 7008, &[writers_group, GROUP]),
    ]
}

/// The rights that a user was granted: `READ`, `WRITE`, both or none.
pub(crate) type Granted = u32;

/// Processes that try to open files.
pub(crate) struct Neighbours {
    pub(crate) users: Vec<User>,
    talk: Vec<UnixStream>,
}

impl Neighbours {
    /// Forks, so the process must have only this thread. The neighbours open files by name in `dir`, through a
    /// descriptor that they inherit, so that no directory above it can stop them. They end with this process.
    pub(crate) fn start(users: Vec<User>, dir: &Path) -> Self {
        let dir: OwnedFd = std::fs::File::open(dir).unwrap().into();
        let mut talk = Vec::new();
        for user in &users {
            let (ours, theirs) = UnixStream::pair().unwrap();
            if in_a_child() {
                drop((ours, talk));
                user.become_it();
                end_with_parent();
                answer(theirs, &dir);
                std::process::exit(0);
            }
            talk.push(ours);
        }
        Neighbours { users, talk }
    }

    /// The rights of each of them in each of these files.
    pub(crate) fn try_to_open(&self, names: &[CString]) -> Vec<Vec<Granted>> {
        let names_with_ends: Vec<u8> = names.iter().flat_map(|name| name.as_bytes_with_nul()).copied().collect();
        let length = u32::try_from(names_with_ends.len()).unwrap().to_le_bytes();
        let question = [&length[..], &names_with_ends].concat();
        // All are asked before the first answer is read, so that they work at the same time.
        for mut talk in &self.talk {
            talk.write_all(&question).unwrap();
        }
        let hear = |mut talk: &UnixStream| {
            let mut answers = vec![0; names.len()];
            talk.read_exact(&mut answers).unwrap();
            answers.into_iter().map(Granted::from).collect()
        };
        self.talk.iter().map(hear).collect()
    }
}

/// In a neighbour: answers the requests.
fn answer(mut talk: UnixStream, dir: &OwnedFd) {
    let mut length = [0; 4];
    while talk.read_exact(&mut length).is_ok() {
        let mut names = vec![0; u32::from_le_bytes(length) as usize];
        talk.read_exact(&mut names).unwrap();
        let names = names.split_inclusive(|byte| *byte == 0).map(|name| CStr::from_bytes_with_nul(name).unwrap());
        let answers: Vec<u8> = names.map(|name| u8::try_from(opens(dir.as_raw_fd(), name)).unwrap()).collect();
        talk.write_all(&answers).unwrap();
    }
}

/// Opens the file for reading, and for writing.
fn opens(dir: libc::c_int, name: &CStr) -> Granted {
    let may = |flags: libc::c_int| {
        let flags = flags | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        // SAFETY: the name ends with a zero byte, and the descriptor that is closed belongs to this function.
        unsafe {
            let fd = libc::openat(dir, name.as_ptr(), flags);
            if fd >= 0 {
                libc::close(fd);
                return true;
            }
        }
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{name:?}: {error}");
        false
    };
    let granted = |bit: Granted, flags: libc::c_int| if may(flags) { bit } else { 0 };
    granted(READ, libc::O_RDONLY) | granted(WRITE, libc::O_WRONLY)
}

/// Forks. True in the child. No other thread may run in this process.
pub(crate) fn in_a_child() -> bool {
    assert_eq!(std::fs::read_dir("/proc/self/task").unwrap().count(), 1, "only the one thread that forks goes on");
    // SAFETY: there is no other thread that could have locked anything.
    matches!(unsafe { fork() }.unwrap(), ForkResult::Child)
}

/// Must be called after the process has become another user, because that clears it (PR_SET_PDEATHSIG in prctl(2)).
pub(crate) fn end_with_parent() {
    // SAFETY: the call takes a number.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }, 0);
}

/// The rights of one user in one file at this moment, for tests that ask seldom: "rw", "r-", "-w", "--".
pub(crate) fn opened_by(user: &User, path: &Path) -> String {
    let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
    let ids = [user.uid.to_string(), user.gid.to_string(), groups.join(",")];
    let mut worker = Worker::start("open", &[&ids[0], &ids[1], &ids[2], path.to_str().unwrap()]);
    let answer = worker.hear();
    worker.finish();
    answer
}

/// The user in the first three arguments of a worker, and the arguments after them.
pub(crate) fn user_in(args: &[String]) -> (User, &[String]) {
    let [uid, gid, groups, rest @ ..] = args else { panic!("{args:?}") };
    let groups = groups.split(',').filter(|group| !group.is_empty()).map(|group| group.parse().unwrap()).collect();
    (User { name: "a worker", uid: uid.parse().unwrap(), gid: gid.parse().unwrap(), groups }, rest)
}

pub(crate) fn open(args: &[String]) {
    let (user, [path]) = user_in(args) else { panic!("{args:?}") };
    user.become_it();
    let granted = opens(libc::AT_FDCWD, &CString::new(path.as_str()).unwrap());
    let letter = |bit: Granted, letter: char| if granted & bit != 0 { letter } else { '-' };
    tell(&format!("{}{}", letter(READ, 'r'), letter(WRITE, 'w')));
    hear();
}
