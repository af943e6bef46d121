//! Archives made by hand for tests: also such as no honest tool writes.

use std::fs::File;
use std::io::Write;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::blob::digest_of;
use crate::layer::FormKind;
use crate::{Image, LayerLocation, Store};

/// A tar stream under construction; names go in as they are.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

pub(crate) struct Member<'a> {
    pub(crate) kind: u8,
    pub(crate) name: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
    pub(crate) data: &'a [u8],
}

impl Default for Member<'_> {
    fn default() -> Self {
        Self {
            kind: b'0',
            name: b"",
            link: b"",
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_700_000_000,
            device: (0, 0),
            data: b"",
        }
    }
}

impl Tar {
    pub(crate) fn member(mut self, member: &Member<'_>) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(member.kind));
        let old = header.as_old_mut();
        old.name[..member.name.len()].copy_from_slice(member.name);
        old.linkname[..member.link.len()].copy_from_slice(member.link);
        header.set_mode(member.mode);
        header.set_uid(member.owner.0);
        header.set_gid(member.owner.1);
        header.set_mtime(member.mtime);
        header.set_size(member.data.len() as u64);
        header.set_device_major(member.device.0).unwrap();
        header.set_device_minor(member.device.1).unwrap();
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(member.data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.member(&Member {
            name: name.as_bytes(),
            data,
            ..Member::default()
        })
    }

    pub(crate) fn dir(self, name: &str, mode: u32) -> Self {
        self.member(&Member {
            kind: b'5',
            name: name.as_bytes(),
            mode,
            ..Member::default()
        })
    }

    pub(crate) fn symlink(self, name: &str, link: &str) -> Self {
        self.member(&Member {
            kind: b'2',
            name: name.as_bytes(),
            link: link.as_bytes(),
            ..Member::default()
        })
    }

    pub(crate) fn hardlink(self, name: &str, link: &str) -> Self {
        self.member(&Member {
            kind: b'1',
            name: name.as_bytes(),
            link: link.as_bytes(),
            ..Member::default()
        })
    }

    pub(crate) fn device(self, kind: u8, name: &str, device: (u32, u32)) -> Self {
        self.member(&Member {
            kind,
            name: name.as_bytes(),
            device,
            ..Member::default()
        })
    }

    /// PAX records for the next member.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            data.extend(format!("{length} {key}=").as_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.member(&Member {
            kind: b'x',
            name: b"pax",
            data: &data,
            ..Member::default()
        })
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// A docker-archive of one image with these layers.
pub(crate) fn docker_archive(tags: &[&str], layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer)).collect();
    docker_archive_claiming(tags, layers, &diff_ids)
}

pub(crate) fn docker_archive_claiming(
    tags: &[&str],
    layers: &[Vec<u8>],
    diff_ids: &[String],
) -> Vec<u8> {
    let config = config(diff_ids);
    let mut tar = Tar::default().file("config.json", &config);
    let mut names = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let name = format!("{index}/layer.tar");
        tar = tar.file(&name, layer);
        names.push(name);
    }
    let manifest = json!([{ "Config": "config.json", "RepoTags": tags, "Layers": names }]);
    tar.file("manifest.json", manifest.to_string().as_bytes())
        .finish()
}

pub(crate) fn config(diff_ids: &[String]) -> Vec<u8> {
    let arch = crate::manifest::host_architecture().to_string();
    json!({ "architecture": arch, "os": "linux", "created": "2024-02-03T04:05:06.789Z",
        "config": { "Cmd": ["/bin/sh"] }, "rootfs": { "type": "layers", "diff_ids": diff_ids } })
    .to_string()
    .into_bytes()
}

pub(crate) fn load(store: &Store, archive: &[u8]) -> Result<Vec<Image>, crate::Error> {
    store.load(&mut &*archive, &mut |_| {})
}

/// The root directory of a layer, to be looked at while this lives.
pub(crate) struct Mounted {
    path: PathBuf,
    mount: Option<OwnedFd>,
}

impl Mounted {
    pub(crate) fn descriptor(&self) -> Option<&OwnedFd> {
        self.mount.as_ref()
    }
}

impl Deref for Mounted {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

pub(crate) fn mounted(location: &LayerLocation) -> Mounted {
    match location {
        LayerLocation::Directory(path) => Mounted {
            path: path.clone(),
            mount: None,
        },
        LayerLocation::Erofs(path) => {
            let file = File::open(path).unwrap();
            let mount = berth_sys::erofs::mount(&file, b"test").unwrap();
            Mounted {
                path: format!("/proc/self/fd/{}/.", mount.as_raw_fd()).into(),
                mount: Some(mount),
            }
        }
    }
}

/// The message of a refusal, after checking that it left nothing.
pub(crate) fn refused(archive: &[u8]) -> String {
    refused_in(None, archive)
}

/// The same where layers take that form.
pub(crate) fn refused_in(form: Option<FormKind>, archive: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let store = Store::open_with(&root, form).unwrap();
    let message = match load(&store, archive) {
        Err(crate::Error::Invalid(message)) => message,
        other => panic!("not refused: {other:?}"),
    };
    assert_empty(&store, &root);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "something beside the store"
    );
    message
}

pub(crate) fn assert_empty(store: &Store, root: &Path) {
    store.inner.trash.settle();
    assert!(store.images().is_empty());
    for part in ["tmp", "blobs/sha256", "layers/sha256", "snapshots"] {
        let left: Vec<_> = std::fs::read_dir(root.join(part))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

pub(crate) fn kill_self() {
    let _ = std::io::stderr().flush();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        .unwrap();
}

/// Runs an ignored test in a process that is killed at the crash point.
pub(crate) fn killed(test: &str, root: &Path, point: &str) {
    use std::os::unix::process::ExitStatusExt;
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", test])
        .env("BERTH_STORE_TEST_ROOT", root)
        .env("BERTH_STORE_TEST_CRASH", point)
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(9), "{point}: {output:?}");
}
