//! Images as clients see them; the store does the work.

mod board;
mod commit;
mod document;
mod fetch;
mod hub;
mod inspect;
mod list;
mod load;
mod manifests;
mod names;
mod platform;
mod prune;
mod pull;
mod push;
mod save;
mod tree;

pub use pull::PullRequest;
pub use push::PushRequest;

use std::collections::BTreeMap;

use berth_api::Error;
use berth_api::container::{Config, Platform};
use berth_store::{Image, Reference};
use serde::Deserialize;

pub use self::commit::CommitOptions;
pub(crate) use self::platform::Wanted;
use crate::engine::Engine;
use crate::error::IntoApi as _;

/// The configuration section of an image, Docker's additions included.
pub(crate) fn config_of(image: &Image) -> Result<Config, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Raw {
        config: Option<Config>,
    }
    let raw: Raw = serde_json::from_slice(&image.raw_config).map_err(|error| {
        Error::system(format!("read the configuration of {}: {error}", image.id))
    })?;
    Ok(raw.config.unwrap_or_default())
}

fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// A platform as the store names it.
pub(crate) fn platform(platform: &Platform) -> berth_store::Platform {
    berth_store::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
    }
}

/// Whether nobody can name it: neither by a tag nor in a repository, by digest.
fn is_dangling(image: &Image) -> bool {
    image.names.is_empty() && image.digests.is_empty()
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Engine {
    /// With Docker's words when there is none: the name with its tag.
    pub(crate) fn find_image(&self, name: &str) -> Result<Image, Error> {
        match self.0.store.find(name) {
            Err(berth_store::Error::NotFound(_)) => {
                let shown = match Reference::parse(name) {
                    Ok(reference) if !name.starts_with("sha256:") => reference.familiar(),
                    _ => name.to_owned(),
                };
                Err(Error::not_found(format!("No such image: {shown}")))
            }
            other => other.api(),
        }
    }

    /// The same with what runs on a platform ("linux/arm64"; empty is this
    /// machine's), unpacked.
    pub(crate) fn image_to_run(&self, name: &str, platform: &str) -> Result<Image, Error> {
        let mut image = self.find_image(name)?;
        if !platform.is_empty() {
            let wanted = Wanted::parse(platform)?;
            image = self.0.store.find_platform(name, wanted.platform()).api()?;
        }
        self.0.store.unpack(&image).api()?;
        Ok(image)
    }

    /// The same for one platform of an image.
    fn find_image_for(&self, name: &str, wanted: Option<&Platform>) -> Result<Image, Error> {
        let image = self.find_image(name)?;
        match wanted {
            None => Ok(image),
            Some(wanted) => self.0.store.find_platform(name, &platform(wanted)).api(),
        }
    }

    pub(crate) fn image_event(&self, id: &str, name: &str, action: &str) {
        let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
        self.0.events.emit("image", action, id, attributes);
    }
}
