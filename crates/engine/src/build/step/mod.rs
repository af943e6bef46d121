//! RUN: a step as a container of our own monitor, without a record of a
//! container and without events.
//!
//! ```text
//! prepare    mounts, snapshot, network, files, specification
//! start      the launcher forks a monitor, which runs the program
//! forward    output becomes events until the program has ended
//! layer      what it changed becomes a layer
//! clean up   in the background, also when the future was dropped
//! ```
//!
//! The monitor is bound to the channel it was started over: it ends with this
//! engine, however that ends.

mod emulation;
mod layer;
mod mounts;
mod output;
mod place;
mod spec;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use berth_api::Error;
use berth_api::container::HostConfig;
use berth_build::dockerfile::{Network, Security};
use berth_build::graph::Id;
use berth_build::progress::Event;
use berth_build::solve::{self, Step};
use berth_build::tree::{Layer, Value};
use berth_monitor::client;
use berth_monitor::protocol::{Attach, ExitRecord, Failure, FromMonitor, Log, Start};
use berth_monitor::steps::Clock;
use berth_store::Digest;
use berth_sys::socket;
use tokio::io::unix::AsyncFd;

use self::mounts::Mounts;
use self::place::Place;
use super::session::{Session, failed};
use crate::container::attach;
use crate::error::{IntoApi as _, blocking, io};
use crate::{files, monitor};

pub(crate) use self::place::{CGROUP_FILE, RUN_DIR, SNAPSHOTS};

/// Runs a step; a layer of what it changed, or none.
pub(super) async fn run(
    session: &Session,
    id: Id,
    step: Step,
) -> Result<Option<Layer>, solve::Error> {
    let mut clock = Clock::start();
    check(session, &step)?;
    let base = root_layers(&step)?;
    let starting = session.clone();
    let place = blocking(move || Place::new(&starting))
        .await
        .map_err(failed)?;
    let place = Arc::new(place);
    let mut mounts = mounts::prepare(session, &place, &step).await?;
    clock.mark("step: mounts");

    let (ours, theirs) =
        socket::seqpacket_pair().map_err(|error| system("open a channel", error))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|error| system("open a channel", error))?;
    let copy = ours
        .try_clone()
        .map_err(|error| system("open a channel", error))?;
    place.set_channel(copy);
    let channel = files::watched(ours).map_err(|error| system("open a channel", error))?;
    let (stream, out) = attach::stream_pair().map_err(failed)?;
    let step = Arc::new(step);
    let servers = std::mem::take(&mut mounts.servers);
    let starting = Starting {
        session: session.clone(),
        place: place.clone(),
        step: step.clone(),
        base,
        mounts,
        channel: theirs,
        out,
    };
    let (mut clock, root) = blocking(move || starting.hand_over(clock))
        .await
        .map_err(failed)?;

    let (forwarded, ended) = tokio::join!(
        output::forward(session, id, stream),
        follow(&channel, &mut clock)
    );
    forwarded.map_err(|error| system("read the output of the step", error))?;
    clock.mark("step: program");
    drop(servers);
    let made = ended?.judge(session, id, &step)?;
    let (session, place_kept) = (session.clone(), place.clone());
    let layer = blocking(move || {
        layer::remove_made(&root.upper, &made)?;
        layer::remove_unchanged(&root.upper, || session.merged(&root.base))?;
        let key = &root.key;
        let layer = layer::make(&session, key, step.time, step.keep_times);
        drop(place_kept);
        layer
    })
    .await
    .map_err(failed)?;
    clock.mark("step: layer");
    log_steps(&place.id, clock);
    Ok(layer)
}

fn system(tried: &str, error: impl std::fmt::Display) -> solve::Error {
    solve::Error::System(format!("{tried}: {error}"))
}

fn log_steps(id: &str, clock: Clock) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let steps = clock.into_steps();
        let list: Vec<_> = (steps.iter())
            .map(|(name, micros)| format!("{name}={micros}us"))
            .collect();
        tracing::debug!(step = id, "build steps: {}", list.join(", "));
    }
}

/// What must have been allowed, or must be there.
fn check(session: &Session, step: &Step) -> Result<(), solve::Error> {
    let allowed = |what: &str| session.request.allow.iter().any(|given| given == what);
    let exec = &step.exec;
    for (wanted, what) in [
        (exec.network == Network::Host, "network.host"),
        (exec.security == Security::Insecure, "security.insecure"),
    ] {
        if wanted && !allowed(what) {
            return Err(solve::Error::Invalid(format!(
                "{what} is not allowed: build with --allow {what}"
            )));
        }
    }
    if exec.args.is_empty() {
        return Err(solve::Error::Invalid("a step without arguments".to_owned()));
    }
    emulation::check(&exec.platform, &exec.args)
}

/// Diff IDs of the root filesystem, bottom first.
fn root_layers(step: &Step) -> Result<Vec<Digest>, solve::Error> {
    let Some(input) = step.exec.root else {
        return Ok(Vec::new());
    };
    match step.inputs.get(input) {
        Some(Value::Root(chain)) => Ok(chain.iter().map(|layer| layer.stored.clone()).collect()),
        _ => Err(solve::Error::System(
            "the root of a step is no root filesystem".to_owned(),
        )),
    }
}

/// Everything that the start needs.
struct Starting {
    session: Session,
    place: Arc<Place>,
    step: Arc<Step>,
    base: Vec<Digest>,
    mounts: Mounts,
    channel: OwnedFd,
    out: OwnedFd,
}

/// The step's own part of its root filesystem.
struct Root {
    key: String,
    upper: std::path::PathBuf,
    /// Diff IDs below it, bottom first.
    base: Vec<Digest>,
}

impl Starting {
    /// Network, files, specification, system call filter; then the launcher.
    /// Blocks.
    fn hand_over(mut self, mut clock: Clock) -> Result<(Clock, Root), Error> {
        clock.mark("step: wait for a thread");
        let engine = &self.session.engine;
        let exec = &self.step.exec;
        let host = spec::host_config(&self.session.host, exec);
        let key = self.place.snapshot_key();
        let snapshot = mounts::writable(&self.session, &key, &self.base)?;
        clock.mark("step: snapshot");
        let network = self.connect(&host)?;
        clock.mark("step: network");
        let mut own = self.network_files(&host)?;
        own.append(&mut self.mounts.list);
        let mut secrets = std::mem::take(&mut self.mounts.env);
        if let Some(agent) = self.mounts.agent.take() {
            secrets.push(("SSH_AUTH_SOCK".to_owned(), agent));
        }
        let env = spec::environment(exec, self.step.time, &secrets);
        let built = spec::build(engine, &host, &self.place.cgroup, exec, env, own)?;
        let config = serde_json::to_vec(&built.spec)
            .map_err(|error| Error::system(format!("encode the OCI configuration: {error}")))?;
        let memory = |name: &str, bytes: &[u8]| {
            client::memory_file(name, bytes)
                .map_err(|error| Error::system(format!("make a memory file: {error}")))
        };
        let config = memory("config.json", &config)?;
        let seccomp = match &built.seccomp {
            Some(program) => Some(memory("seccomp", program)?),
            None => None,
        };
        clock.mark("step: specification");
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.channel.as_fd(), config.as_fd()];
        fds.extend(seccomp.iter().map(AsFd::as_fd));
        fds.extend(network.iter().map(AsFd::as_fd));
        fds.extend(self.mounts.given.iter().map(AsFd::as_fd));
        fds.push(self.out.as_fd());
        let root = Root {
            key,
            upper: snapshot.upper.clone(),
            base: std::mem::take(&mut self.base),
        };
        let start = Start {
            id: self.place.id.clone(),
            run_dir: self.place.run_dir(),
            state_dir: self.place.dir.clone(),
            root: snapshot,
            cgroup: self.place.cgroup.clone(),
            has_seccomp: seccomp.is_some(),
            has_network: network.is_some(),
            has_shm: false,
            init: false,
            tty: false,
            console_size: (0, 0),
            open_stdin: false,
            stdin_once: false,
            log: Log::None,
            attach: vec![Attach {
                stdin: false,
                stdout: true,
                stderr: true,
            }],
            bound: true,
            trees: std::mem::take(&mut self.mounts.trees),
            has_tree: self.mounts.given.is_some(),
        };
        engine.0.launcher.start(start, &fds)?;
        clock.mark("step: send");
        Ok((clock, root))
    }

    fn connect(&self, host: &HostConfig) -> Result<Option<OwnedFd>, Error> {
        let engine = &self.session.engine;
        match host.network_mode.as_str() {
            "host" => Ok(None),
            "none" => Ok(Some(engine.0.manager.bare().api()?.fd)),
            _ => {
                let bridge = engine.0.networks.bridge().ok_or_else(|| {
                    Error::not_found(
                        "network bridge not found: the engine runs with --bridge none; build with --network none",
                    )
                })?;
                let (namespace, endpoint) =
                    engine.0.manager.connect(&bridge.id, None, None).api()?;
                self.place.set_endpoint(endpoint);
                Ok(Some(namespace.fd))
            }
        }
    }

    /// resolv.conf and hosts, as BuildKit writes them.
    fn network_files(&self, host: &HostConfig) -> Result<Vec<oci_spec::runtime::Mount>, Error> {
        let engine = &self.session.engine;
        let exec = &self.step.exec;
        let hosts = if host.network_mode == "host" && exec.extra_hosts.is_empty() {
            std::fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            let name = match exec.hostname.as_str() {
                "" => spec::HOSTNAME,
                name => name,
            };
            format!(
                "127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n{}",
                engine.extra_hosts(&exec.extra_hosts)?
            )
        };
        let files = [
            ("/etc/resolv.conf", "resolv.conf", engine.resolv_conf(host)?),
            ("/etc/hosts", "hosts", hosts),
        ];
        let make = |(target, name, text): (&str, &str, String)| {
            let path = self.place.dir.join(name);
            std::fs::write(&path, text).map_err(|error| io("write", &path, &error))?;
            let options = ["rbind", "rprivate", "ro", "nosuid", "noexec", "nodev"];
            let source = path.to_string_lossy();
            Ok(crate::spec::mounts::mount(
                target, "bind", &source, &options,
            ))
        };
        files.into_iter().map(make).collect()
    }
}

/// What the monitor told.
enum Ended {
    Exited { exit: ExitRecord, made: Vec<String> },
    NotStarted(Failure, String),
}

/// Reads the channel until the program has ended.
async fn follow(channel: &AsyncFd<OwnedFd>, clock: &mut Clock) -> Result<Ended, solve::Error> {
    let mut made = Vec::new();
    loop {
        let message = monitor::receive(channel)
            .await
            .map_err(|error| system("read from the monitor", error))?;
        let Some(bytes) = message else {
            return Err(solve::Error::System(
                "the monitor of the step ended before the step did".to_owned(),
            ));
        };
        // A newer monitor may say things that we do not know.
        match serde_json::from_slice(&bytes) {
            Ok(FromMonitor::Started {
                steps,
                made: places,
                ..
            }) => {
                made = places;
                clock.extend(steps);
                clock.mark("step: start");
            }
            Ok(FromMonitor::StartFailed { kind, message }) => {
                return Ok(Ended::NotStarted(kind, message));
            }
            Ok(FromMonitor::Exited(exit)) => return Ok(Ended::Exited { exit, made }),
            _ => {}
        }
    }
}

impl Ended {
    /// What was made in the root to mount on, if all went well.
    fn judge(self, session: &Session, id: Id, step: &Step) -> Result<Vec<String>, solve::Error> {
        let say = |text: String| {
            session.tell(Event::Log {
                id,
                stderr: true,
                data: format!("{text}\n").into_bytes(),
            });
        };
        let command = || step.exec.args.join(" ");
        match self {
            Self::Exited { exit, made } if exit.exit_code == 0 => {
                if exit.oom_killed {
                    say("a process of this step was killed for lack of memory".to_owned());
                }
                Ok(made)
            }
            Self::Exited { exit, .. } => {
                if exit.oom_killed {
                    say(match session.host.memory {
                        0 => "killed: the machine has no more memory".to_owned(),
                        limit => format!(
                            "killed: the step needs more memory than its limit of {limit} bytes"
                        ),
                    });
                }
                Err(solve::Error::Exit {
                    command: command(),
                    code: exit.exit_code,
                })
            }
            Self::NotStarted(kind, message) => {
                let code = match kind {
                    Failure::NotFound => 127,
                    Failure::NotExecutable => 126,
                    // No such user, no such source: BuildKit's words around it.
                    Failure::Invalid => {
                        return Err(solve::Error::Invalid(format!(
                            "process {:?} did not complete successfully: {message}",
                            command()
                        )));
                    }
                    Failure::Conflict | Failure::System => {
                        return Err(solve::Error::System(message));
                    }
                };
                say(format!(
                    "runc run failed: unable to start container process: {message}"
                ));
                Err(solve::Error::Exit {
                    command: command(),
                    code,
                })
            }
        }
    }
}
