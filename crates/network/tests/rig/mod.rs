//! What the tests need: hosts, containers and programs inside of them. Every test
//! is a process of its own (nextest) that moves into a fresh network namespace
//! first; that is the "host".
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use berth_network::{BridgeConfig, Manager};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Moves the calling thread into a network namespace like a freshly booted
/// host's. Needs root.
pub fn fresh_host() -> OwnedFd {
    berth_sys::netns::unshare_network().expect("these tests need CAP_SYS_ADMIN");
    ip("link set lo up");
    // A new namespace takes after the host, which may be a router.
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("it is this namespace's own");
    own_namespace()
}

pub fn own_namespace() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// Runs `f` on a thread inside the namespace.
pub fn within<T: Send>(namespace: impl AsFd + Sync, f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                f()
            })
            .join()
            .unwrap()
    })
}

pub fn run(program: &str, arguments: &str) -> Output {
    Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

fn output(program: &str, arguments: &str) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn ip(arguments: &str) -> String {
    output("ip", arguments)
}

pub fn nft(arguments: &str) -> String {
    output("nft", arguments)
}

pub fn nft_script(script: &str) {
    let path = std::env::temp_dir().join(format!("berth-network-{}.nft", std::process::id()));
    fs::write(&path, script).unwrap();
    nft(&format!("-f {}", path.display()));
    fs::remove_file(path).unwrap();
}

pub fn sysctl(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{name}"))
        .unwrap()
        .trim()
        .to_owned()
}

pub fn config() -> BridgeConfig {
    BridgeConfig {
        id: "ab".repeat(32),
        name: "bridge".into(),
        interface: "berth0".into(),
        gateway: Ipv4Addr::new(172, 17, 0, 1),
        prefix_len: 16,
        mtu: 1500,
        masquerade: true,
        foreign: false,
    }
}

/// A second network.
pub fn other_config() -> BridgeConfig {
    BridgeConfig {
        id: "cd".repeat(32),
        name: "other".into(),
        interface: "br-cdcdcdcdcdcd".into(),
        gateway: Ipv4Addr::new(172, 18, 0, 1),
        ..config()
    }
}

pub fn manager() -> Manager {
    let manager = Manager::new(2).unwrap();
    manager.add_bridge(&config()).unwrap();
    manager
}

/// A server in the namespace that says to every client what address it sees.
pub fn serve(namespace: impl AsFd + Sync, address: impl Into<IpAddr>, port: u16) {
    let at = SocketAddr::new(address.into(), port);
    let listener = within(namespace, || TcpListener::bind(at).unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let seen = client.peer_addr().unwrap().ip().to_string();
            let _ = client.write_all(seen.as_bytes());
        }
    });
}

/// What the server sees of a client in this namespace.
pub fn call(
    namespace: impl AsFd + Sync,
    address: impl Into<IpAddr>,
    port: u16,
) -> io::Result<String> {
    let to = SocketAddr::new(address.into(), port);
    within(namespace, || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// True if the connection's packets vanish. The client is one second long
/// patient, which a connection inside one machine never needs.
pub fn is_dropped(namespace: impl AsFd + Sync, address: impl Into<IpAddr>, port: u16) -> bool {
    let to = SocketAddr::new(address.into(), port);
    let result = within(namespace, || {
        TcpStream::connect_timeout(&to, Duration::from_secs(1)).map(drop)
    });
    match result {
        Ok(()) => false,
        Err(e) if e.kind() == io::ErrorKind::TimedOut => true,
        Err(e) => panic!("{e}"),
    }
}

/// Waits until the condition holds, at most ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Connects the host to an outside world: a namespace at 198.51.100.2, the host
/// at 198.51.100.1. The outside has a route to the containers' networks, as a
/// neighbour in the host's own network can give himself.
pub fn outside(host: &OwnedFd) -> OwnedFd {
    let outside = thread::scope(|scope| scope.spawn(fresh_host).join().unwrap());
    within(&outside, || ip("link add uplink type veth peer name away"));
    // Into the host by descriptor: this process, whatever its number.
    let path = format!("/proc/{}/fd/{}", std::process::id(), raw(host));
    within(&outside, || {
        output("ip", &format!("link set uplink netns {path}"));
        ip("addr add 198.51.100.2/24 dev away");
        ip("link set away up");
        ip("route add 172.16.0.0/12 via 198.51.100.1 dev away onlink");
    });
    ip("addr add 198.51.100.1/24 dev uplink");
    ip("link set uplink up");
    outside
}

fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}
