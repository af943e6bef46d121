//! Where a registry's images are found, and how each place is spoken to.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::hosts_file::{self, Place};
use super::insecure::Insecure;
use super::{Error, Options};

/// Certificates, keys and `hosts.toml` are small.
const MAX_FILE: u64 = 1 << 20;
const MAX_FILES: usize = 256;
const DEFAULT_DIRS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containerd/certs.d"];

/// One place to ask, as configured.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// Up to and including "/v2".
    pub base: Url,
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
    /// May speak plain HTTP when it does not speak TLS.
    pub insecure: bool,
    pub verify: bool,
    /// PEM files.
    pub authorities: Vec<Vec<u8>>,
    pub identities: Vec<Identity>,
    /// Sent with each request to this place only.
    pub headers: Vec<(String, String)>,
    pub dial_timeout: Option<Duration>,
    /// The credentials are those of this place.
    pub own: bool,
}

// Headers and keys are secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// PEM of a certificate chain and its key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

/// What the daemon was told about all registries.
#[derive(Debug)]
pub(super) struct Configuration {
    insecure: Insecure,
    mirrors: Vec<Url>,
    dirs: Vec<PathBuf>,
    direct: bool,
}

impl Configuration {
    /// # Errors
    /// `Invalid`, in Docker's words, for a mirror or an insecure registry that
    /// cannot be one.
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let mut dirs = options.config_dirs.clone();
        if dirs.is_empty() {
            dirs = DEFAULT_DIRS.map(PathBuf::from).to_vec();
        }
        Ok(Self {
            insecure: Insecure::new(&options.insecure)?,
            mirrors: options
                .mirrors
                .iter()
                .map(|mirror| self::mirror(mirror))
                .collect::<Result<_, _>>()?,
            dirs,
            direct: options.direct,
        })
    }

    /// All places to ask for images of a registry, in order. Files are read
    /// each time, so that a new certificate needs no restart.
    ///
    /// # Errors
    /// `Invalid` for a file that is wrong.
    pub(super) fn places(&self, host: &str) -> Result<Vec<Settings>, Error> {
        let own = own_host(host);
        let mut places = match self.folder(host) {
            Some(folder) if folder.join("hosts.toml").exists() => {
                let file = folder.join("hosts.toml");
                let named = |error: Error| Error::Invalid(format!("{}: {error}", file.display()));
                let text = String::from_utf8(read(&file)?)
                    .map_err(|_| named(Error::Invalid("is not text".to_owned())))?;
                hosts_file::parse(&text, &folder)
                    .map_err(named)?
                    .into_iter()
                    .map(|place| self.place(place, own).map_err(named))
                    .collect::<Result<Vec<_>, _>>()?
            }
            folder => vec![self.at(&address(own)?, folder.as_deref(), own)?],
        };
        if self.direct {
            // The registry is the last.
            places.drain(..places.len().saturating_sub(1));
        }
        // Docker asks its own mirrors only where the file names none.
        if own == own_host("docker.io") && places.len() == 1 {
            let mut all = Vec::new();
            for mirror in &self.mirrors {
                let mut settings = self.plain(mirror, own)?;
                settings.push = false;
                all.push(settings);
            }
            all.append(&mut places);
            places = all;
        }
        Ok(places)
    }

    /// A place of which only the address is known.
    pub(super) fn plain(&self, address: &Url, own: &str) -> Result<Settings, Error> {
        self.at(address, self.folder(&authority(address)).as_deref(), own)
    }

    /// With the certificates of a folder, if there is one.
    fn at(&self, address: &Url, folder: Option<&Path>, own: &str) -> Result<Settings, Error> {
        let host = authority(address);
        let insecure = address.scheme() == "http" || self.insecure.contains(&host);
        let (authorities, identities) = folder.map(certificates).transpose()?.unwrap_or_default();
        Ok(Settings {
            base: with_v2(address),
            pull: true,
            resolve: true,
            push: true,
            insecure,
            verify: !insecure,
            authorities,
            identities,
            headers: Vec::new(),
            dial_timeout: None,
            // "R.example:443" is "r.example".
            own: self::address(own).is_ok_and(|own| authority(&own) == host),
        })
    }

    fn place(&self, place: Place, own: &str) -> Result<Settings, Error> {
        let url = match &place.address {
            Some(text) => address(text)?,
            None => address(own)?,
        };
        let mut settings = self.at(&url, None, own)?;
        if place.override_path {
            settings.base = url.clone();
        }
        if !place.authorities.is_empty() && !self.insecure.names_it(&authority(&url)) {
            // Loopback, too, must be who the file says.
            settings.insecure = url.scheme() == "http";
            settings.verify = true;
        }
        settings.verify &= !place.skip_verify;
        settings.authorities = read_all(&place.authorities)?;
        settings.identities = place
            .identities
            .iter()
            .map(|(certificate, key)| {
                Ok(Identity {
                    certificate: read(certificate)?,
                    key: read(key)?,
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Settings {
            pull: place.pull,
            resolve: place.resolve,
            push: place.push,
            headers: place.headers,
            dial_timeout: place.dial_timeout,
            ..settings
        })
    }

    /// containerd's order: `host_port_`, `host:port`, `_default`.
    fn folder(&self, host: &str) -> Option<PathBuf> {
        let underscored = host
            .rsplit_once(':')
            .map(|(name, port)| format!("{name}_{port}_"));
        [underscored.as_deref(), Some(host), Some("_default")]
            .into_iter()
            .flatten()
            // A host is one folder's name, never a way out of it.
            .filter(|name| !name.contains('/') && !name.starts_with('.'))
            .flat_map(|name| self.dirs.iter().map(move |dir| dir.join(name)))
            .find(|folder| folder.is_dir())
    }
}

/// The host that serves a registry's name.
pub(super) fn own_host(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// Host and port as credentials are kept for it: no default port.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// `https` unless the text says otherwise.
pub(super) fn address(text: &str) -> Result<Url, Error> {
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let invalid = |why: &dyn fmt::Display| {
        Error::Invalid(format!("invalid registry address \"{text}\": {why}"))
    };
    let url = Url::parse(&whole).map_err(|error| invalid(&error))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(&"it must be http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Invalid(
            "invalid registry address: it must not hold a password".to_owned(),
        ));
    }
    Ok(url)
}

/// Docker's words for what a mirror cannot be.
fn mirror(text: &str) -> Result<Url, Error> {
    let invalid = |why: String| Error::Invalid(format!("invalid mirror: {why}"));
    let url = Url::parse(text).map_err(|_| invalid(format!("\"{text}\" is not a valid URI")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("username/password not allowed in URI".to_owned()));
    }
    if !matches!(url.scheme(), "http" | "https") {
        let scheme = url.scheme();
        return Err(invalid(format!(
            "unsupported scheme \"{scheme}\" in \"{text}\""
        )));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid(format!(
            "query or fragment at end of the URI \"{text}\""
        )));
    }
    Ok(url)
}

fn with_v2(address: &Url) -> Url {
    let mut base = address.clone();
    let path = address.path().trim_end_matches('/');
    if path.ends_with("/v2") {
        base.set_path(path);
    } else {
        base.set_path(&format!("{path}/v2"));
    }
    base
}

type Certificates = (Vec<Vec<u8>>, Vec<Identity>);

/// Docker's rule: `*.crt` are authorities, `x.cert` and `x.key` one identity.
fn certificates(folder: &Path) -> Result<Certificates, Error> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|error| unreadable(folder, &error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .take(MAX_FILES)
        .collect();
    files.sort();
    let with = |extension: &str| {
        let all = files.iter();
        all.filter(|f| f.extension().is_some_and(|e| e == extension))
            .cloned()
            .collect::<Vec<_>>()
    };
    let mut identities = Vec::new();
    for file in with("cert") {
        let key = file.with_extension("key");
        if !key.exists() {
            return Err(Error::Invalid(format!(
                "missing key {} for client certificate {}. CA certificates must use the extension .crt",
                key.display(),
                file.display()
            )));
        }
        identities.push(Identity {
            certificate: read(&file)?,
            key: read(&key)?,
        });
    }
    for key in with("key") {
        let certificate = key.with_extension("cert");
        if !certificate.exists() {
            return Err(Error::Invalid(format!(
                "missing client certificate {} for key {}",
                certificate.display(),
                key.display()
            )));
        }
    }
    Ok((read_all(&with("crt"))?, identities))
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, Error> {
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|f| f.take(MAX_FILE).read_to_end(&mut bytes));
    read.map_err(|error| unreadable(file, &error))?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Invalid(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_for_the_registry_however_it_is_written() {
        let configuration = Configuration::new(&Options {
            mirrors: vec!["https://mirror.example".to_owned()],
            config_dirs: vec![PathBuf::from("/nonexistent")],
            ..Options::default()
        })
        .unwrap();
        let own = |host: &str| -> Vec<bool> {
            let places = configuration.places(host).unwrap();
            places.iter().map(|place| place.own).collect()
        };
        for host in [
            "r.example",
            "r.example:5000",
            "r.example:443",
            "R.Example",
            "[::1]:443",
        ] {
            assert_eq!(own(host), [true], "{host}");
        }
        assert_eq!(own("docker.io"), [false, true]);
        let other = address("https://r.example:5000").unwrap();
        assert!(!configuration.plain(&other, "r.example").unwrap().own);
    }

    #[test]
    fn what_serves_a_registry_does_not_ask_its_mirrors() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("r.example");
        fs::create_dir(&folder).unwrap();
        let file = "server = \"https://r.example\"\n[host.\"http://127.0.0.1:5000\"]\n";
        fs::write(folder.join("hosts.toml"), file).unwrap();
        let places = |direct| -> Vec<String> {
            let configuration = Configuration::new(&Options {
                config_dirs: vec![dir.path().to_owned()],
                direct,
                ..Options::default()
            });
            let places = configuration.unwrap().places("r.example").unwrap();
            places.iter().map(|place| place.base.to_string()).collect()
        };
        assert_eq!(
            places(false),
            ["http://127.0.0.1:5000/v2", "https://r.example/v2"]
        );
        assert_eq!(places(true), ["https://r.example/v2"]);
    }
}
