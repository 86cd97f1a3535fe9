//! overlayfs, which containers use. A file of the image is in a lower layer. When it is opened for writing, it is
//! copied to the upper layer. Locks, names and versions must be the same before and after the copy.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Error};

use crate::common::{Worker, hear, names, tell};
use crate::disks::Mount;
use crate::users::{NOBODY, become_user};
use crate::{Scratch, mode, set_mode, utf8};

/// Whether both layers are in one file system, which affects inode numbers, and the options of the mount ("Inode
/// properties" in Documentation/filesystems/overlayfs.rst).
const KINDS: [(bool, &str); 5] =
    [(true, "xino=off"), (false, "xino=off"), (false, "xino=on"), (false, "xino=off,index=on"), (false, "metacopy=on")];

struct Overlay {
    lower: PathBuf,
    merged: PathBuf,
    // They are unmounted in this order.
    _overlay: Mount,
    _disks: Vec<Mount>,
    scratch: Scratch,
}

impl Overlay {
    /// `fill` makes the contents of the lower layer.
    fn new((one_disk, options): (bool, &str), fill: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::new();
        let mut disks = Vec::new();
        let mut disk = |name| {
            let dir = scratch.make_dir(name, 0, 0o755);
            disks.push(Mount::new(&dir, &["-t", "tmpfs", "tmpfs"]));
            dir
        };
        let upper = disk("upper");
        let lower = if one_disk { upper.join("lower") } else { disk("lower").join("layer") };
        fs::create_dir(&lower).unwrap();
        for dir in [&lower, &upper] {
            set_mode(dir, 0o755);
        }
        fill(&lower);
        let merged = scratch.make_dir("merged", 0, 0o755);
        let overlay = mount_overlay(&lower, &upper, "first", options, &merged);
        Overlay { lower, merged, _overlay: overlay, _disks: disks, scratch }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.merged.join(name)
    }

    fn adapter(&self) -> AtomicFileAdapter {
        adapter(&self.merged)
    }

    fn hold(&self, user: &str, name: &str, kind: &str) -> Worker {
        let mut holder = Worker::start("hold_on_overlay", &[user, utf8(&self.merged), name, kind]);
        holder.expect("held");
        holder
    }
}

fn mount_overlay(lower: &Path, upper: &Path, layer: &str, options: &str, on: &Path) -> Mount {
    let [up, work] = ["up", "work"].map(|name| upper.join(format!("{layer} {name}")));
    fs::create_dir(&up).unwrap();
    fs::create_dir(&work).unwrap();
    set_mode(&up, 0o755);
    let layers = format!("lowerdir={},upperdir={},workdir={},{options}", utf8(lower), utf8(&up), utf8(&work));
    Mount::new(on, &["-t", "overlay", "-o", &layers, "overlay"])
}

fn adapter(dir: &Path) -> AtomicFileAdapter {
    AtomicFileAdapter::with_lock_dir(dir.join("locks")).unwrap()
}

/// An image with a lock directory, and with files that were used when the image was made.
fn image(names: &'static [&'static str]) -> impl FnOnce(&Path) {
    move |lower| {
        fs::create_dir(lower.join("locks")).unwrap();
        set_mode(&lower.join("locks"), 0o755);
        for name in names {
            let path = lower.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "old").unwrap();
            set_mode(&path, 0o640);
        }
    }
}

/// The lower layer's lock file that `name` has when the overlay is mounted.
fn lock_files(overlay: &Overlay, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| overlay.adapter().lock_path(overlay.at(name)).unwrap()).collect()
}

/// An overlay whose lower layer has these files and their lock files.
fn overlay(kind: (bool, &str), names: &'static [&'static str]) -> Overlay {
    // The names of the lock files depend on the mount point. So it is mounted, asked for the names, and mounted again.
    let overlay = Overlay::new(kind, image(names));
    let lock_files = lock_files(&overlay, names);
    let Overlay { lower, merged, _overlay, _disks, scratch } = overlay;
    drop(_overlay);
    for lock in lock_files {
        let below = lower.join(lock.strip_prefix(&merged).unwrap());
        fs::write(&below, "").unwrap();
        set_mode(&below, 0o644);
    }
    let upper = scratch.path("upper");
    let _overlay = mount_overlay(&lower, &upper, "second", kind.1, &merged);
    Overlay { lower, merged, _overlay, _disks, scratch }
}

/// The worker: holds the lock of a file, as some user, until it is told to release it. Then it takes and releases the
/// lock once more.
pub(crate) fn hold_on_overlay(args: &[String]) {
    let [user, dir, name, kind] = args else { panic!("{args:?}") };
    become_user(user);
    let dir = Path::new(dir);
    let file = adapter(dir).file(dir.join(name)).unwrap();
    for _ in 0..2 {
        let (reading, writing) = match &**kind {
            "shared" => (Some(file.lock_shared().unwrap()), None),
            _ => (None, Some(file.lock().unwrap())),
        };
        tell("held");
        hear();
        drop((reading, writing));
        tell("free");
        hear();
    }
}

fn is_taken<T>(result: Result<T, Error>) -> bool {
    match result {
        Ok(_) => false,
        Err(Error::WouldBlock { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

/// The first holder has opened the lock file in the lower layer, for reading only, because it may not write to it. The
/// second opens it for writing.
pub(crate) fn a_lock_holds_through_the_copy_up_of_its_file() {
    for kind in KINDS {
        let overlay = overlay(kind, &["file", "sub/file"]);
        for name in ["file", "sub/file"] {
            let mut reader = overlay.hold(NOBODY, name, "shared");
            let mine = overlay.adapter().file(overlay.at(name)).unwrap();
            let copy = overlay.scratch.path("upper/second up/locks").join(mine.lock_path().file_name().unwrap());
            assert!(!copy.exists(), "{kind:?}: reading has copied the lock file up");
            assert!(is_taken(mine.try_lock()), "{kind:?}");
            assert!(copy.exists(), "{kind:?}: to open it for writing has not copied it up");
            drop(mine.try_lock_shared().unwrap());
            assert!(is_taken(overlay.adapter().file(overlay.at(name)).unwrap().try_lock()), "{kind:?}, opened anew");
            reader.tell("let go");
            reader.expect("free");
            let guard = mine.lock().unwrap();
            let other = overlay.adapter().file(overlay.at(name)).unwrap();
            guard.write("new").unwrap();
            drop(guard);
            // The reader uses the descriptor that it has opened in the lower layer.
            reader.tell("again");
            reader.expect("held");
            assert!(is_taken(other.try_lock()), "{kind:?}, the second time");
            reader.kill();
            drop(other.lock().unwrap());
            assert_eq!(other.read().unwrap().unwrap(), b"new");
        }
    }
}

/// The worker: adds to the number in a file.
pub(crate) fn count_on_overlay(args: &[String]) {
    let [dir, times] = args else { panic!("{args:?}") };
    let dir = Path::new(dir);
    let adapter = adapter(dir);
    // The file is still in the lower layer.
    let file = adapter.file(dir.join("sub/counter")).unwrap();
    assert!(file.open().unwrap().is_some());
    tell("ready");
    hear();
    for n in 0..times.parse::<u32>().unwrap() {
        let add = |old: Option<&[u8]>| [old.expect("a file that was there"), b"x"].concat();
        match n % 2 {
            0 => file.update(add).unwrap(),
            _ => adapter.update(dir.join("sub/counter"), add).unwrap(),
        }
        if n % 8 == 0 {
            adapter.prune().unwrap();
        }
    }
}

/// The lock files are pruned meanwhile. Those of the lower layer become whiteouts.
pub(crate) fn no_update_is_lost_on_an_overlay() {
    const TIMES: usize = 100;
    for kind in KINDS {
        let overlay = overlay(kind, &["sub/counter"]);
        let mut workers =
            [0; 4].map(|_| Worker::start("count_on_overlay", &[utf8(&overlay.merged), &TIMES.to_string()]));
        workers.iter_mut().for_each(|worker| worker.expect("ready"));
        workers.iter_mut().for_each(|worker| worker.tell("go"));
        workers.into_iter().for_each(Worker::finish);
        let counted = overlay.adapter().read_with_lock(overlay.at("sub/counter")).unwrap().unwrap();
        assert_eq!(counted.len(), "old".len() + 4 * TIMES, "{kind:?}");
        assert_eq!(fs::read(overlay.lower.join("sub/counter")).unwrap(), b"old");
        assert_eq!(names(&overlay.at("sub")), ["counter"]);
    }
}

pub(crate) fn a_file_of_the_image_is_replaced_removed_and_made_again() {
    for kind in KINDS {
        let overlay = overlay(kind, &["file", "sub/deep/file", "sub/other"]);
        let adapter = overlay.adapter();
        let path = overlay.at("sub/deep/file");
        let handle = adapter.file(&path).unwrap();
        let mut version = handle.open().unwrap().unwrap();
        handle.update(|old| [old.unwrap(), b" and new"].concat()).unwrap();
        assert_eq!(adapter.read_with_lock(&path).unwrap().unwrap(), b"old and new", "{kind:?}");
        assert_eq!(mode(&path), 0o640, "{kind:?}");
        let mut text = String::new();
        version.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old", "{kind:?}: the version that was open");
        assert!(handle.delete().unwrap() && !handle.delete().unwrap(), "{kind:?}");
        assert_eq!(names(&overlay.at("sub/deep")), [""; 0]);
        handle.write("again").unwrap();
        assert_eq!(adapter.read_with_lock(&path).unwrap().unwrap(), b"again", "{kind:?}");
        adapter.batch().write(overlay.at("file"), "batch").delete(overlay.at("sub/other")).commit().unwrap();
        assert_eq!(
            (names(&overlay.at("sub")), fs::read(overlay.at("file")).unwrap()),
            (vec!["deep".into()], b"batch".to_vec())
        );
        let guards = adapter.lock_many([overlay.at("file"), overlay.at("sub/other")]).unwrap();
        guards[1].write(guards[0].read().unwrap().unwrap()).unwrap();
        drop(guards);
        assert_eq!(fs::read(overlay.at("sub/other")).unwrap(), b"batch");
        // The image has not changed.
        assert_eq!(fs::read(overlay.lower.join("sub/deep/file")).unwrap(), b"old");
    }
}

pub(crate) fn what_is_left_in_the_image_is_swept_and_pruned() {
    for kind in KINDS {
        let left = crate::common::temporary_name("file", "aaaaaaa");
        let overlay = overlay(kind, &["file", "sub/.file.aaaaaaa.tmp"]);
        fs::rename(overlay.at("sub/.file.aaaaaaa.tmp"), overlay.at("sub").join(&left)).unwrap();
        let locks = lock_files(&overlay, &["file", "sub/.file.aaaaaaa.tmp"]);
        let holder = overlay.hold("0", "file", "exclusive");
        assert_eq!(overlay.adapter().prune().unwrap(), [&*locks[1]], "{kind:?}: somebody holds the other");
        drop(holder);
        assert_eq!(overlay.adapter().sweep(overlay.at("sub")).unwrap(), [overlay.at("sub").join(&left)], "{kind:?}");
        let held = overlay.adapter().locks().unwrap();
        assert!(held.iter().all(|lock| lock.holder.is_none() && lock.problem.is_none()), "{kind:?}: {held:?}");
        overlay.adapter().prune().unwrap();
        assert_eq!(names(&overlay.at("locks")), [".gitignore"], "{kind:?}");
    }
}

/// A hard link to a lock file must not be opened as data. It is recognized by its inode number, so that has to be the
/// right one.
pub(crate) fn a_lock_file_is_known_by_its_inode_on_an_overlay() {
    for kind in KINDS {
        let overlay = overlay(kind, &["file"]);
        let adapter = overlay.adapter();
        let file = adapter.file(overlay.at("file")).unwrap();
        let guard = file.lock().unwrap();
        fs::hard_link(file.lock_path(), overlay.at("link")).unwrap();
        assert!(matches!(adapter.read_unlocked(overlay.at("link")), Err(Error::InvalidPath { .. })), "{kind:?}");
        symlink(file.lock_path(), overlay.at("symbolic")).unwrap();
        assert!(matches!(adapter.read_with_lock(overlay.at("symbolic")), Err(Error::InvalidPath { .. })), "{kind:?}");
        drop(guard);
    }
}

/// The worker: reads without the lock until it is told to stop.
pub(crate) fn read_on_overlay(args: &[String]) {
    let file = adapter(Path::new(&args[0])).file(Path::new(&args[0]).join("file")).unwrap();
    tell("ready");
    let mut seen = 0;
    while seen < 2000 {
        let version = file.read_unlocked().unwrap().expect("the file is missing for a moment");
        assert!(version.iter().all(|byte| *byte == version[0]) || version == b"old", "a mix");
        seen += 1;
    }
}

pub(crate) fn a_file_is_never_missing_on_an_overlay() {
    for kind in [KINDS[0], KINDS[1]] {
        let overlay = overlay(kind, &["file"]);
        let mut reader = Worker::start("read_on_overlay", &[utf8(&overlay.merged)]);
        reader.expect("ready");
        let file = overlay.adapter().file(overlay.at("file")).unwrap();
        for n in 0..200u8 {
            file.write(vec![n; 10_000]).unwrap();
        }
        reader.finish();
    }
}

/// Two containers of one image share neither their files nor their locks. A volume that they share must contain its own
/// lock directory.
pub(crate) fn two_overlays_of_one_image_have_locks_of_their_own() {
    let first = overlay(KINDS[1], &["file"]);
    let second = first.scratch.make_dir("second", 0, 0o755);
    let _mount = mount_overlay(&first.lower, &first.scratch.path("upper"), "third", KINDS[1].1, &second);
    let volumes = [first.at("volume"), second.join("volume")];
    let shared = first.scratch.make_dir("shared", 0, 0o755);
    let _mounts = volumes.each_ref().map(|volume| {
        fs::create_dir(volume).unwrap();
        Mount::new(volume, &["--bind", utf8(&shared)])
    });
    // Each has the lock directory in its own copy of the image, and a lock root, so that the names are the same.
    let rooted = |n: usize, dir: &Path| {
        let builder = AtomicFileAdapter::builder().lock_root(&volumes[n]).lock_dir(dir);
        builder.build().unwrap().file(volumes[n].join("data")).unwrap()
    };
    let own = [rooted(0, &first.at("locks")), rooted(1, &second.join("locks"))];
    assert_eq!(own[0].lock_path().file_name(), own[1].lock_path().file_name());
    let guard = own[0].lock().unwrap();
    drop(own[1].try_lock().expect("the locks of the two are not one"));
    drop(guard);
    let common = [rooted(0, &volumes[0].join("locks")), rooted(1, &volumes[1].join("locks"))];
    let guard = common[0].lock().unwrap();
    // In another thread, because this thread would get a deadlock error first.
    let taken = std::thread::scope(|scope| scope.spawn(|| is_taken(common[1].try_lock())).join().unwrap());
    assert!(taken);
    guard.writer().unwrap().write_all(b"half").unwrap();
    drop(guard);
}
