//! How often a change of many files flushes the device.

use std::path::Path;

use atomic_file_adapter::{AtomicFileAdapter, Batch, Durability};
use crash_lab::disk::Event;
use crash_lab::lab::Lab;

use crate::together::changes::adapter;
use crate::together::report::{self, Flushes};

/// The most flushes for 100 files on ext4, from issue 18.
const MOST: usize = 10;

type Commit = fn(&mut Batch);
const VERBS: [(&str, Commit); 2] =
    [("commit", |batch| batch.commit().unwrap()), ("commit_all", |batch| batch.commit_all().unwrap())];

/// Files of 4096 bytes in one directory, replaced by one call.
pub fn are_few(lab: &Lab) {
    let file_system = lab.file_system.name;
    for files in [2, 20, 100] {
        for (verb, commit) in VERBS {
            let flushes = count(lab, files, commit);
            report::add_flushes(Flushes { file_system, files, verb, flushes });
            let (_, later) = flushes;
            if (files, file_system) == (100, "ext4 data=ordered") {
                // The journal is also committed after some seconds, which may pass on a slow machine.
                assert!(later.0 <= MOST, "{verb} of {files} files on {file_system}: {later:?} flushes");
            }
        }
    }
}

/// The flushes of the first time, which makes the lock files, and the fewest and the most of the later times.
fn count(lab: &Lab, files: usize, commit: Commit) -> (usize, (usize, usize)) {
    lab.format();
    let mounted = lab.mount().unwrap();
    let dir = mounted.root().join("files");
    std::fs::create_dir(&dir).unwrap();
    for n in 0..files {
        std::fs::write(dir.join(n.to_string()), "old").unwrap();
    }
    mounted.sync().unwrap();
    let adapter = adapter(mounted.root(), Durability::Full);
    let one = || count_one(lab, &adapter, &dir, files, commit);
    let first = one();
    let later = [one(), one(), one()];
    (first, (later[0].min(later[1]).min(later[2]), later[0].max(later[1]).max(later[2])))
}

fn count_one(lab: &Lab, adapter: &AtomicFileAdapter, dir: &Path, files: usize, commit: Commit) -> usize {
    let mut batch = adapter.batch();
    for n in 0..files {
        batch.write(dir.join(n.to_string()), [b'x'; 4096]);
    }
    lab.disk.record();
    commit(&mut batch);
    lab.disk.log().iter().filter(|event| matches!(event, Event::Flush)).count()
}
