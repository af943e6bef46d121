//! `--platform`: "os[/arch[/variant]]" as Docker reads it.

use crate::failure::Failure;
use crate::flags::go_quote;

pub(crate) use berth_api::container::Platform;

/// Parses a platform; what is left out is this machine's.
pub(crate) fn parse(text: &str) -> Result<Platform, Failure> {
    let bad = |why: &str| {
        Failure::new(format!(
            "invalid platform: {}: {why}: invalid argument",
            go_quote(text)
        ))
    };
    let parts: Vec<&str> = text.split('/').collect();
    let valid = |part: &&str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    if !parts.iter().all(valid) {
        return Err(bad(
            "platform specifier component must match \"^[A-Za-z0-9_.-]+$\"",
        ));
    }
    let (os, architecture, variant) = match parts.as_slice() {
        [one] if is_os(one) => (*one, std::env::consts::ARCH, ""),
        [one] if is_architecture(one) => (std::env::consts::OS, *one, ""),
        [_] => return Err(bad("unknown operating system or architecture")),
        [os, architecture] => (*os, *architecture, ""),
        [os, architecture, variant] => (*os, *architecture, *variant),
        _ => return Err(bad("cannot parse platform specifier")),
    };
    let (architecture, variant) = normalise(&architecture.to_lowercase(), &variant.to_lowercase());
    Ok(Platform {
        os: os.to_lowercase(),
        architecture,
        variant,
        ..Platform::default()
    })
}

fn is_os(text: &str) -> bool {
    matches!(
        text.to_lowercase().as_str(),
        "aix"
            | "android"
            | "darwin"
            | "dragonfly"
            | "freebsd"
            | "hurd"
            | "illumos"
            | "ios"
            | "js"
            | "linux"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "windows"
            | "macos"
    )
}

fn is_architecture(text: &str) -> bool {
    matches!(
        text.to_lowercase().as_str(),
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
            | "x86_64"
            | "x86-64"
            | "i386"
            | "aarch64"
            | "armhf"
            | "armel"
    )
}

/// Other spellings, and variants that are the default.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
        ("i386", _) => ("386", ""),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64" | "arm64", other) => ("arm64", other),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// As the API's parameters want it; "" for none.
pub(crate) fn to_json(text: &str) -> Result<String, Failure> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let platform = parse(text)?;
    serde_json::to_string(&platform)
        .map_err(|error| Failure::new(format!("cannot write the request: {error}")))
}

/// "linux/arm64/v8"
pub(crate) fn format(os: &str, architecture: &str, variant: &str) -> String {
    if os.is_empty() {
        return "unknown".to_owned();
    }
    [os, architecture, variant]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/")
}

/// Several, each also a list with commas.
pub(crate) fn list_to_json(texts: &[String]) -> Result<Vec<String>, Failure> {
    texts
        .iter()
        .flat_map(|text| text.split(','))
        .filter(|text| !text.is_empty())
        .map(to_json)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
        ] {
            let one = parse(text).unwrap();
            assert_eq!(format(&one.os, &one.architecture, &one.variant), want);
        }
        for text in ["", "a b", "linux//x", "a/b/c/d", "nonsense"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            to_json("linux/arm/v6").unwrap(),
            r#"{"architecture":"arm","os":"linux","variant":"v6"}"#
        );
    }
}
