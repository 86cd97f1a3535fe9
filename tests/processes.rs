//! Several processes use one file. No update is lost, nobody sees a part of a version, and a dead holder blocks nobody.

mod common;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use atomic_file_adapter::{AtomicFileAdapter, Error};
use common::{Worker, hear, tell, test};
use toml_edit::DocumentMut;

fn main() -> ExitCode {
    common::main(
        vec![
            test("no_increment_of_eight_processes_is_lost", no_increment_is_lost),
            test("readers_beside_writers_see_whole_versions", readers_see_whole_versions),
            test("a_killed_holder_blocks_nobody", a_killed_holder_blocks_nobody),
            test("a_holder_killed_while_writing_leaves_the_old_version", a_killed_writer_leaves_the_old_version),
            test("processes_agree_on_the_lock_name", processes_agree_on_the_lock_name),
            test("eight_processes_edit_a_real_toml_file", eight_processes_edit_a_real_toml_file),
            test("a_chdir_does_not_split_a_lock", a_chdir_does_not_split_a_lock),
        ],
        &[
            ("increment", increment),
            ("write_versions", write_versions),
            ("read_versions", read_versions),
            ("hold", hold),
            ("hold_half_written", hold_half_written),
            ("lock_path", lock_path),
            ("edit_toml", edit_toml),
            ("relative_after_chdir", relative_after_chdir),
        ],
    )
}

const PROCESSES: usize = 8;

fn adapter(dir: &Path) -> AtomicFileAdapter {
    AtomicFileAdapter::with_lock_dir(dir.join("locks")).unwrap()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Starts as many workers as there are argument lists, and waits for all of them.
fn all(name: &str, dir: &Path, args: impl Iterator<Item = String>) {
    let workers: Vec<Worker> = args.map(|arg| Worker::start(name, &[dir.to_str().unwrap(), &arg])).collect();
    workers.into_iter().for_each(Worker::finish);
}

fn no_increment_is_lost() {
    const EACH: usize = 200;
    let dir = scratch();
    all("increment", dir.path(), (0..PROCESSES).map(|_| EACH.to_string()));
    let count = adapter(dir.path()).read_to_string_with_lock(dir.path().join("counter")).unwrap().unwrap();
    assert_eq!(count, (PROCESSES * EACH).to_string());
    assert_eq!(common::names(dir.path()), ["counter", "locks"], "temporary files are left");
}

fn increment(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    for _ in 0..args[1].parse().unwrap() {
        let next = |old: Option<&[u8]>| -> Vec<u8> {
            let old: u64 = old.map_or(0, |old| std::str::from_utf8(old).unwrap().parse().unwrap());
            (old + 1).to_string().into()
        };
        adapter.update(dir.join("counter"), next).unwrap();
    }
}

/// A version has its number, its length, and a checksum of both. The sizes differ from 0 to some 100 KB.
fn version(number: u64) -> Vec<u8> {
    let body = number.to_string().repeat(usize::try_from(number * 7919 % 20_000).unwrap());
    let mut version = format!("{number}\n{}\n{body}\n", body.len()).into_bytes();
    let sum = xxhash_rust::xxh3::xxh3_64(&version);
    version.extend_from_slice(&sum.to_le_bytes());
    version
}

fn assert_whole(version: &[u8]) {
    let (text, sum) = version.split_at(version.len() - 8);
    assert_eq!(xxhash_rust::xxh3::xxh3_64(text).to_le_bytes(), sum, "a torn version");
}

fn readers_see_whole_versions() {
    const EACH: u64 = 300;
    let dir = scratch();
    adapter(dir.path()).write_atomic(dir.path().join("file"), version(0)).unwrap();
    let readers: Vec<Worker> = ["locked", "locked", "unlocked"]
        .map(|how| Worker::start("read_versions", &[dir.path().to_str().unwrap(), how]))
        .into();
    all("write_versions", dir.path(), (0..3).map(|writer| format!("{}", writer * EACH)));
    for mut reader in readers {
        reader.tell("stop");
        let seen: usize = reader.hear().parse().unwrap();
        assert!(seen > 1, "a reader saw {seen} versions only: it did not run beside the writers");
        reader.finish();
    }
}

fn write_versions(args: &[String]) {
    let dir = Path::new(&args[0]);
    let file = adapter(dir).file(dir.join("file")).unwrap();
    let first: u64 = args[1].parse().unwrap();
    for number in first..first + 300 {
        file.write(version(number)).unwrap();
    }
}

fn read_versions(args: &[String]) {
    let path = Path::new(&args[0]).join("file");
    let adapter = adapter(Path::new(&args[0]));
    let stop = std::thread::spawn(hear);
    let mut seen = std::collections::HashSet::new();
    while !stop.is_finished() {
        let read = if args[1] == "locked" { adapter.read_with_lock(&path) } else { adapter.read_unlocked(&path) };
        let version = read.unwrap().unwrap();
        assert_whole(&version);
        seen.insert(version);
    }
    tell(&seen.len().to_string());
}

fn a_killed_holder_blocks_nobody() {
    let dir = scratch();
    let file = adapter(dir.path()).file(dir.path().join("file")).unwrap();
    file.write("old").unwrap();
    let mut holder = Worker::start("hold", &[dir.path().to_str().unwrap()]);
    holder.expect("held");
    assert!(matches!(file.try_lock(), Err(Error::WouldBlock { .. })));
    holder.kill();
    // Must not wait: the kernel has released the lock of the dead process.
    file.try_lock().unwrap().write("new").unwrap();
    assert_eq!(file.read().unwrap().unwrap(), b"new");
}

fn hold(args: &[String]) {
    let dir = Path::new(&args[0]);
    let _guard = adapter(dir).file(dir.join("file")).unwrap().lock().unwrap();
    tell("held");
    hear();
}

fn a_killed_writer_leaves_the_old_version() {
    let dir = scratch();
    let file = adapter(dir.path()).file(dir.path().join("file")).unwrap();
    file.write("old").unwrap();
    let mut holder = Worker::start("hold_half_written", &[dir.path().to_str().unwrap()]);
    holder.expect("half");
    holder.kill();
    assert_eq!(file.try_lock_shared().unwrap().read().unwrap().unwrap(), b"old");
    file.write("new").unwrap();
    assert_eq!(file.read().unwrap().unwrap(), b"new");
    let left = common::names(dir.path()).into_iter().filter(|name| name.ends_with(".tmp")).count();
    assert_eq!(left, 1, "the killed writer's, and only that");
}

fn hold_half_written(args: &[String]) {
    use std::io::Write;
    let dir = Path::new(&args[0]);
    let guard = adapter(dir).file(dir.join("file")).unwrap().lock().unwrap();
    let mut writer = guard.writer().unwrap();
    writer.write_all(b"half of the ne").unwrap();
    tell("half");
    hear();
}

fn processes_agree_on_the_lock_name() {
    let dir = scratch();
    let path = dir.path().join("some file");
    let names: std::collections::HashSet<String> = (0..3)
        .map(|_| {
            let mut worker = Worker::start("lock_path", &[dir.path().to_str().unwrap(), path.to_str().unwrap()]);
            let name = worker.hear();
            worker.finish();
            name
        })
        .collect();
    let mine = adapter(dir.path()).lock_path(&path).unwrap();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), [mine.to_str().unwrap()]);
}

fn lock_path(args: &[String]) {
    tell(adapter(Path::new(&args[0])).lock_path(&args[1]).unwrap().to_str().unwrap());
}

fn eight_processes_edit_a_real_toml_file() {
    const KEYS: i64 = 20;
    let dir = scratch();
    let path = dir.path().join("Cargo.toml");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), &path).unwrap();
    let before = fs::read_to_string(&path).unwrap();
    all("edit_toml", dir.path(), (0..PROCESSES).map(|process| process.to_string()));
    let mut after: DocumentMut = fs::read_to_string(&path).unwrap().parse().unwrap();
    for process in 0..PROCESSES {
        for key in 0..KEYS {
            let value = after["features"].as_table_mut().unwrap().remove(&format!("process-{process}-{key}"));
            assert_eq!(value.unwrap().as_integer(), Some(key), "an edit of process {process} is lost");
        }
    }
    assert_eq!(after.to_string(), before, "something else was changed");
}

fn edit_toml(args: &[String]) {
    let dir = Path::new(&args[0]);
    let adapter = adapter(dir);
    for key in 0..20 {
        let edited: Result<(), Box<dyn std::error::Error>> = adapter.try_update(dir.join("Cargo.toml"), |old| {
            let mut document: DocumentMut = std::str::from_utf8(old.ok_or("no file")?)?.parse()?;
            document["features"][&format!("process-{}-{key}", args[1])] = toml_edit::value(key);
            Ok(document.to_string().into())
        });
        edited.unwrap();
    }
}

fn a_chdir_does_not_split_a_lock() {
    let dir = scratch();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    let mut worker = Worker::start_in(dir.path(), "relative_after_chdir", &[]);
    worker.expect("held");
    // The worker's lock directory is below its current directory of when its adapter was built, and its file below that
    // of when its handle was made.
    let adapter = AtomicFileAdapter::with_lock_dir(dir.path().join(AtomicFileAdapter::DEFAULT_LOCK_DIR)).unwrap();
    let file = adapter.file(dir.path().join("file")).unwrap();
    assert!(matches!(file.try_lock(), Err(Error::WouldBlock { .. })));
    worker.tell("go on");
    worker.finish();
    assert_eq!(file.read().unwrap().unwrap(), b"written after chdir");
    assert_eq!(
        common::names(&dir.path().join("elsewhere")),
        ["file"],
        "a relative path is taken when the call is made"
    );
    assert_eq!(adapter.locks().unwrap().len(), 2);
}

fn relative_after_chdir(_: &[String]) {
    let adapter = AtomicFileAdapter::new().unwrap();
    let file = adapter.file("file").unwrap();
    std::env::set_current_dir("elsewhere").unwrap();
    let guard = file.lock().unwrap();
    adapter.write_atomic("file", "another").unwrap();
    tell("held");
    hear();
    guard.write("written after chdir").unwrap();
}
