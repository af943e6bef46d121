//! Whatever comes in: no panic, and nothing leads out.

use super::archives::tar;
use super::*;
use crate::tree::{Entry, Node};

fn names() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a", "b", "c", "existing", "bin", "..", ".", "", "loop",
    ]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn members() -> impl Strategy<Value = Vec<(String, TarKind, String)>> {
    let kinds = prop::sample::select(vec![
        TarKind::File,
        TarKind::Directory,
        TarKind::Symlink,
        TarKind::HardLink,
        TarKind::Fifo,
    ]);
    let target = prop_oneof![names(), names().prop_map(|name| format!("/{name}"))];
    prop::collection::vec((names(), kinds, target), 0..12)
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let node = prop_oneof![
        Just(Node::Directory),
        names().prop_map(Node::Symlink),
        names().prop_map(Node::HardLink),
        Just(Node::Special {
            kind: 0o10000,
            major: 0,
            minor: 0
        }),
        Just(Node::File {
            digest: "sha256:00".to_owned(),
            size: 0
        }),
    ];
    let entry = (names(), node, any::<u32>()).prop_map(|(path, node, mode)| Entry {
        path,
        node,
        mode,
        uid: 0,
        gid: 0,
        mtime: i64::from(mode),
        xattrs: Vec::new(),
    });
    prop::collection::vec(entry, 0..12)
}

/// Clean, in order, and every directory is there before what is in it.
fn check(out: &[u8]) {
    let mut tar = TarReader::new(out);
    let mut before: Vec<Vec<u8>> = Vec::new();
    while let Some(entry) = tar.next().unwrap() {
        let name = entry.name.strip_suffix(b"/").unwrap_or(&entry.name);
        let parts: Vec<&[u8]> = name.split(|&b| b == b'/').collect();
        assert!(
            !parts.iter().any(|part| matches!(*part, b"" | b"..")),
            "{entry:?}"
        );
        let path: Vec<u8> = parts
            .iter()
            .flat_map(|part| [*part, b"\0"].concat())
            .collect();
        assert!(
            before.last() < Some(&path) || name.ends_with(b".wh..wh..opq"),
            "{entry:?}"
        );
        before.push(path);
    }
}

fn members_of(list: &[(String, TarKind, String)]) -> Vec<u8> {
    let list: Vec<_> = (list.iter())
        .filter(|(name, ..)| !name.is_empty())
        .map(|(name, kind, target)| (name.as_str(), *kind, target.as_str(), 0o644, 0))
        .collect();
    tar(&list)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_archive_leads_out(list in members(), target in names()) {
        let rig = Rig::new().with("a.tar", &members_of(&list));
        let base = File::open(rig.dir.path().join("base")).unwrap();
        let unpacked = Copy { unpack: Unpack::Archives, ..copy(&["a.tar"], &format!("/{target}")) };
        let operation = graph::Files { base: Some(0), actions: vec![FileAction::Copy(unpacked)] };
        let mut out = Vec::new();
        let sources = [Source::Tree(&rig.tree)];
        let (base, time) = (Some(base.as_fd()), Some(TIME));
        if apply(&rig.files, &operation, base, &sources, time, &mut out).is_ok() {
            check(&out);
        }
        if let Ok(tree) = rig.files.take_tar(&mut &members_of(&list)[..]) {
            let mut out = Vec::new();
            tree_layer(&rig.files, &tree, "/", None, &mut out).unwrap();
            check(&out);
        }
    }

    #[test]
    fn no_tree_leads_out(mut list in entries(), sorted: bool, source in names(), target in names()) {
        if sorted {
            list.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
        }
        let rig = Rig::new();
        let tree = Tree { entries: list };
        let operation = graph::Files {
            base: None,
            actions: vec![FileAction::Copy(copy(&[&source], &format!("/{target}")))],
        };
        for parents in [false, true] {
            let mut operation = operation.clone();
            if let FileAction::Copy(copy) = &mut operation.actions[0] {
                copy.parents = parents;
                let _ = content_of(Some(copy), "", &tree);
            }
            let mut out = Vec::new();
            let sources = [Source::Tree(&tree)];
            if apply(&rig.files, &operation, None, &sources, Some(TIME), &mut out).is_ok() {
                check(&out);
            }
        }
        let _ = content_of(None, &source, &tree);
        let mut out = Vec::new();
        if tree_layer(&rig.files, &tree, &source, None, &mut out).is_ok() {
            check(&out);
        }
    }

    #[test]
    fn no_stream_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let _ = files.take_tar(&mut &bytes[..]);
    }
}
