//! What `berth registry serve` can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::listen::Error;

/// How a registry is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens, HOST:PORT; port 0 takes a free one.
    pub address: String,
    /// Its data; made if it is not there.
    pub root: PathBuf,
    /// Longest manifest, bytes.
    pub max_manifest: usize,
    /// Unfinished uploads are removed after this time without a byte.
    pub upload_expiry: Duration,
    /// Refuse all that changes something.
    pub read_only: bool,
    pub authentication: Authentication,
    /// HTTPS; `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Serve without authentication also where others than this host reach it.
    pub insecure_no_auth: bool,
    /// Serve without TLS also where others than this host reach it.
    pub insecure_no_tls: bool,
    /// Serve what another registry has.
    pub proxy: Option<Proxy>,
    /// Between two collections; `None`: only on SIGUSR1.
    pub gc_interval: Option<Duration>,
    /// What was uploaded or asked for within this time is kept.
    pub gc_grace: Duration,
    /// Collect manifests that no tag leads to.
    pub gc_untagged: bool,
    /// Where `/metrics` and `/healthz` are.
    pub metrics_address: Option<String>,
}

/// How clients prove who they are.
#[derive(Clone, Debug, Default)]
pub enum Authentication {
    #[default]
    None,
    /// A password with each request.
    Basic { htpasswd: PathBuf },
    /// Tokens of our own against passwords.
    OwnTokens {
        htpasswd: PathBuf,
        /// Whoever has no password may pull.
        anonymous_pull: bool,
        /// As clients reach this registry; `None`: as they say.
        public_url: Option<String>,
    },
    /// Tokens of another server.
    Tokens {
        realm: String,
        service: String,
        issuer: String,
        /// JSON web key set, or PEM with public keys or certificates.
        keys: PathBuf,
    },
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate and those between it and its root.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Who signs the certificates that clients must show.
    pub client_ca: Option<PathBuf>,
}

/// The registry whose content is served.
#[derive(Clone)]
pub struct Proxy {
    /// "https://registry.example", "http://127.0.0.1:5000".
    pub url: String,
    pub user: String,
    pub password: String,
    /// How long what a tag stands for is not asked for again.
    pub ttl: Duration,
}

// Never a secret in a log.
impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The defaults, for an address and a root.
    pub fn new(address: impl Into<String>, root: impl Into<PathBuf>) -> Self {
        Self {
            address: address.into(),
            root: root.into(),
            max_manifest: 4 << 20,
            upload_expiry: Duration::from_secs(7 * 24 * 3600),
            read_only: false,
            authentication: Authentication::None,
            tls: None,
            insecure_no_auth: false,
            insecure_no_tls: false,
            proxy: None,
            gc_interval: Some(Duration::from_secs(24 * 3600)),
            gc_grace: Duration::from_secs(3600),
            gc_untagged: false,
            metrics_address: None,
        }
    }

    /// What others than this host reach is protected, unless someone says
    /// explicitly that it need not be.
    pub(crate) fn demand_protection(&self, address: SocketAddr) -> Result<(), Error> {
        if address.ip().is_loopback() {
            return Ok(());
        }
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let open = matches!(self.authentication, Authentication::None) && !certificates;
        if open && !self.insecure_no_auth {
            return Err(Error::Options(format!(
                "{address} can be reached from other hosts, and everyone there could push: use --htpasswd, --token-realm or --tls-client-ca, or say --insecure-no-auth"
            )));
        }
        if self.tls.is_none() && !self.insecure_no_tls {
            return Err(Error::Options(format!(
                "{address} can be reached from other hosts, and passwords and images would pass in the clear: use --tls-cert and --tls-key, or say --insecure-no-tls"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_are_not_served_without_protection() {
        let loopback = "127.0.0.1:1".parse().unwrap();
        let remote = "0.0.0.0:1".parse().unwrap();
        let mut options = Options::new("", "");
        assert!(options.demand_protection(loopback).is_ok());
        assert!(options.demand_protection(remote).is_err());
        options.insecure_no_auth = true;
        assert!(options.demand_protection(remote).is_err());
        options.insecure_no_tls = true;
        assert!(options.demand_protection(remote).is_ok());
        options.insecure_no_auth = false;
        options.authentication = Authentication::Basic {
            htpasswd: PathBuf::new(),
        };
        assert!(options.demand_protection(remote).is_ok());
    }
}
