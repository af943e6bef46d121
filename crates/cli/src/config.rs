//! `~/.docker/config.json`: what people set there once for all commands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::output::warn;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ConfigFile {
    #[serde(rename = "HttpHeaders")]
    pub(crate) http_headers: BTreeMap<String, String>,
    pub(crate) ps_format: String,
    pub(crate) images_format: String,
    pub(crate) networks_format: String,
    pub(crate) volumes_format: String,
    pub(crate) stats_format: String,
    pub(crate) detach_keys: String,
    pub(crate) current_context: String,
    pub(crate) prune_filters: Vec<String>,
    pub(crate) proxies: BTreeMap<String, Proxy>,
    pub(crate) auths: BTreeMap<String, Auth>,
    pub(crate) creds_store: String,
    pub(crate) cred_helpers: BTreeMap<String, String>,
    /// Where it is, or would be.
    #[serde(skip)]
    pub(crate) path: PathBuf,
}

/// What the file holds for one registry: name and password in base64, or a
/// token. Empty when a helper keeps them.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Auth {
    pub(crate) auth: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identitytoken: String,
    pub(crate) registrytoken: String,
}

// Never a secret in a message.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

/// Proxy settings that containers get as environment, by host or "default".
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Proxy {
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    ftp_proxy: String,
    all_proxy: String,
}

impl ConfigFile {
    /// Reads the file of `directory`. None is no error; a broken one is told
    /// and then ignored, as Docker does.
    pub(crate) fn load(directory: &Path) -> Self {
        let path = directory.join("config.json");
        let broken = |why: &str| {
            warn(&format!("WARNING: Error loading config file: {why}"));
            Self::default()
        };
        let name = path.display().to_string();
        let mut file = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .unwrap_or_else(|error| broken(&format!("{name}: {error}"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => broken(&crate::failure::path_error("open", &name, &error)),
        };
        file.path = path;
        file
    }

    /// "HTTP_PROXY=…" for both cases, for containers of the engine at `host`.
    pub(crate) fn proxy_environment(&self, host: &str) -> Vec<(String, String)> {
        let Some(proxy) = self
            .proxies
            .get(host)
            .or_else(|| self.proxies.get("default"))
        else {
            return Vec::new();
        };
        [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("NO_PROXY", &proxy.no_proxy),
            ("FTP_PROXY", &proxy.ftp_proxy),
            ("ALL_PROXY", &proxy.all_proxy),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .flat_map(|(name, value)| {
            [
                (name.to_owned(), value.clone()),
                (name.to_lowercase(), value.clone()),
            ]
        })
        .collect()
    }
}

/// `--config`, `DOCKER_CONFIG`, or `~/.docker`.
pub(crate) fn directory(flag: Option<&str>) -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    match flag {
        Some(path) => PathBuf::from(path),
        None => match set("DOCKER_CONFIG") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(set("HOME").unwrap_or_default()).join(".docker"),
        },
    }
}
