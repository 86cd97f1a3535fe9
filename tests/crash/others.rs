//! Less common file systems and options. Each is tested a little: all workloads, few states.
//!
//! Where the promise is known not to hold, the result is recorded, and is no failure.

use std::env;

use atomic_file_adapter::Durability;
use crash_lab::file_system::{FILE_SYSTEMS, FileSystem};
use crash_lab::lab::Lab;
use crash_lab::others::OTHERS;
use crash_lab::verdict::Fault;
use libtest_mimic::Trial;

use crate::cases::{assert_none, case, examine_adapter};
use crate::commits::Commits;
use crate::fast_commit;
use crate::report::{self, Control, Counts, Judged};
use crate::workloads::{ATTRIBUTES, CREATE, DELETE, LeftOut, Meddling, REPLACE, RESIZE, SET_MODE, WORKLOADS, Workload};

pub fn asked() -> bool {
    env::var_os("CRASH_OTHERS").is_some()
}

pub fn all() -> Vec<Trial> {
    let mut trials = fast_commit::all();
    for file_system in OTHERS.into_iter().chain(FILE_SYSTEMS) {
        for workload in WORKLOADS.iter().filter(|it| file_system.attributes || it.name != ATTRIBUTES.name) {
            let name = format!("{}: {}", file_system.name, workload.name);
            trials.push(case(file_system, &name, move |lab| it_keeps_the_promise(lab, workload)));
        }
        for left_out in [LeftOut::FileSync, LeftOut::DirectorySync] {
            let name = format!("control: {}, {left_out} left out", file_system.name);
            trials.push(case(file_system, &name, move |lab| it_is_noticed(lab, left_out)));
        }
    }
    trials
}

fn it_keeps_the_promise(lab: &Lab, workload: &Workload) {
    let mut bad = Vec::new();
    for durability in [Durability::Full, Durability::Ordered] {
        let all = if durability == Durability::Full { Commits::all(lab.file_system) } else { &[Commits::Everywhere] };
        for &commits in all {
            let mut examined = examine_adapter(lab, workload, durability, Meddling { commits, left_out: None });
            if durability == Durability::Ordered {
                examined.forgive_what_is_old();
            }
            bad.extend(
                examined.bad.into_iter().filter(|(fault, _)| !is_known(lab.file_system, workload, durability, fault)),
            );
            // On a slow machine the tables come late.
            let Counts { states, torn, lost, other, .. } = examined.counts;
            let (file_system, workload) = (lab.file_system.name, workload.name);
            println!(
                "{file_system}, {workload}, {durability:?}, commits {commits:?}: {states} states, {torn} torn, {lost} lost, {other} other"
            );
            report::add(Judged {
                file_system,
                workload,
                writer: format!("{durability:?}"),
                counts: examined.counts,
                flushes: (commits == Commits::No).then_some(examined.flushes),
            });
        }
    }
    assert_none(&bad);
}

/// Faults that the documentation mentions for these file systems, and that are not the writer's.
fn is_known(file_system: FileSystem, workload: &Workload, durability: Durability, fault: &Fault) -> bool {
    match file_system.name {
        // These never flush the device. Nothing in fs/jfs does (Linux 6.1, 6.12).
        "ext4 nobarrier" | "jfs" => true,
        // On Linux 6.1, not even the sync of the directory makes a rename durable.
        "ext4 without a journal, e2fsck first" => true,
        // Linux 6.1 refuses a journal in which a block before the last commit is missing. e2fsck repairs that.
        "ext4 journal_async_commit" => matches!(fault, Fault::Other(why) if why.contains("cannot be mounted")),
        // The file is complete. The kernel's recovery miscounts blocks and links, and e2fsck reports that.
        "ext4 fast_commit" => {
            matches!(fault, Fault::Other(why) if why.contains("i_blocks is") || why.contains("ref count is"))
        }
        // e2fsck drops the journal: see `fast_commit.rs`.
        "ext4 fast_commit, e2fsck first" => true,
        // The sync of a file does nothing if none of its blocks is to be written, also if its mode has changed (`nilfs_sync_file`
        // in fs/nilfs2/file.c, Linux 6.1).
        "nilfs2" if workload.name == SET_MODE.name => matches!(fault, Fault::Lost(_)),
        // The sync of a file does not flush the device there ("f2fs: add fsync_mode=nobarrier for non-atomic files"). That of a
        // directory does, which every version needs, but no mode.
        "f2fs fsync_mode=nobarrier" if workload.name == SET_MODE.name => matches!(fault, Fault::Lost(_)),
        // Without a checkpoint since its sync, a synced file comes back under its name at that time, even if it was
        // renamed later.
        name if name.starts_with("f2fs") && durability == Durability::Ordered => {
            matches!(fault, Fault::Other(why) if why.contains("temporary files"))
        }
        _ => false,
    }
}

/// Controls: the faults that a missing sync causes there. If there are none, the states above prove little.
fn it_is_noticed(lab: &Lab, left_out: LeftOut) {
    let mut counts = Counts::default();
    for workload in [CREATE, REPLACE, RESIZE, DELETE] {
        let meddling = Meddling { commits: Commits::No, left_out: Some(left_out) };
        counts.add(&examine_adapter(lab, &workload, Durability::Full, meddling).counts);
    }
    let caught = counts.torn + counts.lost > 0;
    let excuse = excuse(lab.file_system, left_out);
    let verdict = match excuse {
        _ if caught => "caught".to_owned(),
        Some(excuse) => format!("not caught: {excuse}"),
        None => "MISSED".to_owned(),
    };
    let (file_system, commits) = (lab.file_system.name, format!("{:?}", Commits::No));
    report::add_control(Control { file_system, left_out: left_out.to_string(), commits, counts, verdict });
    assert!(caught || excuse.is_some(), "{left_out} left out, and nothing found");
}

/// Why nothing may be found although a sync is left out. All else must be found.
fn excuse(file_system: FileSystem, left_out: LeftOut) -> Option<&'static str> {
    match (left_out, file_system.name) {
        (LeftOut::FileSync, "ext4 data=journal") => Some("the data go through the journal, before the rename"),
        // `nilfs_construct_segment` in fs/nilfs2/segment.c.
        (LeftOut::FileSync, "nilfs2") => Some("what the directory's sync writes has the data of all files in it"),
        // Documentation/admin-guide/ext4.rst: with `nodelalloc` write(2) allocates the blocks, and with `data=ordered` the data
        // are written before the metadata are committed.
        (LeftOut::FileSync, "ext4 nodelalloc") => Some("the commit of the rename writes the data before"),
        _ => None,
    }
}
