//! `--network` in both forms, and the older flags that speak of the first one.

use std::collections::BTreeMap;

use berth_api::network::{EndpointIpam, EndpointSettings};

use super::mount::csv;
use crate::flags::Parsed;

/// One `--network`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Attachment {
    pub(super) name: String,
    aliases: Vec<String>,
    links: Vec<String>,
    ip: String,
    ip6: String,
    link_local: Vec<String>,
    mac: String,
    driver_opts: BTreeMap<String, String>,
    gw_priority: i64,
}

impl Attachment {
    /// "name", or "name=…,alias=…,ip=…".
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut attachment = Self::default();
        if !text.contains('=') {
            text.clone_into(&mut attachment.name);
            return Ok(attachment);
        }
        for field in csv(text)? {
            let Some((key, value)) = field.split_once('=') else {
                return Err(format!("invalid field {field}"));
            };
            let value = value.trim();
            match key.trim().to_lowercase().as_str() {
                "name" => value.clone_into(&mut attachment.name),
                "alias" => attachment.aliases.push(value.to_owned()),
                "ip" => attachment.ip = address(value, "IPv4")?,
                "ip6" => attachment.ip6 = address(value, "IPv6")?,
                "mac-address" => {
                    check_mac(value)?;
                    value.clone_into(&mut attachment.mac);
                }
                "link-local-ip" => attachment.link_local.push(value.to_owned()),
                "driver-opt" => {
                    let (name, option) = value.split_once('=').ok_or_else(|| {
                        "invalid key value pair format in driver options".to_owned()
                    })?;
                    attachment
                        .driver_opts
                        .insert(name.to_lowercase(), option.to_owned());
                }
                "gw-priority" => {
                    attachment.gw_priority = value
                        .parse()
                        .map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
                }
                other => return Err(format!("invalid field key {other}")),
            }
        }
        if attachment.name.is_empty() {
            return Err("network name/id is not specified".to_owned());
        }
        Ok(attachment)
    }

    /// Adds the flags that stand alone.
    fn apply(&mut self, args: &Parsed) -> Result<(), String> {
        let both = |flag: &str, what: &str| {
            Err(format!(
                "conflicting options: cannot specify both {flag} and per-network {what}"
            ))
        };
        let aliases = args.lists(&["network-alias", "net-alias"]);
        if !aliases.is_empty() {
            if !self.aliases.is_empty() {
                return both("--network-alias", "alias");
            }
            self.aliases = aliases;
        }
        let links = args.list("link");
        if !links.is_empty() && is_user_defined(&self.name) {
            self.links = links;
        }
        for (flag, slot, what) in [
            ("ip", &mut self.ip, "IPv4 address"),
            ("ip6", &mut self.ip6, "IPv6 address"),
            ("mac-address", &mut self.mac, "MAC address"),
        ] {
            if let Some(value) = args.get(flag) {
                if !slot.is_empty() {
                    return both(&format!("--{flag}"), what);
                }
                value.clone_into(slot);
            }
        }
        let link_local = args.list("link-local-ip");
        if !link_local.is_empty() {
            if !self.link_local.is_empty() {
                return both("--link-local-ip", "link-local IP addresses");
            }
            self.link_local = link_local;
        }
        Ok(())
    }

    fn endpoint(&self) -> Result<EndpointSettings, String> {
        if !is_user_defined(&self.name) {
            // "default" may be a network of the user's choice by now.
            if !self.aliases.is_empty() && self.name != "default" {
                return Err(
                    "network-scoped aliases are only supported for user-defined networks"
                        .to_owned(),
                );
            }
            if !self.links.is_empty() {
                return Err("links are only supported for user-defined networks".to_owned());
            }
        }
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let addresses = !self.ip.is_empty() || !self.ip6.is_empty() || !self.link_local.is_empty();
        Ok(EndpointSettings {
            ipam_config: addresses.then(|| EndpointIpam {
                ipv4_address: self.ip.clone(),
                ipv6_address: self.ip6.clone(),
                link_local_ips: list(&self.link_local),
            }),
            links: list(&self.links),
            aliases: list(&self.aliases),
            driver_opts: (!self.driver_opts.is_empty()).then(|| self.driver_opts.clone()),
            gw_priority: self.gw_priority,
            mac_address: self.mac.clone(),
            ..EndpointSettings::default()
        })
    }
}

fn address(text: &str, family: &str) -> Result<String, String> {
    let fits = match family {
        "IPv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        _ => text.parse::<std::net::Ipv6Addr>().is_ok(),
    };
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid {family} address: {text}"))
    }
}

/// Six, eight or twenty octets, joined by ":" or "-", or in dotted groups.
pub(super) fn check_mac(text: &str) -> Result<(), String> {
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let joined = |separator: char, digits: usize, counts: [usize; 3]| {
        let parts: Vec<_> = text.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|part| hex(part, digits))
    };
    if joined(':', 2, [6, 8, 20]) || joined('-', 2, [6, 8, 20]) || joined('.', 4, [3, 4, 10]) {
        Ok(())
    } else {
        Err(format!("{text} is not a valid mac address"))
    }
}

pub(super) fn is_user_defined(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

/// `NetworkMode` and the endpoints to make.
pub(super) fn endpoints(
    args: &Parsed,
) -> Result<(String, BTreeMap<String, EndpointSettings>), String> {
    if let Some(mac) = args.get("mac-address") {
        check_mac(mac.trim())?;
    }
    let mut attachments = args
        .lists(&["network", "net"])
        .iter()
        .map(|text| Attachment::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let given = attachments.len();
    if attachments.is_empty() {
        attachments.push(Attachment {
            name: "default".to_owned(),
            ..Attachment::default()
        });
    }
    let mode = attachments[0].name.clone();
    let mut endpoints = BTreeMap::new();
    let (mut user_defined, mut others) = (false, false);
    for (at, attachment) in attachments.iter_mut().enumerate() {
        if is_user_defined(&attachment.name) {
            user_defined = true;
        } else {
            others = true;
        }
        if at == 0 {
            attachment.apply(args)?;
        }
        let endpoint = attachment.endpoint()?;
        if endpoints.contains_key(&attachment.name) {
            return Err(format!(
                "network \"{}\" is specified multiple times",
                attachment.name
            ));
        }
        // One network without options: the engine makes the endpoint itself.
        if given == 1 && endpoint == EndpointSettings::default() {
            continue;
        }
        endpoints.insert(attachment.name.clone(), endpoint);
    }
    if user_defined && others {
        return Err("conflicting options: cannot attach both user-defined and non-user-defined network-modes".to_owned());
    }
    Ok((mode, endpoints))
}
