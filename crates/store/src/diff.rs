//! What a container changed, as a layer: its upper directory becomes a
//! canonical tar stream ([`crate::canonical`]) with AUFS whiteouts.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::changes::{Changes, Times};
use crate::disk::open_directory;
use crate::error::{Error, Result};
use crate::layer::opaque_mark;
use crate::tar::{Entry, TarWriter};
use crate::{Store, snapshot};

/// How [`Store::diff_with`] writes changes.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions<'a> {
    /// Paths that are left out, with what is below them.
    pub without: &'a [&'a str],
    /// One time for all files, seconds since 1970; none = their own.
    pub time: Option<i64>,
}

impl Store {
    /// Writes the changes in a snapshot as a plain layer; see
    /// [`Store::diff_with`].
    ///
    /// # Errors
    /// `NotFound` if there is no such snapshot.
    pub fn diff(&self, key: &str, without: &[&str], out: &mut dyn Write) -> Result<bool> {
        let time = None;
        self.diff_with(key, &DiffOptions { without, time }, out)
    }

    /// Writes the changes in a snapshot as a plain layer, a canonical stream;
    /// whether there were any. What cannot be in a layer is left out: sockets,
    /// and names that would mean a whiteout (`.wh.*`).
    ///
    /// # Errors
    /// `NotFound` if there is no such snapshot.
    pub fn diff_with(
        &self,
        key: &str,
        options: &DiffOptions<'_>,
        out: &mut dyn Write,
    ) -> Result<bool> {
        snapshot::check_key(key)?;
        let path = format!("{key}/upper");
        let upper = open_directory(self.inner.dirs.snapshots.as_fd(), path.as_bytes()).map_err(
            |error| match error {
                Errno::NOENT => Error::NotFound(format!("No such snapshot: {key}")),
                other => Error::io("open snapshot", key)(other),
            },
        )?;
        let mut tar = TarWriter::new(out);
        let mut emit = |entry: &Entry, data: &mut dyn Read| tar.append(entry, data);
        let mark = opaque_mark(self.inner.options.userxattr);
        let mut changes = Changes::new(upper, mark, &mut emit);
        changes.without = options.without;
        changes.times = options.time.map_or(Times::Seconds, Times::One);
        // The root is no change: it was made like the one it is on.
        changes.write_root(false)?;
        let before = changes.written;
        changes.write()?;
        let any = changes.written > before;
        tar.finish()?;
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

    use super::*;
    use crate::tar::{Kind, Reader};
    use crate::testing::{Tar, docker_archive, load};

    #[test]
    fn an_upper_directory_becomes_a_layer() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let layer = Tar::default().file("f", b"base").finish();
        let image = load(&store, &docker_archive(&["a:1"], &[layer]))
            .unwrap()
            .remove(0);
        let upper = store.create_snapshot("c", &image, (0, 0)).unwrap().upper;
        let mut nothing = Vec::new();
        assert!(!store.diff("c", &[], &mut nothing).unwrap());
        assert_eq!(nothing, vec![0; 1024]);
        assert!(store.diff("none", &[], &mut Vec::new()).is_err());

        let at = |name: &str| upper.join(name);
        std::fs::create_dir(at("made")).unwrap();
        std::fs::write(at("made/z"), "zz").unwrap();
        std::fs::hard_link(at("made/z"), at("made/again")).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let device = |name: &str, kind, number| {
            let mode = Mode::from_raw_mode(0o600);
            mknodat(CWD, at(name), kind, mode, number).unwrap();
        };
        device("gone", FileType::CharacterDevice, makedev(0, 0));
        device("null", FileType::CharacterDevice, makedev(1, 3));
        device("pipe", FileType::Fifo, makedev(0, 0));
        let set = |name: &str, key: &str, value: &[u8]| {
            setxattr(at(name), key, value, XattrFlags::empty()).unwrap();
        };
        set("made", "trusted.overlay.opaque", b"y");
        set("made/z", "user.mine", b"1");
        set("made/z", "trusted.overlay.origin", b"x");
        std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(std::fs::metadata(at("pipe")).unwrap().file_type().is_fifo());

        let mut archive = Vec::new();
        assert!(store.diff("c", &[], &mut archive).unwrap());
        let mut again = Vec::new();
        store.diff("c", &[], &mut again).unwrap();
        assert!(archive == again);
        let mut reader = Reader::new(archive.as_slice());
        let mut seen = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            let name = String::from_utf8(entry.name.clone()).unwrap();
            if name == "made/again" {
                assert_eq!(entry.xattrs, [(b"user.mine".to_vec(), b"1".to_vec())]);
            }
            seen.push((name, entry.kind, entry.size));
        }
        let want = [
            ("./", Kind::Directory, 0),
            (".wh.gone", Kind::File, 0),
            ("link", Kind::Symlink, 0),
            ("made/", Kind::Directory, 0),
            ("made/.wh..wh..opq", Kind::File, 0),
            ("made/again", Kind::File, 2),
            ("made/z", Kind::HardLink, 0),
            ("null", Kind::CharDevice, 0),
            ("pipe", Kind::Fifo, 0),
        ];
        assert_eq!(
            seen,
            want.map(|(name, kind, size)| (name.to_owned(), kind, size))
        );
    }
}
