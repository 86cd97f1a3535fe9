//! The contests: this crate and its peers.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use atomic_file_adapter::{AtomicFile, AtomicFileAdapter, Batch, Durability};

use crate::helpers::Helper;
use crate::peers::*;
use crate::turns::time;

pub const SMALL: &[u8] = &[b'x'; 4096];
const LARGE: usize = 100_000_000;
/// The part of the large file that this crate has in memory at a time.
const PIECE: usize = 1_000_000;
const PROCESSES: u64 = 8;

/// Does something so many times, and returns how long that took.
pub type Run = Box<dyn FnMut(u64) -> Duration>;

/// Ways to do the same thing.
pub struct Contest {
    pub name: &'static str,
    /// How long a way is measured before the next one's turn.
    pub batch: Duration,
    /// The others are compared with the first.
    pub ways: &'static [Way],
}

pub struct Way {
    pub name: &'static str,
    /// Prepares a directory. `None`: this machine lacks something that the way needs.
    pub prepare: fn(&Path) -> Option<Run>,
}

/// Long enough for the clock, and short enough that the machine is in the same state for all ways of a round.
const BATCH: Duration = Duration::from_millis(2);
const LONG_BATCH: Duration = Duration::from_millis(20);
/// Several turns of processes that hand a lock round.
const CONTENDED_BATCH: Duration = Duration::from_millis(150);

pub const CONTESTS: &[Contest] = &[
    Contest {
        name: "write",
        batch: BATCH,
        ways: &[
            Way {
                name: "bare sequence",
                prepare: |dir| {
                    let dir = dir.to_owned();
                    repeat(move || bare_write(&dir, c"bare", SMALL))
                },
            },
            Way {
                name: "bare sequence + two fcntl",
                prepare: |dir| {
                    let (dir, lock) = (dir.to_owned(), fcntl_lock_file(dir));
                    repeat(move || between_fcntl_calls(&lock, || bare_write(&dir, c"bare-fcntl", SMALL)))
                },
            },
            Way {
                name: "ours, handle",
                prepare: |dir| {
                    let file = handle(dir, "handle");
                    repeat(move || file.write(SMALL).unwrap())
                },
            },
            Way {
                name: "ours, by path",
                prepare: |dir| {
                    let (adapter, path) = (adapter(dir), dir.join("path"));
                    repeat(move || adapter.write_atomic(&path, SMALL).unwrap())
                },
            },
            Way {
                name: "tempfile",
                prepare: |dir| {
                    let path = dir.join("tempfile");
                    repeat(move || tempfile_write(&path, SMALL))
                },
            },
            Way {
                name: "atomic-write-file",
                prepare: |dir| {
                    let path = dir.join("atomic-write-file");
                    repeat(move || atomic_write_file(&path, SMALL))
                },
            },
            Way {
                name: "fs4 + tempfile",
                prepare: |dir| {
                    let (path, lock) = (dir.join("fs4"), dir.join("fs4.lock"));
                    repeat(move || fs4_write(&path, &lock, SMALL))
                },
            },
            Way {
                name: "atomicwrites",
                prepare: |dir| {
                    let path = dir.join("atomicwrites");
                    repeat(move || atomicwrites_write(&path, SMALL))
                },
            },
            Way { name: "Python reference", prepare: |dir| python("write", dir) },
        ],
    },
    Contest {
        name: "read",
        batch: BATCH,
        ways: &[
            Way {
                name: "std::fs::read",
                prepare: |dir| {
                    let path = small_file(dir);
                    repeat(move || drop(black_box(fs::read(&path).unwrap())))
                },
            },
            Way {
                name: "ours, handle",
                prepare: |dir| {
                    small_file(dir);
                    let file = handle(dir, "small");
                    repeat(move || drop(black_box(file.read().unwrap().unwrap())))
                },
            },
            Way {
                name: "ours, by path",
                prepare: |dir| {
                    let (adapter, path) = (adapter(dir), small_file(dir));
                    repeat(move || drop(black_box(adapter.read_with_lock(&path).unwrap().unwrap())))
                },
            },
            Way {
                name: "fs4 + std::fs::read",
                prepare: |dir| {
                    let (path, lock) = (small_file(dir), dir.join("small.lock"));
                    repeat(move || drop(black_box(fs4_read(&path, &lock))))
                },
            },
            Way {
                name: "Python reference",
                prepare: |dir| {
                    small_file(dir);
                    python("read", dir)
                },
            },
        ],
    },
    Contest {
        name: "update",
        batch: BATCH,
        ways: &[
            Way {
                name: "fs4 + tempfile",
                prepare: |dir| {
                    let (path, lock) = (dir.join("fs4"), dir.join("fs4.lock"));
                    fs4_write(&path, &lock, SMALL);
                    repeat(move || fs4_update(&path, &lock, <[u8]>::to_vec))
                },
            },
            Way {
                name: "ours, handle",
                prepare: |dir| {
                    let file = handle(dir, "handle");
                    file.write(SMALL).unwrap();
                    repeat(move || file.update(|old| old.unwrap().to_vec()).unwrap())
                },
            },
            Way {
                name: "ours, by path",
                prepare: |dir| {
                    let (adapter, path) = (adapter(dir), dir.join("path"));
                    adapter.write_atomic(&path, SMALL).unwrap();
                    repeat(move || adapter.update(&path, |old| old.unwrap().to_vec()).unwrap())
                },
            },
        ],
    },
    Contest {
        name: "lock and unlock",
        batch: BATCH,
        ways: &[
            Way {
                name: "two fcntl calls",
                prepare: |dir| {
                    let lock = fcntl_lock_file(dir);
                    repeat(move || between_fcntl_calls(&lock, || ()))
                },
            },
            Way {
                name: "ours, handle",
                prepare: |dir| {
                    let file = handle(dir, "handle");
                    repeat(move || drop(file.lock().unwrap()))
                },
            },
        ],
    },
    Contest {
        name: "read in two threads",
        batch: LONG_BATCH,
        ways: &[
            Way {
                name: "ours, one thread",
                prepare: |dir| {
                    small_file(dir);
                    let file = handle(dir, "small");
                    repeat(move || drop(black_box(file.read().unwrap().unwrap())))
                },
            },
            Way {
                name: "ours, two threads",
                prepare: |dir| {
                    small_file(dir);
                    let file = handle(dir, "small");
                    repeat_in_two_threads(move || drop(black_box(file.read().unwrap().unwrap())))
                },
            },
            Way {
                name: "std::fs::read, one thread",
                prepare: |dir| {
                    let path = small_file(dir);
                    repeat(move || drop(black_box(fs::read(&path).unwrap())))
                },
            },
            Way {
                name: "std::fs::read, two threads",
                prepare: |dir| {
                    let path = small_file(dir);
                    repeat_in_two_threads(move || drop(black_box(fs::read(&path).unwrap())))
                },
            },
        ],
    },
    Contest {
        name: "8 processes, 90% reads",
        batch: CONTENDED_BATCH,
        ways: &[
            Way { name: FS4, prepare: |dir| processes("8 processes, 90% reads", FS4, dir) },
            Way { name: HANDLE, prepare: |dir| processes("8 processes, 90% reads", HANDLE, dir) },
            Way { name: BY_PATH, prepare: |dir| processes("8 processes, 90% reads", BY_PATH, dir) },
        ],
    },
    Contest {
        name: "8 processes, 50% reads",
        batch: CONTENDED_BATCH,
        ways: &[
            Way { name: FS4, prepare: |dir| processes("8 processes, 50% reads", FS4, dir) },
            Way { name: HANDLE, prepare: |dir| processes("8 processes, 50% reads", HANDLE, dir) },
            Way { name: BY_PATH, prepare: |dir| processes("8 processes, 50% reads", BY_PATH, dir) },
        ],
    },
    Contest {
        name: "write 100 files",
        batch: LONG_BATCH,
        ways: &[
            Way {
                name: "ours, by path, one by one",
                prepare: |dir| {
                    let (adapter, paths) = (adapter(dir), hundred(dir, "one-by-one"));
                    repeat(move || paths.iter().for_each(|path| adapter.write_atomic(path, SMALL).unwrap()))
                },
            },
            Way {
                name: "ours, batch",
                prepare: |dir| {
                    let (adapter, paths) = (adapter(dir), hundred(dir, "batch"));
                    repeat(move || batch_of(&adapter, &paths).commit().unwrap())
                },
            },
            Way {
                name: "ours, batch, all or nothing",
                prepare: |dir| {
                    let (adapter, paths) = (all_or_nothing(dir), hundred(dir, "all-or-nothing"));
                    repeat(move || batch_of(&adapter, &paths).commit_all().unwrap())
                },
            },
        ],
    },
    Contest {
        name: "write 100 MB",
        batch: LONG_BATCH,
        ways: &[
            Way {
                name: "std::fs::write + fsync",
                prepare: |dir| {
                    let (path, contents) = (dir.join("large-std"), vec![b'x'; LARGE]);
                    repeat(move || std_write(&path, &contents))
                },
            },
            Way {
                name: "ours, writer()",
                prepare: |dir| {
                    let (file, piece) = (handle(dir, "large"), vec![b'x'; PIECE]);
                    repeat(move || large_write(&file, &piece))
                },
            },
        ],
    },
    Contest {
        name: "read 100 MB",
        batch: LONG_BATCH,
        ways: &[
            Way {
                name: "std::fs::read",
                prepare: |dir| {
                    let path = large_file(dir);
                    repeat(move || drop(black_box(fs::read(&path).unwrap())))
                },
            },
            Way {
                name: "ours, handle",
                prepare: |dir| {
                    large_file(dir);
                    let file = handle(dir, "large");
                    repeat(move || drop(black_box(file.read().unwrap().unwrap())))
                },
            },
        ],
    },
];

/// The targets of issue 5: contest, way, and the most of another way's time that it may take.
pub const TARGETS: &[(&str, &str, f64, &str)] = &[
    ("write", "ours, handle", 1.15, "bare sequence + two fcntl"),
    ("write", "ours, by path", 1.0, "fs4 + tempfile"),
    ("read", "ours, handle", 1.3, "std::fs::read"),
    ("read", "ours, by path", 1.15, "fs4 + std::fs::read"),
    ("lock and unlock", "ours, handle", 1.3, "two fcntl calls"),
    ("read in two threads", "ours, two threads", 1.0 / 1.6, "ours, one thread"),
    ("8 processes, 90% reads", HANDLE, 1.0, FS4),
    ("8 processes, 90% reads", BY_PATH, 1.0, FS4),
    ("8 processes, 50% reads", HANDLE, 1.0, FS4),
    ("8 processes, 50% reads", BY_PATH, 1.0, FS4),
    ("write 100 MB", "ours, writer()", 1.0 / 0.95, "std::fs::write + fsync"),
    ("read 100 MB", "ours, handle", 1.0 / 0.95, "std::fs::read"),
];

const FS4: &str = "fs4 + tempfile";
const HANDLE: &str = "ours, handle";
const BY_PATH: &str = "ours, by path";

/// One of the processes of a contest of processes. One in so many operations is a read, the others are writes.
pub fn process(contest: &str, way: &str, dir: &Path) -> Box<dyn FnMut(u64)> {
    let reads = if contest.contains("90%") { 9 } else { 5 };
    // 7 has no factor in common with 10, so reads and writes alternate. Every process begins at another place.
    let first = u64::from(std::process::id());
    let is_read = move |n: u64| (first + n * 7) % 10 < reads;
    let (path, lock) = (dir.join("small"), dir.join("small.lock"));
    match way {
        FS4 => {
            Box::new(
                move |n| {
                    if is_read(n) { drop(black_box(fs4_read(&path, &lock))) } else { fs4_write(&path, &lock, SMALL) }
                },
            )
        }
        HANDLE => {
            let file = handle(dir, "small");
            Box::new(
                move |n| {
                    if is_read(n) { drop(black_box(file.read().unwrap())) } else { file.write(SMALL).unwrap() }
                },
            )
        }
        BY_PATH => {
            let adapter = adapter(dir);
            Box::new(move |n| {
                if is_read(n) {
                    drop(black_box(adapter.read_with_lock(&path).unwrap()));
                } else {
                    adapter.write_atomic(&path, SMALL).unwrap();
                }
            })
        }
        _ => panic!("no such way: {way}"),
    }
}

/// The operations are divided among the processes. The time is that of all together, until the last process ends.
fn processes(contest: &str, way: &str, dir: &Path) -> Option<Run> {
    small_file(dir);
    let mut helpers: Vec<Helper> = (0..PROCESSES).map(|_| Helper::way(contest, way, dir)).collect::<Option<_>>()?;
    Some(Box::new(move |times| {
        let start = Instant::now();
        let each = times.div_ceil(PROCESSES);
        for helper in &mut helpers {
            helper.tell(each);
        }
        for helper in &mut helpers {
            helper.hear();
        }
        start.elapsed().mul_f64(times as f64 / (each * PROCESSES) as f64)
    }))
}

fn python(verb: &str, dir: &Path) -> Option<Run> {
    let mut helper = Helper::python(verb, dir)?;
    Some(Box::new(move |times| {
        helper.tell(times);
        Duration::from_secs_f64(helper.hear())
    }))
}

#[expect(clippy::unnecessary_wraps, reason = "what `prepare` returns")]
fn repeat(mut once: impl FnMut() + 'static) -> Option<Run> {
    Some(Box::new(move |times| time(times, &mut once)))
}

#[expect(clippy::unnecessary_wraps, reason = "what `prepare` returns")]
fn repeat_in_two_threads(once: impl Fn() + Sync + 'static) -> Option<Run> {
    Some(Box::new(move |times| {
        let half = || (0..times.div_ceil(2)).for_each(|_| once());
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(half);
            half();
        });
        start.elapsed()
    }))
}

pub fn adapter(dir: &Path) -> AtomicFileAdapter {
    AtomicFileAdapter::with_lock_dir(dir.join("locks")).unwrap()
}

/// `Durability::Full` is refused in memory, because nothing there survives a power cut. A sync does nothing there, so
/// the work is the same without it.
fn all_or_nothing(dir: &Path) -> AtomicFileAdapter {
    let full = adapter(dir);
    let probe = [dir.join("probe"), dir.join("other-probe")];
    match batch_of(&full, &probe).commit_all() {
        Ok(()) => full,
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            AtomicFileAdapter::builder().lock_dir(dir.join("locks")).durability(Durability::Ordered).build().unwrap()
        }
        Err(error) => panic!("{error}"),
    }
}

fn batch_of(adapter: &AtomicFileAdapter, paths: &[PathBuf]) -> Batch {
    let mut batch = adapter.batch();
    for path in paths {
        batch.write(path, SMALL);
    }
    batch
}

pub fn handle(dir: &Path, name: &str) -> AtomicFile {
    adapter(dir).file(dir.join(name)).unwrap()
}

fn fcntl_lock_file(dir: &Path) -> File {
    File::create(dir.join("fcntl.lock")).unwrap()
}

fn small_file(dir: &Path) -> PathBuf {
    let path = dir.join("small");
    fs::write(&path, SMALL).unwrap();
    path
}

/// Paths in a directory of their own.
fn hundred(dir: &Path, name: &str) -> Vec<PathBuf> {
    let dir = dir.join(name);
    fs::create_dir_all(&dir).unwrap();
    (0..100).map(|n| dir.join(n.to_string())).collect()
}

fn large_file(dir: &Path) -> PathBuf {
    let path = dir.join("large");
    fs::write(&path, vec![b'x'; LARGE]).unwrap();
    path
}

fn large_write(file: &AtomicFile, piece: &[u8]) {
    let guard = file.lock().unwrap();
    let mut writer = guard.writer().unwrap();
    for _ in 0..LARGE / PIECE {
        writer.write_all(piece).unwrap();
    }
    writer.commit().unwrap();
}
