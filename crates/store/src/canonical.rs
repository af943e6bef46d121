//! The canonical tar stream of a layer: the one that can be made again, byte
//! for byte, from what is kept of it.
//!
//! Each directory is followed by what is in it, in the order of names' bytes
//! (a whiteout stands where the hidden name would, the mark of an opaque
//! directory right behind it); the first name of a file is the file, the others
//! are hard links to that name, with the file's mode, owner and time; every
//! directory but the root is an entry; nothing is in an entry that a layer does
//! not keep; headers are those of [`crate::TarWriter`], and nothing follows the
//! end marker.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};

use crate::Digest;
use crate::error::{Error, Result, invalid};
use crate::hashing::Hashing;
use crate::layer::{
    Built, Change, Content, Form, Layer, MAX_ENTRIES, Options, Path, WHITEOUT, WHITEOUT_META,
    WHITEOUT_OPAQUE, clean, keep, opaque_mark,
};
use crate::regenerate;
use crate::tar::{END, Entry, Kind, Reader, head, padding};

/// Bytes read at once: headers come in many small pieces.
const BUFFER: usize = 128 << 10;

/// Writes a layer of a stream whose order is canonical. What else is not, is
/// made so: the digest is of the canonical stream, which the one given is if
/// it comes from [`crate::TarWriter`] and says nothing that layers do not keep.
pub(crate) fn unpack(
    plain: impl Read,
    mut form: Content,
    options: Options,
) -> Result<(Layer, Digest)> {
    let mut tar = Reader::new(BufReader::with_capacity(BUFFER, plain));
    let mut stream = Stream {
        options,
        order: Order::default(),
        links: HashMap::new(),
        has_root: false,
        hash: Hashing::default(),
        heads: None,
    };
    let directory = form.directory()?;
    stream.heads = directory.is_some().then(Hashing::default);
    let mut entries = 0;
    while let Some(mut entry) = tar.next()? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return invalid(format!("it has more than {MAX_ENTRIES} entries"));
        }
        let name = entry.name.clone();
        stream
            .apply(&mut form, &mut entry, &mut tar)
            .map_err(|e| e.within(&format!("entry {:?}", String::from_utf8_lossy(&name))))?;
    }
    if !tar.is_complete() {
        return invalid("the archive is truncated: its end marker is missing");
    }
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(Error::stream("the archive"))?;
    stream.hash.update(&END);
    let mut layer = form.finish()?;
    if let (Some(directory), Some(heads)) = (directory, stream.heads) {
        let root = RootEntries {
            own: stream.has_root,
            opaque: layer.opaque,
        };
        if regenerate::heads(directory, root, opaque_mark(options.userxattr))? != heads.finish().0 {
            return invalid(
                "the file system of the data root does not keep all attributes or times of the files in it",
            );
        }
    }
    let (digest, length) = stream.hash.finish();
    layer.built = Some(Built {
        length,
        root: stream.has_root,
    });
    Ok((layer, digest))
}

/// What a stream says of the root directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RootEntries {
    /// It has an entry.
    pub(crate) own: bool,
    /// It hides all layers below.
    pub(crate) opaque: bool,
}

struct Stream {
    options: Options,
    order: Order,
    /// Names that are hard links, and the first name of each's file.
    links: HashMap<Vec<Vec<u8>>, Vec<u8>>,
    has_root: bool,
    /// Of the canonical stream.
    hash: Hashing,
    /// Of its headers alone, of a layer that becomes a directory.
    heads: Option<Hashing>,
}

impl Stream {
    fn apply(&mut self, form: &mut Content, entry: &mut Entry, data: &mut dyn Read) -> Result<()> {
        let path = clean(&entry.name)?;
        let Some((name, parent)) = path.split_last() else {
            if entry.kind != Kind::Directory {
                return invalid("the root of a layer is not a directory");
            }
            self.order.enter(&path)?;
            self.has_root = true;
            return self.put(form, &path, entry, data);
        };
        if name == WHITEOUT_OPAQUE {
            self.order.mark(parent)?;
            self.head(&opaque(parent))?;
            return form.apply(Change::Opaque(parent), &mut io::empty());
        }
        if name.starts_with(WHITEOUT_META) {
            return invalid("its name is one of those that AUFS keeps to itself");
        }
        // So overlayfs says it.
        let is_whiteout = entry.kind == Kind::CharDevice && entry.device == (0, 0);
        if let Some(hidden) = name
            .strip_prefix(WHITEOUT)
            .or_else(|| is_whiteout.then_some(name))
        {
            if matches!(hidden, b"" | b"." | b"..") {
                return invalid("a whiteout without a name");
            }
            let target = [parent, &[hidden.to_vec()]].concat();
            self.order.add(&target)?;
            self.head(&whiteout(&target))?;
            return form.apply(Change::Whiteout(&target), &mut io::empty());
        }
        match entry.kind {
            Kind::Directory => self.order.enter(&path)?,
            _ => self.order.add(&path)?,
        }
        match entry.kind {
            // Not made there, as by Docker.
            Kind::CharDevice | Kind::BlockDevice if !self.options.devices => Ok(()),
            Kind::HardLink => {
                self.resolve(form, &path, entry)?;
                self.put(form, &path, entry, data)
            }
            _ => self.put(form, &path, entry, data),
        }
    }

    fn head(&mut self, entry: &Entry) -> Result<()> {
        let head = head(entry)?;
        self.hash.update(&head);
        if let Some(heads) = &mut self.heads {
            heads.update(&head);
        }
        Ok(())
    }

    /// Describes a hard link as the file is that it leads to.
    fn resolve(&mut self, form: &mut Content, path: &Path, entry: &mut Entry) -> Result<()> {
        let target = clean(&entry.link)?;
        let first = match self.links.get(&target) {
            Some(first) => first.clone(),
            None => target.join(&b'/'),
        };
        let Some(kept) = form.kept(&clean(&first)?)? else {
            return invalid(format!(
                "hard link to {:?}, which is no file before it in this layer",
                String::from_utf8_lossy(&entry.link)
            ));
        };
        (entry.mode, entry.uid, entry.gid) = (kept.mode, kept.uid, kept.gid);
        entry.mtime = kept.mtime;
        entry.link.clone_from(&first);
        self.links.insert(path.to_vec(), first);
        Ok(())
    }

    fn put(
        &mut self,
        form: &mut Content,
        path: &Path,
        entry: &mut Entry,
        data: &mut dyn Read,
    ) -> Result<()> {
        if entry.extents.is_some() {
            return invalid("a canonical stream has no sparse maps");
        }
        entry.name = match path {
            [] => b"./".to_vec(),
            path => path.join(&b'/'),
        };
        keep(entry)?;
        self.head(entry)?;
        let mut data = Tapped {
            input: data,
            hash: &mut self.hash,
        };
        form.apply(Change::Put(path, entry), &mut data)?;
        self.hash.update(padding(entry.size));
        Ok(())
    }
}

/// The entry that says that a directory hides all that is below it.
pub(crate) fn opaque(directory: &Path) -> Entry {
    marker(directory, WHITEOUT_OPAQUE)
}

/// The entry that says that a name is gone.
pub(crate) fn whiteout(target: &Path) -> Entry {
    let (name, parent) = target
        .split_last()
        .map_or((&[][..], target), |(name, parent)| {
            (name.as_slice(), parent)
        });
    marker(parent, &[WHITEOUT, name].concat())
}

/// An empty file whose name says it all.
fn marker(parent: &Path, name: &[u8]) -> Entry {
    Entry {
        name: [parent, &[name.to_vec()]].concat().join(&b'/'),
        kind: Kind::File,
        ..Entry::default()
    }
}

/// Where in a stream its reader is.
#[derive(Default)]
struct Order {
    last: Option<Vec<Vec<u8>>>,
    /// The last one; those it is in are entries as well.
    directory: Vec<Vec<u8>>,
    /// Nothing came since the directory did.
    is_fresh: bool,
}

impl Order {
    fn add(&mut self, path: &Path) -> Result<()> {
        if self
            .last
            .as_ref()
            .is_some_and(|last| path <= last.as_slice())
        {
            return invalid(
                "it is not in its place: names are in order, each directory followed by what is in it",
            );
        }
        let parent = path.split_last().map_or(path, |(_, parent)| parent);
        if !self.directory.starts_with(parent) {
            return invalid("its directory is not an entry before it");
        }
        self.last = Some(path.to_vec());
        self.is_fresh = false;
        Ok(())
    }

    fn enter(&mut self, path: &Path) -> Result<()> {
        self.add(path)?;
        self.directory = path.to_vec();
        self.is_fresh = true;
        Ok(())
    }

    /// A mark of that directory.
    fn mark(&mut self, path: &Path) -> Result<()> {
        if path.is_empty() && self.last.is_none() {
            self.enter(path)?;
        }
        if !self.is_fresh || self.directory != path {
            return invalid("it does not follow its directory");
        }
        self.is_fresh = false;
        Ok(())
    }
}

/// Passes data on, and hashes it.
struct Tapped<'a> {
    input: &'a mut dyn Read,
    hash: &'a mut Hashing,
}

impl Read for Tapped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}
