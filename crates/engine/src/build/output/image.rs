//! Documents and blobs of an image, made of layers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use berth_api::Error;
use berth_build::image::{Annotations, Compression, Descriptor, configuration, index, manifest};
use berth_build::tree::{Blob as LayerBlob, Layer};
use berth_store::{Blob, Digest, Incoming, PackAs, Store};

use super::Platformed;
use super::attributes::{Level, Options};
use super::steps::Steps;
use crate::error::IntoApi as _;

/// Layers that are compressed at the same time.
const PACKERS: usize = 4;

/// An image whose parts are all in the [`Incoming`].
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// Its manifest or index.
    pub(super) root: Descriptor,
    /// Of an image of one platform.
    pub(super) config: Option<Digest>,
}

/// Blobs of layers, each made once for all outputs of a build.
#[derive(Debug)]
pub(super) struct Blobs {
    store: Store,
    pub(super) incoming: Incoming,
    made: Mutex<BTreeMap<Key, LayerBlob>>,
}

/// Layer, compression and its level.
type Key = (Digest, String);

impl Blobs {
    pub(super) fn new(store: Store, incoming: Incoming) -> Self {
        Self {
            store,
            incoming,
            made: Mutex::default(),
        }
    }

    fn made(&self) -> MutexGuard<'_, BTreeMap<Key, LayerBlob>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All documents and blobs. Several platforms become an index.
    pub(super) fn make(
        &self,
        results: &[Platformed],
        multi: bool,
        options: &Options,
        steps: &Steps,
    ) -> Result<Made, Error> {
        {
            let _exporting = steps.part("exporting layers");
            self.layers(results, options)?;
        }
        let mut manifests = Vec::new();
        let mut configs = Vec::new();
        for result in results {
            let platform = &result.plan.platform;
            let marks = |level| options.annotations.of(level, Some(platform));
            let text = configuration(
                &result.plan.image,
                platform,
                &result.chain,
                &result.produced,
                &result.extra,
            );
            let config = self.document(&text, options.family.config(), "config", steps)?;
            let layers = (result.chain.iter())
                .map(|layer| self.descriptor(layer, options))
                .collect::<Result<Vec<_>, _>>()?;
            let text = manifest(options.family, &config, &layers, &marks(Level::Manifest));
            let mut manifest =
                self.document(&text, options.family.manifest(), "manifest", steps)?;
            manifest.annotations = marks(Level::ManifestDescriptor);
            manifest.platform = Some(platform.clone());
            manifests.push(manifest);
            configs.push(config.digest);
        }
        let of_index = |level| match multi {
            true => options.annotations.of(level, None),
            false => Annotations::new(),
        };
        if !multi && let (Some(root), Some(config)) = (manifests.pop(), configs.pop()) {
            return Ok(Made {
                root,
                config: Some(config),
            });
        }
        let text = index(options.family, &manifests, &of_index(Level::Index));
        let mut root = self.document(&text, options.family.index(), "manifest list", steps)?;
        root.annotations = of_index(Level::IndexDescriptor);
        Ok(Made { root, config: None })
    }

    fn document(
        &self,
        text: &[u8],
        media_type: &str,
        what: &str,
        steps: &Steps,
    ) -> Result<Descriptor, Error> {
        let digest = self.incoming.add_document(text).api()?;
        drop(steps.part(&format!("exporting {what} {digest}")));
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: text.len() as u64,
            ..Descriptor::default()
        })
    }

    fn descriptor(&self, layer: &Layer, options: &Options) -> Result<Descriptor, Error> {
        let key = key(layer, options);
        let blob = self.made().get(&key).cloned();
        let blob = match blob {
            Some(blob) => blob,
            None => self.blob(layer, options)?,
        };
        Ok(Descriptor {
            media_type: options.family.layer(&blob.media_type),
            digest: blob.digest,
            size: blob.size,
            ..Descriptor::default()
        })
    }

    /// Makes the blobs of all layers, several at once.
    fn layers(&self, results: &[Platformed], options: &Options) -> Result<(), Error> {
        let layers: BTreeMap<&Digest, &Layer> = (results.iter())
            .flat_map(|result| result.chain.iter())
            .map(|layer| (&layer.digest, layer))
            .collect();
        let queue: Mutex<VecDeque<&Layer>> = Mutex::new(layers.into_values().collect());
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.pop_front()
        };
        let work = || {
            while let Some(layer) = next() {
                let blob = self.blob(layer, options)?;
                self.made().insert(key(layer, options), blob);
            }
            Ok(())
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let packers = match options.compression {
            Compression::Uncompressed if !options.force => 1,
            _ => cores.min(PACKERS),
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..packers).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for other in others {
                let joined = other.join();
                let joined = joined.map_err(|_| Error::system("compressing a layer failed"));
                result = result.and_then(|()| joined?);
            }
            result
        })
    }

    /// A layer that came with an image keeps its blob, unless all are to be
    /// compressed alike.
    fn blob(&self, layer: &Layer, options: &Options) -> Result<LayerBlob, Error> {
        if let Some(blob) = self.made().get(&key(layer, options)) {
            return Ok(blob.clone());
        }
        self.incoming.keep_layer(&layer.digest).api()?;
        let packed = match &layer.blob {
            Some(blob) => {
                self.keep(blob)?;
                let is = Compression::of(&blob.media_type);
                if !options.force || is.is_none_or(|is| is == options.compression) {
                    return Ok(blob.clone());
                }
                self.incoming
                    .repack(&blob.digest, &layer.digest, pack_as(options))
                    .api()?
            }
            None => {
                let packed = self.incoming.blob_of(&layer.digest, pack_as(options));
                packed.api()?
            }
        };
        Ok(LayerBlob {
            media_type: packed.media_type,
            digest: packed.digest,
            size: packed.size,
        })
    }

    /// Locks a blob of the store against collection.
    fn keep(&self, blob: &LayerBlob) -> Result<(), Error> {
        let digest = &blob.digest;
        let gone = || {
            Error::not_found(format!(
                "blob {digest} of the base image is not here: pull the image again"
            ))
        };
        self.store.open_blob(digest).map_err(|_| gone())?;
        match self.incoming.blob(digest, blob.size).api()? {
            Blob::Present(_) => Ok(()),
            Blob::Arriving(_) => Err(gone()),
        }
    }
}

fn key(layer: &Layer, options: &Options) -> Key {
    let how = format!(
        "{:?} {:?} {}",
        options.compression, options.level, options.force
    );
    (layer.digest.clone(), how)
}

fn pack_as(options: &Options) -> PackAs {
    match (options.compression, options.level) {
        (Compression::Uncompressed, _) => PackAs::Plain,
        (Compression::Gzip, None) => PackAs::Gzip,
        // Attributes are read so that it is 0 to 9.
        (Compression::Gzip, Some(level)) => PackAs::GzipLevel(level.unsigned_abs()),
        (Compression::Zstd, None) => PackAs::Zstd,
        (Compression::Zstd, Some(level)) => PackAs::ZstdLevel(level),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use berth_api::build::{BuildRequest, Output};
    use berth_build::graph::{Graph, History, ImagePlan, Plan};
    use berth_store::{Platform, Reference};
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::build::output::attributes::{self, Kind};

    fn plain(name: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &b"abc"[..]).unwrap();
        tar.into_inner().unwrap()
    }

    fn layer(incoming: &Incoming, name: &str, pack: PackAs) -> Layer {
        let packed = incoming.pack(&mut plain(name).as_slice(), pack).unwrap();
        Layer {
            digest: packed.diff_id.clone(),
            stored: packed.diff_id,
            blob: Some(LayerBlob {
                media_type: packed.media_type,
                digest: packed.digest,
                size: packed.size,
            }),
        }
    }

    fn result(architecture: &str, layers: Vec<Layer>) -> Platformed {
        let entries = layers.iter().enumerate().map(|(vertex, _)| History {
            created_by: format!("RUN {vertex}"),
            vertex: Some(vertex),
            ..History::default()
        });
        Platformed {
            plan: Plan {
                graph: Graph::default(),
                output: None,
                image: ImagePlan {
                    history: entries.collect(),
                    ..ImagePlan::default()
                },
                platform: Platform {
                    os: "linux".into(),
                    architecture: architecture.into(),
                    ..Platform::default()
                },
            },
            produced: (0..layers.len()).collect::<BTreeSet<_>>(),
            chain: Arc::from(layers),
            extra: Map::new(),
        }
    }

    fn options(attributes: &[(&str, &str)], platforms: &[&str]) -> Options {
        let request = BuildRequest {
            platforms: platforms.iter().map(|&text| text.to_owned()).collect(),
            outputs: vec![Output {
                kind: "image".into(),
                attributes: (attributes.iter())
                    .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            }],
            ..BuildRequest::default()
        };
        match attributes::parse(&request).unwrap().remove(0).kind {
            Kind::Image { options, .. } => options,
            other => panic!("{other:?}"),
        }
    }

    fn document(incoming: &Incoming, digest: &str) -> Value {
        let (file, _) = incoming.open_blob(digest).unwrap();
        serde_json::from_reader(file).unwrap()
    }

    #[test]
    fn an_image_of_layers_that_have_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let incoming = store.incoming().unwrap();
        let base = [
            layer(&incoming, "a", PackAs::Gzip),
            layer(&incoming, "b", PackAs::Plain),
        ];
        // As if it had been pulled.
        let blobs = Blobs::new(store.clone(), incoming.clone());
        let results = [result("amd64", base.to_vec())];
        let steps = Steps::begin(&(Arc::new(|_| {}) as berth_build::progress::Sink), 0, "x");
        let gone = blobs.make(&results, false, &options(&[], &[]), &steps);
        assert!(gone.unwrap_err().message.contains("pull the image again"));
        let config = configuration(
            &ImagePlan::default(),
            &results[0].plan.platform,
            &base,
            &BTreeSet::new(),
            &Map::new(),
        );
        let id = {
            let of = |layer: &Layer| {
                let blob = layer.blob.clone().unwrap();
                json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size})
            };
            let digest = incoming.add_document(&config).unwrap();
            let manifest = json!({"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len()}, "layers": base.iter().map(of).collect::<Vec<_>>()});
            incoming
                .add_document(manifest.to_string().as_bytes())
                .unwrap()
        };
        incoming.commit(&id, &[], &[]).unwrap();

        let make = |attributes: &[(&str, &str)]| {
            let made = blobs
                .make(&results, false, &options(attributes, &[]), &steps)
                .unwrap();
            (document(&incoming, &made.root.digest), made)
        };
        let (manifest, made) = make(&[("annotation.k", "v")]);
        assert_eq!(manifest["annotations"], json!({"k": "v"}));
        let own = base[0].blob.clone().unwrap();
        assert_eq!(
            manifest["layers"][0],
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": own.digest, "size": own.size})
        );
        let config = document(&incoming, &made.config.clone().unwrap());
        assert_eq!(config["rootfs"]["diff_ids"][1], json!(base[1].digest));
        assert!(config.get("created").is_none());
        // The same again.
        assert_eq!(make(&[("annotation.k", "v")]).1.root, made.root);

        let (docker, _) = make(&[("oci-mediatypes", "false")]);
        assert_eq!(
            docker["layers"][1]["mediaType"],
            "application/vnd.docker.image.rootfs.diff.tar"
        );
        let (zstd, made) = make(&[("compression", "zstd"), ("force-compression", "true")]);
        for layer in zstd["layers"].as_array().unwrap() {
            assert_eq!(
                layer["mediaType"],
                "application/vnd.oci.image.layer.v1.tar+zstd"
            );
        }
        let name = Reference::parse("built:1").unwrap();
        let image = incoming
            .commit(&made.root.digest, std::slice::from_ref(&name), &[])
            .unwrap();
        drop((blobs, incoming));
        // What was made and is in no image is gone, the image is whole.
        assert_eq!(store.find("built:1").unwrap().id, image.id);
        assert!(store.manifests(&image.id).unwrap()[0].available);
        for level in ["1", "22"] {
            let options = options(
                &[("compression", "zstd"), ("compression-level", level)],
                &[],
            );
            assert!(matches!(pack_as(&options), PackAs::ZstdLevel(_)));
        }
    }

    #[test]
    fn several_platforms_are_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let incoming = store.incoming().unwrap();
        let blobs = Blobs::new(store, incoming.clone());
        let results = ["amd64", "arm64"].map(|architecture| result(architecture, Vec::new()));
        let steps = Steps::begin(&(Arc::new(|_| {}) as berth_build::progress::Sink), 0, "x");
        let attributes = [
            ("annotation-index.i", "1"),
            ("annotation-manifest-descriptor[linux/arm64].d", "2"),
            ("annotation-index-descriptor.r", "3"),
        ];
        let options = options(&attributes, &["linux/amd64", "linux/arm64"]);
        let made = blobs.make(&results, true, &options, &steps).unwrap();
        assert_eq!(made.config, None);
        assert_eq!(made.root.annotations["r"], "3");
        let index = document(&incoming, &made.root.digest);
        assert_eq!(index["annotations"], json!({"i": "1"}));
        assert_eq!(index["manifests"][0].get("annotations"), None);
        assert_eq!(index["manifests"][1]["annotations"], json!({"d": "2"}));
        assert_eq!(
            index["manifests"][1]["platform"],
            json!({"architecture": "arm64", "os": "linux"})
        );
        // Images without layers: `FROM scratch` and only metadata.
        incoming.commit(&made.root.digest, &[], &[]).unwrap();
    }
}
