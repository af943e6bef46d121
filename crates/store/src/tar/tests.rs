use proptest::prelude::*;

use super::*;
use crate::testing::{Member, Tar};

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut tar = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = tar.next()? {
        let mut data = Vec::new();
        tar.read_to_end(&mut data)
            .map_err(Error::stream("the archive"))?;
        entries.push((entry, data));
    }
    Ok(entries)
}

#[test]
fn long_names_of_both_kinds() {
    let long = "d/".repeat(120) + "file";
    let gnu = Tar::default()
        .member(&Member {
            kind: b'L',
            name: b"././@LongLink",
            data: format!("{long}\0").as_bytes(),
            ..Member::default()
        })
        .member(&Member {
            kind: b'K',
            name: b"././@LongLink",
            data: format!("{long}.t\0").as_bytes(),
            ..Member::default()
        })
        .symlink("short", "short")
        .finish();
    let pax = Tar::default()
        .pax(&[
            ("path", long.as_bytes()),
            ("linkpath", format!("{long}.t").as_bytes()),
        ])
        .symlink("short", "short")
        .finish();
    for bytes in [gnu, pax] {
        let entries = read_all(&bytes).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].0.name, long.as_bytes());
        assert_eq!(entries[0].0.link, format!("{long}.t").as_bytes());
    }
}

#[test]
fn what_two_readers_could_see_differently_is_refused() {
    for bytes in [
        Tar::default()
            .pax(&[("path", b"a")])
            .pax(&[("path", b"b")])
            .file("c", b"")
            .finish(),
        Tar::default().pax(&[("path", b"a")]).finish(),
        Tar::default()
            .member(&Member {
                kind: b'g',
                name: b"g",
                data: b"10 path=a\n",
                ..Member::default()
            })
            .finish(),
        Tar::default()
            .pax(&[("size", b"+5")])
            .file("c", b"")
            .finish(),
        Tar::default().raw(&[0; 512]).file("c", b"").finish(),
        Tar::default()
            .pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"5,3,2,2")])
            .file("c", b"12345")
            .finish(),
        Tar::default()
            .pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"5,9")])
            .file("c", b"123456789")
            .finish(),
        Tar::default()
            .pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,3")])
            .file("c", b"12345")
            .finish(),
        Tar::default()
            .pax(&[("GNU.sparse.realsize", b"10"), ("GNU.sparse.major", b"1")])
            .file("c", b"99999999\n")
            .finish(),
    ] {
        assert!(
            read_all(&bytes).is_err(),
            "{:?}",
            String::from_utf8_lossy(&bytes[..600.min(bytes.len())])
        );
    }
}

#[test]
fn global_comments_and_volume_labels_are_passed_over() {
    let bytes = Tar::default()
        .member(&Member {
            kind: b'g',
            name: b"pax_global_header",
            data: b"14 comment=ab\n",
            ..Member::default()
        })
        .member(&Member {
            kind: b'V',
            name: b"label",
            ..Member::default()
        })
        .file("f", b"x")
        .finish();
    let entries = read_all(&bytes).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].1, b"x");
}

#[test]
fn checksums_of_signed_bytes_are_right_too() {
    let mut archive = Tar::default().file("\u{e9}\u{e8}", b"").finish();
    assert_eq!(read_all(&archive).unwrap().len(), 1);
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(&archive[..512]);
    let sum = header.cksum().unwrap() - 4 * 256;
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(read_all(&archive).unwrap().len(), 1);
    archive[150] ^= 1;
    assert!(read_all(&archive).is_err());
}

/// In system calls it means that the owner stays.
#[test]
fn the_owner_that_is_none_is_refused() {
    for key in ["uid", "gid"] {
        let tar = Tar::default().pax(&[(key, b"4294967295")]);
        let error = read_all(&tar.file("f", b"").finish()).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
    let tar = Tar::default().pax(&[("uid", b"4294967294")]);
    assert!(read_all(&tar.file("f", b"").finish()).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read_all(&bytes);
    }

    /// An honest archive with some bytes changed and the checksums made right.
    #[test]
    fn damaged_archives_never_panic(changes in prop::collection::vec((0usize..6000, any::<u8>()), 1..12)) {
        let mut bytes = Tar::default()
            .dir("d", 0o755)
            .pax(&[("GNU.sparse.realsize", b"1000"), ("GNU.sparse.major", b"1"), ("mtime", b"1.5")])
            .file("sparse", &[b"1\n0\n10\n".to_vec(), vec![0; 505], vec![7; 10]].concat())
            .member(&Member { kind: b'S', name: b"old", data: b"12345", ..Member::default() })
            .hardlink("l", "d")
            .finish();
        for (at, value) in changes {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        for block in bytes.chunks_exact_mut(512) {
            if block.iter().any(|&b| b != 0) {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let _ = read_all(&bytes);
    }

    #[test]
    fn honest_archives_come_out_as_they_went_in(
        files in prop::collection::vec(("[a-z]{1,20}", prop::collection::vec(any::<u8>(), 0..1500), 0u32..0o10000), 0..8),
    ) {
        let mut tar = Tar::default();
        for (name, data, mode) in &files {
            tar = tar.member(&Member { name: name.as_bytes(), data, mode: *mode, ..Member::default() });
        }
        let entries = read_all(&tar.finish()).unwrap();
        prop_assert_eq!(entries.len(), files.len());
        for ((entry, data), (name, want, mode)) in entries.iter().zip(&files) {
            prop_assert_eq!(&entry.name, name.as_bytes());
            prop_assert_eq!(data, want);
            prop_assert_eq!(entry.mode, *mode);
        }
    }
}
