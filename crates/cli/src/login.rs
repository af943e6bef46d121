//! `login` and `logout`.

use std::io::{BufRead as _, Read as _};

use rustix::termios::isatty;
use serde::Deserialize;

use crate::context::Context;
use crate::credentials::{self, Credentials, ENVIRONMENT, INDEX, hostname};
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{self, harmless, print, print_line, warn};
use crate::terminal::Raw;
use crate::transport::Request;
use crate::tree::Outcome;

/// Reply of `POST /auth`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Reply {
    status: String,
    identity_token: String,
}

pub(crate) async fn login(context: &Context, args: &Parsed) -> Outcome {
    let username = args.text("username").trim().to_owned();
    let password = given_password(args)?;
    warn_of_environment();
    let server = match args.words.first().map(String::as_str) {
        None | Some("" | "docker.io") => INDEX,
        Some(INDEX) => INDEX,
        Some(other) => hostname(other),
    };
    let mut known = Credentials::default();
    if username.is_empty() && password.is_empty() {
        // A helper that fails is told, and the user asked instead.
        known = credentials::get(&context.config, server).unwrap_or_else(|failure| {
            warn(&failure.message);
            Credentials::default()
        });
        known.identitytoken.clear();
        server.clone_into(&mut known.serveraddress);
        if !known.username.is_empty() && !known.password.is_empty() {
            let program = &context.program;
            warn(&format!(
                "Authenticating with existing credentials... [Username: {}]",
                harmless(&known.username)
            ));
            remark(&format!(
                "To login with a different account, run '{program} logout' followed by '{program} login'"
            ));
            warn("");
            match verify(context, known.clone()).await {
                Ok(status) => return finished(&status),
                Err(failure) if failure.http == Some(401) => {
                    warn("Stored credentials invalid or expired");
                }
                Err(failure) => {
                    warn(&format!(
                        "Login did not succeed, error: {}",
                        failure.message
                    ));
                }
            }
        }
    }
    if (username.is_empty() || password.is_empty()) && !isatty(rustix::stdio::stdin()) {
        return Err(Failure::new(
            "Error: Cannot perform an interactive login from a non TTY device",
        ));
    }
    let username = match username {
        name if !name.is_empty() => name,
        _ => ask_username(server, &known.username).await?,
    };
    let password = match password {
        word if !word.trim().is_empty() => word,
        _ => ask_password(server).await?,
    };
    let wanted = Credentials {
        username,
        password,
        serveraddress: server.to_owned(),
        ..Credentials::default()
    };
    finished(&verify(context, wanted).await?)
}

fn remark(text: &str) {
    let terminal = isatty(rustix::stdio::stderr());
    warn(output::note(text, terminal).trim_end_matches(' '));
}

fn finished(status: &str) -> Outcome {
    if !status.is_empty() {
        print_line(status);
    }
    Ok(0)
}

/// Asks the engine whether they are good, and keeps them if so.
async fn verify(context: &Context, mut wanted: Credentials) -> Result<String, Failure> {
    let reply: Reply = context.json(Request::post("/auth").json(&wanted)?).await?;
    if !reply.identity_token.is_empty() {
        wanted.password.clear();
        wanted.identitytoken = reply.identity_token;
    }
    credentials::store(&context.config, &wanted).map_err(|failure| {
        Failure::new(format!("Error saving credentials: {}", failure.message))
    })?;
    Ok(reply.status)
}

/// `--password` or what stands on stdin.
fn given_password(args: &Parsed) -> Result<String, Failure> {
    let password = args.text("password");
    let from_stdin = args.on("password-stdin");
    if from_stdin && !password.is_empty() {
        return Err(Failure::new(
            "conflicting options: cannot specify both --password and --password-stdin",
        ));
    }
    if !password.is_empty() {
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    if !from_stdin {
        return Ok(password);
    }
    if args.text("username").is_empty() {
        return Err(Failure::new(
            "the --password-stdin option requires --username to be set",
        ));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(1024 * 1024)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(format!("cannot read the password: {error}")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

async fn ask_username(server: &str, known: &str) -> Result<String, Failure> {
    if server == INDEX {
        print(
            "Log in with your Docker ID or email address to push and pull images from Docker Hub. If you don't have a Docker ID, head over to https://hub.docker.com/ to create one.\nYou can log in with your password or a Personal Access Token (PAT). Using a limited-scope PAT grants better security and is required for organizations using SSO. Learn more at https://docs.docker.com/go/access-tokens/\n\n",
        );
    }
    print(&if known.is_empty() {
        "Username: ".to_owned()
    } else {
        format!("Username ({known}): ")
    });
    let typed = line().await?;
    let name = if typed.is_empty() { known } else { &typed };
    if name.is_empty() {
        return Err(Failure::new("error: username is required"));
    }
    Ok(name.to_owned())
}

async fn ask_password(server: &str) -> Result<String, Failure> {
    if server == INDEX {
        remark(
            "A Personal Access Token (PAT) can be used instead.\nTo create a PAT, visit https://app.docker.com/settings\n",
        );
    }
    let unseen = Raw::unseen()?;
    print("Password: ");
    let typed = line().await;
    drop(unseen);
    print_line("");
    match typed? {
        empty if empty.is_empty() => Err(Failure::new("error: password is required")),
        password => Ok(password),
    }
}

/// A line from the terminal, without spaces around it. Read on a thread of its
/// own, so that signals are seen meanwhile.
async fn line() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        std::io::stdin().lock().read_line(&mut text).map(|_| text)
    });
    match read.await {
        Ok(Ok(text)) => Ok(text.trim().to_owned()),
        _ => Err(Failure::new("cannot read from the terminal")),
    }
}

pub(crate) async fn logout(context: &Context, args: &Parsed) -> Outcome {
    warn_of_environment();
    let (shown, keys) = match args.words.first().map(String::as_str) {
        None | Some("" | "docker.io") => (INDEX, vec![INDEX.to_owned()]),
        Some(server) => {
            // Older clients kept them under an address.
            let host = hostname(server);
            let mut keys = vec![
                server.to_owned(),
                host.to_owned(),
                format!("http://{host}"),
                format!("https://{host}"),
            ];
            keys.dedup();
            (host, keys)
        }
    };
    print_line(&format!("Removing login credentials for {shown}"));
    let failures: Vec<_> = keys
        .iter()
        .filter_map(|key| {
            let failure = credentials::erase(&context.config, key).err()?;
            Some(format!("{key}: {}", failure.message))
        })
        .collect();
    if failures.len() == keys.len() {
        warn("WARNING: could not erase credentials:");
        failures.iter().for_each(|failure| warn(failure));
    }
    Ok(0)
}

fn warn_of_environment() {
    if std::env::var_os(ENVIRONMENT).is_some_and(|value| !value.is_empty()) {
        warn(&format!(
            "WARNING: {ENVIRONMENT} is set and takes precedence.\nUnset {ENVIRONMENT} to restore the CLI auth behaviour.\n"
        ));
    }
}
