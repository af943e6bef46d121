//! The client of a session as the engine sees it: what the engine asks for goes
//! out as a message that opens a channel.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_api::Error;
use berth_api::build::ToClient;
use berth_api::build::frame::{self, Kind};
use berth_engine::build::{Ask, Peer};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

/// Bytes of a channel that may wait for the engine; then the whole connection
/// waits.
const BUFFER: usize = 256 * 1024;

/// Bytes of a channel in one frame to the client.
const CHUNK: usize = 64 * 1024;

/// Files in one [`ToClient::Read`], so that it fits into a frame.
const MAX_FILES: usize = 50_000;

/// What is to be written to the client.
#[derive(Debug)]
pub(super) enum Outgoing {
    Frame(Bytes),
    /// After it nothing is.
    Last(Bytes),
}

/// The channels of one session. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Channels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    out: mpsc::Sender<Outgoing>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// The number given last.
    last: u32,
    /// Those that the client has not ended.
    channels: HashMap<u32, Channel>,
}

/// The client's direction of a channel.
#[derive(Debug)]
struct Channel {
    /// Who waits for the first sign of the client.
    answer: Option<oneshot::Sender<Result<(), Error>>>,
    /// None when the engine wants no more.
    writer: Option<WriteHalf<DuplexStream>>,
}

/// The client did what the protocol does not allow.
#[derive(Debug, thiserror::Error)]
#[error("channel {0} was never opened")]
pub(super) struct Unopened(u32);

impl Channels {
    pub(super) fn new(out: mpsc::Sender<Outgoing>) -> Self {
        let open = Mutex::default();
        Self(Arc::new(Inner { out, open }))
    }

    /// Bytes from the client. Waits until the engine has taken enough of what
    /// came before.
    pub(super) async fn data(&self, number: u32, bytes: &[u8]) -> Result<(), Unopened> {
        let Some(mut writer) = self.take_writer(number)? else {
            return Ok(());
        };
        if writer.write_all(bytes).await.is_ok()
            && let Some(channel) = self.lock().channels.get_mut(&number)
        {
            channel.writer = Some(writer);
        }
        Ok(())
    }

    /// The client sends no more.
    pub(super) async fn end(&self, number: u32) -> Result<(), Unopened> {
        let writer = self.take_writer(number)?;
        self.lock().channels.remove(&number);
        if let Some(mut writer) = writer {
            // Fails only when the engine wants no more.
            let _ = writer.shutdown().await;
        }
        Ok(())
    }

    /// The client cannot give what it was asked for. Returns the error if it
    /// comes too late to be an answer: the engine has seen bytes, and must not
    /// take them for the whole.
    pub(super) fn refused(&self, number: u32, error: Error) -> Result<Option<Error>, Unopened> {
        let mut open = self.lock();
        if number == 0 || number > open.last {
            return Err(Unopened(number));
        }
        let Entry::Occupied(mut channel) = open.channels.entry(number) else {
            return Ok(None);
        };
        Ok(match channel.get_mut().answer.take() {
            Some(answer) => {
                channel.remove();
                let _ = answer.send(Err(error));
                None
            }
            None => Some(error),
        })
    }

    /// The client has what it was asked for, and will send it.
    pub(super) fn accepted(&self, number: u32) -> Result<(), Unopened> {
        let mut open = self.lock();
        if number == 0 || number > open.last {
            return Err(Unopened(number));
        }
        if let Some(channel) = open.channels.get_mut(&number) {
            channel.accept();
        }
        Ok(())
    }

    /// For the time of a write: nobody else writes, for there is one reader of
    /// the connection.
    fn take_writer(&self, number: u32) -> Result<Option<WriteHalf<DuplexStream>>, Unopened> {
        let mut open = self.lock();
        if number == 0 || number > open.last {
            return Err(Unopened(number));
        }
        Ok(open.channels.get_mut(&number).and_then(|channel| {
            channel.accept();
            channel.writer.take()
        }))
    }

    /// Asks, and waits for the answer if it has one.
    async fn open(
        &self,
        ask: impl FnOnce(u32) -> ToClient + Send,
        answered: bool,
    ) -> Result<DuplexStream, Error> {
        let gone = || Error::system("the client of the build is gone");
        let (theirs, ours) = tokio::io::duplex(BUFFER);
        let (reader, writer) = tokio::io::split(ours);
        let (sender, answer) = oneshot::channel();
        let number = self.add(Channel {
            answer: answered.then_some(sender),
            writer: Some(writer),
        })?;
        let message = frame::message(&ask(number))
            .map_err(|error| Error::system(format!("cannot ask the client: {error}")))?;
        let sent = self.0.out.send(Outgoing::Frame(message)).await;
        sent.map_err(|_| gone())?;
        // Ends with the engine's side of the channel, or with the connection.
        tokio::spawn(send(number, reader, self.0.out.clone()));
        if answered {
            answer.await.map_err(|_| gone())??;
        }
        Ok(theirs)
    }

    fn add(&self, channel: Channel) -> Result<u32, Error> {
        let mut open = self.lock();
        let next = open.last.checked_add(1);
        open.last = next.ok_or_else(|| Error::system("too many requests to the client"))?;
        let number = open.last;
        open.channels.insert(number, channel);
        Ok(number)
    }

    /// Contents of any number of files, one request after the other.
    async fn read(&self, context: String, files: Vec<u32>) -> Result<DuplexStream, Error> {
        let mut parts = files.chunks(MAX_FILES).map(<[u32]>::to_vec);
        let request = |context: String, files: Vec<u32>| {
            move |channel| ToClient::Read {
                context,
                files,
                channel,
            }
        };
        let part = parts.next().unwrap_or_default();
        let first = self.open(request(context.clone(), part), true).await?;
        let rest: Vec<_> = parts.collect();
        if rest.is_empty() {
            return Ok(first);
        }
        let (theirs, mut ours) = tokio::io::duplex(BUFFER);
        let channels = self.clone();
        tokio::spawn(async move {
            let mut part = first;
            for files in rest {
                if tokio::io::copy(&mut part, &mut ours).await.is_err() {
                    return;
                }
                // A refusal of these comes too late to be an answer.
                match channels.open(request(context.clone(), files), false).await {
                    Ok(next) => part = next,
                    Err(_) => return,
                }
            }
            if tokio::io::copy(&mut part, &mut ours).await.is_ok() {
                let _ = ours.shutdown().await;
            }
        });
        Ok(theirs)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    fn accept(&mut self) {
        if let Some(answer) = self.answer.take() {
            // Fails only when nobody wants it any more.
            let _ = answer.send(Ok(()));
        }
    }
}

/// Moves the engine's direction of a channel to the client.
async fn send(number: u32, mut reader: ReadHalf<DuplexStream>, out: mpsc::Sender<Outgoing>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut buffer).await.unwrap_or_default();
        let kind = if count == 0 { Kind::End } else { Kind::Data };
        let Ok(frame) = frame::encode(kind, number, &buffer[..count]) else {
            return;
        };
        if out.send(Outgoing::Frame(frame)).await.is_err() || count == 0 {
            return;
        }
    }
}

impl Peer for Channels {
    fn ask(
        &self,
        ask: Ask,
    ) -> Pin<Box<dyn Future<Output = Result<DuplexStream, Error>> + Send + '_>> {
        Box::pin(async move {
            match ask {
                Ask::Walk { context } => {
                    let message = |channel| ToClient::Walk { context, channel };
                    self.open(message, true).await
                }
                Ask::Read { context, files } => self.read(context, files).await,
                Ask::Archive { context } => {
                    let message = |channel| ToClient::Archive { context, channel };
                    self.open(message, true).await
                }
                Ask::Secret { id } => {
                    let message = |channel| ToClient::Secret { id, channel };
                    self.open(message, true).await
                }
                Ask::CacheIn { index } => {
                    let message = |channel| ToClient::CacheIn { index, channel };
                    self.open(message, true).await
                }
                // Here the engine speaks first.
                Ask::Ssh { id } => {
                    let message = |channel| ToClient::Ssh { id, channel };
                    self.open(message, false).await
                }
                Ask::Output { index } => {
                    let message = |channel| ToClient::Output { index, channel };
                    self.open(message, false).await
                }
                Ask::CacheOut { index } => {
                    let message = |channel| ToClient::CacheOut { index, channel };
                    self.open(message, false).await
                }
            }
        })
    }
}
