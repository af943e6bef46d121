//! The variables that name the build's platforms.

use berth_store::Platform;

use super::Options;
use crate::graph::Variables;

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
    let target =
        match value("TARGETPLATFORM").and_then(|text| Platform::parse(&text, platform).ok()) {
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
