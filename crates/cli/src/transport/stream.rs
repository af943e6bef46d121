//! Replies that are a sequence of JSON values.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Longest single value, in bytes: more is a broken engine.
const MAX_VALUE: usize = 64 * 1024 * 1024;

/// JSON values one after another, with or without newlines between.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
}

impl Lines {
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
            ended: false,
        }
    }

    /// The next value; none at the end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<T>();
            match values.next() {
                Some(Ok(value)) => {
                    let used = values.byte_offset();
                    self.buffer.advance(used);
                    return Ok(Some(value));
                }
                Some(Err(error)) if !error.is_eof() => {
                    return Err(Failure::new(format!(
                        "cannot read the engine's reply: {error}"
                    )));
                }
                Some(Err(_)) if self.ended => {
                    return Err(Failure::new("unexpected EOF"));
                }
                None if self.ended => return Ok(None),
                _ => {}
            }
            if self.buffer.len() > MAX_VALUE {
                return Err(Failure::new(format!(
                    "a value of the engine's reply is longer than {MAX_VALUE} bytes"
                )));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(format!(
                        "the engine's reply broke off: {error}"
                    )));
                }
                None => self.ended = true,
            }
        }
    }
}
