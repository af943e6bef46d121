//! Programs that keep credentials: `docker-credential-<name> get|store|erase`,
//! with the request on standard input and the answer on standard output.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::Credentials;
use crate::failure::{Failure, os_words};

/// Stands for a name when the secret is an identity token.
const TOKEN: &str = "<token>";
/// What a helper says of a registry that it knows nothing of.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Helper {
    program: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helper {
    pub(super) fn new(name: &str) -> Self {
        Self {
            program: format!("docker-credential-{name}"),
        }
    }

    #[cfg(test)]
    pub(super) fn at(program: &str) -> Self {
        Self {
            program: program.to_owned(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Result<Credentials, Failure> {
        let answer = match self.run("get", key.as_bytes()) {
            Ok(answer) => answer,
            Err((_, said)) if said == NOT_FOUND => return Ok(Credentials::default()),
            Err((why, said)) => return Err(failed("getting", &why, &said)),
        };
        let secret: Secret = serde_json::from_str(&answer).map_err(|error| {
            Failure::new(format!(
                "error getting credentials: {} did not answer with JSON: line {} column {}",
                self.program,
                error.line(),
                error.column()
            ))
        })?;
        let mut found = Credentials {
            serveraddress: key.to_owned(),
            ..Credentials::default()
        };
        if secret.username == TOKEN {
            found.identitytoken = secret.secret;
        } else {
            found.username = secret.username;
            found.password = secret.secret;
        }
        Ok(found)
    }

    pub(super) fn store(&self, credentials: &Credentials) -> Result<(), Failure> {
        let (username, secret) = if credentials.identitytoken.is_empty() {
            (credentials.username.clone(), credentials.password.clone())
        } else {
            (TOKEN.to_owned(), credentials.identitytoken.clone())
        };
        let secret = Secret {
            server_url: credentials.serveraddress.clone(),
            username,
            secret,
        };
        let input = serde_json::to_vec(&secret).map_err(|error| Failure::new(error.to_string()))?;
        self.run("store", &input)
            .map(drop)
            .map_err(|(why, said)| failed("storing", &why, &said))
    }

    pub(super) fn erase(&self, key: &str) -> Result<(), Failure> {
        self.run("erase", key.as_bytes())
            .map(drop)
            .map_err(|(why, said)| failed("erasing", &why, &said))
    }

    /// What it answers; or why it failed and what it said.
    fn run(&self, verb: &str, input: &[u8]) -> Result<String, (String, String)> {
        let system = |error: &std::io::Error| (os_words(error), String::new());
        let mut child = Command::new(&self.program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                if error.kind() == std::io::ErrorKind::NotFound {
                    let why = format!(
                        "exec: \"{}\": executable file not found in $PATH",
                        self.program
                    );
                    (why, String::new())
                } else {
                    system(&error)
                }
            })?;
        // One that does not read its input says why in its answer.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input).and_then(|()| stdin.write_all(b"\n"));
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(MAX_ANSWER)
                .read_to_end(&mut answer)
                .map_err(|error| system(&error))?;
        }
        let status = child.wait().map_err(|error| system(&error))?;
        let answer = String::from_utf8_lossy(&answer).trim().to_owned();
        if status.success() {
            Ok(answer)
        } else {
            let why = match status.code() {
                Some(code) => format!("exit status {code}"),
                None => "killed by a signal".to_owned(),
            };
            Err((why, answer))
        }
    }
}

fn failed(doing: &str, why: &str, said: &str) -> Failure {
    Failure::new(format!(
        "error {doing} credentials - err: {why}, out: `{}`",
        crate::output::harmless(said)
    ))
}

/// Whether a program is on the path.
pub(super) fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| {
            std::fs::metadata(dir.join(program))
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
    })
}
