//! Who may do what: nobody is asked, passwords (htpasswd), or tokens, our own
//! or those of another server.

mod htpasswd;
mod jwt;
mod keys;
mod token;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};

use super::errors::{Code, Failure};
use super::listen::Error;
use super::options::{Authentication, Options};
use super::storage::Storage;
use htpasswd::Htpasswd;
use jwt::{Access, Claims};
use keys::Keys;
use token::Issuer;

pub(crate) use token::issue;

/// How clients prove who they are.
#[derive(Debug)]
pub(crate) enum Auth {
    /// They need not.
    Open,
    /// A password with each request.
    Basic(Htpasswd),
    /// A token of our own, against a password; a password is taken as well.
    Own(Own),
    /// A token of another server.
    External(External),
}

#[derive(Debug)]
pub(crate) struct Own {
    users: Htpasswd,
    issuer: Issuer,
    /// Whoever has no password may pull.
    anonymous_pull: bool,
    /// As clients reach this registry, if the Host header does not say.
    public_url: Option<String>,
    tls: bool,
}

#[derive(Debug)]
pub(crate) struct External {
    realm: String,
    service: String,
    issuer: String,
    keys: Keys,
}

/// What a request does, as scopes of tokens say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    kind: &'static str,
    name: String,
    /// In the order of the challenge: "pull,push".
    actions: &'static [&'static str],
}

impl Need {
    pub(crate) fn repository(name: &str, actions: &'static [&'static str]) -> Self {
        Self {
            kind: "repository",
            name: name.to_owned(),
            actions,
        }
    }

    pub(crate) fn catalog() -> Self {
        Self {
            kind: "registry",
            name: "catalog".to_owned(),
            actions: &["*"],
        }
    }

    fn scope(&self) -> String {
        format!("{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

/// What the client of a request may do.
#[derive(Debug)]
pub(crate) enum Granted {
    All,
    List(Vec<Access>),
}

impl Granted {
    pub(crate) fn allows(&self, need: &Need) -> bool {
        match self {
            Self::All => true,
            Self::List(list) => need.actions.iter().all(|action| {
                list.iter().any(|access| {
                    access.kind == need.kind
                        && access.name == need.name
                        && access.actions.iter().any(|one| one == action || one == "*")
                })
            }),
        }
    }

    pub(crate) fn pulls(&self, name: &str) -> bool {
        self.allows(&Need::repository(name, &["pull"]))
    }

    pub(crate) fn pulls_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

impl Auth {
    /// Reads the files that the options name. Blocks.
    pub(crate) fn open(options: &Options, storage: &Storage) -> Result<Self, Error> {
        Ok(match &options.authentication {
            Authentication::None => Self::Open,
            Authentication::Basic { htpasswd } => Self::Basic(Htpasswd::open(htpasswd)?),
            Authentication::OwnTokens {
                htpasswd,
                anonymous_pull,
                public_url,
            } => Self::Own(Own {
                users: Htpasswd::open(htpasswd)?,
                issuer: Issuer::open(storage)?,
                anonymous_pull: *anonymous_pull,
                public_url: public_url.clone(),
                tls: options.tls.is_some(),
            }),
            Authentication::Tokens {
                realm,
                service,
                issuer,
                keys,
            } => Self::External(External {
                realm: realm.clone(),
                service: service.clone(),
                issuer: issuer.clone(),
                keys: Keys::open(keys)?,
            }),
        })
    }

    /// Whether the client of a request may do what it wants; no need: whether
    /// it may come in at all.
    pub(crate) async fn check(
        &self,
        headers: &HeaderMap,
        need: Option<&Need>,
    ) -> Result<Granted, Failure> {
        let granted = match self {
            Self::Open => return Ok(Granted::All),
            Self::Basic(users) => match basic(headers) {
                Some((user, password)) if users.verify(&user, &password).await.is_some() => {
                    return Ok(Granted::All);
                }
                Some(_) => return Err(self.challenge(headers, need, Refused::Wrong)),
                None => return Err(self.challenge(headers, need, Refused::Nothing)),
            },
            Self::Own(own) => {
                if let Some((user, password)) = basic(headers) {
                    return match own.users.verify(&user, &password).await {
                        Some(_) => Ok(Granted::All),
                        None => Err(self.challenge(headers, need, Refused::Wrong)),
                    };
                }
                bearer(headers).map(|token| own.issuer.verify(token))
            }
            Self::External(external) => bearer(headers).map(|token| {
                jwt::verify(token, &external.keys, &external.issuer, &external.service)
            }),
        };
        match granted {
            None => Err(self.challenge(headers, need, Refused::Nothing)),
            Some(Err(why)) => {
                tracing::info!("a token is refused: {why}");
                Err(self.challenge(headers, need, Refused::Wrong))
            }
            Some(Ok(claims)) => {
                let granted = Granted::List(claims.access);
                match need {
                    Some(need) if !granted.allows(need) => {
                        Err(self.challenge(headers, Some(need), Refused::TooLittle))
                    }
                    _ => Ok(granted),
                }
            }
        }
    }

    fn challenge(&self, headers: &HeaderMap, need: Option<&Need>, why: Refused) -> Failure {
        let (realm, service) = match self {
            Self::Open | Self::Basic(_) => {
                return Failure::new(Code::Unauthorized, why.words())
                    .header(WWW_AUTHENTICATE, r#"Basic realm="berth registry""#);
            }
            Self::Own(own) => match own.realm(headers) {
                Some(realm) => (realm, token::SERVICE.to_owned()),
                None => return Failure::new(Code::Unauthorized, "the Host header is missing"),
            },
            Self::External(external) => (external.realm.clone(), external.service.clone()),
        };
        let mut text = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
        if let Some(need) = need {
            text.push_str(&format!(",scope=\"{}\"", need.scope()));
        }
        match why {
            Refused::Nothing => {}
            Refused::Wrong => text.push_str(",error=\"invalid_token\""),
            Refused::TooLittle => text.push_str(",error=\"insufficient_scope\""),
        }
        let detail = need.map(|need| {
            serde_json::json!([{"Type": need.kind, "Name": need.name, "Action": need.actions.join(",")}])
        });
        Failure::new(Code::Unauthorized, why.words())
            .header(WWW_AUTHENTICATE, &text)
            .detail(detail.unwrap_or_default())
    }
}

impl Own {
    /// Where tokens are had. The Host header only tells a client what it told
    /// us, and must not break out of the quotes.
    fn realm(&self, headers: &HeaderMap) -> Option<String> {
        if let Some(url) = &self.public_url {
            return Some(format!("{}/token", url.trim_end_matches('/')));
        }
        let host = headers.get(HOST)?.to_str().ok()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".:-_[]".contains(&b);
        let scheme = if self.tls { "https" } else { "http" };
        (!host.is_empty() && host.bytes().all(plain)).then(|| format!("{scheme}://{host}/token"))
    }
}

/// Why a request is not let in.
#[derive(Clone, Copy)]
enum Refused {
    Nothing,
    Wrong,
    TooLittle,
}

impl Refused {
    fn words(self) -> &'static str {
        match self {
            Self::Nothing => "authentication required",
            Self::Wrong => "authentication required: the credentials are not valid",
            Self::TooLittle => "access to the requested resource is not authorized",
        }
    }
}

/// User and password of an Authorization header.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = scheme(headers, "basic")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    scheme(headers, "bearer")
}

fn scheme<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let (scheme, rest) = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case(name).then(|| rest.trim())
}

/// Claims that grant nothing but entry, for tests and anonymous users.
impl Claims {
    fn is_for(&self, audience: &str) -> bool {
        self.audience.iter().any(|one| one == audience)
    }
}
