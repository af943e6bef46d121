//! Networks: none, host, container:, and the default bridge.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use berth_e2e::{Engine, Run, clients};

#[test]
fn none_has_only_loopback() {
    let engine = Engine::start();
    for client in clients() {
        let links = engine
            .client(
                client,
                &[
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "busybox",
                    "ip",
                    "-o",
                    "link",
                ],
            )
            .ok();
        assert!(
            links.lines().count() == 1 && links.contains("LOOPBACK,UP"),
            "{links}"
        );
    }
}

#[test]
fn bridge_has_an_address_a_route_and_neighbours() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &["run", "-d", "--name", "aa", "busybox", "sleep", "600"],
            )
            .ok();
        let address = engine
            .client(
                client,
                &[
                    "inspect",
                    "-f",
                    "{{.NetworkSettings.Networks.bridge.IPAddress}}",
                    "aa",
                ],
            )
            .ok();
        let gateway = engine
            .client(
                client,
                &[
                    "inspect",
                    "-f",
                    "{{.NetworkSettings.Networks.bridge.Gateway}}",
                    "aa",
                ],
            )
            .ok();
        let inside = engine
            .client(client, &["exec", "aa", "ip", "-4", "addr", "show", "eth0"])
            .ok();
        assert!(inside.contains(&format!("inet {address}/16")), "{inside}");
        assert!(
            engine
                .client(client, &["exec", "aa", "ip", "route"])
                .ok()
                .contains(&format!("default via {gateway} dev eth0"))
        );
        for target in [&address, &gateway] {
            engine
                .client(
                    client,
                    &["run", "--rm", "busybox", "ping", "-c1", "-W2", target],
                )
                .ok();
        }
        assert!(
            engine
                .client(client, &["exec", "aa", "cat", "/etc/hosts"])
                .ok()
                .contains(&address)
        );
        engine.client(client, &["rm", "-f", "aa"]).ok();
    }
    engine.assert_nothing_left();
}

/// A world outside of the engine's "host": another namespace behind a veth pair.
fn outside(engine: &Engine) -> std::process::Child {
    let mut world = std::process::Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up; echo; exec sleep infinity",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(world.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let pid = world.id().to_string();
    for command in [
        format!("ip link add out0 type veth peer name in0 netns {pid}"),
        "ip addr add 198.51.100.1/24 dev out0".into(),
        "ip link set out0 up".into(),
    ] {
        engine
            .in_network(&command.split(' ').collect::<Vec<_>>())
            .ok();
    }
    for command in ["ip addr add 198.51.100.2/24 dev in0", "ip link set in0 up"] {
        in_world(&world, command).ok();
    }
    world
}

fn in_world(world: &std::process::Child, command: &str) -> Run {
    Run::new(
        std::process::Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", world.id()))
            .args(command.split(' ')),
        b"",
    )
}

#[test]
fn outgoing_traffic_leaves_with_the_hosts_address() {
    let engine = Engine::start();
    let mut world = outside(&engine);
    // The world has no route back to the container: without masquerade no answer.
    engine
        .berth(&[
            "run",
            "--rm",
            "busybox",
            "ping",
            "-c1",
            "-W2",
            "198.51.100.2",
        ])
        .ok();
    engine
        .berth(&["run", "-d", "--name", "aa", "busybox", "sleep", "600"])
        .ok();
    let address = engine
        .berth(&[
            "inspect",
            "-f",
            "{{.NetworkSettings.Networks.bridge.IPAddress}}",
            "aa",
        ])
        .ok();
    in_world(&world, "ip route add 172.16.0.0/12 via 198.51.100.1").ok();
    let run = in_world(&world, &format!("ping -c1 -W1 {address}"));
    assert_ne!(
        run.code, 0,
        "from outside an unpublished address is not reached"
    );
    world.kill().unwrap();
    world.wait().unwrap();
}

#[test]
fn addresses_come_back() {
    let engine = Engine::start();
    for _ in 0..3 {
        engine.berth(&["run", "--rm", "busybox", "ip", "addr"]).ok();
    }
    engine
        .berth(&[
            "create",
            "--name",
            "wanted",
            "--ip",
            "172.17.0.99",
            "busybox",
        ])
        .fails(1, "supported on user defined networks only");
    engine.assert_nothing_left();
}

#[test]
fn resolv_conf_and_hosts_as_asked() {
    let engine = Engine::start();
    let text = engine
        .berth(&[
            "run",
            "--rm",
            "--dns",
            "192.0.2.53",
            "--dns-search",
            "example.com",
            "--dns-option",
            "ndots:2",
            "--add-host",
            "db:192.0.2.7",
            "busybox",
            "cat",
            "/etc/resolv.conf",
            "/etc/hosts",
        ])
        .ok();
    for words in [
        "nameserver 192.0.2.53",
        "search example.com",
        "options ndots:2",
        "192.0.2.7\tdb",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn what_is_not_supported_says_so() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(client, &["run", "--rm", "-p", "8080:80", "busybox", "true"])
            .fails(125, "not supported");
        engine
            .client(
                client,
                &["run", "--rm", "--network", "nowhere", "busybox", "true"],
            )
            .fails(125, "network nowhere not found");
    }
    engine.assert_nothing_left();
}
