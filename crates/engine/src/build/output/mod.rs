//! What becomes of a build's results: images in the store, pushes, archives,
//! directories.

mod attributes;
mod image;
mod steps;
mod stream;

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_api::Error;
use berth_api::build::{BuildRequest, BuildResult};
use berth_build::graph::{Id, Plan};
use berth_build::progress::Sink;
use berth_build::solve::Worker;
use berth_build::tree::Chain;
use berth_store::{Incoming, Reference};
use serde_json::{Map, Value, json};

use self::attributes::{Kind, Push, Wanted};
use self::image::{Blobs, Made};
use self::steps::Steps;
pub(super) use self::stream::send_to;
use super::Peer;
use crate::engine::Engine;
use crate::error::{IntoApi as _, waiting};

/// What is written where; read from the request before anything is built.
#[derive(Clone, Debug, Default)]
pub(super) struct Outputs(Vec<Wanted>);

/// What one platform came to.
#[derive(Clone, Debug)]
pub(super) struct Platformed {
    pub(super) plan: Plan,
    /// The root filesystem of the target; empty for scratch.
    pub(super) chain: Chain,
    /// The vertices (of `plan.graph`) that put a layer on what they stand on:
    /// a history entry of another vertex becomes an empty layer.
    pub(super) produced: BTreeSet<Id>,
    /// Keys that the image's configuration gets besides (inline cache).
    pub(super) extra: Map<String, Value>,
}

/// A build that is solved.
#[allow(missing_debug_implementations, reason = "its parts are closures")]
pub(super) struct Solved {
    /// In the order of the request's platforms; one at least.
    pub(super) results: Vec<Platformed>,
    /// Keeps the results' layers while outputs are written.
    pub(super) incoming: Incoming,
    /// For "local" and "tar".
    pub(super) worker: Arc<dyn Worker>,
    pub(super) peer: Arc<dyn Peer>,
    pub(super) progress: Sink,
    /// Outputs are vertices of their own for progress, from this number on.
    pub(super) first_id: Id,
}

impl Outputs {
    /// Without any output: the image store. "cacheonly" is none.
    ///
    /// # Errors
    /// A name, an attribute or a kind that is not valid or not known.
    pub(super) fn parse(request: &BuildRequest) -> Result<Self, Error> {
        attributes::parse(request).map(Self)
    }

    /// Writes all of them, one after the other. Dropping the future leaves
    /// nothing of the one at work.
    pub(super) async fn write(
        &self,
        engine: &Engine,
        request: &BuildRequest,
        solved: Solved,
    ) -> Result<BuildResult, Error> {
        let mut result = BuildResult::default();
        let writer = Writer {
            engine,
            request,
            results: solved.results.into(),
            blobs: Arc::new(Blobs::new(engine.0.store.clone(), solved.incoming)),
            worker: solved.worker,
            peer: solved.peer,
        };
        for (number, wanted) in self.0.iter().enumerate() {
            let Some(title) = title(&wanted.kind) else {
                continue;
            };
            let id = solved.first_id + number;
            let steps = Steps::begin(&solved.progress, id, title);
            let written = writer.write(wanted, &steps, &mut result).await;
            steps.end(&written);
            written?;
        }
        Ok(result)
    }
}

/// As BuildKit calls the vertex; none if there is nothing to do.
fn title(kind: &Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Image { .. } => "exporting to image",
        Kind::Archive {
            for_docker: true, ..
        } => "exporting to docker image format",
        Kind::Archive { .. } => "exporting to oci image format",
        Kind::Files { title, .. } => title,
        Kind::Nothing => return None,
    })
}

struct Writer<'a> {
    engine: &'a Engine,
    request: &'a BuildRequest,
    results: Arc<[Platformed]>,
    blobs: Arc<Blobs>,
    worker: Arc<dyn Worker>,
    peer: Arc<dyn Peer>,
}

impl Writer<'_> {
    async fn write(
        &self,
        wanted: &Wanted,
        steps: &Steps,
        result: &mut BuildResult,
    ) -> Result<(), Error> {
        match &wanted.kind {
            Kind::Image {
                names,
                options,
                push,
                store,
                name_canonical,
            } => {
                let made = self.make(options, steps).await?;
                if *store {
                    // By digest only: it is pushed under no tag.
                    let by_digest = push.is_some_and(|push| push.by_digest);
                    let tags = if by_digest { &[][..] } else { names };
                    let canonical = *name_canonical || by_digest;
                    self.publish(&made, tags, if canonical { names } else { &[] }, steps)
                        .await?;
                }
                if let Some(push) = push {
                    self.push(&made, names, *push, *store, steps).await?;
                }
                report(result, &made, names);
            }
            Kind::Archive {
                names,
                options,
                for_docker,
            } => {
                let made = self.make(options, steps).await?;
                let _sending = steps.part("sending tarball");
                let (blobs, id) = (self.blobs.clone(), made.root.digest.clone());
                let (tags, for_docker) = (names.clone(), *for_docker);
                stream::send(self.peer.as_ref(), wanted.index, move |out| {
                    blobs.incoming.save(&id, &tags, for_docker, out).api()
                })
                .await?;
                report(result, &made, names);
            }
            Kind::Files { split, .. } => {
                let trees = stream::trees(self.worker.as_ref(), &self.results).await?;
                let (split, epoch, steps) = (*split, self.epoch(), steps.clone());
                stream::send(self.peer.as_ref(), wanted.index, move |out| {
                    stream::write(&trees, split, epoch, &steps, out)
                })
                .await?;
            }
            Kind::Nothing => {}
        }
        Ok(())
    }

    fn epoch(&self) -> Option<i64> {
        self.results.first()?.plan.image.source_date_epoch
    }

    async fn make(&self, options: &attributes::Options, steps: &Steps) -> Result<Made, Error> {
        let (blobs, results) = (self.blobs.clone(), self.results.clone());
        let (options, steps) = (options.clone(), steps.clone());
        let multi = self.results.len() > 1;
        waiting("build-image", move || {
            blobs.make(&results, multi, &options, &steps)
        })
        .await
    }

    /// The image with all its names, in one step.
    async fn publish(
        &self,
        made: &Made,
        tags: &[Reference],
        canonical: &[Reference],
        steps: &Steps,
    ) -> Result<(), Error> {
        let id = made.root.digest.clone();
        let digests: Vec<_> = canonical
            .iter()
            .map(|name| format!("{}@{id}", name.repository()))
            .collect();
        let naming: Vec<_> = tags
            .iter()
            .map(|name| steps.part(&format!("naming to {}", name.full())))
            .collect();
        let (blobs, names) = (self.blobs.clone(), tags.to_vec());
        waiting("build-publish", move || {
            blobs.incoming.commit(&id, &names, &digests).map(drop).api()
        })
        .await?;
        drop(naming);
        let id = &made.root.digest;
        self.engine.image_event(id, id, "create");
        for name in tags {
            self.engine.image_event(id, &name.familiar(), "tag");
        }
        Ok(())
    }

    async fn push(
        &self,
        made: &Made,
        names: &[Reference],
        push: Push,
        record: bool,
        steps: &Steps,
    ) -> Result<(), Error> {
        let id = &made.root.digest;
        for name in names {
            let target = match push.by_digest {
                true => Reference {
                    tag: None,
                    digest: Some(id.clone()),
                    ..name.clone()
                },
                false => name.clone(),
            };
            let auth = attributes::auth(self.request, &target);
            let _pushing = steps.part(&format!("pushing manifest for {}@{id}", name.full()));
            let (sender, shown) = steps.board();
            let pushing = async move {
                self.engine
                    .push_built(&self.blobs.incoming, id, &target, &auth, &sender)
                    .await
            };
            let (pushed, ()) = tokio::join!(pushing, shown);
            pushed.map_err(|error| {
                let message = format!("failed to push {}: {}", name.full(), error.message);
                Error::new(error.kind, message)
            })?;
            if record {
                let digest = format!("{}@{id}", name.repository());
                let (blobs, id) = (self.blobs.clone(), id.clone());
                waiting("build-publish", move || {
                    blobs.incoming.commit(&id, &[], &[digest]).map(drop).api()
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// The first image is the build's.
fn report(result: &mut BuildResult, made: &Made, names: &[Reference]) {
    if !result.image.is_empty() {
        return;
    }
    result.image.clone_from(&made.root.digest);
    result.names = names.iter().map(Reference::full).collect();
    let metadata = &mut result.metadata;
    metadata.insert("containerimage.digest".into(), json!(made.root.digest));
    metadata.insert("containerimage.descriptor".into(), json!(made.root));
    if let Some(config) = &made.config {
        result.config.clone_from(config);
        metadata.insert("containerimage.config.digest".into(), json!(config));
    }
    if !names.is_empty() {
        metadata.insert("image.name".into(), json!(result.names.join(",")));
    }
}
