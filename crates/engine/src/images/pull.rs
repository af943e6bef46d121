//! `POST /images/create?fromImage=`: images from registries.
//!
//! What is kept of an index: the index itself, the manifest that fits the
//! platform with all it needs, and what attests to that manifest (provenance,
//! SBOM); all byte for byte as it was served.

use std::sync::Arc;

use berth_api::progress::Progress;
use berth_api::registry::AuthConfig;
use berth_api::{Error, Kind};
use berth_registry::client::{self, Access, Repository};
use berth_store::{Image, Incoming, Reference};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::board::Board;
use super::document::{self, Descriptor, Document, Manifest};
use super::fetch::Fetch;
use super::platform::Wanted;
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, from_registry};

/// Indexes within indexes.
const MAX_NESTING: usize = 4;
/// Bytes of a configuration, and of a document that attests.
const MAX_CONFIG: u64 = 8 << 20;

/// The image that ships with berth, for machines that reach no registry.
const SHIPPED: &str = "docker.io/library/hello-world:latest";

/// What a pull is about.
#[derive(Clone, Debug, Default)]
pub struct PullRequest {
    /// A name, with or without tag or digest.
    pub name: String,
    /// A tag or a digest. Empty, and none in the name: all tags.
    pub tag: String,
    /// "os/architecture[/variant]"; empty is this machine's.
    pub platform: String,
    pub auth: AuthConfig,
}

impl Engine {
    /// Lines of progress go to `progress`. Dropping the future gives the pull
    /// up; what has arrived stays for the next try.
    pub async fn image_pull(
        &self,
        request: PullRequest,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        let board = Arc::new(Board::default());
        let work = self.pull(&request, &board);
        board.show(&progress, work).await
    }

    async fn pull(&self, request: &PullRequest, board: &Arc<Board>) -> Result<(), Error> {
        let wanted = Wanted::parse(&request.platform)?;
        let name = request.name.trim_end_matches(':');
        let (reference, all) = named(name, &request.tag)?;
        if reference.path == "library/scratch" && reference.domain == "docker.io" {
            return Err(Error::new(Kind::Forbidden, "'scratch' is a reserved name"));
        }
        let repository = self
            .repository(&reference, &request.auth, Access::Pull)
            .await?;
        if !all {
            return self.pull_one(&repository, &reference, &wanted, board).await;
        }
        for tag in repository.tags().await.map_err(denied_is_absent)? {
            // A registry may have names that nobody can use.
            let Ok(reference) = Reference::parse(&format!("{}:{tag}", reference.repository()))
            else {
                tracing::warn!(%tag, "invalid tag, won't pull");
                continue;
            };
            self.pull_one(&repository, &reference, &wanted, board)
                .await
                .map_err(|error| {
                    Error::new(
                        error.kind,
                        format!("error pulling {}: {}", reference.familiar(), error.message),
                    )
                })?;
        }
        Ok(())
    }

    async fn pull_one(
        &self,
        repository: &Repository,
        reference: &Reference,
        wanted: &Wanted,
        board: &Arc<Board>,
    ) -> Result<(), Error> {
        let tag = reference
            .digest
            .as_ref()
            .or(reference.tag.as_ref())
            .map_or("latest", String::as_str);
        let before = self.0.store.find(&reference.full()).ok();
        let root = match repository.manifest(tag).await {
            Ok(root) => root,
            Err(client::Error::Unavailable(reason)) if reference.full() == SHIPPED => {
                return self.take_shipped(&reason, before.as_ref(), board).await;
            }
            Err(error) => return Err(denied_is_absent(error)),
        };
        let incoming = {
            let store = self.0.store.clone();
            blocking(move || store.incoming().api()).await?
        };
        let fetch = Arc::new(Fetch {
            engine: self.clone(),
            repository: repository.clone(),
            incoming: incoming.clone(),
            board: Arc::clone(board),
        });
        let chosen = choose(&fetch, &root, wanted, reference).await?;
        board.line(Progress {
            status: format!("Pulling from {}", reference.path),
            id: tag.to_owned(),
            ..Progress::default()
        });
        fetch_all(&fetch, &chosen).await?;
        let image = self
            .commit_pulled(incoming, &root.digest, reference)
            .await?;
        self.image_event(&reference.familiar(), &familiar_name(reference), "pull");
        let newer = before.is_none_or(|before| before.id != image.id);
        board.message(format!("Digest: {}", image.id));
        finished(board, reference, newer);
        Ok(())
    }

    async fn commit_pulled(
        &self,
        incoming: Incoming,
        digest: &str,
        reference: &Reference,
    ) -> Result<Image, Error> {
        let names: Vec<Reference> = match (&reference.tag, &reference.digest) {
            (Some(_), None) => vec![reference.clone()],
            _ => Vec::new(),
        };
        let digests = [format!("{}@{digest}", reference.repository())];
        let id = digest.to_owned();
        blocking(move || incoming.commit(&id, &names, &digests).api()).await
    }

    /// Without a registry, the image that ships with berth will do.
    async fn take_shipped(
        &self,
        reason: &str,
        before: Option<&Image>,
        board: &Board,
    ) -> Result<(), Error> {
        let reference = Reference::parse(SHIPPED).api()?;
        tracing::info!(
            "no registry for {SHIPPED}, the one that ships with berth is used: {reason}"
        );
        // What is there is as good as what ships.
        let image = match before {
            Some(image) => image.clone(),
            None => {
                let store = self.0.store.clone();
                let image = blocking(move || store.load_hello_world().api()).await?;
                self.image_event(&reference.familiar(), &familiar_name(&reference), "pull");
                image
            }
        };
        board.message(format!(
            "The registry cannot be reached; using the image that ships with berth ({reason})"
        ));
        board.message(format!("Digest: {}", image.id));
        finished(board, &reference, before.is_none());
        Ok(())
    }
}

fn finished(board: &Board, reference: &Reference, newer: bool) {
    let name = reference.familiar();
    board.message(if newer {
        format!("Status: Downloaded newer image for {name}")
    } else {
        format!("Status: Image is up to date for {name}")
    });
}

/// Without its tag and digest.
pub(super) fn familiar_name(reference: &Reference) -> String {
    let mut name = reference.clone();
    (name.tag, name.digest) = (None, None);
    name.familiar()
}

/// Whether all tags are meant. A digest makes the tag meaningless.
pub(super) fn named(name: &str, tag: &str) -> Result<(Reference, bool), Error> {
    let mut reference = Reference::parse(name).api()?;
    let bare =
        reference.digest.is_none() && !name.rsplit('/').next().unwrap_or_default().contains(':');
    if tag.is_empty() {
        if reference.digest.is_some() {
            reference.tag = None;
        }
        return Ok((reference, bare));
    }
    let text = if tag.contains(':') {
        format!("{}@{tag}", reference.repository())
    } else {
        format!("{}:{tag}", reference.repository())
    };
    Ok((Reference::parse(&text).api()?, false))
}

/// Registries do not say what exists to those who may not see it; Docker
/// answers with 404 either way.
fn denied_is_absent(error: client::Error) -> Error {
    let denied = matches!(error, client::Error::Denied(_));
    let mut error = from_registry(error);
    if denied {
        error.kind = Kind::NotFound;
    }
    error
}

/// What is to be fetched of an image.
#[derive(Debug)]
struct Chosen {
    /// Each with its diff ID.
    layers: Vec<(Descriptor, String)>,
    /// Blobs that are kept as they are.
    others: Vec<Descriptor>,
}

/// Walks from the root to the manifest that fits; adds all documents on the
/// way, and the configuration, to what is incoming.
async fn choose(
    fetch: &Fetch,
    root: &client::Manifest,
    wanted: &Wanted,
    reference: &Reference,
) -> Result<Chosen, Error> {
    fetch.put(&root.digest, &root.bytes).await?;
    let unfit = || {
        Error::not_found(format!(
            "no matching manifest for {wanted} in the manifest list entries: no match for platform in manifest: not found"
        ))
    };
    let (digest, manifest, siblings) = match document::parse(&root.digest, &root.bytes)? {
        Document::Manifest(manifest) => (root.digest.clone(), manifest, Vec::new()),
        Document::Index(entries) => choose_entry(fetch, entries, wanted)
            .await?
            .ok_or_else(unfit)?,
    };
    let config = fetch.document(&manifest.config, MAX_CONFIG).await?;
    if !manifest.config.is_image_config() {
        // An artifact: kept whole, never run.
        return Ok(Chosen {
            layers: Vec::new(),
            others: manifest.layers().to_vec(),
        });
    }
    let config: Config = serde_json::from_slice(&config).map_err(|error| {
        Error::system(format!(
            "{} is no image: its configuration of type \"{}\" is not valid: {error}",
            reference.familiar(),
            manifest.config.media_type()
        ))
    })?;
    // An index is believed about its entries. Who names an image of one
    // platform gets it, unless another was asked for.
    if digest == root.digest && wanted.is_given() && config.platform.rank(wanted).is_none() {
        return Err(Error::not_found(format!(
            "image with reference {} was found but does not provide the specified platform ({wanted})",
            reference.familiar()
        )));
    }
    let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
    let layers = manifest.layers();
    if layers.len() != diff_ids.len() {
        return Err(Error::system(format!(
            "invalid manifest, layers length mismatch: expected {}, got {}",
            diff_ids.len(),
            layers.len()
        )));
    }
    let mut chosen = Chosen {
        layers: layers.iter().cloned().zip(diff_ids).collect(),
        others: Vec::new(),
    };
    for sibling in siblings.iter().filter(|sibling| sibling.attests(&digest)) {
        if let Some(attestation) = attestation(fetch, sibling).await? {
            chosen.others.extend(attestation.layers().iter().cloned());
        }
    }
    Ok(chosen)
}

/// The parts of an image's configuration that a pull needs.
#[derive(Debug, serde::Deserialize)]
struct Config {
    #[serde(flatten)]
    platform: document::Platform,
    rootfs: RootFs,
}

#[derive(Debug, serde::Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// The manifest that fits best, with its digest and the entries beside it.
async fn choose_entry(
    fetch: &Fetch,
    entries: Vec<Descriptor>,
    wanted: &Wanted,
) -> Result<Option<(String, Manifest, Vec<Descriptor>)>, Error> {
    let mut entries = entries;
    for _ in 0..MAX_NESTING {
        let best = entries
            .iter()
            .filter(|entry| !entry.is_attestation())
            .filter_map(|entry| match entry.platform() {
                Some(platform) => Some((platform.rank(wanted)?, entry)),
                // It says nothing: only if nothing else fits.
                None => Some((usize::MAX, entry)),
            })
            // The first of equals.
            .min_by_key(|(rank, _)| *rank);
        let Some((_, entry)) = best else {
            return Ok(None);
        };
        let digest = entry.digest.clone();
        let bytes = fetch.manifest(entry).await?;
        match document::parse(&digest, &bytes)? {
            Document::Manifest(manifest) => return Ok(Some((digest, manifest, entries))),
            Document::Index(inner) => entries = inner,
        }
    }
    Err(Error::system("the image's index is nested too deeply"))
}

/// What attests to an image is kept with it, but nobody's image is unusable
/// because it is gone.
async fn attestation(fetch: &Fetch, entry: &Descriptor) -> Result<Option<Manifest>, Error> {
    let found = async {
        let bytes = fetch.manifest(entry).await?;
        let Document::Manifest(manifest) = document::parse(&entry.digest, &bytes)? else {
            return Err(Error::system(format!("{} is an index", entry.digest)));
        };
        fetch.document(&manifest.config, MAX_CONFIG).await?;
        Ok(manifest)
    };
    match found.await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if error.kind == Kind::NotFound => {
            tracing::warn!("attestation {} is left out: {error}", entry.digest);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Fetches and unpacks in parallel; the first failure ends the others.
async fn fetch_all(fetch: &Arc<Fetch>, chosen: &Chosen) -> Result<(), Error> {
    let mut blobs: Vec<(&Descriptor, Option<&String>)> = chosen
        .layers
        .iter()
        .map(|(layer, diff_id)| (layer, Some(diff_id)))
        .chain(chosen.others.iter().map(|blob| (blob, None)))
        .collect();
    // An image may have the same (empty) layer many times.
    let mut seen = std::collections::HashSet::new();
    blobs.retain(|(blob, diff_id)| seen.insert((blob.digest.clone(), *diff_id)));
    // Docker shows no layers of an image that is there.
    let shown = !fetch.all_present(&blobs).await?;
    if shown {
        for (blob, _) in &blobs {
            fetch.board.status(&blob.short(), "Pulling fs layer");
        }
    }
    let mut tasks = JoinSet::new();
    for (blob, diff_id) in blobs {
        let (fetch, blob, diff_id) = (Arc::clone(fetch), blob.clone(), diff_id.cloned());
        tasks.spawn(async move { fetch.blob(&blob, diff_id.as_deref(), shown).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| Error::system(format!("the pull was cut off: {error}")))??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_digests_and_all() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, tag, full, all) in [
            (
                "busybox",
                "latest",
                "docker.io/library/busybox:latest",
                false,
            ),
            ("busybox:1", "", "docker.io/library/busybox:1", false),
            ("r:5000/a", "", "r:5000/a:latest", true),
            ("r:5000/a:b", "c", "r:5000/a:c", false),
            ("a/b:x", &digest, &format!("docker.io/a/b@{digest}"), false),
            (
                &format!("a/b:x@{digest}"),
                "",
                &format!("docker.io/a/b@{digest}"),
                false,
            ),
        ] {
            let (reference, every) = named(name, tag).unwrap();
            assert_eq!(
                (reference.full().as_str(), every),
                (full, all),
                "{name} {tag}"
            );
        }
        assert!(named("a", "b:c").is_err());
    }
}
