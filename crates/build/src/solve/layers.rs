//! What a solve needs of the store.

use std::fmt::Debug;
use std::io::Read;

use berth_store::{Digest, Incoming, Pin, Store};

use super::Error;

/// Layers, and what keeps them. Blocking, and short except for
/// [`Hold::layer`].
pub trait Layers: Debug + Send + Sync {
    /// See [`Store::pin`].
    fn pin(&self, pin: Pin) -> Result<(), Error>;
    fn unpin(&self, keys: &[String]) -> Result<(), Error>;
    fn pins(&self) -> Vec<Pin>;
    fn hold(&self) -> Result<Box<dyn Hold>, Error>;
}

/// Keeps layers for as long as it lives.
pub trait Hold: Debug + Send + Sync {
    /// # Errors
    /// `NotFound` if it is not here.
    fn keep(&self, layer: &str) -> Result<(), Error>;
    /// Makes a layer of a plain, canonical tar stream, and keeps it.
    fn layer(&self, plain: &mut dyn Read) -> Result<Digest, Error>;
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
}

impl Hold for Incoming {
    fn keep(&self, layer: &str) -> Result<(), Error> {
        Ok(self.keep_layer(layer)?)
    }

    fn layer(&self, plain: &mut dyn Read) -> Result<Digest, Error> {
        Ok(Self::layer(self, plain)?)
    }
}
