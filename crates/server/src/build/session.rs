//! `POST /build/session`: berth's own way to build; the protocol is described
//! in [`berth_api::build`].

use std::pin::Pin;
use std::sync::Arc;

use berth_api::Error;
use berth_api::build::frame::{self, Decoder, Frame, Kind};
use berth_api::build::{BuildRequest, BuildResult, PROTOCOL, ToClient, ToEngine};
use berth_build::progress::{Event, Sink};
use berth_engine::build::{Failure, Peer};
use hyper::header::UPGRADE;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::channels::{Channels, Outgoing};
use super::progress::{Queue, Translator};
use crate::Call;
use crate::hijack::linger;
use crate::reply::Reply;
use crate::socket::Socket;

/// Bytes that are read from the client at once, at least.
const ROOM: usize = 128 * 1024;

/// Frames that may wait for the client to read.
const FRAMES: usize = 16;

pub(crate) async fn session(call: Call) -> Result<Reply, Error> {
    let asks = |value: &[u8]| value.eq_ignore_ascii_case(PROTOCOL.as_bytes());
    let upgrade = call.head.headers.get(UPGRADE);
    if !upgrade.is_some_and(|value| asks(value.as_bytes())) {
        return Err(Error::invalid(format!(
            "a build session needs the headers \"Connection: Upgrade\" and \"Upgrade: {PROTOCOL}\""
        )));
    }
    let engine = call.engine;
    let build: Build = Box::new(|request, peer, progress| {
        Box::pin(async move { engine.build(request, peer, progress).await })
    });
    Ok(call.hijack.take_over(Session { build }).await)
}

/// A connection about to become a build session.
pub(crate) struct Session {
    build: Build,
}

/// What builds: the engine.
type Build = Box<dyn FnOnce(BuildRequest, Arc<dyn Peer>, Sink) -> Building + Send>;
type Building = Pin<Box<dyn Future<Output = Result<BuildResult, Failure>> + Send>>;

/// Why a session ends before its build does.
enum End {
    /// Nobody is there to be told.
    Gone,
    Failed(String),
}

impl Session {
    /// Runs the session to its end; dropping the future cancels the build.
    pub(crate) async fn run(self, client: Socket, early: &[u8], hung_up: impl Future<Output = ()>) {
        let head =
            format!("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n");
        if client.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        let (out, outgoing) = mpsc::channel(FRAMES);
        let work = async {
            let last = match self.serve(&client, early, &out).await {
                Ok(last) => last,
                Err(End::Failed(message)) => failed(message),
                Err(End::Gone) => return,
            };
            if out.send(Outgoing::Last(message(&last))).await.is_ok() {
                // The writer ends when it has written that.
                std::future::pending::<()>().await;
            }
        };
        let told = tokio::select! {
            told = write(&client, outgoing) => told,
            () = work => false,
            () = hung_up => false,
        };
        if told {
            linger(&client).await;
        }
    }

    /// Returns what the client is told last.
    async fn serve(
        self,
        client: &Socket,
        early: &[u8],
        out: &mpsc::Sender<Outgoing>,
    ) -> Result<ToClient, End> {
        let mut incoming = Incoming::new(client, early);
        let request = incoming.start().await?;
        let channels = Channels::new(out.clone());
        let queue = Arc::new(Queue::default());
        let (peer, sink) = (Arc::new(channels.clone()), queue.sink());
        // Dropped with this future, and then aborted.
        let mut build = JoinSet::new();
        build.spawn((self.build)(request, peer, sink));
        let told = async {
            let mut translator = Translator::default();
            let result = loop {
                tokio::select! {
                    biased;
                    events = queue.next() => tell(out, &mut translator, events).await,
                    Some(result) = build.join_next() => break result,
                }
            };
            tell(out, &mut translator, queue.take()).await;
            result
        };
        let result = tokio::select! {
            result = told => result,
            end = incoming.follow(&channels) => return Err(end),
        };
        match result {
            Ok(Ok(result)) => Ok(done(result)),
            Ok(Err(failure)) => Ok(failure_message(failure)),
            Err(error) => Err(End::Failed(format!("the build was cut off: {error}"))),
        }
    }
}

async fn tell(
    out: &mpsc::Sender<Outgoing>,
    translator: &mut Translator,
    events: Vec<(jiff::Timestamp, Event)>,
) {
    for status in translator.statuses(events) {
        let status = message(&ToClient::Status(Box::new(status)));
        // Fails only when the client is gone, and this future with it.
        let _ = out.send(Outgoing::Frame(status)).await;
    }
}

/// Writes to the client; true after the last frame.
async fn write(client: &Socket, mut outgoing: mpsc::Receiver<Outgoing>) -> bool {
    while let Some(next) = outgoing.recv().await {
        let (bytes, last) = match next {
            Outgoing::Frame(bytes) => (bytes, false),
            Outgoing::Last(bytes) => (bytes, true),
        };
        if client.write_all(&bytes).await.is_err() {
            return false;
        }
        if last {
            return true;
        }
    }
    false
}

fn message(message: &ToClient) -> bytes::Bytes {
    frame::message(message).unwrap_or_else(|error| {
        // A failure of one short sentence always fits into a frame.
        let failed = failed(format!("the result cannot be told: {error}"));
        frame::message(&failed).unwrap_or_default()
    })
}

fn done(result: BuildResult) -> ToClient {
    ToClient::Done {
        result: Box::new(result),
    }
}

fn failed(message: String) -> ToClient {
    ToClient::Failed {
        message,
        excerpt: String::new(),
        exit_code: 0,
    }
}

fn failure_message(failure: Failure) -> ToClient {
    ToClient::Failed {
        message: failure.error.message,
        excerpt: failure.excerpt,
        exit_code: failure.exit_code,
    }
}

/// Frames from the client.
struct Incoming<'a> {
    client: &'a Socket,
    decoder: Decoder,
}

impl<'a> Incoming<'a> {
    fn new(client: &'a Socket, early: &[u8]) -> Self {
        let mut decoder = Decoder::default();
        decoder.push(early);
        Self { client, decoder }
    }

    async fn next(&mut self) -> Result<Frame, End> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(End::Failed(error.to_string())),
            }
            let buffer = self.decoder.buffer();
            let count = self.client.read_into(buffer, |buffer| buffer.reserve(ROOM));
            if count.await.map_err(|_| End::Gone)? == 0 {
                return Err(End::Gone);
            }
        }
    }

    /// The request, which comes first.
    async fn start(&mut self) -> Result<BuildRequest, End> {
        let first = self.next().await?;
        if first.kind == Kind::Message
            && let ToEngine::Start { request } = read(&first)?
        {
            Ok(*request)
        } else {
            Err(End::Failed(
                "a build session must begin with what is to be built".to_owned(),
            ))
        }
    }

    /// Hands on what comes until the client's end.
    async fn follow(&mut self, channels: &Channels) -> End {
        loop {
            if let Err(end) = self.step(channels).await {
                return end;
            }
        }
    }

    async fn step(&mut self, channels: &Channels) -> Result<(), End> {
        let frame = self.next().await?;
        let unopened = |error: super::channels::Unopened| End::Failed(error.to_string());
        match frame.kind {
            Kind::Data => channels.data(frame.channel, &frame.payload).await,
            Kind::End => channels.end(frame.channel).await,
            Kind::Message => match read(&frame)? {
                ToEngine::Start { .. } => {
                    return Err(End::Failed(
                        "a build session is for one build only".to_owned(),
                    ));
                }
                ToEngine::Refused { channel, message } => {
                    let late = channels.refused(channel, Error::invalid(message));
                    return match late.map_err(unopened)? {
                        Some(error) => Err(End::Failed(error.message)),
                        None => Ok(()),
                    };
                }
                ToEngine::SecretValue { channel, found } => {
                    if found {
                        channels.accepted(channel)
                    } else {
                        let none = Error::not_found("the client has no secret of that name");
                        channels.refused(channel, none).map(|_| ())
                    }
                }
            },
        }
        .map_err(unopened)
    }
}

fn read(frame: &Frame) -> Result<ToEngine, End> {
    frame
        .message()
        .map_err(|error| End::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_engine::build::Ask;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Std;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;

    /// The client's end.
    struct Client {
        stream: Std,
        decoder: Decoder,
    }

    impl Client {
        fn say(&mut self, message: &ToEngine) {
            let frame = frame::message(message).unwrap();
            self.stream.write_all(&frame).unwrap();
        }

        fn send(&mut self, kind: Kind, channel: u32, bytes: &[u8]) {
            let frame = frame::encode(kind, channel, bytes).unwrap();
            self.stream.write_all(&frame).unwrap();
        }

        /// None at the end of the stream.
        fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.decoder.next_frame().unwrap() {
                    return Some(frame);
                }
                let mut bytes = [0; 8192];
                let count = self.stream.read(&mut bytes).unwrap();
                if count == 0 {
                    self.decoder.finish().unwrap();
                    return None;
                }
                self.decoder.push(&bytes[..count]);
            }
        }

        fn hear(&mut self) -> ToClient {
            loop {
                let frame = self.next().unwrap();
                if frame.kind == Kind::Message {
                    return frame.message().unwrap();
                }
            }
        }

        /// What fails the session.
        fn failure(&mut self) -> String {
            loop {
                if let ToClient::Failed { message, .. } = self.hear() {
                    return message;
                }
            }
        }
    }

    fn start<F>(
        build: impl FnOnce(Arc<dyn Peer>, Sink) -> F + Send + 'static,
    ) -> (JoinHandle<()>, Client)
    where
        F: Future<Output = Result<BuildResult, Failure>> + Send + 'static,
    {
        let (stream, ours) = Std::pair().unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        stream.set_write_timeout(patience).unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = Socket::Unix(UnixStream::from_std(ours).unwrap());
        let task = tokio::spawn(async move {
            let hung_up = ours.hung_up();
            let start = ToEngine::Start {
                request: Box::default(),
            };
            let early = frame::message(&start).unwrap();
            let build: Build = Box::new(|_, peer, sink| Box::pin(build(peer, sink)));
            Session { build }.run(ours, &early, hung_up).await;
        });
        let mut client = Client {
            stream,
            decoder: Decoder::default(),
        };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        (task, client)
    }

    async fn blocking(work: impl FnOnce() + Send + 'static) {
        tokio::task::spawn_blocking(work).await.unwrap();
    }

    fn ask(context: &str) -> Ask {
        Ask::Archive {
            context: context.to_owned(),
        }
    }

    async fn text(peer: &dyn Peer, what: Ask) -> Result<String, Error> {
        let mut text = String::new();
        let mut stream = peer.ask(what).await?;
        stream.read_to_string(&mut text).await.unwrap();
        Ok(text)
    }

    fn failure(error: Error) -> Failure {
        Failure {
            error,
            excerpt: String::new(),
            exit_code: 3,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_build_asks_tells_and_is_done() {
        let (task, mut client) = start(|peer, sink| async move {
            let archive = text(&*peer, ask("context")).await.map_err(failure)?;
            sink(Event::Log {
                id: 0,
                stderr: false,
                data: archive.into_bytes(),
            });
            let secret = Ask::Secret { id: "s".to_owned() };
            let missing = text(&*peer, secret).await.unwrap_err();
            assert_eq!(missing.kind, berth_api::Kind::NotFound);
            // To the client, then its word that it has all.
            let mut output = peer.ask(Ask::Output { index: 0 }).await.unwrap();
            output.write_all(b"tar").await.unwrap();
            output.shutdown().await.unwrap();
            assert_eq!(output.read(&mut [0; 8]).await.unwrap(), 0);
            Ok(BuildResult {
                image: "sha256:1".to_owned(),
                ..BuildResult::default()
            })
        });
        blocking(move || {
            let ToClient::Archive { channel, .. } = client.hear() else {
                panic!("an archive is asked for");
            };
            client.send(Kind::Data, channel, b"one ");
            client.send(Kind::Data, channel, b"two");
            client.send(Kind::End, channel, b"");
            let mut seen = Vec::new();
            loop {
                let frame = client.next().unwrap();
                if frame.kind == Kind::Data {
                    seen.extend_from_slice(&frame.payload);
                    continue;
                }
                if frame.kind == Kind::End {
                    if seen == b"tar" {
                        client.send(Kind::End, frame.channel, b"");
                    }
                    continue;
                }
                match frame.message().unwrap() {
                    ToClient::Status(status) => assert_eq!(status.logs[0].data, "b25lIHR3bw=="),
                    ToClient::Secret { channel, .. } => client.say(&ToEngine::SecretValue {
                        channel,
                        found: false,
                    }),
                    ToClient::Output { index: 0, .. } => {}
                    ToClient::Done { result } => {
                        assert_eq!(result.image, "sha256:1");
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(seen, b"tar");
            assert!(client.next().is_none());
        })
        .await;
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_refusal_is_an_answer_or_the_end() {
        let (task, mut client) = start(|peer, _| async move {
            let error = text(&*peer, ask("a")).await.unwrap_err();
            assert_eq!(error.message, "no such directory");
            // Never the whole.
            text(&*peer, ask("b")).await.map_err(failure)?;
            panic!("half a context was taken for the whole");
        });
        blocking(move || {
            for text in ["no such directory", "it changed"] {
                let ToClient::Archive { channel, context } = client.hear() else {
                    panic!("an archive is asked for");
                };
                if context == "b" {
                    client.send(Kind::Data, channel, b"half");
                }
                client.say(&ToEngine::Refused {
                    channel,
                    message: text.to_owned(),
                });
            }
            assert_eq!(client.failure(), "it changed");
        })
        .await;
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_clients_end_is_the_builds() {
        let (dropped, gone) = tokio::sync::oneshot::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel::<()>();
        let (task, client) = start(|_, _| async move {
            let _dropped = dropped;
            begun.send(()).unwrap();
            std::future::pending().await
        });
        begins.await.unwrap();
        drop(client);
        assert!(gone.await.is_err());
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_slow_engine_holds_the_client_up() {
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let (task, mut client) = start(|peer, _| async move {
            let mut stream = peer.ask(ask("context")).await.unwrap();
            wait.await.unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes.len(), 64 << 20);
            // What is not read to the end does not hold others up.
            drop(peer.ask(ask("unwanted")).await.unwrap());
            text(&*peer, ask("next")).await.map_err(failure)?;
            Err(failure(Error::invalid("seen")))
        });
        blocking(move || {
            let archive = |client: &mut Client| match client.hear() {
                ToClient::Archive { channel, .. } => channel,
                other => panic!("{other:?}"),
            };
            let channel = archive(&mut client);
            let piece = frame::encode(Kind::Data, channel, &[0; 1 << 19]).unwrap();
            client.stream.set_nonblocking(true).unwrap();
            // As much as goes: what the sockets and the channel hold.
            let mut sent = 0;
            let quiet = Duration::from_millis(200);
            let mut blocked = None;
            let total = 128 * piece.len();
            while sent < total {
                match client.stream.write(&piece[sent % piece.len()..]) {
                    Ok(count) => (sent, blocked) = (sent + count, None),
                    Err(_) => {
                        let since = *blocked.get_or_insert_with(std::time::Instant::now);
                        if since.elapsed() > quiet {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            }
            assert!(sent < 8 << 20, "{sent} bytes were taken unread");
            go.send(()).unwrap();
            client.stream.set_nonblocking(false).unwrap();
            while sent < total {
                sent += client.stream.write(&piece[sent % piece.len()..]).unwrap();
            }
            client.send(Kind::End, channel, b"");
            let unwanted = archive(&mut client);
            for _ in 0..16 {
                client.send(Kind::Data, unwanted, &[0; 1 << 18]);
            }
            let next = archive(&mut client);
            client.send(Kind::End, next, b"");
            let ToClient::Failed {
                message, exit_code, ..
            } = client.hear()
            else {
                panic!("it fails");
            };
            assert_eq!((&*message, exit_code), ("seen", 3));
        })
        .await;
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_files_are_asked_for_in_parts() {
        let count: u32 = 120_000;
        let (task, mut client) = start(move |peer, _| async move {
            let read = Ask::Read {
                context: "context".to_owned(),
                files: (0..count).collect(),
            };
            let got = text(&*peer, read).await.map_err(failure)?;
            assert_eq!(got, "abc");
            Err(failure(Error::invalid("all")))
        });
        blocking(move || {
            let mut seen = 0;
            for bytes in [b"a", b"b", b"c"] {
                let ToClient::Read { files, channel, .. } = client.hear() else {
                    panic!("files are asked for");
                };
                assert_eq!(files[0], seen);
                seen += u32::try_from(files.len()).unwrap();
                client.send(Kind::Data, channel, bytes);
                client.send(Kind::End, channel, b"");
            }
            assert_eq!(seen, count);
            assert_eq!(client.failure(), "all");
        })
        .await;
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_breaks_the_rules_is_told() {
        let start_again = frame::message(&ToEngine::Start {
            request: Box::default(),
        })
        .unwrap();
        let unopened = frame::encode(Kind::Data, 9, b"x").unwrap();
        for (bytes, want) in [
            (&start_again[..], "a build session is for one build only"),
            (&unopened, "channel 9 was never opened"),
            (&[0xff; 8], "a frame of 4294967295 bytes"),
        ] {
            let (task, mut client) = start(|_, _| std::future::pending());
            let bytes = bytes.to_vec();
            blocking(move || {
                client.stream.write_all(&bytes).unwrap();
                let told = client.failure();
                assert!(told.starts_with(want), "{told}");
            })
            .await;
            task.await.unwrap();
        }
    }
}
