//! What a solve needs of the store.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::Read;

use berth_store::{Digest, Image, Incoming, Pin, Placed, Store};

use super::Error;
use super::usage::Measured;

/// Layers, and what keeps them. Blocking, and short except for
/// [`Hold::layer`].
pub trait Layers: Debug + Send + Sync {
    /// See [`Store::pin`].
    fn pin(&self, pin: Pin) -> Result<(), Error>;
    fn unpin(&self, keys: &[String]) -> Result<(), Error>;
    fn pins(&self) -> Vec<Pin>;
    fn hold(&self) -> Result<Box<dyn Hold>, Error>;
    /// All layers. What was not measured yet is walked.
    fn measure(&self) -> Result<HashMap<Digest, Measured>, Error>;
}

/// Keeps layers for as long as it lives.
pub trait Hold: Debug + Send + Sync {
    /// # Errors
    /// `NotFound` if it is not here.
    fn keep(&self, layer: &str) -> Result<(), Error>;
    /// # Errors
    /// `NotFound` if it is not here.
    fn keep_blob(&self, blob: &str) -> Result<(), Error>;
    /// Whether a layer can be made over a file with contents.
    fn places(&self) -> bool;
    /// Makes a layer of a plain, canonical tar stream, and keeps it.
    /// See [`Incoming::layer_over`].
    fn layer(&self, placed: Option<Placed>, plain: &mut dyn Read) -> Result<Digest, Error>;
}

impl From<berth_store::Error> for Error {
    fn from(error: berth_store::Error) -> Self {
        match error {
            berth_store::Error::NotFound(text) => Self::NotFound(text),
            berth_store::Error::Invalid(text) => Self::Invalid(text),
            other => Self::System(other.to_string()),
        }
    }
}

impl Layers for Store {
    fn pin(&self, pin: Pin) -> Result<(), Error> {
        Ok(Self::pin(self, pin)?)
    }

    fn unpin(&self, keys: &[String]) -> Result<(), Error> {
        Ok(Self::unpin(self, keys)?)
    }

    fn pins(&self) -> Vec<Pin> {
        Self::pins(self)
    }

    fn hold(&self) -> Result<Box<dyn Hold>, Error> {
        Ok(Box::new(self.incoming()?))
    }

    fn measure(&self) -> Result<HashMap<Digest, Measured>, Error> {
        let names: HashMap<Digest, String> = (self.images().into_iter())
            .map(|image| (image.id.clone(), shown(image)))
            .collect();
        let layers = self.layer_usages()?.into_iter();
        Ok(layers
            .map(|layer| {
                let images = layer.images.into_iter();
                let measured = Measured {
                    size: layer.size,
                    images: images
                        .map(|id| names.get(&id).cloned().unwrap_or(id))
                        .collect(),
                    has_container: layer.has_snapshot,
                };
                (layer.diff_id, measured)
            })
            .collect())
    }
}

/// As people know an image.
fn shown(image: Image) -> String {
    let mut names = image.names.into_iter();
    names.next().unwrap_or(image.id)
}

impl Hold for Incoming {
    fn keep(&self, layer: &str) -> Result<(), Error> {
        Ok(self.keep_layer(layer)?)
    }

    fn keep_blob(&self, blob: &str) -> Result<(), Error> {
        // What is opened is kept.
        self.open_blob(blob)?;
        Ok(())
    }

    fn places(&self) -> bool {
        Self::places(self)
    }

    fn layer(&self, placed: Option<Placed>, plain: &mut dyn Read) -> Result<Digest, Error> {
        Ok(self.layer_over(placed, plain)?)
    }
}
