//! What needs a registry: pull, push, search, login.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, prelude::BASE64_STANDARD};
use berth_api::Error;
use berth_api::registry::{AUTH_HEADER, AuthConfig};
use berth_api::version::ApiVersion;
use berth_engine::{PullRequest, PushRequest};
use hyper::HeaderMap;
use tokio::sync::mpsc;

use crate::images::PROGRESS_BUFFER;
use crate::reply::{self, Reply};
use crate::streams::{self, Lines};
use crate::{Call, extract};

/// Longest credentials header, in characters; cloud tokens take a few thousand.
const MAX_AUTH: usize = 64 * 1024;

/// base64url; some clients leave the padding out.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) async fn pull(call: Call) -> Result<Reply, Error> {
    let request = PullRequest {
        name: call.query.text("fromImage").to_owned(),
        tag: call.query.text("tag").to_owned(),
        platform: since(&call, ApiVersion(1, 32), "platform"),
        auth: credentials(&call.head.headers)?,
    };
    let lines = Lines::negotiate(&call.head.headers, call.version);
    let (sender, messages) = mpsc::channel(PROGRESS_BUFFER);
    let engine = call.engine;
    let work = async move { engine.image_pull(request, sender).await };
    streams::progress(call.version, lines, messages, work).await
}

pub(crate) async fn push(call: Call) -> Result<Reply, Error> {
    let request = PushRequest {
        name: call.name.clone(),
        tag: call.query.text("tag").to_owned(),
        platform: since(&call, ApiVersion(1, 46), "platform"),
        auth: credentials(&call.head.headers)?,
    };
    let lines = Lines::negotiate(&call.head.headers, call.version);
    let (sender, messages) = mpsc::channel(PROGRESS_BUFFER);
    let engine = call.engine;
    let work = async move { engine.image_push(request, sender).await };
    streams::progress(call.version, lines, messages, work).await
}

pub(crate) async fn search(call: Call) -> Result<Reply, Error> {
    let limit = call.query.text("limit");
    let limit = match limit {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|error| Error::invalid(format!("invalid limit specified: {error}")))?,
        ),
    };
    let found = call
        .engine
        .image_search(
            call.query.text("term"),
            limit,
            &call.query.filters()?,
            &credentials(&call.head.headers)?,
        )
        .await?;
    reply::ok(&found)
}

pub(crate) async fn distribution(call: Call) -> Result<Reply, Error> {
    let auth = credentials(&call.head.headers)?;
    reply::ok(&call.engine.distribution_inspect(&call.name, &auth).await?)
}

pub(crate) async fn auth(call: Call) -> Result<Reply, Error> {
    let auth: Option<AuthConfig> = extract::json(&call.head.headers, call.body).await?;
    let auth = with_pair(auth.unwrap_or_default())?;
    reply::ok(&call.engine.login(&auth).await?)
}

/// A parameter that older versions do not have.
fn since(call: &Call, version: ApiVersion, name: &str) -> String {
    if call.version >= version {
        call.query.text(name).to_owned()
    } else {
        String::new()
    }
}

/// The credentials of the request's header; none is none. Docker passes over
/// what it cannot read, and then a registry says "denied".
fn credentials(headers: &HeaderMap) -> Result<AuthConfig, Error> {
    let Some(value) = headers.get(AUTH_HEADER) else {
        return Ok(AuthConfig::default());
    };
    decode(value.as_bytes())
}

/// Credentials by registry (`X-Registry-Config`); none when they cannot be read.
pub(crate) fn decode_all(value: &[u8]) -> Option<BTreeMap<String, AuthConfig>> {
    let value = value.trim_ascii();
    let text = (value.len() <= MAX_AUTH)
        .then(|| {
            BASE64_URL
                .decode(value)
                .or_else(|_| BASE64_STANDARD.decode(value))
        })?
        .ok()?;
    let all: BTreeMap<String, AuthConfig> = serde_json::from_slice(&text).ok()?;
    // One that is wrong is none; the others are still good.
    let good = all
        .into_iter()
        .filter_map(|(host, auth)| Some((host, with_pair(auth).ok()?)));
    Some(good.collect())
}

fn decode(value: &[u8]) -> Result<AuthConfig, Error> {
    // What is wrong is said without what it is: it may be a password.
    let bad = |what: &str| Error::invalid(format!("invalid X-Registry-Auth header: {what}"));
    let value = value.trim_ascii();
    if value.is_empty() {
        return Ok(AuthConfig::default());
    }
    if value.len() > MAX_AUTH {
        return Err(bad("it is too long"));
    }
    let text = BASE64_URL
        .decode(value)
        // Some clients use the other alphabet.
        .or_else(|_| BASE64_STANDARD.decode(value))
        .map_err(|_| bad("it must be in base64url"))?;
    let auth: Option<AuthConfig> =
        serde_json::from_slice(&text).map_err(|_| bad("it must be a JSON object"))?;
    with_pair(auth.unwrap_or_default())
}

/// Takes username and password out of the form of the credentials file.
fn with_pair(mut auth: AuthConfig) -> Result<AuthConfig, Error> {
    if auth.username.is_empty() && !auth.auth.is_empty() {
        let pair = BASE64_STANDARD
            .decode(auth.auth.trim())
            .ok()
            .and_then(|pair| String::from_utf8(pair).ok());
        let Some((username, password)) = pair.as_deref().and_then(|pair| pair.split_once(':'))
        else {
            return Err(Error::invalid(
                "invalid credentials: \"auth\" must be \"username:password\" in base64",
            ));
        };
        auth.username = username.to_owned();
        auth.password = password.trim_end_matches('\0').to_owned();
    }
    auth.auth.clear();
    Ok(auth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_clients_write_it() {
        let pair = |text: &str| decode(text.as_bytes()).map(|auth| (auth.username, auth.password));
        let want = Ok(("me".to_owned(), "p>?~".to_owned()));
        let json = r#"{"username":"me","password":"p>?~"}"#;
        let url = base64::prelude::BASE64_URL_SAFE.encode(json);
        assert_eq!(pair(&url), want);
        assert_eq!(pair(url.trim_end_matches('=')), want);
        assert_eq!(pair(&BASE64_STANDARD.encode(json)), want);
        let file = format!(r#"{{"auth":"{}"}}"#, BASE64_STANDARD.encode("me:p>?~"));
        assert_eq!(pair(&BASE64_STANDARD.encode(file)), want);
        for nothing in ["", " ", "bnVsbA==", "e30=", "e30"] {
            assert_eq!(
                decode(nothing.as_bytes()),
                Ok(AuthConfig::default()),
                "{nothing}"
            );
        }
        for bad in ["!", "Zm9v", "WzFd", "eyJhdXRoIjoiISJ9"] {
            let error = decode(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind, berth_api::Kind::Invalid, "{bad}");
        }
    }
}
