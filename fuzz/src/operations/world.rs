//! The files, adapters, handles and guards of one execution, and all operations on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use atomic_file_adapter::fault::{Action, Call, inject};
use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Durability, Error, ReadGuard, Result, WriteGuard};
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::calls::{self, Hit};
use super::language::{ADAPTERS, Act, Contents, DURABILITY, FILES, Faults, How, NEW_FILE_MODE, Op, Reading, Target};
use super::model::{Version, lock_files, next_version};
use crate::sandbox::sandbox;

pub(super) enum Guard {
    Read(ReadGuard),
    Write(WriteGuard),
}

pub(super) struct Held {
    pub(super) guard: Guard,
    pub(super) file: usize,
    pub(super) adapter: usize,
    /// The lock directory's path, in one spelling.
    pub(super) lock_path: PathBuf,
}

type Files = [Option<Version>; FILES.len()];

pub struct World {
    pub(super) tree: PathBuf,
    pub(super) locks: PathBuf,
    pub(super) adapters: Vec<AtomicFileAdapter>,
    pub(super) handles: BTreeMap<(&'static str, usize), AtomicFile>,
    pub(super) held: Vec<Held>,
    /// The model: the versions of the files,
    pub(super) files: Files,
    /// and the temporary files that were left, each with its file.
    pub(super) left: BTreeMap<PathBuf, usize>,
    pub(super) hit: Hit,
    /// The last call did not sync everything that its adapter should have synced.
    pub(super) unsynced: bool,
    /// All lock files so far, by inode.
    pub(super) witnesses: BTreeMap<u64, File>,
}

impl World {
    pub fn new() -> Self {
        umask(Mode::from_bits_truncate(0o022));
        let (tree, locks) = (sandbox().join("tree"), sandbox().join("locks"));
        for dir in [&tree, &locks] {
            // The first time it does not exist.
            let _ = fs::remove_dir_all(dir);
        }
        fs::create_dir_all(tree.join("d")).unwrap();
        symlink("a", tree.join("link")).unwrap();
        symlink("d/z", tree.join("ghost")).unwrap();
        let adapter = |number: usize| AtomicFileAdapter::builder().lock_dir(&locks).durability(DURABILITY[number]);
        let adapters = vec![
            adapter(0).build().unwrap(),
            adapter(1).lock_dir(tree.join("d/../../locks")).build().unwrap(),
            adapter(2).build().unwrap(),
            adapter(3).new_file_mode(NEW_FILE_MODE[3]).lock_timeout(Duration::ZERO).build().unwrap(),
        ];
        World {
            tree,
            locks,
            adapters,
            handles: BTreeMap::new(),
            held: Vec::new(),
            files: [const { None }; FILES.len()],
            left: BTreeMap::new(),
            hit: Hit::default(),
            unsynced: false,
            witnesses: BTreeMap::new(),
        }
    }

    /// Does the operation in the model and on the disk, and compares both.
    pub fn step(&mut self, op: &Op, faults: Option<&Faults>) {
        self.hit = Hit::default();
        match op {
            Op::Read(target, reading) => {
                let read = match reading {
                    Reading::Text => {
                        let (adapter, path) = self.by_path(*target);
                        let text = self.call(target.adapter(), faults, || adapter.read_to_string_with_lock(path));
                        text.map(|text| text.map(String::into_bytes))
                    }
                    _ => self.on(*target, faults, |file| read(file, *reading)),
                };
                self.judge_read(read, target.file(), self.keeps_itself_out(target.file(), true));
            }
            Op::Exists(target) => {
                let (adapter, path) = self.by_path(*target);
                let exists = self.call(target.adapter(), faults, || adapter.exists(path));
                assert!(exists == self.files[target.file()].is_some() || self.hit.any && !exists);
            }
            Op::Write(target, contents) => {
                let new = self.next_version(target.file(), contents.bytes(), target.new_mode());
                let written = if target.handle {
                    self.on(*target, faults, |file| file.write(contents.bytes()))
                } else {
                    let (adapter, path) = self.by_path(*target);
                    self.call(target.adapter(), faults, || adapter.write_atomic(path, contents.bytes()))
                };
                self.judge_change(written, target.file(), Some(new), true);
            }
            Op::Update { target, more, fails } => self.update(*target, *more, *fails, faults),
            Op::Delete(target) => {
                let deleted = self.on(*target, faults, AtomicFile::delete);
                self.judge_delete(deleted, target.file(), true);
            }
            Op::Batch { adapter, changes } => self.batch(*adapter, changes, faults),
            Op::Together { adapter, update, changes } => self.together(*adapter, *update, changes, faults),
            Op::Lock(target, how) => self.lock(*target, *how, faults),
            Op::LockMany { adapter, files, shared } => self.lock_many(*adapter, files, *shared, faults),
            Op::Inside { guard, act } => self.inside(*guard, act, faults),
            Op::Release { guard } => {
                if !self.held.is_empty() {
                    let held = self.held.swap_remove(usize::from(*guard) % self.held.len());
                    self.call(held.adapter, faults, || drop(held.guard));
                }
            }
            Op::Prune { adapter } => self.prune(*adapter, faults),
            Op::Sweep { target, directory } => self.sweep(*target, *directory, faults),
            Op::Chmod(target, mode) => {
                let mode = [0o600, 0o644, 0o755, 0o4711, 0o400][usize::from(*mode) % 5];
                if let Some(version) = &mut self.files[target.file()] {
                    fs::set_permissions(self.tree.join(FILES[target.file()]), Permissions::from_mode(mode)).unwrap();
                    version.mode = mode;
                }
            }
            Op::Outsider(target, contents) => self.outsider(*target, *contents),
            Op::KilledWriter(target) => self.killed_writer(*target),
            Op::KilledTogether { adapter, changes, call } => self.killed_together(*adapter, changes, *call),
        }
        self.compare();
    }

    /// Releases everything, and checks that nothing is left.
    pub fn end(mut self) {
        self.hit = Hit::default();
        self.held.clear();
        self.compare();
        self.prune(0, None);
        // One in each directory.
        for spelling in [0, 4, 7] {
            self.sweep(Target { spelling, adapter: 0, handle: false }, true, None);
        }
        self.compare();
        assert!(self.left.is_empty());
    }

    // Calls.

    fn spelled(&self, target: Target) -> PathBuf {
        self.tree.join(target.spelling().0)
    }

    /// The adapter and the path for a call by path.
    fn by_path(&self, target: Target) -> (AtomicFileAdapter, PathBuf) {
        (self.adapters[target.adapter()].clone(), self.spelled(target))
    }

    fn call<T>(&mut self, adapter: usize, faults: Option<&Faults>, body: impl FnOnce() -> T) -> T {
        let durability = DURABILITY[adapter];
        let called = calls::call(durability, faults, body);
        self.hit = called.hit;
        self.unsynced = called.unsynced && durability == Durability::Full;
        called.result
    }

    /// Runs a call through the target's handle, or through a new one.
    fn on<T>(
        &mut self,
        target: Target,
        faults: Option<&Faults>,
        verb: impl FnOnce(&AtomicFile) -> Result<T>,
    ) -> Result<T> {
        let (adapter, path) = self.by_path(target);
        if !target.handle {
            return self.call(target.adapter(), faults, || verb(&adapter.file(path)?));
        }
        let key = (target.spelling().0, target.adapter());
        let file = self.handles.entry(key).or_insert_with(|| adapter.file(path).unwrap()).clone();
        assert_eq!(file.path(), self.tree.join(FILES[target.file()]));
        self.call(target.adapter(), faults, || verb(&file))
    }

    fn update(&mut self, target: Target, more: Contents, fails: bool, faults: Option<&Faults>) {
        let old = self.files[target.file()].clone();
        let new = [old.as_ref().map_or(&b""[..], |old| &old.contents), &more.bytes()].concat();
        let new = self.next_version(target.file(), new, target.new_mode());
        let (adapter, path) = self.by_path(target);
        let change = |seen: Option<&[u8]>| {
            assert_eq!(seen, old.as_ref().map(|old| &old.contents[..]), "an update has not seen the current version");
            if fails { Err(Stopped::ByCaller) } else { Ok([seen.unwrap_or_default(), &more.bytes()].concat()) }
        };
        let updated = if target.handle {
            self.on(target, faults, |file| Ok(file.try_update(change))).unwrap_or_else(|error| Err(error.into()))
        } else {
            self.call(target.adapter(), faults, || adapter.try_update(path, change))
        };
        match updated {
            Err(Stopped::ByCaller) => assert!(fails && !self.holds(target.file())),
            Err(Stopped::By(error)) => self.judge_change(Err(error), target.file(), Some(new), true),
            Ok(()) => {
                assert!(!fails);
                self.judge_change(Ok(()), target.file(), Some(new), true);
            }
        }
    }

    fn batch(&mut self, adapter: u8, changes: &[(Target, Option<Contents>)], faults: Option<&Faults>) {
        let adapter = usize::from(adapter) % ADAPTERS;
        let mut batch = self.adapters[adapter].batch();
        let mut new = self.files.clone();
        let mut touched = BTreeSet::new();
        for (target, contents) in changes.iter().take(20) {
            // All files of this batch use this adapter.
            let target = Target { adapter: adapter as u8, ..*target };
            match contents {
                Some(contents) => batch.write(self.spelled(target), contents.bytes()),
                None => batch.delete(self.spelled(target)),
            };
            new[target.file()] =
                contents.map(|contents| next_version(&new[target.file()], contents.bytes(), target.new_mode()));
            touched.insert(target.file());
        }
        let would_deadlock = touched.iter().any(|file| self.holds(*file));
        match self.call(adapter, faults, || batch.commit()) {
            Ok(()) => {
                assert!(!would_deadlock && !self.unsynced);
                self.files = new;
            }
            Err(Error::Batch { replaced, source, .. }) => {
                match *source {
                    Error::Deadlock { .. } => assert!(would_deadlock && replaced.is_empty()),
                    error => assert!(self.hit.any, "{error}"),
                }
                for path in replaced {
                    let file = FILES.iter().position(|file| self.tree.join(file) == path).expect("one of the files");
                    assert!(touched.contains(&file));
                    self.files[file] = new[file].clone();
                }
            }
            Err(error) => panic!("a batch has failed with {error:?}"),
        }
    }

    /// The files after these changes of several files, and the numbers of the changed ones.
    fn changed(&self, adapter: usize, changes: &[(Target, Option<Contents>)]) -> (Files, BTreeSet<usize>) {
        let mut new = self.files.clone();
        for (target, contents) in changes {
            let target = Target { adapter: adapter as u8, ..*target };
            new[target.file()] =
                contents.map(|contents| next_version(&new[target.file()], contents.bytes(), target.new_mode()));
        }
        (new, changes.iter().map(|(target, _)| target.file()).collect())
    }

    fn together(&mut self, number: u8, update: bool, changes: &[(Target, Option<Contents>)], faults: Option<&Faults>) {
        let number = usize::from(number) % ADAPTERS;
        let adapter = self.adapters[number].clone();
        let changes = &changes[..changes.len().min(8)];
        let (new, touched) = self.changed(number, changes);
        let would_deadlock = touched.iter().any(|file| self.holds(*file));
        let paths: Vec<PathBuf> = changes.iter().map(|(target, _)| self.spelled(*target)).collect();
        let contents: Vec<_> = changes.iter().map(|(_, contents)| contents.map(Contents::bytes)).collect();
        let old: Vec<_> = changes
            .iter()
            .map(|(target, _)| self.files[target.file()].as_ref().map(|old| old.contents.clone()))
            .collect();
        let changed = if update {
            self.call(number, faults, || {
                adapter.update_many(&paths, |seen| {
                    assert!(seen == old, "an update of several files has not seen the current versions");
                    contents
                })
            })
        } else {
            let mut batch = adapter.batch();
            for (path, contents) in paths.iter().zip(contents) {
                match contents {
                    Some(contents) => batch.write(path, contents),
                    None => batch.delete(path),
                };
            }
            self.call(number, faults, || batch.commit_all())
        };
        match changed {
            Ok(()) => {
                assert!(!would_deadlock && !self.unsynced);
                self.files = new;
            }
            Err(Error::NotDurable { .. }) => {
                assert!(self.hit.any);
                self.files = new;
            }
            Err(Error::Unfinished { .. }) => {
                assert!(self.hit.any);
                // As the next caller does.
                adapter.recover().unwrap();
                self.files = new;
            }
            Err(Error::Deadlock { .. }) => assert!(would_deadlock),
            // All of this is in memory.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::Unsupported => {
                assert!(self.hit.any || DURABILITY[number] == Durability::Full && touched.len() > 1);
            }
            Err(error) => assert!(self.hit.any, "{error}"),
        }
    }

    /// Another process is killed in the middle of a change of several files.
    fn killed_together(&mut self, number: u8, changes: &[(Target, Option<Contents>)], call: u8) {
        let number = usize::from(number) % ADAPTERS;
        let adapter = self.adapters[number].clone();
        let changes = &changes[..changes.len().min(8)];
        let (new, touched) = self.changed(number, changes);
        if touched.iter().any(|file| self.holds(*file)) {
            return;
        }
        let mut batch = adapter.batch();
        for (target, contents) in changes {
            match contents {
                Some(contents) => batch.write(self.spelled(*target), contents.bytes()),
                None => batch.delete(self.spelled(*target)),
            };
        }
        // SAFETY: the only other thread is libFuzzer's watch over time and memory, and it has locked nothing that the
        // child needs.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let die = move |seen: &Call<'_>| {
                    if seen.number == usize::from(call) { Action::Kill } else { Action::Proceed }
                };
                // If it hangs, which would be a fault, it ends with its parent.
                let done = set_pdeathsig(Signal::SIGKILL).is_ok() && inject(die, || batch.commit_all()).0.is_ok();
                // SAFETY: no other code runs after this.
                unsafe { libc::_exit(i32::from(!done)) }
            }
            ForkResult::Parent { child } => {
                let ended = std::iter::repeat_with(|| waitpid(child, None)).find(|ended| *ended != Err(Errno::EINTR));
                let done = match ended {
                    Some(Ok(WaitStatus::Signaled(..))) => None,
                    Some(Ok(WaitStatus::Exited(_, code))) => Some(code == 0),
                    other => panic!("{other:?}"),
                };
                if self.look().0 != self.files || done == Some(true) {
                    // The change was decided.
                    self.files = new.clone();
                }
                adapter.recover().unwrap();
                let (found, left) = self.look();
                if found == new {
                    self.files = new;
                }
                assert!(done != Some(false) || found == self.files && left == self.left);
                self.left = left;
            }
        }
    }

    fn lock(&mut self, target: Target, how: How, faults: Option<&Faults>) {
        if self.held.len() == 4 {
            return;
        }
        let (mut lock_path, locks) = (PathBuf::new(), self.locks.clone());
        let locked = self.on(target, faults, |file| {
            lock_path = locks.join(file.lock_path().file_name().unwrap());
            Ok(match how {
                How::Lock => Guard::Write(file.lock()?),
                How::Shared => Guard::Read(file.lock_shared()?),
                How::Try => Guard::Write(file.try_lock()?),
                How::TryShared => Guard::Read(file.try_lock_shared()?),
                How::Timeout => Guard::Write(file.lock_timeout(Duration::ZERO)?),
                How::SharedTimeout => Guard::Read(file.lock_shared_timeout(Duration::ZERO)?),
            })
        });
        let shared = matches!(how, How::Shared | How::TryShared | How::SharedTimeout);
        let holds = self.keeps_itself_out(target.file(), shared);
        match locked {
            Ok(guard) => {
                assert!(!holds, "a thread has taken a lock that it holds");
                self.held.push(Held { guard, file: target.file(), adapter: target.adapter(), lock_path });
            }
            Err(Error::WouldBlock { .. }) if matches!(how, How::Try | How::TryShared) => assert!(holds || self.hit.any),
            Err(Error::Deadlock { .. }) => assert!(holds),
            Err(error) => assert!(self.hit.any, "{error}"),
        }
    }

    fn lock_many(&mut self, adapter: u8, files: &[Option<Target>], shared: bool, faults: Option<&Faults>) {
        let number = usize::from(adapter) % ADAPTERS;
        let adapter = self.adapters[number].clone();
        let targets: Vec<Target> = files.iter().copied().flatten().collect();
        if self.held.len() + targets.len() > 4 {
            return;
        }
        let paths: Vec<PathBuf> = targets.iter().map(|target| self.spelled(*target)).collect();
        let guards: Result<Vec<Guard>> = self.call(number, faults, || {
            Ok(if shared {
                adapter.lock_many_shared(&paths)?.into_iter().map(Guard::Read).collect()
            } else {
                adapter.lock_many(&paths)?.into_iter().map(Guard::Write).collect()
            })
        });
        let would_deadlock = targets.iter().any(|target| self.keeps_itself_out(target.file(), shared));
        match guards {
            Ok(guards) => {
                assert!(!would_deadlock, "a thread has taken a lock that it holds");
                for (guard, (target, path)) in guards.into_iter().zip(targets.iter().zip(&paths)) {
                    let lock_path = self.locks.join(adapter.lock_path(path).unwrap().file_name().unwrap());
                    self.held.push(Held { guard, file: target.file(), adapter: number, lock_path });
                }
            }
            Err(Error::Deadlock { .. }) => assert!(would_deadlock),
            Err(error) => assert!(self.hit.any, "{error}"),
        }
    }

    fn inside(&mut self, guard: u8, act: &Act, faults: Option<&Faults>) {
        if self.held.is_empty() {
            return;
        }
        let place = usize::from(guard) % self.held.len();
        // Taken out of the list, so that `self` can be used.
        let held = self.held.swap_remove(place);
        let (file, adapter) = (held.file, held.adapter);
        let version = |world: &Self, contents| Some(world.next_version(file, contents, NEW_FILE_MODE[adapter]));
        match (&held.guard, act) {
            (Guard::Read(guard), _) => {
                let read = self.call(adapter, faults, || guard.read());
                self.judge_read(read, file, false);
            }
            (Guard::Write(guard), Act::Read) => {
                let read = self.call(adapter, faults, || guard.read());
                self.judge_read(read, file, false);
            }
            (Guard::Write(guard), Act::Delete) => {
                let deleted = self.call(adapter, faults, || guard.delete());
                self.judge_delete(deleted, file, false);
            }
            (Guard::Write(guard), Act::Write(contents)) => {
                let written = self.call(adapter, faults, || guard.write(contents.bytes()));
                let new = version(self, contents.bytes());
                self.judge_change(written, file, new, false);
            }
            (Guard::Write(guard), Act::Stream { pieces, commit }) => {
                let pieces: Vec<Vec<u8>> = pieces.iter().take(5).map(|piece| piece.bytes()).collect();
                let written = self.call(adapter, faults, || {
                    let mut writer = guard.writer()?;
                    let written = pieces.iter().try_for_each(|piece| writer.write_all(piece));
                    if !commit {
                        return Ok(false);
                    }
                    // Also after a failed write. Then the commit must fail.
                    let committed = writer.commit();
                    assert!(written.is_ok() || committed.is_err(), "half a version was committed");
                    committed.map(|()| true)
                });
                if *commit {
                    let new = version(self, pieces.concat());
                    self.judge_change(written.map(drop), file, new, false);
                } else if let Err(error) = written {
                    assert!(self.hit.any, "{error}");
                }
            }
        }
        self.held.push(held);
    }

    fn prune(&mut self, adapter: u8, faults: Option<&Faults>) {
        let number = usize::from(adapter) % ADAPTERS;
        let adapter = self.adapters[number].clone();
        match self.call(number, faults, || adapter.prune()) {
            Ok(_) => {
                let kept: BTreeSet<PathBuf> = lock_files(&self.locks);
                let held: BTreeSet<PathBuf> = self.held.iter().map(|held| held.lock_path.clone()).collect();
                // A failed try reports the lock as taken.
                assert!(kept == held || self.hit.any && kept.is_superset(&held), "kept {kept:?}, held {held:?}");
            }
            Err(error) => assert!(self.hit.any, "{error}"),
        }
    }

    fn sweep(&mut self, target: Target, directory: bool, faults: Option<&Faults>) {
        let (adapter, path) = self.by_path(target);
        let place = self.tree.join(FILES[target.file()]);
        let swept_path = if directory { path.parent().unwrap().to_owned() } else { path };
        let in_reach = |file: &usize| {
            let its_place = self.tree.join(FILES[*file]);
            // `ghost` is a path in the tree, and leads to a directory below it.
            let parent = if directory { swept_path.canonicalize().ok() } else { None };
            !self.holds(*file) && if directory { its_place.parent() == parent.as_deref() } else { its_place == place }
        };
        let expected = self.left.iter().filter(|(_, file)| in_reach(file)).map(|(path, _)| path.clone());
        let expected: BTreeSet<PathBuf> = expected.collect();
        match self.call(target.adapter(), faults, || adapter.sweep(&swept_path)) {
            Ok(swept) => {
                let swept: BTreeSet<PathBuf> = swept.into_iter().filter(|path| !is_in_lock_directory(path)).collect();
                assert!(swept == expected || self.hit.any && swept.is_subset(&expected), "{swept:?}, not {expected:?}");
            }
            Err(error) => assert!(self.hit.any, "{error}"),
        }
        let (kept, gone): (Vec<_>, Vec<_>) = self.left.keys().cloned().partition(|path| path.exists());
        assert!(gone.iter().all(|path| expected.contains(path)), "a sweep has removed {gone:?}, not {expected:?}");
        assert!(self.hit.any || kept.iter().all(|path| !expected.contains(path)), "a sweep has left {kept:?}");
        self.left.retain(|path, _| !gone.contains(path));
    }

    /// Another process is killed in the middle of a write.
    fn killed_writer(&mut self, target: Target) {
        if self.holds(target.file()) {
            return;
        }
        let (adapter, path) = self.by_path(target);
        // SAFETY: the only other thread is libFuzzer's watch over time and memory, and it has locked nothing that the
        // child needs.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let write = || -> Option<()> {
                    // If it hangs, which would be a fault, it ends with its parent.
                    set_pdeathsig(Signal::SIGKILL).ok()?;
                    let file = adapter.file(path).ok()?;
                    let guard = file.lock().ok()?;
                    let mut writer = guard.writer().ok()?;
                    writer.write_all(b"half of it").ok()?;
                    // SAFETY: no other code runs after this, as if the process were killed here.
                    unsafe { libc::_exit(0) }
                };
                let _nothing = write();
                // SAFETY: no other code runs after this.
                unsafe { libc::_exit(1) }
            }
            ForkResult::Parent { child } => {
                // libFuzzer's timer interrupts it.
                let ended = std::iter::repeat_with(|| waitpid(child, None)).find(|ended| *ended != Err(Errno::EINTR));
                assert_eq!(ended, Some(Ok(WaitStatus::Exited(child, 0))));
            }
        }
        let (_, there) = self.look();
        assert_eq!(there.len(), self.left.len() + 1, "a killed writer leaves one temporary file");
        self.left = there;
    }

    fn outsider(&mut self, target: Target, contents: Option<Contents>) {
        let path = self.tree.join(FILES[target.file()]);
        match contents {
            Some(contents) => {
                let contents = contents.bytes();
                if fs::write(&path, &contents).is_ok() {
                    let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
                    self.files[target.file()] = Some(Version { contents, mode });
                }
            }
            None => {
                if fs::remove_file(&path).is_ok() {
                    self.files[target.file()] = None;
                }
            }
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn read(file: &AtomicFile, reading: Reading) -> Result<Option<Vec<u8>>> {
    match reading {
        Reading::Whole | Reading::Text => file.read(),
        Reading::Into => {
            let mut contents = b"old".to_vec();
            let read = file.read_into(&mut contents)?;
            assert_eq!(read.unwrap_or_default(), contents.len());
            Ok(read.map(|_| contents))
        }
        Reading::Open => Ok(file.open()?.map(|mut opened| {
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut opened, &mut contents).unwrap();
            contents
        })),
    }
}

/// Whether this is a leftover in the lock directory, of a process that was making the `.gitignore` or an intent.
fn is_in_lock_directory(swept: &Path) -> bool {
    let name = swept.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".gitignore") || name.contains(".intent")
}

enum Stopped {
    ByCaller,
    By(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::By(error)
    }
}
