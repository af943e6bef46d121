//! A connection taken over as a raw stream: attach and exec.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::Connection;
use crate::failure::Failure;

/// The connection after `101 Switching Protocols`.
#[derive(Debug)]
pub(crate) struct Hijacked {
    pub(crate) stream: Connection,
    /// What arrived together with the reply's head.
    pub(crate) early: Bytes,
}

pub(super) async fn take(response: Response<Incoming>) -> Result<Hijacked, Failure> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::new(format!(
            "unable to upgrade to tcp, received {}",
            response.status().as_u16()
        )));
    }
    let broken = |why: String| Failure::new(format!("cannot take over the connection: {why}"));
    let upgraded = hyper::upgrade::on(response)
        .await
        .map_err(|error| broken(error.to_string()))?;
    let parts = upgraded
        .downcast::<TokioIo<Connection>>()
        .map_err(|_| broken("it is of another kind".to_owned()))?;
    Ok(Hijacked {
        stream: parts.io.into_inner(),
        early: parts.read_buf,
    })
}
