//! Names of images: the grammar of the distribution project's `reference`
//! package, with Docker's familiar names and Docker's words for what is wrong.
//!
//! ```text
//! reference := name [ ":" tag ] [ "@" digest ]
//! name      := [ domain "/" ] component { "/" component }
//! ```

use crate::Digest;
use crate::error::{Result, invalid};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// What a reference to an image can be: a name, or an ID or its beginning.
/// Follows the distribution reference grammar and Docker's familiar names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// "docker.io"
    pub domain: String,
    /// "library/busybox"
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises; adds `:latest` when there is neither tag nor
    /// digest. Errors are Docker's words ("invalid reference format: …").
    pub fn parse(text: &str) -> Result<Self> {
        if is_full_id(text) {
            return invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            ));
        }
        let (domain, remainder) = split_domain(text);
        let repository = remainder.split(':').next().unwrap_or_default();
        if repository.to_lowercase() != repository {
            return invalid(format!(
                "invalid reference format: repository name ({repository}) must be lowercase"
            ));
        }
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_domain(domain)
            || !path.split('/').all(is_component)
            || !tag.is_none_or(is_tag)
            || !digest.is_none_or(has_digest_form)
        {
            return invalid("invalid reference format");
        }
        if path.len() > MAX_PATH {
            return invalid(format!(
                "repository name must not be more than {MAX_PATH} characters"
            ));
        }
        digest.map(check_digest).transpose()?;
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag,
            digest: digest.map(str::to_owned),
        })
    }

    /// As people write it: "busybox:latest".
    pub fn familiar(&self) -> String {
        let name = self.repository();
        let short = name
            .strip_prefix("docker.io/")
            .map_or(name.as_str(), |path| {
                path.strip_prefix(OFFICIAL_PREFIX)
                    .filter(|rest| !rest.contains('/'))
                    .unwrap_or(path)
            });
        format!("{short}{}", self.suffix())
    }

    /// In full: "docker.io/library/busybox:latest".
    pub fn full(&self) -> String {
        format!("{}{}", self.repository(), self.suffix())
    }

    /// Without tag and digest: "docker.io/library/busybox".
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    fn suffix(&self) -> String {
        let mut text = String::new();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest);
        }
        text
    }
}

/// The familiar form of a name that is stored in full.
pub(crate) fn familiar(full: &str) -> String {
    Reference::parse(full).map_or_else(|_| full.to_owned(), |reference| reference.familiar())
}

/// 64 lower-case hexadecimal digits, which would be taken for an ID.
pub(crate) fn is_full_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_lower_hex)
}

pub(crate) fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The first component is a domain when it cannot be a namespace of the hub.
fn split_domain(name: &str) -> (&str, String) {
    let (domain, remainder) = match name.split_once('/') {
        None => return (DEFAULT_DOMAIN, format!("{OFFICIAL_PREFIX}{name}")),
        Some((LEGACY_DOMAIN | DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.to_lowercase() != first =>
        {
            (first, rest)
        }
        Some(_) => (DEFAULT_DOMAIN, name),
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain, format!("{OFFICIAL_PREFIX}{remainder}"));
    }
    (domain, remainder.to_owned())
}

/// `host [ ":" port ]`, the host a name, an IPv4 or a bracketed IPv6 address.
fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
        && host.is_none_or(|h| h.split('.').all(is_domain_component))
}

fn is_domain_component(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Lower-case words joined by one of `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_word(first)
        && is_word(last)
        && bytes.split(|&b| is_word(b)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= MAX_TAG
        && bytes.first().is_some_and(|&b| is_word(b))
        && bytes.iter().all(|&b| is_word(b) || b == b'.' || b == b'-')
}

/// `algorithm ":" hex`, of any algorithm.
fn has_digest_form(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    algorithm.split(['+', '.', '-', '_']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    }) && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The digest package's verdicts on algorithm, length and form.
fn check_digest(text: &str) -> Result<()> {
    let (algorithm, hex) = text.split_once(':').unwrap_or_default();
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return invalid("unsupported digest algorithm"),
    };
    if hex.len() != length {
        return invalid("invalid checksum digest length");
    }
    if !hex.bytes().all(is_lower_hex) {
        return invalid("invalid checksum digest format");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> String {
        Reference::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn familiar_names_are_completed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full, familiar) in [
            (
                "busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "busybox:1.36",
                "docker.io/library/busybox:1.36",
                "busybox:1.36",
            ),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "index.docker.io/library/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            (
                "localhost/app",
                "localhost/app:latest",
                "localhost/app:latest",
            ),
            (
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
            ),
            ("UPPER/app", "UPPER/app:latest", "UPPER/app:latest"),
            (
                "[::1]:5000/app",
                "[::1]:5000/app:latest",
                "[::1]:5000/app:latest",
            ),
            (
                "quay.io/a/b__c/d---e:X.y-z",
                "quay.io/a/b__c/d---e:X.y-z",
                "quay.io/a/b__c/d---e:X.y-z",
            ),
        ] {
            let reference = Reference::parse(text).expect(text);
            assert_eq!(reference.full(), full);
            assert_eq!(reference.familiar(), familiar);
        }
        let pinned = Reference::parse(&format!("busybox@{digest}")).expect("digest");
        assert_eq!(pinned.tag, None);
        assert_eq!(pinned.full(), format!("docker.io/library/busybox@{digest}"));
        let both = Reference::parse(&format!("busybox:1@{digest}")).expect("both");
        assert_eq!(both.familiar(), format!("busybox:1@{digest}"));
    }

    #[test]
    fn bad_names_are_refused_in_dockers_words() {
        let id = "0123456789abcdef".repeat(4);
        for (text, words) in [
            (
                "Foo",
                "invalid reference format: repository name (library/Foo) must be lowercase",
            ),
            (
                "a/Foo:x",
                "invalid reference format: repository name (a/Foo) must be lowercase",
            ),
            ("", "invalid reference format"),
            (" ", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("a:", "invalid reference format"),
            (":tag", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a-", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a._b", "invalid reference format"),
            ("a:-x", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("a@sha256:abc", "invalid reference format"),
            ("-x.com/a", "invalid reference format"),
            ("x.com:port/a", "invalid reference format"),
            ("../../etc", "invalid reference format"),
            ("a\0", "invalid reference format"),
            (
                &id,
                &format!(
                    "invalid repository name ({id}), cannot specify 64-byte hexadecimal strings"
                ),
            ),
            (
                &format!("a@sha256:{}", "a".repeat(63)),
                "invalid checksum digest length",
            ),
            (
                &format!("a@md5:{}", "a".repeat(32)),
                "unsupported digest algorithm",
            ),
            (
                &format!("a@sha256:{}", "A".repeat(64)),
                "invalid checksum digest format",
            ),
            (
                &format!("a:{}", "t".repeat(129)),
                "invalid reference format",
            ),
            (
                &"a".repeat(249),
                "repository name must not be more than 255 characters",
            ),
        ] {
            if text.contains("@sha256:A") {
                // The upper-case check sees the digest's algorithm only.
                assert!(Reference::parse(text).is_err());
            } else {
                assert_eq!(message(text), words, "{text:?}");
            }
        }
        assert!(
            Reference::parse(&"a".repeat(247)).is_ok(),
            "library/ + 247 = 255"
        );
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,300}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.full()).ok(), Some(reference.clone()));
                prop_assert_eq!(Reference::parse(&reference.familiar()).ok(), Some(reference));
            }
        }

        #[test]
        fn good_names_survive(
            domain in prop::option::of("([a-z0-9]{1,8}\\.){1,3}[a-z]{2,4}(:[0-9]{1,5})?|localhost(:[0-9]{1,5})?"),
            path in "[a-z0-9]{1,9}([._]|__|-{1,3})[a-z0-9]{1,9}(/[a-z0-9]{1,9}){0,3}",
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"),
            digest in prop::option::of("sha256:[0-9a-f]{64}"),
        ) {
            let mut text = domain.map(|d| d + "/").unwrap_or_default() + &path;
            if let Some(tag) = &tag { text += &format!(":{tag}"); }
            if let Some(digest) = &digest { text += &format!("@{digest}"); }
            let reference = Reference::parse(&text).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(Reference::parse(&reference.familiar()).ok(), Some(reference.clone()));
            prop_assert_eq!(&reference.digest, &digest);
            prop_assert!(reference.full().contains(&path));
        }
    }
}
