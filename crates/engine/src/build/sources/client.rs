//! What a build's client gives to open remotes, and what it is told meanwhile.

use std::path::PathBuf;
use std::sync::Arc;

use berth_build::graph::{Git, Http, Id};
use berth_build::progress::Event;
use berth_build::solve;
use berth_build::tree::Tree;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::super::Ask;
use super::super::peer::forward_agent;
use super::super::session::{Session, failed};
use super::{Access, hash, system};
use crate::error::io;
use crate::files as small;

/// Bytes of a token.
const MAX_TOKEN: u64 = 64 << 10;
const AGENT: &str = "default";

/// The files of a commit.
pub(in super::super) async fn git(
    session: &Session,
    id: Id,
    git: &Git,
) -> Result<Arc<Tree>, solve::Error> {
    let files = session.files()?;
    let given = Given::of(session, &git.remote).await?;
    let tell = teller(session, id, "fetching");
    let sources = &session.engine.0.builder.sources;
    sources.git(&files, git, &given.access, &tell).await
}

/// A file at an address.
pub(in super::super) async fn http(
    session: &Session,
    id: Id,
    http: &Http,
) -> Result<Arc<Tree>, solve::Error> {
    let files = session.files()?;
    let tell = teller(session, id, "downloading");
    session
        .engine
        .0
        .builder
        .sources
        .http(&files, http, &tell)
        .await
}

/// A context at an address.
pub(in super::super) async fn context(
    session: &Session,
    id: Id,
    address: &str,
) -> Result<Arc<Tree>, solve::Error> {
    let files = session.files()?;
    let given = Given::of(session, address).await?;
    let tell = teller(session, id, "loading remote context");
    let keep = session
        .request
        .build_args
        .get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    let keep = matches!(keep, Some(Some(value)) if matches!(value.as_str(), "1" | "true"));
    let sources = &session.engine.0.builder.sources;
    sources
        .context(&files, address, keep, &given.access, &tell)
        .await
}

fn teller(session: &Session, id: Id, name: &'static str) -> impl Fn(u64, u64, bool) + Send + Sync {
    let session = session.clone();
    move |current, total, done| {
        session.tell(Event::Status {
            id,
            name: name.to_owned(),
            current,
            total,
            done,
        });
    }
}

/// What the client gives for a remote; its agent is forwarded as long as this
/// lives.
struct Given {
    access: Access,
    /// Removed with the socket in it.
    directory: Option<PathBuf>,
    _servers: JoinSet<()>,
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

impl Given {
    async fn of(session: &Session, remote: &str) -> Result<Self, solve::Error> {
        let host = host(remote);
        let mut given = Self {
            access: Access {
                token: secret(session, "GIT_AUTH_TOKEN", host).await?,
                header: secret(session, "GIT_AUTH_HEADER", host).await?,
                agent: None,
            },
            directory: None,
            _servers: JoinSet::new(),
        };
        let is_ssh = remote.starts_with("ssh://") || !remote.contains("://");
        if is_ssh && session.request.ssh.iter().any(|id| id == AGENT) {
            let unique = small::random_id().map_err(|error| system(error.to_string()))?;
            let directory = session.engine.steps_dir().join(hash(&unique));
            small::make_dir(&directory, 0o700)
                .map_err(|error| failed(io("make", &directory, &error)))?;
            let path = directory.join("agent");
            given.directory = Some(directory);
            let listener = UnixListener::bind(&path)
                .map_err(|error| failed(io("listen on", &path, &error)))?;
            given.access.agent = Some(path);
            let peer = session.peer.clone();
            given
                ._servers
                .spawn(forward_agent(listener, peer, AGENT.to_owned()));
        }
        Ok(given)
    }
}

/// A secret of that name for the host, or for all; none if the client has none.
async fn secret(session: &Session, name: &str, host: &str) -> Result<Option<String>, solve::Error> {
    let ids = [format!("{name}.{host}"), name.to_owned()];
    let Some(id) = ids
        .into_iter()
        .find(|id| session.request.secrets.contains(id))
    else {
        return Ok(None);
    };
    let stream = session
        .peer
        .ask(Ask::Secret { id: id.clone() })
        .await
        .map_err(failed)?;
    let mut value = String::new();
    let read = stream.take(MAX_TOKEN).read_to_string(&mut value).await;
    read.map_err(|error| system(format!("read the secret {id}: {error}")))?;
    Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty()))
}

fn host(remote: &str) -> &str {
    let rest = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    host.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn hosts_of_remotes() {
        for remote in [
            "https://u:p@h.org:8/x",
            "git@h.org:x/y",
            "ssh://h.org/x",
            "https://h.org?x",
        ] {
            assert_eq!(host(remote), "h.org", "{remote}");
        }
    }
}
