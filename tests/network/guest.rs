//! The program in the virtual machine: a server, two clients, and the cases, which run one at a time on request.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Worker, hear, tell};
use crate::site::{Side, Site, serve};

/// The versions of the protocol. Every case runs over each of them. For locks, 4.0 and 4.1 are two protocols: 4.0 has
/// no sessions, and its client asks again and again for a taken lock. 4.2 is like 4.1 here.
pub const VERSIONS: [&str; 2] = ["4.2", "4.0"];

/// In seconds: how long a client may be silent before the server takes away its locks. knfsd accepts no less than 10.
pub const LEASE: u32 = 10;

/// Ext4 behind knfsd. It asks rpc.mountd who may mount what, and stores its clients with nfsdcld. Without nfsdcld it
/// would grant no locks for a while after the start.
const SERVER: &str = r#"
set -e
exec >/dev/ttyS0 2>&1
ip link set lo up
mkdir -p /run/rpc_pipefs
mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
mkdir -p /var/lib/nfs/nfsdcld /var/lib/nfs/v4recovery
: >/var/lib/nfs/etab
: >/var/lib/nfs/rmtab
nfsdcld
exportfs -o rw,no_root_squash,no_subtree_check,sync,fsid=0 '*:/srv/export'
rpc.mountd -N 3 || rpc.mountd
echo $LEASE >/proc/fs/nfsd/nfsv4leasetime
echo $LEASE >/proc/fs/nfsd/nfsv4gracetime
rpc.nfsd -N 3 -U 4 || rpc.nfsd -N 3 4
echo Y >/proc/fs/nfsd/v4_end_grace || true
cat /proc/fs/nfsd/versions /proc/fs/nfsd/nfsv4leasetime
"#;

const NETWORK: &str = r#"
set -e
exec >/dev/ttyS0 2>&1
mount -t tmpfs tmpfs /run
mkdir -p /srv/export
modprobe -a ext4 nfsd nfsv4 veth
mount /dev/vda /srv/export
ip link set lo up
ip netns add server
for n in 1 2; do
    ip netns add client$n
    mkdir -p /net/4.2 /net/4.0
    ip -n server link add to$n type veth peer name wire netns client$n
    ip -n server addr add 10.9.$n.1/24 dev to$n
    ip -n server link set to$n up
    ip -n client$n addr add 10.9.$n.2/24 dev wire
    ip -n client$n link set wire up
    ip -n client$n link set lo up
done
"#;

/// Everything that the machine does, from the moment at which it has a root file system.
pub fn run(_: &[String]) {
    tell("listening");
    let full = hear() == "full";
    shell(NETWORK);
    shell_in("ip netns exec server", SERVER);
    let clients = ["1", "2"].map(start_client);
    for client in fs::read_dir("/proc/fs/nfsd/clients").into_iter().flatten().flatten() {
        tell(&fs::read_to_string(client.path().join("info")).unwrap_or_default().replace('\n', " "));
    }
    let clients = [0, 1].map(|n: usize| clients[n].pid());
    serve(full, |version| {
        let dir = Path::new("/net").join(version);
        let sides = clients.map(|client| Side { dir: dir.clone(), client: Some(client), root: None });
        Site { sides, on_server: "/srv/export".into() }
    });
}

fn shell(script: &str) {
    shell_in("", script);
}

fn shell_in(namespace: &str, script: &str) {
    let mut words = namespace.split_whitespace().chain(["sh", "-ec", script]);
    let mut command = Command::new(words.next().unwrap());
    let status = command.args(words).env("LEASE", LEASE.to_string()).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

/// Disconnects a client from the network, or connects it again.
pub fn set_wire(client: usize, up: bool) {
    let state = if up { "up" } else { "down" };
    shell(&format!("ip -n server link set to{} {state}", client + 1));
}

fn start_client(number: &str) -> Worker {
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("client{number}"), "unshare", "--uts"]).arg(exe).arg(number);
    let mut client = Worker::spawn(command.env("ATOMIC_FILE_TEST_WORKER", "client"));
    client.expect("mounted");
    client
}

/// The first process of a client, whose namespaces all others share. It does nothing but mount.
pub fn be_a_client(args: &[String]) {
    let number = &args[0];
    let mount = |version: &str| format!("mount -t nfs4 -o vers={version} 10.9.{number}.1:/ /net/{version}\n");
    shell(&format!("exec >/dev/ttyS0 2>&1\nhostname client{number}\n{}", VERSIONS.map(mount).concat()));
    tell("mounted");
    hear();
}
