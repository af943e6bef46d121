//! Names: what is allowed, and random ones.

use berth_api::Error;

/// Refuses names other than `[a-zA-Z0-9][a-zA-Z0-9_.-]+`; takes off one
/// leading slash.
pub(crate) fn check(name: &str) -> Result<&str, Error> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let valid = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bare.len() > 1
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid {
        Ok(bare)
    } else {
        Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

/// "quiet_lovelace", from 16 random bits; a digit is added from the second try on.
pub(crate) fn random(bits: [u8; 2], attempt: usize) -> String {
    let adjective = ADJECTIVES[usize::from(bits[0]) % ADJECTIVES.len()];
    let surname = SURNAMES[usize::from(bits[1]) % SURNAMES.len()];
    if attempt == 0 {
        format!("{adjective}_{surname}")
    } else {
        format!("{adjective}_{surname}{attempt}")
    }
}

const ADJECTIVES: &[&str] = &[
    "able", "agile", "airy", "amber", "ample", "apt", "bold", "brave", "breezy", "bright", "brisk",
    "calm", "candid", "careful", "cheerful", "civil", "clear", "clever", "cosy", "crisp",
    "curious", "daring", "deft", "eager", "earnest", "easy", "elated", "fair", "fearless", "fine",
    "firm", "fond", "frank", "fresh", "gentle", "glad", "golden", "graceful", "grand", "happy",
    "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "lucky",
    "mellow", "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky",
    "polite", "proud", "quick", "quiet", "ready", "robust", "serene", "sharp", "shiny", "silent",
    "smart", "snug", "sober", "steady", "stoic", "sunny", "sure", "swift", "tidy", "upbeat",
    "vivid", "warm", "wise", "witty", "zealous", "zen",
];

const SURNAMES: &[&str] = &[
    "allen",
    "babbage",
    "bardeen",
    "bartik",
    "bell",
    "bohr",
    "boole",
    "born",
    "bose",
    "carson",
    "cerf",
    "chandrasekhar",
    "clarke",
    "curie",
    "darwin",
    "dijkstra",
    "diffie",
    "einstein",
    "elion",
    "engelbart",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "goldberg",
    "goodall",
    "hamilton",
    "hawking",
    "heisenberg",
    "hellman",
    "herschel",
    "hertz",
    "hodgkin",
    "hopper",
    "hypatia",
    "jackson",
    "johnson",
    "joliot",
    "kepler",
    "kirch",
    "knuth",
    "kowalevski",
    "lamarr",
    "lamport",
    "lavoisier",
    "leavitt",
    "lederberg",
    "liskov",
    "lovelace",
    "lumiere",
    "maxwell",
    "mayer",
    "mccarthy",
    "mcclintock",
    "meitner",
    "mendel",
    "mirzakhani",
    "morse",
    "napier",
    "newton",
    "nightingale",
    "nobel",
    "noether",
    "noyce",
    "pascal",
    "pasteur",
    "payne",
    "perlman",
    "pike",
    "planck",
    "poincare",
    "ptolemy",
    "raman",
    "ramanujan",
    "ritchie",
    "rosalind",
    "rubin",
    "sammet",
    "shannon",
    "shockley",
    "sinoussi",
    "stallman",
    "swanson",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "villani",
    "volhard",
    "wescoff",
    "wilbur",
    "wiles",
    "wing",
    "wozniak",
    "wright",
    "wu",
    "yalow",
    "yonath",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_are_valid_names() {
        for first in 0..=255 {
            for second in 0..=255 {
                let name = random([first, second], usize::from(first % 2));
                assert_eq!(check(&name).unwrap(), name);
                assert!(name.contains('_'));
            }
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for name in ["", "a", "_a", "a b", "a/b", "-a", "//a", "ä1"] {
            assert!(check(name).is_err(), "{name}");
        }
        assert_eq!(check("/web-1").unwrap(), "web-1");
    }
}
