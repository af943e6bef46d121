//! Which registry and repository a word means, and the client for it.

use berth_registry::client::{self, Access, Client, Credentials, Options, Repository};

use crate::context::Context;
use crate::credentials;
use crate::failure::Failure;
use crate::flags::Parsed;

/// Where `registry serve` listens if it is not told.
pub(crate) const DEFAULT: &str = "127.0.0.1:5000";

/// "HOST[:PORT][/REPOSITORY][:TAG|@DIGEST]".
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) host: &'a str,
    /// Empty: the registry itself.
    pub(crate) repository: &'a str,
    /// Tag or digest; empty: none.
    pub(crate) reference: &'a str,
}

impl<'a> Place<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Failure> {
        let (host, rest) = text.split_once('/').unwrap_or((text, ""));
        let is_host = host.contains(['.', ':']) || host == "localhost";
        if !is_host || rest.ends_with('/') || text.contains("://") {
            return Err(Failure::new(format!(
                "{text:?} names no registry: write HOST[:PORT] or HOST[:PORT]/REPOSITORY, as in {DEFAULT}/library/busybox"
            )));
        }
        let (repository, reference) = match rest.split_once('@') {
            // A tag beside a digest says nothing more.
            Some((name, digest)) => (name.split(':').next().unwrap_or(name), digest),
            None => rest.split_once(':').unwrap_or((rest, "")),
        };
        Ok(Self {
            host,
            repository,
            reference,
        })
    }

    /// A repository of it, as `inspect` and `rm` need one.
    pub(crate) fn of_repository(text: &'a str) -> Result<Self, Failure> {
        let place = Self::parse(text)?;
        if place.repository.is_empty() {
            return Err(Failure::new(format!(
                "{text:?} names no repository: write HOST[:PORT]/REPOSITORY"
            )));
        }
        Ok(place)
    }
}

/// Talks to the registry of one host.
pub(crate) struct Remote {
    client: Client,
    host: String,
    credentials: Credentials,
}

impl Remote {
    pub(crate) fn new(context: &Context, args: &Parsed, host: &str) -> Result<Self, Failure> {
        let insecure = args.on("insecure").then(|| host.to_owned());
        let client = Client::new(Options {
            user_agent: format!("berth/{}", env!("CARGO_PKG_VERSION")),
            insecure: insecure.into_iter().collect(),
            ..Options::default()
        })
        .map_err(told)?;
        Ok(Self {
            client,
            host: host.to_owned(),
            credentials: credentials::for_host(&context.config, host)?.into(),
        })
    }

    pub(crate) async fn catalog(&self) -> Result<Vec<String>, Failure> {
        self.client
            .catalog(&self.host, &self.credentials)
            .await
            .map_err(told)
    }

    pub(crate) fn repository(&self, name: &str, access: Access) -> Result<Repository, Failure> {
        self.client
            .repository(&self.host, name, &self.credentials, access)
            .map_err(told)
    }
}

/// The client's errors are sentences for people.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn told(error: client::Error) -> Failure {
    Failure::new(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let parse = |text| {
            Place::parse(text)
                .map(|place| (place.host, place.repository, place.reference))
                .ok()
        };
        assert_eq!(parse("r.example"), Some(("r.example", "", "")));
        assert_eq!(parse("localhost/a/b"), Some(("localhost", "a/b", "")));
        assert_eq!(parse("h:1/a:t"), Some(("h:1", "a", "t")));
        assert_eq!(parse("h:1/a@sha256:0"), Some(("h:1", "a", "sha256:0")));
        assert_eq!(parse("h:1/a:t@sha256:0"), Some(("h:1", "a", "sha256:0")));
        for bad in ["busybox", "a/b", "http://h:1/a", "h:1/", ""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
