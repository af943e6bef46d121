//! Platforms as FROM names them, and the variables that name the build's own.

use berth_store::Platform;

use super::Options;
use crate::graph::Variables;

/// "os", "architecture", "os/architecture" or "os/architecture/variant", by the
/// rules of containerd's `platforms` package. What is not said is `host`'s.
pub(crate) fn parse(text: &str, host: &Platform) -> Result<Platform, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let is_word = |part: &&&str| {
        !part.is_empty()
            && (part.bytes()).all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    if let Some(part) = parts.iter().find(|part| !is_word(part)) {
        return Err(format!(
            "{part:?} is an invalid component of {text:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
        ));
    }
    let (os, architecture, variant) = match parts.as_slice() {
        [os] if is_os(os) => (*os, host.architecture.as_str(), host.variant.as_str()),
        [architecture] if is_architecture(architecture) => ("linux", *architecture, ""),
        [_] => {
            return Err(format!(
                "{text:?}: unknown operating system or architecture: invalid argument"
            ));
        }
        [os, architecture] => (*os, *architecture, ""),
        [os, architecture, variant] => (*os, *architecture, *variant),
        _ => {
            return Err(format!(
                "{text:?}: cannot parse platform specifier: invalid argument"
            ));
        }
    };
    let platform = Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        os_version: String::new(),
    };
    Ok(platform.normalized())
}

fn is_os(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "linux" | "windows" | "darwin" | "macos" | "freebsd" | "wasip1"
    )
}

fn is_architecture(text: &str) -> bool {
    let platform = Platform {
        architecture: text.to_owned(),
        ..Platform::default()
    };
    matches!(
        platform.normalized().architecture.as_str(),
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips"
            | "mips64"
            | "mips64le"
            | "mipsle"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

/// TARGETPLATFORM and its kin. `target` is the stage that is built.
pub(crate) fn variables(options: &Options, target: &str) -> Variables {
    let build = options.build_platform.normalized();
    let wanted = options.platform.normalized();
    let target = match target {
        "" => "default",
        target => target,
    };
    let named = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os),
        ("BUILDOSVERSION", build.os_version),
        ("BUILDARCH", build.architecture),
        ("BUILDVARIANT", build.variant),
        ("TARGETPLATFORM", wanted.to_string()),
        ("TARGETOS", wanted.os),
        ("TARGETOSVERSION", wanted.os_version),
        ("TARGETARCH", wanted.architecture),
        ("TARGETVARIANT", wanted.variant),
        ("TARGETSTAGE", target.to_owned()),
    ];
    let given = |name: &str| options.build_args.get(name).cloned().flatten();
    named
        .into_iter()
        .map(|(name, value)| (name.to_owned(), given(name).unwrap_or(value)))
        .collect()
}

/// "->arm64" where a step of `platform` builds for another, as its variables
/// say.
pub(super) fn cross(platform: &Platform, env: &Variables) -> String {
    let value = |name| env.get(name).cloned();
    let target = match value("TARGETPLATFORM").and_then(|text| parse(&text, platform).ok()) {
        Some(target) => target,
        None => {
            let given = [
                value("TARGETOS"),
                value("TARGETARCH"),
                value("TARGETVARIANT"),
            ];
            if given.iter().all(Option::is_none) {
                return String::new();
            }
            let [os, architecture, variant] = given.map(Option::unwrap_or_default);
            let or = |text: String, other: &str| match text.is_empty() {
                true => other.to_owned(),
                false => text,
            };
            let target = Platform {
                os: or(os, &platform.os),
                architecture: or(architecture, &platform.architecture),
                variant,
                os_version: String::new(),
            };
            target.normalized()
        }
    };
    if target.os != platform.os {
        return format!("->{target}");
    }
    if target.architecture == platform.architecture {
        return String::new();
    }
    match target.variant.as_str() {
        "" => format!("->{}", target.architecture),
        variant => format!("->{}/{variant}", target.architecture),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_platform() {
        let host = parse("linux/amd64", &Platform::default()).unwrap();
        for (text, wanted) in [
            ("linux", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("Linux/ARM64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(parse(text, &host).unwrap().to_string(), wanted, "{text}");
        }
        for text in ["", "x", "linux/", "linux/a b", "a/b/c/d"] {
            assert!(parse(text, &host).is_err(), "{text}");
        }
    }
}
