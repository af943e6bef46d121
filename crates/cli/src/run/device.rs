//! `--device`, `--gpus`.

use berth_api::container::{DeviceMapping, DeviceRequest};

use super::mount::csv;

/// A device node, or a name of the Container Device Interface.
#[derive(Debug, PartialEq)]
pub(super) enum Device {
    Node(DeviceMapping),
    Cdi(String),
}

/// "src[:dst[:rwm]]" or "vendor/class=name".
pub(super) fn parse_device(text: &str) -> Result<Device, String> {
    if is_cdi(text) {
        return Ok(Device::Cdi(text.to_owned()));
    }
    let parts: Vec<_> = text.split(':').collect();
    let access = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| "rwm".contains(c))
            && text
                .chars()
                .enumerate()
                .all(|(at, c)| text.find(c) == Some(at))
    };
    let (source, target, mode) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, mode] if access(mode) => (*source, *source, *mode),
        [source, target] => (*source, *target, "rwm"),
        [source, target, mode] if access(mode) => (*source, *target, *mode),
        [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if source.is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    if !target.starts_with('/') {
        return Err(format!("{target} is not an absolute path"));
    }
    Ok(Device::Node(DeviceMapping {
        path_on_host: source.to_owned(),
        path_in_container: target.to_owned(),
        cgroup_permissions: mode.to_owned(),
    }))
}

/// "vendor.com/class=name"
fn is_cdi(text: &str) -> bool {
    let word = |text: &str, extra: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    let Some((kind, name)) = text.split_once('=') else {
        return false;
    };
    kind.split_once('/')
        .is_some_and(|(vendor, class)| word(vendor, "_-.") && word(class, "_-"))
        && !name.is_empty()
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
}

/// "all", a count, or "driver=,count=,device=,capabilities=,options=".
pub(super) fn parse_gpus(text: &str) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest {
        options: Some(Default::default()),
        ..DeviceRequest::default()
    };
    let mut capabilities: Vec<String> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for field in csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, value),
            None => ("count", field.as_str()),
        };
        if seen.iter().any(|have| have == key) {
            return Err(format!(
                "gpu request key '{key}' can be specified only once"
            ));
        }
        seen.push(key.to_owned());
        match key {
            "driver" => value.clone_into(&mut request.driver),
            "count" if value == "all" => request.count = -1,
            "count" => {
                request.count = value.parse().map_err(|_| {
                    format!("invalid count ({value}): value must be either \"all\" or an integer: invalid syntax")
                })?;
            }
            "device" => {
                request.device_ids = Some(value.split(',').map(str::to_owned).collect());
            }
            "capabilities" => capabilities = value.split(',').map(str::to_owned).collect(),
            "options" => {
                let options = csv(value)?
                    .iter()
                    .map(|option| {
                        let (name, value) = option.split_once('=').unwrap_or((option, ""));
                        (name.to_owned(), value.to_owned())
                    })
                    .collect();
                request.options = Some(options);
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if !seen.iter().any(|key| key == "count") && request.device_ids.is_none() {
        request.count = 1;
    }
    if !capabilities.iter().any(|have| have == "gpu") {
        capabilities.push("gpu".to_owned());
    }
    request.capabilities = Some(vec![capabilities]);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let node = |text| match parse_device(text) {
            Ok(Device::Node(node)) => (
                node.path_on_host,
                node.path_in_container,
                node.cgroup_permissions,
            ),
            other => panic!("{other:?}"),
        };
        let triple = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(node("/dev/a"), triple("/dev/a", "/dev/a", "rwm"));
        assert_eq!(node("/dev/a:r"), triple("/dev/a", "/dev/a", "r"));
        assert_eq!(node("/dev/a:/b:rw"), triple("/dev/a", "/b", "rw"));
        assert_eq!(
            parse_device("v.com/c=n"),
            Ok(Device::Cdi("v.com/c=n".to_owned()))
        );
        assert!(parse_device("/a:/b:x").is_err() && parse_device("/a:b").is_err());
    }
}
