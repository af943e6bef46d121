//! What can go wrong, in the words Docker's clients know where they match them.

use std::io;

/// Kinds that clients tell apart; the words are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// "No such image: x"
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    /// Bad reference, bad archive.
    #[error("{0}")]
    Invalid(String),
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: io::Error,
    },
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: what was tried, on what.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl ToString,
    ) -> impl FnOnce(E) -> Error {
        move |source| Error::Io {
            action,
            path: path.to_string(),
            source: source.into(),
        }
    }

    /// For `map_err` of reads from a foreign stream: what the stream says
    /// wrong is `Invalid`, what the machine says wrong is `Io`.
    pub(crate) fn stream(what: &str) -> impl FnOnce(io::Error) -> Error + use<'_> {
        move |source| match source.raw_os_error() {
            Some(_) => Error::Io {
                action: "read",
                path: what.to_owned(),
                source,
            },
            None if source.kind() == io::ErrorKind::UnexpectedEof => {
                Error::Invalid(format!("{what} is truncated: {source}"))
            }
            None => Error::Invalid(format!("{what} is damaged: {source}")),
        }
    }

    /// Puts in front of a complaint about content where it was found.
    pub(crate) fn within(self, place: &str) -> Error {
        match self {
            Error::Invalid(text) => Error::Invalid(format!("{place}: {text}")),
            other => other,
        }
    }
}

/// Shorthand for a complaint about foreign content.
pub(crate) fn invalid<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(text.into()))
}
