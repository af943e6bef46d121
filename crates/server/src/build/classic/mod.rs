//! `POST /build`: the classic builder's endpoint, for clients without BuildKit.
//! The client sends all its files as one tar stream; the answer is what the
//! classic builder prints, as JSON lines.

mod render;
mod request;
mod steps;
mod upload;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use berth_api::Error;
use berth_api::build::{BuildRequest, BuildResult};
use berth_api::progress::Progress;
use berth_api::version::ApiVersion;
use berth_engine::Engine;
use berth_engine::build::{Ask, Failure, Peer};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::render::Renderer;
use self::upload::Upload;
use super::progress::Queue;
use super::running::Running;
use crate::Call;
use crate::images::PROGRESS_BUFFER;
use crate::reply::Reply;
use crate::streams::{self, Lines};

/// Bytes of text that `q` holds back, to be told if the build fails.
const MAX_QUIET: usize = 16 << 20;

pub(crate) async fn build(call: Call) -> Result<Reply, Error> {
    let request = request::build_request(
        &call.query,
        &call.head.headers,
        call.version,
        call.settings.experimental,
    );
    let (archive, upload) = Upload::new(call.body);
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            drop(archive);
            return upload.during(async { Err(error) }).await;
        }
    };
    let lines = Lines::negotiate(&call.head.headers, call.version);
    let (sender, messages) = mpsc::channel(PROGRESS_BUFFER);
    let peer = Arc::new(Sender(Mutex::new(Some(archive))));
    let build = Build {
        engine: call.engine,
        quiet: call.query.flag("q"),
        with_aux: call.version >= ApiVersion(1, 30),
        out: sender,
        held: Vec::new(),
        held_bytes: 0,
    };
    // Ends with the answer, and that with the client.
    let running = call.builds.enter(call.query.text("buildid"));
    let work = async move {
        let build = cancelled_by(running, build.run(request, peer));
        upload.during(build).await
    };
    streams::progress(call.version, lines, messages, work).await
}

async fn cancelled_by(
    mut running: Running,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    tokio::select! {
        result = work => result,
        () = running.cancelled() => Err(Error::system("Build cancelled")),
    }
}

/// A build and its answer.
struct Build {
    engine: Engine,
    /// Only the image's ID is told, or all if the build fails.
    quiet: bool,
    with_aux: bool,
    out: mpsc::Sender<Progress>,
    held: Vec<Progress>,
    held_bytes: usize,
}

impl Build {
    /// Dropping the future cancels the build.
    async fn run(mut self, request: BuildRequest, peer: Arc<dyn Peer>) -> Result<(), Error> {
        let mut renderer = Renderer::new(request::shown(&request));
        let queue = Arc::new(Queue::default());
        let (engine, sink) = (self.engine.clone(), queue.sink());
        let mut build = JoinSet::new();
        build.spawn(async move { engine.build(request, peer, sink).await });
        let result = loop {
            let events = tokio::select! {
                biased;
                events = queue.next() => events,
                Some(result) = build.join_next() => break result,
            };
            for (_, event) in events {
                renderer.event(event);
            }
            self.tell(renderer.take()).await;
        };
        for (_, event) in queue.take() {
            renderer.event(event);
        }
        let result = result.unwrap_or_else(|error| {
            Err(Failure {
                error: Error::system(format!("the build was cut off: {error}")),
                excerpt: String::new(),
                exit_code: 0,
            })
        });
        match result {
            Ok(result) => {
                self.done(&mut renderer, &result).await;
                Ok(())
            }
            Err(failure) => self.failed(&mut renderer, failure).await,
        }
    }

    async fn done(&mut self, renderer: &mut Renderer, result: &BuildResult) {
        if self.quiet {
            let id = Progress {
                stream: format!("{}\n", result.image),
                ..Progress::default()
            };
            return self.send(id).await;
        }
        renderer.done(result, self.with_aux);
        self.tell(renderer.take()).await;
    }

    /// An error if nothing was told yet: then it can be the answer's status.
    async fn failed(&mut self, renderer: &mut Renderer, failure: Failure) -> Result<(), Error> {
        self.tell(renderer.take()).await;
        let held = std::mem::take(&mut self.held);
        let told = renderer.failed(&failure.error.message, failure.exit_code);
        if self.quiet {
            if held.is_empty() {
                return Err(before_the_steps(failure.error));
            }
            for line in held {
                self.send(line).await;
            }
        } else if !renderer.has_told() {
            return Err(before_the_steps(failure.error));
        }
        self.send(told.line()).await;
        Ok(())
    }

    async fn tell(&mut self, lines: Vec<Progress>) {
        for line in lines {
            if !self.quiet {
                self.send(line).await;
            } else if self.held_bytes < MAX_QUIET {
                self.held_bytes += line.stream.len();
                self.held.push(line);
            }
        }
    }

    async fn send(&self, line: Progress) {
        // Fails only when the client is gone, and this future with it.
        let _ = self.out.send(line).await;
    }
}

/// What goes wrong before the first step, in the words that clients know.
fn before_the_steps(mut error: Error) -> Error {
    let missing = (error
        .message
        .strip_prefix("failed to read dockerfile: open "))
    .and_then(|rest| rest.strip_suffix(": no such file or directory"));
    if let Some(path) = missing {
        error.message = format!("Cannot locate specified Dockerfile: {path}");
    }
    error
}

/// The client: it has one tar stream, and cannot be asked for anything else.
struct Sender(Mutex<Option<DuplexStream>>);

impl Peer for Sender {
    fn ask(
        &self,
        ask: Ask,
    ) -> Pin<Box<dyn Future<Output = Result<DuplexStream, Error>> + Send + '_>> {
        let cannot = |what: &str| {
            Error::not_implemented(format!(
                "{what} requires BuildKit or a berth client: the classic builder's client cannot give it"
            ))
        };
        let answer = match ask {
            Ask::Archive { context } if context == request::CONTEXT => {
                let archive = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
                archive.ok_or_else(|| Error::system("the context was read already"))
            }
            Ask::Archive { context } | Ask::Walk { context } | Ask::Read { context, .. } => {
                Err(cannot(&format!("the context \"{context}\"")))
            }
            Ask::Secret { id } => Err(Error::not_found(format!("secret {id}: not found"))),
            Ask::Ssh { id } => Err(cannot(&format!("the SSH agent \"{id}\""))),
            Ask::Output { .. } => Err(cannot("an output to the client")),
            Ask::CacheIn { .. } | Ask::CacheOut { .. } => Err(cannot("a local cache")),
        };
        Box::pin(std::future::ready(answer))
    }
}
