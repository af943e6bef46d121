//! Base images: what is here, or else from a registry.

use std::sync::Arc;

use berth_api::registry::AuthConfig;
use berth_api::{Error, Kind};
use berth_build::graph::Id;
use berth_build::plan::{Base, Query};
use berth_build::progress::Event;
use berth_build::solve;
use berth_build::tree::{Blob, Chain, Layer};
use berth_store::{Image, ManifestKind, Platform, Reference};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::announce::announced;
use super::session::{Session, failed};
use crate::PullRequest;
use crate::error::{IntoApi as _, blocking};

/// Bytes of a manifest.
const MAX_MANIFEST: u64 = 4 << 20;

/// One platform of an image, kept for the build.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) base: Base,
    chain: Chain,
}

/// Answers a question of the planner.
pub(super) async fn answer(session: &Session, query: &Query) -> Result<Base, Error> {
    let name = format!("[internal] load metadata for {}", query.reference);
    let found = announced(session, &name, async |id| {
        find(session, id, &query.reference, &query.platform).await
    })
    .await
    .map_err(|error| unresolved(&query.reference, error))?;
    Ok(found.base.clone())
}

/// The same without a vertex of its own.
pub(super) async fn find_base(session: &Session, id: Id, query: &Query) -> Result<Base, Error> {
    let found = find(session, id, &query.reference, &query.platform).await;
    let found = found.map_err(|error| unresolved(&query.reference, error))?;
    Ok(found.base)
}

/// The layers of an image of the graph.
pub(super) async fn chain(
    session: &Session,
    id: Id,
    image: &berth_build::graph::Image,
) -> Result<Chain, solve::Error> {
    if let Some(found) = session.images().get(&image.digest) {
        return Ok(found.chain.clone());
    }
    let mut reference = image.reference.clone();
    if !image.digest.is_empty() && !reference.contains('@') {
        reference = format!("{reference}@{}", image.digest);
    }
    find(session, id, &reference, &image.platform)
        .await
        .map(|found| found.chain)
        .map_err(|error| failed(unresolved(&image.reference, error)))
}

/// BuildKit's words.
fn unresolved(reference: &str, error: Error) -> Error {
    let message = match error.kind {
        Kind::NotFound if !error.message.ends_with("not found") => {
            format!("{reference}: not found: {}", error.message)
        }
        _ => error.message,
    };
    Error::new(
        error.kind,
        format!("failed to resolve source metadata for {reference}: {message}"),
    )
}

async fn find(
    session: &Session,
    id: Id,
    reference: &str,
    platform: &Platform,
) -> Result<Found, Error> {
    if !session.request.pull
        && let Some(found) = local(session, reference, platform).await?
    {
        return Ok(found);
    }
    let parsed = Reference::parse(reference).api()?;
    let request = PullRequest {
        name: parsed.full(),
        tag: String::new(),
        platform: text_of(platform),
        auth: auth(session, &parsed),
    };
    let (lines, mut shown) = mpsc::channel(16);
    let pull = session.engine.image_pull(request, lines);
    let show = async {
        while let Some(line) = shown.recv().await {
            if line.id.is_empty() {
                continue;
            }
            let detail = line.detail.unwrap_or_default();
            let done = matches!(line.status.as_str(), "Pull complete" | "Already exists");
            session.tell(Event::Status {
                id,
                name: format!("{} {}", line.status, line.id),
                current: u64::try_from(detail.current).unwrap_or(0),
                total: u64::try_from(detail.total).unwrap_or(0),
                done,
            });
        }
    };
    let (pulled, ()) = tokio::join!(pull, show);
    pulled?;
    local(session, reference, platform)
        .await?
        .ok_or_else(|| Error::not_found(format!("{reference} was removed while the build began")))
}

fn text_of(platform: &Platform) -> String {
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    let parts: Vec<&str> = parts
        .into_iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    parts.join("/")
}

/// The client's credentials for a registry; Docker Hub has several names.
fn auth(session: &Session, reference: &Reference) -> AuthConfig {
    let all = &session.request.auth;
    let hub = [
        "https://index.docker.io/v1/",
        "index.docker.io",
        "docker.io",
    ];
    let mut names = vec![reference.domain.as_str()];
    if reference.domain == "docker.io" {
        names.extend(hub);
    }
    let plain = |name: &str| {
        let name = name.split_once("://").map_or(name, |(_, rest)| rest);
        name.split('/').next().unwrap_or_default().to_owned()
    };
    names
        .iter()
        .find_map(|name| all.get(*name))
        .or_else(|| {
            (all.iter()).find_map(|(key, auth)| (plain(key) == reference.domain).then_some(auth))
        })
        .cloned()
        .unwrap_or_default()
}

/// An image that is here with all of its layers; from now on they stay.
async fn local(
    session: &Session,
    reference: &str,
    platform: &Platform,
) -> Result<Option<Found>, Error> {
    let (here, reference, platform) = (session.clone(), reference.to_owned(), platform.clone());
    let found = blocking(move || {
        let image = match here.engine.0.store.find_platform(&reference, &platform) {
            Ok(image) => image,
            Err(berth_store::Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error).api(),
        };
        match describe(&here, &image) {
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            other => other.map(Some),
        }
    })
    .await?;
    if let Some(found) = &found {
        let mut images = session.images();
        images.insert(found.base.digest.clone(), Arc::new(found.clone()));
    }
    Ok(found)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// Blocks.
fn describe(session: &Session, image: &Image) -> Result<Found, Error> {
    use std::io::Read as _;
    let store = &session.engine.0.store;
    store.unpack(image).api()?;
    let manifests = store.manifests(&image.id).api()?;
    let manifest = manifests
        .into_iter()
        .find(|manifest| {
            manifest.available
                && manifest.kind == ManifestKind::Image
                && manifest.config_digest == image.config_digest
        })
        .ok_or_else(|| Error::not_found(format!("{} is here in part only", image.id)))?;
    let (file, _) = store.open_blob(&manifest.digest).api()?;
    let mut bytes = Vec::new();
    let unreadable = |error: &dyn std::fmt::Display| {
        Error::system(format!("read the manifest {}: {error}", manifest.digest))
    };
    file.take(MAX_MANIFEST)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    let parsed: Manifest = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
    let diff_ids = image.config.rootfs().diff_ids();
    if diff_ids.len() != parsed.layers.len() {
        return Err(Error::system(format!(
            "invalid manifest, layers length mismatch: expected {}, got {}",
            diff_ids.len(),
            parsed.layers.len()
        )));
    }
    let mut chain = Vec::with_capacity(diff_ids.len());
    for (diff_id, blob) in diff_ids.iter().zip(parsed.layers) {
        session.incoming.keep_layer(diff_id).api()?;
        // Kept with it.
        session.incoming.blob(&blob.digest, blob.size).api()?;
        chain.push(Layer {
            digest: diff_id.clone(),
            stored: diff_id.clone(),
            blob: Some(Blob {
                media_type: blob.media_type,
                digest: blob.digest,
                size: blob.size,
            }),
        });
    }
    let config = serde_json::from_slice(&image.raw_config).map_err(|error| {
        Error::system(format!("read the configuration of {}: {error}", image.id))
    })?;
    Ok(Found {
        base: Base {
            digest: manifest.digest,
            config,
            platform: manifest.platform,
        },
        chain: chain.into(),
    })
}
