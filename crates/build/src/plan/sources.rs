//! What steps copy from and mount: images, contexts, stages, documents.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_store::Reference;
use serde_json::Value;

use super::planner::{Context, Now, Planner, Source, history_of};
use super::stages::{External, ExternalId, StandsOn};
use super::{Base, GitAddress, NamedContext, path};
use crate::graph::{
    Copy, FileAction, Files, Http, Id, Image, Local, ModeChange, Op, Unpack, Variables, Vertex,
};

/// The build's own context.
const CONTEXT: &str = "context";

impl Planner<'_> {
    /// The vertex of something that is no stage. `now`: the stage that stands
    /// on it.
    pub(super) fn external(
        &mut self,
        id: ExternalId,
        now: Option<&mut Now>,
    ) -> Result<Source, String> {
        if let Some(source) = self.sources.get(&id) {
            if let Some(now) = now {
                now.index += 1;
            }
            return Ok(source.clone());
        }
        let external = &self.stages.externals[id];
        let source = match external {
            External::Scratch => Source::Root(None),
            External::Image { query, context } => {
                let base = self.bases.get(query);
                if base.is_some_and(is_without_layers) {
                    return Ok(Source::Root(None));
                }
                let digest = base.map(|base| base.digest.clone()).unwrap_or_default();
                let shown = match Reference::parse(&query.reference) {
                    Ok(mut reference) if !digest.is_empty() => {
                        reference.digest = Some(digest.clone());
                        reference.full()
                    }
                    _ => query.reference.clone(),
                };
                let mut lines = None;
                let mut text = format!("FROM {}", query.reference);
                let name = match (context, now) {
                    (Some(context), _) => format!("[context {context}] {shown}"),
                    (None, Some(now)) => {
                        let written = self.stages.all[now.stage].written;
                        lines = Some(written.lines);
                        text.clone_from(&written.text);
                        // Its own variables are not known yet.
                        let platform = self.stages.all[now.stage].platform.clone();
                        let name = format!("FROM {shown}");
                        self.prefixed(now, &platform, &Variables::new(), false, &name)
                    }
                    (None, None) => format!("FROM {shown}"),
                };
                let op = Op::Image(Image {
                    reference: query.reference.clone(),
                    digest,
                    platform: query.platform.clone(),
                });
                Source::Root(Some(self.push(op, Vec::new(), name, text, lines)?))
            }
            External::Files { context, from } => self.files_of(context, from)?,
        };
        self.sources.insert(id, source.clone());
        Ok(source)
    }

    fn files_of(&mut self, context: &str, from: &NamedContext) -> Result<Source, String> {
        let plain = |context: Option<String>, id| Source::Tree { id, context };
        match from {
            NamedContext::Git(address) => {
                let parsed = GitAddress::parse(address, true)
                    .unwrap_or_else(|| Err("it is no address of a repository".to_owned()));
                let git = parsed
                    .map_err(|error| format!("invalid named context {context}: {error}"))?
                    .source();
                let name = format!("[context {context}] load git source {}", git.remote);
                let text = name.clone();
                let id = self.push(Op::Git(git), Vec::new(), name, text, None)?;
                Ok(plain(None, id))
            }
            NamedContext::Http(url) => {
                const FILE: &str = "context";
                let http = Op::Http(Http {
                    url: url.clone(),
                    checksum: String::new(),
                    filename: FILE.to_owned(),
                });
                let name = format!("[context {context}] {url}");
                let id = self.push(http, Vec::new(), name.clone(), name, None)?;
                let name = format!("[context {context}] extracting");
                let root = self.copied(id, FILE, Unpack::Archives, name)?;
                Ok(Source::Root(Some(root)))
            }
            NamedContext::Image(_) | NamedContext::Local => {
                let id = self.context(context)?;
                Ok(plain(Some(context.to_owned()), id))
            }
        }
    }

    /// A root filesystem of the files of a tree.
    pub(super) fn root_of(&mut self, source: &Source) -> Id {
        let Source::Tree { id, context } = source else {
            return self.empty();
        };
        self.needs(context.as_deref(), "/");
        // Without variables in it, the name costs nothing to speak of.
        let name = "[internal] files as a root filesystem".to_owned();
        self.copied(*id, ".", Unpack::Never, name).unwrap_or(*id)
    }

    fn copied(
        &mut self,
        from: Id,
        source: &str,
        unpack: Unpack,
        name: String,
    ) -> Result<Id, String> {
        let copy = Copy {
            from: 0,
            sources: vec![source.to_owned()],
            target: "/".to_owned(),
            owner: None,
            mode: None,
            parents: false,
            exclude: Vec::new(),
            unpack,
        };
        let op = Op::Files(Files {
            base: None,
            actions: vec![FileAction::Copy(copy)],
        });
        self.push(op, vec![from], name.clone(), name, None)
    }

    /// The vertex of a context of the client.
    pub(super) fn context(&mut self, name: &str) -> Result<Id, String> {
        if let Some(context) = self.contexts.get(name) {
            return Ok(context.id);
        }
        let shown = match name {
            CONTEXT => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        // Which paths are used is known at the end.
        let op = Op::Local(Local {
            name: name.to_owned(),
            paths: Vec::new(),
        });
        let id = self.push(op, Vec::new(), shown.clone(), shown, None)?;
        let paths = BTreeSet::new();
        (self.contexts).insert(name.to_owned(), Context { id, paths });
        Ok(id)
    }

    /// The build's own context.
    pub(super) fn main_context(&mut self) -> Result<Source, String> {
        let id = self.context(CONTEXT)?;
        Ok(Source::Tree {
            id,
            context: Some(CONTEXT.to_owned()),
        })
    }

    /// Notes that a path of a context is used.
    pub(super) fn needs(&mut self, context: Option<&str>, used: &str) {
        let Some(context) = context.and_then(|name| self.contexts.get_mut(name)) else {
            return;
        };
        // What `**` selects can be anywhere below.
        let used = match used.find("**") {
            Some(at) => used.get(..at).and_then(|before| before.rsplit_once('/')),
            None => Some((used, "")),
        };
        let used = used.map_or("/", |(before, _)| before);
        context.paths.insert(path::source(used));
    }

    /// The root filesystem with nothing in it.
    pub(super) fn empty(&mut self) -> Id {
        if let Some(id) = self.empty {
            return id;
        }
        let id = self.graph.vertices.len();
        self.graph.vertices.push(Vertex {
            op: Op::Files(Files::default()),
            inputs: Vec::new(),
            name: "[internal] scratch".to_owned(),
            text: "FROM scratch".to_owned(),
            lines: None,
            ignore_cache: false,
        });
        self.empty = Some(id);
        id
    }

    /// What `--from` of a step means; none for a stage that is not done yet, a
    /// later one or this one.
    pub(super) fn source(&mut self, from: StandsOn) -> Result<Option<Source>, String> {
        match from {
            StandsOn::External(id) => self.external(id, None).map(Some),
            StandsOn::Stage(id) => {
                let state = self.done[id].as_ref();
                Ok(state.map(|state| Source::Root(state.root)))
            }
        }
    }

    /// A file with a document in it.
    pub(super) fn inline(
        &mut self,
        name: &str,
        content: &str,
        mode: Option<ModeChange>,
    ) -> Result<Id, String> {
        let op = Op::Files(Files {
            base: None,
            actions: vec![FileAction::Write {
                target: path::absolute(name),
                data: Arc::from(content.as_bytes()),
                mode,
                owner: None,
            }],
        });
        let name = "[internal] preparing inline document".to_owned();
        self.push(op, Vec::new(), name.clone(), name, None)
    }
}

/// Nothing but a configuration: as good as scratch.
fn is_without_layers(base: &Base) -> bool {
    let layers = base
        .config
        .pointer("/rootfs/diff_ids")
        .and_then(Value::as_array);
    layers.is_none_or(Vec::is_empty)
        && history_of(&base.config)
            .is_ok_and(|history| history.iter().all(|entry| entry.empty_layer))
}
