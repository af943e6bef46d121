//! Requests to one place, with authentication and retries.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};

use super::answer::{Answer, told};
use super::auth::{self, Grant, Tokens};
use super::challenge::{self, Challenge};
use super::retry::{self, Retry};
use super::transport::{Again, Endpoint, Failure, Outgoing, Payload, directory};
use super::{Credentials, Error};

/// A request of which the place is decided by a [`Session`].
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub method: Method,
    pub target: Target<'a>,
    pub headers: HeaderMap,
    pub payload: Payload<'a>,
    pub scopes: Vec<String>,
}

#[derive(Clone)]
pub(super) enum Target<'a> {
    /// Below "/v2/", with its query.
    Path(&'a str),
    /// What the registry gave out: of another host it gets no credentials.
    Url(Url),
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, path: &'a str, scopes: Vec<String>) -> Self {
        Self {
            method,
            target: Target::Path(path),
            headers: HeaderMap::new(),
            payload: Payload::None,
            scopes,
        }
    }

    pub(super) fn to(method: Method, url: Url, scopes: Vec<String>) -> Self {
        Self {
            target: Target::Url(url),
            ..Self::new(method, "", scopes)
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Result<Self, Error> {
        let value = value
            .parse()
            .map_err(|_| Error::Invalid(format!("\"{name}\" cannot be sent in a header")))?;
        self.headers.insert(name, value);
        Ok(self)
    }
}

/// One place, and what we may show it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub endpoint: Arc<Endpoint>,
    pub tokens: Arc<Tokens>,
    pub credentials: Arc<Credentials>,
    pub attempts: u32,
}

impl Session {
    /// The registry's answer, whatever its status, unless that is one of those
    /// that pass: then the request is repeated.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Answer, Error> {
        let mut retry = Retry::new(self.attempts);
        loop {
            let failure = match self.attempt(call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match failure.again {
                Again::Never | Again::Plain => return Err(failure.error),
                Again::Later(after) => retry.wait(after, failure.error).await?,
            }
        }
    }

    /// The same with the body, if the registry gave what was asked for. One
    /// that breaks off is asked for again.
    ///
    /// # Errors
    /// `Invalid` if it is longer than `limit` bytes.
    pub(super) async fn fetch(
        &self,
        call: &Call<'_>,
        limit: usize,
    ) -> Result<(Answer, Bytes), Error> {
        let mut retry = Retry::new(self.attempts);
        loop {
            let mut answer = self.send(call).await?;
            if !answer.status().is_success() {
                return Ok((answer, Bytes::new()));
            }
            match answer.body(limit).await {
                Ok(body) => return Ok((answer, body)),
                Err(error @ Error::Unavailable(_)) => retry.wait(None, error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// One try. A status that passes is a failure.
    pub(super) async fn attempt(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let answer = self.authorized(call).await?;
        if !retry::is_temporary(answer.status()) {
            return Ok(answer);
        }
        let after = retry::retry_after(answer.headers());
        Err(Failure {
            error: answer.refusal().await,
            again: Again::Later(after),
        })
    }

    async fn authorized(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let base = self.endpoint.base().await?;
        let url = match &call.target {
            Target::Path(path) => below(&base, path)?,
            Target::Url(url) => url.clone(),
        };
        let home = url.origin() == base.origin();
        let known = self.endpoint.last_challenge().filter(|_| home);
        let shown = match &known {
            Some(challenge) => self.grant(challenge, call, None).await?,
            None => None,
        };
        let answer = self.once(call, &url, shown.as_ref()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || answer.foreign || !home {
            return Ok(answer);
        }
        let Some(challenge) = auth::choose(challenge::challenges(answer.headers())) else {
            return Ok(answer);
        };
        // A token that was made for this request and refused is a denial.
        let fresh = shown.as_ref().is_some_and(|grant| grant.fresh);
        if fresh && known.is_some_and(|known| !auth::asks_more(&challenge, &known, &call.scopes)) {
            return Ok(answer);
        }
        self.endpoint.remember(auth::without_scope(&challenge));
        let refused = shown.as_ref().map(|grant| &grant.header);
        let Some(next) = self.grant(&challenge, call, refused).await? else {
            let why = "no basic auth credentials";
            return Err(Error::Denied(told(&call.method, &url, why)).into());
        };
        if Some(&next.header) == refused {
            return Ok(answer);
        }
        answer.discard().await;
        self.once(call, &url, Some(&next)).await
    }

    async fn once(
        &self,
        call: &Call<'_>,
        url: &Url,
        grant: Option<&Grant>,
    ) -> Result<Answer, Failure> {
        self.endpoint
            .send(Outgoing {
                method: call.method.clone(),
                url: url.clone(),
                headers: call.headers.clone(),
                payload: call.payload.clone(),
                authorization: grant.map(|grant| grant.header.clone()),
            })
            .await
    }

    async fn grant(
        &self,
        challenge: &Challenge,
        call: &Call<'_>,
        refused: Option<&reqwest::header::HeaderValue>,
    ) -> Result<Option<Grant>, Failure> {
        self.tokens
            .grant(
                &self.endpoint,
                challenge,
                self.credentials(),
                &call.scopes,
                refused,
            )
            .await
    }

    /// Those of the registry are for it alone, not for its mirrors.
    fn credentials(&self) -> Option<&Credentials> {
        self.endpoint
            .settings
            .own
            .then_some(self.credentials.as_ref())
            .filter(|credentials| **credentials != Credentials::default())
    }
}

/// `path` below "/v2", each part of it as it is.
fn below(base: &Url, path: &str) -> Result<Url, Error> {
    let text = format!("{}{path}", directory(base));
    Url::parse(&text).map_err(|error| Error::Invalid(format!("invalid address {text}: {error}")))
}
