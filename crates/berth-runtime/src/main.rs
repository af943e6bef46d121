//! `berth-runtime`: the small binary that is all that ever stands between the
//! host and a container.
//!
//! Roles: an OCI runtime with runc's verbs and flags, and the launcher
//! (`berth-runtime launcher`), of which each container's monitor is a fork, and
//! the init of containers that want one (`berth-runtime init`).
//! Single-threaded throughout.

mod args;
mod commands;
mod config;
mod console;
mod criu;
mod error;
mod filters;
mod help;
mod inherit;
mod init;
mod rootless;
mod signal;
mod state;
mod wait;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Args, Opt};
use commands::groups::Groups;
use error::{Context as _, Error, Kind, Result};

const USAGE: &str = "\
Usage: berth-runtime [global options] command [options] [arguments]

Commands of an OCI runtime:
  run       create and start a container, and wait for its end
  create    make a container that waits for `start`
  start     run the program of a created container
  exec      run a further program in a running container
  kill      send a signal (default TERM) to a container's first process
  delete    remove a container that has ended
  pause     stop all processes of a container
  resume    let them go on
  ps        show the processes of a container
  update    change a container's limits
  events    print what a container uses, and when it lacks memory
  checkpoint  write a running container to files, through CRIU
  restore   make a container from such files
  state     print a container's state
  list      list the containers of this root
  spec      write an example config.json
  features  print what this runtime supports

Roles in the engine:
  launcher  serve start requests: launcher --exec-root DIR [--cgroup PATH]
  init      first process of a container with --init: init -- PROGRAM [ARGUMENT...]

Global options:
  --root DIR           where state is kept (default /run/berth-runtime, for users
                       $XDG_RUNTIME_DIR/berth-runtime)
  --log FILE           where errors are also written
  --log-format FORMAT  text or json
  --debug              accepted; only errors are logged
  --rootless WHETHER   true, false or auto (default): see what a user without
                       privileges may do; no limits when control groups may not
                       be made
  --systemd-cgroup     have systemd make a scope for each container;
                       linux.cgroupsPath is slice:prefix:name
  --criu PATH          ignored, as by runc: CRIU is looked for in $PATH
  -v, --version        print the version
  -h, --help           print this
";

const GLOBAL: &[Opt] = &[
    Opt::value("root"),
    Opt::value("log"),
    Opt::value("log-format"),
    // Accepted because the engines pass it; it chooses how much is logged, and this
    // runtime logs errors only.
    Opt::flag("debug"),
    Opt::value("rootless"),
    // Of older engines; runc ignores it with a warning.
    Opt::value("criu"),
    Opt::flag("systemd-cgroup"),
    Opt::flag("version").short('v'),
    Opt::flag("help").short('h'),
];

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    // Under the name that a container knows it by, it is nothing else.
    if arguments
        .first()
        .is_some_and(|name| Path::new(name) == Path::new(berth_monitor::protocol::INIT))
    {
        return ExitCode::from(init::run(arguments.split_off(1)));
    }
    if !arguments.is_empty() {
        arguments.remove(0);
    }
    let global = match Args::parse(&mut arguments, GLOBAL, args::Order::OptionsFirst) {
        Ok(global) => global,
        Err(error) => {
            Log::default().report(&error);
            return ExitCode::from(1);
        }
    };
    let log = Log::from(&global);
    let verb = arguments.first().and_then(|verb| verb.to_str());
    let verb = verb.unwrap_or_default().to_owned();
    ExitCode::from(match dispatch(&global, &log, arguments) {
        Ok(code) => code,
        Err(error) => fail(&log, &verb, error),
    })
}

/// Tells what went wrong; returns the exit code, as runc has it.
fn fail(log: &Log, verb: &str, error: Error) -> u8 {
    match (error.kind(), verb) {
        (Kind::Help, _) => return print(help::of(verb).unwrap_or(USAGE)).unwrap_or(1),
        // 255 is not taken for the program's own exit code.
        (Kind::Failure, "exec") => {
            log.report(&error.prefixed("exec failed: "));
            return 255;
        }
        _ => log.report(&error),
    }
    if error.kind() == Kind::Unknown { 3 } else { 1 }
}

fn dispatch(global: &Args, log: &Log, mut arguments: Vec<OsString>) -> Result<u8> {
    if global.has("help") || (arguments.is_empty() && !global.has("version")) {
        return print(USAGE);
    }
    if global.has("version") {
        return print(&format!(
            "berth-runtime version {}\nspec: {}\n",
            env!("CARGO_PKG_VERSION"),
            commands::OCI_VERSION
        ));
    }
    if let Some(format) = global.value("log-format")
        && !matches!(format, "text" | "json")
    {
        return Err(Error::new(format!("invalid log-format: {format}")));
    }
    let verb = arguments.remove(0);
    // Before anything else is done, for it would be done twice.
    if matches!(verb.to_str(), Some("run" | "create" | "exec")) {
        protect()?;
    }
    log.check()?;
    if global.value("criu").is_some() {
        // Nowhere is left to tell that standard error cannot be written.
        let _ = writeln!(
            std::io::stderr(),
            "berth-runtime: WARNING: --criu ignored: criu is looked up in $PATH"
        );
    }
    let groups = Groups::parse(global.value("rootless"), global.has("systemd-cgroup"))?;
    let root = match global.value("root").filter(|root| !root.is_empty()) {
        Some(root) => PathBuf::from(root),
        None => default_root(),
    };
    match verb.to_str() {
        Some("run") => commands::create::run(&root, groups, arguments),
        Some("create") => commands::create::create(&root, groups, arguments),
        Some("start") => commands::start::start(&root, arguments),
        Some("exec") => commands::exec::exec(&root, arguments),
        Some("kill") => commands::manage::kill(&root, arguments),
        Some("delete") => commands::manage::delete(&root, arguments),
        Some("pause") => commands::freeze::pause(&root, arguments),
        Some("resume") => commands::freeze::resume(&root, arguments),
        Some("ps") => commands::ps::ps(&root, arguments),
        Some("checkpoint") => commands::checkpoint::checkpoint(&root, arguments),
        Some("restore") => commands::restore::restore(&root, groups, arguments),
        Some("update") => commands::update::update(&root, arguments),
        Some("events") => commands::events::events(&root, arguments),
        Some("state") => commands::manage::state(&root, arguments),
        Some("list") => commands::manage::list(&root, arguments),
        Some("spec") => commands::info::spec(arguments),
        Some("features") => commands::info::features(arguments),
        Some("init") => Ok(init::run(arguments)),
        Some("launcher") => commands::launcher::launcher(arguments),
        Some("help" | "h") => match arguments.first() {
            Some(verb) => {
                let text = verb.to_str().and_then(help::of);
                print(text.ok_or_else(|| unknown(verb))?)
            }
            None => print(USAGE),
        },
        _ => Err(unknown(&verb)),
    }
}

fn unknown(verb: &OsStr) -> Error {
    Error::unknown(format!(
        "no such command: `{}`; see --help",
        verb.to_string_lossy()
    ))
}

fn default_root() -> PathBuf {
    let own = rootless::runtime_dir();
    own.unwrap_or_else(|| "/run".into()).join("berth-runtime")
}

/// Goes on in a program that a container cannot overwrite: its processes can
/// execute `/proc/self/exe` and open it (CVE-2019-5736).
fn protect() -> Result<()> {
    use berth_monitor::launcher::seal;
    let tried = || "protect this program from the container".to_owned();
    if seal::is_protected().context(tried)? {
        return Ok(());
    }
    Err(seal::execute_protected()).context(tried)
}

/// To standard output.
fn print(text: &str) -> Result<u8> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::new(format!("write to standard output: {error}")))?;
    Ok(0)
}

/// `--log` and `--log-format`: where engines read what went wrong.
#[derive(Default)]
struct Log {
    path: Option<PathBuf>,
    json: bool,
}

impl Log {
    fn from(global: &Args) -> Self {
        let path = global.value("log").filter(|path| !path.is_empty());
        Self {
            path: path.map(PathBuf::from),
            json: global.value("log-format") == Some("json"),
        }
    }

    /// That it can be written is found out before it is needed. It is not kept
    /// open: its number could be one of the descriptors to be passed on.
    fn check(&self) -> Result<()> {
        match &self.path {
            Some(path) => open_log(path)
                .map(drop)
                .context(|| format!("open {}", path.display())),
            None => Ok(()),
        }
    }

    fn line(&self, message: &str) -> String {
        let time = berth_monitor::timestamp::Timestamp::now();
        if self.json {
            serde_json::json!({ "level": "error", "msg": message, "time": time.to_string() })
                .to_string()
        } else {
            format!("time=\"{time}\" level=error msg={message:?}")
        }
    }

    fn report(&self, error: &Error) {
        let message = error.to_string();
        let mut stderr = std::io::stderr();
        // Nowhere is left to tell that standard error cannot be written.
        if let Some(path) = &self.path {
            let written = open_log(path)
                .and_then(|mut file| file.write_all((self.line(&message) + "\n").as_bytes()));
            if let Err(failure) = written {
                let _ = writeln!(
                    stderr,
                    "berth-runtime: write to {}: {failure}",
                    path.display()
                );
            }
        }
        let _ = if self.json && self.path.is_none() {
            writeln!(stderr, "{}", self.line(&message))
        } else {
            writeln!(stderr, "berth-runtime: {message}")
        };
    }
}

fn open_log(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
}
