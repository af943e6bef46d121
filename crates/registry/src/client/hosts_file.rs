//! `hosts.toml` as containerd reads it: where a registry's images are found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Error;

/// `server` and its own options, and the hosts to ask before it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<toml::Spanned<String>, Options>,
    capabilities: Option<Vec<String>>,
    ca: Option<Ca>,
    client: Option<ClientCertificates>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMore>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    capabilities: Option<Vec<String>>,
    ca: Option<Ca>,
    client: Option<ClientCertificates>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMore>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

type Ca = OneOrMore;

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn to_vec(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::More(more) => more.clone(),
        }
    }
}

/// A file with certificate and key, several of them, or pairs.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ClientCertificates {
    One(String),
    Files(Vec<String>),
    Pairs(Vec<[String; 2]>),
}

/// One address to ask, with paths of files as they are to be opened.
#[derive(Debug)]
pub(super) struct Place {
    /// May lack its scheme; `None` for the registry's own.
    pub address: Option<String>,
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
    pub authorities: Vec<PathBuf>,
    /// Certificate and key, which may be one file.
    pub identities: Vec<(PathBuf, PathBuf)>,
    pub skip_verify: bool,
    pub headers: Vec<(String, String)>,
    /// The address is complete: "/v2" is not added.
    pub override_path: bool,
    pub dial_timeout: Option<Duration>,
}

/// The hosts in the order of the file, then the server.
///
/// # Errors
/// `Invalid` says what in the text is wrong.
pub(super) fn parse(text: &str, folder: &Path) -> Result<Vec<Place>, Error> {
    let mut file: File = toml::from_str(text)
        .map_err(|error| Error::Invalid(error.to_string().trim_end().to_owned()))?;
    let mut hosts: Vec<_> = std::mem::take(&mut file.host).into_iter().collect();
    hosts.sort_by_key(|(name, _)| name.span().start);
    let mut places = hosts
        .into_iter()
        .map(|(name, options)| options.place(Some(name.into_inner()), folder))
        .collect::<Result<Vec<_>, _>>()?;
    let server = Options {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    places.push(server.place(file.server, folder)?);
    Ok(places)
}

impl Options {
    fn place(self, address: Option<String>, folder: &Path) -> Result<Place, Error> {
        let capabilities = self.capabilities.unwrap_or_default();
        for name in &capabilities {
            if !matches!(name.as_str(), "pull" | "resolve" | "push" | "referrers") {
                return Err(Error::Invalid(format!("unknown capability \"{name}\"")));
            }
        }
        let can = |name: &str| capabilities.is_empty() || capabilities.iter().any(|c| c == name);
        let path = |name: &String| folder.join(name);
        let identities = match &self.client {
            None => Vec::new(),
            Some(ClientCertificates::One(file)) => vec![(path(file), path(file))],
            Some(ClientCertificates::Files(files)) => {
                files.iter().map(|file| (path(file), path(file))).collect()
            }
            Some(ClientCertificates::Pairs(pairs)) => pairs
                .iter()
                .map(|[certificate, key]| {
                    let key = if key.is_empty() { certificate } else { key };
                    (path(certificate), path(key))
                })
                .collect(),
        };
        let headers = self.header.iter().flat_map(|(name, values)| {
            values
                .to_vec()
                .into_iter()
                .map(move |value| (name.clone(), value))
        });
        Ok(Place {
            address,
            pull: can("pull"),
            resolve: can("resolve"),
            push: can("push"),
            authorities: self
                .ca
                .iter()
                .flat_map(Ca::to_vec)
                .map(|file| path(&file))
                .collect(),
            identities,
            skip_verify: self.skip_verify.unwrap_or(false),
            headers: headers.collect(),
            override_path: self.override_path.unwrap_or(false),
            dial_timeout: self.dial_timeout.as_deref().map(duration).transpose()?,
        })
    }
}

/// Go's notation: "1.5s", "1m30s", "500ms".
fn duration(text: &str) -> Result<Duration, Error> {
    let invalid = || Error::Invalid(format!("invalid duration \"{text}\""));
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c.is_ascii_alphabetic() || c == 'µ')
            .ok_or_else(invalid)?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(invalid()),
        };
        let number: f64 = number.parse().map_err(|_| invalid())?;
        total += number * seconds;
        rest = after;
    }
    if text.is_empty() {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keep_the_order_of_the_file() {
        let text = r#"
server = "https://registry-1.docker.io"
[host."https://z.example"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
  client = [["c.cert", "c.key"], ["both.pem", ""]]
  dial_timeout = "1m1.5s"
  [host."https://z.example".header]
    x-one = "1"
    x-two = ["2", "3"]
[host."http://a.example:5000/base"]
  capabilities = ["pull"]
  skip_verify = true
  override_path = true
  ca = ["/etc/one.pem", "two.pem"]
  client = "both.pem"
"#;
        let places = parse(text, Path::new("/d")).unwrap();
        let addresses: Vec<_> = places
            .iter()
            .map(|p| p.address.as_deref().unwrap())
            .collect();
        assert_eq!(
            addresses,
            [
                "https://z.example",
                "http://a.example:5000/base",
                "https://registry-1.docker.io"
            ]
        );
        let z = &places[0];
        assert!(z.pull && z.resolve && !z.push && !z.skip_verify && !z.override_path);
        assert_eq!(z.dial_timeout, Some(Duration::from_millis(61_500)));
        assert_eq!(z.headers.len(), 3);
        assert_eq!(z.identities[0], ("/d/c.cert".into(), "/d/c.key".into()));
        assert_eq!(z.identities[1].1, Path::new("/d/both.pem"));
        let a = &places[1];
        assert!(a.pull && !a.resolve && a.skip_verify && a.override_path);
        assert_eq!(
            a.authorities,
            [Path::new("/etc/one.pem"), Path::new("/d/two.pem")]
        );
        assert!(places[2].push);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in [
            "servr = \"x\"",
            "capabilities = [\"eat\"]",
            "dial_timeout = \"5\"",
            "[",
        ] {
            parse(text, Path::new("/")).unwrap_err();
        }
        assert_eq!(parse("", Path::new("/")).unwrap().len(), 1);
    }
}
