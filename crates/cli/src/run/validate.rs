//! Checks of single flag values while parsing, in Docker's words.

use std::net::IpAddr;

pub(crate) fn attach(text: &str) -> Result<(), String> {
    match text.to_lowercase().as_str() {
        "stdin" | "stdout" | "stderr" => Ok(()),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

pub(crate) fn env(text: &str) -> Result<(), String> {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok(())
}

pub(crate) fn label(text: &str) -> Result<(), String> {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok(())
}

pub(crate) fn link(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("empty string specified for links".to_owned());
    }
    if text.split(':').count() > 2 {
        return Err(format!("bad format for links: {text}"));
    }
    Ok(())
}

pub(crate) fn ip_address(text: &str) -> Result<(), String> {
    text.trim()
        .parse::<IpAddr>()
        .map(drop)
        .map_err(|_| format!("IP address is not correctly formatted: {text}"))
}

pub(crate) fn dns_search(text: &str) -> Result<(), String> {
    let name = text.trim();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name == "." || (name.len() <= 255 && name.trim_end_matches('.').split('.').all(label)) {
        return Ok(());
    }
    Err(format!("{text} is not a valid domain"))
}

/// "name:ip" or "name=ip"; the address may be "host-gateway" or in brackets.
pub(crate) fn extra_host(text: &str) -> Result<(), String> {
    let Some((name, address)) = split_extra_host(text) else {
        return Err(format!(
            "bad format for add-host: {}",
            crate::flags::go_quote(text)
        ));
    };
    if name.is_empty() {
        return Err(format!(
            "bad format for add-host: {}",
            crate::flags::go_quote(text)
        ));
    }
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return Err(format!(
            "invalid IP address in add-host: {}",
            crate::flags::go_quote(address)
        ));
    }
    Ok(())
}

/// Several, with commas between.
pub(crate) fn extra_hosts(texts: &str) -> Result<(), String> {
    texts.split(',').try_for_each(extra_host)
}

pub(crate) fn split_extra_host(text: &str) -> Option<(&str, &str)> {
    let at = match (text.find('='), text.find(':')) {
        (Some(equals), _) => equals,
        (None, Some(colon)) => colon,
        (None, None) => return None,
    };
    let address = &text[at + 1..];
    let address = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    Some((&text[..at], address))
}

/// "c 1:3 rwm"
pub(crate) fn cgroup_rule(text: &str) -> Result<(), String> {
    let bad = || format!("invalid device cgroup format '{text}'");
    let mut fields = text.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(bad());
    };
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let numbers = numbers
        .split_once(':')
        .is_some_and(|(major, minor)| number(major) && number(minor));
    let access = (1..=3).contains(&access.len()) && access.chars().all(|c| "rwm".contains(c));
    if matches!(kind, "a" | "b" | "c") && numbers && access {
        Ok(())
    } else {
        Err(bad())
    }
}

fn device_and(text: &str) -> Result<(&str, &str), String> {
    let (path, value) = text
        .split_once(':')
        .ok_or_else(|| format!("bad format: {text}"))?;
    if path.is_empty() {
        return Err(format!("bad format: {text}"));
    }
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, value))
}

pub(crate) fn weight_device(text: &str) -> Result<(), String> {
    parse_weight_device(text).map(drop)
}

pub(crate) fn parse_weight_device(text: &str) -> Result<(String, u16), String> {
    let (path, weight) = device_and(text)?;
    match weight.parse::<u16>() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => Ok((path.to_owned(), weight)),
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

pub(crate) fn throttle_bps(text: &str) -> Result<(), String> {
    parse_throttle_bps(text).map(drop)
}

pub(crate) fn parse_throttle_bps(text: &str) -> Result<(String, u64), String> {
    let (path, rate) = device_and(text)?;
    let rate = crate::units::parse_bytes(rate)
        .ok()
        .and_then(|rate| u64::try_from(rate).ok());
    rate.map(|rate| (path.to_owned(), rate)).ok_or_else(|| {
        format!("invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb")
    })
}

pub(crate) fn throttle_iops(text: &str) -> Result<(), String> {
    parse_throttle_iops(text).map(drop)
}

pub(crate) fn parse_throttle_iops(text: &str) -> Result<(String, u64), String> {
    let (path, rate) = device_and(text)?;
    rate.parse().map(|rate| (path.to_owned(), rate)).map_err(|_| {
        format!("invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer")
    })
}

/// Only settings that a container may have for itself.
pub(crate) fn sysctl(text: &str) -> Result<(), String> {
    const NAMES: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let allowed = text.split_once('=').is_some_and(|(name, _)| {
        NAMES.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.")
    });
    if allowed {
        Ok(())
    } else {
        Err(format!("sysctl '{text}' is not allowed"))
    }
}

pub(crate) fn ulimit(text: &str) -> Result<(), String> {
    parse_ulimit(text).map(drop)
}

pub(crate) fn parse_ulimit(text: &str) -> Result<berth_api::container::Ulimit, String> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let (name, values) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| -> Result<i64, String> {
        text.parse::<i64>()
            .map_err(|error| crate::flags::go_number_error("ParseInt", text, error.kind()))
    };
    let (soft, hard) = match values.split_once(':') {
        Some((_, hard)) if hard.contains(':') => {
            return Err(format!(
                "too many limit value arguments - {values}, can only have up to two, `soft[:hard]`"
            ));
        }
        Some((soft, hard)) if !hard.is_empty() => (number(soft)?, number(hard)?),
        Some((soft, _)) => {
            let soft = number(soft)?;
            (soft, soft)
        }
        None => {
            let soft = number(values)?;
            (soft, soft)
        }
    };
    if hard != -1 {
        if soft == -1 {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
            ));
        }
        if soft > hard {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            ));
        }
    }
    Ok(berth_api::container::Ulimit {
        name: name.to_owned(),
        hard,
        soft,
    })
}

pub(crate) fn mount(text: &str) -> Result<(), String> {
    super::mount::parse(text).map(drop)
}

pub(crate) fn network(text: &str) -> Result<(), String> {
    super::network::Attachment::parse(text).map(drop)
}

pub(crate) fn gpus(text: &str) -> Result<(), String> {
    super::device::parse_gpus(text).map(drop)
}
