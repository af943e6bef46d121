//! Authentication: Basic, and tokens by the Docker token specification and
//! its OAuth2 form. Tokens are kept per scope until they expire.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::answer::{Answer, told};
use super::challenge::Challenge;
use super::transport::{Again, Endpoint, Failure, Outgoing, Payload};
use super::{Credentials, Error, retry};

const MAX_REPLY: usize = 1 << 20;
/// The specification's shortest life of a token.
const SHORTEST: u64 = 60;
const LONGEST: u64 = 24 * 3600;
/// A token that is about to expire is not used any more.
const MARGIN: Duration = Duration::from_secs(5);
const MAX_TOKENS: usize = 1000;
const CLIENT_ID: &str = "docker";
/// The name under which credential helpers keep an identity token.
const TOKEN_USER: &str = "<token>";

/// What is not unreserved (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Tokens of all registries.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<[u8; 32], Arc<Slot>>>);

type Slot = AsyncMutex<Option<Token>>;

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    expires: Instant,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

/// What a token server said.
pub(super) struct Granted {
    pub header: HeaderValue,
    life: Duration,
    /// Serves in place of the password from now on.
    pub identity_token: String,
}

/// "Authorization" for a request.
pub(super) struct Grant {
    pub header: HeaderValue,
    /// It was made for this request: if it is refused, that is final.
    pub fresh: bool,
}

impl Tokens {
    /// The header that answers a challenge; `None` if nothing we have does.
    /// Of several who need the same token, one asks for it. `refused` is what
    /// the registry did not accept.
    pub(super) async fn grant(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
        scopes: &[String],
        refused: Option<&HeaderValue>,
    ) -> Result<Option<Grant>, Failure> {
        let grant = |header, fresh| Ok(Some(Grant { header, fresh }));
        if let Some(token) = credentials
            .map(|c| &c.registry_token)
            .filter(|t| !t.is_empty())
        {
            return grant(bearer(token)?, true);
        }
        if challenge.scheme == "basic" {
            return match credentials.filter(|c| !c.username.is_empty()) {
                Some(credentials) => grant(basic(credentials), true),
                None => Ok(None),
            };
        }
        let slot = self.slot(key(challenge, credentials, scopes));
        let mut held = slot.lock().await;
        if let Some(token) = held.as_ref()
            && token.expires > Instant::now()
            && Some(&token.header) != refused
        {
            return grant(token.header.clone(), false);
        }
        let granted = fetch(endpoint, challenge, credentials, scopes, false).await?;
        *held = Some(Token {
            header: granted.header.clone(),
            expires: Instant::now() + granted.life - MARGIN,
        });
        grant(granted.header, true)
    }

    fn slot(&self, key: [u8; 32]) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_TOKENS {
            // Those in use stay, all others can be asked for again.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

/// The challenge that will be answered: tokens before passwords.
pub(super) fn choose(challenges: Vec<Challenge>) -> Option<Challenge> {
    let rank = |challenge: &Challenge| match challenge.scheme.as_str() {
        "bearer" if !challenge.parameter("realm").is_empty() => 0,
        "basic" => 1,
        _ => 2,
    };
    challenges
        .into_iter()
        .filter(|challenge| rank(challenge) < 2)
        .min_by_key(rank)
}

/// Asks a token server. `offline` asks for a refresh token besides.
pub(super) async fn fetch(
    endpoint: &Endpoint,
    challenge: &Challenge,
    credentials: Option<&Credentials>,
    scopes: &[String],
    offline: bool,
) -> Result<Granted, Failure> {
    let realm = realm(endpoint, challenge)?;
    let scopes = all_scopes(challenge, scopes);
    let service = challenge.parameter("service");
    let refresh = credentials.map_or("", identity_token);
    if !refresh.is_empty() {
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
        return post(endpoint, &realm, &form, service, &scopes).await;
    }
    let login = credentials.filter(|c| !c.username.is_empty());
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if !service.is_empty() {
            query.append_pair("service", service);
        }
        for scope in &scopes {
            query.append_pair("scope", scope);
        }
        if let Some(login) = login {
            query.append_pair("account", &login.username);
        }
        if offline {
            query.append_pair("offline_token", "true");
            query.append_pair("client_id", CLIENT_ID);
        }
    }
    let answer = endpoint
        .send(Outgoing {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            payload: Payload::None,
            authorization: login.map(basic),
        })
        .await?;
    let unknown = matches!(
        answer.status(),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
    );
    if let Some(login) = login.filter(|_| unknown) {
        let access = if offline { "offline" } else { "online" };
        let form = [
            ("grant_type", "password"),
            ("username", login.username.as_str()),
            ("password", login.password.as_str()),
            ("access_type", access),
        ];
        return post(endpoint, &realm, &form, service, &scopes).await;
    }
    granted(answer).await
}

/// The OAuth2 form of the token server.
async fn post(
    endpoint: &Endpoint,
    realm: &Url,
    form: &[(&str, &str)],
    service: &str,
    scopes: &[String],
) -> Result<Granted, Failure> {
    let scopes = scopes.join(" ");
    let mut fields = form.to_vec();
    fields.extend([("service", service), ("client_id", CLIENT_ID)]);
    if !scopes.is_empty() {
        fields.push(("scope", &scopes));
    }
    let encode = |text| utf8_percent_encode(text, RESERVED);
    let body: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    let answer = endpoint
        .send(Outgoing {
            method: Method::POST,
            url: realm.clone(),
            headers,
            payload: Payload::Bytes(Bytes::from(body.join("&"))),
            authorization: None,
        })
        .await?;
    granted(answer).await
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    issued_at: Option<String>,
}

async fn granted(mut answer: Answer) -> Result<Granted, Failure> {
    let status = answer.status();
    if retry::is_temporary(status) {
        let after = retry::retry_after(answer.headers());
        return Err(Failure {
            error: answer.refusal().await,
            again: Again::Later(after),
        });
    }
    if !status.is_success() {
        let (method, url) = (answer.method.clone(), answer.url.clone());
        let text = answer.refusal().await.to_string();
        // Whatever the status: without a token there is no access.
        return Err(Error::Denied(told(&method, &url, &text)).into());
    }
    let body = answer.body(MAX_REPLY).await?;
    let reply: Reply = serde_json::from_slice(&body)
        .map_err(|_| answer.invalid("the token server's reply is not valid"))?;
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let token = filled(reply.token)
        .or_else(|| filled(reply.access_token))
        .ok_or_else(|| {
            answer.invalid("authorization server did not include a token in the response")
        })?;
    Ok(Granted {
        header: bearer(&token)?,
        life: life(
            reply.expires_in,
            reply.issued_at.as_deref(),
            Timestamp::now(),
        ),
        identity_token: reply.refresh_token.unwrap_or_default(),
    })
}

/// How long a token serves, counted from now.
fn life(expires_in: Option<u64>, issued_at: Option<&str>, now: Timestamp) -> Duration {
    let whole = Duration::from_secs(expires_in.unwrap_or(0).clamp(SHORTEST, LONGEST));
    let issued = issued_at.and_then(|text| text.parse::<Timestamp>().ok());
    let age = issued.and_then(|issued| Duration::try_from(now.duration_since(issued)).ok());
    // A clock that is far off makes a token short-lived, not useless.
    whole.saturating_sub(age.unwrap_or_default()).max(MARGIN)
}

/// Where tokens are given out. A password is never sent in the clear to it,
/// unless the registry itself may be spoken to so.
fn realm(endpoint: &Endpoint, challenge: &Challenge) -> Result<Url, Error> {
    let text = challenge.parameter("realm");
    let invalid = |why: &str| {
        let registry = super::transport::shown(&endpoint.settings.base);
        Error::Invalid(format!("{registry}: invalid token realm: {why}"))
    };
    let mut url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    endpoint
        .allow(&endpoint.settings.base, &url)
        .map_err(|why| invalid(&why))?;
    url.set_fragment(None);
    Ok(url)
}

/// Those we need and those the registry asks for.
fn all_scopes(challenge: &Challenge, wanted: &[String]) -> Vec<String> {
    let mut scopes = wanted.to_vec();
    for asked in challenge.parameter("scope").split_ascii_whitespace() {
        if !scopes.iter().any(|scope| covers(scope, asked)) {
            scopes.push(asked.to_owned());
        }
    }
    scopes
}

/// Whether a challenge is not yet answered by what answers `known`.
pub(super) fn asks_more(challenge: &Challenge, known: &Challenge, wanted: &[String]) -> bool {
    without_scope(challenge) != *known || all_scopes(challenge, wanted).len() > wanted.len()
}

/// What holds for all requests to a registry.
pub(super) fn without_scope(challenge: &Challenge) -> Challenge {
    let mut general = challenge.clone();
    general
        .parameters
        .retain(|name, _| matches!(name.as_str(), "realm" | "service"));
    general
}

/// Whether a scope holds all of another: "repository:x:pull,push" "…:pull".
fn covers(scope: &str, asked: &str) -> bool {
    match (scope.rsplit_once(':'), asked.rsplit_once(':')) {
        (Some((resource, actions)), Some((same, wanted))) => {
            resource == same
                && wanted
                    .split(',')
                    .all(|w| actions.split(',').any(|a| a == w))
        }
        _ => scope == asked,
    }
}

fn identity_token(credentials: &Credentials) -> &str {
    if credentials.identity_token.is_empty() && credentials.username == TOKEN_USER {
        return &credentials.password;
    }
    &credentials.identity_token
}

pub(super) fn basic(credentials: &Credentials) -> HeaderValue {
    let plain = format!("{}:{}", credentials.username, credentials.password);
    let text = format!("Basic {}", BASE64_STANDARD.encode(plain));
    let mut value =
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::Invalid("the registry token is not valid in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Of all that decides which token is given; no secret can be read from it.
fn key(challenge: &Challenge, credentials: Option<&Credentials>, scopes: &[String]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    add(challenge.parameter("realm"));
    add(challenge.parameter("service"));
    if let Some(credentials) = credentials {
        add(&credentials.username);
        add(&credentials.password);
        add(&credentials.identity_token);
    }
    for scope in all_scopes(challenge, scopes) {
        add(&scope);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_token() {
        let now: Timestamp = "2020-01-01T00:01:00Z".parse().unwrap();
        let seconds = |expires_in, issued_at| life(expires_in, issued_at, now).as_secs();
        assert_eq!(seconds(None, None), 60);
        assert_eq!(seconds(Some(10), None), 60);
        assert_eq!(seconds(Some(300), None), 300);
        assert_eq!(seconds(Some(300), Some("2020-01-01T00:00:00Z")), 240);
        assert_eq!(seconds(Some(300), Some("2030-01-01T00:00:00Z")), 300);
        assert_eq!(
            seconds(Some(300), Some("2010-01-01T00:00:00Z")),
            MARGIN.as_secs()
        );
        assert_eq!(seconds(Some(u64::MAX), Some("garbage")), 24 * 3600);
    }

    #[test]
    fn scopes_are_joined_without_repeating() {
        let challenge = &super::super::challenge::parse(
            r#"Bearer realm="r",scope="repository:a:pull repository:b:pull registry:catalog:*""#,
        )[0];
        assert_eq!(
            all_scopes(challenge, &["repository:a:pull,push".to_owned()]),
            [
                "repository:a:pull,push",
                "repository:b:pull",
                "registry:catalog:*"
            ]
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials {
            username: "u".to_owned(),
            password: "secret".to_owned(),
            identity_token: "secret".to_owned(),
            registry_token: "secret".to_owned(),
        };
        let text = format!(
            "{credentials:?} {:?} {:?}",
            basic(&credentials),
            bearer("secret")
        );
        assert!(!text.contains("secret") && !text.contains(&BASE64_STANDARD.encode("u:secret")));
    }
}
