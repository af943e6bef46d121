//! The client of a build, as the engine sees it: someone who gives what is
//! asked for. Over HTTP it is the classic client with its one tar stream, or
//! berth's own with a connection for all.

use std::pin::Pin;

use berth_api::Error;
use tokio::io::DuplexStream;

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
