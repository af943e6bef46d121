//! EXPOSE.

use std::net::IpAddr;

/// `[ip:][host:]port[-end][/protocol]`: one "port/protocol" for each port.
pub(super) fn parse(text: &str) -> Result<Vec<String>, String> {
    let (rest, container) = match text.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, text),
    };
    let (range, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    if range.is_empty() {
        return Err(format!("no port specified: {container}<empty>"));
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        other => return Err(format!("invalid proto: {other}")),
    };
    let (host_ip, host) = match rest.map(|rest| rest.rsplit_once(':').unwrap_or(("", rest))) {
        Some((ip, host)) => (ip, host),
        None => ("", ""),
    };
    let bare = match host_ip.strip_prefix('[') {
        Some(ip) => ip.strip_suffix(']').unwrap_or(host_ip),
        None => host_ip,
    };
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {bare}"));
    }
    let (first, last) = ports(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    if !host.is_empty() {
        let (from, to) = ports(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != to - from && first != last {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {range} and {host}"
            ));
        }
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

fn ports(range: &str) -> Option<(u16, u16)> {
    let port = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u16>().ok(),
        false => None,
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges() {
        for (text, wanted) in [
            ("80", vec!["80/tcp"]),
            ("53/UDP", vec!["53/udp"]),
            ("80/", vec!["80/tcp"]),
            ("8000-8002", vec!["8000/tcp", "8001/tcp", "8002/tcp"]),
            ("[::1]:1:2", vec!["2/tcp"]),
            ("127.0.0.1:1-9:2/sctp", vec!["2/sctp"]),
        ] {
            assert_eq!(parse(text).unwrap(), wanted, "{text}");
        }
        for (text, why) in [
            ("80/icmp", "invalid proto: icmp"),
            ("x", "invalid containerPort: x"),
            ("9-8", "invalid containerPort: 9-8"),
            ("70000", "invalid containerPort: 70000"),
            ("/tcp", "no port specified: /tcp<empty>"),
            (
                "1-2:3-9",
                "invalid ranges specified for container and host Ports: 3-9 and 1-2",
            ),
            ("nowhere:1:2", "invalid IP address: nowhere"),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text}");
        }
    }
}
