//! OCI hooks: programs that get the container's state on their standard input.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{ContainerState, Hook, Spec};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags};

use crate::Root;
use crate::error::{Context as _, Error, Result};
use crate::namespaces;

/// Most of a hook's output that an error message quotes, in bytes.
const MAX_OUTPUT: u64 = 4096;

/// What hooks are told about the container.
#[derive(Clone, Debug)]
pub(crate) struct State {
    json: serde_json::Map<String, serde_json::Value>,
}

impl State {
    pub(crate) fn new(spec: &Spec, id: &str, root: &Root<'_>) -> Self {
        let bundle = match root {
            Root::Bundle(path) => path.to_string_lossy().into_owned(),
            // There is no directory with a config.json.
            Root::Mount(_) => String::new(),
        };
        let mut json = serde_json::Map::new();
        json.insert("ociVersion".into(), spec.version().as_str().into());
        json.insert("id".into(), id.into());
        json.insert("bundle".into(), bundle.into());
        if let Some(annotations) = spec.annotations() {
            let annotations = annotations
                .iter()
                .map(|(k, v)| (k.clone(), v.clone().into()));
            json.insert(
                "annotations".into(),
                serde_json::Value::Object(annotations.collect()),
            );
        }
        Self { json }
    }

    /// The bundle, unless there is none or it has gone.
    fn directory(&self) -> Option<&Path> {
        let bundle = Path::new(self.json.get("bundle")?.as_str()?);
        bundle.is_dir().then_some(bundle)
    }

    pub(crate) fn value(&self, status: ContainerState, pid: u32) -> serde_json::Value {
        let mut json = self.json.clone();
        json.insert("status".into(), status.to_string().into());
        if pid != 0 {
            json.insert("pid".into(), pid.into());
        }
        serde_json::Value::Object(json)
    }
}

/// Whose namespaces a hook runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The runtime's, in the bundle's directory.
    Runtime,
    /// The container's, wherever the caller is.
    Container,
}

/// Runs `hooks` one after the other; the first that fails ends it.
pub(crate) fn run(
    place: Place,
    name: &str,
    hooks: Option<&Vec<Hook>>,
    state: &State,
    status: ContainerState,
    pid: u32,
) -> Result<()> {
    let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else {
        return Ok(());
    };
    let directory = state.directory().filter(|_| place == Place::Runtime);
    let state = state.value(status, pid).to_string().into_bytes();
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, &state, directory).map_err(|error| named(name, index, hook, error))?;
    }
    Ok(())
}

/// The hooks for when a container has been deleted.
#[derive(Debug)]
pub struct Poststop {
    hooks: Vec<Hook>,
    state: State,
}

impl Poststop {
    /// `None` when the configuration has none.
    #[must_use]
    pub fn new(spec: &Spec, id: &str, bundle: &Path) -> Option<Self> {
        let hooks = spec.hooks().as_ref()?.poststop().clone()?;
        Some(Self {
            hooks,
            state: State::new(spec, id, &Root::Bundle(bundle)),
        })
    }

    /// Runs all of them: one that fails is no reason not to run the others.
    /// Returns what failed.
    #[must_use]
    pub fn run(&self) -> Vec<Error> {
        let directory = self.state.directory();
        let state = self.state.value(ContainerState::Stopped, 0).to_string();
        let hooks = self.hooks.iter().enumerate();
        hooks
            .filter_map(|(index, hook)| {
                let failed = run_one(hook, state.as_bytes(), directory).err()?;
                Some(named("poststop", index, hook, failed))
            })
            .collect()
    }
}

/// An error with the hook it is about.
fn named(name: &str, index: usize, hook: &Hook, error: Error) -> Error {
    let text = format!(
        "error running {name} hook #{index} ({})",
        hook.path().display()
    );
    match error {
        Error::Step { step, source } => Error::Step {
            step: format!("{text}: {step}"),
            source,
        },
        other => Error::invalid(format!("{text}: {other}")),
    }
}

fn run_one(hook: &Hook, state: &[u8], directory: Option<&Path>) -> Result<()> {
    if !hook.path().is_absolute() {
        return Err(Error::invalid("the path is not absolute"));
    }
    namespaces::check_at_home()?;
    let mut output = memory_file()?;
    let mut input = memory_file()?;
    input.write_all(state).step(|| "write the state")?;
    input.seek(SeekFrom::Start(0)).step(|| "write the state")?;
    let clone = |file: &File| file.try_clone().step(|| "share a descriptor");
    let mut command = Command::new(hook.path());
    let args = hook.args().iter().flatten();
    let env = hook.env().iter().flatten();
    command
        .args(args.clone().skip(1))
        .env_clear()
        .envs(env.filter_map(|entry| entry.split_once('=')))
        .stdin(input)
        .stdout(Stdio::from(clone(&output)?))
        .stderr(Stdio::from(clone(&output)?));
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    if let Some(name) = args.into_iter().next() {
        command.arg0(name);
    }
    let mut child = command.spawn().step(|| "start it")?;
    let timeout = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    let status = wait(&mut child, timeout.map(Duration::from_secs))?;
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    let _ = output.seek(SeekFrom::Start(0));
    let _ = output.take(MAX_OUTPUT).read_to_end(&mut text);
    Err(Error::invalid(format!(
        "{}, output: {}",
        describe(status),
        String::from_utf8_lossy(&text).trim_end()
    )))
}

/// A hook may write without end and read nothing: neither blocks us.
fn memory_file() -> Result<File> {
    rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)
        .step(|| "make a memory file")
        .map(File::from)
}

fn wait(child: &mut Child, timeout: Option<Duration>) -> Result<ExitStatus> {
    let Some(timeout) = timeout else {
        return child.wait().step(|| "wait for it");
    };
    let deadline = Instant::now() + timeout;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::invalid("it has no process number"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).step(|| "watch it")?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let _ = child.kill();
            child.wait().step(|| "wait for it")?;
            return Err(Error::step(
                format!("it did not end within {} s", timeout.as_secs()),
                rustix::io::Errno::TIMEDOUT,
            ));
        }
        let left = rustix::time::Timespec::try_from(left).ok();
        let mut ready = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut ready, left.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return child.wait().step(|| "wait for it"),
            Err(errno) => return Err(errno).step(|| "wait for it"),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended in an unknown way".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(json: &str) -> Vec<Hook> {
        serde_json::from_str(json).unwrap()
    }

    fn run_json(json: &str) -> Result<()> {
        let spec: Spec =
            serde_json::from_str(r#"{"ociVersion":"1.2.0","annotations":{"a":"b"}}"#).unwrap();
        let state = State::new(&spec, "c1", &Root::Bundle(Path::new("/bundle")));
        run(
            Place::Runtime,
            "prestart",
            Some(&hooks(json)),
            &state,
            ContainerState::Creating,
            7,
        )
    }

    #[test]
    fn the_state_arrives_on_standard_input() {
        run_json(
            r#"[{"path":"/bin/sh","args":["sh","-c",
              "grep -q '\"annotations\":{\"a\":\"b\"},\"bundle\":\"/bundle\",\"id\":\"c1\",\"ociVersion\":\"1.2.0\",\"pid\":7,\"status\":\"creating\"' && test \"$X\" = 1 && test -z \"$HOME\""],
              "env":["X=1"]}]"#,
        )
        .unwrap();
    }

    #[test]
    fn failures_name_the_hook_and_quote_it() {
        let text = run_json(
            r#"[{"path":"/bin/true"},{"path":"/bin/sh","args":["sh","-c","echo why >&2; exit 3"]}]"#,
        )
        .unwrap_err()
        .to_string();
        assert_eq!(
            text,
            "error running prestart hook #1 (/bin/sh): exit status 3, output: why"
        );
        let text = run_json(r#"[{"path":"/nowhere"}]"#)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("start it: no such file or directory"),
            "{text}"
        );
        assert!(run_json(r#"[{"path":"relative"}]"#).is_err());
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let start = Instant::now();
        let text = run_json(r#"[{"path":"/bin/sleep","args":["sleep","100"],"timeout":1}]"#)
            .unwrap_err()
            .to_string();
        assert!(text.contains("did not end within 1 s"), "{text}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
