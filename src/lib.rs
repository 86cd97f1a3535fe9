//! Locked reads and durable atomic writes of files that several processes share.
//!
//! # The promise
//!
//! 1. A reader that goes through the adapter sees one whole version of a file: never a part, never a mix.
//! 2. When a durable write has returned, the new version survives a power cut; until then the old or the new one does,
//!    whole.
//! 3. Two writers never lose each other's [update](AtomicFileAdapter::update), whether they are threads, processes,
//!    or forks.
//! 4. When a process dies at any instruction, its locks are free and the next caller carries on.
//!
//! ```
//! use atomic_file_adapter::AtomicFileAdapter;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path();
//! # let locks = dir.join("locks");
//! let files = AtomicFileAdapter::with_lock_dir(locks)?; // the same directory in every process
//! let path = dir.join("visitors");
//!
//! files.update(&path, |old| {
//!     let old = old.map_or(0, |old| String::from_utf8_lossy(old).parse().unwrap_or(0));
//!     (old + 1).to_string().into_bytes()
//! })?;
//! assert_eq!(files.read_to_string_with_lock(&path)?.as_deref(), Some("1"));
//! # Ok(())
//! # }
//! ```
//!
//! # The system calls of a write
//!
//! [`AtomicFile::write`] on Linux, where the file exists and nobody is in the way:
//!
//! ```text
//! fcntl(lock, F_SETLKW, F_WRLCK)            exclusive record lock over the whole lock file
//! fstatat(lock path)                        still the file of that name? else open it anew
//! fstatat(dir, "name")                      a regular file; its mode and owner
//! llistxattr("/proc/thread-self/fd/DIR/name")  its access control list, attributes and label; here none
//! openat(dir, ".name.RANDOM.tmp", O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
//! flistxattr(tmp)                           what it got from the directory's default access control list
//! write(tmp)
//! fstat(tmp), fchown, fchmod                owner first, mode after; each only if it differs
//! fsync(tmp)                                before the rename, or the rename may come first
//! renameat(dir, ".name.RANDOM.tmp", "name")
//! fsync(dir)                                the rename itself
//! close(tmp)
//! fcntl(lock, F_SETLK, F_UNLCK)
//! ```
//!
//! and a `getpid` before, to notice a `fork`: 14 calls, and 8 for a read; one more where the mode cannot be had at
//! once, because until the owner is right the temporary file is for its group and for others no more than for everybody
//! (0640, for example). Where the file has attributes, it is that call, one more to list them, and two for each; on a
//! system with SELinux or Smack every file has a label. An [update](AtomicFile::update) has 19, with a second `getpid`
//! and a second look at the name after the change, which may take long, or fork.
//!
//! More than 8 MiB is written in pieces of 8 MiB, with a `posix_fadvise` between two of them (not with
//! [`Durability::None`]): the kernel writes back the first while the second is written. A write of 256 MiB takes about
//! 0.7 of the time on ext4 so.
//!
//! By path, there is also the opening of the directory (by `openat2` with `RESOLVE_NO_SYMLINKS`) and its closing: 16
//! calls. A read opens the file so, and nothing else: 8 calls. That is for an absolute path without symbolic links,
//! `.`, `..` and `//`, and for one of the last 16, whose lock files are kept open. Should a link be there now, that is
//! seen under the lock, which is let go, and the link is followed. Where the path is relative or has `.`, `..` or `//`
//! in it, an `openat` takes the place of the `openat2`, where it has links in it, one follows, and `/proc/self/fd/N` is
//! asked for the real path; a read opens and closes the directory, too, then. Any other path costs a look at the name
//! before the lock is taken.
//!
//! [`Durability::Ordered`] leaves out the sync of the directory, [`Durability::None`] both; on Apple's systems the
//! syncs of [`Durability::Full`] are `fcntl(F_FULLFSYNC)`, and a path is looked up with `fcntl(F_GETPATH)`. The lock
//! protocol, by which programs in other languages take part, is [written down](docs::protocol).
//!
//! [`AtomicFile::read_unlocked`] leaves out the lock: `fstatat`, `openat`, `read`, `close`; and by a path that has no links
//! in it the same with `openat2`.
//!
//! The manual pages: [fcntl_locking(2)], [fstatat(2)], [listxattr(2)], [openat(2)], [write(2)], [posix_fadvise(2)],
//! [fstat(2)], [fchown(2)], [fchmod(2)], [fsync(2)], [renameat(2)], [close(2)], [getpid(2)]; by path also [openat2(2)]
//! and [readlinkat(2)]. `fault::Syscall` has the rest of the list.
//!
//! # All or nothing
//!
//! [`update_many`](AtomicFileAdapter::update_many) and [`Batch::commit_all`] change several files as one: who takes the locks
//! of several of them together sees all of them old or all of them new, whoever dies when, and, with [`Durability::Full`],
//! after a power cut too. What is done, with the exclusive locks of all files held:
//!
//! ```text
//! temporary files beside the files, as above       each with its new version, owner and mode
//! openat(locks, ".HASH.RANDOM.intent.RANDOM.tmp")  the intent: what is to be renamed and removed
//! pwrite(lock, "HASH.RANDOM.intent", 2048)         the mark of each lock file
//! fsync of all of these and of their directories   or one syncfs a file system, where there are 8 or more
//! renameat(locks, .., "HASH.RANDOM.intent"), fsync(locks)   from here on it is decided
//! renameat, unlinkat; fsync(dir)                   each file, then each directory
//! unlinkat(locks, "HASH.RANDOM.intent"), fsync(locks)       before a lock is let go, so that it never comes back
//! ftruncate(lock)                                  the marks
//! ```
//!
//! Whoever takes a lock, with whichever verb, is told by the lock file's length if it is marked, which the look at its name
//! tells in any case: nobody pays a call for it. If there is an intent of that name, its maker is dead. The lock is let
//! go, those of all of its files are taken, and what it says is done before anything else. It is nobody's turn to undo
//! anything: before the rename of the intent nothing has happened, and after it the change is made, by its maker or by
//! the next who comes.
//!
//! * The one who finishes needs the right to change the files. Who has not is told [`Error::Unfinished`], which names the
//!   intent. So is everybody where it cannot be finished: a directory was moved, a temporary file was removed by
//!   somebody, a disk is full or read-only. Nothing is read or written then until somebody has mended that, or has called
//!   [`give_up`](AtomicFileAdapter::give_up).
//! * An intent of another user is carried out only as far as this user could have done the same: he owns the intent, and
//!   the directory or the temporary file in it. Nobody is led to change files by others who may write to the lock
//!   directory. Where it takes more (a removal in a directory that is shared by its group), he or root has to come, and
//!   root can [`give_up`](AtomicFileAdapter::give_up).
//! * A file that a program without the locks has put in a file's place before the change was finished may be replaced.
//!   Where a directory was moved, its files can be read half changed at the new path: locks belong to paths.
//! * All programs that use a lock directory must know of this before one of them does it, those in other languages, too.
//! * [`Durability::Ordered`]: after a power cut each file is old or new, whole, but some may be new and some old.
//!   [`Durability::None`]: for processes only. `Full` is refused where the lock directory or a file is in memory.
//! * Who reads without the locks, or takes one lock after the other, may see some files new and others old.
//!
//! # Several machines
//!
//! The promise holds between clients of an NFSv4 server, with the mount options that one gets without asking, if the
//! files and the lock directory are there, and mounted at the same paths or below a [lock root](Builder::lock_root)
//! each. `tests/network` tries to break it, over NFSv4.2 and NFSv4.0, with Linux 6.1 on both sides. What it takes
//! beyond the calls above, on NFS only (elsewhere it takes one `fstatfs` to know that it is not NFS, where no device
//! number says so, which a file that is missing does not have: once a handle, and each time by path):
//!
//! ```text
//! fcntl(lock, F_SETLKW, ..)
//! statx(above lock directory), statx(lock directory)     AT_STATX_FORCE_SYNC: names there may have changed
//! fstatat(lock path)
//! statx(dir, "", AT_EMPTY_PATH)                          AT_STATX_FORCE_SYNC: and here
//! ..
//! pread(lock)                                            the lock is still there? else Error::LockLost
//! renameat, fsync(dir)
//! pread(lock)                                            and still?
//! ```
//!
//! A lock that is granted does not make right what a client remembers of names, that there is none included: these are
//! good for as long as what it remembers of their directory, up to a minute (`lookupcache` and `acdirmax` in [nfs(5)]).
//! So is what it remembers of a file's mode and owner, for which a write asks with one `statx` more. The contents need
//! no such care: what was replaced is another file.
//!
//! A server that has not heard of a client for longer than its lease, 90 seconds for example, gives the client's locks
//! to others. [`Error::LockLost`] says so before a file is replaced or removed, and nothing has happened then. A
//! machine that is cut off, or stands still, for the whole of the lease between this look and the rename is told
//! afterwards, with `replaced` true: its version has taken the place of what others may have written meanwhile. A read
//! does not look whether its lock is still there, nor does [`WriteGuard::set_mode`].
//!
//! [`prune`](AtomicFileAdapter::prune) is safe while other machines use the lock directory, but for the same window:
//! whoever waits for a lock file that is removed sees that when it gets the lock. What was removed on the server after
//! it was looked up (ESTALE) is looked up again, a few times, by the verbs of a file; batches, guards that write and
//! listings say it. A handle whose directory another machine has removed and made anew says it for good: make a new
//! one.
//!
//! Not promised:
//!
//! * NFSv3, whose locks are another protocol's, was not tried. `nolock` and `local_lock` ([nfs(5)]) keep locks from the
//!   server, as `nobrl` does with SMB: then each machine is alone with them.
//! * [`read_unlocked`](AtomicFile::read_unlocked) and [`exists`](AtomicFileAdapter::exists) may tell what was true a
//!   minute ago.
//! * A symbolic link in the last place of a path that is relative, or has `.`, `..`, `//` or a link in it, may be
//!   followed to where it led a minute ago, if a verb is given the path. A handle asks when it is made.
//! * That another directory took the place of one above a file, or of one further above the lock directory than the
//!   next, is seen within a minute only.
//! * A file system in FUSE, and SMB, keep each name for a time of its own, and no call makes them ask. Mount them so
//!   that they keep none (`entry_timeout=0,negative_timeout=0` where it is libfuse). Whether their record locks exclude
//!   other machines is up to them. GlusterFS, which is in FUSE, also has a cache of its own to be switched off; the
//!   [matrix](docs::proofs#on-which-file-systems) has the options with which nothing was seen to go wrong. CephFS was not tried.
//! * Apple's systems as clients of NFS.
//!
//! # What is not promised
//!
//! * Only programs with the same lock directory, and the same [lock root](Builder::lock_root) or none, exclude each
//!   other. The default directory is under the current one: right for programs that are all started in one place.
//!   Others name an absolute one, by [`with_lock_dir`](AtomicFileAdapter::with_lock_dir).
//! * The lock directory must be trusted: whoever can write to it, or to a directory above it, can hold every lock
//!   for ever, make programs lock different files, or take away the intent of a change of several files that is
//!   half done, and by a symbolic link at `.jerry` or `.jerry/local` in a directory that all may write to, such as
//!   `/tmp`, has the lock files of others made elsewhere. See [`Builder::lock_dir`].
//! * A path is followed as the kernel follows it, links included, with the rights of the program. One that handles paths in
//!   directories which others can write to, root above all, takes [`Builder::follow_links`] or is led elsewhere.
//! * Record locks are advisory, not mandatory. A program that writes to the file without them writes when it likes; a
//!   reader without them still sees whole versions, because a version is never changed, only replaced.
//! * A program in the same process that opens and closes a lock file by itself drops the locks of this crate on it:
//!   that is how POSIX wants it ([fcntl_locking(2)]). The crate itself refuses a path that is a hard link to a lock
//!   file which this process is using ([`Error::InvalidPath`]). It looks before it opens: a link that somebody puts
//!   there in between, or a lock file that is first used while another name of it is open (the `File` of
//!   [`AtomicFile::open`], for as long as it lives), is not seen. Do not let people link to lock files whom you do not
//!   trust (`fs.protected_hardlinks` in [proc_sys_fs(5)] keeps out those who may not read and write them).
//! * A fork is noticed by the process number. A child in a new PID namespace that has the same number there as its
//!   parent has in its own is taken for it.
//! * Deadlocks. Between threads of one process every cycle is told at once, also one that somebody's deadline would
//!   end. Between processes there is the kernel's word only (EDEADLK), which knows no threads and sees cycles where no
//!   thread waits for itself. It is believed of a thread that holds another lock, after 30 seconds in which it was said
//!   again and again and the same process was in the way. So a real cycle of two processes is told after 30 seconds,
//!   and a cycle that is none may be told where a thread holds a lock for longer than that, here or in that other
//!   process, while another thread of its process waits for what leads back to this one, or has waited for it with a
//!   limit. Some cycles are never told: the kernel follows one wait of each process and gives up after ten
//!   (`posix_locks_deadlock` in [fs/locks.c]), and who waits with a limit is not told. Where a thread needs several
//!   locks, [`lock_many`](AtomicFileAdapter::lock_many) keeps cycles from arising.
//! * A wait with a limit leaves a thread in F_SETLKW when it ends ([`AtomicFile::lock_timeout`]). When that is granted
//!   the lock and nobody waits, it lets go at once. In between, somebody else who only tries finds the lock taken.
//! * A path that was used lately and has become a symbolic link: the lock of the file that had been there may be waited
//!   for first.
//! * A lock belongs to a path. Other names of the same file (hard links, bind mounts) have locks of their own, and
//!   after a write by one name the other hard links keep the old version. Where a directory is mounted at several
//!   paths, in a container and on its host for example, [`Builder::lock_root`] makes the locks the same.
//! * A file that is a mount point itself, as a single file that was mounted into a container, can be read, but not
//!   replaced or removed: [rename(2)] says EBUSY, and the error what to do, which is to mount its directory. Nothing is
//!   written in place instead, because a reader could see that half done. Nor does who reads it there see what is
//!   written outside: a replacement is another file, and the mount stays with the old one.
//! * On overlayfs, which containers run on, all this holds from Linux 4.19 on, where an open file is the overlay's own
//!   ("ovl: stack file ops") and a lock stays when its file is copied up; the tests have seen it on 6.18. Two
//!   containers of one image share nothing that is in it, so a lock directory there is each one's own: that of shared
//!   files belongs beside them, on the volume. A mount with the option `volatile` leaves out every sync
//!   (Documentation/filesystems/overlayfs.rst), and [`Durability::Full`] is [`Durability::None`] on it.
//! * Where the file system ignores case, spell a name in one way. On Apple's systems the directories of a path and an
//!   existing file are found by their stored names, so that `Settings` and `settings` share a lock; a file or directory
//!   that does not exist yet has no stored name, a file with several hard links has many, and of a file's name only
//!   ASCII letters are looked at, not other letters nor Unicode normalization. Linux's case-insensitive directories are
//!   not looked into at all: do not mix absolute and relative paths there either.
//! * The new version has the owner, group, mode, access control list, `user` attributes, security label (SELinux,
//!   Smack) and capabilities of the old one, as they were when the write began. What the writer may not read or set is
//!   left out; where that is the owner, the group or the access control list, the new version lets in fewer than the
//!   old one did, and nobody else. Only the writer, who then owns it, gets what the owner had. A sandbox that refuses
//!   to tell of attributes makes the new version its owner's alone. A label of SELinux or Smack that the writer may not
//!   set makes the write fail. Not carried over: `trusted` attributes, the hashes of IMA and EVM, access control lists
//!   of NFSv4 and of Apple's systems (where a directory's list may let others in), the directory's project id, the
//!   flags of [chattr(1)], and the time of birth.
//! * On NFSv4 the mode is kept and nothing else. It may be the mask of a list that the server has, and then the group gains.
//! * A program that changes mode and list of a file without the lock while it is being replaced may find the new
//!   version with the mode from before and without the list.
//! * In a user namespace that does not map every id, a file of user or group 65534 is taken for one whose owner is not
//!   mapped ([user_namespaces(7)]), and becomes the writer's: the two look the same. So it is without /proc. An id that
//!   an idmapped mount does not map, or a sysctl `kernel.overflowuid` other than 65534, is not noticed.
//! * A durable write syncs the directories that it makes itself, not those that another process made a moment before.
//! * ext4 made with `fast_commit`, which is not the default: on Linux 6.18 the crash tests find torn files there, of this
//!   crate's writes and of `sync`, `mv` and `sync` alike.
//! * If a program without the locks puts a FIFO in the place of a file at the very moment when it is opened for reading, an
//!   empty file is read. Otherwise what is not a regular file is refused.
//! * Where inode numbers change at each look, as on some FUSE file systems, no lock file is ever seen to be the right
//!   one: locking ends with an error after 1000 attempts, or at the deadline. Have the lock directory elsewhere.
//! * Nobody can promise more for a power cut than the device keeps: one that says a flush is done when it is not loses
//!   data.
//!
//! # Where to go on
//!
//! | type | what it is |
//! |---|---|
//! | [`AtomicFileAdapter`] | every verb by path; its [`Builder`] has the settings, [`Durability`] among them |
//! | [`AtomicFile`] | one file, looked up once: `read`, `write`, `update`, `delete`, faster, and the locks |
//! | [`ReadGuard`], [`WriteGuard`] | a lock while it is held, for several steps under it |
//! | [`Replacement`] | a new version that is written piece by piece |
//! | [`Batch`] | writes and deletes of many files, which share their syncs, or are one change |
//! | [`LockFile`], [`LockHolder`], [`Waiting`] | who holds what, and who waits for it |
//! | [`Intent`] | a change of several files that somebody has not finished |
//! | [`Error`] | what went wrong, at which [`Step`] and on which path; [`FileKind`] where there is no regular file |
//!
//! Whole programs: a [counter](AtomicFileAdapter::update) that processes share,
//! [settings](AtomicFileAdapter::lock_many_shared) in layers and how to [edit](AtomicFileAdapter::try_update) them, a
//! [cron job](AtomicFile::try_lock) that must not run twice, and, in the module `fault`, an update tested with each of
//! its system calls failing.
//!
//! # Features
//!
//! None is on by default.
//!
//! * `fault-injection`: the module `fault`, which lets a test watch each system call of this crate, make it fail, or be
//!   the last one of the process. For your own tests only: `cargo add --dev atomic-file-adapter --features
//!   fault-injection`, beside the entry without it.
//! * `cli`: the command `atomic-file`.
//!
//! [chattr(1)]: https://man7.org/linux/man-pages/man1/chattr.1.html
//! [close(2)]: https://man7.org/linux/man-pages/man2/close.2.html
//! [fchmod(2)]: https://man7.org/linux/man-pages/man2/fchmod.2.html
//! [fchown(2)]: https://man7.org/linux/man-pages/man2/fchown.2.html
//! [fcntl_locking(2)]: https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
//! [fs/locks.c]: https://elixir.bootlin.com/linux/latest/source/fs/locks.c
//! [fstat(2)]: https://man7.org/linux/man-pages/man2/fstat.2.html
//! [fstatat(2)]: https://man7.org/linux/man-pages/man2/fstatat.2.html
//! [fsync(2)]: https://man7.org/linux/man-pages/man2/fsync.2.html
//! [getpid(2)]: https://man7.org/linux/man-pages/man2/getpid.2.html
//! [listxattr(2)]: https://man7.org/linux/man-pages/man2/listxattr.2.html
//! [nfs(5)]: https://man7.org/linux/man-pages/man5/nfs.5.html
//! [openat(2)]: https://man7.org/linux/man-pages/man2/openat.2.html
//! [openat2(2)]: https://man7.org/linux/man-pages/man2/openat2.2.html
//! [proc_sys_fs(5)]: https://man7.org/linux/man-pages/man5/proc_sys_fs.5.html
//! [readlinkat(2)]: https://man7.org/linux/man-pages/man2/readlinkat.2.html
//! [rename(2)]: https://man7.org/linux/man-pages/man2/rename.2.html
//! [renameat(2)]: https://man7.org/linux/man-pages/man2/renameat.2.html
//! [user_namespaces(7)]: https://man7.org/linux/man-pages/man7/user_namespaces.7.html
//! [write(2)]: https://man7.org/linux/man-pages/man2/write.2.html
//! [posix_fadvise(2)]: https://man7.org/linux/man-pages/man2/posix_fadvise.2.html
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![doc(test(attr(deny(warnings))))]

mod adapter;
mod batch;
pub mod docs;
mod error;
mod file;
mod lock;
mod path;
mod protocol;
mod settings;
mod sys;
mod version;

pub use crate::adapter::AtomicFileAdapter;
pub use crate::adapter::builder::Builder;
pub use crate::adapter::upkeep::{Intent, LockFile, LockHolder};
pub use crate::batch::Batch;
pub use crate::error::{Error, Result, Step};
pub use crate::file::AtomicFile;
pub use crate::file::guard::{ReadGuard, WriteGuard};
pub use crate::lock::Waiting;
pub use crate::settings::Durability;
pub use crate::sys::FileKind;
#[cfg(feature = "fault-injection")]
pub use crate::sys::fault;
pub use crate::version::replace::Replacement;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
