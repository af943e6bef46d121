//! PAX extended headers (POSIX.1-2001): `length key=value\n` records.

use super::Time;
use crate::error::{Error, Result, invalid};

pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// The records that matter for a file system.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// `GNU.sparse.*` in the order given, keys without that prefix.
    pub(super) sparse: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    any: bool,
}

impl Records {
    pub(super) fn is_empty(&self) -> bool {
        !self.any
    }

    pub(super) fn parse(data: &[u8]) -> Result<Self> {
        let mut records = Self {
            any: true,
            ..Self::default()
        };
        for_each(data, |key, value| records.set(key, value))?;
        Ok(records)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // An empty value takes back what an earlier header said.
        match key {
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = number(value, "size")?,
            b"uid" => self.uid = number(value, "uid")?,
            b"gid" => self.gid = number(value, "gid")?,
            b"mtime" => {
                self.mtime = if value.is_empty() {
                    None
                } else {
                    Some(time(value)?)
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(SPARSE) {
                    self.sparse
                        .get_or_insert_default()
                        .push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Global records are no more than comments in layers; ones that would change
/// what later entries are must not be read differently by different readers.
pub(super) fn check_global(data: &[u8]) -> Result<()> {
    for_each(data, |key, _| match key {
        b"path" | b"linkpath" | b"size" => invalid(format!(
            "a global PAX header sets {}",
            String::from_utf8_lossy(key)
        )),
        _ => Ok(()),
    })
}

/// The length at the front rules: values may hold newlines (file capabilities do).
fn for_each(mut data: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    while !data.is_empty() {
        let (record, rest) =
            split(data).ok_or_else(|| Error::Invalid("a PAX header is malformed".to_owned()))?;
        let Some(equals) = record.iter().position(|&b| b == b'=') else {
            return invalid("a PAX record has no value");
        };
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return invalid("a PAX record has a bad key");
        }
        each(key, value)?;
        data = rest;
    }
    Ok(())
}

fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = data.iter().take(10).position(|&b| b == b' ')?;
    let length = digits(&data[..space])?.try_into().ok()?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return None;
    }
    Some((&data[space + 1..length - 1], &data[length..]))
}

/// Decimal digits and nothing else, at least one.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn number<T: TryFrom<u64>>(value: &[u8], key: &str) -> Result<Option<T>> {
    if value.is_empty() {
        return Ok(None);
    }
    digits(value).and_then(|n| T::try_from(n).ok()).map_or_else(
        || {
            invalid(format!(
                "PAX {key} {:?} is no number in range",
                String::from_utf8_lossy(value)
            ))
        },
        |n| Ok(Some(n)),
    )
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are dropped.
fn time(value: &[u8]) -> Result<Time> {
    let parse = || -> Option<Time> {
        let (negative, text) = value
            .strip_prefix(b"-")
            .map_or((false, value), |rest| (true, rest));
        let point = text.iter().position(|&b| b == b'.');
        let (whole, fraction) = match point {
            Some(point) => (&text[..point], &text[point + 1..]),
            None => (text, &[][..]),
        };
        let seconds = i64::try_from(digits(whole)?).ok()?;
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut nanoseconds: u32 = 0;
        for index in 0..9 {
            nanoseconds =
                nanoseconds * 10 + fraction.get(index).map_or(0, |&b| u32::from(b - b'0'));
        }
        Some(match (negative, nanoseconds) {
            (false, _) => Time {
                seconds,
                nanoseconds,
            },
            (true, 0) => Time {
                seconds: -seconds,
                nanoseconds: 0,
            },
            (true, _) => Time {
                seconds: -seconds - 1,
                nanoseconds: 1_000_000_000 - nanoseconds,
            },
        })
    };
    parse().map_or_else(
        || {
            invalid(format!(
                "PAX mtime {:?} is no time",
                String::from_utf8_lossy(value)
            ))
        },
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_cut_by_length() {
        let records = Records::parse(b"31 SCHILY.xattr.user.x=a\nb=c\nd\n12 uid=1234\n").unwrap();
        assert_eq!(
            records.xattrs,
            vec![(b"user.x".to_vec(), b"a\nb=c\nd".to_vec())]
        );
        assert_eq!(records.uid, Some(1234));
        for bad in [
            &b"5 a=b\n"[..],
            b"x",
            b"99999999999 a=b\n",
            b"6 a=bX",
            b"4 a\n",
            b"10 uid=-1\n\n",
            b"5 =b\n",
        ] {
            assert!(Records::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_keep_nanoseconds() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("1.0000000009", 1, 0),
            ("-1.5", -2, 500_000_000),
            ("-3", -3, 0),
        ] {
            assert_eq!(
                time(text.as_bytes()).unwrap(),
                Time {
                    seconds,
                    nanoseconds
                }
            );
        }
        for bad in ["", "x", ".5", "1.x", "--1", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Records::parse(&data);
        }
    }
}
