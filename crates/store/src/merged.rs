//! A file as a container sees it, without mounting anything: the stack of its
//! layers is walked as overlayfs does, whatever form each has.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fgetxattr, open, openat2, readlinkat, statat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::layer::{Image, ImageNode};
use crate::{LayerLocation, Snapshot};

/// As many symbolic links as the kernel follows in one look-up.
const MAX_LINKS: usize = 40;

impl Snapshot {
    /// The first `max` bytes of a regular file as the container sees it: in
    /// the writable part, else in the topmost layer that has it. Links lead
    /// where they lead in the container, never out of it. None if there is no
    /// such file, or it cannot be read.
    pub fn read_file(&self, path: &str, max: u64) -> Option<Vec<u8>> {
        match Stack::open(self).and_then(|stack| stack.read(path.as_bytes(), max)) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(path, %error, "file of a snapshot cannot be read");
                None
            }
        }
    }
}

/// All levels, topmost first.
struct Stack {
    levels: Vec<Level>,
    /// The attribute of a directory that hides what is below it.
    opaque_mark: &'static str,
}

enum Level {
    Directory(OwnedFd),
    Erofs(Box<Image>),
}

/// A directory in one level.
enum Directory {
    Open(OwnedFd),
    Erofs(ImageNode),
}

/// A directory in all levels that show in it, topmost first.
type Merged = Vec<(usize, Directory)>;

/// What a name is in one level, or in all.
enum Found<D> {
    Directory(D),
    Link(Vec<u8>),
    Open(File),
    Erofs(usize, ImageNode),
    /// A whiteout, or a node without content.
    Other,
}

impl Stack {
    fn open(snapshot: &Snapshot) -> Result<Self> {
        let mut levels = vec![Level::Directory(open_root(&snapshot.upper)?)];
        for layer in &snapshot.layers {
            levels.push(match layer {
                LayerLocation::Directory(path) => Level::Directory(open_root(path)?),
                LayerLocation::Erofs(path) => {
                    let file = File::open(path).map_err(Error::io("open", path.display()))?;
                    Level::Erofs(Box::new(Image::open(file)?))
                }
            });
        }
        let userxattr = snapshot.options.iter().any(|option| option == "userxattr");
        let opaque_mark = crate::layer::opaque_mark(userxattr);
        Ok(Self {
            levels,
            opaque_mark,
        })
    }

    fn read(&self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>> {
        let mut stack = vec![self.root()?];
        let mut links = 0;
        // Components still to walk, the next one last.
        let mut rest: Vec<Vec<u8>> = Vec::new();
        let split = |path: &[u8]| {
            let parts = path.rsplit(|&b| b == b'/').map(<[u8]>::to_vec);
            parts.collect::<Vec<_>>()
        };
        rest.extend(split(path));
        while let (Some(name), Some(here)) = (rest.pop(), stack.last()) {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    stack.truncate((stack.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            match self.find(here, &name)? {
                Some(Found::Directory(directory)) => stack.push(directory),
                Some(Found::Link(target)) if links < MAX_LINKS => {
                    links += 1;
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    rest.extend(split(&target));
                }
                Some(Found::Open(file)) if rest.is_empty() => {
                    let mut data = Vec::new();
                    file.take(max)
                        .read_to_end(&mut data)
                        .map_err(Error::io("read", String::from_utf8_lossy(path)))?;
                    return Ok(Some(data));
                }
                Some(Found::Erofs(level, node)) if rest.is_empty() => {
                    return match &self.levels[level] {
                        Level::Erofs(image) => image.read(&node, max).map(Some),
                        Level::Directory(_) => Ok(None),
                    };
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn root(&self) -> Result<Merged> {
        let roots = self.levels.iter().map(|level| match level {
            Level::Directory(root) => root
                .try_clone()
                .map(Directory::Open)
                .map_err(Error::io("open", "a layer")),
            Level::Erofs(image) => image.root().map(Directory::Erofs),
        });
        roots.collect::<Result<Vec<_>>>().map(|roots| {
            let levels = roots.into_iter().enumerate();
            levels.collect()
        })
    }

    /// The topmost level that has the name decides what it is; directories of
    /// the levels below show in it until one is opaque or no directory.
    fn find(&self, directory: &Merged, name: &[u8]) -> Result<Option<Found<Merged>>> {
        let mut merged = Merged::new();
        for (level, here) in directory {
            let found = match (&self.levels[*level], here) {
                (Level::Erofs(image), Directory::Erofs(node)) => {
                    self.find_erofs(*level, image, node, name)?
                }
                (_, Directory::Open(fd)) => self.find_open(fd, name)?,
                (Level::Directory(_), Directory::Erofs(_)) => None,
            };
            match found {
                None => {}
                Some(Found::Directory((found, opaque))) => {
                    merged.push((*level, found));
                    if opaque {
                        break;
                    }
                }
                Some(_) if !merged.is_empty() => break,
                Some(Found::Link(target)) => return Ok(Some(Found::Link(target))),
                Some(Found::Open(file)) => return Ok(Some(Found::Open(file))),
                Some(Found::Erofs(level, node)) => return Ok(Some(Found::Erofs(level, node))),
                Some(Found::Other) => return Ok(Some(Found::Other)),
            }
        }
        Ok((!merged.is_empty()).then_some(Found::Directory(merged)))
    }

    fn find_erofs(
        &self,
        level: usize,
        image: &Image,
        directory: &ImageNode,
        name: &[u8],
    ) -> Result<Option<Found<(Directory, bool)>>> {
        let Some(node) = image.child(directory, name)? else {
            return Ok(None);
        };
        Ok(Some(match node.kind() {
            FileType::Directory => {
                let mut xattrs = image.xattrs(&node)?.into_iter();
                let opaque = xattrs
                    .any(|(name, value)| name == self.opaque_mark.as_bytes() && value == b"y");
                Found::Directory((Directory::Erofs(node), opaque))
            }
            FileType::Symlink => Found::Link(image.link(&node)?),
            FileType::RegularFile => Found::Erofs(level, node),
            _ => Found::Other,
        }))
    }

    /// A container may write here meanwhile: what is opened is never followed
    /// through a link, and is looked at again once open.
    fn find_open(
        &self,
        directory: &OwnedFd,
        name: &[u8],
    ) -> Result<Option<Found<(Directory, bool)>>> {
        let failed = || Error::io("open", String::from_utf8_lossy(name));
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(failed())?,
        };
        let open = |flags| {
            let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            openat2(directory, name, flags, Mode::empty(), resolve).map_err(failed())
        };
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let fd = open(OFlags::DIRECTORY)?;
                let mut value = [0; 2];
                let opaque = fgetxattr(&fd, self.opaque_mark, &mut value)
                    .is_ok_and(|length| value.get(..length) == Some(b"y"));
                Found::Directory((Directory::Open(fd), opaque))
            }
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).map_err(failed())?;
                Found::Link(target.into_bytes())
            }
            FileType::RegularFile => {
                let file = File::from(open(OFlags::NONBLOCK)?);
                match file.metadata().is_ok_and(|meta| meta.is_file()) {
                    true => Found::Open(file),
                    false => Found::Other,
                }
            }
            _ => Found::Other,
        }))
    }
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(Error::io("open", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::layer::FormKind;
    use crate::testing::{Tar, docker_archive, load};

    /// Three layers, the middle one in the other form.
    #[test]
    fn a_stack_of_both_forms_is_seen_as_by_a_container() {
        let low = Tar::default()
            .dir("etc", 0o755)
            .file("etc/passwd", b"low")
            .file("etc/gone", b"low")
            .file("etc/group", b"low group")
            .symlink("link", "/usr/real")
            .dir("hidden", 0o755)
            .file("hidden/file", b"low")
            .file("was/a/dir", b"low")
            .device(b'6', "fifo", (0, 0))
            .symlink("loop", "loop")
            .finish();
        let middle = Tar::default()
            .file("etc/.wh.gone", b"")
            .file("hidden/.wh..wh..opq", b"")
            .file("hidden/new", b"middle")
            .dir("usr/real", 0o755)
            .file("usr/real/file", b"through links")
            .file("was/a", b"a file now")
            .finish();
        let high = Tar::default()
            .file("etc/passwd", b"high")
            .symlink("out", "../../../../../../etc/../link")
            .finish();
        let dir = tempfile::tempdir().unwrap();
        for (lower, upper) in [
            (FormKind::Directory, FormKind::Erofs),
            (FormKind::Erofs, FormKind::Directory),
        ] {
            let root = dir.path().join(lower.content());
            let layers = [low.clone(), middle.clone(), high.clone()];
            for (form, layers) in [
                (lower, &layers[..1]),
                (upper, &layers[..2]),
                (lower, &layers),
            ] {
                let store = Store::open_with(&root, Some(form)).unwrap();
                load(&store, &docker_archive(&["stack"], layers)).unwrap();
            }
            let store = Store::open_with(&root, Some(lower)).unwrap();
            let image = load(&store, &docker_archive(&["stack"], &layers)).unwrap();
            let snapshot = store.create_snapshot("c", &image[0], (0, 0)).unwrap();
            let forms: Vec<_> = (snapshot.layers.iter())
                .map(|layer| match layer {
                    LayerLocation::Directory(_) => FormKind::Directory,
                    LayerLocation::Erofs(_) => FormKind::Erofs,
                })
                .collect();
            assert_eq!(forms, [lower, upper, lower]);
            let read = |path: &str| {
                let bytes = snapshot.read_file(path, 100)?;
                Some(String::from_utf8(bytes).unwrap())
            };
            for (path, text) in [
                ("etc/passwd", Some("high")),
                ("/etc//./passwd", Some("high")),
                ("etc/group", Some("low group")),
                ("etc/gone", None),
                ("hidden/file", None),
                ("hidden/new", Some("middle")),
                ("link/file", Some("through links")),
                ("out/file", Some("through links")),
                ("../../etc/passwd", Some("high")),
                ("was/a/dir", None),
                ("was/a", Some("a file now")),
                ("etc", None),
                ("etc/passwd/", None),
                ("missing", None),
                ("fifo", None),
                ("loop", None),
            ] {
                assert_eq!(read(path).as_deref(), text, "{path}");
            }
            assert_eq!(snapshot.read_file("etc/group", 3).unwrap(), b"low");
            // What the container wrote is above all.
            let secret = dir.path().join("secret");
            std::fs::write(&secret, "outside").unwrap();
            std::fs::create_dir(snapshot.upper.join("etc")).unwrap();
            std::fs::write(snapshot.upper.join("etc/group"), "own").unwrap();
            std::os::unix::fs::symlink(&secret, snapshot.upper.join("etc/passwd")).unwrap();
            assert_eq!(read("etc/group").as_deref(), Some("own"));
            assert_eq!(read("etc/passwd"), None);
            assert_eq!(read("link/file").as_deref(), Some("through links"));
        }
    }
}
