//! `-p` and `--expose`.

use berth_api::container::{PortBinding, PortMap, Set};

use crate::flags::go_number_error;

/// Adds one `-p` value: "[[ip:][host]:]container[/proto]", each side a number or
/// a range, or "target=…,published=…,protocol=…".
pub(super) fn publish(text: &str, exposed: &mut Set, bindings: &mut PortMap) -> Result<(), String> {
    let text = &standard(text)?;
    let (ports, protocol) = split_protocol(text)?;
    let (ip, host, container) = split(ports)?;
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let (start, end) =
        range(container).map_err(|_| format!("invalid containerPort: {container}"))?;
    let (host_start, host_end) = if host.is_empty() {
        (0, 0)
    } else {
        range(host).map_err(|_| format!("invalid hostPort: {host}"))?
    };
    if !host.is_empty() && end - start != host_end - host_start && end != start {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    for offset in 0..=(end - start) {
        let host_port = if host.is_empty() {
            String::new()
        } else if start == end && host_start != host_end {
            // The engine picks one of the range.
            format!("{host_start}-{host_end}")
        } else {
            (host_start + offset).to_string()
        };
        let port = format!("{}/{protocol}", start + offset);
        exposed.insert(port.clone(), berth_api::Empty {});
        bindings
            .entry(port)
            .or_default()
            .get_or_insert_default()
            .push(PortBinding {
                host_ip: ip.to_owned(),
                host_port,
            });
    }
    Ok(())
}

/// Adds one `--expose` value: "80", "80-90/udp".
pub(super) fn expose(text: &str, exposed: &mut Set) -> Result<(), String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = split_protocol(text)?;
    let (start, end) = range(ports)
        .map_err(|why| format!("invalid range format for --expose: {text}, error: {why}"))?;
    for port in start..=end {
        exposed.insert(format!("{port}/{protocol}"), berth_api::Empty {});
    }
    Ok(())
}

fn standard(text: &str) -> Result<String, String> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let (mut target, mut published, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("target", value)) => target = value,
            Some(("published", value)) => published = value,
            Some(("protocol", value)) => protocol = value,
            Some(("mode" | "app-protocol" | "name" | "host_ip", _)) => {}
            Some((key, _)) => return Err(format!("invalid field key {key}")),
            None => {
                return Err(format!(
                    "invalid publish opts format (should be name=value but got '{field}')"
                ));
            }
        }
    }
    if target.is_empty() {
        return Err(format!("missing mandatory field 'target' in '{text}'"));
    }
    Ok(if published.is_empty() {
        format!("{target}/{protocol}")
    } else {
        format!("{published}:{target}/{protocol}")
    })
}

fn split_protocol(text: &str) -> Result<(&str, String), String> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, "")) => (ports, "tcp"),
        Some((ports, protocol)) => (ports, protocol),
        None => (text, "tcp"),
    };
    let protocol = protocol.to_lowercase();
    if matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        Ok((ports, protocol))
    } else {
        Err(format!("invalid proto: {protocol}"))
    }
}

/// "[ip:][host:]container" into its three parts.
fn split(text: &str) -> Result<(&str, &str, &str), String> {
    let Some((front, container)) = text.rsplit_once(':') else {
        return Ok(("", "", text));
    };
    let Some((ip, host)) = front.rsplit_once(':') else {
        return Ok(("", front, container));
    };
    let bare = ip
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(ip);
    if !ip.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    Ok((bare, host, container))
}

fn range(text: &str) -> Result<(u16, u16), String> {
    if text.is_empty() {
        return Err("empty string specified for ports".to_owned());
    }
    let number = |text: &str| {
        text.parse::<u16>()
            .map_err(|error| go_number_error("ParseUint", text, error.kind()))
    };
    let Some((start, end)) = text.split_once('-') else {
        let port = number(text)?;
        return Ok((port, port));
    };
    let (start, end) = (number(start)?, number(end)?);
    if end < start {
        return Err(format!("invalid range specified for port: {text}"));
    }
    Ok((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str) -> Result<Vec<String>, String> {
        let (mut exposed, mut bindings) = (Set::new(), PortMap::new());
        publish(text, &mut exposed, &mut bindings)?;
        Ok(bindings
            .iter()
            .flat_map(|(port, list)| {
                list.iter()
                    .flatten()
                    .map(move |b| format!("{port}={}:{}", b.host_ip, b.host_port))
            })
            .collect())
    }

    #[test]
    fn forms() {
        assert_eq!(bound("80").unwrap(), ["80/tcp=:"]);
        assert_eq!(bound("8080:80").unwrap(), ["80/tcp=:8080"]);
        assert_eq!(bound("127.0.0.1::80/udp").unwrap(), ["80/udp=127.0.0.1:"]);
        assert_eq!(bound("[::1]:1:2").unwrap(), ["2/tcp=::1:1"]);
        assert_eq!(bound("90-91:80-81").unwrap(), ["80/tcp=:90", "81/tcp=:91"]);
        assert_eq!(bound("90-95:80").unwrap(), ["80/tcp=:90-95"]);
        assert_eq!(bound("target=80,published=1").unwrap(), ["80/tcp=:1"]);
        assert_eq!(bound("foo").unwrap_err(), "invalid containerPort: foo");
        assert_eq!(bound("x:80").unwrap_err(), "invalid hostPort: x");
        assert!(bound("1-2:3-9").is_err() && bound("80/foo").is_err() && bound("x:1:2").is_err());
        assert!(bound("65535-70000:1").is_err() && bound("").is_err());
    }
}
