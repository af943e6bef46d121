//! Our own tokens: `/token`, by GET as Docker's token specification has it, and
//! by POST as OAuth2.

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::WWW_AUTHENTICATE;
use hyper::{HeaderMap, Method};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::jwt::{self, Access, Claims, now};
use super::keys::Keys;
use super::{Auth, Own, basic};
use crate::server::Reply;
use crate::server::errors::{Code, Failure};
use crate::server::listen::Error;
use crate::server::names::is_repository;
use crate::server::reply;
use crate::server::routes::Query;
use crate::server::storage::{Storage, read};

/// Of the challenge and in the tokens. The key is the root's own, so a token of
/// one registry is worth nothing at another.
pub(crate) const SERVICE: &str = "berth-registry";

/// Audience of refresh tokens: they are good for nothing else.
const REFRESH: &str = "berth-registry/token";

/// Seconds that a token lasts.
const LIFETIME: i64 = 300;

/// Seconds that a refresh token lasts, unless the password changes.
const REFRESH_LIFETIME: i64 = 90 * 24 * 3600;

/// Longest form of a POST.
const MAX_FORM: usize = 64 << 10;

/// Scopes in one token, at most.
const MAX_SCOPES: usize = 100;

/// Signs tokens, and knows them again.
#[derive(Debug)]
pub(crate) struct Issuer {
    key: Ed25519KeyPair,
    keys: Keys,
}

impl Issuer {
    /// Reads the root's key, or makes one. Blocks.
    pub(crate) fn open(storage: &Storage) -> Result<Self, Error> {
        let path = storage.root().join("token.key");
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        let pkcs8 = match read(&path).map_err(failed)? {
            Some(pkcs8) => pkcs8,
            None => {
                let fresh = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                    .map_err(|error| Error::Options(format!("cannot make a key: {error}")))?;
                storage.write(&path, fresh.as_ref()).map_err(failed)?;
                fresh.as_ref().to_owned()
            }
        };
        let key = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|error| {
            Error::Options(format!(
                "{} is no Ed25519 key ({error}): remove it, and a new one is made",
                path.display()
            ))
        })?;
        let keys = Keys::of_ed25519(key.public_key().as_ref());
        Ok(Self { key, keys })
    }

    pub(crate) fn verify(&self, token: &str) -> Result<Claims, String> {
        jwt::verify(token, &self.keys, SERVICE, SERVICE)
    }

    fn sign(&self, audience: &str, user: &str, lifetime: i64, access: Vec<Access>) -> Claims {
        let now = now();
        Claims {
            issuer: SERVICE.to_owned(),
            subject: user.to_owned(),
            audience: vec![audience.to_owned()],
            expires: now + lifetime,
            not_before: Some(now),
            issued: Some(now),
            access,
            fingerprint: None,
        }
    }
}

/// Who wants a token.
struct User {
    /// Empty: nobody in particular.
    name: String,
    fingerprint: String,
}

/// Answers `/token`.
pub(crate) async fn issue(
    auth: &Auth,
    method: &Method,
    query: &Query,
    headers: &HeaderMap,
    body: Incoming,
) -> Reply {
    let Auth::Own(own) = auth else {
        return Err(
            Failure::new(Code::Unsupported, "this registry gives no tokens")
                .status(hyper::StatusCode::NOT_FOUND),
        );
    };
    if method == Method::POST {
        let form = Limited::new(body, MAX_FORM).collect();
        let form = tokio::time::timeout(crate::server::push::SILENCE, form)
            .await
            .map_err(|_| Failure::new(Code::Denied, "the client fell silent"))?
            .map_err(|_| Failure::new(Code::Denied, "the form cannot be read"))?
            .to_bytes();
        let form = Query::parse(&String::from_utf8_lossy(&form));
        let user = own.user_of_form(&form).await?;
        let refresh = form.get("access_type") == Some("offline")
            || form.get("grant_type") == Some("refresh_token");
        return Ok(own.reply(&user, &form, refresh));
    }
    let user = match basic(headers) {
        Some((name, password)) => own.password(name, &password).await?,
        None if own.anonymous_pull => User {
            name: String::new(),
            fingerprint: String::new(),
        },
        None => return Err(refused()),
    };
    let refresh = query.get("offline_token") == Some("true");
    Ok(own.reply(&user, query, refresh))
}

fn refused() -> Failure {
    Failure::new(
        Code::Unauthorized,
        "authentication required: the credentials are not valid",
    )
    .header(WWW_AUTHENTICATE, r#"Basic realm="berth registry""#)
}

impl Own {
    async fn password(&self, name: String, password: &str) -> Result<User, Failure> {
        match self.users.verify(&name, password).await {
            Some(fingerprint) => Ok(User { name, fingerprint }),
            None => Err(refused()),
        }
    }

    async fn user_of_form(&self, form: &Query) -> Result<User, Failure> {
        let get = |name| form.get(name).unwrap_or_default();
        match get("grant_type") {
            "password" => {
                self.password(get("username").to_owned(), get("password"))
                    .await
            }
            "refresh_token" => {
                let token = get("refresh_token");
                let claims =
                    jwt::verify(token, &self.issuer.keys, SERVICE, REFRESH).map_err(|why| {
                        tracing::info!("a refresh token is refused: {why}");
                        refused()
                    })?;
                // Worth nothing once the password has changed.
                match self.users.fingerprint(&claims.subject) {
                    Some(now) if Some(&now) == claims.fingerprint.as_ref() => Ok(User {
                        name: claims.subject,
                        fingerprint: now,
                    }),
                    _ => Err(refused()),
                }
            }
            other => Err(Failure::new(
                Code::Unsupported,
                format!("grant_type {other:?} is not supported: use password or refresh_token"),
            )
            .status(hyper::StatusCode::BAD_REQUEST)),
        }
    }

    fn reply(&self, user: &User, asked: &Query, refresh: bool) -> hyper::Response<reply::Body> {
        let scopes = asked.all("scope").flat_map(|text| text.split(' '));
        let access: Vec<_> = scopes
            .filter_map(|scope| grant(scope, !user.name.is_empty()))
            .take(MAX_SCOPES)
            .collect();
        let scope: Vec<_> = access.iter().map(scope_of).collect();
        let claims = self.issuer.sign(SERVICE, &user.name, LIFETIME, access);
        let issued = jiff::Timestamp::from_second(claims.issued.unwrap_or_default())
            .unwrap_or_default()
            .to_string();
        let token = jwt::sign(&claims, &self.issuer.key);
        let mut answer = serde_json::json!({
            "token": token,
            "access_token": token,
            "expires_in": LIFETIME,
            "issued_at": issued,
            "scope": scope.join(" "),
        });
        if refresh && !user.name.is_empty() {
            let mut claims = self
                .issuer
                .sign(REFRESH, &user.name, REFRESH_LIFETIME, Vec::new());
            claims.fingerprint = Some(user.fingerprint.clone());
            answer["refresh_token"] = jwt::sign(&claims, &self.issuer.key).into();
        }
        let mut response = reply::json(&answer);
        reply::set(&mut response, hyper::header::CACHE_CONTROL, "no-store");
        response
    }
}

fn scope_of(access: &Access) -> String {
    format!(
        "{}:{}:{}",
        access.kind,
        access.name,
        access.actions.join(",")
    )
}

/// What of a scope is granted: all to users, pull to others.
fn grant(scope: &str, is_user: bool) -> Option<Access> {
    let (kind, rest) = scope.split_once(':')?;
    // "repository(plugin)" is one, too.
    let kind = kind.split('(').next().unwrap_or_default();
    let (name, actions) = rest.rsplit_once(':')?;
    let known: &[&str] = match kind {
        "repository" if is_repository(name) && is_user => &["pull", "push", "delete", "*"],
        "repository" if is_repository(name) => &["pull"],
        "registry" if name == "catalog" && is_user => &["*"],
        _ => return None,
    };
    let actions: Vec<_> = actions
        .split(',')
        .filter(|action| known.contains(action))
        .map(str::to_owned)
        .collect();
    (!actions.is_empty()).then(|| Access {
        kind: kind.to_owned(),
        name: name.to_owned(),
        actions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes() {
        let granted = |scope, user| grant(scope, user).map(|access| scope_of(&access));
        let all = "repository:a/b:pull,push";
        assert_eq!(granted(all, true).as_deref(), Some(all));
        assert_eq!(granted(all, false).as_deref(), Some("repository:a/b:pull"));
        assert_eq!(granted("repository:a:push", false), None);
        assert_eq!(granted("registry:catalog:*", false), None);
        assert!(granted("registry:catalog:*", true).is_some());
        for bad in [
            "",
            "repository",
            "repository:a",
            "repository:../x:pull",
            "x:a:pull",
        ] {
            assert_eq!(granted(bad, true), None, "{bad}");
        }
    }
}
