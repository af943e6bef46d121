//! A store in memory, and a worker that makes layers of what it is told.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use berth_store::{Digest, Pin, Placed};
use sha2::{Digest as _, Sha256};

use crate::files::Files;
use crate::graph::{Exec, Git, Graph, Http, Id, Image, Local, Op, Vertex};
use crate::progress::Event;
use crate::solve::{
    Boxed, Cache, Error, Hold, Job, Layers, Measured, SolveError, Solved, Step, Worker, solve,
};
use crate::tree::{Chain, Layer, Tree, Value};

pub(super) fn digest(text: &str) -> Digest {
    let hash = Sha256::digest(text.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub(super) fn layer(text: &str) -> Layer {
    Layer {
        digest: digest(text),
        stored: digest(text),
        blob: None,
    }
}

/// Layers by digest; what neither a pin nor a hold keeps is gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    layers: HashSet<Digest>,
    pins: Vec<Pin>,
    holds: HashMap<Digest, usize>,
    /// 100 bytes and nobody else's unless said here.
    measured: HashMap<Digest, Measured>,
}

impl State {
    fn collect(&mut self) {
        let (pins, holds) = (&self.pins, &self.holds);
        self.layers.retain(|layer| {
            holds.contains_key(layer) || pins.iter().any(|pin| pin.layers.contains(layer))
        });
    }
}

impl Memory {
    pub(super) fn make(&self, layer: &Layer) {
        let mut state = self.0.lock().unwrap();
        state.layers.insert(layer.digest.clone());
        state.layers.insert(layer.stored.clone());
    }

    pub(super) fn lose(&self, layer: &str) {
        self.0.lock().unwrap().layers.remove(layer);
    }

    pub(super) fn has(&self, layer: &str) -> bool {
        self.0.lock().unwrap().layers.contains(layer)
    }

    pub(super) fn share(&self, layer: &str, image: &str) {
        let measured = Measured {
            size: 100,
            images: vec![image.to_owned()],
            has_container: false,
        };
        let mut state = self.0.lock().unwrap();
        state.measured.insert(layer.to_owned(), measured);
    }

    pub(super) fn cache(&self) -> Cache {
        Cache::open(Arc::new(self.clone())).unwrap()
    }
}

impl Layers for Memory {
    fn pin(&self, pin: Pin) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap();
        if let Some(gone) = pin.layers.iter().find(|l| !state.layers.contains(*l)) {
            return Err(Error::NotFound(gone.clone()));
        }
        state.pins.retain(|old| old.key != pin.key);
        state.pins.push(pin);
        Ok(())
    }

    fn unpin(&self, keys: &[String]) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap();
        state.pins.retain(|pin| !keys.contains(&pin.key));
        state.collect();
        Ok(())
    }

    fn pins(&self) -> Vec<Pin> {
        self.0.lock().unwrap().pins.clone()
    }

    fn hold(&self) -> Result<Box<dyn Hold>, Error> {
        Ok(Box::new(Held {
            memory: self.clone(),
            held: Mutex::default(),
        }))
    }

    fn measure(&self) -> Result<HashMap<Digest, Measured>, Error> {
        let state = self.0.lock().unwrap();
        Ok((state.layers.iter())
            .map(|layer| {
                let known = state.measured.get(layer).cloned();
                let one = Measured {
                    size: 100,
                    ..Measured::default()
                };
                (layer.clone(), known.unwrap_or(one))
            })
            .collect())
    }
}

#[derive(Debug)]
struct Held {
    memory: Memory,
    held: Mutex<HashSet<Digest>>,
}

impl Hold for Held {
    fn keep(&self, layer: &str) -> Result<(), Error> {
        let mut state = self.memory.0.lock().unwrap();
        if !state.layers.contains(layer) {
            return Err(Error::NotFound(layer.to_owned()));
        }
        if self.held.lock().unwrap().insert(layer.to_owned()) {
            *state.holds.entry(layer.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    fn keep_blob(&self, blob: &str) -> Result<(), Error> {
        Err(Error::NotFound(blob.to_owned()))
    }

    fn places(&self) -> bool {
        false
    }

    fn layer(&self, _: Option<Placed>, plain: &mut dyn Read) -> Result<Digest, Error> {
        let mut bytes = Vec::new();
        (plain.read_to_end(&mut bytes)).map_err(|e| Error::System(e.to_string()))?;
        let hex: String = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let digest = format!("sha256:{hex}");
        self.memory.0.lock().unwrap().layers.insert(digest.clone());
        self.keep(&digest)?;
        Ok(digest)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.memory.0.lock().unwrap();
        for layer in self.held.get_mut().unwrap().drain() {
            let count = state.holds.get_mut(&layer).unwrap();
            *count -= 1;
            if *count == 0 {
                state.holds.remove(&layer);
            }
        }
        state.collect();
    }
}

/// Programs: `give X` makes a layer X; `none` changes nothing; `fail` fails;
/// `meet N` waits until N steps run at once; `hang` never ends.
#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) memory: Memory,
    /// First arguments of what was run, in order.
    pub(super) ran: Mutex<Vec<String>>,
    pub(super) steps: Mutex<Vec<Step>>,
    pub(super) running: AtomicUsize,
    pub(super) most: AtomicUsize,
    /// `hang` has begun, has been dropped.
    pub(super) hangs: AtomicBool,
    pub(super) hung: AtomicBool,
    pub(super) changed: tokio::sync::Notify,
    pub(super) tree: Mutex<Arc<Tree>>,
    pub(super) root: Option<std::path::PathBuf>,
}

impl Fake {
    pub(super) fn runs(&self) -> Vec<String> {
        std::mem::take(&mut self.ran.lock().unwrap())
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition() {
                return;
            }
            changed.await;
        }
    }
}

struct Running<'a>(&'a Fake, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if self.1 {
            self.0.hung.store(true, Ordering::SeqCst);
        }
        self.0.changed.notify_waiters();
    }
}

impl Worker for Fake {
    fn image<'a>(&'a self, _: Id, image: &'a Image) -> Boxed<'a, Chain> {
        Box::pin(async {
            let layer = layer(&image.digest);
            self.memory.make(&layer);
            Ok(Chain::from([layer]))
        })
    }

    fn local<'a>(&'a self, _: Id, _: &'a Local) -> Boxed<'a, Arc<Tree>> {
        Box::pin(async { Ok(self.tree.lock().unwrap().clone()) })
    }

    fn git<'a>(&'a self, _: Id, _: &'a Git) -> Boxed<'a, Arc<Tree>> {
        Box::pin(async { Err(Error::NotFound("no repository".to_owned())) })
    }

    fn http<'a>(&'a self, _: Id, _: &'a Http) -> Boxed<'a, Arc<Tree>> {
        Box::pin(async { Err(Error::NotFound("no address".to_owned())) })
    }

    fn exec<'a>(&'a self, _: Id, step: Step) -> Boxed<'a, Option<Layer>> {
        Box::pin(async move {
            let command = step.exec.args[0].clone();
            self.ran.lock().unwrap().push(command.clone());
            let timed = step.keep_times;
            self.steps.lock().unwrap().push(step);
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            let _running = Running(self, command == "hang");
            self.changed.notify_waiters();
            tokio::task::yield_now().await;
            let made = match command.split_once(' ') {
                Some(("give", made)) => made,
                Some(("meet", number)) => {
                    let number: usize = number.parse().unwrap();
                    self.until(|| self.most.load(Ordering::SeqCst) >= number)
                        .await;
                    "met"
                }
                None if command == "none" => return Ok(None),
                None if command == "hang" => {
                    self.hangs.store(true, Ordering::SeqCst);
                    self.changed.notify_waiters();
                    std::future::pending().await
                }
                None if command == "fail-when-hanging" => {
                    self.until(|| self.hangs.load(Ordering::SeqCst)).await;
                    return Err(Error::Exit { command, code: 7 });
                }
                _ => return Err(Error::Exit { command, code: 1 }),
            };
            let mut layer = layer(made);
            if timed {
                layer.stored = digest(&format!("{made} with times"));
            }
            self.memory.make(&layer);
            Ok(Some(layer))
        })
    }

    fn mount<'a>(&'a self, _: &'a Chain) -> Boxed<'a, OwnedFd> {
        Box::pin(async {
            let Some(root) = &self.root else {
                return Err(Error::System("nothing is mounted here".to_owned()));
            };
            let file = std::fs::File::open(root).map_err(|e| Error::System(e.to_string()))?;
            Ok(file.into())
        })
    }
}

pub(super) fn vertex(op: Op, inputs: &[Id]) -> Vertex {
    Vertex {
        op,
        inputs: inputs.to_vec(),
        name: String::new(),
        text: String::new(),
        lines: None,
        ignore_cache: false,
    }
}

pub(super) fn image(name: &str) -> Vertex {
    let op = Op::Image(Image {
        reference: name.to_owned(),
        digest: name.to_owned(),
        platform: berth_store::Platform::default(),
    });
    vertex(op, &[])
}

/// A step on the first input, if any.
pub(super) fn step(command: &str, inputs: &[Id]) -> Vertex {
    let exec = Exec {
        root: (!inputs.is_empty()).then_some(0),
        args: vec![command.to_owned()],
        ..Exec::default()
    };
    let mut vertex = vertex(Op::Exec(Box::new(exec)), inputs);
    vertex.name = format!("RUN {command}");
    vertex
}

pub(super) fn exec_of(vertex: &mut Vertex) -> &mut Exec {
    match &mut vertex.op {
        Op::Exec(exec) => exec,
        _ => panic!("not a step"),
    }
}

/// One engine.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) fake: Arc<Fake>,
    pub(super) cache: Cache,
    pub(super) files: Files,
    pub(super) events: Arc<Mutex<Vec<Event>>>,
    pub(super) parallel: usize,
    /// Of the files.
    pub(super) _dir: Arc<tempfile::TempDir>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Fake::default())
    }

    pub(super) fn with(fake: Fake) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            cache: fake.memory.cache(),
            fake: Arc::new(fake),
            files: Files::open(dir.path()).unwrap(),
            events: Arc::default(),
            parallel: 8,
            _dir: Arc::new(dir),
        }
    }

    /// The last vertex is wanted.
    pub(super) fn job(&self, vertices: Vec<Vertex>) -> Job {
        let events = self.events.clone();
        Job {
            outputs: vec![vertices.len() - 1],
            graph: Arc::new(Graph { vertices }),
            worker: self.fake.clone(),
            progress: Arc::new(move |event| events.lock().unwrap().push(event)),
            time: crate::FILE_TIME,
            parallel: self.parallel,
        }
    }

    pub(super) async fn solve(&self, vertices: Vec<Vertex>) -> Result<Solved, SolveError> {
        solve(self.job(vertices), &self.cache, &self.files).await
    }

    /// Solves, and says what was run.
    pub(super) async fn runs(&self, vertices: &[Vertex]) -> Vec<String> {
        self.solve(vertices.to_vec()).await.unwrap();
        self.fake.runs()
    }
}

/// Layers of the first output, as they are mounted.
pub(super) fn stored(solved: &Solved) -> Vec<Digest> {
    match &solved.outputs[0] {
        Value::Root(chain) => chain.iter().map(|layer| layer.stored.clone()).collect(),
        Value::Tree(_) => panic!("not a root filesystem"),
    }
}
