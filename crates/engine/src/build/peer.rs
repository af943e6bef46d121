//! The client of a build, as the engine sees it: someone who gives what is
//! asked for. Over HTTP it is the classic client with its one tar stream, or
//! berth's own with a connection for all.

use std::pin::Pin;
use std::sync::Arc;

use berth_api::Error;
use tokio::io::DuplexStream;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// What a client is asked for. Each is answered by a stream of bytes; see
/// [`berth_api::build`] for what crosses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Walk {
        context: String,
    },
    Read {
        context: String,
        files: Vec<u32>,
    },
    Archive {
        context: String,
    },
    /// The value; `NotFound` if there is none of that name.
    Secret {
        id: String,
    },
    /// A connection to an SSH agent.
    Ssh {
        id: String,
    },
    /// Takes the tar stream of an output: write, then shut down, then read to
    /// the end, which comes when the client has it all.
    Output {
        index: usize,
    },
    CacheOut {
        index: usize,
    },
    CacheIn {
        index: usize,
    },
}

pub trait Peer: Send + Sync {
    /// # Errors
    /// `NotFound`, `Invalid` as the client says; `NotImplemented` if this kind
    /// of client cannot.
    fn ask(
        &self,
        ask: Ask,
    ) -> Pin<Box<dyn Future<Output = Result<DuplexStream, Error>> + Send + '_>>;
}

/// Leads each connection to the client's SSH agent of that name.
pub(super) async fn forward_agent(listener: UnixListener, peer: Arc<dyn Peer>, id: String) {
    let mut connections = JoinSet::new();
    while let Ok((mut inside, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (peer, id) = (peer.clone(), id.clone());
        connections.spawn(async move {
            match peer.ask(Ask::Ssh { id }).await {
                Ok(mut outside) => {
                    // Either side may leave.
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                }
                Err(error) => tracing::debug!("forward to the SSH agent: {error}"),
            }
        });
    }
}
