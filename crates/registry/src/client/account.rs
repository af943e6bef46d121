//! `docker login` and `docker search`.

use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::answer::told;
use super::auth::{self, basic};
use super::challenge::challenges;
use super::hosts::{address, own_host};
use super::session::Session;
use super::transport::{Endpoint, Outgoing, Payload, directory, shown};
use super::{Client, Credentials, Error, Login, SearchResult, retry};

const MAX_RESULTS: usize = 4 << 20;
const DEFAULT_LIMIT: u32 = 25;
const SEARCH_HOST: &str = "index.docker.io";

impl Client {
    pub(super) async fn verify(
        &self,
        host: &str,
        credentials: &Credentials,
    ) -> Result<Login, Error> {
        let session = self.session(registry_of(host), credentials)?;
        let endpoint = session.endpoint.as_ref();
        let url = directory(&endpoint.base().await.map_err(|failure| failure.error)?);
        let ping = |authorization| {
            get(
                endpoint,
                Outgoing {
                    method: Method::GET,
                    url: url.clone(),
                    headers: reqwest::header::HeaderMap::new(),
                    payload: Payload::None,
                    authorization,
                },
            )
        };
        let answer = ping(None).await?;
        if answer.status().is_success() {
            return Ok(Login::default());
        }
        let challenge = match auth::choose(challenges(answer.headers())) {
            Some(challenge) if answer.status() == StatusCode::UNAUTHORIZED => challenge,
            _ => return Err(answer.refusal().await),
        };
        answer.discard().await;
        let (header, login) = if challenge.scheme == "basic" {
            (basic(credentials), Login::default())
        } else {
            let granted = auth::fetch(endpoint, &challenge, Some(credentials), &[], true)
                .await
                .map_err(|failure| failure.error)?;
            let login = Login {
                identity_token: granted.identity_token,
            };
            (granted.header, login)
        };
        let answer = ping(Some(header)).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(login);
        }
        let reason = status.canonical_reason().unwrap_or_default();
        Err(Error::Denied(format!(
            "login attempt to {} failed with status: {} {reason}",
            shown(&answer.url),
            status.as_u16()
        )))
    }

    pub(super) async fn find(
        &self,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<SearchResult>, Error> {
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit };
        if limit > 100 {
            return Err(Error::Invalid(format!(
                "limit {limit} is outside the range of [1, 100]"
            )));
        }
        let (host, term) = split_term(term);
        let session = self.session_at(host, credentials)?;
        let mut url = session
            .endpoint
            .base()
            .await
            .map_err(|failure| failure.error)?;
        url.set_path("/v1/search");
        url.query_pairs_mut()
            .append_pair("q", term)
            .append_pair("n", &limit.to_string());
        let authorization = (!credentials.username.is_empty() && !credentials.password.is_empty())
            .then(|| basic(credentials));
        let mut answer = get(
            &session.endpoint,
            Outgoing {
                method: Method::GET,
                url,
                headers: reqwest::header::HeaderMap::new(),
                payload: Payload::None,
                authorization,
            },
        )
        .await?;
        if answer.status() != StatusCode::OK {
            let (method, url) = (answer.method.clone(), answer.url.clone());
            let error = answer.refusal().await;
            return Err(match error {
                Error::NotFound(_) => {
                    Error::Unsupported(told(&method, &url, "the registry has no search"))
                }
                other => other,
            });
        }
        let body = answer.body(MAX_RESULTS).await?;
        let found: Found = serde_json::from_slice(&body)
            .map_err(|_| answer.invalid("the search results are not valid JSON"))?;
        let results = found.results.unwrap_or_default();
        Ok(results
            .into_iter()
            .take(limit as usize)
            .map(SearchResult::from)
            .collect())
    }

    fn session_at(&self, host: &str, credentials: &Credentials) -> Result<Session, Error> {
        let host = if host == SEARCH_HOST {
            SEARCH_HOST
        } else {
            own_host(host)
        };
        self.session_with(&address(host)?, host, credentials)
    }
}

/// With retries, without looking for credentials.
async fn get(endpoint: &Endpoint, outgoing: Outgoing<'_>) -> Result<super::answer::Answer, Error> {
    let mut retry = retry::Retry::new(retry::ATTEMPTS);
    loop {
        let attempt = Outgoing {
            method: outgoing.method.clone(),
            url: outgoing.url.clone(),
            headers: outgoing.headers.clone(),
            payload: outgoing.payload.clone(),
            authorization: outgoing.authorization.clone(),
        };
        let (after, error) = match endpoint.send(attempt).await {
            Ok(answer) if !retry::is_temporary(answer.status()) => return Ok(answer),
            Ok(answer) => (retry::retry_after(answer.headers()), answer.refusal().await),
            Err(failure) => match failure.again {
                super::failure::Again::Later(after) => (after, failure.error),
                _ => return Err(failure.error),
            },
        };
        retry.wait(after, error).await?;
    }
}

#[derive(Deserialize)]
struct Found {
    results: Option<Vec<Hit>>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: Option<u64>,
    #[serde(default)]
    is_official: Option<bool>,
    #[serde(default)]
    is_automated: Option<bool>,
}

impl From<Hit> for SearchResult {
    fn from(hit: Hit) -> Self {
        Self {
            name: hit.name.unwrap_or_default(),
            description: hit.description.unwrap_or_default(),
            stars: hit.star_count.unwrap_or_default(),
            is_official: hit.is_official.unwrap_or_default(),
            is_automated: hit.is_automated.unwrap_or_default(),
        }
    }
}

/// "https://index.docker.io/v1/" is what the credentials file says.
fn registry_of(text: &str) -> &str {
    let text = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    text.split('/').next().unwrap_or(text)
}

/// The host a term begins with, as in a name, and the rest.
fn split_term(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some(("docker.io" | SEARCH_HOST, rest)) => (SEARCH_HOST, official(rest)),
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => (SEARCH_HOST, official(term)),
    }
}

fn official(term: &str) -> &str {
    term.strip_prefix("library/").unwrap_or(term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        assert_eq!(split_term("busybox"), (SEARCH_HOST, "busybox"));
        assert_eq!(split_term("library/busybox"), (SEARCH_HOST, "busybox"));
        assert_eq!(split_term("docker.io/a/b"), (SEARCH_HOST, "a/b"));
        assert_eq!(split_term("localhost:5000/a/b"), ("localhost:5000", "a/b"));
        assert_eq!(split_term("a/b"), (SEARCH_HOST, "a/b"));
        assert_eq!(registry_of("https://index.docker.io/v1/"), SEARCH_HOST);
        assert_eq!(registry_of("r.example:5000"), "r.example:5000");
    }
}
