//! Every option of the daemon: one table for its flags and for daemon.json.

use std::collections::BTreeMap;
use std::fmt;

/// What an option holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int,
    Text,
    /// May be given more than once.
    List,
    /// "name=value", may be given more than once.
    Map,
}

/// What berth makes of an option.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Support {
    /// It does what it says; with a line of help.
    Works(&'static str),
    /// These values say what berth does anyway; others are refused.
    Only(&'static [&'static str]),
}

#[derive(Debug)]
pub(crate) struct Opt {
    /// The flag without dashes; empty when only daemon.json has it.
    pub(crate) flag: &'static str,
    pub(crate) short: Option<char>,
    /// The key in daemon.json; empty when only the command line has it.
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    pub(crate) support: Support,
}

impl Opt {
    /// How messages name it.
    pub(crate) fn name(&self) -> &'static str {
        if self.key.is_empty() {
            self.flag
        } else {
            self.key
        }
    }
}

/// A value of its option's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
            Self::List(values) => write!(f, "[{}]", values.join(" ")),
            Self::Map(values) => {
                let pairs: Vec<_> = values.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                write!(f, "map[{}]", pairs.join(" "))
            }
        }
    }
}

/// Given values, by the option's name.
pub(crate) type Values = BTreeMap<&'static str, Value>;

pub(crate) fn by_flag(flag: &str) -> Option<&'static Opt> {
    OPTIONS
        .iter()
        .find(|opt| opt.flag == flag && !flag.is_empty())
}

pub(crate) fn by_short(short: char) -> Option<&'static Opt> {
    OPTIONS.iter().find(|opt| opt.short == Some(short))
}

pub(crate) fn by_key(key: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|opt| opt.key == key && !key.is_empty())
}

/// Refuses values that would have no effect. Lists and maps are checked entry
/// by entry; empty ones, and empty texts, are nothing said.
pub(crate) fn check_support(values: &Values) -> Result<(), String> {
    for opt in OPTIONS {
        let (Some(value), Only(fine)) = (values.get(opt.name()), opt.support) else {
            continue;
        };
        let entries: Vec<String> = match value {
            Value::List(entries) => entries.clone(),
            Value::Map(entries) => entries.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            Value::Text(text) if text.is_empty() => Vec::new(),
            single => vec![single.to_string()],
        };
        if let Some(entry) = entries.iter().find(|entry| !fine.contains(&entry.as_str())) {
            if opt.key == "live-restore" {
                return Err(
                    "live-restore cannot be turned off: berth's containers always outlive the daemon"
                        .to_owned(),
                );
            }
            return Err(format!(
                "{}={entry} is not supported by berth yet",
                opt.name()
            ));
        }
    }
    Ok(())
}

macro_rules! options {
    ($($flag:literal $short:expr, $key:literal, $kind:ident, $support:expr;)*) => {
        &[$(Opt {
            flag: $flag,
            short: $short,
            key: $key,
            kind: Kind::$kind,
            support: $support,
        }),*]
    };
}

use Support::{Only, Works};

/// Never sensible to accept without effect.
const NO: Support = Only(&[]);
const OFF: Support = Only(&["false"]);
const ON: Support = Only(&["true"]);

#[rustfmt::skip]
pub(crate) static OPTIONS: &[Opt] = options! {
    "help"                 Some('h'), "",                     Bool, Works("Print usage");
    "version"              Some('v'), "",                     Bool, Works("Print version information and quit");
    "validate"             None,      "",                     Bool, Works("Validate daemon configuration and exit");
    "config-file"          None,      "",                     Text, Works("Daemon configuration file (default /etc/berth/daemon.json, then /etc/docker/daemon.json)");
    "ready-fd"             None,      "",                     Int,  Works("Descriptor to write a byte to, and close, when the API is served");
    "network-pool"         None,      "network-pool",         Int,  Works("Network namespaces kept ready of each kind");
    "host"                 Some('H'), "hosts",                List, Works("Socket to listen on: unix://, tcp:// or fd://");
    "group"                Some('G'), "group",                Text, Works("Group for the unix socket");
    "tls"                  None,      "tls",                  Bool, Works("Only =false: allow tcp:// without encryption");
    "data-root"            None,      "data-root",            Text, Works("Root directory of persistent state");
    "exec-root"            None,      "exec-root",            Text, Works("Root directory of execution state");
    "pidfile"              Some('p'), "pidfile",              Text, Works("Path of the daemon's PID file");
    "debug"                Some('D'), "debug",                Bool, Works("Enable debug mode");
    "log-level"            Some('l'), "log-level",            Text, Works("debug, info, warn, error or fatal");
    "log-format"           None,      "log-format",           Text, Works("text or json");
    "log-driver"           None,      "log-driver",           Text, Works("Default driver for container logs");
    "log-opt"              None,      "log-opts",             Map,  Works("Default log driver options for containers");
    "label"                None,      "labels",               List, Works("Set key=value labels of the daemon");
    "bridge"               Some('b'), "bridge",               Text, Works("Interface of the default network, or none");
    "bip"                  None,      "bip",                  Text, Works("Address of the default bridge, with prefix length");
    "mtu"                  None,      "mtu",                  Int,  Works("MTU of the default bridge");
    "ip-masq"              None,      "ip-masq",              Bool, Works("Masquerade outgoing traffic of the default bridge");
    "dns"                  None,      "dns",                  List, Works("DNS server of containers");
    "dns-opt"              None,      "dns-opts",             List, Works("DNS option of containers");
    "dns-search"           None,      "dns-search",           List, Works("DNS search domain of containers");
    "default-ulimit"       None,      "default-ulimits",      Map,  Works("Default ulimit of containers: name=soft[:hard]");
    "default-shm-size"     None,      "default-shm-size",     Text, Works("Default size of /dev/shm");
    "default-ipc-mode"     None,      "default-ipc-mode",     Text, Works("shareable or private");
    "default-cgroupns-mode" None,     "default-cgroupns-mode", Text, Works("host or private");
    "default-stop-timeout" None,      "default-stop-timeout", Int,  Works("Seconds to wait before a stopped container is killed");
    "cgroup-parent"        None,      "cgroup-parent",        Text, Works("Parent cgroup of all containers");
    "no-new-privileges"    None,      "no-new-privileges",    Bool, Works("Set no-new-privileges by default");
    "seccomp-profile"      None,      "seccomp-profile",      Text, Works("Path of a seccomp profile, builtin or unconfined");
    "init"                 None,      "init",                 Bool, Works("Run an init in containers");
    "image-gc"             None,      "image-gc",             Map,  Works("Remove unused images by themselves: reserved=10GB,max-used=50GB,min-free=20GB");
    "experimental"         None,      "experimental",         Bool, Works("Enable experimental features");
    "insecure-registry"    None,      "insecure-registries",  List, Works("Registry (host[:port] or network) that may do without a trusted certificate");
    "registry-mirror"      None,      "registry-mirrors",     List, Works("Mirror to ask before Docker Hub: http:// or https://");
    "max-concurrent-downloads" None,  "max-concurrent-downloads", Int, Works("Blobs that all pulls together download at a time; 0 = no limit");
    "max-concurrent-uploads"   None,  "max-concurrent-uploads",   Int, Works("Blobs that all pushes together upload at a time; 0 = no limit");
    "max-download-attempts"    None,  "max-download-attempts",    Int, Works("Tries to download a blob");
    "shutdown-timeout"     None,      "shutdown-timeout",     Int,  Works("Seconds that requests may take to finish at shutdown");
    ""                     None,      "min-api-version",      Text, Works("Oldest API version served");
    ""                     None,      "builder",              Map,  Works("When the build cache gives space back: {\"gc\": {…}}");

    "live-restore"         None,      "live-restore",         Bool, ON;
    "feature"              None,      "features",             Map,  Only(&["time-namespaces=true", "containerd-snapshotter=true"]);
    // Log lines have no colours either way.
    "raw-logs"             None,      "raw-logs",             Bool, Only(&["true", "false"]);
    // Ports are never published through a proxy process.
    "userland-proxy"       None,      "userland-proxy",       Bool, Only(&["true", "false"]);
    "userland-proxy-path"  None,      "userland-proxy-path",  Text, NO;
    "storage-driver"       Some('s'), "storage-driver",       Text, Only(&["overlay2", "overlayfs"]);
    "storage-opt"          None,      "storage-opts",         List, NO;
    "exec-opt"             None,      "exec-opts",            List, Only(&["native.cgroupdriver=cgroupfs"]);
    "default-runtime"      None,      "default-runtime",      Text, Only(&["runc", "io.containerd.runc.v2"]);
    "add-runtime"          None,      "runtimes",             Map,  NO;
    "firewall-backend"     None,      "firewall-backend",     Text, Only(&["nftables"]);
    "iptables"             None,      "iptables",             Bool, ON;
    "ip6tables"            None,      "ip6tables",            Bool, ON;
    "ipv6"                 None,      "ipv6",                 Bool, OFF;
    "icc"                  None,      "icc",                  Bool, ON;
    "ip"                   None,      "ip",                   Text, Only(&["0.0.0.0"]);
    // The bridge turns the host's forwarding on, behind its firewall.
    "ip-forward"           None,      "ip-forward",           Bool, ON;
    "ip-forward-no-drop"   None,      "ip-forward-no-drop",   Bool, OFF;
    "allow-direct-routing" None,      "allow-direct-routing", Bool, OFF;
    "bip6"                 None,      "bip6",                 Text, NO;
    "bridge-accept-fwmark" None,      "bridge-accept-fwmark", Text, NO;
    "default-address-pool" None,      "default-address-pools", List, NO;
    "default-gateway"      None,      "default-gateway",      Text, NO;
    "default-gateway-v6"   None,      "default-gateway-v6",   Text, NO;
    "default-network-opt"  None,      "default-network-opts", Map,  NO;
    "fixed-cidr"           None,      "fixed-cidr",           Text, NO;
    "fixed-cidr-v6"        None,      "fixed-cidr-v6",        Text, NO;
    "host-gateway-ip"      None,      "host-gateway-ip",      List, NO;
    ""                     None,      "host-gateway-ips",     List, NO;
    "network-control-plane-mtu" None, "network-control-plane-mtu", Int, Only(&["1500"]);
    "network-diagnostic-port"   None, "network-diagnostic-port",   Int, Only(&["0"]);
    "authorization-plugin" None,      "authorization-plugins", List, NO;
    "cdi-spec-dir"         None,      "cdi-spec-dirs",        List, NO;
    "containerd"           None,      "containerd",           Text, NO;
    "containerd-namespace" None,      "containerd-namespace", Text, Only(&["moby"]);
    "containerd-plugins-namespace" None, "containerd-plugins-namespace", Text, Only(&["plugins.moby"]);
    "cri-containerd"       None,      "cri-containerd",       Bool, OFF;
    "cpu-rt-period"        None,      "cpu-rt-period",        Int,  Only(&["0"]);
    "cpu-rt-runtime"       None,      "cpu-rt-runtime",       Int,  Only(&["0"]);
    "http-proxy"           None,      "http-proxy",           Text, NO;
    "https-proxy"          None,      "https-proxy",          Text, NO;
    "no-proxy"             None,      "no-proxy",             Text, NO;
    ""                     None,      "proxies",              Map,  NO;
    "init-path"            None,      "init-path",            Text, NO;
    "metrics-addr"         None,      "metrics-addr",         Text, NO;
    "node-generic-resource" None,     "node-generic-resources", List, NO;
    "nri-opts"             None,      "nri-opts",             Map,  NO;
    "rootless"             None,      "rootless",             Bool, OFF;
    "selinux-enabled"      None,      "selinux-enabled",      Bool, OFF;
    "swarm-default-advertise-addr" None, "swarm-default-advertise-addr", Text, NO;
    ""                     None,      "swarm-raft-heartbeat-tick", Int, NO;
    ""                     None,      "swarm-raft-election-tick",  Int, NO;
    "tlscacert"            None,      "tlscacert",            Text, NO;
    "tlscert"              None,      "tlscert",              Text, NO;
    "tlskey"               None,      "tlskey",               Text, NO;
    "tlsverify"            None,      "tlsverify",            Bool, OFF;
    "userns-remap"         None,      "userns-remap",         Text, NO;
    ""                     None,      "resolv-conf",          Text, NO;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (at, a) in OPTIONS.iter().enumerate() {
            for b in &OPTIONS[at + 1..] {
                assert_ne!(a.name(), b.name());
                assert!(a.short.is_none() || a.short != b.short, "{}", a.name());
            }
        }
    }

    #[test]
    fn values_without_effect_are_refused() {
        let check = |name, value| check_support(&[(name, value)].into());
        assert!(check("icc", Value::Bool(true)).is_ok());
        assert_eq!(
            check("icc", Value::Bool(false)).unwrap_err(),
            "icc=false is not supported by berth yet"
        );
        assert!(check("storage-opts", Value::List(vec![])).is_ok());
        assert!(check("storage-opts", Value::List(vec!["x".into()])).is_err());
        assert!(
            check("live-restore", Value::Bool(false))
                .unwrap_err()
                .contains("always outlive")
        );
    }
}
