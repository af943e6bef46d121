//! Files with holes, and large ones.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::{data_ranges, fsck, same, unpacked};
use crate::layer::FormKind;
use crate::layer::erofs::reader::Image;
use crate::testing::Tar;

/// A file of `size` bytes with these pieces of data.
fn sparse(tar: Tar, name: &str, size: u64, pieces: &[(u64, u64)]) -> Tar {
    let map: Vec<_> = (pieces.iter())
        .map(|(offset, length)| format!("{offset},{length}"))
        .collect();
    let data: Vec<u8> = (0..pieces.iter().map(|(_, length)| length).sum())
        .map(|n| (n % 251) as u8 + 1)
        .collect();
    tar.pax(&[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.name", name.as_bytes()),
        ("GNU.sparse.realsize", size.to_string().as_bytes()),
        ("GNU.sparse.map", map.join(",").as_bytes()),
        ("SCHILY.xattr.user.note", b"sparse"),
    ])
    .file("x", &data)
}

#[test]
fn holes_are_kept() {
    let mut tar = Tar::default();
    for (index, (size, pieces)) in [
        (1, &[][..]),
        (1, &[(0, 1)]),
        (4096, &[(0, 4096)]),
        (100_000, &[]),
        (100_000, &[(50_000, 10)]),
        (100_000, &[(0, 10), (99_999, 1)]),
        (
            100_000,
            &[(0, 10), (20, 10), (4095, 2), (8192, 4096), (100_000, 0)],
        ),
        (
            98_304,
            &[(4096, 1), (40_960, 20_000), (60_960, 5), (98_303, 1)],
        ),
        (10_000_000, &[(5_000_000, 1), (5_004_096, 300_000)]),
    ]
    .into_iter()
    .enumerate()
    {
        tar = sparse(tar, &format!("sparse{index}"), size, pieces);
    }
    let pieces: Vec<_> = (0..3000).map(|n| (n * 8192, 5000)).collect();
    tar = sparse(tar, "many", 3000 * 8192, &pieces);
    same(&tar.finish());
}

/// With holes larger than the map of a file should be: in larger chunks.
#[test]
fn files_of_gigabytes_take_little() {
    let size = 3 << 40;
    let pieces = [
        (0, 3),
        (4095, 2),
        (5 << 30, 5000),
        ((1 << 40) + 7, 1),
        (size - 9, 9),
    ];
    let stream = sparse(Tar::default(), "huge", size, &pieces).finish();
    let layer = unpacked(FormKind::Erofs, &mut stream.as_slice()).unwrap();
    let content = layer.content.metadata().unwrap();
    assert!(content.blocks() * 512 < 3 << 20, "{content:?}");
    assert_eq!(layer.layer.size, 3 + 2 + 5000 + 1 + 9);
    let huge = layer.root.join("huge");
    assert_eq!(huge.metadata().unwrap().size(), size);
    assert_eq!(data_ranges(&huge).len(), 4);
    let file = File::open(&huge).unwrap();
    let mut expected = (0..).map(|n: u64| (n % 251) as u8 + 1);
    for (offset, length) in pieces {
        let length = length as usize;
        let mut around = vec![9; length + 2];
        let start = offset.saturating_sub(1);
        let read = file.read_at(&mut around, start).unwrap();
        let skip = (offset - start) as usize;
        let data: Vec<u8> = expected.by_ref().take(length).collect();
        assert_eq!(&around[skip..skip + length], data, "{offset}");
        assert_eq!(around[..skip], [0][..skip], "{offset}");
        assert!(
            around[skip + length..read].iter().all(|&b| b == 0),
            "{offset}"
        );
    }
    fsck(&layer.content);
    let image = Image::open(File::open(&layer.content).unwrap()).unwrap();
    let node = image
        .child(&image.root().unwrap(), b"huge")
        .unwrap()
        .unwrap();
    assert_eq!(image.read(&node, 5).unwrap(), [1, 2, 3, 0, 0]);
    assert_eq!(node.size(), size);
}
