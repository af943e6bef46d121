//! Platforms: how people write them, and which images fit which.
//!
//! The rules are those of containerd's `platforms` package, which decides for
//! Docker as well.

use berth_api::{Error, container};
use berth_store::Platform;

use crate::error::IntoApi as _;

/// What was asked for, or this machine's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    platform: Platform,
    /// Architecture and variant of what runs on it, best first.
    fits: Vec<(String, String)>,
    given: bool,
}

impl Wanted {
    /// "linux/arm64/v8", or the API's JSON object; empty is this machine.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let platform = parse(text)?;
        Ok(Self {
            fits: compatible(&platform),
            platform,
            given: !text.is_empty(),
        })
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Whether somebody asked for it.
    pub(crate) fn is_given(&self) -> bool {
        self.given
    }

    /// How well an image's platform suits, 0 best; none if it does not.
    pub(crate) fn rank(&self, os: &str, architecture: &str, variant: &str) -> Option<usize> {
        let have = normal(os, architecture, variant);
        if have.os != self.platform.os {
            return None;
        }
        self.fits.iter().position(|(architecture, variant)| {
            *architecture == have.architecture && *variant == have.variant
        })
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.platform.fmt(f)
    }
}

fn parse(text: &str) -> Result<Platform, Error> {
    if text.starts_with('{') {
        let given: container::Platform = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("invalid platform: {error}")))?;
        if given.os.is_empty() || given.architecture.is_empty() {
            return Err(Error::invalid("both OS and Architecture must be provided"));
        }
        return Ok(normal(&given.os, &given.architecture, &given.variant));
    }
    let host = Platform::host();
    match text {
        "" => Ok(host),
        text => Platform::parse(text, &host).api(),
    }
}

/// One spelling for each platform.
fn normal(os: &str, architecture: &str, variant: &str) -> Platform {
    let given = Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    };
    given.normalized()
}

/// What runs on a platform: itself, then what its processor can as well.
fn compatible(platform: &Platform) -> Vec<(String, String)> {
    let pair = |architecture: &str, variant: &str| (architecture.to_owned(), variant.to_owned());
    let mut fits = vec![pair(&platform.architecture, &platform.variant)];
    let level = |least: u32| {
        platform
            .variant
            .strip_prefix('v')
            .and_then(|number| number.parse::<u32>().ok())
            .filter(|level| (least..=16).contains(level))
    };
    let arm = |fits: &mut Vec<_>, from: u32| {
        fits.extend(
            (5..=from)
                .rev()
                .map(|level| pair("arm", &format!("v{level}"))),
        );
    };
    match platform.architecture.as_str() {
        "amd64" => {
            if let Some(level) = level(2) {
                fits.extend(
                    (2..level)
                        .rev()
                        .map(|level| pair("amd64", &format!("v{level}"))),
                );
                fits.push(pair("amd64", ""));
            }
            fits.push(pair("386", ""));
        }
        "arm" => {
            if let Some(level) = level(6) {
                arm(&mut fits, level - 1);
            }
        }
        "arm64" => {
            if !platform.variant.is_empty() {
                fits.push(pair("arm64", ""));
            }
            arm(&mut fits, 8);
        }
        _ => {}
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        Wanted::parse(text).unwrap()
    }

    #[test]
    fn spellings() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/ARM/6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
            (
                r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#,
                "linux/arm64",
            ),
        ] {
            assert_eq!(wanted(text).to_string(), shown, "{text}");
        }
        assert_eq!(wanted("").platform.os, "linux");
        assert_eq!(wanted("linux").to_string(), wanted("").to_string());
        for (text, words) in [
            ("foo", "unknown operating system or architecture"),
            ("a/b/c/d", "cannot parse platform specifier"),
            ("linux/", "is an invalid component of \"linux/\""),
            ("linux/a*", "is an invalid component"),
            ("{", "invalid platform"),
            (r#"{"os":"linux"}"#, "both OS and Architecture"),
        ] {
            let error = Wanted::parse(text).unwrap_err();
            assert!(error.message.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_best_of_what_fits() {
        let rank = |wanted: &Wanted, text: &str| {
            let parts: Vec<_> = text.split('/').chain(["", ""]).take(3).collect();
            wanted.rank(parts[0], parts[1], parts[2])
        };
        let amd64 = wanted("linux/amd64");
        assert_eq!(rank(&amd64, "linux/amd64"), Some(0));
        assert_eq!(rank(&amd64, "linux/amd64/v1"), Some(0));
        assert_eq!(rank(&amd64, "linux/386"), Some(1));
        assert_eq!(rank(&amd64, "linux/amd64/v3"), None);
        assert_eq!(rank(&amd64, "linux/arm64"), None);
        assert_eq!(rank(&amd64, "windows/amd64"), None);
        let v3 = wanted("linux/amd64/v3");
        assert_eq!(rank(&v3, "linux/amd64/v2"), Some(1));
        assert_eq!(rank(&v3, "linux/amd64"), Some(2));
        let arm64 = wanted("linux/arm64");
        assert_eq!(rank(&arm64, "linux/arm64/v8"), Some(0));
        assert_eq!(rank(&arm64, "linux/arm/v7"), Some(2));
        let arm = wanted("linux/arm/v7");
        assert_eq!(rank(&arm, "linux/arm/v6"), Some(1));
        assert_eq!(rank(&arm, "linux/arm/v8"), None);
    }
}
