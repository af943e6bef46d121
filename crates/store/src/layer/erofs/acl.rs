//! POSIX access control lists in the form of extended attributes, and what
//! they mean for a file's mode: what the kernel does when one is set
//! (`posix_acl_valid`, `posix_acl_equiv_mode`, `posix_acl_chmod`).

use super::format::{u16_at, u32_at};

const VERSION: u32 = 2;
const UNDEFINED: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

impl Acl {
    /// Whether it is of a version that the kernel does not know, and says so as
    /// a file system without lists does.
    pub(super) fn is_unknown(value: &[u8]) -> bool {
        value.len() >= 4 && u32_at(value, 0) != VERSION
    }

    /// None if it is malformed. An empty list removes the attribute.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        if value.len() < 4 {
            return value.is_empty().then_some(Self(Vec::new()));
        }
        let (header, entries) = value.split_at(4);
        if u32_at(header, 0) != VERSION || entries.len() % 8 != 0 {
            return None;
        }
        let entries = entries.chunks_exact(8).map(|entry| {
            let tag = u16_at(entry, 0);
            let named = matches!(tag, USER | GROUP);
            Entry {
                tag,
                permissions: u16_at(entry, 2),
                id: if named { u32_at(entry, 4) } else { UNDEFINED },
            }
        });
        let acl = Self(entries.collect());
        (acl.0.is_empty() || acl.is_valid()).then_some(acl)
    }

    /// In order, each of the three basic entries once, and a mask if any user
    /// or group is named.
    fn is_valid(&self) -> bool {
        let mut expected = USER_OBJ;
        let mut named = false;
        for entry in &self.0 {
            if entry.permissions & !7 != 0 {
                return false;
            }
            expected = match (entry.tag, expected) {
                (USER_OBJ, USER_OBJ) => USER,
                (USER, USER) if entry.id != UNDEFINED => {
                    named = true;
                    USER
                }
                (GROUP_OBJ, USER) => GROUP,
                (GROUP, GROUP) if entry.id != UNDEFINED => {
                    named = true;
                    GROUP
                }
                (MASK, GROUP) => OTHER,
                (OTHER, OTHER) => 0,
                (OTHER, GROUP) if !named => 0,
                _ => return false,
            };
        }
        expected == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a mode says all of it.
    pub(super) fn is_plain(&self) -> bool {
        self.0
            .iter()
            .all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// The mode of a file that had `mode` and gets this list.
    pub(super) fn mode(&self, mode: u32) -> u32 {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        self.0.iter().fold(mode & !0o777, |mode, entry| {
            let bits = u32::from(entry.permissions);
            mode | match entry.tag {
                USER_OBJ => bits << 6,
                GROUP_OBJ if !masked => bits << 3,
                MASK => bits << 3,
                OTHER => bits,
                _ => 0,
            }
        })
    }

    /// What becomes of it when the file's mode is changed.
    pub(super) fn change_mode(&mut self, mode: u32) {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        for entry in &mut self.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                GROUP_OBJ if !masked => 3,
                MASK => 3,
                OTHER => 0,
                _ => continue,
            };
            entry.permissions = (mode >> shift & 7) as u16;
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            value.extend(entry.tag.to_le_bytes());
            value.extend(entry.permissions.to_le_bytes());
            value.extend(entry.id.to_le_bytes());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries = entries.iter().map(|&(tag, permissions, id)| Entry {
            tag,
            permissions,
            id,
        });
        Acl(entries.collect()).encode()
    }

    const FULL: [(u16, u16, u32); 6] = [
        (USER_OBJ, 7, UNDEFINED),
        (USER, 6, 1000),
        (GROUP_OBJ, 5, UNDEFINED),
        (GROUP, 4, 50),
        (MASK, 6, UNDEFINED),
        (OTHER, 1, UNDEFINED),
    ];

    #[test]
    fn a_list_and_its_mode() {
        let bytes = value(&FULL);
        let mut acl = Acl::parse(&bytes).unwrap();
        assert_eq!(acl.encode(), bytes);
        assert!(!acl.is_plain());
        assert_eq!(acl.mode(0o4000), 0o4761);
        acl.change_mode(0o640);
        assert_eq!(acl.mode(0), 0o640);
        let plain = Acl::parse(&value(&[FULL[0], FULL[2], FULL[5]])).unwrap();
        assert!(plain.is_plain());
        assert_eq!(plain.mode(0o1000), 0o1751);
    }

    #[test]
    fn other_versions_are_told_apart() {
        assert!(Acl::is_unknown(b"\x01\0\0\0"));
        assert!(!Acl::is_unknown(b"\x02\0\0\0"));
        assert!(!Acl::is_unknown(b"\x01"));
    }

    #[test]
    fn malformed_lists_are_refused() {
        assert!(Acl::parse(b"").unwrap().is_empty());
        for bad in [
            b"\x02\0\0".to_vec(),
            b"\x01\0\0\0".to_vec(),
            b"\x02\0\0\0\x01\0".to_vec(),
            value(&FULL[..5]),
            value(&FULL[1..]),
            value(&[FULL[0], FULL[1], FULL[2], FULL[5]]),
            value(&[(USER_OBJ, 8, UNDEFINED), FULL[2], FULL[5]]),
            value(&[FULL[0], (USER, 6, UNDEFINED), FULL[2], FULL[4], FULL[5]]),
            value(&[FULL[0], FULL[2], FULL[5], FULL[5]]),
        ] {
            assert_eq!(Acl::parse(&bad), None, "{bad:?}");
        }
    }
}
