//! A context that is a client's directory: the client lists it, and sends only
//! the files that are not known from a build before.
//!
//! ```text
//! <data-root>/build/contexts/<SHA-256 of the identity>   JSON lines: stat, digest
//! ```

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_api::Error;
use berth_api::build::Stat;
use berth_build::files::Files;
use berth_build::graph::Id;
use berth_build::tree::{Entry, Node, Tree};
use berth_store::Digest;
use serde::{Deserialize, Serialize};
use tokio_util::io::SyncIoBridge;

use super::select::Selection;
use super::{Ask, Counted, Session, unreadable};
use crate::build::kept::touch;
use crate::error::{blocking, waiting};
use crate::files;

/// Entries of a context.
const MAX_ENTRIES: usize = 4_000_000;
/// Bytes of one line of a walk: a path, a link and attributes.
const MAX_LINE: u64 = 1 << 20;
/// Bytes of a path (PATH_MAX), and its components.
const MAX_PATH: usize = 4096;
const MAX_DEPTH: usize = 1000;
/// Files in one request: their numbers fit into a frame.
const MAX_ASKED: usize = 100_000;

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// What was known of a file, and its content. Of a [`Stat`] what tells whether
/// it is the same, under the same names.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    #[serde(rename = "p")]
    path: String,
    #[serde(rename = "m")]
    mode: u32,
    #[serde(rename = "s", default)]
    size: u64,
    #[serde(rename = "t", default)]
    mtime: i64,
    #[serde(rename = "c", default)]
    ctime: i64,
    #[serde(rename = "i", default)]
    inode: u64,
    #[serde(rename = "D")]
    digest: Digest,
}

pub(super) async fn read(
    session: &Session,
    id: Id,
    name: &str,
    identity: &str,
    selection: &Selection,
) -> Result<Tree, Error> {
    let ask = Ask::Walk {
        context: name.to_owned(),
    };
    let stream = SyncIoBridge::new(session.peer.ask(ask).await?);
    let files = session.files().map_err(super::super::of_solve)?;
    let saved = saved_path(session, identity);
    let (selection, known_files, path) = (selection.clone(), files.clone(), saved.clone());
    // What is known is read while the client looks.
    let (stats, known) = tokio::try_join!(
        waiting("build-walk", move || walk(stream)),
        blocking(move || Ok(load(&path)))
    )?;
    let (stats, needed, mut digests, saved_before) = blocking(move || {
        let needed = selection.of(&stats);
        let digests: Vec<Option<Digest>> = stats
            .iter()
            .map(|stat| known_digest(&known, stat, &known_files))
            .collect();
        Ok((stats, needed, digests, known))
    })
    .await?;
    let missing: Vec<usize> = (0..stats.len())
        .filter(|&at| needed[at] && is_content(&stats[at]) && digests[at].is_none())
        .collect();
    fetch(session, id, name, &files, &stats, &missing, &mut digests).await?;
    let changed = !missing.is_empty() || saved_before.len() != digests.iter().flatten().count();
    blocking(move || {
        if changed && let Err(error) = save(&saved, &stats, &digests) {
            // The next build reads them again.
            tracing::warn!("remember a build context: {error}");
        }
        if !changed {
            touch(&saved);
        }
        tree(stats, &needed, digests)
    })
    .await
}

/// Whether its bytes are its own.
fn is_content(stat: &Stat) -> bool {
    stat.mode & S_IFMT == S_IFREG && stat.hard_link.is_empty()
}

/// Reads and checks the client's list.
fn walk(stream: impl Read) -> Result<Vec<Stat>, Error> {
    let mut input = BufReader::with_capacity(256 << 10, stream);
    let mut check = Check::default();
    let mut stats: Vec<Stat> = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = (&mut input)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(unreadable)?;
        if count == 0 {
            return Ok(stats);
        }
        if count as u64 == MAX_LINE {
            return Err(Error::invalid(
                "the build context has an entry that is too long",
            ));
        }
        let stat: Stat = serde_json::from_slice(&line)
            .map_err(|error| Error::invalid(format!("the build context's list: {error}")))?;
        if stats.len() == MAX_ENTRIES {
            return Err(Error::invalid(format!(
                "the build context has more than {MAX_ENTRIES} files; leave some out by .dockerignore"
            )));
        }
        check.next(&stats, &stat).map_err(|what| {
            Error::invalid(format!("the build context's entry {:?}: {what}", stat.path))
        })?;
        stats.push(stat);
    }
}

/// That a list is one: in order, each in a directory of it, nothing outside.
#[derive(Default)]
struct Check {
    /// The directories that the last entry is in, and itself if it is one.
    directories: Vec<String>,
}

impl Check {
    fn next(&mut self, before: &[Stat], stat: &Stat) -> Result<(), &'static str> {
        let path = stat.path.as_str();
        if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
            return Err("no path");
        }
        if path.split('/').count() > MAX_DEPTH {
            return Err("too deep");
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("leads out of the context");
        }
        if (before.last()).is_some_and(|last| order(&last.path, path).is_ge()) {
            return Err("out of order");
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        while self.directories.last().is_some_and(|last| last != parent) {
            self.directories.pop();
        }
        if self.directories.is_empty() && !parent.is_empty() {
            return Err("its directory is no directory of the context");
        }
        let is_file = |path: &str| {
            let found = before.binary_search_by(|stat| order(&stat.path, path));
            found.is_ok_and(|at| is_content(&before[at]))
        };
        match stat.mode & S_IFMT {
            S_IFDIR => self.directories.push(path.to_owned()),
            S_IFREG if !stat.hard_link.is_empty() && !is_file(&stat.hard_link) => {
                return Err("a link to a file that does not come before it");
            }
            S_IFLNK
                if stat.link.is_empty()
                    || stat.link.len() > MAX_PATH
                    || stat.link.contains('\0') =>
            {
                return Err("a symbolic link to nowhere");
            }
            S_IFREG | S_IFLNK => {}
            // Devices and pipes.
            0o010_000 | 0o020_000 | 0o060_000 => {}
            _ => return Err("of no kind that can be built with"),
        }
        Ok(())
    }
}

/// Each directory is followed by what is in it.
fn order(one: &str, other: &str) -> Ordering {
    one.split('/').cmp(other.split('/'))
}

fn saved_path(session: &Session, identity: &str) -> PathBuf {
    let name = berth_store::digest_of(identity.as_bytes());
    let name = name.trim_start_matches("sha256:");
    let root = session.engine.config().data_root.join("build/contexts");
    root.join(name)
}

/// What cannot be read is not known.
fn load(path: &Path) -> HashMap<String, Known> {
    let Ok(file) = std::fs::File::open(path) else {
        return HashMap::new();
    };
    let lines = BufReader::with_capacity(256 << 10, file).split(b'\n');
    lines
        .map_while(Result::ok)
        .map_while(|line| serde_json::from_slice::<Known>(&line).ok())
        .map(|known| (known.path.clone(), known))
        .collect()
}

/// Contents that are remembered of a context, and their lengths.
pub(in crate::build) fn known_contents(path: &Path) -> HashMap<Digest, u64> {
    let known = load(path).into_values();
    known.map(|known| (known.digest, known.size)).collect()
}

fn known_digest(known: &HashMap<String, Known>, stat: &Stat, files: &Files) -> Option<Digest> {
    if !is_content(stat) {
        return None;
    }
    let old = known.get(&stat.path)?;
    // A file written to in place has another ctime, whatever its mtime says.
    let same = (old.size, old.mtime, old.ctime, old.inode, old.mode)
        == (stat.size, stat.mtime, stat.ctime, stat.inode, stat.mode);
    // A client without inodes cannot tell.
    let tells = stat.ctime != 0 || stat.inode != 0;
    (same && tells && files.contains(&old.digest)).then(|| old.digest.clone())
}

fn save(path: &Path, stats: &[Stat], digests: &[Option<Digest>]) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for (stat, digest) in stats.iter().zip(digests) {
        if let Some(digest) = digest {
            let known = Known {
                path: stat.path.clone(),
                mode: stat.mode,
                size: stat.size,
                mtime: stat.mtime,
                ctime: stat.ctime,
                inode: stat.inode,
                digest: digest.clone(),
            };
            serde_json::to_writer(&mut bytes, &known)?;
            bytes.write_all(b"\n")?;
        }
    }
    files::replace(path, &bytes, 0o600)
}

/// Has the client send what is missing, and keeps it.
async fn fetch(
    session: &Session,
    id: Id,
    name: &str,
    files: &Files,
    stats: &[Stat],
    missing: &[usize],
    digests: &mut [Option<Digest>],
) -> Result<(), Error> {
    // Sizes are what the client says.
    let sizes = missing.iter().map(|&at| stats[at].size);
    let total = sizes.fold(0, u64::saturating_add);
    files.expect(total);
    let mut current = 0;
    for part in missing.chunks(MAX_ASKED) {
        let ask = Ask::Read {
            context: name.to_owned(),
            files: part
                .iter()
                .filter_map(|&at| u32::try_from(at).ok())
                .collect(),
        };
        let stream = SyncIoBridge::new(session.peer.ask(ask).await?);
        let wanted: Vec<(String, u64)> = part
            .iter()
            .map(|&at| (stats[at].path.clone(), stats[at].size))
            .collect();
        let (files, telling) = (files.clone(), session.clone());
        let mut input = Counted::new(telling, id, stream, total);
        input.current = current;
        let (found, after) = waiting("build-context", move || {
            let mut reached = "";
            let mut sizes = wanted.iter().map(|(path, size)| {
                reached = path;
                *size
            });
            let found = files.add_all(&mut sizes, &mut input);
            let found = found.map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::invalid(format!(
                    "the build context changed while it was read: {reached} is shorter than it was"
                )),
                _ => unreadable(error),
            })?;
            input.done();
            Ok((found, input.current))
        })
        .await?;
        current = after;
        for (&at, digest) in part.iter().zip(found) {
            digests[at] = Some(digest);
        }
    }
    Ok(())
}

fn tree(stats: Vec<Stat>, needed: &[bool], digests: Vec<Option<Digest>>) -> Result<Tree, Error> {
    let mut entries = Vec::with_capacity(stats.len());
    // Files whose first name is not needed, but another is.
    let mut first: HashMap<String, Digest> = HashMap::new();
    for ((at, stat), digest) in stats.into_iter().enumerate().zip(digests) {
        if !needed[at] {
            if let Some(digest) = digest {
                first.insert(stat.path, digest);
            }
            continue;
        }
        let node = match stat.mode & S_IFMT {
            S_IFDIR => Node::Directory,
            S_IFREG if stat.hard_link.is_empty() => Node::File {
                digest: digest.ok_or_else(|| {
                    Error::system(format!("the content of {} is missing", stat.path))
                })?,
                size: stat.size,
            },
            S_IFREG => match first.get(&stat.hard_link) {
                Some(digest) => Node::File {
                    digest: digest.clone(),
                    size: stat.size,
                },
                None => Node::HardLink(stat.hard_link.clone()),
            },
            S_IFLNK => Node::Symlink(stat.link.clone()),
            kind => {
                let (major, minor) = stat.device.unwrap_or_default();
                Node::Special { kind, major, minor }
            }
        };
        let mut xattrs = Vec::new();
        for (key, value) in &stat.xattrs {
            if key != "security.capability" && !key.starts_with("user.") {
                return Err(Error::invalid(format!(
                    "the build context's entry {:?} has the attribute {key}",
                    stat.path
                )));
            }
            let value = BASE64_STANDARD.decode(value).map_err(|error| {
                Error::invalid(format!("the attribute {key} of {:?}: {error}", stat.path))
            })?;
            xattrs.push((key.clone(), value));
        }
        entries.push(Entry {
            path: stat.path,
            node,
            mode: stat.mode & 0o7777,
            // Whose they are there means nothing here.
            uid: 0,
            gid: 0,
            mtime: stat.mtime,
            xattrs,
        });
    }
    Ok(Tree { entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(list: &[(&str, u32, &str, &str)]) -> Result<usize, String> {
        let mut bytes = Vec::new();
        for (path, mode, link, hard_link) in list {
            let stat = Stat {
                path: (*path).to_owned(),
                mode: *mode,
                link: (*link).to_owned(),
                hard_link: (*hard_link).to_owned(),
                ..Stat::default()
            };
            serde_json::to_writer(&mut bytes, &stat).unwrap();
            bytes.push(b'\n');
        }
        walk(bytes.as_slice())
            .map(|stats| stats.len())
            .map_err(|error| error.message)
    }

    #[test]
    fn a_list_that_is_none_is_refused() {
        let dir = S_IFDIR | 0o755;
        let file = S_IFREG | 0o644;
        let fine = [
            ("a", dir, "", ""),
            ("a/b", file, "", ""),
            ("a.c", file, "", "a/b"),
            ("l", S_IFLNK, "../../x", ""),
        ];
        assert_eq!(checked(&fine), Ok(4));
        for bad in [
            &[("", file, "", "")][..],
            &[("/a", file, "", "")],
            &[("a/../b", file, "", "")],
            &[("..", dir, "", "")],
            &[("a/b", file, "", "")],
            &[("a", file, "", ""), ("a/b", file, "", "")],
            &[("l", S_IFLNK, "/etc", ""), ("l/passwd", file, "", "")],
            &[
                ("a", dir, "", ""),
                ("b", file, "", ""),
                ("a/c", file, "", ""),
            ],
            &[("a", file, "", ""), ("a", file, "", "")],
            &[("a", file, "", "b"), ("b", file, "", "")],
            &[("a", S_IFLNK, "", "")],
            &[("a", 0o140_000, "", "")],
        ] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
        assert!(walk(&b"{\"p\":\"a\"\n"[..]).is_err());
        assert!(walk(&b"not json\n"[..]).is_err());
    }
}
