//! The EROFS layers in use: each mounted once in the launcher's namespace, at
//! `<exec-root>/layers/<device>-<inode>`, and kept, because a second mount would
//! have a page cache of its own.
//!
//! Device and inode name the file for as long as it is mounted, whatever becomes
//! of its path. An overlay holds its layers by itself: a layer may go from here
//! while containers still use it.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use crate::protocol::Layer;

/// Overlay gives files of several file systems one device number (so that
/// `du -x` and `find -xdev` see one) only with this.
const ONE_DEVICE: &str = "xino=on";

#[derive(Debug)]
pub(super) struct Layers {
    dir: PathBuf,
    mounted: HashMap<Key, PathBuf>,
}

/// A file, by device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u64, u64);

impl Key {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }

    fn name(self) -> String {
        format!("{:x}-{:x}", self.0, self.1)
    }

    fn from_name(name: &str) -> Option<Self> {
        let (device, inode) = name.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self(number(device)?, number(inode)?))
    }
}

impl Layers {
    /// Finds what a launcher before has mounted in this namespace, and removes
    /// the empty places of others.
    pub(super) fn open(exec_root: &Path) -> io::Result<Self> {
        let dir = exec_root.join("layers");
        super::make_private_dir(&dir)?;
        let mut mounted = HashMap::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let key = entry.file_name().to_str().and_then(Key::from_name);
            match key {
                Some(key) if is_mounted(&entry.path()) => {
                    // Whose path is not known until somebody asks for it.
                    mounted.insert(key, PathBuf::new());
                }
                _ => {
                    let _ = std::fs::remove_dir(entry.path());
                }
            }
        }
        Ok(Self { dir, mounted })
    }

    /// Turns every layer into a directory, mounting what is not mounted yet,
    /// and adds the options that an overlay of them needs.
    pub(super) fn provide(
        &mut self,
        layers: &mut [Layer],
        options: &mut Vec<String>,
    ) -> io::Result<()> {
        let mut packed = false;
        for layer in layers {
            if let Layer::Erofs { path } = layer {
                let place = self.mount(path).map_err(|error| {
                    crate::context(error, || format!("mount the layer {}", path.display()))
                })?;
                *layer = Layer::Directory { path: place };
                packed = true;
            }
        }
        if packed {
            options.push(ONE_DEVICE.to_owned());
        }
        Ok(())
    }

    fn mount(&mut self, path: &Path) -> io::Result<PathBuf> {
        let key = Key::of(&std::fs::metadata(path)?);
        let place = self.dir.join(key.name());
        if let Some(known) = self.mounted.get_mut(&key) {
            if known != path {
                path.clone_into(known);
            }
            return Ok(place);
        }
        let file = File::open(path)?;
        // What is opened counts, should it have been replaced meanwhile.
        let key = Key::of(&file.metadata()?);
        let place = self.dir.join(key.name());
        match DirBuilder::new().mode(0o700).create(&place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mount = berth_sys::erofs::mount(&file, path.as_os_str().as_bytes())?;
        move_mount(
            &mount,
            "",
            CWD,
            &place,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )?;
        self.mounted.insert(key, path.to_owned());
        Ok(place)
    }

    /// Unmounts the layers whose files are no longer where they were, so that
    /// their space comes back (once no container uses them any more).
    pub(super) fn forget_removed(&mut self) {
        let dir = &self.dir;
        self.mounted.retain(|key, path| {
            let there = std::fs::metadata(path).is_ok_and(|metadata| Key::of(&metadata) == *key);
            if !there {
                let place = dir.join(key.name());
                if let Err(error) = unmount(&place, UnmountFlags::DETACH) {
                    super::warn(&format!("unmount the layer {}: {error}", place.display()));
                }
                let _ = std::fs::remove_dir(place);
            }
            there
        });
    }
}

fn is_mounted(place: &Path) -> bool {
    statx(CWD, place, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use rustix::mount::{MountPropagationFlags, mount_change};

    use super::*;
    use crate::overlay;
    use crate::protocol::RootFs;

    /// Runs `test` with a directory on disk, in a mount namespace of its own.
    fn in_namespace(test: impl FnOnce(&Path) + Send + 'static) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to mount");
            return;
        }
        // Outlives the namespace, whose mounts would keep it from being removed.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().to_owned();
        let run = move || {
            berth_sys::fork::unshare_mount_namespace().unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            test(&path);
        };
        std::thread::spawn(run).join().unwrap();
    }

    /// An image of what `fill` puts into a directory.
    fn image(path: &Path, fill: impl FnOnce(&Path)) -> Layer {
        let tree = tempfile::tempdir().unwrap();
        fill(tree.path());
        // Aside first, as the store does: a mounted file is never written to.
        let new = path.with_extension("new");
        let output = Command::new("mkfs.erofs")
            .args(["-T0", "-U00000000-0000-0000-0000-000000000000"])
            .arg(&new)
            .arg(tree.path())
            .output()
            .expect("erofs-utils is installed: run scripts/setup.sh");
        assert!(output.status.success(), "{output:?}");
        fs::rename(new, path).unwrap();
        Layer::Erofs { path: path.into() }
    }

    fn file(name: &'static str, text: &'static str) -> impl FnOnce(&Path) {
        move |dir: &Path| fs::write(dir.join(name), text).unwrap()
    }

    /// The mounts below `dir`.
    fn mounts(dir: &Path) -> usize {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let dir = format!(" {}/", dir.display());
        table.lines().filter(|line| line.contains(&dir)).count()
    }

    fn provide(layers: &mut Layers, layer: &Layer) -> PathBuf {
        let mut list = [layer.clone()];
        layers.provide(&mut list, &mut Vec::new()).unwrap();
        match &list[0] {
            Layer::Directory { path } => path.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mounted_once_until_removed_and_found_by_the_next_launcher() {
        in_namespace(|dir| {
            let path = dir.join("layer");
            let layer = image(&path, file("name", "first"));
            let mut layers = Layers::open(dir).unwrap();
            let place = provide(&mut layers, &layer);
            assert_eq!(fs::read_to_string(place.join("name")).unwrap(), "first");
            assert_eq!(provide(&mut layers, &layer), place);
            layers.forget_removed();
            assert_eq!(mounts(dir), 1);

            // Another one in its place is not mistaken for it.
            let layer = image(&path, file("name", "second"));
            let other = provide(&mut layers, &layer);
            assert_eq!(fs::read_to_string(other.join("name")).unwrap(), "second");
            assert_eq!(mounts(dir), 2);
            layers.forget_removed();
            assert_eq!(mounts(dir), 1);
            assert!(!place.exists());

            // A launcher that takes over enters the namespace.
            fs::create_dir(dir.join("layers/0-0")).unwrap();
            let mut layers = Layers::open(dir).unwrap();
            assert!(!dir.join("layers/0-0").exists());
            assert_eq!(provide(&mut layers, &layer), other);
            assert_eq!(mounts(dir), 1);
            fs::remove_file(&path).unwrap();
            layers.forget_removed();
            assert_eq!(mounts(dir), 0);
            assert_eq!(fs::read_dir(dir.join("layers")).unwrap().count(), 0);
            assert!(layers.provide(&mut [layer], &mut Vec::new()).is_err());
        });
    }

    #[test]
    fn an_overlay_of_images_is_one_device_and_hides_what_is_above() {
        in_namespace(|dir| {
            let low = image(&dir.join("low"), |tree| {
                fs::write(tree.join("low"), "low").unwrap();
                fs::write(tree.join("both"), "low").unwrap();
                fs::write(tree.join("gone"), "low").unwrap();
                fs::create_dir(tree.join("dir")).unwrap();
            });
            let high = image(&dir.join("high"), |tree| {
                fs::write(tree.join("both"), "high").unwrap();
                let mode = rustix::fs::Mode::empty();
                let kind = rustix::fs::FileType::CharacterDevice;
                rustix::fs::mknodat(CWD, tree.join("gone"), kind, mode, 0).unwrap();
            });
            let path = |name: &str| dir.join(name);
            for name in ["upper", "work", "empty"] {
                fs::create_dir(path(name)).unwrap();
            }
            let mut layers = Layers::open(dir).unwrap();
            let mut root = RootFs {
                layers: vec![high, low],
                upper: path("upper"),
                work: path("work"),
                options: Vec::new(),
            };
            layers.provide(&mut root.layers, &mut root.options).unwrap();
            let at =
                |mount: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
            let mount = overlay::mount_detached(&root, &path("empty")).unwrap();
            let here = at(&mount);
            fs::write(here.join("new"), "new").unwrap();
            fs::write(here.join("low"), "changed").unwrap();
            let device = fs::metadata(here.join(".")).unwrap().dev();
            for name in ["low", "both", "dir", "new"] {
                assert_eq!(
                    fs::metadata(here.join(name)).unwrap().dev(),
                    device,
                    "{name}"
                );
            }
            assert_eq!(fs::read_to_string(here.join("both")).unwrap(), "high");
            assert!(!here.join("gone").exists());

            // The same, read-only, while it is in use.
            root.layers.insert(
                0,
                Layer::Directory {
                    path: path("upper"),
                },
            );
            let merged = overlay::merge(&root.layers, &root.options, &path("empty")).unwrap();
            let there = at(&merged);
            for (name, text) in [("low", "changed"), ("both", "high"), ("new", "new")] {
                assert_eq!(fs::read_to_string(there.join(name)).unwrap(), text);
            }
            assert!(!there.join("gone").exists());
            assert!(fs::write(there.join("x"), "x").is_err());

            // One layer alone; and what an overlay holds stays when it is let go.
            let one = overlay::merge(&root.layers[2..], &root.options, &path("empty")).unwrap();
            for name in ["low", "high"] {
                fs::remove_file(path(name)).unwrap();
            }
            layers.forget_removed();
            assert_eq!(mounts(dir), 0);
            assert_eq!(fs::read_to_string(at(&one).join("gone")).unwrap(), "low");
            assert_eq!(fs::read_to_string(here.join("both")).unwrap(), "high");
        });
    }

    #[test]
    fn a_loop_device_does_where_files_cannot_be_mounted() {
        in_namespace(|dir| {
            let path = dir.join("layer");
            image(&path, file("name", "text"));
            let file = File::open(&path).unwrap();
            let mount = berth_sys::erofs::through_loop_device(&file, b"test").unwrap();
            let flags = rustix::fs::OFlags::RDONLY;
            let name = rustix::fs::openat(&mount, "name", flags, rustix::fs::Mode::empty());
            let mut text = [0; 4];
            File::from(name.unwrap())
                .read_exact_at(&mut text, 0)
                .unwrap();
            assert_eq!(&text, b"text");
        });
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        in_namespace(|dir| {
            let path = dir.join("layer");
            fs::write(&path, [0; 8192]).unwrap();
            let mut layers = Layers::open(dir).unwrap();
            let mut list = [Layer::Erofs { path }];
            let error = layers.provide(&mut list, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("/layer: "), "{error}");
            assert_eq!(mounts(dir), 0);
        });
    }

    #[test]
    fn pages_are_not_held_twice() {
        const EXT4: u64 = 0xEF53;
        in_namespace(|dir| {
            let kind = rustix::fs::statfs(dir).unwrap().f_type;
            if u64::try_from(kind) != Ok(EXT4) {
                eprintln!("skipped: /var/tmp is not on ext4, where direct I/O is certain");
                return;
            }
            let path = dir.join("layer");
            let layer = image(&path, |tree| {
                fs::write(tree.join("big"), vec![7; 8 << 20]).unwrap()
            });
            let mut layers = Layers::open(dir).unwrap();
            let place = provide(&mut layers, &layer);
            let cached = || {
                let output = Command::new("fincore")
                    .args(["--bytes", "--noheadings", "--output", "RES"])
                    .arg(&path)
                    .output()
                    .expect("util-linux is installed");
                let text = String::from_utf8(output.stdout).unwrap();
                text.trim().parse::<u64>().unwrap()
            };
            // Making it has left pages, which can go once they are on disk.
            let file = File::open(&path).unwrap();
            file.sync_all().unwrap();
            let advice = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&file, 0, None, advice).unwrap();
            let before = cached();
            assert_eq!(fs::read(place.join("big")).unwrap(), vec![7; 8 << 20]);
            let after = cached();
            assert!(
                after <= before + (1 << 20),
                "{before} to {after} bytes cached"
            );
        });
    }
}
