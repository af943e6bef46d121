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
mod error;
mod filters;
mod help;
mod inherit;
mod init;
mod rootless;
mod signal;
mod state;
mod wait;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Args, Opt};
use commands::groups::Groups;
use error::{Context as _, Error, Result};

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
            report(&error, None);
            return ExitCode::from(1);
        }
    };
    let log = Log::from(&global);
    // As runc has it: 255 is not taken for the program's own exit code.
    let failure = match arguments.first() {
        Some(verb) if verb == "exec" => 255,
        _ => 1,
    };
    match dispatch(&global, arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error, log.as_ref());
            ExitCode::from(failure)
        }
    }
}

fn dispatch(global: &Args, mut arguments: Vec<OsString>) -> Result<u8> {
    if global.has("help") {
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
    if arguments.is_empty() {
        return Err(Error::new("no command given; see --help"));
    }
    let verb = arguments.remove(0);
    let asked = if verb == "help" {
        arguments.first().and_then(|verb| verb.to_str())
    } else {
        (arguments.first())
            .filter(|first| *first == "--help" || *first == "-h")
            .and_then(|_| verb.to_str())
    };
    if let Some(text) = asked.and_then(help::of) {
        return print(text);
    }
    // Before anything else is done, for it would be done twice.
    if matches!(verb.to_str(), Some("run" | "create" | "exec")) {
        protect()?;
    }
    let systemd = global.has("systemd-cgroup");
    let groups = Groups::parse(global.value("rootless"), systemd)?;
    let root = match global.value("root") {
        Some(root) => PathBuf::from(root),
        None => match rootless::runtime_dir() {
            Some(dir) => dir.join("berth-runtime"),
            None => PathBuf::from("/run/berth-runtime"),
        },
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
        Some("update") => commands::update::update(&root, arguments),
        Some("events") => commands::events::events(&root, arguments),
        Some("state") => commands::manage::state(&root, arguments),
        Some("list") => commands::manage::list(&root, arguments),
        Some("spec") => commands::info::spec(arguments),
        Some("features") => commands::info::features(&arguments),
        Some("init") => Ok(init::run(arguments)),
        Some("launcher") => commands::launcher::launcher(arguments),
        Some("help") => print(USAGE),
        Some(verb @ ("checkpoint" | "restore")) => {
            Err(Error::new(format!("command `{verb}` is not supported yet")))
        }
        _ => Err(Error::new(format!(
            "no such command: `{}`; see --help",
            verb.to_string_lossy()
        ))),
    }
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
struct Log {
    path: PathBuf,
    json: bool,
}

impl Log {
    fn from(global: &Args) -> Option<Self> {
        let path = global.value("log").filter(|path| !path.is_empty())?;
        Some(Self {
            path: path.into(),
            json: global.value("log-format") == Some("json"),
        })
    }

    fn write(&self, message: &str) -> std::io::Result<()> {
        let time = berth_monitor::timestamp::Timestamp::now();
        let line = if self.json {
            serde_json::json!({ "level": "error", "msg": message, "time": time.to_string() })
                .to_string()
        } else {
            format!("time=\"{time}\" level=error msg={message:?}")
        };
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&self.path)?;
        file.write_all((line + "\n").as_bytes())
    }
}

fn report(error: &Error, log: Option<&Log>) {
    let mut stderr = std::io::stderr();
    if let Some(log) = log
        && let Err(failure) = log.write(&error.to_string())
    {
        let _ = writeln!(
            stderr,
            "berth-runtime: write to {}: {failure}",
            log.path.display()
        );
    }
    // Nowhere is left to tell that standard error cannot be written.
    let _ = writeln!(stderr, "berth-runtime: {error}");
}
