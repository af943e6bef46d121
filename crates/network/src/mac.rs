//! Hardware addresses.

use std::fmt;
use std::str::FromStr;

use crate::{Error, random};

/// An Ethernet address, written "02:42:ac:11:00:02".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac([u8; 6]);

impl Mac {
    /// Random, unicast and locally administered (IEEE 802: bit 0 of the first
    /// octet clear, bit 1 set). Not derived from the IP address: a new container
    /// with an old address must not look like the old one.
    pub(crate) fn random() -> Result<Self, Error> {
        let mut octets: [u8; 6] = random::bytes()?;
        octets[0] = octets[0] & !1 | 2;
        Ok(Self(octets))
    }

    pub(crate) fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Six hex octets separated by colons or dashes; neither a multicast nor the
    /// zero address, which no interface can have.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::Invalid(format!("invalid MAC address: {text}"));
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(invalid)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() || octets[0] & 1 != 0 || octets == [0; 6] {
            return Err(invalid());
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let mac: Mac = "02:42:AC:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "0g:00:00:00:00:00",
            "2:42:ac:11:0:2",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
            "+2:42:ac:11:00:02",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_ones_are_ours_to_give() {
        let mac = Mac::random().unwrap();
        assert_eq!(mac.octets()[0] & 3, 2);
        assert_ne!(mac, Mac::random().unwrap());
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
    }
}
