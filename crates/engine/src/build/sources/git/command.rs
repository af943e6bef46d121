//! Runs `git` so that nothing but what is said here decides what it does.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use berth_build::solve;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio_util::io::SyncIoBridge;

use super::remote::{origin, shown};
use super::{invalid, stopped, system};

/// What a command may say.
const MAX_OUTPUT: u64 = 64 << 20;
/// What is shown of what it complains about.
const MAX_COMPLAINT: usize = 2 << 10;
/// Between two looks at the disk.
const LOOK: Duration = Duration::from_millis(500);
/// What may be fetched: never a file of this machine, never a program
/// (CVE-2017-1000117, CVE-2022-39253).
const PROTOCOLS: &str = "http:https:git:ssh";
/// Of the engine's own environment.
const INHERITED: [&str; 13] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
];

/// What opens remotes that are not for everyone.
#[derive(Clone, Default)]
pub(in super::super::super) struct Access {
    /// Of the host in the remote: BuildKit's secret `GIT_AUTH_TOKEN`.
    pub(in super::super::super) token: Option<String>,
    /// A whole header: BuildKit's secret `GIT_AUTH_HEADER`.
    pub(in super::super::super) header: Option<String>,
    /// Socket of an SSH agent.
    pub(in super::super::super) agent: Option<PathBuf>,
}

// Never a secret in a log.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    pub(super) fn authorization(&self) -> Option<String> {
        let basic = |token: &String| {
            let pair = format!("x-access-token:{token}");
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
            format!("basic {encoded}")
        };
        let value = self
            .header
            .clone()
            .or_else(|| self.token.as_ref().map(basic));
        // A line's end would begin another header.
        value
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.contains(['\r', '\n']))
    }
}

/// `git` in one repository.
pub(super) struct Program<'a> {
    repository: &'a Path,
    /// Where known hosts are.
    home: &'a Path,
    remote: &'a str,
    access: &'a Access,
}

impl<'a> Program<'a> {
    pub(super) fn new(
        repository: &'a Path,
        home: &'a Path,
        remote: &'a str,
        access: &'a Access,
    ) -> Self {
        Self {
            repository,
            home,
            remote,
            access,
        }
    }

    pub(super) fn remote(&self) -> &'a str {
        self.remote
    }

    pub(super) fn repository(&self) -> &'a Path {
        self.repository
    }

    /// Runs it to its end; what it wrote.
    ///
    /// # Errors
    /// `Invalid` with its own words if it fails.
    pub(super) async fn run(&self, args: &[&str]) -> Result<Vec<u8>, solve::Error> {
        self.run_with(args, None).await
    }

    /// The same; it reads from a file.
    pub(super) async fn run_with(
        &self,
        args: &[&str],
        input: Option<&Path>,
    ) -> Result<Vec<u8>, solve::Error> {
        let mut running = self.start(args, input)?;
        let pipe = running.output;
        // Let go of when it says too much, so that it ends.
        let read = async move {
            let mut output = Vec::new();
            let read = pipe.take(MAX_OUTPUT + 1).read_to_end(&mut output).await;
            read.map(|_| output)
        };
        let ended = end(&mut running.child, &mut running.complaints, self.repository);
        let (read, ended) = tokio::join!(read, ended);
        let output = read.map_err(|error| system(format!("read from git: {error}")))?;
        let ended = ended?;
        if output.len() as u64 > MAX_OUTPUT {
            return Err(invalid(format!("git says more than {MAX_OUTPUT} bytes")));
        }
        self.judge(args, ended)?;
        Ok(output)
    }

    /// Runs it, and `take` with what it writes as it comes.
    pub(super) async fn stream<T: Send + 'static>(
        &self,
        args: &[&str],
        take: impl FnOnce(&mut dyn Read) -> io::Result<T> + Send + 'static,
    ) -> Result<T, solve::Error> {
        let mut running = self.start(args, None)?;
        let mut input = SyncIoBridge::new(running.output);
        let taken = tokio::task::spawn_blocking(move || {
            let taken = take(&mut input)?;
            // What follows the archive's end.
            io::copy(&mut input, &mut io::sink())?;
            Ok::<T, io::Error>(taken)
        });
        let ended = end(&mut running.child, &mut running.complaints, self.repository);
        let (taken, ended) = tokio::join!(taken, ended);
        self.judge(args, ended?)?;
        taken
            .map_err(|error| stopped(&error))?
            .map_err(|error| invalid(format!("read what git gives: {error}")))
    }

    fn start(&self, args: &[&str], input: Option<&Path>) -> Result<Running, solve::Error> {
        let mut command = self.command();
        command.args(args);
        if let Some(input) = input {
            let file = std::fs::File::open(input)
                .map_err(|error| system(format!("open {}: {error}", input.display())))?;
            command.stdin(file);
        }
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => invalid(
                "git is not installed on the engine's machine: it is needed to build from git repositories"
                    .to_owned(),
            ),
            _ => system(format!("start git: {error}")),
        })?;
        let (Some(output), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(system("git has no output".to_owned()));
        };
        Ok(Running {
            child: Group(child),
            output,
            complaints,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command
            .env_clear()
            .envs(
                INHERITED
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir(self.repository)
            // What it starts goes with it.
            .process_group(0)
            .kill_on_drop(true);
        // With the keys of the client's agent, never with the engine's own.
        let known_hosts = self.home.join("known_hosts");
        let ssh = format!(
            "ssh -F none -o BatchMode=yes -o IdentityFile=none -o ConnectTimeout=30 -o ServerAliveInterval=15 \
             -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={}",
            quoted(&known_hosts)
        );
        for (name, value) in [
            ("GIT_DIR", self.repository.as_os_str()),
            ("HOME", self.repository.as_os_str()),
            ("LC_ALL", "C".as_ref()),
            ("GIT_CONFIG_NOSYSTEM", "1".as_ref()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".as_ref()),
            ("GIT_ATTR_NOSYSTEM", "1".as_ref()),
            ("GIT_TERMINAL_PROMPT", "0".as_ref()),
            ("GIT_ASKPASS", "/bin/false".as_ref()),
            ("SSH_ASKPASS_REQUIRE", "never".as_ref()),
            ("GIT_ALLOW_PROTOCOL", PROTOCOLS.as_ref()),
            ("GIT_NO_REPLACE_OBJECTS", "1".as_ref()),
            ("GIT_LITERAL_PATHSPECS", "1".as_ref()),
            ("GIT_SSH_COMMAND", ssh.as_ref()),
            ("GIT_SSH_VARIANT", "ssh".as_ref()),
        ] {
            command.env(name, value);
        }
        if let Some(agent) = &self.access.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        // In the environment: an argument is seen by everyone.
        let mut settings: Vec<(String, String)> = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("credential.helper", ""),
            ("fetch.recurseSubmodules", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "60"),
            ("pack.threads", "1"),
            ("protocol.version", "2"),
            ("tar.umask", "0022"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if let (Some(value), Some(origin)) = (self.access.authorization(), origin(self.remote)) {
            let header = format!("Authorization: {value}");
            settings.push((format!("http.{origin}.extraHeader"), header));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (at, (name, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{at}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        command
    }

    fn judge(&self, args: &[&str], (good, complaint): (bool, String)) -> Result<(), solve::Error> {
        if good {
            return Ok(());
        }
        let what = args.first().copied().unwrap_or_default();
        let what = match what {
            "fetch" | "ls-remote" => format!("failed to fetch remote {}", shown(self.remote)),
            what => format!("git {what} of {} failed", shown(self.remote)),
        };
        Err(invalid(format!("{what}: git stderr:\n{complaint}")))
    }
}

struct Running {
    child: Group,
    output: tokio::process::ChildStdout,
    complaints: tokio::process::ChildStderr,
}

/// A program and all that it started: they end with it.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // None: it has ended, and its number may be another's.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Whether it ended well, and the end of what it complained about. It is
/// stopped before the disk is full.
async fn end(
    group: &mut Group,
    complaints: &mut (impl AsyncRead + Unpin),
    directory: &Path,
) -> Result<(bool, String), solve::Error> {
    let mut text = Vec::new();
    let mut buffer = vec![0; 4 << 10];
    let mut open = true;
    let mut looks = tokio::time::interval(LOOK);
    let status = loop {
        tokio::select! {
            read = complaints.read(&mut buffer), if open => match read {
                Ok(count @ 1..) => {
                    text.extend_from_slice(&buffer[..count]);
                    let more = text.len().saturating_sub(MAX_COMPLAINT);
                    text.drain(..more);
                }
                _ => open = false,
            },
            status = group.0.wait(), if !open => {
                break status.map_err(|error| system(format!("wait for git: {error}")))?;
            }
            _ = looks.tick() => {
                let full = std::fs::File::open(directory).ok()
                    .and_then(|directory| berth_store::is_nearly_full(&directory).ok());
                if full == Some(true) {
                    return Err(system("fetch from git: no space left on device".to_owned()));
                }
            }
        }
    };
    let text = String::from_utf8_lossy(&text);
    let clean = |char: char| {
        if char.is_control() && char != '\n' {
            ' '
        } else {
            char
        }
    };
    let text: String = text.trim().chars().map(clean).collect();
    Ok((status.success(), without_logins(&text)))
}

/// For the shell that runs GIT_SSH_COMMAND, and ssh's own reading.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('\'', "'\\''");
    format!("'\"{text}\"'")
}

/// `https://user:secret@host` without the part that is nobody's business.
fn without_logins(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|char: char| char == '/' || char == '\'' || char.is_whitespace())
            .unwrap_or(after.len());
        let login = after.get(..end).and_then(|host| host.rfind('@'));
        rest = login.and_then(|at| after.get(at + 1..)).unwrap_or(after);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_not_shown() {
        assert_eq!(
            without_logins("fatal: 'https://u:p@h/x' and http://h/y@z ssh://git@h"),
            "fatal: 'https://h/x' and http://h/y@z ssh://h"
        );
    }

    #[test]
    fn a_header_is_one_line() {
        let access = |token: &str| Access {
            token: Some(token.to_owned()),
            ..Access::default()
        };
        assert_eq!(
            access("t").authorization().as_deref(),
            Some("basic eC1hY2Nlc3MtdG9rZW46dA==")
        );
        let header = Access {
            header: Some("Bearer x\r\nEvil: 1".to_owned()),
            ..Access::default()
        };
        assert_eq!(header.authorization(), None);
        assert!(!format!("{:?}", access("secret")).contains("secret"));
    }
}
