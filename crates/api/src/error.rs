//! Errors that a client can tell apart.

use serde::{Deserialize, Serialize};

/// Decides the HTTP status; nothing else about the error does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 304
    NotModified,
    /// 400
    Invalid,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 409
    Conflict,
    /// 500
    System,
    /// 501
    NotImplemented,
    /// 503
    Unavailable,
}

impl Kind {
    pub fn status(self) -> u16 {
        match self {
            Self::NotModified => 304,
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::System => 500,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
        }
    }
}

/// A sentence for people, and its kind. The words are Docker's where clients
/// match on them ("No such container: x").
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: Kind,
    pub message: String,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }
    pub fn system(message: impl Into<String>) -> Self {
        Self::new(Kind::System, message)
    }
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(Kind::NotImplemented, message)
    }
}

/// The body of every error reply.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Body {
    pub message: String,
}
