//! Who one is at which registry: `~/.docker/config.json`, the credential
//! helpers it names, and `DOCKER_AUTH_CONFIG`, by Docker's rules.
//!
//! Passwords are passed in memory, on a helper's standard input and in the
//! request's headers: never as an argument, in a message or in a file that
//! others may read.

mod file;
mod helper;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use crate::config::{Auth, ConfigFile};
use crate::failure::Failure;
use crate::output::warn;

/// Docker Hub's name in the file.
pub(crate) const INDEX: &str = "https://index.docker.io/v1/";
/// Credentials that come before all others, as JSON: `{"auths": {…}}`.
pub(crate) const ENVIRONMENT: &str = "DOCKER_AUTH_CONFIG";

/// What is sent to the engine and kept for a registry.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Credentials {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) serveraddress: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) identitytoken: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) registrytoken: String,
}

// Never a secret in a message.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// The value of `X-Registry-Auth`: JSON in base64 for URLs.
    pub(crate) fn header(&self) -> String {
        URL_SAFE.encode(serde_json::to_vec(self).unwrap_or_else(|_| b"{}".to_vec()))
    }
}

impl From<Credentials> for berth_registry::client::Credentials {
    fn from(ours: Credentials) -> Self {
        Self {
            username: ours.username,
            password: ours.password,
            identity_token: ours.identitytoken,
            registry_token: ours.registrytoken,
        }
    }
}

/// The credentials for the registry at `host`, as a normalised name has it
/// ("docker.io", "r.example:5000"); empty ones if there are none.
///
/// # Errors
/// A helper that fails. Not one that knows nothing of the registry.
pub(crate) fn for_host(config: &ConfigFile, host: &str) -> Result<Credentials, Failure> {
    get(config, key_of(host))
}

/// The name under which a registry's credentials are kept.
fn key_of(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" => INDEX,
        other => other,
    }
}

/// The credentials kept under `key`.
pub(crate) fn get(config: &ConfigFile, key: &str) -> Result<Credentials, Failure> {
    if let Some(found) = from_environment().and_then(|auths| auths.get(key).cloned()) {
        return read(key, &found);
    }
    match helper_for(config, key) {
        Some(helper) => helper.get(key),
        None => match config.auths.get_key_value(key).or_else(|| {
            // Older files name a registry by its address.
            config.auths.iter().find(|(name, _)| hostname(name) == key)
        }) {
            Some((name, auth)) => read(name, auth),
            None => Ok(Credentials::default()),
        },
    }
}

/// All that are known, by registry host. A helper that fails is told of, for the
/// registry may not be needed.
pub(crate) fn all(config: &ConfigFile) -> std::collections::BTreeMap<String, Credentials> {
    let from_environment = from_environment().unwrap_or_default();
    let keys = (config.auths.keys())
        .chain(config.cred_helpers.keys())
        .chain(from_environment.keys());
    let mut found = std::collections::BTreeMap::new();
    for key in keys {
        let host = if key == INDEX {
            "docker.io"
        } else {
            hostname(key)
        };
        let credentials = match get(config, key) {
            Ok(credentials) => credentials,
            Err(failure) => {
                warn(&format!(
                    "WARNING: no credentials for {host}: {}",
                    failure.message
                ));
                continue;
            }
        };
        if credentials.username.is_empty()
            && credentials.identitytoken.is_empty()
            && credentials.registrytoken.is_empty()
        {
            continue;
        }
        found.insert(host.to_owned(), credentials);
    }
    found
}

/// Keeps `credentials` under their server's address.
pub(crate) fn store(config: &ConfigFile, credentials: &Credentials) -> Result<(), Failure> {
    let key = &credentials.serveraddress;
    match helper_for(config, key) {
        Some(helper) => {
            helper.store(credentials)?;
            file::put(config, key, &Credentials::default(), detected(config))
        }
        None => {
            let known = config.auths.get(key).map(|auth| read(key, auth));
            if let Some(Ok(known)) = known
                && known == *credentials
            {
                return Ok(());
            }
            file::put(config, key, credentials, None)?;
            if !credentials.password.is_empty() {
                warn(&format!(
                    "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
                    config.path.display()
                ));
            }
            Ok(())
        }
    }
}

/// Forgets what is kept under `key`.
pub(crate) fn erase(config: &ConfigFile, key: &str) -> Result<(), Failure> {
    if let Some(helper) = helper_for(config, key) {
        helper.erase(key)?;
    }
    file::remove(config, key)
}

/// "r.example:5000" of "https://r.example:5000/v1/".
pub(crate) fn hostname(address: &str) -> &str {
    let rest = address
        .strip_prefix("http://")
        .or_else(|| address.strip_prefix("https://"))
        .unwrap_or(address);
    rest.split('/').next().unwrap_or(rest)
}

fn helper_for(config: &ConfigFile, key: &str) -> Option<helper::Helper> {
    let name = config
        .cred_helpers
        .get(key)
        .cloned()
        .unwrap_or_else(|| config.creds_store.clone());
    if name.is_empty() {
        detected(config).map(helper::Helper::new)
    } else {
        Some(helper::Helper::new(&name))
    }
}

/// The platform's store, if it is installed and the file says nothing.
fn detected(config: &ConfigFile) -> Option<&'static str> {
    let says = !config.creds_store.is_empty()
        || !config.cred_helpers.is_empty()
        || !config.auths.is_empty();
    if says {
        return None;
    }
    let name = if helper::installed("pass") {
        "pass"
    } else {
        "secretservice"
    };
    helper::installed(&format!("docker-credential-{name}")).then_some(name)
}

fn read(key: &str, auth: &Auth) -> Result<Credentials, Failure> {
    let (username, password) = if auth.auth.is_empty() {
        (auth.username.clone(), auth.password.clone())
    } else {
        decode(&auth.auth)
            .ok_or_else(|| Failure::new(format!("Invalid auth configuration file: {key}")))?
    };
    Ok(Credentials {
        username,
        password,
        serveraddress: key.to_owned(),
        identitytoken: auth.identitytoken.clone(),
        registrytoken: auth.registrytoken.clone(),
    })
}

/// "user:password" in base64.
fn decode(text: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    (!username.is_empty()).then(|| (username.to_owned(), password.trim_matches('\0').to_owned()))
}

/// The reverse; "" for no name and no password.
fn encode(username: &str, password: &str) -> String {
    if username.is_empty() && password.is_empty() {
        return String::new();
    }
    STANDARD.encode(format!("{username}:{password}"))
}

fn from_environment() -> Option<std::collections::BTreeMap<String, Auth>> {
    #[derive(Deserialize)]
    struct Auths {
        #[serde(default)]
        auths: std::collections::BTreeMap<String, Auth>,
    }
    let text = std::env::var(ENVIRONMENT)
        .ok()
        .filter(|text| !text.is_empty())?;
    match serde_json::from_str::<Auths>(&text) {
        Ok(found) => Some(found.auths),
        Err(error) => {
            // Where it is wrong, not what it says.
            warn(&format!(
                "Failed to create credential store from {ENVIRONMENT}: not valid at line {} column {}",
                error.line(),
                error.column()
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests;
