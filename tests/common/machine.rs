//! A virtual machine. QEMU boots another kernel and runs this test program in it. Its root is the root of this machine,
//! read-only, below a layer in memory.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{dies_with_us, no_mounts, no_program};

/// The modules that the initial root file system needs to mount this machine's root.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

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

/// The reason why there can be no such machine here.
pub fn missing(programs: &[&'static str]) -> Option<String> {
    let is_missing = |program: &&str| no_program("sh", &["-c", &format!("command -v {program}")], "").is_some();
    let programs = ["qemu-system-x86_64", "busybox", "kmod"].iter().chain(programs);
    let program = programs.copied().find(is_missing).map(|program| format!("needs {program}"));
    let not_here = cfg!(not(target_arch = "x86_64")).then(|| "needs x86_64".to_owned());
    let kernel = || kernel().is_none().then(|| "needs a kernel in target/network-kernel".to_owned());
    no_mounts().map(str::to_owned).or(not_here).or(program).or_else(kernel)
}

/// A kernel, and the path of its modules.
pub struct Kernel {
    image: PathBuf,
    base: PathBuf,
    release: String,
}

pub fn kernel() -> Option<Kernel> {
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
    /// The files of these modules and of the modules that they need, in the order in which they have to be loaded.
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

/// The output of a program.
pub fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A machine that was not booted yet.
pub struct Setup<'a> {
    /// The modules for the disks, which only the initial root file system can load.
    pub modules: &'a [&'a str],
    /// The shell script that runs in it. The machine ends with it.
    pub script: String,
    pub processors: usize,
    pub megabytes: usize,
}

impl Setup<'_> {
    /// The command that boots it. The command's standard input and output are /dev/ttyS1 in the machine. The messages
    /// of its kernel go to `console`. The files that it needs are made in `dir`.
    pub fn command(&self, dir: &Path) -> Command {
        let kernel = kernel().expect("a kernel");
        if !kernel.base.join("lib/modules").join(&kernel.release).join("modules.dep").exists() {
            output(Command::new("depmod").args(["-b", kernel.base.to_str().unwrap(), &kernel.release]));
        }
        let modules: Vec<&str> = MODULES.iter().chain(self.modules).copied().collect();
        initial_root(&kernel, &modules, &self.script, dir);
        let mut qemu = dies_with_us("qemu-system-x86_64");
        // Without KVM, which hangs if the host is a virtual machine itself.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", &self.megabytes.to_string()]);
        qemu.args(["-smp", &self.processors.to_string()]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(dir.join("initrd"));
        // Without this option the kernel panics if its timer does not tick in time. That happens in an emulated machine
        // on a busy host.
        qemu.args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off no_timer_check"]);
        qemu.arg("-serial").arg(format!("file:{}", dir.join("console").display())).args(["-serial", "stdio"]);
        qemu.args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]);
        qemu.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        qemu
    }
}

/// The last messages of the machine's kernel and programs.
pub fn console(dir: &Path) -> String {
    let said = fs::read(dir.join("console")).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Makes the initial root file system: busybox, the modules, and the script.
fn initial_root(kernel: &Kernel, modules: &[&str], script: &str, dir: &Path) {
    let root = dir.join("root");
    for name in ["bin", "modules", "host", "proc", "sys", "dev", "layer"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = output(Command::new("sh").args(["-c", "command -v busybox"]));
    fs::copy(busybox.trim(), root.join("bin/busybox")).unwrap();
    let mut list = File::create(root.join("modules/list")).unwrap();
    for (n, module) in kernel.modules(modules).iter().enumerate() {
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
    // Runs as soon as this machine's root is mounted.
    let guest = format!(
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
         mkdir -p /lib/modules/{release}\n\
         [ -e /lib/modules/{release}/modules.dep ] || mount --bind {modules} /lib/modules/{release}\n\
         {script}\n\
         echo o >/proc/sysrq-trigger\n\
         sleep 100\n",
        release = kernel.release,
        modules = modules.display(),
    );
    fs::write(root.join("guest"), guest).unwrap();
    let init = INIT.replace("exec ", "$b cp /guest /layer/root/guest\nexec ");
    fs::write(root.join("init"), init).unwrap();
    fs::set_permissions(root.join("init"), PermissionsExt::from_mode(0o755)).unwrap();
    let pack = "find . | busybox cpio -o -H newc 2>/dev/null >../initrd";
    output(Command::new("sh").args(["-c", pack]).current_dir(&root));
}
