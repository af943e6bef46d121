//! From a name to the places that serve it, in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::answer::Answer;
use super::auth::Tokens;
use super::hosts::{self, Configuration, Settings};
use super::retry::ATTEMPTS;
use super::session::Session;
use super::transport::Endpoint;
use super::{Access, Client, Credentials, Error, Options, Repository};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections of so many places are kept.
const MAX_ENDPOINTS: usize = 256;
const MAX_NAME: usize = 255;

/// What all clones of a client share.
#[derive(Debug)]
pub(super) struct Registries {
    configuration: Configuration,
    agent: String,
    timeout: Duration,
    endpoints: Mutex<HashMap<String, Vec<Arc<Endpoint>>>>,
    tokens: Arc<Tokens>,
}

/// What all clones of a repository share.
#[derive(Debug)]
pub(super) struct Target {
    name: String,
    /// As people write it: "busybox", "r.example:5000/x".
    familiar: String,
    access: Access,
    /// In the order in which they are asked.
    sessions: Vec<Session>,
    client: Client,
}

impl Registries {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self {
            configuration: Configuration::new(options)?,
            agent: options.user_agent.clone(),
            timeout: options.timeout.unwrap_or(DEFAULT_TIMEOUT),
            endpoints: Mutex::default(),
            tokens: Arc::default(),
        })
    }

    /// The one that is there, with its connections, unless the configuration
    /// says something else now.
    fn endpoint(&self, settings: Settings) -> Result<Arc<Endpoint>, Error> {
        let mut all = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() > MAX_ENDPOINTS {
            all.clear();
        }
        let known = all.entry(settings.base.to_string()).or_default();
        if let Some(endpoint) = known.iter().find(|e| e.settings == settings) {
            return Ok(Arc::clone(endpoint));
        }
        let endpoint = Arc::new(Endpoint::new(settings, &self.agent, self.timeout)?);
        // The same address differs by whose credentials it gets, or was
        // configured anew: two are enough.
        known.truncate(1);
        known.insert(0, Arc::clone(&endpoint));
        Ok(endpoint)
    }
}

impl Client {
    pub(super) fn open(
        &self,
        host: &str,
        name: &str,
        credentials: &Credentials,
        access: Access,
    ) -> Result<Repository, Error> {
        check_name(name)?;
        let places = self.0.configuration.places(host)?;
        let credentials = Arc::new(credentials.clone());
        let mut sessions = Vec::new();
        let wanted = |place: &Settings| match access {
            Access::Pull => place.pull || place.resolve,
            Access::Push => place.push,
        };
        let last = places.len();
        for (index, place) in places.into_iter().enumerate() {
            if wanted(&place) {
                sessions.push(Session {
                    namespace: (!place.own).then(|| host.to_owned()),
                    endpoint: self.0.endpoint(place)?,
                    tokens: Arc::clone(&self.0.tokens),
                    credentials: Arc::clone(&credentials),
                    // There is another place to ask: it is not worth waiting.
                    attempts: if index + 1 < last && access == Access::Pull {
                        1
                    } else {
                        ATTEMPTS
                    },
                });
            }
        }
        Ok(Repository(Arc::new(Target {
            name: name.to_owned(),
            familiar: familiar(host, name),
            access,
            sessions,
            client: self.clone(),
        })))
    }

    /// The registry itself, for what is of no repository.
    pub(super) fn session(&self, host: &str, credentials: &Credentials) -> Result<Session, Error> {
        let place = self.0.configuration.places(host)?.pop();
        let place = place.ok_or_else(|| Error::Invalid(format!("{host} is served nowhere")))?;
        self.session_of(place, credentials)
    }

    pub(super) fn session_with(
        &self,
        address: &Url,
        host: &str,
        credentials: &Credentials,
    ) -> Result<Session, Error> {
        let place = self.0.configuration.plain(address, host)?;
        self.session_of(place, credentials)
    }

    fn session_of(&self, place: Settings, credentials: &Credentials) -> Result<Session, Error> {
        Ok(Session {
            namespace: None,
            endpoint: self.0.endpoint(place)?,
            tokens: Arc::clone(&self.0.tokens),
            credentials: Arc::new(credentials.clone()),
            attempts: ATTEMPTS,
        })
    }
}

impl Repository {
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn scopes(&self) -> Vec<String> {
        let actions = match self.0.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        vec![format!("repository:{}:{actions}", self.0.name)]
    }

    /// The places to read from. `resolve`: what a tag stands for is asked,
    /// which not all may say.
    pub(super) fn places(&self, resolve: bool) -> Places<'_> {
        Places {
            target: &self.0,
            next: 0,
            resolve,
            last: None,
        }
    }

    /// Where to push to.
    pub(super) fn writer(&self) -> Result<Session, Error> {
        let place = self.0.sessions.iter().find(|s| s.endpoint.settings.push);
        match self.0.access {
            Access::Push => place.cloned().ok_or_else(|| {
                let name = &self.0.familiar;
                Error::Unsupported(format!("hosts.toml names no place to push {name} to"))
            }),
            Access::Pull => Err(Error::Unsupported(
                "the repository was opened for pulling only".to_owned(),
            )),
        }
    }

    /// A place that gets no credentials, client certificates included.
    pub(super) fn anonymous(&self, url: &Url) -> Result<Arc<Endpoint>, Error> {
        let mut root = url.clone();
        root.set_path("/");
        root.set_query(None);
        let registries = &self.0.client.0;
        let mut place = registries
            .configuration
            .plain(&root, &hosts::authority(url))?;
        place.own = false;
        place.identities.clear();
        registries.endpoint(place)
    }

    /// Docker's words for a manifest or list that was not given.
    pub(super) async fn refused(&self, answer: Answer, reference: &str) -> Error {
        let name = &self.0.familiar;
        let whole = match reference {
            "" => name.clone(),
            digest if digest.contains(':') => format!("{name}@{digest}"),
            tag => format!("{name}:{tag}"),
        };
        self.translate(answer, "manifest", &format!("manifest for {whole}"))
            .await
    }

    pub(super) async fn refused_blob(&self, answer: Answer, digest: &str) -> Error {
        self.translate(answer, "blob", &format!("blob {digest}"))
            .await
    }

    async fn translate(&self, answer: Answer, kind: &str, subject: &str) -> Error {
        let name = &self.0.familiar;
        let silent = answer.status() == StatusCode::NOT_FOUND;
        match answer.refusal().await {
            Error::Denied(why) if self.0.access == Access::Pull => Error::Denied(format!(
                "pull access denied for {name}, repository does not exist or may require \
                 'docker login': {why}"
            )),
            Error::NotFound(why) if why.starts_with("name unknown") => {
                Error::NotFound(format!("repository {name} not found: {why}"))
            }
            Error::NotFound(why) if silent && why.starts_with("received unexpected") => {
                Error::NotFound(format!(
                    "{subject} not found: {kind} unknown: {kind} unknown"
                ))
            }
            Error::NotFound(why) => Error::NotFound(format!("{subject} not found: {why}")),
            other => other,
        }
    }
}

/// Each place in turn, until one has an answer.
pub(super) struct Places<'a> {
    target: &'a Target,
    next: usize,
    resolve: bool,
    last: Option<Error>,
}

impl<'a> Places<'a> {
    /// # Errors
    /// What the last one said, when there is none left.
    pub(super) fn next(&mut self) -> Result<&'a Session, Error> {
        while let Some(session) = self.target.sessions.get(self.next) {
            self.next += 1;
            let settings = &session.endpoint.settings;
            if if self.resolve {
                settings.resolve
            } else {
                settings.pull
            } {
                return Ok(session);
            }
        }
        Err(self.last.take().unwrap_or_else(|| {
            let name = &self.target.familiar;
            Error::Unsupported(format!("hosts.toml names no place to pull {name} from"))
        }))
    }

    /// The next one is asked.
    pub(super) fn failed(&mut self, error: Error) {
        tracing::debug!(%error, "a place of a repository did not serve");
        self.last = Some(error);
    }
}

fn familiar(host: &str, name: &str) -> String {
    match host {
        "docker.io" | "index.docker.io" => match name.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => name.to_owned(),
        },
        _ => format!("{host}/{name}"),
    }
}

/// A name ends up in addresses: nothing in it may mean something there.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let component = |part: &str| {
        let bytes = part.as_bytes();
        !part.is_empty()
            && bytes.iter().all(|b| allowed(*b))
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
    };
    if name.len() <= MAX_NAME && name.split('/').all(component) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "invalid repository name \"{name}\""
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_a_manifest_gets_no_client_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("inner.example");
        std::fs::create_dir(&folder).unwrap();
        for file in ["client.cert", "client.key"] {
            std::fs::write(folder.join(file), "pem").unwrap();
        }
        let client = Client::new(Options {
            config_dirs: vec![dir.path().to_owned()],
            ..Options::default()
        })
        .unwrap();
        let nobody = Credentials::default();
        let open = |host| client.repository(host, "x", &nobody, Access::Pull).unwrap();
        let known = &open("inner.example").0.sessions[0].endpoint.settings;
        assert_eq!(known.identities.len(), 1);
        let url = "https://inner.example/layer".parse().unwrap();
        let endpoint = open("r.example").anonymous(&url).unwrap();
        assert!(!endpoint.settings.own && endpoint.settings.identities.is_empty());
    }
}
