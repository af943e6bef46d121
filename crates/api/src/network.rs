//! Networks as the Engine API shows them.

use std::collections::BTreeMap;

use crate::container::Labels;

go_struct! {
    pub struct EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        ipam_config: Option<EndpointIpam>,
        links: Option<Vec<String>>,
        aliases: Option<Vec<String>>,
        driver_opts: Option<Labels>,
        gw_priority: i64,
        #[serde(rename = "NetworkID")]
        network_id: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        gateway: String,
        #[serde(rename = "IPAddress")]
        ip_address: String,
        mac_address: String,
        #[serde(rename = "IPPrefixLen")]
        ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        global_ipv6_prefix_len: i64,
        #[serde(rename = "DNSNames")]
        dns_names: Option<Vec<String>>,
    }
}

go_struct! {
    pub struct EndpointIpam {
        #[serde(rename = "IPv4Address", skip_serializing_if = "crate::go::is_default")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address", skip_serializing_if = "crate::go::is_default")]
        ipv6_address: String,
        #[serde(rename = "LinkLocalIPs", skip_serializing_if = "crate::go::is_default")]
        link_local_ips: Option<Vec<String>>,
    }
}

go_struct! {
    /// Reply of `GET /networks/{id}` and row of `GET /networks`.
    pub struct Network {
        name: String,
        id: String,
        created: String,
        scope: String,
        driver: String,
        #[serde(rename = "EnableIPv4")]
        enable_ipv4: bool,
        #[serde(rename = "EnableIPv6")]
        enable_ipv6: bool,
        #[serde(rename = "IPAM")]
        ipam: Ipam,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_from: ConfigReference,
        config_only: bool,
        containers: BTreeMap<String, EndpointResource>,
        options: Labels,
        labels: Labels,
    }
}

go_struct! {
    pub struct ConfigReference {
        network: String,
    }
}

go_struct! {
    pub struct Ipam {
        driver: String,
        options: Option<Labels>,
        config: Option<Vec<IpamPool>>,
    }
}

go_struct! {
    pub struct IpamPool {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        subnet: String,
        #[serde(rename = "IPRange", skip_serializing_if = "crate::go::is_default")]
        ip_range: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        gateway: String,
    }
}

go_struct! {
    pub struct EndpointResource {
        name: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        mac_address: String,
        #[serde(rename = "IPv4Address")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        ipv6_address: String,
    }
}
