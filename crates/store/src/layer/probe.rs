//! Which form layers take on a data root: a file if the kernel mounts one that
//! lies there and shows all that is in it, else a directory.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, fgetxattr, openat, unlinkat};

use super::erofs::Erofs;
use super::{Change, Form, FormKind, Options, opaque_mark};
use crate::blob::open_file;
use crate::disk::create_file;
use crate::error::{Error, Result, invalid};
use crate::tar::{Entry, Kind, Time};

/// Overrides the probe.
const VARIABLE: &str = "BERTH_LAYER_FORM";

const CONTENT: &[u8] = b"berth";
const ATTRIBUTE: &str = "security.capability";
/// No capability at all, but a valid value.
const VALUE: &[u8; 20] = b"\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The form that the environment asks for.
///
/// # Errors
/// `Invalid` if it asks for something else.
pub(crate) fn requested() -> Result<Option<FormKind>> {
    match std::env::var_os(VARIABLE) {
        None => Ok(None),
        Some(form) if form.is_empty() => Ok(None),
        Some(form) if form == "directory" => Ok(Some(FormKind::Directory)),
        Some(form) if form == "erofs" => Ok(Some(FormKind::Erofs)),
        Some(form) => invalid(format!(
            "{VARIABLE} is {form:?}: it must be \"directory\" or \"erofs\""
        )),
    }
}

/// The form that works below `tmp`, where a file named `name` may be made.
/// Leaves nothing behind. In a user namespace, layers are directories.
pub(crate) fn find(tmp: &OwnedFd, name: &str, initial_user_namespace: bool) -> FormKind {
    if !initial_user_namespace {
        return FormKind::Directory;
    }
    match try_file(tmp, name) {
        Ok(()) => FormKind::Erofs,
        Err(error) => {
            tracing::info!(%error, "layers are kept as directories: EROFS files do not work here");
            FormKind::Directory
        }
    }
}

fn try_file(tmp: &OwnedFd, name: &str) -> Result<()> {
    let failed = || Error::io("try", "a layer as a file");
    let file = create_file(tmp, name).map_err(failed())?;
    let made = write(file).and_then(|()| open_file(tmp, name).map_err(failed()));
    unlinkat(tmp, name, AtFlags::empty()).map_err(failed())?;
    let mount = berth_sys::erofs::mount(&made?, name.as_bytes())
        .map_err(Error::io("mount", "a layer as a file"))?;
    check(&mount)
}

/// A file with an attribute in a directory that is opaque.
fn write(file: File) -> Result<()> {
    let options = Options {
        form: FormKind::Erofs,
        userxattr: false,
        devices: true,
    };
    let entry = Entry {
        name: Vec::new(),
        kind: Kind::File,
        link: Vec::new(),
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size: CONTENT.len() as u64,
        device: (0, 0),
        xattrs: vec![(ATTRIBUTE.into(), VALUE.to_vec())],
        extents: None,
    };
    let (directory, name) = (b"directory".to_vec(), b"file".to_vec());
    let mut form = Erofs::new(file, options);
    form.apply(
        Change::Opaque(std::slice::from_ref(&directory)),
        &mut std::io::empty(),
    )?;
    form.apply(Change::Put(&[directory, name], &entry), &mut &*CONTENT)?;
    form.finish().map(|_| ())
}

fn check(mount: &OwnedFd) -> Result<()> {
    let failed = || Error::io("read", "a layer mounted as a file");
    let open = |path: &str, flags| {
        let fd = openat(mount, path, flags | OFlags::CLOEXEC, Mode::empty());
        fd.map_err(failed())
    };
    let directory = open("directory", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let file = open("directory/file", OFlags::RDONLY)?;
    let attribute = |fd: &OwnedFd, name: &str| {
        let mut value = [0; 64];
        let length = fgetxattr(fd, name, &mut value).map_err(failed())?;
        Ok::<_, Error>(value[..length].to_vec())
    };
    let mut content = [0; 64];
    let length = rustix::io::read(&file, &mut content).map_err(failed())?;
    let right = attribute(&directory, opaque_mark(false))? == b"y"
        && attribute(&file, ATTRIBUTE)? == VALUE
        && &content[..length] == CONTENT;
    if right {
        Ok(())
    } else {
        invalid("the kernel shows something else than what was written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_nothing_behind() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let tmp = OwnedFd::from(File::open(dir.path()).unwrap());
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = mounts();
        try_file(&tmp, "probe").expect("this kernel mounts EROFS files (these tests need root)");
        assert_eq!(find(&tmp, "probe", true), FormKind::Erofs);
        assert_eq!(find(&tmp, "probe", false), FormKind::Directory);
        assert_eq!(mounts(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_shown_is_noticed() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let tmp = OwnedFd::from(File::open(dir.path()).unwrap());
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        std::fs::write(dir.path().join("directory/file"), CONTENT).unwrap();
        let error = check(&tmp).unwrap_err().to_string();
        assert!(
            error.starts_with("read a layer mounted as a file"),
            "{error}"
        );
    }
}
