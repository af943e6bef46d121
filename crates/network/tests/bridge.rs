//! Containers on a bridge, as seen from inside, from the host and from outside.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod rig;

use std::net::Ipv4Addr;

use berth_network::{Error, Manager};
use rig::*;

#[test]
fn bare_has_loopback_only() {
    let _host = fresh_host();
    let manager = manager();
    let namespace = manager.bare().unwrap();
    let links = within(&namespace.fd, || ip("-o link"));
    assert!(
        links
            .lines()
            .all(|l| l.contains("lo:") || l.contains("NOARP")),
        "{links}"
    );
    let addresses = within(&namespace.fd, || ip("-o addr"));
    assert!(
        addresses.contains("127.0.0.1/8") && addresses.contains("::1/128"),
        "{addresses}"
    );
    // Somebody answers there, so it is up.
    serve(&namespace.fd, Ipv4Addr::LOCALHOST, 80);
    assert_eq!(
        call(&namespace.fd, Ipv4Addr::LOCALHOST, 80).unwrap(),
        "127.0.0.1"
    );
}

#[test]
fn a_bridge_of_the_user_stays_as_it_is() {
    let _host = fresh_host();
    for command in [
        "link add br9 type bridge",
        "link set br9 mtu 1400 up",
        "addr add 10.9.0.1/24 dev br9",
        "addr add 10.8.0.1/24 dev br9",
    ] {
        ip(command);
    }
    let manager = Manager::new(1).unwrap();
    assert_eq!(manager.interface_address("br8").unwrap(), None);
    let (gateway, prefix_len) = manager.interface_address("br9").unwrap().unwrap();
    assert_eq!((gateway, prefix_len), (Ipv4Addr::new(10, 9, 0, 1), 24));
    let config = berth_network::BridgeConfig {
        interface: "br9".into(),
        gateway,
        prefix_len,
        foreign: true,
        ..config()
    };
    manager.add_bridge(&config).unwrap();
    let (_namespace, endpoint) = manager.connect(&config.id, None, None).unwrap();
    assert_eq!(endpoint.address, Ipv4Addr::new(10, 9, 0, 2));
    let bridge = ip("addr show dev br9");
    for kept in ["mtu 1400", "inet 10.9.0.1/24", "inet 10.8.0.1/24"] {
        assert!(bridge.contains(kept), "{kept}: {bridge}");
    }
}

#[test]
fn the_inside_is_dockers() {
    let _host = fresh_host();
    let manager = manager();
    let (namespace, endpoint) = manager.connect(&config().id, None, None).unwrap();
    assert_eq!(endpoint.address, Ipv4Addr::new(172, 17, 0, 2));
    assert_eq!(
        (endpoint.prefix_len, endpoint.gateway),
        (16, Ipv4Addr::new(172, 17, 0, 1))
    );
    assert_eq!(endpoint.interface, "eth0");
    within(&namespace.fd, || {
        let address = ip("-o -4 addr show dev eth0");
        assert!(
            address.contains("inet 172.17.0.2/16 brd 172.17.255.255 scope global eth0"),
            "{address}"
        );
        let link = ip("-o link show dev eth0");
        assert!(
            link.contains(&format!("link/ether {}", endpoint.mac)),
            "{link}"
        );
        assert!(
            link.contains("mtu 1500") && link.contains("LOWER_UP"),
            "{link}"
        );
        let routes = ip("-4 route");
        assert!(
            routes.contains("default via 172.17.0.1 dev eth0"),
            "{routes}"
        );
        // CVE-2024-32473
        assert_eq!(ip("-o -6 addr show dev eth0"), "");
        assert_eq!(sysctl("ipv6/conf/eth0/disable_ipv6"), "1");
        assert_eq!(sysctl("ipv6/conf/lo/disable_ipv6"), "0");
    });
    let port = ip(&format!("-o -d link show dev {}", endpoint.host_interface));
    assert!(
        port.contains("master berth0") && port.contains("veth"),
        "{port}"
    );
    assert_eq!(
        sysctl(&format!(
            "ipv6/conf/{}/disable_ipv6",
            endpoint.host_interface
        )),
        "1"
    );
}

#[test]
fn the_bridge() {
    let _host = fresh_host();
    let mut config = config();
    config.mtu = 1400;
    let manager = Manager::new(0).unwrap();
    manager.add_bridge(&config).unwrap();
    let link = ip("-o -d link show dev berth0");
    assert!(
        link.contains("mtu 1400") && link.contains("stp_state 0"),
        "{link}"
    );
    assert!(ip("-o -4 addr show dev berth0").contains("inet 172.17.0.1/16 brd 172.17.255.255"));
    assert_eq!(sysctl("ipv4/ip_forward"), "1");

    // What others change is brought back, what is right stays as it is.
    let index = link.split(':').next().unwrap().to_owned();
    ip("link set berth0 down mtu 1500");
    ip("addr add 10.9.9.1/24 dev berth0");
    ip("addr del 172.17.0.1/16 dev berth0");
    manager.add_bridge(&config).unwrap();
    let link = ip("-o link show dev berth0");
    assert!(
        link.starts_with(&format!("{index}:")) && link.contains("mtu 1400"),
        "{link}"
    );
    assert!(link.contains("UP"), "{link}");
    let addresses = ip("-o -4 addr show dev berth0");
    assert!(
        addresses.contains("172.17.0.1/16") && !addresses.contains("10.9.9.1"),
        "{addresses}"
    );

    manager.remove_bridge(&config.id).unwrap();
    assert!(!ip("-o link").contains("berth0"));
    assert!(matches!(
        manager.remove_bridge(&config.id),
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        manager.connect(&config.id, None, None),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn an_interface_that_is_no_bridge() {
    let _host = fresh_host();
    ip("link add berth0 type veth peer name x");
    let manager = Manager::new(0).unwrap();
    let error = manager.add_bridge(&config()).unwrap_err().to_string();
    assert_eq!(
        error,
        "interface berth0 of network bridge exists and is not a bridge"
    );
}

#[test]
fn containers_reach_each_other_and_the_gateway() {
    let host = fresh_host();
    let manager = manager();
    let (a, at_a) = manager.connect(&config().id, None, None).unwrap();
    let (b, at_b) = manager.connect(&config().id, None, None).unwrap();
    serve(&b.fd, at_b.address, 80);
    serve(&host, at_a.gateway, 80);
    // Each is seen under its own address: nothing is masqueraded here.
    assert_eq!(
        call(&a.fd, at_b.address, 80).unwrap(),
        at_a.address.to_string()
    );
    assert_eq!(
        call(&a.fd, at_a.gateway, 80).unwrap(),
        at_a.address.to_string()
    );
    // And the host reaches them, published or not.
    assert_eq!(
        call(&host, at_b.address, 80).unwrap(),
        at_a.gateway.to_string()
    );
}

#[test]
fn the_outside_sees_the_hosts_address() {
    let host = fresh_host();
    let manager = manager();
    let outside = outside(&host);
    let (a, at_a) = manager.connect(&config().id, None, None).unwrap();
    let away = Ipv4Addr::new(198, 51, 100, 2);
    serve(&outside, away, 80);
    assert_eq!(call(&a.fd, away, 80).unwrap(), "198.51.100.1");

    // Without masquerade it is the container's own, so the test sees the difference.
    let mut plain = config();
    plain.masquerade = false;
    manager.add_bridge(&plain).unwrap();
    assert_eq!(call(&a.fd, away, 80).unwrap(), at_a.address.to_string());
}

#[test]
fn the_outside_reaches_nothing_unpublished() {
    let host = fresh_host();
    let manager = manager();
    let outside = outside(&host);
    let (a, at_a) = manager.connect(&config().id, None, None).unwrap();
    serve(&a.fd, at_a.address, 80);
    assert!(is_dropped(&outside, at_a.address, 80));
    // It is our rules that do it: without them it is reached.
    nft("delete table inet berth");
    assert_eq!(call(&outside, at_a.address, 80).unwrap(), "198.51.100.2");
    // And calling again repairs them.
    manager.add_bridge(&config()).unwrap();
    assert!(is_dropped(&outside, at_a.address, 80));
}

#[test]
fn networks_do_not_reach_each_other() {
    let _host = fresh_host();
    let manager = manager();
    manager.add_bridge(&other_config()).unwrap();
    let (a, _) = manager.connect(&config().id, None, None).unwrap();
    let (b, at_b) = manager.connect(&other_config().id, None, None).unwrap();
    assert_eq!(at_b.address, Ipv4Addr::new(172, 18, 0, 2));
    serve(&b.fd, at_b.address, 80);
    assert!(is_dropped(&a.fd, at_b.address, 80));
    nft("add element inet berth neighbours { berth0 . br-cdcdcdcdcdcd }");
    assert_eq!(call(&a.fd, at_b.address, 80).unwrap(), "172.17.0.2");
}

#[test]
fn the_users_address_and_mac() {
    let _host = fresh_host();
    let manager = manager();
    let wanted = Ipv4Addr::new(172, 17, 200, 7);
    let (n, endpoint) = manager
        .connect(&config().id, Some(wanted), Some("02:42:AC:11:c8:07"))
        .unwrap();
    assert_eq!(
        (endpoint.address, endpoint.mac.as_str()),
        (wanted, "02:42:ac:11:c8:07")
    );
    within(&n.fd, || {
        assert!(ip("-o link show dev eth0").contains("link/ether 02:42:ac:11:c8:07"));
        assert!(ip("-o -4 addr show dev eth0").contains("172.17.200.7/16"));
    });
    let again = manager
        .connect(&config().id, Some(wanted), None)
        .unwrap_err();
    assert_eq!(again.to_string(), "Address already in use");
    let bad = manager
        .connect(&config().id, None, Some("nonsense"))
        .unwrap_err();
    assert_eq!(bad.to_string(), "invalid MAC address: nonsense");
    let outside = Ipv4Addr::new(10, 0, 0, 1);
    let error = manager
        .connect(&config().id, Some(outside), None)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no configured subnet contains IP address 10.0.0.1"
    );
}

#[test]
fn a_neighbour_learns_of_a_new_owner() {
    let host = fresh_host();
    let manager = manager();
    let (a, at_a) = manager.connect(&config().id, None, None).unwrap();
    let (b, at_b) = manager.connect(&config().id, None, None).unwrap();
    serve(&b.fd, at_b.address, 80);
    call(&a.fd, at_b.address, 80).unwrap();
    call(&host, at_b.address, 80).unwrap();
    drop(b);
    manager.release(&config().id, &at_b).unwrap();
    let (c, at_c) = manager
        .connect(&config().id, Some(at_b.address), None)
        .unwrap();
    assert_ne!(at_c.mac, at_b.mac);
    // The announcement has reached the neighbours' caches.
    let knows = |entries: String| entries.contains(&at_c.mac);
    eventually("the host knows", || knows(ip("neigh show dev berth0")));
    eventually("the neighbour knows", || {
        knows(within(&a.fd, || ip("neigh show dev eth0")))
    });
    drop((c, at_a));
}

#[test]
fn addresses_run_out_and_come_back() {
    let _host = fresh_host();
    let manager = Manager::new(0).unwrap();
    let mut small = config();
    small.prefix_len = 30;
    manager.add_bridge(&small).unwrap();
    let (n, endpoint) = manager.connect(&small.id, None, None).unwrap();
    let error = manager.connect(&small.id, None, None).unwrap_err();
    assert!(matches!(error, Error::Exhausted(_)));
    assert_eq!(
        error.to_string(),
        format!(
            "no available IPv4 addresses on this network's address pools: bridge ({})",
            small.id
        )
    );
    // Released while the namespace is still held: the interface is gone from the
    // network all the same, and before the address has a new owner.
    manager.release(&small.id, &endpoint).unwrap();
    let (_m, again) = manager.connect(&small.id, None, None).unwrap();
    assert!(!ip("-o link").contains(&endpoint.host_interface));
    assert_eq!(again.address, endpoint.address);
    // Releasing twice does not take it from the new owner.
    manager.release(&small.id, &endpoint).unwrap();
    assert!(manager.connect(&small.id, None, None).is_err());
    drop(n);
}

#[test]
fn a_released_interface_goes_though_its_namespace_stays() {
    let _host = fresh_host();
    let manager = manager();
    let (kept, endpoint) = manager.connect(&config().id, None, None).unwrap();
    let (_other, at_other) = manager.connect(&config().id, None, None).unwrap();
    manager.release(&config().id, &endpoint).unwrap();
    eventually("the interface is gone", || {
        !ip("-o link").contains(&endpoint.host_interface)
    });
    assert!(within(&kept.fd, || !ip("-o link").contains("eth0")));
    assert!(ip("-o link").contains(&at_other.host_interface));
    // An engine that ends in order leaves nothing that it was told to remove.
    manager.release(&config().id, &at_other).unwrap();
    drop(manager);
    assert!(!ip("-o link").contains(&at_other.host_interface));
}

#[test]
fn release_removes_only_what_is_ours() {
    let _host = fresh_host();
    let manager = manager();
    let (_n, endpoint) = manager.connect(&config().id, None, None).unwrap();
    let forged = berth_network::Endpoint {
        host_interface: "berth0".into(),
        ..endpoint
    };
    assert!(matches!(
        manager.release(&config().id, &forged),
        Err(Error::Invalid(_))
    ));
    assert!(ip("-o link").contains("berth0"));
}

#[test]
fn a_free_subnet() {
    let _host = fresh_host();
    let manager = Manager::new(0).unwrap();
    assert_eq!(
        manager.free_subnet().unwrap(),
        (Ipv4Addr::new(172, 17, 0, 1), 16)
    );
    manager.add_bridge(&config()).unwrap();
    assert_eq!(
        manager.free_subnet().unwrap(),
        (Ipv4Addr::new(172, 18, 0, 1), 16)
    );
    // A route, an address, and the split default route of a VPN.
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
    ip("addr add 172.18.5.5/32 dev v0");
    ip("route add 172.19.128.0/17 dev v0");
    ip("route add blackhole 172.20.0.0/16");
    ip("route add 0.0.0.0/1 dev v0");
    ip("route add 128.0.0.0/1 dev v0");
    assert_eq!(
        manager.free_subnet().unwrap(),
        (Ipv4Addr::new(172, 21, 0, 1), 16)
    );
    ip("route add 172.16.0.0/12 dev v0");
    assert_eq!(
        manager.free_subnet().unwrap(),
        (Ipv4Addr::new(192, 168, 0, 1), 20)
    );
    ip("route add 192.168.0.0/16 dev v0");
    let error = manager.free_subnet().unwrap_err();
    assert_eq!(
        error.to_string(),
        "all predefined address pools have been fully subnetted"
    );
}

#[test]
fn traffic_is_counted() {
    let host = fresh_host();
    let manager = manager();
    let (a, at_a) = manager.connect(&config().id, None, None).unwrap();
    let mut child = within(&a.fd, || {
        std::process::Command::new("busybox")
            .args(["sleep", "60"])
            .spawn()
            .unwrap()
    });
    serve(&host, at_a.gateway, 80);
    call(&a.fd, at_a.gateway, 80).unwrap();
    let counters = Manager::counters(child.id()).unwrap();
    assert_eq!(counters.len(), 1, "{counters:?}");
    assert_eq!(counters[0].interface, "eth0");
    assert!(
        counters[0].rx_packets >= 3 && counters[0].tx_packets >= 3,
        "{counters:?}"
    );
    assert!(
        counters[0].rx_bytes > 100 && counters[0].tx_bytes > 100,
        "{counters:?}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(
        Manager::counters(child.id()),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn many_at_once() {
    let host = fresh_host();
    let manager = manager();
    let manager = &manager;
    let all: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let host = &host;
                scope.spawn(move || {
                    within(host, || {
                        (0..4)
                            .map(|_| manager.connect(&config().id, None, None).unwrap())
                            .collect::<Vec<_>>()
                    })
                })
            })
            .collect();
        starts
            .into_iter()
            .flat_map(|start| start.join().unwrap())
            .collect()
    });
    let mut addresses: Vec<_> = all.iter().map(|(_, endpoint)| endpoint.address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 32);
    serve(&host, Ipv4Addr::new(172, 17, 0, 1), 80);
    for (namespace, endpoint) in &all {
        let seen = call(&namespace.fd, endpoint.gateway, 80).unwrap();
        assert_eq!(seen, endpoint.address.to_string());
    }
}
