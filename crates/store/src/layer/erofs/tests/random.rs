//! Any stream: both forms show the same, or refuse it with the same words.

use proptest::prelude::*;

use super::{FormKind, same, write};
use crate::testing::{Member, Tar};

#[derive(Clone, Debug)]
struct Op {
    kind: u8,
    path: String,
    link: String,
    mode: u32,
    size: usize,
    extra: u8,
}

/// Few names, so that entries meet.
fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "long-name", "."]);
    prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
}

fn link() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "..", "."]);
    let start = prop::sample::select(vec!["", "/", "//"]);
    (start, prop::collection::vec(part, 1..4))
        .prop_map(|(start, parts)| format!("{start}{}", parts.join("/")))
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop::sample::select(b"00055512346wwo".to_vec());
    let size = prop::sample::select(vec![0, 1, 2000, 4000, 4032, 4096, 5000]);
    (kind, path(), link(), 0..0o10000u32, size, 0..8u8).prop_map(
        |(kind, path, link, mode, size, extra)| Op {
            kind,
            path,
            link,
            mode,
            size,
            extra,
        },
    )
}

fn add(tar: Tar, op: &Op, index: usize) -> Tar {
    let data: Vec<u8> = (0..op.size).map(|i| (i + index) as u8).collect();
    let mut member = Member {
        kind: op.kind,
        name: op.path.as_bytes(),
        mode: op.mode,
        owner: (op.mode.into(), index as u64),
        ..Member::default()
    };
    let place = op.path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let name = op.path.rsplit('/').next().unwrap_or_default();
    let marker = match op.kind {
        b'w' => format!("{place}/.wh.{name}"),
        _ => format!("{}/.wh..wh..opq", op.path),
    };
    let marker = marker.trim_start_matches('/').to_owned();
    let access = [
        &b"\x02\0\0\0"[..],
        b"\x01\0\x06\0\xff\xff\xff\xff",
        b"\x02\0\x04\0\xe8\x03\0\0",
        b"\x04\0\x05\0\xff\xff\xff\xff",
        b"\x10\0\x07\0\xff\xff\xff\xff",
        b"\x20\0\x01\0\xff\xff\xff\xff",
    ]
    .concat();
    let plain = [&access[..12], &access[20..28], &access[36..]].concat();
    let time = format!("{}.{index:09}", 1_000_000 + index);
    let mut records = vec![("mtime", time.as_bytes())];
    let with_attributes = match op.extra {
        0 => Some(("SCHILY.xattr.user.note", &b"value"[..])),
        1 => Some(("SCHILY.xattr.user.other", &access[..3])),
        2 => Some(("SCHILY.xattr.system.posix_acl_access", &access[..])),
        3 => Some(("SCHILY.xattr.system.posix_acl_access", &plain[..])),
        _ => None,
    };
    records.extend(with_attributes);
    match op.kind {
        b'0' => member.data = &data,
        // A hard link's name has neither of these.
        b'1' => member.link = op.link.trim_start_matches(['/', '.']).as_bytes(),
        b'2' => member.link = op.link.as_bytes(),
        b'3' | b'4' => member.device = (u32::from(op.extra / 4), u32::from(op.extra / 4) * 300),
        b'w' | b'o' => {
            member.kind = b'0';
            member.name = marker.as_bytes();
        }
        _ => {}
    }
    tar.pax(&records).member(&member)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_is_the_same_in_both_forms(ops in prop::collection::vec(op(), 1..25)) {
        // Entries that are refused are left out, once both agreed on why.
        let mut tar = Tar::default();
        for (index, op) in ops.iter().enumerate() {
            let more = add(tar.clone(), op, index);
            let stream = more.clone().finish();
            match write(FormKind::Erofs, &mut stream.as_slice()) {
                Ok(_) => tar = more,
                Err(error) => {
                    let directory = write(FormKind::Directory, &mut stream.as_slice());
                    let other = directory.map(|_| ()).unwrap_err();
                    prop_assert_eq!(error.to_string(), other.to_string());
                }
            }
        }
        same(&tar.finish());
    }
}
