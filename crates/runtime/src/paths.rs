//! Paths inside a root that its owner may be changing under us.
//!
//! Everything goes through `openat2(RESOLVE_IN_ROOT)` to an `O_PATH` descriptor,
//! which is then what gets mounted on: a symbolic link swapped in later changes
//! nothing (CVE-2021-30465), and missing parts are made with mkdirat relative to
//! descriptors, never outside the root (CVE-2024-45310).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};

/// Symbolic links followed while making a path, as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// A rename elsewhere in the system lets openat2 give up with `EAGAIN`.
const MAX_RETRIES: usize = 128;

/// What a mount is to be put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// openat2 with close-on-exec, tried again after `EAGAIN`.
pub(crate) fn openat2(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let mut retries = 0;
    loop {
        match rustix::fs::openat2(
            directory,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        ) {
            Err(Errno::AGAIN) if retries < MAX_RETRIES => retries += 1,
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// An `O_PATH` descriptor of `path` inside `root`, following symbolic links as a
/// process whose root it is would.
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let path = relative(path);
    openat2(
        root,
        path,
        OFlags::PATH,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// A directory of `root` that must be reached without any symbolic link.
pub(crate) fn open_real_directory(
    root: BorrowedFd<'_>,
    path: &Path,
) -> std::result::Result<OwnedFd, Errno> {
    openat2(
        root,
        relative(path),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
}

/// Opens a regular file of `root` for reading; anything else is `EINVAL`, so
/// that no pipe or device of an image blocks us.
pub(crate) fn open_file_in(
    root: BorrowedFd<'_>,
    path: &Path,
) -> std::result::Result<OwnedFd, Errno> {
    let file = openat2(
        root,
        relative(path),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    Ok(file)
}

/// Opens `path` in `root` and makes what is missing of it: directories with mode
/// 0755, and for [`Kind::File`] an empty file at its end.
pub(crate) fn ensure(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd> {
    ensure_noting(root, path, kind, &mut Vec::new())
}

/// The same; what is made is added to `made`: paths from the root, without
/// symbolic links, parents first.
pub(crate) fn ensure_noting(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: Kind,
    made: &mut Vec<PathBuf>,
) -> Result<OwnedFd> {
    match open_in(root, path) {
        Err(Errno::NOENT) => make(root, path, kind, made),
        result => result.step(|| format!("open {} in the container", path.display())),
    }
}

fn make(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: Kind,
    noted: &mut Vec<PathBuf>,
) -> Result<OwnedFd> {
    let fail = |errno| Error::step(format!("create {} in the container", path.display()), errno);
    let mut rest = clean(path);
    let mut links = 0;
    'restart: loop {
        let components: Vec<_> = rest.iter().map(OsStr::to_owned).collect();
        // None: the root.
        let mut reached: Option<OwnedFd> = None;
        for (index, name) in components.iter().enumerate() {
            let last = index + 1 == components.len();
            let directory = reached.as_ref().map_or(root, OwnedFd::as_fd);
            let next = open_component(directory, name);
            let next = match next {
                Err(Errno::NOENT) => {
                    let made = if last && kind == Kind::File {
                        make_file(directory, name)
                    } else {
                        rustix::fs::mkdirat(directory, name.as_os_str(), Mode::from(0o755))
                    };
                    match made {
                        Ok(()) => noted.push(components[..=index].iter().collect()),
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(fail(errno)),
                    }
                    open_component(directory, name)
                }
                other => other,
            };
            let next = next.map_err(fail)?;
            let stat = rustix::fs::fstat(&next).map_err(fail)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                links += 1;
                if links > MAX_LINKS {
                    return Err(fail(Errno::LOOP));
                }
                let target = rustix::fs::readlinkat(&next, c"", Vec::new()).map_err(fail)?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                let mut joined: PathBuf = components[..index].iter().collect();
                // An absolute target starts again at the root of the container.
                joined = Path::new("/").join(joined).join(target);
                joined.extend(&components[index + 1..]);
                rest = clean(&joined);
                continue 'restart;
            }
            reached = Some(next);
        }
        return match reached {
            Some(reached) => Ok(reached),
            None => rustix::io::fcntl_dupfd_cloexec(root, 3).map_err(fail),
        };
    }
}

/// One component, itself: a symbolic link is opened, not followed. Mounts may be
/// crossed, for earlier mounts of the container are part of its paths.
fn open_component(directory: BorrowedFd<'_>, name: &OsStr) -> std::result::Result<OwnedFd, Errno> {
    openat2(
        directory,
        Path::new(name),
        OFlags::PATH | OFlags::NOFOLLOW,
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

fn make_file(directory: BorrowedFd<'_>, name: &OsStr) -> std::result::Result<(), Errno> {
    rustix::fs::openat(
        directory,
        name,
        OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY,
        Mode::from(0o644),
    )
    .map(drop)
}

/// The path without its leading slash; the root itself is ".".
pub(crate) fn relative(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

/// The path without `.`, `..` and doubled slashes, below the root, as `chroot`
/// would see it when nothing in it is a symbolic link.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    cleaned
}

/// The host's /dev/null, checked to be that device.
pub(crate) fn host_null() -> Result<OwnedFd> {
    let null = rustix::fs::openat(
        CWD,
        "/dev/null",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(|| "open /dev/null")?;
    if is_device(
        &rustix::fs::fstat(&null).step(|| "stat /dev/null")?,
        FileType::CharacterDevice,
        1,
        3,
    ) {
        Ok(null)
    } else {
        Err(Error::step(
            "open /dev/null: not the null device",
            Errno::NODEV,
        ))
    }
}

pub(crate) fn is_device(stat: &Stat, kind: FileType, major: u32, minor: u32) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
        && rustix::fs::major(stat.st_rdev) == major
        && rustix::fs::minor(stat.st_rdev) == minor
}

/// Whether the descriptor refers to a directory.
pub(crate) fn is_directory(fd: BorrowedFd<'_>) -> std::result::Result<bool, Errno> {
    let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(
            directory.path(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        (directory, fd)
    }

    #[test]
    fn missing_parts_are_made_inside_the_root() {
        let (directory, fd) = root();
        ensure(fd.as_fd(), Path::new("/a/../b//c/file"), Kind::File).unwrap();
        assert!(directory.path().join("b/c/file").is_file());
        ensure(fd.as_fd(), Path::new("../../../d"), Kind::Directory).unwrap();
        assert!(directory.path().join("d").is_dir());
    }

    /// CVE-2024-45310: absolute and climbing links stay in the root, dangling
    /// ones get their target made there.
    #[test]
    fn links_never_lead_out() {
        let (directory, fd) = root();
        let outside = tempfile::tempdir().unwrap();
        let absolute = outside.path().join("made");
        symlink(&absolute, directory.path().join("link")).unwrap();
        symlink("../../../../../../up", directory.path().join("climb")).unwrap();
        ensure(fd.as_fd(), Path::new("link/x"), Kind::Directory).unwrap();
        ensure(fd.as_fd(), Path::new("climb/x"), Kind::File).unwrap();
        assert!(!absolute.exists(), "made outside the root");
        assert!(
            directory
                .path()
                .join(absolute.strip_prefix("/").unwrap())
                .join("x")
                .is_dir()
        );
        assert!(directory.path().join("up/x").is_file());
    }

    #[test]
    fn link_loops_end() {
        let (directory, fd) = root();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        assert!(ensure(fd.as_fd(), Path::new("a/x"), Kind::Directory).is_err());
    }

    #[test]
    fn only_regular_files_are_read() {
        let (directory, fd) = root();
        std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
        std::fs::create_dir(directory.path().join("dir")).unwrap();
        assert!(open_file_in(fd.as_fd(), Path::new("socket")).is_err());
        assert!(open_file_in(fd.as_fd(), Path::new("dir")).is_err());
        assert_eq!(
            open_file_in(fd.as_fd(), Path::new("none")).unwrap_err(),
            Errno::NOENT
        );
    }

    #[test]
    fn paths_are_cleaned_below_the_root() {
        for (path, clean_path) in [
            ("/a/./b/", "a/b"),
            ("../..", ""),
            ("/a/../../b", "b"),
            ("//x//y", "x/y"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(clean_path));
        }
    }
}
