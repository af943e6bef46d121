//! Netlink attributes (type, length, value; padded to four bytes), written and
//! read. `struct nlattr` in `linux/netlink.h`.

const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
/// Without the nested and byte-order flags.
const TYPE_MASK: u16 = 0x3fff;

/// Length rounded up to the four bytes netlink aligns everything to.
pub(crate) fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Writes attributes one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// One attribute. A value of 64 KiB or more cannot be expressed; callers
    /// split long lists.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = HEADER + value.len();
        debug_assert!(length <= usize::from(u16::MAX), "attribute too long");
        self.0.extend_from_slice(&(length as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(align(self.0.len()), 0);
        self
    }

    /// A number in network byte order, as all of nftables wants them.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A string with its terminating zero.
    pub(crate) fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// An attribute that consists of attributes.
    pub(crate) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// Reads attributes; ends at the first that does not fit into what is left.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, _) = rest.split_at_checked(HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = rest.get(HEADER..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of that kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A string attribute without its terminating zero; not UTF-8 is not ours.
pub(crate) fn find_string(bytes: &[u8], kind: u16) -> Option<&str> {
    let value = find(bytes, kind)?;
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}

/// A number in network byte order.
pub(crate) fn find_be32(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(bytes, kind)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let inner = Attributes::new().be32(1, 7).string(2, "berth0");
        let all = Attributes::new().bytes(3, b"abcde").nest(4, &inner);
        assert_eq!(find(all.as_bytes(), 3), Some(&b"abcde"[..]));
        let nested = find(all.as_bytes(), 4).unwrap();
        assert_eq!(find_be32(nested, 1), Some(7));
        assert_eq!(find_string(nested, 2), Some("berth0"));
        assert_eq!(find(nested, 9), None);
        assert_eq!(all.as_bytes().len() % 4, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let read: usize = attributes(&bytes).map(|(_, value)| HEADER + value.len()).sum();
            prop_assert!(read <= bytes.len());
            let _ = (find_string(&bytes, 1), find_be32(&bytes, 1));
        }

        #[test]
        fn lists_come_back(values in proptest::collection::vec((0u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut written = Attributes::new();
            for (kind, value) in &values {
                written = written.bytes(*kind, value);
            }
            let read: Vec<_> = attributes(written.as_bytes()).map(|(k, v)| (k, v.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
