//! One 512-byte header block.

use super::Time;
use crate::error::{Result, invalid};

/// What a member makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

impl Kind {
    pub(super) fn is_device(self) -> bool {
        matches!(self, Kind::CharDevice | Kind::BlockDevice)
    }
}

/// A header whose checksum is right.
pub(super) struct Header<'a>(&'a tar::Header);

impl<'a> Header<'a> {
    pub(super) fn new(block: &'a [u8; super::BLOCK]) -> Result<Self> {
        let header = tar::Header::from_byte_slice(block);
        // The checksum's own eight bytes count as spaces. Some old writers
        // summed signed bytes; Go accepts both.
        let (before, field, after) = (&block[..148], &block[148..156], &block[156..]);
        let sum = |bytes: &[u8]| -> u32 { bytes.iter().map(|&b| u32::from(b)).sum() };
        let unsigned = i64::from(sum(before) + sum(after) + 8 * u32::from(b' '));
        let claimed = number(field).unwrap_or(-1);
        let is_signed = || {
            let negative = before.iter().chain(after).filter(|&&b| b >= 0x80);
            claimed == unsigned - 256 * negative.count() as i64
        };
        if claimed != unsigned && !is_signed() {
            return invalid(
                "an entry's header has a wrong checksum: not a tar archive, or damaged",
            );
        }
        Ok(Self(header))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0.as_old().linkflag[0]
    }

    pub(super) fn kind(&self, name: &[u8]) -> Result<Kind> {
        Ok(match self.type_flag() {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return invalid(format!(
                    "entry {:?} has unknown type {:?}",
                    String::from_utf8_lossy(name),
                    char::from(other)
                ));
            }
        })
    }

    /// With the ustar prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        self.0.path_bytes().into_owned()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.0
            .link_name_bytes()
            .map(|name| name.into_owned())
            .unwrap_or_default()
    }

    pub(super) fn size(&self) -> Result<u64> {
        unsigned(&self.0.as_old().size, "size")
    }

    pub(super) fn mode(&self) -> Result<u32> {
        Ok((number(&self.0.as_old().mode)? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32> {
        id(unsigned(&self.0.as_old().uid, "user ID")?, "user ID")
    }

    pub(super) fn gid(&self) -> Result<u32> {
        id(unsigned(&self.0.as_old().gid, "group ID")?, "group ID")
    }

    pub(super) fn mtime(&self) -> Result<Time> {
        Ok(Time {
            seconds: number(&self.0.as_old().mtime)?,
            nanoseconds: 0,
        })
    }

    pub(super) fn device(&self) -> Result<(u32, u32)> {
        let bytes = self.0.as_bytes();
        if self.0.as_ustar().is_none() && self.0.as_gnu().is_none() {
            return invalid("a device entry in a format without device numbers");
        }
        // At the same place in ustar and GNU headers.
        Ok((
            unsigned(&bytes[329..337], "device major")?,
            unsigned(&bytes[337..345], "device minor")?,
        ))
    }

    /// The sparse map in an old GNU header: pairs of offset and length,
    /// whether more blocks follow, and the size with holes.
    pub(super) fn gnu_sparse(&self) -> Result<(&'a [tar::GnuSparseHeader], bool, u64)> {
        let Some(gnu) = self.0.as_gnu() else {
            return invalid("a sparse entry without a GNU header");
        };
        Ok((
            &gnu.sparse,
            gnu.is_extended(),
            unsigned(&gnu.realsize, "size")?,
        ))
    }
}

/// All but the one that stands for "no change" in system calls.
pub(super) fn id(value: u32, what: &str) -> Result<u32> {
    if value == u32::MAX {
        return invalid(format!(
            "an entry's {what} is {value}, which nobody can have"
        ));
    }
    Ok(value)
}

pub(super) fn unsigned<T: TryFrom<i64>>(field: &[u8], what: &str) -> Result<T> {
    let value = number(field)?;
    T::try_from(value).or_else(|_| invalid(format!("an entry's {what} is {value}")))
}

/// Octal text, or GNU's base-256 when the first bit is set. Blank is 0.
fn number(field: &[u8]) -> Result<i64> {
    if field.first().is_some_and(|&b| b & 0x80 != 0) {
        // Two's complement, big endian; the marker bit is not part of it.
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (index, &byte) in field.iter().enumerate() {
            let byte = match (index, negative) {
                (0, true) => byte,
                (0, false) => byte & 0x7f,
                _ => byte,
            };
            let Some(shifted) = value.checked_mul(256) else {
                return invalid("a number in an entry's header is out of range");
            };
            value = shifted | i64::from(byte);
        }
        return Ok(value);
    }
    let text = field.trim_ascii_start();
    let end = text
        .iter()
        .position(|&b| b == 0 || b == b' ')
        .unwrap_or(text.len());
    let mut value: i64 = 0;
    for &digit in &text[..end] {
        if !matches!(digit, b'0'..=b'7') {
            return invalid("a number in an entry's header is not octal");
        }
        // Twelve octal digits are 36 bits at most.
        value = value * 8 + i64::from(digit - b'0');
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_forms() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"777777777777", 0o777_777_777_777),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\xff\xff\xff\xff\xff\xff\xff\x00", -256),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
        ] {
            assert_eq!(number(field).unwrap(), value, "{field:?}");
        }
        for field in [
            &b"9\0"[..],
            b"-1\0",
            b"12x4\0",
            b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert!(number(field).is_err(), "{field:?}");
        }
    }
}
