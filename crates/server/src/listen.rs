//! Sockets that the engine listens on: `unix://`, `tcp://` and `fd://`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener};

use crate::socket::Socket;

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invalid bind address ({address}): {reason}")]
    Address { address: String, reason: String },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("cannot listen on {address}: another engine answers there")]
    InUse { address: String },
    #[error("cannot find the group {group}: it is not in /etc/group")]
    Group { group: String },
    #[error("no sockets found via socket activation: make sure the service was started by systemd")]
    NoActivation,
}

/// Where to listen: one `-H` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
    /// The sockets that systemd passed.
    Activation,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "tcp://{host}:{port}"),
            Self::Activation => f.write_str("fd://"),
        }
    }
}

impl Address {
    /// Reads "unix:///path", "tcp://host:port" (port 2375 when absent), "fd://".
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |reason: &str| Error::Address {
            address: text.to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(invalid("the path of a unix socket must be absolute"))
            };
        }
        if let Some(name) = text.strip_prefix("fd://") {
            return match name {
                "" | "*" => Ok(Self::Activation),
                _ => Err(invalid(
                    "single sockets of those passed by systemd are not chosen yet",
                )),
            };
        }
        let rest = match text.split_once("://") {
            Some(("tcp", rest)) => rest,
            Some((other, _)) => {
                return Err(invalid(&format!("unsupported proto '{other}'")));
            }
            None => return Err(invalid("must be unix://PATH, tcp://HOST:PORT or fd://")),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port
                    .parse()
                    .map_err(|_| invalid(&format!("invalid port \"{port}\"")))?;
                (host, port)
            }
            _ => (rest, 2375),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Tcp(host.to_owned(), port))
    }

    /// Whether anyone outside this host could reach it.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Tcp(host, _) => {
                host != "localhost"
                    && !host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            }
            Self::Unix(_) | Self::Activation => false,
        }
    }
}

/// A bound socket. A unix socket's file is removed on drop.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    address: String,
    file: Option<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Binds one address; one listener for each resolved TCP address.
    /// Call within the runtime.
    pub fn bind(address: &Address, group: Option<Gid>) -> Result<Vec<Self>, Error> {
        match address {
            Address::Unix(path) => bind_unix(path, group).map(|listener| vec![listener]),
            Address::Tcp(host, port) => bind_tcp(host, *port),
            Address::Activation => Err(Error::NoActivation),
        }
    }

    /// Takes over a socket that systemd passed.
    pub fn inherited(fd: OwnedFd) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Listen {
            address: "a socket passed by systemd".to_owned(),
            source,
        };
        rustix::io::ioctl_fionbio(&fd, true).map_err(|error| failed(error.into()))?;
        let domain =
            rustix::net::sockopt::socket_domain(&fd).map_err(|error| failed(error.into()))?;
        let kind = if domain == AddressFamily::UNIX {
            UnixListener::from_std(fd.into()).map(Kind::Unix)
        } else {
            TcpListener::from_std(fd.into()).map(Kind::Tcp)
        };
        Ok(Self {
            kind: kind.map_err(failed)?,
            address: "fd://".to_owned(),
            file: None,
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        match &self.kind {
            Kind::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
            Kind::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // Small writes of interactive streams must not wait.
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The number of a group, from its name or its digits.
pub fn find_group(name: &str) -> Result<Gid, Error> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    // The binary is static: no name service, only the file.
    std::fs::read_to_string("/etc/group")
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next() == Some(name);
            let number = fields.nth(1)?.parse().ok()?;
            found.then_some(Gid::from_raw(number))
        })
        .ok_or_else(|| Error::Group {
            group: name.to_owned(),
        })
}

fn bind_unix(path: &Path, group: Option<Gid>) -> Result<Listener, Error> {
    let address = Address::Unix(path.to_owned()).to_string();
    let failed = |source: io::Error| Error::Listen {
        address: address.clone(),
        source,
    };
    remove_stale(path, &address)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let bound = || -> Result<OwnedFd, rustix::io::Errno> {
        let fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        // Between bind and listen nobody can connect, so that the socket is
        // never open to more than it should be.
        rustix::fs::chown(path, None, group)?;
        rustix::fs::chmod(path, Mode::from_raw_mode(0o660))?;
        rustix::net::listen(fd.as_fd(), 4096)?;
        Ok(fd)
    };
    let fd = bound().map_err(|error| failed(error.into()))?;
    let listener = UnixListener::from_std(fd.into()).map_err(failed)?;
    Ok(Listener {
        kind: Kind::Unix(listener),
        file: Some(path.to_owned()),
        address,
    })
}

/// Removes the socket of an engine that is gone; never that of a living one,
/// nor a file that is no socket.
fn remove_stale(path: &Path, address: &str) -> Result<(), Error> {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if meta.file_type().is_socket() {
        if UnixStream::connect(path).is_ok() {
            return Err(Error::InUse {
                address: address.to_owned(),
            });
        }
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn bind_tcp(host: &str, port: u16) -> Result<Vec<Listener>, Error> {
    let address = Address::Tcp(host.to_owned(), port).to_string();
    let failed = |source: io::Error| Error::Listen {
        address: address.clone(),
        source,
    };
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(failed)?.collect();
    addresses
        .into_iter()
        .map(|socket| {
            let listener = std::net::TcpListener::bind(socket).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            let shown = listener.local_addr().unwrap_or(socket);
            Ok(Listener {
                kind: Kind::Tcp(TcpListener::from_std(listener).map_err(failed)?),
                address: format!("tcp://{shown}"),
                file: None,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (text, want) in [
            ("unix:///run/x.sock", Address::Unix("/run/x.sock".into())),
            ("tcp://", tcp("127.0.0.1", 2375)),
            ("tcp://0.0.0.0:80", tcp("0.0.0.0", 80)),
            ("tcp://[::1]", tcp("::1", 2375)),
            ("tcp://[::1]:9", tcp("::1", 9)),
            ("tcp://:9", tcp("127.0.0.1", 9)),
            ("fd://", Address::Activation),
        ] {
            assert_eq!(Address::parse(text).unwrap(), want, "{text}");
        }
        for text in [
            "unix://x",
            "fd://x",
            "http://x",
            "x:1",
            "tcp://x:y",
            "tcp://x:70000",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
        assert!(Address::parse("tcp://0.0.0.0:1").unwrap().is_remote());
        assert!(!Address::parse("tcp://[::1]:1").unwrap().is_remote());
    }

    #[tokio::test]
    async fn unix_socket_is_private_replaced_when_stale_and_never_stolen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/x.sock");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address, Some(Gid::from_raw(0))).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = Listener::bind(&address, None).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        drop(first);
        assert!(!path.exists());
        // Left by an engine that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::bind(&address, None).unwrap());
        // Not ours to remove.
        std::fs::write(&path, "").unwrap();
        assert!(Listener::bind(&address, None).is_err());
        assert!(path.exists());
    }

    #[test]
    fn groups() {
        assert_eq!(find_group("root").unwrap().as_raw(), 0);
        assert_eq!(find_group("1234").unwrap().as_raw(), 1234);
        assert!(find_group("no such group").is_err());
    }
}
