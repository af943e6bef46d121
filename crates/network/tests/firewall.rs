//! Our table, compared with what nft makes of it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod rig;

use std::net::Ipv4Addr;

use berth_network::Manager;
use rig::*;

/// What berth makes, in nft's words, with one network on a host that was a router.
const TABLE: &str = r#"table inet berth {
	set bridges {
		type ifname
		elements = { "berth0" }
	}

	set masqueraded {
		type ifname
		elements = { "berth0" }
	}

	set neighbours {
		type ifname . ifname
		elements = { "berth0" . "berth0" }
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		oifname != @bridges accept comment "not towards our containers"
		ct state established,related accept comment "answers to what containers asked for"
		iifname . oifname @neighbours accept comment "within a network"
		drop comment "not published"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		meta nfproto ipv4 iifname @masqueraded oifname != @bridges masquerade comment "containers leave with the host's address"
	}
}
"#;

fn router() {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("become a router");
}

/// The ruleset with the kernel's handles, which change whenever something is made
/// anew.
fn with_handles() -> String {
    nft("-a list ruleset")
}

#[test]
fn nft_reads_what_we_mean() {
    let _host = fresh_host();
    router();
    let manager = manager();
    assert_eq!(nft("list ruleset"), TABLE);
    // nft's own reading of its own output gives the same table: nothing in it is
    // only nearly right.
    let printed = nft("list table inet berth");
    nft("delete table inet berth");
    nft_script(&printed);
    assert_eq!(nft("list ruleset"), TABLE);
    drop(manager);
}

#[test]
fn adopted_as_it_is() {
    let _host = fresh_host();
    router();
    let first = manager();
    let before = with_handles();
    first.add_bridge(&config()).unwrap();
    drop(first);
    let second = manager();
    assert_eq!(with_handles(), before);
    second.add_bridge(&other_config()).unwrap();
    // Only elements were added.
    let without_elements = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|l| !l.contains("elements") && !l.contains(" }"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(without_elements(&with_handles()), without_elements(&before));
}

#[test]
fn only_the_bridges_own_elements_go() {
    let _host = fresh_host();
    router();
    let manager = manager();
    let one = nft("list ruleset");
    manager.add_bridge(&other_config()).unwrap();
    let both = nft("list ruleset");
    assert!(
        both.contains("\"br-cdcdcdcdcdcd\" . \"br-cdcdcdcdcdcd\""),
        "{both}"
    );
    manager.remove_bridge(&other_config().id).unwrap();
    assert_eq!(nft("list ruleset"), one);
    manager.remove_bridge(&config().id).unwrap();
    assert_eq!(nft("list ruleset"), "");
}

#[test]
fn what_was_tampered_with_is_repaired() {
    let _host = fresh_host();
    router();
    let manager = manager();
    manager.add_bridge(&other_config()).unwrap();
    let good = nft("list ruleset");
    let damages = [
        "flush ruleset",
        "flush chain inet berth forward",
        "insert rule inet berth forward accept",
        "add rule inet berth postrouting accept",
        "add chain inet berth extra { type filter hook input priority 0; }",
        "add set inet berth extra { type ipv4_addr; }",
        "delete element inet berth bridges { berth0 }",
        "delete element inet berth masqueraded { berth0 }",
        "add table inet berth; delete table inet berth; add table inet berth",
    ];
    for damage in damages {
        nft_script(damage);
        assert_ne!(nft("list ruleset"), good, "{damage}");
        manager.add_bridge(&config()).unwrap();
        manager.add_bridge(&other_config()).unwrap();
        assert_eq!(nft("list ruleset"), good, "{damage}");
    }
    // A rebuild for one network does not forget the other, whose engine may not
    // have come to it yet.
    nft("insert rule inet berth forward accept");
    manager.add_bridge(&config()).unwrap();
    assert_eq!(nft("list ruleset"), good);
}

#[test]
fn other_tables_are_left_alone() {
    let _host = fresh_host();
    router();
    nft_script(
        "table ip mine { chain input { type filter hook input priority 0; tcp dport 22 accept; }; }",
    );
    let mine = nft("list table ip mine");
    let manager = manager();
    assert_eq!(nft("list table ip mine"), mine);
    manager.remove_bridge(&config().id).unwrap();
    assert_eq!(nft("list ruleset"), mine);
}

#[test]
fn many_elements() {
    let _host = fresh_host();
    router();
    let manager = manager();
    let names: Vec<_> = (0..3000).map(|i| format!("x{i}")).collect();
    nft_script(&format!(
        "add element inet berth bridges {{ {} }}",
        names.join(", ")
    ));
    // Read in several messages, and written again by a rebuild.
    nft("insert rule inet berth forward accept");
    manager.add_bridge(&config()).unwrap();
    let bridges = nft("list set inet berth bridges");
    assert_eq!(bridges.matches('"').count(), 2 * 3001);
    assert!(!nft("list chain inet berth forward").contains("policy accept;\n\t\taccept"));
}

#[test]
fn a_host_that_was_no_router_stays_none() {
    let host = fresh_host();
    let manager = manager();
    let left = outside(&host);
    // A second neighbour, to whom the first would be routed.
    let right = std::thread::scope(|s| s.spawn(fresh_host).join().unwrap());
    ip("link add second type veth peer name peer");
    let path = {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), right.as_raw_fd())
    };
    ip(&format!("link set peer netns {path}"));
    ip("addr add 203.0.113.1/24 dev second");
    ip("link set second up");
    within(&right, || {
        ip("addr add 203.0.113.2/24 dev peer");
        ip("link set peer up");
        ip("route add default via 203.0.113.1");
    });
    within(&left, || ip("route add default via 198.51.100.1"));
    let (right_ip, away) = (
        Ipv4Addr::new(203, 0, 113, 2),
        Ipv4Addr::new(198, 51, 100, 2),
    );
    serve(&right, right_ip, 80);
    assert!(is_dropped(&left, right_ip, 80));

    // Containers do go out.
    let (a, _) = manager.connect(&config().id, None, None).unwrap();
    serve(&left, away, 80);
    assert_eq!(call(&a.fd, away, 80).unwrap(), "198.51.100.1");

    // The next engine finds forwarding on, and remembers by the table.
    drop(manager);
    nft("insert rule inet berth forward iifname @bridges accept");
    let next = rig::manager();
    assert!(is_dropped(&left, right_ip, 80));
    // So does the table when the last network goes.
    next.remove_bridge(&config().id).unwrap();
    assert!(is_dropped(&left, right_ip, 80));
    // It is the rule that does it.
    nft("delete table inet berth");
    assert_eq!(call(&left, right_ip, 80).unwrap(), "198.51.100.2");
}

/// Documents a limit that nftables sets: a drop in any table is final. Beside
/// ufw, firewalld or Docker, container traffic must be allowed in theirs too.
#[test]
fn another_tables_drop_is_stronger() {
    let host = fresh_host();
    let manager = manager();
    let outside = outside(&host);
    let away = Ipv4Addr::new(198, 51, 100, 2);
    serve(&outside, away, 80);
    let (a, _) = manager.connect(&config().id, None, None).unwrap();
    call(&a.fd, away, 80).unwrap();
    nft_script(
        "table ip other { chain forward { type filter hook forward priority 0; policy drop; }; }",
    );
    assert!(is_dropped(&a.fd, away, 80));
    // The remedy: a word in the other's chain.
    nft_script(
        "add rule ip other forward iifname berth0 accept
         add rule ip other forward oifname berth0 ct state established,related accept",
    );
    assert_eq!(call(&a.fd, away, 80).unwrap(), "198.51.100.1");
}

#[test]
fn two_engines_on_one_host() {
    let host = fresh_host();
    router();
    let managers = [Manager::new(0).unwrap(), Manager::new(0).unwrap()];
    // Both change the table at once; each transaction that lost is made again.
    std::thread::scope(|scope| {
        for (manager, config) in managers.iter().zip([config(), other_config()]) {
            let host = &host;
            scope.spawn(move || {
                within(host, || {
                    for _ in 0..20 {
                        manager.add_bridge(&config).unwrap();
                        manager.remove_bridge(&config.id).unwrap();
                    }
                    manager.add_bridge(&config).unwrap();
                });
            });
        }
    });
    let table = nft("list ruleset");
    assert_eq!(table.matches("berth0").count(), 4, "{table}");
    assert_eq!(table.matches("br-cdcdcdcdcdcd").count(), 4, "{table}");
}
