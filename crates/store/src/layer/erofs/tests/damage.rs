//! Files that are not as they were written.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{read_back, unpacked};
use crate::error::Result;
use crate::layer::FormKind;
use crate::layer::erofs::format::seal;
use crate::layer::erofs::reader::Image;
use crate::testing::Tar;

/// Any byte of a file may be wrong: our reader ends, and does not take more
/// memory than the file is long.
#[test]
fn damage_is_an_error_and_no_panic() {
    let stream = Tar::default()
        .pax(&[("SCHILY.xattr.user.note", b"dir")])
        .dir("d", 0o755)
        .file("d/file", &[7; 4100])
        .symlink("d/link", "file")
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"40000"),
            ("GNU.sparse.map", b"8192,3"),
        ])
        .file("x", b"abc")
        .finish();
    let layer = unpacked(FormKind::Erofs, &mut stream.as_slice()).unwrap();
    let file = std::fs::read(layer.content).unwrap();
    let whole = read_back(&image(&file)).unwrap();
    assert_eq!(whole[&b"sparse"[..]].1.len(), 40000);
    let interesting: Vec<usize> = (0..file.len())
        .filter(|&at| file[at] != 0 || at.checked_sub(1).is_some_and(|before| file[before] != 0))
        .filter(|at| !(8192..8192 + 4096).contains(at))
        .collect();
    let bad = temporary(&file);
    let overwrite = |bytes: &[u8], at: usize| bad.write_all_at(bytes, at as u64).unwrap();
    for at in interesting {
        for value in [0, 0xff, file[at] ^ 0x80, file[at].wrapping_add(1)] {
            overwrite(&[value], at);
            // The checksum would find it first.
            let mut first = *file.first_chunk().unwrap();
            if let Some(byte) = first.get_mut(at) {
                *byte = value;
            }
            seal(&mut first);
            overwrite(&first, 0);
            if let Ok(image) = Image::open(bad.try_clone().unwrap()) {
                let _ = read_back_bounded(&image);
            }
        }
        overwrite(&[file[at]], at);
    }
    for length in (0..file.len()).step_by(509) {
        assert!(Image::open(temporary(&file[..length])).is_err());
    }
}

fn image(bytes: &[u8]) -> Image {
    Image::open(temporary(bytes)).unwrap()
}

fn temporary(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn read_back_bounded(image: &Image) -> Result<()> {
    image.walk(&mut |_, node| {
        // A hole may be as long as it likes.
        image.read(node, 1 << 20)?;
        image.xattrs(node)?;
        Ok(())
    })
}
