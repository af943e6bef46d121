//! Against what Docker 28.5 (BuildKit) makes of the same Dockerfiles.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::Arc;

use berth_store::{TarEntry, TarKind, TarReader, TarWriter};
use proptest::prelude::*;

use super::*;
use crate::graph::{Copy, ModeChange, Unpack};

mod archives;
mod hostile;
mod parents;
mod places;

const TIME: i64 = 1_000_000_000;

fn apply(
    files: &Files,
    operation: &graph::Files,
    base: Option<BorrowedFd<'_>>,
    sources: &[Source<'_>],
    time: Option<i64>,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let draft = draft(files, operation, base, sources)?;
    Ok(draft.write(files, time, out)?)
}

/// A base, a context, and a root to copy from.
struct Rig {
    dir: tempfile::TempDir,
    files: Files,
    tree: Tree,
}

fn file(root: &Path, name: &str, text: &str, mode: u32) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    set_mode(root, name, mode);
}

fn set_mode(root: &Path, name: &str, mode: u32) {
    fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn make_base(root: &Path) {
    file(root, "usr/bin/sh", "sh", 0o755);
    file(root, "existing/old", "old", 0o644);
    file(root, "existing/sub/deep", "deep", 0o600);
    file(root, "file", "file", 0o644);
    file(
        root,
        "etc/passwd",
        "root:x:0:0::/:\nweb:x:33:34::/:\n",
        0o644,
    );
    file(root, "etc/group", "root:x:0:\nstaff:x:50:\n", 0o644);
    for (name, mode, owner) in [("existing", 0o711, 5), ("existing/sub", 0o700, 7)] {
        set_mode(root, name, mode);
        chown(root.join(name), Some(owner), Some(owner)).unwrap();
    }
    chown(root.join("existing/sub/deep"), Some(7), Some(7)).unwrap();
    for (name, target) in [
        ("bin", "usr/bin"),
        ("abs", "/existing"),
        ("dangling", "/nowhere/x"),
        ("out", "../../../../existing"),
        ("flink", "file"),
        ("loop", "loop"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
}

fn make_context(root: &Path) {
    file(root, "f1", "one", 0o640);
    file(root, "f2", "two", 0o4755);
    file(root, "dir/a", "a", 0o600);
    file(root, "dir/b.txt", "b", 0o644);
    file(root, "dir/sub/c", "c", 0o755);
    file(root, "dir/sub/d.txt", "d", 0o644);
    set_mode(root, "dir/sub", 0o750);
    set_mode(root, "dir", 0o700);
    fs::hard_link(root.join("dir/a"), root.join("dir/z")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for (name, target) in [
        ("link", "f1"),
        ("dirlink", "dir"),
        ("abslink", "/f1"),
        ("broken", "none"),
        ("outlink", "../../etc/passwd"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    file(root, "x/deep/one.txt", "1", 0o644);
    file(root, "x/deep/two.md", "2", 0o644);
    file(root, "x/three.txt", "3", 0o644);
    file(root, "y/deep/one.txt", "y", 0o644);
    file(root, "shadow/existing", "f", 0o644);
    file(root, "overdir/file/inner", "i", 0o644);
    file(root, "merge/existing/keep", "k", 0o644);
    file(root, "merge/existing/sub/new", "n", 0o644);
    set_mode(root, "merge/existing", 0o750);
    set_mode(root, "merge/existing/sub", 0o770);
    file(root, "w[1].txt", "w", 0o644);
    file(root, "blink/bin/tool", "t", 0o644);
    // Owners of a context mean nothing.
    chown(root.join("dir"), Some(12), Some(13)).unwrap();
    chown(root.join("f1"), Some(12), Some(13)).unwrap();
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["base", "context"] {
            fs::create_dir(at(name)).unwrap();
            set_mode(dir.path(), name, 0o755);
        }
        make_base(&at("base"));
        make_context(&at("context"));
        let files = Files::open(&at("files")).unwrap();
        let tree = files.take_directory(&at("context"), &|_| false).unwrap();
        Self { dir, files, tree }
    }

    /// A file more in the context.
    fn with(mut self, name: &str, bytes: &[u8]) -> Self {
        let context = self.dir.path().join("context");
        fs::write(context.join(name), bytes).unwrap();
        self.tree = self.files.take_directory(&context, &|_| false).unwrap();
        self
    }

    /// The layer's entries: `name kind mode owner`; the input 0 is the context,
    /// 1 a root like the base.
    fn run(&self, actions: Vec<FileAction>) -> Result<Vec<String>, String> {
        let out = self.stream(actions)?;
        Ok(listing(&out))
    }

    fn stream(&self, actions: Vec<FileAction>) -> Result<Vec<u8>, String> {
        let base = File::open(self.dir.path().join("base")).unwrap();
        let sources = [Source::Tree(&self.tree), Source::Root(base.as_fd())];
        let operation = graph::Files {
            base: Some(0),
            actions,
        };
        let mut out = Vec::new();
        let base = Some(base.as_fd());
        let any = apply(
            &self.files,
            &operation,
            base,
            &sources,
            Some(TIME),
            &mut out,
        )
        .map_err(|error| error.to_string())?;
        assert_eq!(any, !listing(&out).is_empty());
        Ok(out)
    }

    fn check(&self, copy: Copy, wanted: &[&str]) {
        let shown = format!("{copy:?}");
        let found = self.run(vec![FileAction::Copy(copy)]).unwrap();
        assert_eq!(found, wanted, "{shown}");
    }

    fn fails(&self, copy: Copy, message: &str) {
        let shown = format!("{copy:?}");
        let found = self.run(vec![FileAction::Copy(copy)]).unwrap_err();
        assert!(found.contains(message), "{shown}: {found}");
    }
}

fn listing(tar: &[u8]) -> Vec<String> {
    let mut reader = TarReader::new(tar);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        if !entry.name.ends_with(b".wh..wh..opq") {
            assert_eq!((entry.mtime.seconds, entry.mtime.nanoseconds), (TIME, 0));
        }
        let link = String::from_utf8_lossy(&entry.link);
        let name = String::from_utf8_lossy(&entry.name);
        let name = name.trim_end_matches('/');
        let kind = match entry.kind {
            TarKind::Directory => "/".to_owned(),
            TarKind::File => format!(" {}", entry.size),
            TarKind::Symlink => format!(" -> {link}"),
            TarKind::HardLink => format!(" = {link}"),
            TarKind::CharDevice | TarKind::BlockDevice => " c".to_owned(),
            TarKind::Fifo => " p".to_owned(),
        };
        let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
        entries.push(format!("{name}{kind} {mode:o} {uid}:{gid}"));
    }
    assert!(reader.is_complete());
    entries
}

fn copy(sources: &[&str], target: &str) -> Copy {
    Copy {
        from: 0,
        sources: sources.iter().map(|&source| source.to_owned()).collect(),
        target: target.to_owned(),
        owner: None,
        mode: None,
        parents: false,
        exclude: Vec::new(),
        unpack: Unpack::Never,
    }
}

fn from_root(source: &str, target: &str) -> Copy {
    Copy {
        from: 1,
        ..copy(&[source], target)
    }
}

fn chmod(mode: &str, copy: Copy) -> Copy {
    let change = match u32::from_str_radix(mode, 8) {
        Ok(mode) => ModeChange::Octal(mode),
        Err(_) => ModeChange::Symbolic(mode.to_owned()),
    };
    Copy {
        mode: Some(change),
        ..copy
    }
}

fn owned(owner: &str, copy: Copy) -> Copy {
    Copy {
        owner: Some(owner.to_owned()),
        ..copy
    }
}

fn without(exclude: &[&str], copy: Copy) -> Copy {
    Copy {
        exclude: exclude.iter().map(|&pattern| pattern.to_owned()).collect(),
        ..copy
    }
}
