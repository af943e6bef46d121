//! `--mount type=…,source=…,target=…` and `-v`.

use berth_api::container::{
    BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeDriver, VolumeOptions,
};

use crate::flags::parse_bool;

/// Splits like a line of CSV: a field in double quotes may hold commas.
pub(super) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut letters = text.chars().peekable();
    let mut quoted = false;
    let mut fresh = true;
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if fresh => quoted = true,
            '"' => {
                return Err(format!(
                    "parse error on line 1: bare \" in non-quoted field: {text}"
                ));
            }
            ',' if !quoted => {
                fields.push(std::mem::take(&mut field));
                fresh = true;
                continue;
            }
            _ => field.push(letter),
        }
        fresh = false;
    }
    if quoted {
        return Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned());
    }
    fields.push(field);
    Ok(fields)
}

/// Keys that mean "true" without a value.
const BARE: [&str; 5] = [
    "readonly",
    "ro",
    "volume-nocopy",
    "bind-nonrecursive",
    "bind-create-src",
];

pub(super) fn parse(text: &str) -> Result<Mount, String> {
    let mut mount = Mount {
        r#type: "volume".to_owned(),
        ..Mount::default()
    };
    if text.is_empty() {
        return Err("value is empty".to_owned());
    }
    for field in csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), value.to_owned()),
            None if BARE.contains(&field.to_lowercase().as_str()) => {
                (field.to_lowercase(), "true".to_owned())
            }
            None => return Err(format!("invalid field '{field}' must be a key=value pair")),
        };
        set(&mut mount, &key, &value, &field)?;
    }
    check(mount)
}

fn set(mount: &mut Mount, key: &str, value: &str, field: &str) -> Result<(), String> {
    let boolean = || parse_bool(value).map_err(|_| format!("invalid value for {key}: {value}"));
    let bind = |mount: &mut Mount, change: &dyn Fn(&mut BindOptions)| {
        change(mount.bind_options.get_or_insert_with(Default::default));
    };
    let volume = |mount: &mut Mount, change: &dyn Fn(&mut VolumeOptions)| {
        change(mount.volume_options.get_or_insert_with(Default::default));
    };
    let tmpfs = |mount: &mut Mount, change: &dyn Fn(&mut TmpfsOptions)| {
        change(mount.tmpfs_options.get_or_insert_with(Default::default));
    };
    match key {
        "type" => mount.r#type = value.to_lowercase(),
        "source" | "src" => {
            mount.source = if value.starts_with('.') {
                absolute(value)?
            } else {
                value.to_owned()
            };
        }
        "target" | "dst" | "destination" => mount.target = value.to_owned(),
        "readonly" | "ro" => mount.read_only = boolean()?,
        "consistency" => mount.consistency = value.to_lowercase(),
        "bind-propagation" => {
            let value = value.to_lowercase();
            bind(mount, &|options| options.propagation.clone_from(&value));
        }
        "bind-nonrecursive" => {
            return Err(
                "bind-nonrecursive is deprecated, use bind-recursive=disabled instead".to_owned(),
            );
        }
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => bind(mount, &|options| options.non_recursive = true),
            "writable" => bind(mount, &|options| options.read_only_non_recursive = true),
            "readonly" => bind(mount, &|options| options.read_only_force_recursive = true),
            _ => {
                return Err(format!(
                    "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ));
            }
        },
        "bind-create-src" => {
            let on = boolean()?;
            bind(mount, &|options| options.create_mountpoint = on);
        }
        "volume-nocopy" => {
            let on = parse_bool(value)
                .map_err(|_| format!("invalid value for volume-nocopy: {value}"))?;
            volume(mount, &|options| options.no_copy = on);
        }
        "volume-subpath" => volume(mount, &|options| value.clone_into(&mut options.subpath)),
        "volume-label" => {
            let (name, label) = value.split_once('=').unwrap_or((value, ""));
            volume(mount, &|options| {
                options
                    .labels
                    .get_or_insert_with(Default::default)
                    .insert(name.to_owned(), label.to_owned());
            });
        }
        "volume-driver" => volume(mount, &|options| {
            let driver: &mut VolumeDriver =
                options.driver_config.get_or_insert_with(Default::default);
            value.clone_into(&mut driver.name);
        }),
        "volume-opt" => {
            let (name, option) = value.split_once('=').unwrap_or((value, ""));
            volume(mount, &|options| {
                options
                    .driver_config
                    .get_or_insert_with(Default::default)
                    .options
                    .get_or_insert_with(Default::default)
                    .insert(name.to_owned(), option.to_owned());
            });
        }
        "image-subpath" => {
            let options: &mut ImageOptions =
                mount.image_options.get_or_insert_with(Default::default);
            value.clone_into(&mut options.subpath);
        }
        "tmpfs-size" => {
            let size = crate::units::parse_bytes(value)
                .map_err(|_| format!("invalid value for {key}: {value}"))?;
            tmpfs(mount, &|options| options.size_bytes = size);
        }
        "tmpfs-mode" => {
            let mode = u32::from_str_radix(value, 8)
                .map_err(|_| format!("invalid value for {key}: {value}"))?;
            tmpfs(mount, &|options| options.mode = mode);
        }
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn check(mut mount: Mount) -> Result<Mount, String> {
    if mount.r#type.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    for (present, prefix, kind) in [
        (mount.volume_options.is_some(), "volume", "volume"),
        (mount.bind_options.is_some(), "bind", "bind"),
        (mount.tmpfs_options.is_some(), "tmpfs", "tmpfs"),
        (mount.image_options.is_some(), "image", "image"),
    ] {
        if present && mount.r#type != kind {
            return Err(format!(
                "cannot mix '{prefix}-*' options with mount type '{}'",
                mount.r#type
            ));
        }
    }
    let read_only_options = mount.bind_options.as_ref().is_some_and(|options| {
        options.read_only_non_recursive || options.read_only_force_recursive
    });
    if read_only_options && !mount.read_only {
        return Err(
            "option 'bind-recursive=writable' and 'bind-recursive=readonly' require 'readonly' to be specified in conjunction"
                .to_owned(),
        );
    }
    if let Some(options) = &mut mount.bind_options
        && options.read_only_force_recursive
        && options.propagation != "rprivate"
    {
        return Err(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
                .to_owned(),
        );
    }
    Ok(mount)
}

/// What a `-v` value becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Volume {
    /// For `Binds`: a path of the host or a named volume.
    Bind(String),
    /// For `Volumes`: a directory of the container alone.
    Anonymous(String),
}

pub(super) fn parse_volume(text: &str) -> Result<Volume, String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    let Some((source, rest)) = text.split_once(':') else {
        return Ok(Volume::Anonymous(text.to_owned()));
    };
    if source.is_empty() || rest.is_empty() {
        return Err(format!(
            "invalid spec: {text}: empty section between colons"
        ));
    }
    if source.starts_with('.') {
        return Ok(Volume::Bind(format!("{}:{rest}", absolute(source)?)));
    }
    Ok(Volume::Bind(text.to_owned()))
}

/// "./x" in full, without "." and "..", links unresolved.
fn absolute(path: &str) -> Result<String, String> {
    let here = std::env::current_dir()
        .map_err(|error| format!("cannot tell the current directory: {error}"))?;
    let mut parts: Vec<String> = Vec::new();
    for part in here.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors() {
        for (text, want) in [
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("type=bind", "target is required"),
            ("a=b", "unexpected key 'a' in 'a=b'"),
            (
                "type=bind,dst=/x,volume-nocopy",
                "cannot mix 'volume-*' options with mount type 'bind'",
            ),
            ("dst=/x,ro=maybe", "invalid value for ro: maybe"),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn quoted_fields_hold_commas() {
        let mount = parse("type=volume,dst=/x,\"volume-opt=o=a,b\"").unwrap();
        let driver = mount.volume_options.unwrap().driver_config.unwrap();
        assert_eq!(driver.options.unwrap()["o"], "a,b");
        assert!(parse("dst=\"/x").is_err());
    }

    #[test]
    fn volumes() {
        assert_eq!(parse_volume("/a"), Ok(Volume::Anonymous("/a".to_owned())));
        assert_eq!(
            parse_volume("v:/a:ro"),
            Ok(Volume::Bind("v:/a:ro".to_owned()))
        );
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            parse_volume("./q/../w:/a"),
            Ok(Volume::Bind(format!("{}/w:/a", here.display())))
        );
        assert!(parse_volume(":/a").is_err());
    }
}
