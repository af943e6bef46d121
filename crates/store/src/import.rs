//! `docker import`: a root filesystem becomes an image of one layer.

use std::io::Read;

use oci_spec::image::{HistoryBuilder, ImageConfiguration, RootFs};

use crate::blob::Tee;
use crate::decompress::{Compression, decode, detect};
use crate::error::{Error, Result, invalid};
use crate::incoming::Incoming;
use crate::layer::Ending;
use crate::manifest::{Family, write};
use crate::publish::NewImage;
use crate::state::now;
use crate::unpack::unpack_plain;
use crate::{Image, Reference, Store};

impl Store {
    /// Makes a one-layer image from a root filesystem archive (compressed or
    /// not) and a configuration whose `rootfs` and `history` are filled in
    /// here: the last entry of `history`, if there is one, is completed and
    /// describes the layer (its `comment` is `docker import`'s message). `own`
    /// is what its `config` has that OCI does not know.
    ///
    /// # Errors
    /// `Invalid` if the archive is not a whole, harmless tar stream.
    pub fn import(
        &self,
        archive: &mut dyn Read,
        mut config: ImageConfiguration,
        own: serde_json::Map<String, serde_json::Value>,
        name: Option<&Reference>,
    ) -> Result<Image> {
        if name.is_some_and(|name| name.digest.is_some()) {
            return invalid("cannot import digest reference");
        }
        let incoming = Incoming::new(&self.inner, "import")?;
        let (inner, work) = (incoming.inner(), incoming.work());

        // One pass: the blob as it came is written while it is unpacked. What
        // no media type can name (xz, bzip2) is kept plain instead.
        let (file_name, file) = incoming.create()?;
        let (compression, stream) = detect(archive)?;
        let (layer, blob, stored_as) = match compression {
            Compression::Xz | Compression::Bzip2 => {
                let mut plain = Tee::copy(decode(compression, stream)?, file);
                let layer = unpack_plain(inner, work, &mut plain, Ending::Marked)?;
                (layer, plain.finish(), Compression::None)
            }
            known => {
                let mut raw = Tee::copy(stream, file);
                let layer = unpack_plain(inner, work, decode(known, &mut raw)?, Ending::Marked)?;
                (layer, raw.finish(), known)
            }
        };
        let (blob, size) = blob.map_err(Error::stream("the archive"))?;
        incoming.add(file_name, blob.clone(), size);

        let time = now();
        let created = config.created().clone().unwrap_or_else(|| time.clone());
        config.set_created(Some(created.clone()));
        let mut rootfs = RootFs::default();
        rootfs.set_diff_ids(vec![layer.diff_id.clone()]);
        config.set_rootfs(rootfs);
        let mut entry = config
            .history()
            .as_ref()
            .and_then(|history| history.last().cloned())
            .map_or_else(
                || HistoryBuilder::default().comment("Imported from -").build(),
                Ok,
            )
            .map_err(|e| Error::Invalid(format!("history of the image: {e}")))?;
        entry.set_created(Some(created));
        entry.set_empty_layer(None);
        config.set_history(Some(vec![entry]));

        // Through a Value, whose keys are in order: equal input, equal digest.
        let invalid_config =
            |e: serde_json::Error| Error::Invalid(format!("configuration of the image: {e}"));
        let mut value = serde_json::to_value(&config).map_err(invalid_config)?;
        if let Some(config) = value
            .get_mut("config")
            .and_then(serde_json::Value::as_object_mut)
        {
            config.extend(own);
        }
        let raw_config = serde_json::to_vec(&value).map_err(invalid_config)?;
        let config_digest = incoming.spool(&mut raw_config.as_slice())?;
        let manifest = write(
            Family::Oci,
            (&config_digest, raw_config.len() as u64),
            &[(stored_as, &blob, size)],
        );
        let id = incoming.spool(&mut manifest.as_slice())?;

        incoming.add_layer(layer)?;
        let images = incoming.publish(vec![NewImage {
            id: id.clone(),
            names: name.map(Reference::full).into_iter().collect(),
            digests: Vec::new(),
            loaded_at: time,
        }]);
        let image = images?.pop();
        image.ok_or_else(|| Error::NotFound(format!("No such image: {id}")))
    }
}
