//! Shows what ext4 with `fast_commit` loses, and why. Everything that was written is on the disk, and the kernel
//! recovers it. But e2fsck, which a system runs first when it starts, drops the journal.
//!
//! A fast commit belongs to a transaction. When the whole transaction is committed, the fast commit is still on the
//! disk, and a recovery has to skip it. The kernel does so (`ext4_fc_replay_scan` in fs/ext4/fast_commit.c returns
//! JBD2_FC_REPLAY_STOP). e2fsck's copy of the function (e2fsck/journal.c) returns EINVAL, and e2fsck then gives up the
//! whole recovery. It checks and repairs the disk as it was before the recovery. Seen with e2fsck 1.47.0 and 1.47.4.

use std::fs::{self, File};
use std::io::Write;

use crash_lab::disk::Image;
use crash_lab::lab::Lab;
use crash_lab::others::{E2FSCK, FAST_COMMIT, FAST_COMMIT_E2FSCK};
use libtest_mimic::Trial;

use crate::cases::case;
use crate::report::{self, Control, Counts};

const CONTENTS: &[u8] = b"durable";

pub fn all() -> Vec<Trial> {
    let name = |what: &str| format!("record: a fast commit and then a whole one, recovered by {what}");
    vec![
        case(FAST_COMMIT, &name("the kernel"), |lab| assert_eq!(what_is_left(lab), Some(CONTENTS.into()))),
        case(FAST_COMMIT_E2FSCK, &name("e2fsck"), |lab| {
            let left = what_is_left(lab);
            let counts = Counts { states: 1, lost: usize::from(left.is_none()), ..Counts::default() };
            let verdict = if left.is_none() { "e2fsck drops the journal" } else { "e2fsck keeps the journal" };
            report::add_control(Control {
                file_system: lab.file_system.name,
                left_out: "nothing".to_owned(),
                commits: "a fast commit, then a whole one".to_owned(),
                counts,
                verdict: verdict.to_owned(),
            });
        }),
        case(E2FSCK, &name("e2fsck, without fast commits"), |lab| {
            assert_eq!(what_is_left(lab), Some(CONTENTS.into()));
        }),
    ]
}

/// The shortest sequence of calls that shows it. `None`: there is no such file.
fn what_is_left(lab: &Lab) -> Option<Vec<u8>> {
    let image = power_cut(lab);
    lab.show(image);
    let mounted = lab.mount().unwrap();
    fs::read(mounted.root().join("file")).ok()
}

/// The disk after the last call, with everything that was written.
fn power_cut(lab: &Lab) -> Image {
    let mounted = lab.mount().unwrap();
    let mut unrelated = File::create(mounted.root().join("unrelated")).unwrap();
    unrelated.write_all(b"a").unwrap();
    mounted.sync().unwrap();
    let mut file = File::create(mounted.root().join("file")).unwrap();
    file.write_all(CONTENTS).unwrap();
    // This makes a fast commit.
    file.sync_all().unwrap();
    // This makes a full commit.
    File::open(mounted.root()).unwrap().sync_all().unwrap();
    lab.disk.image()
}
