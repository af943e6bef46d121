//! Paths of the specification. Names hold slashes, so a path is read from its
//! end; a repository may well be called `blobs/uploads`.

use percent_encoding::percent_decode_str;

use super::errors::{Code, Failure};
use super::names::{Digest, Reference, is_repository, is_tag};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Catalog,
    Token,
    Tags(String),
    Manifest(String, Reference),
    Blob(String, Digest),
    Uploads(String),
    Upload(String, String),
    Referrers(String, Digest),
}

impl Route {
    /// For metrics and logs.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Token => "token",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) | Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
        }
    }

    pub(crate) fn repository(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Catalog | Self::Token => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }

    /// # Errors
    /// `NAME_INVALID`, `DIGEST_INVALID`, `TAG_INVALID`; 404 for what is no path
    /// of the specification.
    pub(crate) fn parse(path: &str) -> Result<Self, Failure> {
        let unknown = || {
            Failure::new(Code::Unsupported, "there is nothing at this path")
                .status(hyper::StatusCode::NOT_FOUND)
        };
        match path {
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Catalog),
            "/token" => return Ok(Self::Token),
            _ => {}
        }
        let rest = path.strip_prefix("/v2/").ok_or_else(unknown)?;
        let words = rest
            .split('/')
            .map(|word| percent_decode_str(word).decode_utf8())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Failure::new(Code::NameInvalid, "the path is not UTF-8"))?;
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let name = |words: &[&str]| {
            let name = words.join("/");
            if is_repository(&name) {
                Ok(name)
            } else {
                Err(Failure::new(
                    Code::NameInvalid,
                    format!("invalid repository name {name:?}"),
                ))
            }
        };
        let digest = |text: &str| {
            Digest::parse(text).ok_or_else(|| {
                Failure::new(
                    Code::DigestInvalid,
                    format!("{text:?} is no sha256 or sha512 digest"),
                )
            })
        };
        match words.as_slice() {
            [of @ .., "tags", "list"] => Ok(Self::Tags(name(of)?)),
            [of @ .., "manifests", reference] => {
                let of = name(of)?;
                let reference = if reference.contains(':') {
                    Reference::Digest(digest(reference)?)
                } else if is_tag(reference) {
                    Reference::Tag((*reference).to_owned())
                } else {
                    return Err(Failure::new(
                        Code::TagInvalid,
                        format!("invalid tag {reference:?}"),
                    ));
                };
                Ok(Self::Manifest(of, reference))
            }
            [of @ .., "blobs", "uploads"] | [of @ .., "blobs", "uploads", ""] => {
                Ok(Self::Uploads(name(of)?))
            }
            [of @ .., "blobs", "uploads", id] => Ok(Self::Upload(name(of)?, (*id).to_owned())),
            [of @ .., "blobs", text] => Ok(Self::Blob(name(of)?, digest(text)?)),
            [of @ .., "referrers", text] => Ok(Self::Referrers(name(of)?, digest(text)?)),
            _ => Err(unknown()),
        }
    }
}

/// Values of a query; the first of each name counts.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |word: &str| {
            let word = word.replace('+', " ");
            percent_decode_str(&word).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let digest = Digest::of(super::super::names::Algorithm::Sha256, b"");
        let blob = format!("/v2/a/blobs/{digest}");
        let parse = |path: &str| Route::parse(path).unwrap();
        assert_eq!(parse("/v2/"), Route::Base);
        assert_eq!(parse("/v2/a/b/tags/list"), Route::Tags("a/b".into()));
        assert_eq!(
            parse("/v2/tags/list/tags/list"),
            Route::Tags("tags/list".into())
        );
        assert_eq!(
            parse("/v2/a/manifests/manifests/latest"),
            Route::Manifest("a/manifests".into(), Reference::Tag("latest".into()))
        );
        assert_eq!(parse(&blob), Route::Blob("a".into(), digest.clone()));
        assert_eq!(parse(&blob.replace("sha256:", "sha256%3A")), parse(&blob));
        assert_eq!(parse("/v2/a/blobs/uploads/"), Route::Uploads("a".into()));
        assert_eq!(
            parse("/v2/blobs/uploads/blobs/uploads/x"),
            Route::Upload("blobs/uploads".into(), "x".into())
        );
        for bad in [
            "/",
            "/v1/",
            "/v2/a",
            "/v2/tags/list",
            "/v2/A/tags/list",
            "/v2/a/../b/tags/list",
            "/v2/a%2f..%2fb/tags/list",
            "/v2/a/blobs/x",
            "/v2/a/manifests/-",
            "/v2/a/referrers/x",
            "/v2//blobs/uploads/",
        ] {
            assert!(Route::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("n=5&last=a%2Fb&x&n=6");
        assert_eq!(query.get("n"), Some("5"));
        assert_eq!(query.get("last"), Some("a/b"));
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(query.get("y"), None);
    }
}
