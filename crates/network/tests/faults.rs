//! Death of the engine, at any moment, and its restart.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod rig;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use berth_network::{Endpoint, Manager};
use rig::*;

/// Set in the process that plays the engine to be killed.
const ROLE: &str = "BERTH_NETWORK_TEST_ENGINE";

/// Not a test of its own: what the killed engine does. It keeps two namespaces
/// of each kind ready, connects one more that nobody will ever know of, and one
/// that a container (a sleeping process) holds.
#[test]
fn engine() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let manager = manager();
    let (held, endpoint) = manager.connect(&config().id, None, None).unwrap();
    let container = within(&held.fd, || {
        Command::new("busybox").args(["sleep", "300"]).spawn()
    });
    let container = container.unwrap().id();
    let (forgotten, _) = manager.connect(&config().id, None, None).unwrap();
    let _bare = manager.bare().unwrap();
    eventually("the pool is full", || ports().len() == 4);
    println!(
        "\nendpoint {container} {}",
        serde_json::to_string(&endpoint).unwrap()
    );
    std::thread::sleep(std::time::Duration::from_secs(300));
    drop(forgotten);
}

fn ports() -> Vec<String> {
    ip("-o link show master berth0")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// A container left behind by the killed engine; ended with the test.
struct Container(u32);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-9", &self.0.to_string()])
            .status();
    }
}

/// Starts the engine in this namespace, waits until it is at work, kills it.
fn killed_engine() -> (Container, Endpoint) {
    let mut engine: Child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine", "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(engine.stdout.as_mut().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.starts_with("endpoint "))
        .expect("the engine did not come up");
    engine.kill().unwrap();
    engine.wait().unwrap();
    let mut words = line.splitn(3, ' ').skip(1);
    let container = Container(words.next().unwrap().parse().unwrap());
    (
        container,
        serde_json::from_str(words.next().unwrap()).unwrap(),
    )
}

#[test]
fn nothing_is_left_of_a_killed_engine() {
    let _host = fresh_host();
    let (container, endpoint) = killed_engine();
    // Ready namespaces and those nobody holds vanish by themselves.
    eventually("only the container's interface is left", || {
        ports().len() == 1
    });
    assert!(ports()[0].contains(&endpoint.host_interface));
    drop(container);
    eventually("the container's too", || ports().is_empty());
}

#[test]
fn a_restart_finds_everything_in_place() {
    let host = fresh_host();
    let (container, endpoint) = killed_engine();
    let outside = outside(&host);
    let away = std::net::Ipv4Addr::new(198, 51, 100, 2);
    serve(&outside, away, 80);
    let inside: std::os::fd::OwnedFd = std::fs::File::open(format!("/proc/{}/ns/net", container.0))
        .unwrap()
        .into();
    // With no engine at all, the container is still connected, and protected.
    assert_eq!(call(&inside, away, 80).unwrap(), "198.51.100.1");
    serve(&inside, endpoint.address, 80);
    assert!(is_dropped(&outside, endpoint.address, 80));

    let rules = nft("-a list ruleset");
    let index = ip("-o link show berth0")
        .split(':')
        .next()
        .unwrap()
        .to_owned();
    let manager = manager();
    manager.adopt(&config().id, &endpoint).unwrap();
    assert_eq!(nft("-a list ruleset"), rules);
    assert_eq!(ip("-o link show berth0").split(':').next().unwrap(), index);
    // Its address is not given to another, and neighbours find it.
    let taken = manager
        .connect(&config().id, Some(endpoint.address), None)
        .unwrap_err();
    assert_eq!(taken.to_string(), "Address already in use");
    let (next, at_next) = manager.connect(&config().id, None, None).unwrap();
    assert_ne!(at_next.address, endpoint.address);
    assert_eq!(
        call(&next.fd, endpoint.address, 80).unwrap(),
        at_next.address.to_string()
    );

    manager.release(&config().id, &endpoint).unwrap();
    assert!(
        manager
            .connect(&config().id, Some(endpoint.address), None)
            .is_ok()
    );
    assert!(!ip("-o link").contains(&endpoint.host_interface));
}

#[test]
fn leftovers_are_collected() {
    let _host = fresh_host();
    // A container of which the engine's files know nothing, one they know, and a
    // port that is somebody else's.
    let (_unknown, lost) = killed_engine();
    ip("link add foreign master berth0 type veth peer name foreign-peer");
    let manager = Manager::new(2).unwrap();
    manager.add_bridge(&config()).unwrap();
    let (known, at_known) = manager.connect(&config().id, None, None).unwrap();
    let (_ours, at_ours) = manager.connect(&config().id, None, None).unwrap();
    eventually("the pool is full", || ports().len() >= 6);
    manager
        .collect(&config().id, std::slice::from_ref(&at_known))
        .unwrap();
    let left = ports().join("\n");
    assert!(!left.contains(&lost.host_interface), "{left}");
    for stays in ["foreign", &at_known.host_interface, &at_ours.host_interface] {
        assert!(left.contains(stays), "{stays}: {left}");
    }
    // The ready ones are not leftovers either: they still work.
    let (_next, at_next) = manager.connect(&config().id, None, None).unwrap();
    assert!(left.contains(&at_next.host_interface), "{left}");
    drop(known);
}

#[test]
fn a_manager_that_ends_takes_its_pool_along() {
    let _host = fresh_host();
    let manager = manager();
    eventually("the pool is full", || ports().len() == 2);
    let (kept, endpoint) = manager.connect(&config().id, None, None).unwrap();
    drop(manager);
    eventually("the pool is gone", || ports().len() == 1);
    assert!(ports()[0].contains(&endpoint.host_interface));
    drop(kept);
    eventually("and the container", || ports().is_empty());
}

#[test]
fn a_removed_network_takes_its_containers_interfaces_along() {
    let _host = fresh_host();
    let manager = manager();
    let (kept, endpoint) = manager.connect(&config().id, None, None).unwrap();
    manager.remove_bridge(&config().id).unwrap();
    let links = ip("-o link");
    assert!(
        !links.contains("berth0") && !links.contains(&endpoint.host_interface),
        "{links}"
    );
    eventually("the ready ones are gone", || !ip("-o link").contains("bv"));
    drop(kept);
}

#[test]
fn a_failing_pool_recovers() {
    let _host = fresh_host();
    let manager = Manager::new(1).unwrap();
    manager.add_bridge(&config()).unwrap();
    let (_first, _) = manager.connect(&config().id, None, None).unwrap();
    // Behind the manager's back.
    eventually("the pool is full", || ports().len() == 2);
    ip("link del berth0");
    let (_stale, _) = manager.connect(&config().id, None, None).unwrap();
    let error = manager
        .connect(&config().id, None, None)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("create veth pair bv"), "{error}");
    manager.add_bridge(&config()).unwrap();
    let (next, endpoint) = manager.connect(&config().id, None, None).unwrap();
    let host = own_namespace();
    serve(&host, endpoint.gateway, 80);
    assert_eq!(
        call(&next.fd, endpoint.gateway, 80).unwrap(),
        endpoint.address.to_string()
    );
}
