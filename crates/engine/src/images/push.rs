//! `POST /images/{name}/push`: images to registries, byte for byte as they
//! are stored.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use berth_api::Error;
use berth_api::progress::Progress;
use berth_api::registry::AuthConfig;
use berth_registry::client::{Access, BlobSource, Repository};
use berth_store::{Blob, Image, Incoming, Reference, Store};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use serde_json::json;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinSet;

use super::board::Board;
use super::document::Descriptor;
use super::platform::Wanted;
use super::pull::{familiar_name, named};
use super::tree::{self, Blobs, Node, Tree};
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};

/// Bytes that are read from a blob at a time.
const PIECE: usize = 256 << 10;
/// Repositories that a registry is asked to take a blob from.
const MAX_MOUNTS: usize = 3;

/// What a push is about.
#[derive(Clone, Debug, Default)]
pub struct PushRequest {
    /// A name, with or without tag.
    pub name: String,
    /// Empty, and none in the name: all tags.
    pub tag: String,
    /// "os/architecture[/variant]": only that one; empty is all that is there.
    pub platform: String,
    pub auth: AuthConfig,
}

impl Engine {
    /// Lines of progress go to `progress`.
    pub async fn image_push(
        &self,
        request: PushRequest,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        let (reference, all) = named(&request.name, &request.tag)?;
        let wanted = match request.platform.as_str() {
            "" => None,
            text => Some(Wanted::parse(text)?),
        };
        let board = Arc::new(Board::default());
        let work = async {
            board.message(format!(
                "The push refers to repository [{}]",
                reference.repository()
            ));
            let repository = self
                .repository(&reference, &request.auth, Access::Push)
                .await?;
            let references = if all {
                self.tags_of(&reference)?
            } else {
                vec![reference.clone()]
            };
            for reference in references {
                self.push_one(&repository, &reference, wanted.as_ref(), &board)
                    .await?;
            }
            Ok(())
        };
        board.show(&progress, work).await
    }

    /// Pushes what was just built: `id`, a manifest or index that is in
    /// `incoming`, under a tag or (a reference with a digest only) none.
    pub(crate) async fn push_built(
        &self,
        incoming: &Incoming,
        id: &str,
        reference: &Reference,
        auth: &AuthConfig,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        let board = Arc::new(Board::default());
        let work = async {
            let repository = self.repository(reference, auth, Access::Push).await?;
            let blobs = Blobs::Incoming(incoming.clone());
            let target = {
                let (blobs, id) = (blobs.clone(), id.to_owned());
                blocking(move || tree::read(&blobs, &id)).await?
            };
            let push = Arc::new(Push {
                engine: self.clone(),
                repository,
                target: reference.clone(),
                board: Arc::clone(&board),
                blobs,
                sources: OnceCell::new(),
            });
            push.blobs(&target).await?;
            push.documents(&target, reference).await?;
            self.image_event(&reference.familiar(), &familiar_name(reference), "push");
            Ok(())
        };
        board.show(progress, work).await
    }

    fn tags_of(&self, reference: &Reference) -> Result<Vec<Reference>, Error> {
        let repository = reference.repository();
        let mut tags: Vec<Reference> = self
            .0
            .store
            .images()
            .iter()
            .flat_map(|image| &image.names)
            .filter_map(|name| Reference::parse(name).ok())
            .filter(|name| name.repository() == repository)
            .collect();
        if tags.is_empty() {
            return Err(Error::not_found(format!(
                "An image does not exist locally with the tag: {}",
                familiar_name(reference)
            )));
        }
        tags.sort_by(|a, b| a.tag.cmp(&b.tag));
        Ok(tags)
    }

    async fn push_one(
        &self,
        repository: &Repository,
        reference: &Reference,
        wanted: Option<&Wanted>,
        board: &Arc<Board>,
    ) -> Result<(), Error> {
        let image = match self.0.store.find(&reference.full()) {
            Err(berth_store::Error::NotFound(_)) => {
                return Err(Error::not_found(format!(
                    "tag does not exist: {}",
                    reference.familiar()
                )));
            }
            other => other.api()?,
        };
        let root = {
            let (blobs, id) = (Blobs::Stored(self.0.store.clone()), image.id.clone());
            blocking(move || tree::read(&blobs, &id)).await?
        };
        let (target, instead) = self
            .choose_push(repository, reference, &root, wanted)
            .await?;
        let push = Arc::new(Push {
            engine: self.clone(),
            repository: repository.clone(),
            target: reference.clone(),
            board: Arc::clone(board),
            blobs: Blobs::Stored(self.0.store.clone()),
            sources: OnceCell::new(),
        });
        let incoming = self.lease(&target).await?;
        push.blobs(&target).await?;
        push.documents(&target, reference).await?;
        if instead.is_none() && target.root.digest == image.id {
            self.record_pushed(&incoming, &image, reference).await;
        }
        self.image_event(&reference.familiar(), &familiar_name(reference), "push");
        let (digest, size) = (&target.root.digest, target.root.bytes.len());
        if let Some(tag) = &reference.tag {
            board.message(format!("{tag}: digest: {digest} size: {size}"));
            board.line(Progress {
                aux: Some(json!({"Tag": tag, "Digest": digest, "Size": size})),
                ..Progress::default()
            });
        }
        if let Some(aux) = instead {
            board.line(Progress {
                aux: Some(aux),
                ..Progress::default()
            });
        }
        Ok(())
    }

    /// What is pushed of an image: all of it if all is here or there, else the
    /// one manifest that was asked for or is this machine's. With what Docker
    /// tells the client when it chose itself.
    async fn choose_push(
        &self,
        repository: &Repository,
        reference: &Reference,
        root: &Tree,
        wanted: Option<&Wanted>,
    ) -> Result<(Tree, Option<serde_json::Value>), Error> {
        let mut complete = true;
        if wanted.is_none() {
            for missing in &root.missing {
                // What the registry has need not be here.
                let there = repository
                    .manifest_descriptor(&missing.digest)
                    .await
                    .api()?;
                if there.is_none() {
                    complete = false;
                    break;
                }
            }
            if complete {
                return Ok((root.clone(), None));
            }
        }
        let own = Wanted::parse("")?;
        let mut fitting = root.images.iter().filter(|image| {
            let rank = image.platform.rank(wanted.unwrap_or(&own));
            // One platform is asked for, not what runs on it.
            rank == Some(0)
        });
        let Some(image) = fitting.next() else {
            let provides = match wanted {
                Some(wanted) => format!("the specified platform ({wanted})"),
                None => "any platform".to_owned(),
            };
            return Err(Error::not_found(format!(
                "image with reference {} was found but does not provide {provides}",
                reference.familiar()
            )));
        };
        if let Some(wanted) = wanted
            && fitting.next().is_some()
        {
            return Err(Error::conflict(format!(
                "multiple manifests found for platform {wanted}"
            )));
        }
        let target = root.part(&image.digest)?;
        let instead = wanted.is_none().then(|| {
            let describe = |node: &Node| {
                json!({"mediaType": node.media_type, "digest": node.digest, "size": node.bytes.len()})
            };
            json!({
                "manifestPushedInsteadOfIndex": true,
                "originalIndex": describe(&root.root),
                "selectedManifest": describe(&target.root),
            })
        });
        Ok((target, instead))
    }

    /// Keeps what is pushed from being removed meanwhile.
    async fn lease(&self, target: &Tree) -> Result<Incoming, Error> {
        let store = self.0.store.clone();
        let mut wanted: Vec<(String, u64)> = target
            .documents()
            .map(|node| (node.digest.clone(), node.bytes.len() as u64))
            .collect();
        wanted.extend(
            target
                .blobs
                .iter()
                .map(|blob| (blob.digest.clone(), blob.size)),
        );
        blocking(move || {
            let incoming = store.incoming().api()?;
            for (digest, size) in wanted {
                if let Blob::Arriving(_) = incoming.blob(&digest, size).api()? {
                    return Err(Error::not_found(format!(
                        "content digest {digest}: not found: the image was removed meanwhile"
                    )));
                }
            }
            Ok(incoming)
        })
        .await
    }

    /// The image is known by its digest from now on, unless it was removed
    /// meanwhile.
    async fn record_pushed(&self, incoming: &Incoming, image: &Image, reference: &Reference) {
        let (store, incoming) = (self.0.store.clone(), incoming.clone());
        let id = image.id.clone();
        let diff_ids = image.config.rootfs().diff_ids().clone();
        let name = format!("{}@{id}", reference.repository());
        if image.digests.contains(&name) {
            return;
        }
        let recorded = blocking(move || {
            store.find(&id).api()?;
            for diff_id in &diff_ids {
                incoming.has_layer(diff_id);
            }
            incoming.commit(&id, &[], &[name]).api()
        })
        .await;
        if let Err(error) = recorded {
            tracing::warn!(
                "the digest of {} is not recorded: {error}",
                reference.familiar()
            );
        }
    }
}

/// One image on its way out.
#[derive(Debug)]
struct Push {
    engine: Engine,
    repository: Repository,
    target: Reference,
    board: Arc<Board>,
    blobs: Blobs,
    /// Other repositories of the registry that have blobs, by digest.
    sources: OnceCell<HashMap<String, Vec<String>>>,
}

impl Push {
    /// All blobs in parallel; the first failure ends the others.
    async fn blobs(self: &Arc<Self>, target: &Tree) -> Result<(), Error> {
        for blob in target.blobs.iter().filter(|blob| !target.is_config(blob)) {
            self.board.status(&blob.short(), "Preparing");
        }
        let mut tasks = JoinSet::new();
        for blob in target.blobs.iter().rev() {
            let (push, blob) = (Arc::clone(self), blob.clone());
            let shown = !target.is_config(&blob);
            tasks.spawn(async move { push.blob(&blob, shown).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| Error::system(format!("the push was cut off: {error}")))??;
        }
        Ok(())
    }

    async fn blob(&self, blob: &Descriptor, shown: bool) -> Result<(), Error> {
        let id = blob.short();
        let say = |text: &str| {
            if shown {
                self.board.status(&id, text);
            }
        };
        if blob.is_foreign() {
            say("Skipped foreign layer");
            return Ok(());
        }
        let uploads = &self.engine.0.registries.uploads;
        let _permit = match uploads.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                say("Waiting");
                uploads
                    .acquire()
                    .await
                    .map_err(|_| Error::system("the engine is shutting down"))?
            }
        };
        let there = self.repository.blob_size(&blob.digest).await.api()?;
        if there == Some(blob.size) {
            say("Layer already exists");
            return Ok(());
        }
        for source in self.sources(&blob.digest).await? {
            match self.repository.mount_blob(&blob.digest, source).await {
                Ok(true) => {
                    say(&format!("Mounted from {source}"));
                    return Ok(());
                }
                Ok(false) => {}
                // Then it is uploaded.
                Err(error) => tracing::debug!("mount {} from {source}: {error}", blob.digest),
            }
        }
        let source = StoredBlob {
            blobs: self.blobs.clone(),
            digest: blob.digest.clone(),
        };
        let sent = |sent: u64| {
            if shown {
                self.board.bar(&id, "Pushing", sent, blob.size);
            }
        };
        self.repository
            .push_blob(&blob.digest, blob.size, &source, &sent)
            .await
            .api()?;
        say("Pushed");
        Ok(())
    }

    /// Repositories of the same registry that are known to have the blob.
    async fn sources(&self, digest: &str) -> Result<&[String], Error> {
        let all = self
            .sources
            .get_or_try_init(|| {
                let (store, target) = (self.engine.0.store.clone(), self.target.clone());
                blocking(move || Ok(known_sources(&store, &target)))
            })
            .await?;
        let known = all.get(digest).map(Vec::as_slice).unwrap_or_default();
        Ok(&known[..known.len().min(MAX_MOUNTS)])
    }

    /// Children before what names them; the last one under the tag.
    async fn documents(&self, target: &Tree, reference: &Reference) -> Result<(), Error> {
        for node in &target.children {
            let there = self
                .repository
                .manifest_descriptor(&node.digest)
                .await
                .api()?;
            if there.is_none_or(|there| there.digest != node.digest) {
                self.document(&node.digest, node).await?;
            }
        }
        let name = match (&reference.digest, &reference.tag) {
            (None, Some(tag)) => tag,
            _ => &target.root.digest,
        };
        self.document(name, &target.root).await
    }

    async fn document(&self, name: &str, node: &Node) -> Result<(), Error> {
        let digest = self
            .repository
            .push_manifest(name, &node.media_type, node.bytes.clone())
            .await
            .api()?;
        if digest == node.digest {
            Ok(())
        } else {
            Err(Error::system(format!(
                "the registry took manifest {} for {digest}",
                node.digest
            )))
        }
    }
}

/// For each blob the repositories beside `target` at its registry that have
/// it; first those it certainly was pulled from or pushed to.
fn known_sources(store: &Store, target: &Reference) -> HashMap<String, Vec<String>> {
    let mut known: HashMap<String, Vec<String>> = HashMap::new();
    for image in store.images() {
        let mut paths: Vec<String> = Vec::new();
        for name in image.digests.iter().chain(&image.names) {
            if let Ok(name) = Reference::parse(name)
                && name.domain == target.domain
                && name.path != target.path
                && !paths.contains(&name.path)
            {
                paths.push(name.path);
            }
        }
        if paths.is_empty() {
            continue;
        }
        // An image that was removed meanwhile is no source.
        let Ok(tree) = tree::read(&Blobs::Stored(store.clone()), &image.id) else {
            continue;
        };
        for blob in tree.blobs {
            let sources = known.entry(blob.digest).or_default();
            sources.extend(
                paths
                    .iter()
                    .filter(|path| !sources.contains(path))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
        }
    }
    known
}

/// A blob in pieces.
#[derive(Debug)]
struct StoredBlob {
    blobs: Blobs,
    digest: String,
}

impl BlobSource for StoredBlob {
    fn open(&self, offset: u64) -> std::io::Result<BoxStream<'static, std::io::Result<Bytes>>> {
        let (blob, _) = self
            .blobs
            .open(&self.digest)
            .map_err(std::io::Error::other)?;
        let pieces = stream::try_unfold((blob, offset), |(mut blob, skip)| async move {
            // A plain layer is made while it is read, and may be waited for.
            let read = tokio::task::spawn_blocking(move || {
                blob.skip(skip)?;
                let mut piece = vec![0; PIECE];
                let n = blob.read(&mut piece)?;
                piece.truncate(n);
                std::io::Result::Ok((piece, blob))
            });
            let (piece, blob) = read.await.map_err(std::io::Error::other)??;
            std::io::Result::Ok((!piece.is_empty()).then(|| (piece.into(), (blob, 0))))
        });
        Ok(pieces.boxed())
    }
}
