//! Digests: "sha256:" or "sha512:" and lower-case hexadecimal digits.

use sha2::{Digest, Sha256, Sha512};

use super::Error;

pub(super) fn algorithm(digest: &str) -> &str {
    digest
        .split_once(':')
        .map_or("", |(algorithm, _)| algorithm)
}

pub(super) fn is_valid(digest: &str) -> bool {
    let length = match algorithm(digest) {
        "sha256" => 64,
        "sha512" => 128,
        _ => return false,
    };
    let digits = &digest["sha256:".len()..];
    digits.len() == length
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn check(digest: &str) -> Result<(), Error> {
    match (is_valid(digest), algorithm(digest)) {
        (true, _) => Ok(()),
        (false, "sha256" | "sha512" | "") => {
            Err(Error::Invalid(format!("invalid digest \"{digest}\"")))
        }
        (false, _) => Err(Error::Unsupported(format!(
            "unsupported digest algorithm in \"{digest}\""
        ))),
    }
}

/// Of `bytes`, by the algorithm that `like` begins with.
pub(super) fn of(like: &str, bytes: &[u8]) -> Result<String, Error> {
    match algorithm(like) {
        "sha256" => Ok(format!("sha256:{}", hex(&Sha256::digest(bytes)))),
        "sha512" => Ok(format!("sha512:{}", hex(&Sha512::digest(bytes)))),
        _ => Err(Error::Unsupported(format!(
            "unsupported digest algorithm in \"{like}\""
        ))),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
