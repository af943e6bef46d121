//! Writes tar streams as Docker does: ustar headers, and before them a PAX
//! header (POSIX.1-2001) for what does not fit, so that every reader takes them.
//!
//! The same entries give the same bytes: nothing of this machine gets in.

use std::io::{self, Read, Write};

use super::{BLOCK, Entry, Kind, Time};
use crate::error::{Error, Result, invalid};

/// Longest link target, and longest name without prefix, in a ustar header.
const NAME: usize = 100;
/// Largest value of an octal field of seven digits, and of eleven.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// Bytes copied at a time.
const CHUNK: usize = 128 * 1024;

/// A tar stream, written forward once.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// `out` is written to in pieces of up to 128 KiB; headers are 512 bytes,
    /// so a file or socket wants a buffer before it.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::new(),
        }
    }

    /// Adds a member. Of a file, `entry.size` bytes are read from `data`; what
    /// else has a size is refused. Names of directories get their slash here.
    /// Sparse maps are not written: holes are zeros of the file.
    ///
    /// # Errors
    /// `Invalid` for what no archive can say and for data that is too short;
    /// after an error the stream is useless.
    pub fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        self.put(&head(entry)?)?;
        if entry.kind == Kind::File {
            self.copy(entry, data)?;
            self.put(padding(entry.size))?;
        }
        Ok(())
    }

    /// Writes the end-of-archive marker and gives back what was written to.
    pub fn finish(mut self) -> Result<W> {
        self.put(&END)?;
        self.out.flush().map_err(failed)?;
        Ok(self.out)
    }

    fn copy(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        let mut left = entry.size;
        self.buffer.resize(CHUNK, 0);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let n = match data.read(&mut self.buffer[..want]) {
                Ok(0) => {
                    return invalid(format!(
                        "{:?} ended {left} bytes early",
                        String::from_utf8_lossy(&entry.name)
                    ));
                }
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Error::io("read", String::from_utf8_lossy(&entry.name))(
                        error,
                    ));
                }
            };
            self.out.write_all(&self.buffer[..n]).map_err(failed)?;
            left -= n as u64;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(failed)
    }
}

/// The end-of-archive marker.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What stands before the data of a member.
pub(crate) fn head(entry: &Entry) -> Result<Vec<u8>> {
    check(entry)?;
    let mut name = entry.name.clone();
    if entry.kind == Kind::Directory && !name.ends_with(b"/") {
        name.push(b'/');
    }
    let records = records(entry, &name);
    let mut head = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        let mut header = Header::new(b'x');
        header.text(0, NAME, &extension_name(&name));
        header.octal(124, 11, records.len() as u64);
        head.extend(header.finish());
        head.extend_from_slice(&records);
        head.extend_from_slice(padding(records.len() as u64));
    }
    head.extend(member(entry, &name).finish());
    Ok(head)
}

/// The zeros behind data of that length.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    // Below one block.
    let length = size.next_multiple_of(BLOCK as u64) - size;
    &END[..length as usize]
}

fn failed(source: io::Error) -> Error {
    Error::io("write", "the archive")(source)
}

fn check(entry: &Entry) -> Result<()> {
    let name = || String::from_utf8_lossy(&entry.name).into_owned();
    if entry.name.is_empty() || entry.name.contains(&0) || entry.link.contains(&0) {
        return invalid(format!("{:?} cannot be the name of an entry", name()));
    }
    if entry.extents.is_some() {
        return invalid(format!("{:?}: sparse maps are not written", name()));
    }
    if entry.kind != Kind::File && entry.size != 0 || entry.size > i64::MAX as u64 {
        return invalid(format!("{:?} cannot have {} bytes", name(), entry.size));
    }
    let (major, minor) = entry.device;
    if u64::from(major.max(minor)) > OCTAL_7 {
        return invalid(format!(
            "{:?}: device {major}:{minor} does not fit into an archive",
            name()
        ));
    }
    let bad = |key: &[u8]| key.is_empty() || key.contains(&b'=') || key.contains(&0);
    if let Some((key, _)) = entry.xattrs.iter().find(|(key, _)| bad(key)) {
        return invalid(format!(
            "{:?}: extended attribute {:?} does not fit into an archive",
            name(),
            String::from_utf8_lossy(key)
        ));
    }
    Ok(())
}

/// What the header cannot say, sorted by key as Go does.
fn records(entry: &Entry, name: &[u8]) -> Vec<u8> {
    let mut list: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut put = |key: &str, value: Vec<u8>| list.push((key.as_bytes().to_vec(), value));
    let fits = |text: &[u8]| text.is_ascii() && text.len() <= NAME;
    if !fits(name) {
        put("path", name.to_vec());
    }
    if !fits(&entry.link) {
        put("linkpath", entry.link.clone());
    }
    for (key, value, most) in [
        ("size", entry.size, OCTAL_11),
        ("uid", u64::from(entry.uid), OCTAL_7),
        ("gid", u64::from(entry.gid), OCTAL_7),
    ] {
        if value > most {
            put(key, value.to_string().into_bytes());
        }
    }
    if !is_plain(entry.mtime) {
        put("mtime", decimal(entry.mtime).into_bytes());
    }
    for (key, value) in &entry.xattrs {
        list.push(([super::pax::XATTR, key].concat(), value.clone()));
    }
    list.sort();
    let mut bytes = Vec::new();
    for (key, value) in list {
        record(&mut bytes, &key, &value);
    }
    bytes
}

/// `length key=value\n`; the length counts its own digits.
fn record(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // Space, equals sign, newline.
    let rest = key.len() + value.len() + 3;
    let digits = |number: usize| number.to_string().len();
    let mut length = rest + digits(rest);
    length = rest + digits(length);
    bytes.extend_from_slice(format!("{length} ").as_bytes());
    bytes.extend_from_slice(key);
    bytes.push(b'=');
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

/// Whole seconds that an octal field holds.
fn is_plain(time: Time) -> bool {
    time.nanoseconds == 0 && u64::try_from(time.seconds).is_ok_and(|seconds| seconds <= OCTAL_11)
}

/// `[-]seconds[.fraction]`, without zeros at the end.
fn decimal(time: Time) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds < 0, time.nanoseconds) {
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        // Nanoseconds count up from the second before.
        (true, n) => ("-", time.seconds.unsigned_abs() - 1, 1_000_000_000 - n),
        (false, n) => ("", time.seconds.unsigned_abs(), n),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Where a reader that does not know PAX puts the records: `dir/PaxHeaders.0/name`.
fn extension_name(name: &[u8]) -> Vec<u8> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let cut = name.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    [&name[..cut], b"PaxHeaders.0/", &name[cut..]].concat()
}

fn member(entry: &Entry, name: &[u8]) -> Header {
    let mut header = Header::new(match entry.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    });
    // A number that is in a PAX record is 0 here, as in Go.
    let or_zero = |value: u64, most: u64| if value > most { 0 } else { value };
    header.text(0, NAME, name);
    header.octal(100, 7, u64::from(entry.mode & 0o7777));
    header.octal(108, 7, or_zero(u64::from(entry.uid), OCTAL_7));
    header.octal(116, 7, or_zero(u64::from(entry.gid), OCTAL_7));
    header.octal(124, 11, or_zero(entry.size, OCTAL_11));
    let seconds = u64::try_from(entry.mtime.seconds).unwrap_or_default();
    header.octal(136, 11, or_zero(seconds, OCTAL_11));
    header.text(157, NAME, &entry.link);
    header.octal(329, 7, u64::from(entry.device.0));
    header.octal(337, 7, u64::from(entry.device.1));
    header
}

/// One header block on its way.
struct Header([u8; BLOCK]);

impl Header {
    fn new(type_flag: u8) -> Self {
        let mut block = [0; BLOCK];
        block[156] = type_flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let mut header = Self(block);
        for (at, digits) in [(100, 7), (108, 7), (116, 7), (124, 11), (136, 11)] {
            header.octal(at, digits, 0);
        }
        header
    }

    /// Cut where the field ends (a PAX record then says all), and to ASCII.
    fn text(&mut self, at: usize, length: usize, text: &[u8]) {
        let ascii = text.iter().copied().filter(u8::is_ascii).take(length);
        for (place, byte) in self.0[at..].iter_mut().zip(ascii) {
            *place = byte;
        }
    }

    fn octal(&mut self, at: usize, digits: usize, value: u64) {
        let text = format!("{value:0digits$o}");
        self.0[at..at + digits].copy_from_slice(&text.as_bytes()[..digits]);
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|&b| u64::from(b)).sum();
        self.octal(148, 6, sum);
        self.0[154] = 0;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tar::Reader;

    fn entry(name: &str, kind: Kind) -> Entry {
        Entry {
            name: name.into(),
            kind,
            mode: 0o644,
            ..Entry::default()
        }
    }

    fn write(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        for (entry, data) in entries {
            tar.append(entry, &mut data.as_slice()).unwrap();
        }
        tar.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Vec<(Entry, Vec<u8>)> {
        let mut tar = Reader::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = tar.next().unwrap() {
            let mut data = Vec::new();
            tar.read_to_end(&mut data).unwrap();
            entries.push((entry, data));
        }
        assert!(tar.is_complete());
        entries
    }

    #[test]
    fn plain_entries_need_no_pax_header() {
        let bytes = write(&[(entry(&"n".repeat(100), Kind::File), Vec::new())]);
        assert_eq!(bytes.len(), 3 * BLOCK);
        assert_eq!(&bytes[257..265], b"ustar\x0000");
    }

    #[test]
    fn gnu_tar_reads_it() {
        let long = "d/".repeat(150) + "f\u{fc}r";
        let mut big = entry(&long, Kind::File);
        (big.size, big.mtime.seconds) = (5, 1_700_000_000);
        let mut link = entry("link", Kind::HardLink);
        link.link = long.clone().into_bytes();
        let bytes = write(&[(big, b"hello".to_vec()), (link, Vec::new())]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.tar"), bytes).unwrap();
        let status = std::process::Command::new("tar")
            .args(["xf", "a.tar"])
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        let text = std::fs::read_to_string(dir.path().join("link")).unwrap();
        assert_eq!(text, "hello");
        assert!(dir.path().join(long).exists());
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        let mut tar = TarWriter::new(Vec::new());
        let mut file = entry("f", Kind::File);
        file.size = 3;
        assert!(tar.append(&file, &mut &b"ab"[..]).is_err());
        for bad in [
            Entry::default(),
            Entry {
                size: 1,
                ..entry("d", Kind::Directory)
            },
            Entry {
                device: (u32::MAX, 0),
                ..entry("n", Kind::CharDevice)
            },
            Entry {
                xattrs: vec![(b"a=b".to_vec(), vec![])],
                ..entry("x", Kind::File)
            },
        ] {
            assert!(tar.append(&bad, &mut io::empty()).is_err(), "{bad:?}");
        }
    }

    fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
        let kinds = prop::sample::select(vec![
            Kind::File,
            Kind::Directory,
            Kind::Symlink,
            Kind::HardLink,
            Kind::CharDevice,
            Kind::Fifo,
        ]);
        let name = prop::collection::vec(1..=255u8, 1..300);
        let xattrs = prop::collection::vec(
            (
                "user\\.[a-z]{1,90}",
                prop::collection::vec(any::<u8>(), 1..200),
            ),
            0..4,
        );
        let data = prop::collection::vec(any::<u8>(), 0..2000);
        let time = (
            any::<i32>(),
            prop::sample::select(vec![0, 1, 999_999_999, 120_000_000]),
        );
        (
            kinds,
            name.clone(),
            name,
            xattrs,
            data,
            time,
            any::<(u32, u32)>(),
        )
            .prop_map(
                |(kind, mut name, link, xattrs, data, (seconds, nanoseconds), (uid, gid))| {
                    if kind == Kind::Directory {
                        name.push(b'/');
                    } else {
                        name.push(b'x');
                    }
                    let data = if kind == Kind::File { data } else { Vec::new() };
                    let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
                    let device = kind == Kind::CharDevice;
                    let mut xattrs: Vec<_> = xattrs
                        .into_iter()
                        .map(|(key, value)| (key.into_bytes(), value))
                        .collect();
                    xattrs.sort();
                    let entry = Entry {
                        name,
                        kind,
                        link: if is_link { link } else { Vec::new() },
                        mode: uid & 0o7777,
                        uid,
                        gid,
                        mtime: Time {
                            seconds: i64::from(seconds) * 100,
                            nanoseconds,
                        },
                        size: data.len() as u64,
                        device: if device {
                            (gid >> 20, uid >> 12)
                        } else {
                            (0, 0)
                        },
                        xattrs,
                        extents: None,
                    };
                    (entry, data)
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in prop::collection::vec(any_entry(), 0..6)) {
            prop_assert_eq!(read(&write(&entries)), entries);
        }
    }
}
