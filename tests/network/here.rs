//! File systems of this machine's kernel: two processes in one directory, or each with its own mount.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::cases::{CASES, Place};
use crate::common::{dies_with_us, no_fuse, no_mounts, no_overlay, no_program};
use crate::site::{Side, Site, Station, is_full, serve};

/// A file system.
struct Kind {
    /// Its name in the report.
    row: &'static str,
    missing: fn() -> Option<&'static str>,
    /// Makes it in an empty directory. The shell has its own mounts, processes and network, which end with it.
    script: &'static str,
    /// The paths on the two sides and on the server.
    dirs: [&'static str; 3],
    /// Its options let it break promises. The long form only counts how often.
    breaks: bool,
}

const ON_DISK: [&str; 3] = ["mounted", "mounted", "mounted"];

const KINDS: [Kind; 8] = [
    Kind {
        row: "ext4",
        missing: || no_mounts().or(no_program("mkfs.ext4", &["-V"], "needs mkfs.ext4")),
        script: "truncate -s 256M disk; mkfs.ext4 -q disk; mount -o loop disk mounted",
        dirs: ON_DISK,
        breaks: false,
    },
    Kind {
        row: "xfs",
        missing: || no_mounts().or(no_program("mkfs.xfs", &["-V"], "needs mkfs.xfs")),
        script: "truncate -s 512M disk; mkfs.xfs -q disk; mount -o loop disk mounted",
        dirs: ON_DISK,
        breaks: false,
    },
    Kind {
        row: "btrfs",
        missing: || no_mounts().or(no_program("mkfs.btrfs", &["-V"], "needs mkfs.btrfs")),
        script: "truncate -s 256M disk; mkfs.btrfs -q disk; mount -o loop disk mounted",
        dirs: ON_DISK,
        breaks: false,
    },
    Kind { row: "tmpfs", missing: no_mounts, script: "mount -t tmpfs tmpfs mounted", dirs: ON_DISK, breaks: false },
    Kind {
        row: "overlayfs",
        missing: no_overlay,
        // The directories of the cases are in the lower layer.
        script: "mkdir layers; mount -t tmpfs tmpfs layers; mkdir layers/lower layers/upper layers/work
            for n in $(seq 0 99); do mkdir -p layers/lower/case$n/files; done
            mount -t overlay -o lowerdir=layers/lower,upperdir=layers/upper,workdir=layers/work overlay mounted",
        dirs: ON_DISK,
        breaks: false,
    },
    Kind {
        row: "FUSE (bindfs)",
        missing: || no_fuse().or(no_program("bindfs", &["--version"], "needs bindfs")),
        script: "mkdir below; bindfs below mounted",
        dirs: ON_DISK,
        breaks: false,
    },
    Kind {
        row: "GlusterFS",
        missing: no_gluster,
        script: GLUSTER,
        dirs: ["one", "two", "layers/brick"],
        breaks: false,
    },
    Kind {
        row: "GlusterFS, default options",
        missing: no_gluster,
        script: GLUSTER,
        dirs: ["one", "two", "layers/brick"],
        breaks: true,
    },
];

/// A server with one brick in memory, and two mounts of it. The server accepts no loopback address, but any other
/// address of the loopback device.
const GLUSTER: &str = "
    for dir in /var/lib/glusterd /run /var/log/glusterfs layers; do mkdir -p $dir; mount -t tmpfs tmpfs $dir; done
    mkdir -p /run/gluster layers/brick one two
    ip link set lo up
    ip addr add 10.99.0.1/24 dev lo
    glusterd
    for n in $(seq 200); do gluster --mode=script volume list >/dev/null 2>&1 && break; sleep 0.1; done
    gluster --mode=script volume create cases 10.99.0.1:$PWD/layers/brick force
    options=
    if [ $DEFAULT = false ]; then
        gluster --mode=script volume set cases performance.stat-prefetch off
        options='-o entry-timeout=0,attribute-timeout=0'
    fi
    gluster --mode=script volume start cases
    for side in one two; do mount -t glusterfs $options 10.99.0.1:/cases $side; done";

fn no_gluster() -> Option<&'static str> {
    no_fuse()
        .or(no_program("ip", &["-V"], "needs ip"))
        .or(no_program("glusterd", &["--version"], "needs glusterd"))
        .or(no_program("glusterfs", &["--version"], "needs glusterfs"))
}

/// Every case on every file system, as tests. In turns, so that what waits on one file system does so beside the others.
pub fn trials() -> Vec<Trial> {
    let python = no_program("python3", &["-c", "import xxhash"], "needs python3 with xxhash");
    let missing = KINDS.each_ref().map(|kind| (kind.missing)().or(python));
    let mut trials = Vec::new();
    for case in CASES.iter().filter(|case| case.place != Place::Nfs) {
        for (number, kind) in KINDS.iter().enumerate().filter(|(_, kind)| is_full() || !kind.breaks) {
            let (name, missing) = (format!("{}: {}", kind.row, case.name), missing[number]);
            let name = missing.map_or(name.clone(), |missing| format!("{name} [{missing}]"));
            let run = move || run(kind, &STATIONS[number], case.name);
            trials.push(Trial::test(name, run).with_ignored_flag(missing.is_some()));
        }
    }
    trials
}

type Made = Mutex<Option<(Station, TempDir)>>;

/// One for each kind.
static STATIONS: [Made; KINDS.len()] = [const { Mutex::new(None) }; KINDS.len()];

/// Runs a case in its file system, which the first case makes. One case at a time.
fn run(kind: &'static Kind, made: &Made, case: &str) -> Result<(), Failed> {
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    let (station, dir) = made.get_or_insert_with(|| {
        let dir = tempfile::tempdir().unwrap();
        (start(kind, dir.path()), dir)
    });
    let ended = station.run(kind.row, "-", case, || log(dir.path()));
    if kind.breaks { Ok(()) } else { ended }
}

/// Ends the processes that made the mounts. The mounts end with them.
pub fn stop() {
    STATIONS.iter().for_each(|made| *made.lock().unwrap_or_else(PoisonError::into_inner) = None);
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

fn start(kind: &Kind, dir: &Path) -> Station {
    let mut command = dies_with_us("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(env::current_exe().unwrap()).arg(kind.row).arg(dir).env("ATOMIC_FILE_TEST_WORKER", "here");
    let station = Station::start(command, |line, _| println!("{line}"));
    station.unwrap_or_else(|| panic!("there is no {}:\n{}", kind.row, log(dir)))
}

/// The first process of the namespaces.
pub fn be_here(args: &[String]) {
    let [row, dir] = args else { panic!("{args:?}") };
    let (kind, dir) = (KINDS.iter().find(|kind| kind.row == row).unwrap(), PathBuf::from(dir));
    let script = format!("exec >log 2>&1\nset -ex\nmkdir mounted\n{}", kind.script);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(&dir).env("DEFAULT", kind.breaks.to_string()).stdin(Stdio::null());
    assert!(shell.status().unwrap().success(), "{}", log(&dir));
    let dir = fs::canonicalize(dir).unwrap();
    let [one, two, on_server] = kind.dirs.map(|name| dir.join(name));
    let root = |side: &PathBuf| (one != two).then(|| side.clone());
    let sides = [&one, &two].map(|side| Side { dir: side.clone(), root: root(side), client: None });
    let site = Site { sides, on_server };
    serve(is_full(), |_| site.clone());
}
