//! Where the engine listens: "unix:///run/x.sock", "tcp://host:2375".

use std::fmt;
use std::path::PathBuf;

use crate::failure::Failure;

/// Docker's socket, used under the name `docker` when it is there.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const BERTH_SOCKET: &str = "/var/run/berth.sock";
/// Docker's port without TLS.
const TCP_PORT: u16 = 2375;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    /// "host:port", and the path in front of all requests.
    Tcp {
        address: String,
        base: String,
    },
}

impl Host {
    /// The socket used when none is named.
    pub(crate) fn default_for(program: &str) -> Self {
        let docker = program == "docker" && std::path::Path::new(DOCKER_SOCKET).exists();
        Self::Unix(PathBuf::from(if docker {
            DOCKER_SOCKET
        } else {
            BERTH_SOCKET
        }))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" if rest.is_empty() => Ok(Self::Unix(PathBuf::from(DOCKER_SOCKET))),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" | "http" => {
                let (address, base) = match rest.split_once('/') {
                    Some((address, base)) => (address, format!("/{}", base.trim_end_matches('/'))),
                    None => (rest, String::new()),
                };
                let base = if base == "/" { String::new() } else { base };
                let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
                    !port.is_empty() && !host.is_empty() && !port.contains(']')
                });
                let address = match address {
                    "" => format!("localhost:{TCP_PORT}"),
                    _ if has_port => address.to_owned(),
                    _ => format!("{}:{TCP_PORT}", address.trim_end_matches(':')),
                };
                let port = address.rsplit_once(':').map(|(_, port)| port);
                if port.is_none_or(|port| port.parse::<u16>().is_err()) {
                    return Err(Failure::new(format!(
                        "unable to parse docker host `{text}`: invalid port"
                    )));
                }
                Ok(Self::Tcp { address, base })
            }
            "ssh" | "https" | "npipe" | "fd" => Err(Failure::new(format!(
                "a host of the form {scheme}:// is not supported yet (given: {text})"
            ))),
            _ => Err(Failure::new(format!("Invalid bind address format: {text}"))),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { address, base } => write!(f, "tcp://{address}{base}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let show = |text| Host::parse(text).map(|host| host.to_string());
        assert_eq!(show("unix:///a/b").unwrap(), "unix:///a/b");
        assert_eq!(show("tcp://h").unwrap(), "tcp://h:2375");
        assert_eq!(show("h:1").unwrap(), "tcp://h:1");
        assert_eq!(show("tcp://[::1]:5/x/").unwrap(), "tcp://[::1]:5/x");
        assert_eq!(show("tcp://[::1]").unwrap(), "tcp://[::1]:2375");
        assert!(
            show("ssh://me@h")
                .unwrap_err()
                .message
                .contains("not supported yet")
        );
        assert!(show("foo://h").is_err());
        assert!(show("tcp://h:99999").is_err());
    }
}
