//! What a step changed, as a layer.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use berth_api::Error;
use berth_build::tree::Layer;
use berth_store::{DiffOptions, Digest};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fgetxattr, fremovexattr, fstat, openat2, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::super::session::Session;
use crate::error::{IntoApi as _, io as failed};
use crate::tree;

/// Changes are held in memory up to this, so that small ones cost no thread.
const HELD: usize = 1 << 20;

/// How overlayfs says that a directory hides those below it.
const OPAQUE_MARKS: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// A layer of the changes in a snapshot; none if there are none. Blocks.
pub(super) fn make(
    session: &Session,
    key: &str,
    time: i64,
    keep_times: bool,
) -> Result<Option<Layer>, Error> {
    let Some(digest) = write(session, key, Some(time))? else {
        return Ok(None);
    };
    let stored = match keep_times {
        true => write(session, key, None)?.unwrap_or_else(|| digest.clone()),
        false => digest.clone(),
    };
    Ok(Some(Layer {
        digest,
        stored,
        blob: None,
    }))
}

fn write(session: &Session, key: &str, time: Option<i64>) -> Result<Option<Digest>, Error> {
    let options = DiffOptions { without: &[], time };
    make_layer(session, &mut |out| {
        session.engine.0.store.diff_with(key, &options, out).api()
    })
}

/// Stores what `produce` writes as a layer, unless it says that there is
/// nothing. Blocks.
pub(in crate::build) fn make_layer(
    session: &Session,
    produce: &mut dyn FnMut(&mut dyn Write) -> Result<bool, Error>,
) -> Result<Option<Digest>, Error> {
    std::thread::scope(|scope| {
        let mut consumer = None;
        let mut spill = Spill {
            held: Vec::new(),
            pipe: None,
            start: &mut || {
                let (input, output) = io::pipe()?;
                // Larger than the kernel's default, to be woken less often.
                let _ = rustix::pipe::fcntl_setpipe_size(&output, HELD);
                let work = move || {
                    let mut input = input;
                    session.incoming.layer(&mut input).api()
                };
                let thread = std::thread::Builder::new().name("build-layer".into());
                consumer = Some(thread.spawn_scoped(scope, work)?);
                Ok(output)
            },
        };
        let produced = produce(&mut spill);
        let Spill { held, pipe, .. } = spill;
        // The end of the stream.
        drop(pipe);
        let Some(consumer) = consumer else {
            return match produced? {
                true => session.incoming.layer(&mut held.as_slice()).api().map(Some),
                false => Ok(None),
            };
        };
        let stored = consumer
            .join()
            .unwrap_or_else(|_| Err(Error::system("the thread that writes a layer ended early")));
        match (produced, stored) {
            (Ok(true), stored) => stored.map(Some),
            (Ok(false), Ok(_)) => Ok(None),
            // A reader that gave up is why the writer could not go on.
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
        }
    })
}

/// Holds the beginning of a stream; starts a reader when there is more.
struct Spill<'a> {
    held: Vec<u8>,
    pipe: Option<io::PipeWriter>,
    start: &'a mut dyn FnMut() -> io::Result<io::PipeWriter>,
}

impl Write for Spill<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(pipe) = &mut self.pipe {
            return pipe.write(bytes);
        }
        if self.held.len() + bytes.len() <= HELD {
            self.held.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let mut pipe = (self.start)()?;
        pipe.write_all(&std::mem::take(&mut self.held))?;
        self.pipe.insert(pipe).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes away what was made in the root to mount on, unless the step put
/// something there. Blocks.
pub(super) fn remove_made(upper: &Path, made: &[String]) -> Result<(), Error> {
    if made.is_empty() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())
        .map_err(|error| failed("open", upper, &error.into()))?;
    // What is within goes before what it is in.
    for path in made.iter().rev() {
        let path = Path::new(path);
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            continue;
        };
        let Ok(parent) = open_beneath(&root, parent) else {
            continue;
        };
        let Ok(stat) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let removed = match FileType::from_raw_mode(stat.st_mode) {
            // Fails if there is something in it.
            FileType::Directory => unlinkat(&parent, name, AtFlags::REMOVEDIR),
            FileType::RegularFile if stat.st_size == 0 => unlinkat(&parent, name, AtFlags::empty()),
            _ => Ok(()),
        };
        if let Err(error) = removed
            && error != Errno::NOTEMPTY
        {
            return Err(failed("remove", &upper.join(path), &error.into()));
        }
    }
    Ok(())
}

/// Takes away what overlayfs leaves in an upper directory and is no change,
/// so that it says the same whatever the kernel and the form of the layers
/// below. `base` is asked for only when there may be some. Blocks.
///
/// * Directories that are as they are in the base: one is copied up for
///   whatever happens in it, be it undone again. BuildKit leaves them out, too.
/// * Marks of opaque directories that hide nothing: some mounts (`xino=on`)
///   have every new directory marked, to save lookups.
pub(super) fn remove_unchanged(
    upper: &Path,
    base: impl FnOnce() -> Result<OwnedFd, Error>,
) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())
        .map_err(|error| failed("open", upper, &error.into()))?;
    // Each before what is in it, with how much that is.
    let mut directories: Vec<(Vec<u8>, usize)> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut marked: Vec<Vec<u8>> = Vec::new();
    tree::walk(root.as_fd(), &mut |node| {
        if let Some(&parent) = parent_of(node.path).and_then(|parent| places.get(parent)) {
            directories[parent].1 += 1;
        }
        if node.kind() == FileType::Directory {
            places.insert(node.path.to_vec(), directories.len());
            directories.push((node.path.to_vec(), 0));
            if is_opaque(&open_beneath(
                &root,
                Path::new(OsStr::from_bytes(node.path)),
            )) {
                marked.push(node.path.to_vec());
            }
        }
        Ok(())
    })?;
    if marked.is_empty() && directories.iter().all(|(_, within)| *within > 0) {
        return Ok(());
    }
    let base = base()?;
    let opaque = remove_marks(upper, &root, &base, marked)?;
    for at in (0..directories.len()).rev() {
        let (path, within) = &directories[at];
        // In an opaque directory the base's do not show: they were made again.
        if *within > 0 || is_within(path, &opaque) || !is_same_directory(&root, &base, path) {
            continue;
        }
        unlinkat(&root, path.as_slice(), AtFlags::REMOVEDIR)
            .map_err(|error| failed("tidy", upper, &error.into()))?;
        if let Some(&parent) = parent_of(path).and_then(|parent| places.get(parent)) {
            directories[parent].1 -= 1;
        }
    }
    Ok(())
}

/// Of opaque directories, each before those in it, takes the mark away if it
/// hides no directory of the base, or one in it that is hidden anyway. Returns
/// those that stay opaque.
fn remove_marks(
    upper: &Path,
    root: &OwnedFd,
    base: &OwnedFd,
    marked: Vec<Vec<u8>>,
) -> Result<HashSet<Vec<u8>>, Error> {
    let mut needed: HashSet<Vec<u8>> = HashSet::new();
    for path in marked {
        let at = Path::new(OsStr::from_bytes(&path));
        let has_none = matches!(
            open_beneath(base, at),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
        );
        if !has_none && !is_within(&path, &needed) {
            needed.insert(path);
            continue;
        }
        let remove = || {
            let directory = open_beneath(root, at)?;
            for mark in OPAQUE_MARKS {
                match fremovexattr(&directory, mark) {
                    Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        remove().map_err(|error| failed("tidy", upper, &error.into()))?;
    }
    Ok(needed)
}

/// Whether one of the directories above a path is among these.
fn is_within(path: &[u8], directories: &HashSet<Vec<u8>>) -> bool {
    !directories.is_empty()
        && std::iter::successors(parent_of(path), |path| parent_of(path))
            .any(|above| directories.contains(above))
}

fn is_opaque(directory: &rustix::io::Result<OwnedFd>) -> bool {
    let Ok(directory) = directory else {
        return false;
    };
    let mut mark = [0; 1];
    OPAQUE_MARKS
        .iter()
        .any(|name| fgetxattr(directory, *name, &mut mark).is_ok() && mark == *b"y")
}

fn parent_of(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    path.get(..slash)
}

/// Mode, owner and attributes; times are no change, and what hides the base's
/// directory is one.
fn is_same_directory(upper: &OwnedFd, base: &OwnedFd, path: &[u8]) -> bool {
    let open = |root: &OwnedFd| open_beneath(root, Path::new(OsStr::from_bytes(path)));
    let (Ok(new), Ok(old)) = (open(upper), open(base)) else {
        return false;
    };
    let mut mark = [0u8; 4];
    let hides = (OPAQUE_MARKS.iter()).any(|name| fgetxattr(&new, *name, &mut mark).is_ok());
    let (Ok(a), Ok(b)) = (fstat(&new), fstat(&old)) else {
        return false;
    };
    let xattrs = |fd: &OwnedFd| {
        let path = format!("/proc/self/fd/{}/.", fd.as_raw_fd());
        let mut list = tree::xattrs(path.as_bytes()).ok()?;
        list.sort();
        Some(list)
    };
    !hides
        && (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
        && xattrs(&new) == xattrs(&old)
}

fn open_beneath(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(root, path, flags, Mode::empty(), resolve)
}
