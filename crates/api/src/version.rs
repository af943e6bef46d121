//! API versions: "1.41" in a path, and the window that is served.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Engine release whose behaviour is followed.
pub const DOCKER_VERSION: &str = "29.7.2";

/// A version of the Engine API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u16, pub u16);

impl ApiVersion {
    /// Newest and default.
    pub const MAX: Self = Self(1, 55);
    /// Oldest served: unlike Docker, everything back to 1.24.
    pub const MIN: Self = Self(1, 24);

    /// Docker's words for versions outside `minimum`..=MAX.
    pub fn check(self, minimum: Self) -> Result<Self, Error> {
        if self < minimum {
            Err(Error::invalid(format!(
                "client version {self} is too old. Minimum supported API version is {minimum}, please upgrade your client to a newer version"
            )))
        } else if self > Self::MAX {
            Err(Error::invalid(format!(
                "client version {self} is too new. Maximum supported API version is {}",
                Self::MAX
            )))
        } else {
            Ok(self)
        }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl FromStr for ApiVersion {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (major, minor) = text.split_once('.')?;
            Some(Self(major.parse().ok()?, minor.parse().ok()?))
        };
        parse().ok_or_else(|| Error::invalid(format!("invalid API version: {text}")))
    }
}
