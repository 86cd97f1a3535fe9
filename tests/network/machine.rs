//! The virtual machine, seen from outside: what it takes to boot it, and the cases as the tests that they are.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::cases::{CASES, Place};
use crate::common::{Worker, no_mounts, no_program};
use crate::guest::VERSIONS;
use crate::site::{Station, dies_with_us, is_full};

/// What the initial root file system needs to reach this machine's root.
const MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_blk"];

const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read module; do $b insmod /modules/$module; done </modules/list
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
$b mount -t tmpfs tmpfs /layer
$b mkdir /layer/upper /layer/work /layer/root
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /layer/root
$b mount --move /dev /layer/root/dev
$b mount -t proc proc /layer/root/proc
$b mount -t sysfs sys /layer/root/sys
$b stty -F /layer/root/dev/ttyS1 raw -echo
exec $b switch_root /layer/root /bin/sh /guest
"#;

/// Every case over every version of the protocol, as tests.
pub fn trials() -> Vec<Trial> {
    let missing = missing();
    let mut trials = Vec::new();
    for version in VERSIONS {
        for case in CASES {
            if case.place == Place::NotNfs || !is_full() && case.newest && version != VERSIONS[0] {
                continue;
            }
            let name = format!("NFSv{version}: {}", case.name);
            let name = missing.as_ref().map_or(name.clone(), |missing| format!("{name} [{missing}]"));
            let run = move || run(version, case.name);
            trials.push(Trial::test(name, run).with_ignored_flag(missing.is_some()));
        }
    }
    trials
}

/// Why there can be no such machine here.
fn missing() -> Option<String> {
    const PROGRAMS: [&str; 9] =
        ["qemu-system-x86_64", "busybox", "kmod", "ip", "mkfs.ext4", "exportfs", "rpc.nfsd", "nfsdcld", "mount.nfs4"];
    let is_missing = |program: &&str| no_program("sh", &["-c", &format!("command -v {program}")], "").is_some();
    let program = PROGRAMS.into_iter().find(is_missing);
    let python = no_program("python3", &["-c", "import xxhash"], "python3 with xxhash");
    let not_here = cfg!(not(target_arch = "x86_64")).then(|| "needs x86_64".to_owned());
    let program = program.or(python).map(|program| format!("needs {program}"));
    let kernel = || kernel().is_none().then(|| "needs a kernel in target/network-kernel".to_owned());
    no_mounts().map(str::to_owned).or(not_here).or(program).or_else(kernel)
}

/// A kernel, and where its modules are.
struct Kernel {
    image: PathBuf,
    base: PathBuf,
    release: String,
}

fn kernel() -> Option<Kernel> {
    // target/debug/deps/network-0123456789abcdef
    let target = env::current_exe().ok()?.ancestors().nth(3).map(|target| target.join("network-kernel"));
    let given = env::var_os("NETWORK_KERNEL").map(PathBuf::from);
    given.or(target).into_iter().chain([PathBuf::from("/")]).find_map(|base| {
        let images =
            fs::read_dir(base.join("boot")).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut releases = images.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
        let release = releases.find(|release| base.join("lib/modules").join(release).join("kernel").is_dir())?;
        Some(Kernel { image: base.join("boot").join(format!("vmlinuz-{release}")), base, release })
    })
}

impl Kernel {
    /// The files of these modules, and of those that they need before them, in that order.
    fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for name in names {
            let base = self.base.to_str().unwrap();
            let shown =
                output(Command::new("modprobe").args(["-d", base, "-S", &self.release, "--show-depends", name]));
            for file in shown.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| file.trim().into()) {
                if !found.contains(&file) {
                    found.push(file);
                }
            }
        }
        found
    }
}

/// What a program says.
fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A machine that runs.
struct Machine {
    guest: Station,
    dir: TempDir,
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);

/// Runs a case in the machine, which is booted for the first of them, one at a time.
fn run(version: &str, case: &str) -> Result<(), Failed> {
    let mut machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let Machine { guest, dir } = machine.get_or_insert_with(Machine::boot);
    guest.run(&format!("NFSv{version}"), version, case, || console(dir.path()))
}

/// Ends the machine, if there is one.
pub fn stop() {
    drop(MACHINE.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Machine {
    fn boot() -> Self {
        let kernel = kernel().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        if !kernel.base.join("lib/modules").join(&kernel.release).join("modules.dep").exists() {
            output(Command::new("depmod").args(["-b", kernel.base.to_str().unwrap(), &kernel.release]));
        }
        initial_root(&kernel, dir.path());
        File::create(file("disk")).unwrap().set_len(256 << 20).unwrap();
        output(Command::new("mkfs.ext4").args(["-qF", "-E", "nodiscard"]).arg(file("disk")));
        let full = is_full();
        let mut qemu = dies_with_us("qemu-system-x86_64");
        // No KVM, which hangs where the machine that it is to run on is a virtual one itself.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024"]);
        // A second processor makes more happen at the same time, and costs a third more.
        qemu.args(["-smp", if full { "2" } else { "1" }]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(file("initrd"));
        qemu.args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off"]);
        qemu.arg("-serial").arg(format!("file:{}", file("console").display())).args(["-serial", "stdio"]);
        qemu.args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]);
        qemu.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        qemu.arg("-drive").arg(format!("if=virtio,format=raw,cache=unsafe,file={}", file("disk").display()));
        let says = |line: &str, guest: &mut Worker| match line {
            // What is told it before that is lost.
            "listening" => guest.tell(if full { "full" } else { "short" }),
            line => println!("{line}"),
        };
        match Station::start(qemu, says) {
            Some(guest) => Machine { guest, dir },
            None => panic!("the machine did not start:\n{}", console(dir.path())),
        }
    }
}

/// The last that the machine's kernel and its programs said.
fn console(dir: &Path) -> String {
    let said = fs::read(dir.join("console")).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Makes the initial root file system: busybox, modules, and what is to become of the machine.
fn initial_root(kernel: &Kernel, dir: &Path) {
    let root = dir.join("root");
    for name in ["bin", "modules", "host", "proc", "sys", "dev", "layer"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = output(Command::new("sh").args(["-c", "command -v busybox"]));
    fs::copy(busybox.trim(), root.join("bin/busybox")).unwrap();
    let mut list = File::create(root.join("modules/list")).unwrap();
    for (n, module) in kernel.modules(&MODULES).iter().enumerate() {
        let unpack = match module.extension().and_then(|it| it.to_str()) {
            Some("xz") => "xzcat",
            Some("zst") => "zstdcat",
            _ => "cat",
        };
        let unpacked = File::create(root.join("modules").join(n.to_string())).unwrap();
        assert!(Command::new(unpack).arg(module).stdout(unpacked).status().unwrap().success());
        writeln!(list, "{n}").unwrap();
    }
    let modules = fs::canonicalize(kernel.base.join("lib/modules").join(&kernel.release)).unwrap();
    let exe = env::current_exe().unwrap();
    // Not a script that finds the right one by what is in the environment here.
    let python = output(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]));
    // As soon as the root of this machine is there.
    let guest = format!(
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin ATOMIC_FILE_TEST_WORKER=guest PYTHON={python}\n\
         mkdir -p /lib/modules/{release}\n\
         [ -e /lib/modules/{release}/modules.dep ] || mount --bind {modules} /lib/modules/{release}\n\
         {exe} </dev/ttyS1 >/dev/ttyS1 2>/dev/ttyS0\n\
         echo o >/proc/sysrq-trigger\n\
         sleep 100\n",
        release = kernel.release,
        modules = modules.display(),
        exe = exe.display(),
        python = python.trim()
    );
    fs::write(root.join("guest"), guest).unwrap();
    let init = INIT.replace("exec ", "$b cp /guest /layer/root/guest\nexec ");
    fs::write(root.join("init"), init).unwrap();
    fs::set_permissions(root.join("init"), PermissionsExt::from_mode(0o755)).unwrap();
    let pack = "find . | busybox cpio -o -H newc 2>/dev/null >../initrd";
    output(Command::new("sh").args(["-c", pack]).current_dir(&root));
}
