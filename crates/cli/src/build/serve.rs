//! Serves what the engine asks for: only what was announced, to an engine that
//! may be hostile.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use berth_api::build::{ToClient, ToEngine};

use super::context::Source;
use super::files;
use super::output::Place;
use super::secret::Secret;
use super::unpack;
use super::wire::{Incoming, Outgoing, Wire};
use super::{layout, save};
use crate::failure::{os_words, path_error};

/// Requests that are served at the same time.
const MAX_CHANNELS: usize = 256;
const CHUNK: usize = 256 * 1024;

/// What this client has to give and to take.
pub(super) struct Goods {
    pub(super) contexts: BTreeMap<String, Source>,
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) agents: BTreeMap<String, PathBuf>,
    pub(super) places: Vec<Place>,
    pub(super) cache_to: Vec<Option<PathBuf>>,
    pub(super) cache_from: Vec<Option<PathBuf>>,
}

/// Serves one connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server {
    wire: Wire,
    goods: Arc<Goods>,
    walked: Arc<Mutex<BTreeMap<String, Arc<files::Context>>>>,
    /// Streams that can be sent once only.
    spent: Arc<Mutex<Vec<String>>>,
}

/// Why something was not given; the engine is told so.
type Served = Result<(), String>;

impl Server {
    pub(super) fn new(wire: Wire, goods: Goods) -> Self {
        Self {
            wire,
            goods: Arc::new(goods),
            walked: Arc::default(),
            spent: Arc::default(),
        }
    }

    /// Serves a request on a thread of its own.
    pub(super) fn serve(&self, request: ToClient) {
        let number = match &request {
            ToClient::Walk { channel, .. }
            | ToClient::Read { channel, .. }
            | ToClient::Archive { channel, .. }
            | ToClient::Secret { channel, .. }
            | ToClient::Ssh { channel, .. }
            | ToClient::Output { channel, .. }
            | ToClient::CacheOut { channel, .. }
            | ToClient::CacheIn { channel, .. } => *channel,
            ToClient::Status(_) | ToClient::Done { .. } | ToClient::Failed { .. } => return,
        };
        let Some((outgoing, incoming)) = self.wire.open(number, MAX_CHANNELS) else {
            let _ = self.wire.tell(&ToEngine::Refused {
                channel: number,
                message: "the channel is in use, or there are too many".to_owned(),
            });
            return;
        };
        let server = self.clone();
        std::thread::spawn(move || {
            let answered = server.answer(request, &outgoing, incoming);
            // First, for the engine may use the number again when it hears of
            // the end.
            server.wire.close(number);
            // Neither matters when the connection is gone.
            let _ = match answered {
                Ok(()) => outgoing.end(),
                Err(why) => outgoing.refuse(why),
            };
        });
    }

    fn answer(&self, request: ToClient, out: &Outgoing, input: Incoming) -> Served {
        match request {
            ToClient::Walk { context, .. } => self.walk(&context, out),
            ToClient::Read { context, files, .. } => self.read(&context, &files, out),
            ToClient::Archive { context, .. } => self.archive(&context, out),
            ToClient::Secret { id, channel } => self.secret(&id, channel, out),
            ToClient::Ssh { id, .. } => self.ssh(&id, out, input),
            ToClient::Output { index, .. } => self.output(index, input),
            ToClient::CacheOut { index, .. } => {
                let place = self.goods.cache_to.get(index).and_then(Option::as_ref);
                let place = place.ok_or("no cache goes there")?;
                unpack::unpack(input, place)
            }
            ToClient::CacheIn { index, .. } => {
                let place = self.goods.cache_from.get(index).and_then(Option::as_ref);
                let place = place.ok_or("no cache comes from there")?;
                sent(save::cache(place, &mut &mut out.clone()), place)
            }
            ToClient::Status(_) | ToClient::Done { .. } | ToClient::Failed { .. } => Ok(()),
        }
    }

    fn walk(&self, name: &str, out: &Outgoing) -> Served {
        let Some(Source::Directory { root, ignore }) = self.goods.contexts.get(name) else {
            return Err(format!("there is no context {name:?}"));
        };
        let context = Arc::new(files::Context::walk(root, ignore.as_ref())?);
        self.walked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Arc::clone(&context));
        sent(context.list(&mut out.clone()), root)
    }

    fn read(&self, name: &str, numbers: &[u32], out: &Outgoing) -> Served {
        let walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        let context = walked.get(name).cloned();
        drop(walked);
        let context = context.ok_or_else(|| format!("context {name:?} was not listed"))?;
        context.read(numbers, &mut out.clone())
    }

    fn archive(&self, name: &str, out: &Outgoing) -> Served {
        match self.goods.contexts.get(name) {
            Some(Source::Layout(root)) => sent(layout::send(root, &mut out.clone()), root),
            Some(Source::Stdin(head)) => {
                let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
                if spent.iter().any(|other| other == name) {
                    return Err("stdin was sent already".to_owned());
                }
                spent.push(name.to_owned());
                drop(spent);
                let rest = io::stdin().lock();
                let mut all = head.as_slice().chain(rest);
                sent(copy(&mut all, &mut out.clone()), Path::new("stdin"))
            }
            _ => Err(format!("there is no archive of context {name:?}")),
        }
    }

    /// Only what was named on the command line.
    fn secret(&self, id: &str, channel: u32, out: &Outgoing) -> Served {
        let secret = self.goods.secrets.get(id);
        let found = secret.is_some();
        let value = secret.map_or(Ok(Vec::new()), Secret::value)?;
        let written = self
            .wire
            .tell(&ToEngine::SecretValue { channel, found })
            .and_then(|()| out.clone().write_all(&value));
        written.map_err(|error| error.to_string())
    }

    fn ssh(&self, id: &str, out: &Outgoing, mut input: Incoming) -> Served {
        let path = self
            .goods
            .agents
            .get(id)
            .ok_or_else(|| format!("no SSH key {id:?} forwarded from the client"))?;
        let failed = |error| path_error("dial", &path.display().to_string(), &error);
        let agent = UnixStream::connect(path).map_err(failed)?;
        let mut asked = agent.try_clone().map_err(failed)?;
        std::thread::spawn(move || {
            while let Ok(Some(bytes)) = input.next() {
                if asked.write_all(&bytes).is_err() {
                    break;
                }
            }
            // The answers end with the questions.
            let _ = asked.shutdown(Shutdown::Write);
        });
        sent(copy(&mut &agent, &mut out.clone()), path)
    }

    fn output(&self, index: usize, mut input: Incoming) -> Served {
        match self.goods.places.get(index) {
            Some(Place::Directory(path)) => unpack::unpack(input, path),
            Some(Place::File(path)) => save::file(input, path),
            Some(Place::Stdout) => {
                let mut stdout = io::stdout().lock();
                let written = copy(&mut input, &mut stdout).and_then(|()| stdout.flush());
                written.map_err(|error| format!("write /dev/stdout: {}", os_words(&error)))
            }
            Some(Place::Engine) | None => {
                Err("nothing of this output goes to the client".to_owned())
            }
        }
    }
}

fn sent(outcome: io::Result<()>, path: &Path) -> Served {
    match outcome {
        // The engine has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| path_error("send", &path.display().to_string(), &error)),
    }
}

fn copy(input: &mut dyn io::Read, out: &mut dyn io::Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => out.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
