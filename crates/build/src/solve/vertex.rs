//! One vertex: its keys, what is known by them, and else doing it.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use berth_store::Digest;

use super::cache::{Found, NewRecord, Session};
use super::key::Key;
use super::pass::pass;
use super::run::{Done, Run};
use super::{Error, Step};
use crate::apply::{self, Source};
use crate::files::Files;
use crate::graph::{self, Copy, Exec, FileAction, Id, MountKind, Op};
use crate::tree::{Chain, Layer, Tree, Value};

/// Trees of up to this many entries are hashed where we are: that is sooner
/// done than handed to another thread.
const SMALL_TREE: usize = 500;

/// Does a vertex whose inputs are there.
pub(super) async fn vertex(run: &Arc<Run>, id: Id, inputs: Vec<Arc<Done>>) -> Result<Done, Error> {
    let worker = &run.job.worker;
    match &run.job.graph.vertices[id].op {
        Op::Image(image) => {
            run.started(id);
            Ok(Done::source(Value::Root(worker.image(id, image).await?)))
        }
        Op::Local(local) => {
            run.started(id);
            Ok(Done::source(Value::Tree(worker.local(id, local).await?)))
        }
        Op::Git(git) => {
            run.started(id);
            Ok(Done::source(Value::Tree(worker.git(id, git).await?)))
        }
        Op::Http(http) => {
            run.started(id);
            Ok(Done::source(Value::Tree(worker.http(id, http).await?)))
        }
        Op::Exec(exec) => exec_step(run, id, exec, &inputs).await,
        Op::Files(files) => files_step(run, id, files, &inputs).await,
        Op::Merge => merge(run, id, &inputs),
    }
}

/// Layers of all inputs, one after the other.
fn merge(run: &Run, id: Id, inputs: &[Arc<Done>]) -> Result<Done, Error> {
    run.started(id);
    let mut layers = Vec::new();
    for input in inputs {
        layers.extend(root(&input.value)?.iter().cloned());
    }
    let below = match inputs.first() {
        Some(first) => root(&first.value)?.len(),
        None => 0,
    };
    Ok(Done {
        made: layers.len() - below,
        value: Value::Root(layers.into()),
        cached: inputs.iter().skip(1).all(|input| input.cached),
        record: None,
        keys: Vec::new(),
    })
}

async fn exec_step(
    run: &Arc<Run>,
    id: Id,
    exec: &Exec,
    inputs: &[Arc<Done>],
) -> Result<Done, Error> {
    let base = match exec.root {
        Some(at) => root(&input(inputs, at)?.value)?.clone(),
        None => Chain::from([]),
    };
    let step = Cached::new(run, id, inputs);
    // What both keys have in common.
    let mut common = Key::of(exec, run.job.time)?;
    common.chain(&base);
    let (mut coarse, mut exact) = (common.clone(), common);
    let mut below = Vec::new();
    for mount in &exec.mounts {
        let (MountKind::Bind { from, source } | MountKind::Cache { from, source, .. }) =
            &mount.kind
        else {
            continue;
        };
        let Some(from) = *from else { continue };
        match &input(inputs, from)?.value {
            Value::Root(chain) => {
                coarse.chain(chain);
                below.push((chain.clone(), source.as_str()));
            }
            Value::Tree(tree) => {
                let digest = content(None, source, tree).await?;
                coarse.content(&digest);
                exact.content(&digest);
            }
        }
    }
    // Of a whole root filesystem its layers say as much, for nothing.
    let is_whole = |source: &str| source.trim_matches('/').is_empty();
    let has_exact = below.iter().any(|(_, source)| !is_whole(source));
    let mut keys = vec![coarse.finish()];
    if let Some(found) = step.find(&keys[0])? {
        return Ok(step.known(&base, found, keys));
    }
    run.started(id);
    if has_exact {
        for (chain, source) in below {
            if is_whole(source) || chain.is_empty() {
                exact.chain(&chain);
            } else {
                let root = run.job.worker.mount(&chain).await?;
                let source = source.to_owned();
                let digest = blocking(move || apply::content_below(root.as_fd(), &source)).await?;
                exact.content(&digest);
            }
        }
        keys.push(exact.finish());
    }
    step.run(&base, keys, async || {
        let _permit = run.parallel.acquire().await.map_err(|_| Error::Cancelled)?;
        let step = Step {
            exec: exec.clone(),
            inputs: inputs.iter().map(|input| input.value.clone()).collect(),
            keep_times: run.keeps[id],
            time: run.job.time,
        };
        run.job.worker.exec(id, step).await
    })
    .await
}

async fn files_step(
    run: &Arc<Run>,
    id: Id,
    operation: &graph::Files,
    inputs: &[Arc<Done>],
) -> Result<Done, Error> {
    let base = match operation.base {
        Some(at) => root(&input(inputs, at)?.value)?.clone(),
        None => Chain::from([]),
    };
    let step = Cached::new(run, id, inputs);
    let mut key = Key::of(operation, run.job.time)?;
    key.chain(&base);
    for action in &operation.actions {
        let FileAction::Copy(copy) = action else {
            continue;
        };
        match &input(inputs, copy.from)?.value {
            Value::Root(chain) => key.chain(chain),
            Value::Tree(tree) => key.content(&content(Some(copy), "", tree).await?),
        }
    }
    let keys = vec![key.finish()];
    if let Some(found) = step.find(&keys[0])? {
        return Ok(step.known(&base, found, keys));
    }
    run.started(id);
    step.run(&base, keys, async || {
        let mut sources = Vec::with_capacity(inputs.len());
        for (at, input) in inputs.iter().enumerate() {
            let copied = (operation.actions.iter())
                .any(|action| matches!(action, FileAction::Copy(copy) if copy.from == at));
            sources.push(match &input.value {
                Value::Tree(tree) => Input::Tree(tree.clone()),
                Value::Root(chain) if chain.is_empty() || !copied && operation.base != Some(at) => {
                    Input::Tree(Arc::default())
                }
                Value::Root(chain) => Input::Root(run.job.worker.mount(chain).await?),
            });
        }
        let work = FilesWork {
            files: run.files.clone(),
            operation: operation.clone(),
            sources,
            session: run.session.clone(),
        };
        let (time, keep_times) = (run.job.time, run.keeps[id]);
        blocking(move || work.layer(time, keep_times)).await
    })
    .await
}

/// A vertex whose result may be known.
struct Cached<'a> {
    run: &'a Arc<Run>,
    id: Id,
    inputs: &'a [Arc<Done>],
    timed: bool,
    ignore_cache: bool,
}

impl<'a> Cached<'a> {
    fn new(run: &'a Arc<Run>, id: Id, inputs: &'a [Arc<Done>]) -> Self {
        Self {
            run,
            id,
            inputs,
            timed: run.keeps[id],
            ignore_cache: run.job.graph.vertices[id].ignore_cache,
        }
    }

    fn find(&self, key: &str) -> Result<Option<Found>, Error> {
        let session = &self.run.session;
        if self.ignore_cache && !session.is_fresh(key) {
            return Ok(None);
        }
        session.find(key, self.timed)
    }

    /// Takes the result if it is known by the last key, which somebody else may
    /// be working on; else does the work.
    async fn run(
        &self,
        base: &Chain,
        keys: Vec<String>,
        work: impl AsyncFnOnce() -> Result<Option<Layer>, Error>,
    ) -> Result<Done, Error> {
        let session = &self.run.session;
        let [first, .., last] = &keys[..] else {
            return self.run_last(base, &keys[0], keys.clone(), work).await;
        };
        if let Some(found) = self.find(last)? {
            session.alias(&found.record, first)?;
            return Ok(self.known(base, found, keys));
        }
        self.run_last(base, last, keys.clone(), work).await
    }

    async fn run_last(
        &self,
        base: &Chain,
        last: &str,
        keys: Vec<String>,
        work: impl AsyncFnOnce() -> Result<Option<Layer>, Error>,
    ) -> Result<Done, Error> {
        let session = &self.run.session;
        // Who ignores the cache must not wait for another build.
        let lane = if self.ignore_cache {
            format!("{last} {}", session.number)
        } else {
            last.to_owned()
        };
        let _turn = session.flights().turn(&lane).await;
        if let Some(found) = self.find(last)? {
            return Ok(self.known(base, found, keys));
        }
        let layer = work().await?;
        let new = NewRecord {
            keys: &keys,
            layer: layer.clone(),
            timed: self.timed,
            description: &self.run.job.graph.vertices[self.id].name,
            parents: (self.inputs.iter())
                .filter_map(|input| input.record.clone())
                .collect(),
        };
        let record = session.add(new)?;
        let found = Found { record, layer };
        Ok(self.done(base, found, keys, false))
    }

    fn known(&self, base: &Chain, found: Found, keys: Vec<String>) -> Done {
        self.run.started(self.id);
        self.run.cached(self.id);
        self.done(base, found, keys, true)
    }

    fn done(&self, base: &Chain, found: Found, keys: Vec<String>, cached: bool) -> Done {
        let chain = match &found.layer {
            Some(layer) => base.iter().chain([layer]).cloned().collect(),
            None => base.clone(),
        };
        Done {
            value: Value::Root(chain),
            made: usize::from(found.layer.is_some()),
            cached,
            record: Some(found.record),
            keys,
        }
    }
}

/// A `Files` operation, for a blocking thread.
struct FilesWork {
    files: Files,
    operation: graph::Files,
    /// In the order of the vertex's inputs; an empty tree where none is needed.
    sources: Vec<Input>,
    session: Arc<Session>,
}

enum Input {
    Root(OwnedFd),
    Tree(Arc<Tree>),
}

impl FilesWork {
    fn layer(&self, time: i64, keep_times: bool) -> Result<Option<Layer>, Error> {
        let Some(digest) = self.write(Some(time))? else {
            return Ok(None);
        };
        let stored = if keep_times {
            self.write(None)?.unwrap_or_else(|| digest.clone())
        } else {
            digest.clone()
        };
        Ok(Some(Layer {
            digest,
            stored,
            blob: None,
        }))
    }

    /// None: it changes nothing.
    fn write(&self, time: Option<i64>) -> Result<Option<Digest>, Error> {
        let sources: Vec<_> = (self.sources.iter())
            .map(|source| match source {
                Input::Root(root) => Source::Root(root.as_fd()),
                Input::Tree(tree) => Source::Tree(tree),
            })
            .collect();
        let base = self.operation.base.and_then(|at| match sources.get(at) {
            Some(Source::Root(root)) => Some(*root),
            _ => None,
        });
        let draft = apply::draft(&self.files, &self.operation, base, &sources)?;
        let placed = match self.session.hold().places() {
            true => draft.place(&self.files)?,
            false => None,
        };
        let (mut writer, mut reader) = pass();
        std::thread::scope(|scope| {
            let taken = std::thread::Builder::new()
                .name("layer".to_owned())
                .spawn_scoped(scope, move || {
                    let digest = self.session.hold().layer(placed, &mut reader)?;
                    // Whatever is behind the layer, until the writer is done.
                    io::copy(&mut reader.by_ref(), &mut io::sink())
                        .map_err(|error| Error::System(error.to_string()))?;
                    Ok::<_, Error>(digest)
                })
                .map_err(|error| Error::System(format!("cannot start a thread: {error}")))?;
            let written = draft.write(&self.files, time, &mut writer);
            let finished = match &written {
                Ok(_) => writer.finish(),
                // The reader must not take what there is for all.
                Err(_) => {
                    drop(writer);
                    Ok(())
                }
            };
            let taken = taken
                .join()
                .unwrap_or_else(|_| Err(Error::System("a layer was not written".to_owned())));
            // Who failed first says why: a reader that is gone, or a writer.
            match (written, finished, taken) {
                (Ok(changed), Ok(()), Ok(digest)) => Ok(changed.then_some(digest)),
                (Ok(_), _, Err(error)) => Err(error),
                (Ok(_), Err(error), Ok(_)) => Err(Error::System(error.to_string())),
                (Err(error), ..) => Err(error.into()),
            }
        })
    }
}

fn input(inputs: &[Arc<Done>], at: usize) -> Result<&Done, Error> {
    match inputs.get(at) {
        Some(input) => Ok(input),
        None => Err(Error::Invalid(format!("a step has no input {at}"))),
    }
}

fn root(value: &Value) -> Result<&Chain, Error> {
    match value {
        Value::Root(chain) => Ok(chain),
        Value::Tree(_) => Err(Error::Invalid(
            "a step needs a root filesystem and got files".to_owned(),
        )),
    }
}

/// What a copy takes from a tree, or all below `source`.
async fn content(copy: Option<&Copy>, source: &str, tree: &Arc<Tree>) -> Result<Digest, Error> {
    if tree.entries.len() <= SMALL_TREE {
        return apply::content_of(copy, source, tree);
    }
    let (copy, source, tree) = (copy.cloned(), source.to_owned(), tree.clone());
    blocking(move || apply::content_of(copy.as_ref(), &source, &tree)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Cancelled),
    }
}
