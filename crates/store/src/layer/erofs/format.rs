//! The on-disk format, as far as layers use it: uncompressed, one device,
//! extended inodes, blocks of 4096 bytes (Linux, `fs/erofs/erofs_fs.h`).
//! All numbers are little endian.

use crate::tar::Time;

pub(crate) const BLOCK: usize = 4096;
/// Inodes stand at multiples of this; a node number (nid) counts them from the
/// start of the file, since our metadata area begins at block 0.
pub(super) const SLOT: usize = 32;
pub(super) const INODE: usize = 64;
pub(super) const DIRENT: usize = 12;
/// In place of a chunk's address: a hole.
pub(super) const HOLE: u32 = u32::MAX;

pub(super) const SUPER_OFFSET: usize = 1024;
pub(super) const SUPER: usize = 128;
/// The root's inode follows the superblock, as its number has 16 bits only.
pub(super) const ROOT_NID: u16 = ((SUPER_OFFSET + SUPER) / SLOT) as u16;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_SB_CHKSUM: u32 = 0x1;
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;

/// How an inode's data is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Consecutive blocks.
    Plain,
    /// The same, but the last, partial block follows the inode.
    Inline,
    /// Chunks anywhere; their addresses follow the inode.
    Chunked,
}

/// An extended inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) layout: Layout,
    /// Bytes of attributes behind the inode: 0, or 12 and a multiple of 4.
    pub(super) xattrs: usize,
    /// With the type of file.
    pub(super) mode: u16,
    pub(super) size: u64,
    /// First block, device number, or the binary logarithm of blocks per chunk.
    pub(super) data: u32,
    /// For 32-bit `stat` only.
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) links: u32,
}

/// Where the number of links is in an inode.
pub(super) const LINKS_OFFSET: u64 = 44;

impl Inode {
    pub(super) fn encode(&self) -> [u8; INODE] {
        let layout: u16 = match self.layout {
            Layout::Plain => 0,
            Layout::Inline => 2,
            Layout::Chunked => 4,
        };
        let mut out = [0; INODE];
        // Bit 0: the extended form.
        put(&mut out, 0, &(1 | layout << 1).to_le_bytes());
        put(&mut out, 2, &xattr_count(self.xattrs).to_le_bytes());
        put(&mut out, 4, &self.mode.to_le_bytes());
        put(&mut out, 8, &self.size.to_le_bytes());
        put(&mut out, 16, &self.data.to_le_bytes());
        put(&mut out, 20, &self.number.to_le_bytes());
        put(&mut out, 24, &self.uid.to_le_bytes());
        put(&mut out, 28, &self.gid.to_le_bytes());
        put(&mut out, 32, &self.mtime.seconds.to_le_bytes());
        put(&mut out, 40, &self.mtime.nanoseconds.to_le_bytes());
        put(&mut out, 44, &self.links.to_le_bytes());
        out
    }

    /// None if it is of a kind that layers do not use.
    pub(super) fn decode(bytes: &[u8; INODE]) -> Option<Self> {
        let layout = match u16_at(bytes, 0) {
            1 => Layout::Plain,
            5 => Layout::Inline,
            9 => Layout::Chunked,
            _ => return None,
        };
        Some(Self {
            layout,
            xattrs: match u16_at(bytes, 2) {
                0 => 0,
                count => XATTR_HEADER + 4 * (usize::from(count) - 1),
            },
            mode: u16_at(bytes, 4),
            size: u64_at(bytes, 8),
            data: u32_at(bytes, 16),
            number: u32_at(bytes, 20),
            uid: u32_at(bytes, 24),
            gid: u32_at(bytes, 28),
            mtime: Time {
                seconds: u64_at(bytes, 32).cast_signed(),
                nanoseconds: u32_at(bytes, 40),
            },
            links: u32_at(bytes, 44),
        })
    }
}

/// Before the attributes of an inode.
pub(super) const XATTR_HEADER: usize = 12;
/// Most bytes of attributes that an inode can count.
pub(super) const MAX_XATTRS: usize = XATTR_HEADER + 4 * (u16::MAX as usize - 1);

fn xattr_count(bytes: usize) -> u16 {
    match bytes.checked_sub(XATTR_HEADER) {
        Some(rest) => u16::try_from(rest / 4 + 1).unwrap_or(u16::MAX),
        None => 0,
    }
}

/// The names' first parts, which are stored as numbers.
pub(super) const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// `new_encode_dev` of the kernel: 12 bits of major, 20 of minor number.
pub(super) fn encode_device(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20)
        .then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// Major and minor number.
pub(super) fn decode_device(device: u32) -> (u32, u32) {
    (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) uuid: [u8; 16],
    /// Some inode is chunked.
    pub(super) chunked: bool,
}

impl Superblock {
    /// No time of building and no random number: equal layers are equal files.
    pub(super) fn encode(&self) -> [u8; SUPER] {
        let mut out = [0; SUPER];
        put(&mut out, 0, &MAGIC.to_le_bytes());
        put(
            &mut out,
            8,
            &(COMPAT_SB_CHKSUM | COMPAT_MTIME).to_le_bytes(),
        );
        out[12] = BLOCK.trailing_zeros() as u8;
        put(&mut out, 14, &self.root_nid.to_le_bytes());
        put(&mut out, 16, &self.inodes.to_le_bytes());
        put(&mut out, 36, &self.blocks.to_le_bytes());
        put(&mut out, 48, &self.uuid);
        let incompat = if self.chunked {
            INCOMPAT_CHUNKED_FILE
        } else {
            0
        };
        put(&mut out, 80, &incompat.to_le_bytes());
        out
    }

    /// From the first block, whose checksum must be right.
    pub(super) fn decode(block: &[u8; BLOCK]) -> Option<Self> {
        let bytes = &block[SUPER_OFFSET..];
        let incompat = u32_at(bytes, 80);
        // Metadata begins at block 0; blocks are 4096 bytes.
        let known = u32_at(bytes, 0) == MAGIC
            && u32_at(bytes, 8) & COMPAT_SB_CHKSUM != 0
            && usize::from(bytes[12]) == BLOCK.trailing_zeros() as usize
            && u32_at(bytes, 40) == 0
            && incompat & !INCOMPAT_CHUNKED_FILE == 0;
        (known && u32_at(bytes, 4) == checksum(block)).then(|| Self {
            root_nid: u16_at(bytes, 14),
            inodes: u64_at(bytes, 16),
            blocks: u32_at(bytes, 36),
            uuid: bytes[48..64].try_into().unwrap_or_default(),
            chunked: incompat != 0,
        })
    }
}

/// Puts its checksum into the superblock in a first block that is complete.
pub(super) fn seal(block: &mut [u8; BLOCK]) {
    let sum = checksum(block);
    put(block, SUPER_OFFSET + 4, &sum.to_le_bytes());
}

/// CRC-32C without the final inversion, from the superblock to the end of its
/// block, where the checksum itself counts as zero.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let mut crc = u32::MAX;
    for (index, &byte) in block[SUPER_OFFSET..].iter().enumerate() {
        let byte = if (4..8).contains(&index) { 0 } else { byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

/// The type of a directory's entry.
pub(super) fn dirent_type(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}

pub(super) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Missing bytes are zero: who reads foreign content checks lengths first.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_and_superblocks_come_back() {
        let inode = Inode {
            layout: Layout::Inline,
            xattrs: 12 + 40,
            mode: 0o104_755,
            size: 5_000_000_000,
            data: 77,
            number: 5,
            uid: 70_000,
            gid: 80_000,
            mtime: Time {
                seconds: -5,
                nanoseconds: 999_999_999,
            },
            links: 3,
        };
        assert_eq!(Inode::decode(&inode.encode()), Some(inode));
        let superblock = Superblock {
            root_nid: ROOT_NID,
            inodes: 9,
            blocks: 10,
            uuid: *b"0123456789abcdef",
            chunked: true,
        };
        let mut block = [0; BLOCK];
        put(&mut block, SUPER_OFFSET, &superblock.encode());
        seal(&mut block);
        assert_eq!(Superblock::decode(&block), Some(superblock));
        block[2000] ^= 1;
        assert_eq!(Superblock::decode(&block), None);
    }

    #[test]
    fn device_numbers() {
        assert_eq!(encode_device(8, 1), Some(0x801));
        assert_eq!(encode_device(0xfff, 0xf_ffff), Some(u32::MAX));
        for device in [(8, 1), (0xfff, 0xf_ffff), (0, 0x123), (0xabc, 0x12345)] {
            let encoded = encode_device(device.0, device.1).unwrap();
            assert_eq!(decode_device(encoded), device);
        }
        assert_eq!(encode_device(0x1000, 0), None);
        assert_eq!(encode_device(0, 0x10_0000), None);
    }
}
