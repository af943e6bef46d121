//! Digests, names of repositories and tags, by the specification's grammar:
//! what passes here is safe as a path below the root.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha512};

/// Longest name of a repository.
const MAX_NAME: usize = 255;

/// Longest tag.
const MAX_TAG: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == text)
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A well-formed digest of an algorithm we have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest {
    pub(crate) algorithm: Algorithm,
    /// Lower-case, of the algorithm's length: safe as a file name.
    pub(crate) hex: String,
}

impl Digest {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        Self::from_parts(Algorithm::parse(algorithm)?, hex)
    }

    pub(crate) fn from_parts(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let fits = hex.len() == algorithm.digits()
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }

    pub(crate) fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Hashes what arrives piece by piece.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().name())
    }
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::default()),
        }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let hex = match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Sha512(hasher) => hex(&hasher.finalize()),
        };
        Digest { algorithm, hex }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A tag or a digest, as in the path of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(String),
    Digest(Digest),
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` between slashes. None can
/// begin with `_`, `.` or `-`, so our own folders below a repository never
/// meet a component, and no path leaves the root.
pub(crate) fn is_repository(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let word = bytes[at..].iter().take_while(|b| alnum(**b)).count();
        if word == 0 {
            return false;
        }
        at += word;
        if at == bytes.len() {
            return true;
        }
        let separator: Vec<u8> = bytes[at..]
            .iter()
            .copied()
            .take_while(|b| !alnum(*b))
            .collect();
        let fits = matches!(separator.as_slice(), b"." | b"_" | b"__")
            || separator.iter().all(|b| *b == b'-');
        if !fits {
            return false;
        }
        at += separator.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for good in ["a", "a/b", "a.b_c__d---e/f0", "blobs/uploads", "tags/list"] {
            assert!(is_repository(good), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "_blobs", "a/_tags", "..", "a/../b", "a/.", "-a",
            "a-", "a..b", "a___b", "a_.b", "a b", "ä", "a\0", &long,
        ] {
            assert!(!is_repository(bad), "{bad}");
        }
        assert!(is_repository(&long[1..]));
    }

    #[test]
    fn tags_and_digests() {
        assert!(is_tag("latest") && is_tag("_a.B-1") && is_tag(&"x".repeat(128)));
        for bad in ["", ".a", "-a", "a/b", "a:b", "..", &"x".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
        let digest = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest.clone()));
        assert!(
            Digest::of(Algorithm::Sha512, b"")
                .to_string()
                .starts_with("sha512:cf83e1")
        );
        let upper = digest.to_string().to_uppercase();
        for bad in [
            "",
            "sha256:",
            "sha256:12",
            "md5:00",
            "sha256:../../x",
            &upper,
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
