//! `--cache-to` and `--cache-from`: results of builds in images and in
//! directories of the client.
//!
//! ```text
//! inline   the configuration of the image has `solve::INLINE`
//! local    an OCI layout: index.json names a manifest; its configuration is
//!          the document, its layers are the results'
//! ```
//!
//! What cannot be read is told, and is no reason to fail.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Cursor, Read, Write};

use berth_api::Error;
use berth_api::build::{BuildRequest, CacheSpec};
use berth_build::files::Files;
use berth_build::graph::{Id, Image, Plan};
use berth_build::plan::Query;
use berth_build::progress::Event;
use berth_build::solve::{Document, INLINE, own_steps};
use berth_build::tree::{Layer, Node};
use berth_store::{Incoming, PackAs, Packed, Reference, TarEntry, TarKind, TarWriter, inflate};
use serde_json::{Map, Value, json};
use tokio_util::io::SyncIoBridge;

use super::announce::announced;
use super::output::{Platformed, send_to};
use super::session::Session;
use super::{Ask, Results, images, of_solve};
use crate::error::{IntoApi as _, blocking, waiting};

const DOCUMENT_TYPE: &str = "application/vnd.berth.build.cache.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const DEFAULT_TAG: &str = "latest";
const TAG: &str = "org.opencontainers.image.ref.name";
/// Bytes of a document that is read.
const MAX_DOCUMENT: u64 = 64 << 20;

/// What a request says of caches.
#[derive(Clone, Debug, Default)]
pub(super) struct Caching {
    from: Vec<From>,
    inline: bool,
    to: Vec<Local>,
}

#[derive(Clone, Debug)]
enum From {
    Image(String),
    /// Place in the request, and the name in its index.
    Local(usize, String),
}

#[derive(Clone, Debug)]
struct Local {
    /// Place in the request.
    index: usize,
    /// All steps, not only those of the result's own stages.
    all: bool,
    compression: PackAs,
    ignore_error: bool,
    tag: String,
}

impl Caching {
    /// # Errors
    /// `Invalid` for what is not known; `NotImplemented` for what BuildKit has
    /// and berth has not.
    pub(super) fn parse(request: &BuildRequest) -> Result<Self, Error> {
        let mut caching = Self::default();
        for (index, spec) in request.cache_from.iter().enumerate() {
            caching.from.push(from(index, spec)?);
        }
        for (index, spec) in request.cache_to.iter().enumerate() {
            match spec.kind.as_str() {
                "inline" => {
                    known(spec, &[])?;
                    caching.inline = true;
                }
                "local" => caching.to.push(local(index, spec)?),
                other => return Err(unsupported("export", other)),
            }
        }
        let argument = request.build_args.get("BUILDKIT_INLINE_CACHE");
        if let Some(Some(text)) = argument {
            caching.inline |= matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True");
        }
        Ok(caching)
    }

    /// What is known elsewhere is known here from now on.
    pub(super) async fn import(&self, session: &Session, plans: &[Plan]) {
        for from in &self.from {
            let name = match from {
                From::Image(reference) => reference.as_str(),
                From::Local(..) => "local",
            };
            let title = format!("importing cache manifest from {name}");
            let imported = announced(session, &title, async |id| match from {
                From::Image(reference) => import_image(session, id, reference, plans).await,
                From::Local(index, tag) => import_local(session, *index, tag).await,
            });
            if let Err(error) = imported.await {
                session.tell(Event::Warning {
                    rule: String::new(),
                    message: format!("failed to import the build cache from {name}: {error}"),
                    url: String::new(),
                    lines: None,
                });
            }
        }
    }

    /// What an image's configuration says of the steps that it was built by.
    pub(super) fn extra(
        &self,
        came: &Results,
        offset: Id,
        result: &Platformed,
    ) -> Map<String, Value> {
        let mut extra = Map::new();
        if let (true, Some(output)) = (self.inline, result.plan.output) {
            let layers = result.chain.iter().enumerate();
            let places: HashMap<&str, usize> = layers
                .map(|(place, layer)| (layer.digest.as_str(), place))
                .collect();
            let steps = own_steps(&came.graph, output + offset);
            let document = Document::write(&came.solved, &came.graph, steps, &places);
            extra.insert(INLINE.to_owned(), json!(document));
        }
        extra
    }

    pub(super) async fn export(
        &self,
        session: &Session,
        came: &Results,
        wanted: &[Id],
    ) -> Result<(), Error> {
        for local in &self.to {
            let exported = announced(session, "exporting cache to client directory", async |_| {
                export_local(session, came, wanted, local).await
            });
            match exported.await {
                Err(error) if !local.ignore_error => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn unsupported(what: &str, kind: &str) -> Error {
    match kind {
        "registry" | "gha" | "s3" | "azblob" => Error::not_implemented(format!(
            "cache {what} to type={kind} is not supported by berth yet: use type=inline or type=local"
        )),
        _ => Error::invalid(format!("unknown cache type {kind:?}")),
    }
}

fn known(spec: &CacheSpec, names: &[&str]) -> Result<(), Error> {
    match (spec.attributes.keys()).find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "cache attribute {name}={} of type={} is not supported by berth",
            spec.attributes[name], spec.kind
        ))),
    }
}

fn from(index: usize, spec: &CacheSpec) -> Result<From, Error> {
    match spec.kind.as_str() {
        "registry" => {
            known(spec, &["ref"])?;
            let reference = spec.attributes.get("ref").map_or("", String::as_str);
            let parsed = Reference::parse(reference).api()?;
            Ok(From::Image(parsed.full()))
        }
        "local" => {
            known(spec, &["tag"])?;
            Ok(From::Local(index, tag(spec)))
        }
        "gha" | "s3" | "azblob" => Err(Error::not_implemented(format!(
            "cache import from type={} is not supported by berth yet: use type=registry or type=local",
            spec.kind
        ))),
        other => Err(Error::invalid(format!("unknown cache type {other:?}"))),
    }
}

fn tag(spec: &CacheSpec) -> String {
    let tag = spec.attributes.get("tag").map_or("", String::as_str);
    if tag.is_empty() { DEFAULT_TAG } else { tag }.to_owned()
}

fn local(index: usize, spec: &CacheSpec) -> Result<Local, Error> {
    known(spec, &["mode", "compression", "ignore-error", "tag"])?;
    let attribute = |name: &str| spec.attributes.get(name).map_or("", String::as_str);
    let invalid = |name: &str| {
        Error::invalid(format!(
            "cache attribute {name}={} is not valid",
            attribute(name)
        ))
    };
    Ok(Local {
        index,
        all: match attribute("mode") {
            "" | "min" => false,
            "max" => true,
            _ => return Err(invalid("mode")),
        },
        compression: match attribute("compression") {
            "" | "zstd" => PackAs::Zstd,
            "gzip" => PackAs::Gzip,
            _ => return Err(invalid("compression")),
        },
        ignore_error: match attribute("ignore-error") {
            "" | "false" => false,
            "true" => true,
            _ => return Err(invalid("ignore-error")),
        },
        tag: tag(spec),
    })
}

async fn import_image(
    session: &Session,
    id: Id,
    reference: &str,
    plans: &[Plan],
) -> Result<(), Error> {
    let mut found = false;
    let mut seen = BTreeSet::new();
    for plan in plans {
        let query = Query {
            reference: reference.to_owned(),
            platform: plan.platform.clone(),
        };
        if !seen.insert(query.clone()) {
            continue;
        }
        let base = images::find_base(session, id, &query).await?;
        let Some(json) = base.config.get(INLINE) else {
            continue;
        };
        found = true;
        let document = Document::read(json).map_err(of_solve)?;
        let image = Image {
            reference: reference.to_owned(),
            digest: base.digest,
            platform: query.platform,
        };
        let chain = images::chain(session, id, &image).await.map_err(of_solve)?;
        let session = session.clone();
        blocking(move || {
            let cache = &session.engine.0.builder.cache;
            let wanted = document.wanted(cache);
            let layers = chain.iter().cloned().enumerate();
            let layers = layers.filter(|(place, _)| wanted.contains(place));
            let layers = layers.map(|(place, layer)| (place, without_blob(&session, layer)));
            cache.import(&document, &layers.collect()).map_err(of_solve)
        })
        .await?;
    }
    match found {
        true => Ok(()),
        false => Err(Error::not_found(format!(
            "{reference} has no build cache in it: build it with --cache-to type=inline"
        ))),
    }
}

/// A layer that was built here needs none: its blob can be made again, and may
/// be compressed in another way.
fn without_blob(session: &Session, mut layer: Layer) -> Layer {
    if is_built(&session.incoming, &layer.digest) {
        layer.blob = None;
    }
    layer
}

fn is_built(incoming: &Incoming, layer: &str) -> bool {
    incoming.blob_of(layer, PackAs::Plain).is_ok()
}

async fn import_local(session: &Session, index: usize, tag: &str) -> Result<(), Error> {
    let stream = session.peer.ask(Ask::CacheIn { index }).await?;
    let stream = SyncIoBridge::new(stream);
    let files = session.files().map_err(of_solve)?;
    let (session, tag) = (session.clone(), tag.to_owned());
    waiting("build-cache", move || {
        let layout = Layout::take(&files, stream)?;
        let manifest = layout.manifest(&tag)?;
        let document = layout.json(text(&manifest["config"]["digest"]))?;
        let document = Document::read(&document).map_err(of_solve)?;
        let cache = &session.engine.0.builder.cache;
        let mut layers = HashMap::new();
        for place in document.wanted(cache) {
            let digest = text(&manifest["layers"][place]["digest"]);
            let mut plain = inflate(layout.open(digest)?).api()?;
            let layer = session.incoming.layer(&mut *plain).api()?;
            // One that came with an image has no stream that it can be made of.
            if is_built(&session.incoming, &layer) {
                let layer = Layer {
                    digest: layer.clone(),
                    stored: layer,
                    blob: None,
                };
                layers.insert(place, layer);
            }
        }
        cache.import(&document, &layers).map_err(of_solve)?;
        Ok(())
    })
    .await
}

fn text(json: &Value) -> &str {
    json.as_str().unwrap_or_default()
}

/// An OCI layout that came as a stream. Its files are named by what is in them,
/// whatever the names in the stream say.
struct Layout<'a> {
    files: &'a Files,
    index: Option<String>,
    contents: BTreeSet<String>,
}

impl<'a> Layout<'a> {
    fn take(files: &'a Files, mut stream: impl Read) -> Result<Self, Error> {
        let unreadable =
            |error: std::io::Error| Error::invalid(format!("read the build cache: {error}"));
        let tree = files.take_tar(&mut stream).map_err(unreadable)?;
        let mut layout = Self {
            files,
            index: None,
            contents: BTreeSet::new(),
        };
        for entry in tree.entries {
            if let Node::File { digest, .. } = entry.node {
                if entry.path == "index.json" {
                    layout.index = Some(digest.clone());
                }
                layout.contents.insert(digest);
            }
        }
        Ok(layout)
    }

    fn open(&self, digest: &str) -> Result<impl Read + use<>, Error> {
        if !self.contents.contains(digest) {
            return Err(Error::not_found(format!(
                "the build cache lacks {digest:?}"
            )));
        }
        (self.files.read(digest))
            .map_err(|error| Error::system(format!("read {digest} of the build cache: {error}")))
    }

    fn json(&self, digest: &str) -> Result<Value, Error> {
        let mut bytes = Vec::new();
        (self.open(digest)?.take(MAX_DOCUMENT))
            .read_to_end(&mut bytes)
            .map_err(|error| Error::system(format!("read the build cache: {error}")))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid(format!("the build cache is damaged: {error}")))
    }

    fn manifest(&self, tag: &str) -> Result<Value, Error> {
        let index = self.index.as_deref();
        let index = index.ok_or_else(|| Error::not_found("the build cache has no index.json"))?;
        let index = self.json(index)?;
        let manifests = index["manifests"].as_array().into_iter().flatten();
        let found = manifests
            .filter(|entry| text(&entry["annotations"][TAG]) == tag)
            .map(|entry| text(&entry["digest"]))
            .next();
        let found = found
            .ok_or_else(|| Error::not_found(format!("the build cache has nothing named {tag}")))?;
        let manifest = self.json(found)?;
        if text(&manifest["config"]["mediaType"]) != DOCUMENT_TYPE {
            return Err(Error::invalid(
                "the build cache was not written by berth: its keys mean nothing here",
            ));
        }
        Ok(manifest)
    }
}

async fn export_local(
    session: &Session,
    came: &Results,
    wanted: &[Id],
    local: &Local,
) -> Result<(), Error> {
    let steps: BTreeSet<Id> = match local.all {
        true => (0..came.graph.vertices.len()).collect(),
        false => (wanted.iter())
            .flat_map(|id| own_steps(&came.graph, *id))
            .collect(),
    };
    let names = Document::layers(&came.solved, steps.iter().copied());
    let (incoming, compression) = (session.incoming.clone(), local.compression);
    let packed = blocking(move || {
        // One that came with an image cannot be packed; its step is run again.
        let packed = names.iter().map(|name| incoming.blob_of(name, compression));
        Ok(packed.filter_map(Result::ok).collect::<Vec<Packed>>())
    })
    .await?;
    let places: HashMap<&str, usize> = (packed.iter().enumerate())
        .map(|(place, layer)| (layer.diff_id.as_str(), place))
        .collect();
    let document = Document::write(&came.solved, &came.graph, steps, &places);
    let bundle = Bundle::new(&document, packed, &local.tag, &session.incoming);
    let ask = Ask::CacheOut { index: local.index };
    send_to(&*session.peer, ask, move |out| bundle.write(out)).await
}

/// An OCI layout on its way out.
struct Bundle {
    documents: BTreeMap<String, Vec<u8>>,
    layers: Vec<Packed>,
    incoming: Incoming,
}

impl Bundle {
    fn new(document: &Document, layers: Vec<Packed>, tag: &str, incoming: &Incoming) -> Self {
        let mut documents = BTreeMap::new();
        let mut add = |kind: &str, json: &Value| {
            let bytes = json.to_string().into_bytes();
            let digest = berth_store::digest_of(&bytes);
            let descriptor = json!({"mediaType": kind, "digest": digest, "size": bytes.len()});
            documents.insert(blob_path(&digest), bytes);
            descriptor
        };
        let config = add(DOCUMENT_TYPE, &json!(document));
        let descriptors: Vec<Value> = (layers.iter())
            .map(|layer| {
                json!({
                    "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size,
                })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": descriptors,
        });
        let mut manifest = add(MANIFEST_TYPE, &manifest);
        manifest["annotations"] = json!({ TAG: tag });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest]});
        documents.insert("index.json".to_owned(), index.to_string().into_bytes());
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        documents.insert("oci-layout".to_owned(), layout);
        Self {
            documents,
            layers,
            incoming: incoming.clone(),
        }
    }

    /// The index comes last: what it names is there.
    fn write(self, out: &mut dyn Write) -> Result<(), Error> {
        let mut tar = TarWriter::new(out);
        for directory in ["blobs", "blobs/sha256"] {
            let entry = entry(directory, TarKind::Directory, 0);
            tar.append(&entry, &mut std::io::empty()).api()?;
        }
        let mut written = BTreeSet::new();
        for layer in &self.layers {
            let path = blob_path(&layer.digest);
            if !written.insert(path.clone()) {
                continue;
            }
            let (mut file, size) = self.incoming.open_blob(&layer.digest).api()?;
            let entry = entry(&path, TarKind::File, size);
            tar.append(&entry, &mut file).api()?;
        }
        for (path, bytes) in &self.documents {
            let entry = entry(path, TarKind::File, bytes.len() as u64);
            tar.append(&entry, &mut Cursor::new(bytes)).api()?;
        }
        tar.finish().api()?;
        Ok(())
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn entry(path: &str, kind: TarKind, size: u64) -> TarEntry {
    TarEntry {
        name: path.as_bytes().to_vec(),
        mode: match kind {
            TarKind::Directory => 0o755,
            _ => 0o644,
        },
        kind,
        size,
        ..TarEntry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(from: &[(&str, &str, &str)], to: &[(&str, &str, &str)]) -> BuildRequest {
        let specs = |list: &[(&str, &str, &str)]| {
            let spec = |(kind, name, value): &(&str, &str, &str)| CacheSpec {
                kind: (*kind).to_owned(),
                attributes: match *name {
                    "" => BTreeMap::new(),
                    name => BTreeMap::from([(name.to_owned(), (*value).to_owned())]),
                },
            };
            list.iter().map(spec).collect()
        };
        BuildRequest {
            cache_from: specs(from),
            cache_to: specs(to),
            ..BuildRequest::default()
        }
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let parse = |from: &[_], to: &[_]| Caching::parse(&request(from, to));
        let fine = parse(
            &[("registry", "ref", "app"), ("local", "", "")],
            &[("inline", "", ""), ("local", "mode", "max")],
        )
        .unwrap();
        assert!(fine.inline && fine.to[0].all && fine.to[0].index == 1);
        assert!(
            matches!(&fine.from[0], From::Image(name) if name == "docker.io/library/app:latest")
        );
        for (from, to) in [
            (vec![("s3", "bucket", "x")], vec![]),
            (vec![("tape", "", "")], vec![]),
            (vec![("registry", "", "")], vec![]),
            (vec![("registry", "insecure", "1")], vec![]),
            (vec![], vec![("registry", "ref", "x")]),
            (vec![], vec![("inline", "mode", "max")]),
            (vec![], vec![("local", "mode", "most")]),
            (vec![], vec![("local", "compression", "estargz")]),
        ] {
            assert!(parse(&from, &to).is_err(), "{from:?} {to:?}");
        }
        let mut old = request(&[], &[]);
        let argument = ("BUILDKIT_INLINE_CACHE".to_owned(), Some("1".to_owned()));
        old.build_args.extend([argument]);
        assert!(Caching::parse(&old).unwrap().inline);
    }
}
