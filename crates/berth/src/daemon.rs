//! `berth daemon`: options, log, PID file, sockets; then the engine behind the
//! server until a signal ends it. Containers go on running without it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use berth_engine::Engine;
use berth_server::Server;
use berth_server::listen::{self, Address, Listener};
use tokio::signal::unix::{Signal, SignalKind, signal};

mod builder;
mod file;
mod flags;
mod log;
mod notify;
mod options;
mod pidfile;
mod registries;
mod settings;

use options::{Kind, OPTIONS, Support, Values};
use settings::{Given, Settings};

/// Threads that run requests. They only wait; what blocks has its own.
const WORKERS: usize = 2;

/// Threads for what blocks, at most: image archives and files.
const BLOCKING: usize = 16;

/// How long an idle thread of those stays.
const BLOCKING_KEEP: std::time::Duration = std::time::Duration::from_secs(2);

/// The log of a server that is not the daemon. Its level is that of
/// BERTH_LOG_LEVEL, else "info".
pub(crate) fn start_log() {
    let level = std::env::var("BERTH_LOG_LEVEL")
        .ok()
        .and_then(|level| level.parse().ok())
        .unwrap_or(tracing_subscriber::filter::LevelFilter::INFO);
    log::start(level, false);
}

/// Runs the daemon; returns its exit status.
pub(crate) fn main(name: &str, words: &[OsString]) -> i32 {
    // Before anything else is opened, and before any thread.
    let activation = berth_sys::inherited::activation_sockets();
    berth_sys::memory::keep_small();
    match run(name, words, activation) {
        Ok(()) => 0,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}");
            1
        }
    }
}

/// The error is what the person who started the daemon reads.
fn run(name: &str, words: &[OsString], activation: Vec<OwnedFd>) -> Result<(), String> {
    let flags = flags::parse(words).map_err(|why| format!("{why}\nSee '{name} --help'."))?;
    if Given(&flags).flag("help", false) {
        return print(&help(name));
    }
    if Given(&flags).flag("version", false) {
        return print(&format!(
            "Docker version {}, berth {}\n",
            berth_api::version::DOCKER_VERSION,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let values = all_values(&flags)?;
    let settings = settings::build(name, &values)?;
    if Given(&flags).flag("validate", false) {
        let _ = writeln!(std::io::stderr(), "configuration OK");
        return Ok(());
    }
    let ready = match settings.ready_fd {
        Some(number) => Some(
            berth_sys::inherited::take(number)
                .map_err(|error| format!("cannot use --ready-fd {number}: {error}"))?,
        ),
        None => None,
    };
    let log = log::start(settings.log_level, settings.log_json);
    // Only this program's own files; what containers get is given explicitly.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let pidfile = pidfile::PidFile::create(&settings.pidfile)?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(BLOCKING_KEEP)
        .thread_name("berthd")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start threads: {error}"))?;
    let daemon = Daemon {
        name: name.to_owned(),
        flags,
        values,
        settings,
        log,
    };
    let result = runtime.block_on(daemon.serve(activation, ready));
    // Streams to clients may still be open; nothing waits for them.
    runtime.shutdown_background();
    drop(pidfile);
    result
}

fn print(text: &str) -> Result<(), String> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}

/// Flags and file together.
fn all_values(flags: &Values) -> Result<Values, String> {
    let (path, file) = settings::read_file(flags)?;
    file::merge(flags.clone(), file, &path)
}

struct Daemon {
    /// What it was called as.
    name: String,
    flags: Values,
    /// As of the start or the last reload.
    values: Values,
    settings: Settings,
    log: log::Control,
}

impl Daemon {
    async fn serve(
        mut self,
        activation: Vec<OwnedFd>,
        ready: Option<OwnedFd>,
    ) -> Result<(), String> {
        let mut signals = Signals::new()?;
        // Before the engine touches anything: an address in use ends it here.
        let listeners = self.listen(activation)?;
        tracing::info!("Starting up");
        let engine = Engine::open(self.settings.engine.clone())
            .await
            .map_err(|error| format!("failed to start daemon: {error}"))?;
        let server = Server::new(
            engine.clone(),
            berth_server::Settings {
                min_api: self.settings.min_api,
                experimental: self.settings.engine.experimental,
            },
        );
        for listener in listeners {
            tracing::info!("API listen on {}", listener.address());
            let server = server.clone();
            tokio::spawn(async move { server.run(listener).await });
        }
        // What the start needed is not needed any more.
        berth_sys::memory::trim();
        tracing::info!("Daemon has completed initialization");
        notify::systemd("READY=1");
        if let Some(fd) = ready {
            notify::ready(fd);
        }
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.quit.recv() => break,
                _ = signals.hangup.recv() => self.reload(),
            }
        }
        tracing::info!("Processing signal: shutting down; containers keep running");
        notify::systemd("STOPPING=1");
        server.stop(self.settings.shutdown_timeout).await;
        engine.close().await;
        tracing::info!("Daemon shutdown complete");
        Ok(())
    }

    fn listen(&self, mut activation: Vec<OwnedFd>) -> Result<Vec<Listener>, String> {
        let settings = &self.settings;
        let group = match &settings.group {
            Some(group) => Some(listen::find_group(group).map_err(|error| error.to_string())?),
            None => listen::find_group(Settings::DEFAULT_GROUP)
                .inspect_err(|error| tracing::debug!(%error, "the socket is root's alone"))
                .ok(),
        };
        let mut listeners = Vec::new();
        for host in &settings.hosts {
            if *host == Address::Activation {
                if activation.is_empty() {
                    return Err(listen::Error::NoActivation.to_string());
                }
                for fd in activation.drain(..) {
                    listeners.push(Listener::inherited(fd).map_err(|error| error.to_string())?);
                }
                continue;
            }
            let bound = Listener::bind(host, group).map_err(|error| error.to_string())?;
            if matches!(host, Address::Tcp(..)) {
                for listener in &bound {
                    tracing::warn!(
                        "Binding to IP address without --tlsverify is insecure and gives root access on this machine to everyone who has access to your network: {}",
                        listener.address()
                    );
                }
            }
            listeners.extend(bound);
        }
        Ok(listeners)
    }

    /// SIGHUP: what can change now does; what cannot is named.
    fn reload(&mut self) {
        notify::reloading();
        match self.reread() {
            Ok(()) => tracing::info!("Reloaded configuration"),
            Err(why) => tracing::error!("Error reconfiguring the daemon: {why}"),
        }
        notify::systemd("READY=1");
    }

    fn reread(&mut self) -> Result<(), String> {
        /// Options that a running daemon can change.
        const RELOADABLE: [&str; 3] = ["debug", "log-level", "shutdown-timeout"];
        let values = all_values(&self.flags)?;
        let fresh = settings::build(&self.name, &values)?;
        self.log.set(fresh.log_level);
        self.settings.shutdown_timeout = fresh.shutdown_timeout;
        for opt in OPTIONS {
            let name = opt.name();
            if self.values.get(name) != values.get(name) && !RELOADABLE.contains(&name) {
                tracing::warn!("The change of {name} takes effect at the next start of the daemon");
            }
        }
        self.values = values;
        Ok(())
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let listen =
            |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

fn help(name: &str) -> String {
    let mut text = format!(
        "\nUsage:  {name} [OPTIONS]\n\nA self-sufficient runtime for containers.\n\nOptions:\n"
    );
    for opt in OPTIONS {
        let Support::Works(help) = opt.support else {
            continue;
        };
        if opt.flag.is_empty() {
            continue;
        }
        let short = match opt.short {
            Some(short) => format!("-{short}, "),
            None => "    ".to_owned(),
        };
        let kind = match opt.kind {
            Kind::Bool => "",
            Kind::Int => " int",
            Kind::Text => " string",
            Kind::List => " list",
            Kind::Map => " map",
        };
        let flag = format!("--{}{kind}", opt.flag);
        let _ = writeln!(text, "  {short}{flag:<30}  {help}");
    }
    text.push_str(
        "\nThe other flags of dockerd are known, and refused unless they say what berth does anyway.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::options::Value;
    use super::*;

    #[test]
    fn help_shows_what_works() {
        let text = help("berth daemon");
        assert!(text.contains("  -H, --host list"));
        assert!(!text.contains("userns-remap"));
    }

    #[test]
    fn flags_and_file_are_joined() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.json");
        std::fs::write(&path, r#"{"mtu": 1400}"#).unwrap();
        let flags = |extra: &str| {
            let line = format!("--config-file {} {extra}", path.display());
            let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
            flags::parse(&words).unwrap()
        };
        let values = all_values(&flags("-D")).unwrap();
        assert_eq!(values["mtu"], Value::Int(1400));
        assert_eq!(values["debug"], Value::Bool(true));
        assert!(
            all_values(&flags("--mtu 9000"))
                .unwrap_err()
                .contains("both as a flag")
        );
        std::fs::remove_file(&path).unwrap();
        assert!(all_values(&flags("")).unwrap_err().contains("no such file"));
    }
}
