//! Contexts: files from the client, or from where it says.
//!
//! Each is read once per build, however many steps use it.

mod client;
mod select;

use std::io::Read;
use std::sync::Arc;

use berth_api::Error;
use berth_api::build::ContextSource;
use berth_build::files::Files;
use berth_build::graph::{Graph, Id, Op};
use berth_build::ignore::Ignore;
use berth_build::progress::Event;
use berth_build::solve;
use berth_build::tree::{Node, Tree};
use tokio::io::DuplexStream;
use tokio_util::io::SyncIoBridge;

pub(super) use self::client::known_contents;
use self::select::Selection;
use super::session::{Session, failed};
use super::{Ask, MAIN_CONTEXT, sources};
use crate::error::waiting;

/// Bytes of a Dockerfile or a .dockerignore.
pub(super) const MAX_TEXT: u64 = 16 << 20;

/// What the steps of a graph need of a context; none = all.
pub(super) fn selection(graph: &Graph, name: &str) -> Option<Vec<String>> {
    let mut paths = Vec::new();
    for vertex in &graph.vertices {
        if let Op::Local(local) = &vertex.op
            && local.name == name
        {
            if local.paths.is_empty() {
                return None;
            }
            paths.extend(local.paths.iter().cloned());
        }
    }
    paths.sort();
    paths.dedup();
    Some(paths)
}

/// The files of a context.
pub(super) async fn tree(session: &Session, id: Id, name: &str) -> Result<Arc<Tree>, solve::Error> {
    let cell = session.context(name);
    let tree = cell
        .get_or_try_init(|| async { read(session, id, name).await.map(Arc::new) })
        .await?;
    Ok(tree.clone())
}

/// The same with what its .dockerignore leaves out: the Dockerfile may be.
pub(super) async fn unfiltered(session: &Session, id: Id, name: &str) -> Result<Arc<Tree>, Error> {
    match session.request.contexts.get(name) {
        Some(ContextSource::Archive) => whole_archive(session, id, name).await,
        _ => tree(session, id, name).await.map_err(super::of_solve),
    }
}

async fn whole_archive(session: &Session, id: Id, name: &str) -> Result<Arc<Tree>, Error> {
    let cell = session.context(&format!("{name} (whole)"));
    let tree = cell
        .get_or_try_init(|| async { archive(session, id, name).await.map(Arc::new) })
        .await?;
    Ok(tree.clone())
}

async fn read(session: &Session, id: Id, name: &str) -> Result<Tree, solve::Error> {
    let source = session.request.contexts.get(name);
    match source {
        None if name == MAIN_CONTEXT => Ok(Tree::default()),
        None => Err(solve::Error::NotFound(format!("context {name} not found"))),
        Some(ContextSource::Empty) => Ok(Tree::default()),
        Some(ContextSource::Client { identity }) => {
            let selection = match session.selected(name) {
                Some(paths) => Selection::new(&paths),
                None => Selection::all(),
            };
            client::read(session, id, name, identity, &selection)
                .await
                .map_err(failed)
        }
        Some(ContextSource::Archive) => {
            let tree = whole_archive(session, id, name).await.map_err(failed)?;
            without_ignored(session, name, &tree).map_err(failed)
        }
        Some(ContextSource::Remote { url }) => {
            let tree = sources::client::context(session, id, url).await?;
            without_ignored(session, name, &tree).map_err(failed)
        }
        Some(ContextSource::Image { .. } | ContextSource::Layout { .. }) => Err(
            solve::Error::Invalid(format!("context {name} is an image, not a directory")),
        ),
    }
}

async fn archive(session: &Session, id: Id, name: &str) -> Result<Tree, Error> {
    let ask = Ask::Archive {
        context: name.to_owned(),
    };
    let stream = session.peer.ask(ask).await?;
    let files = session.files().map_err(super::of_solve)?;
    let session = session.clone();
    let stream = SyncIoBridge::new(stream);
    waiting("build-context", move || {
        let mut input = Counted::new(session.clone(), id, stream, 0);
        let tree = files.take_tar(&mut input).map_err(unreadable)?;
        input.done();
        Ok(tree)
    })
    .await
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: std::io::Error) -> Error {
    let message = format!("read the build context: {error}");
    match error.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
            Error::invalid(message)
        }
        _ => Error::system(message),
    }
}

/// Tells how much has come.
struct Counted {
    session: Session,
    id: Id,
    stream: SyncIoBridge<DuplexStream>,
    total: u64,
    current: u64,
    told: u64,
}

/// Bytes between two figures.
const INTERVAL: u64 = 1 << 20;

impl Counted {
    fn new(session: Session, id: Id, stream: SyncIoBridge<DuplexStream>, total: u64) -> Self {
        Self {
            session,
            id,
            stream,
            total,
            current: 0,
            told: 0,
        }
    }

    fn tell(&self, done: bool) {
        self.session.tell(Event::Status {
            id: self.id,
            name: "transferring context:".to_owned(),
            current: self.current,
            total: self.total,
            done,
        });
    }

    fn done(&self) {
        self.tell(true);
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.current += count as u64;
        if self.current - self.told >= INTERVAL {
            self.told = self.current;
            self.tell(false);
        }
        Ok(count)
    }
}

/// A context that nobody filtered before: without what its .dockerignore says.
fn without_ignored(session: &Session, name: &str, tree: &Tree) -> Result<Tree, Error> {
    if name != MAIN_CONTEXT {
        return Ok(tree.clone());
    }
    let files = session.files().map_err(super::of_solve)?;
    let own = format!("{}.dockerignore", session.dockerfile_path());
    for path in [own.as_str(), ".dockerignore"] {
        if let Some(text) = text_file(&files, tree, path)? {
            let ignore = Ignore::parse(&text).map_err(Error::invalid)?;
            return Ok(filtered(tree.clone(), &ignore));
        }
    }
    Ok(tree.clone())
}

/// Directories stay when something in them does.
fn filtered(tree: Tree, ignore: &Ignore) -> Tree {
    let keeps: Vec<bool> = (tree.entries.iter())
        .map(|entry| {
            let parts: Vec<&str> = entry.path.split('/').collect();
            !ignore.is_ignored(&parts)
        })
        .collect();
    let mut needed = keeps.clone();
    // From the end, so that what is within comes before what it is in.
    let mut within: Option<String> = None;
    for (at, entry) in tree.entries.iter().enumerate().rev() {
        let is_parent = within.as_deref().is_some_and(|path| {
            path.strip_prefix(entry.path.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        });
        if is_parent && matches!(entry.node, Node::Directory) {
            needed[at] = true;
        }
        if needed[at] {
            within = Some(entry.path.clone());
        }
    }
    let mut gone = std::collections::HashMap::new();
    let mut entries = Vec::new();
    for (entry, needed) in tree.entries.into_iter().zip(needed) {
        if !needed {
            if let Node::File { .. } = entry.node {
                gone.insert(entry.path.clone(), entry.node.clone());
            }
            continue;
        }
        let mut entry = entry;
        // The first name of a file may be gone, and its others not.
        if let Node::HardLink(first) = &entry.node
            && let Some(node) = gone.get(first)
        {
            entry.node = node.clone();
        }
        entries.push(entry);
    }
    Tree { entries }
}

/// A small file of a tree; none if it has none of that path.
pub(super) fn text_file(files: &Files, tree: &Tree, path: &str) -> Result<Option<String>, Error> {
    let mut path = path.to_owned();
    // Links within the context are followed.
    for _ in 0..40 {
        let Some(entry) = tree.entries.iter().find(|entry| entry.path == path) else {
            return Ok(None);
        };
        match &entry.node {
            Node::HardLink(first) => path.clone_from(first),
            Node::Symlink(target) => match select::follow(&path, target) {
                Some(next) => path = next,
                None => return Ok(None),
            },
            Node::File { digest, size } => {
                if *size > MAX_TEXT {
                    return Err(Error::invalid(format!(
                        "{path} is larger than {MAX_TEXT} bytes"
                    )));
                }
                let failed = |error| Error::system(format!("read {path}: {error}"));
                let mut bytes = Vec::new();
                files
                    .read(digest)
                    .and_then(|content| content.take(MAX_TEXT).read_to_end(&mut bytes))
                    .map_err(failed)?;
                return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}
