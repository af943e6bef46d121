//! `POST /commit`: a container's changes become a layer on its image.

use std::io::{BufWriter, Read};

use berth_api::Error;
use berth_api::container::Config;
use berth_store::{Blob, Incoming, PackAs, Packed, Reference};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::changes;
use crate::container::{Record, merge_image};
use crate::engine::Engine;
use crate::error::{IntoApi as _, waiting};

/// Longest manifest or configuration that is read into memory.
const MAX_DOCUMENT: u64 = 8 << 20;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What `commit` was asked for.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    pub container: String,
    pub repo: String,
    pub tag: String,
    pub comment: String,
    pub author: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// Stop the container's processes meanwhile.
    pub pause: bool,
    /// In place of the container's own, which fills what it leaves open.
    pub config: Option<Config>,
}

impl Engine {
    /// Returns the new image's ID.
    pub async fn commit(&self, options: CommitOptions) -> Result<String, Error> {
        let name = name(&options)?;
        let container = self.find(&options.container)?;
        let record = container.record().clone();
        if record.state.dead || record.state.removing {
            let how = if record.state.dead {
                "Dead"
            } else {
                "being removed"
            };
            return Err(Error::conflict(format!(
                "You cannot commit container {} which is {how}",
                record.id
            )));
        }
        let pause = options.pause && record.state.running && !record.state.paused;
        if pause {
            self.container_pause(&record.id).await?;
        }
        let (engine, target) = (self.clone(), name.clone());
        let (asked, of) = (options.clone(), record.clone());
        let image = waiting("commit", move || {
            engine.commit_image(&of, &asked, target.as_ref())
        })
        .await;
        // It may have ended by itself, or been unpaused by somebody.
        if pause && let Err(error) = self.container_unpause(&record.id).await {
            tracing::info!("after the commit: {error}");
        }
        let id = image?;
        let shown = name.map(|name| name.familiar()).unwrap_or_default();
        let attributes = [
            ("comment", options.comment),
            ("imageID", id.clone()),
            ("imageRef", shown.clone()),
        ];
        self.container_event(&record, "commit", &attributes);
        if !shown.is_empty() {
            self.image_event(&id, &shown, "tag");
        }
        Ok(id)
    }

    fn commit_image(
        &self,
        record: &Record,
        options: &CommitOptions,
        name: Option<&Reference>,
    ) -> Result<String, Error> {
        let config = config(record, options)?;
        let base = self.base(record)?;
        let incoming = self.0.store.incoming().api()?;
        base.keep(&incoming)?;
        let layer = self.pack(record, &incoming)?;

        let text = image_config(&base.config, config, record, options, layer.as_ref());
        let text = encode(&text)?;
        let config_digest = incoming.add_document(&text).api()?;
        let mut layers = base.layers;
        if let Some(layer) = layer {
            layers.push(json!({
                "mediaType": layer.media_type,
                "digest": layer.digest,
                "size": layer.size,
            }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config_digest, "size": text.len() },
            "layers": layers,
        });
        let id = incoming.add_document(&encode(&manifest)?).api()?;
        incoming
            .commit(&id, name.map_or(&[], std::slice::from_ref), &[])
            .api()?;
        Ok(id)
    }

    /// The manifest that the container was made from.
    fn base(&self, record: &Record) -> Result<Base, Error> {
        let store = &self.0.store;
        let image = self.find_image(&record.image)?;
        let manifests = store.manifests(&image.id).api()?;
        let made_from = |config: &str| {
            (manifests.iter()).find(|found| found.available && found.config_digest == config)
        };
        let found = made_from(&record.image_config).or_else(|| made_from(&image.config_digest));
        let Some(found) = found else {
            return Err(Error::conflict(format!(
                "the image of container {} is not here whole: pull or load it again",
                record.id
            )));
        };
        let manifest = self.document(&found.digest)?;
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        Ok(Base {
            config: self.document(&found.config_digest)?,
            layers,
        })
    }

    fn document(&self, digest: &str) -> Result<Value, Error> {
        let (file, _) = self.0.store.open_blob(digest).api()?;
        let mut text = Vec::new();
        file.take(MAX_DOCUMENT)
            .read_to_end(&mut text)
            .map_err(|error| Error::system(format!("read blob {digest}: {error}")))?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::system(format!("read blob {digest}: {error}")))
    }

    /// The changes as a layer; none if there are none.
    fn pack(&self, record: &Record, incoming: &Incoming) -> Result<Option<Packed>, Error> {
        let (mut reader, writer) =
            std::io::pipe().map_err(|error| Error::system(format!("make a pipe: {error}")))?;
        std::thread::scope(|scope| {
            let diff = scope.spawn(move || {
                let mut out = BufWriter::with_capacity(64 << 10, writer);
                self.0.store.diff(&record.id, &mut out)
            });
            let packed = incoming.pack(&mut reader, PackAs::Gzip);
            drop(reader);
            let diff = diff
                .join()
                .map_err(|_| Error::system("reading the container's files failed"))?;
            match (diff, packed) {
                (Ok(any), packed) => Ok(Some(packed.api()?).filter(|_| any)),
                // It ended because nobody read on; why, the other says.
                (Err(error), Err(why)) if is_broken_pipe(&error) => Err(why).api(),
                (Err(error), _) => Err(error).api(),
            }
        })
    }
}

fn is_broken_pipe(error: &berth_store::Error) -> bool {
    matches!(error, berth_store::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
}

struct Base {
    config: Value,
    /// Descriptors, bottom first.
    layers: Vec<Value>,
}

impl Base {
    /// Locks blobs and layers of the base against collection.
    fn keep(&self, incoming: &Incoming) -> Result<(), Error> {
        for layer in &self.layers {
            let digest = layer["digest"].as_str().unwrap_or_default();
            let size = layer["size"].as_u64().unwrap_or_default();
            match incoming.blob(digest, size).api()? {
                Blob::Present(_) => {}
                Blob::Arriving(_) => {
                    return Err(Error::conflict(format!(
                        "blob {digest} of the container's image is not here"
                    )));
                }
            }
        }
        for diff_id in diff_ids(&self.config) {
            if !incoming.has_layer(diff_id.as_str().unwrap_or_default()) {
                return Err(Error::conflict(format!(
                    "layer {diff_id} of the container's image is not here"
                )));
            }
        }
        Ok(())
    }
}

fn name(options: &CommitOptions) -> Result<Option<Reference>, Error> {
    let text = match (options.repo.as_str(), options.tag.as_str()) {
        ("", _) => return Ok(None),
        (repo, "") => repo.to_owned(),
        (repo, tag) => format!("{repo}:{tag}"),
    };
    let reference = Reference::parse(&text).api()?;
    if reference.digest.is_some() {
        return Err(Error::invalid("cannot commit to digest reference"));
    }
    Ok(Some(reference))
}

/// The part of the new configuration that containers get.
fn config(record: &Record, options: &CommitOptions) -> Result<Value, Error> {
    let given = options.config.as_ref().unwrap_or(&record.config);
    let mut config = changes::changed(given, &options.changes)?;
    merge_image(&mut config, &record.config);
    // What belongs to one container only is not the image's.
    Ok(changes::of_image(&config))
}

fn diff_ids(config: &Value) -> &[Value] {
    config["rootfs"]["diff_ids"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

fn image_config(
    base: &Value,
    config: Value,
    record: &Record,
    options: &CommitOptions,
    layer: Option<&Packed>,
) -> Value {
    let now = Timestamp::now().to_string();
    let mut image = Map::new();
    for key in ["architecture", "variant", "os", "os.version", "os.features"] {
        if let Some(value) = base.get(key) {
            image.insert(key.into(), value.clone());
        }
    }
    if !options.author.is_empty() {
        image.insert("author".into(), json!(options.author));
    }
    image.insert("created".into(), json!(now));
    image.insert("config".into(), config);

    let mut step = Map::from_iter([("created".to_owned(), json!(now))]);
    let command = record.config.cmd.iter().flat_map(|words| words.iter());
    let command = command.cloned().collect::<Vec<_>>().join(" ");
    for (key, value) in [
        ("created_by", &command),
        ("author", &options.author),
        ("comment", &options.comment),
    ] {
        if !value.is_empty() {
            step.insert(key.into(), json!(value));
        }
    }
    let mut layers = diff_ids(base).to_vec();
    match layer {
        Some(layer) => layers.push(json!(layer.diff_id)),
        None => {
            step.insert("empty_layer".into(), json!(true));
        }
    }
    let mut history = base["history"].as_array().cloned().unwrap_or_default();
    history.push(Value::Object(step));
    image.insert("history".into(), json!(history));
    image.insert(
        "rootfs".into(),
        json!({ "type": "layers", "diff_ids": layers }),
    );
    Value::Object(image)
}

fn encode(value: &Value) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
        .map_err(|error| Error::system(format!("write the image's documents: {error}")))
}
