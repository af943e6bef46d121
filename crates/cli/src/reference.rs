//! Names of images: "busybox" is "docker.io/library/busybox:latest".

/// A name taken apart and made complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) domain: String,
    path: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

const DEFAULT_DOMAIN: &str = "docker.io";
const LIBRARY: &str = "library/";

impl Reference {
    /// Docker's rules and words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || "invalid reference format".to_owned();
        if text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            ));
        }
        let (domain, rest) = match text.split_once('/') {
            Some((first, rest))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.chars().any(|c| c.is_ascii_uppercase()) =>
            {
                let domain = if first == "index.docker.io" {
                    DEFAULT_DOMAIN
                } else {
                    first
                };
                (domain, rest)
            }
            _ => (DEFAULT_DOMAIN, text),
        };
        let rest = if domain == DEFAULT_DOMAIN && !rest.contains('/') {
            format!("{LIBRARY}{rest}")
        } else {
            rest.to_owned()
        };
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest.to_owned(), Some(digest.to_owned())),
            None => (rest, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path.to_owned(), Some(tag.to_owned())),
            _ => (rest, None),
        };
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(format!(
                "invalid reference format: repository name ({path}) must be lowercase"
            ));
        }
        let fine = valid_domain(domain)
            && path.split('/').all(valid_component)
            && tag.as_deref().is_none_or(valid_tag)
            && digest.as_deref().is_none_or(valid_digest);
        if !fine {
            return Err(bad());
        }
        if domain.len() + 1 + path.len() > 255 {
            return Err("repository name must not be more than 255 characters".to_owned());
        }
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag,
            digest,
        })
    }

    /// With ":latest" if there is neither tag nor digest.
    pub(crate) fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// "library/busybox": as the registry knows it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The digest, or else the tag.
    pub(crate) fn version(&self) -> &str {
        let version = self.digest.as_deref().or(self.tag.as_deref());
        version.unwrap_or("latest")
    }

    /// "docker.io/library/busybox"
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// "busybox": as people write it.
    pub(crate) fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.full_name();
        }
        match self.path.strip_prefix(LIBRARY) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// ":1.2@sha256:…", what is behind the name.
    fn suffix(&self) -> String {
        let tag = self.tag.iter().map(|tag| format!(":{tag}"));
        let digest = self.digest.iter().map(|digest| format!("@{digest}"));
        tag.chain(digest).collect()
    }

    pub(crate) fn familiar(&self) -> String {
        self.familiar_name() + &self.suffix()
    }

    pub(crate) fn full(&self) -> String {
        self.full_name() + &self.suffix()
    }
}

fn valid_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let ip6 = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.chars().all(|c| c.is_ascii_hexdigit() || c == ':'));
    let names = host.split('.').all(|label| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    (ip6 || names)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case words joined by ".", "_", "__" or dashes.
fn valid_component(component: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(word)
        && component.ends_with(word)
        && component
            .chars()
            .all(|c| word(c) || matches!(c, '.' | '_' | '-'))
        && component
            .split(word)
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.chars().all(|c| c == '-'))
}

fn valid_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.starts_with(word)
        && tag.len() <= 128
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn valid_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
            && algorithm
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '_' | '-'))
            && hex.len() >= 32
            && hex.chars().all(|c| c.is_ascii_hexdigit())
            && (algorithm != "sha256" || hex.len() == 64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            ("a/b:1", "docker.io/a/b:1", "a/b:1"),
            ("localhost/x", "localhost/x", "localhost/x"),
            ("h:5000/x/y:t", "h:5000/x/y:t", "h:5000/x/y:t"),
            ("index.docker.io/x", "docker.io/library/x", "x"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.full(), full);
            assert_eq!(reference.familiar(), familiar);
        }
        assert_eq!(
            Reference::parse("x").unwrap().or_latest().familiar(),
            "x:latest"
        );
    }

    #[test]
    fn bad_names() {
        assert_eq!(
            Reference::parse("BUSY").unwrap_err(),
            "invalid reference format: repository name (library/BUSY) must be lowercase"
        );
        for text in [
            "",
            "a:",
            ":a",
            "a//b",
            "a/-b",
            "a b",
            "a@sha256:12",
            "a___b",
            "../x",
            "a:b c",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
