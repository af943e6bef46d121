//! Errors of the command line: one sentence each.

use std::fmt;

/// What was tried, on what, and why it failed.
#[derive(Debug)]
pub(crate) struct Error(String);

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<berth_runtime_core::Error> for Error {
    fn from(error: berth_runtime_core::Error) -> Self {
        Self(error.to_string())
    }
}

/// Says what was tried when it failed.
pub(crate) trait Context<T> {
    fn context(self, tried: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, tried: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error(format!("{}: {error}", tried())))
    }
}
