//! Questions to registries: login, search, what a name stands for.

use berth_api::container::{Descriptor, Platform};
use berth_api::filters::Filters;
use berth_api::registry::{AuthConfig, AuthResponse, DistributionInspect, SearchResult};
use berth_api::{Error, Kind};
use berth_registry::client::{Access, Credentials, Repository};
use berth_store::Reference;
use futures_util::StreamExt as _;

use super::document::{self, Document, Manifest};
use super::number;
use crate::engine::Engine;
use crate::error::IntoApi as _;

const DOCKER_HUB: &str = "docker.io";
const SEARCH_LIMIT: u32 = 25;
/// Bytes of a configuration.
const MAX_CONFIG: usize = 8 << 20;

impl Engine {
    /// A repository, with the credentials if they are for its registry.
    pub(crate) async fn repository(
        &self,
        reference: &Reference,
        auth: &AuthConfig,
        access: Access,
    ) -> Result<Repository, Error> {
        let credentials = credentials_for(auth, &reference.domain);
        self.0
            .registries
            .client
            .repository(&reference.domain, &reference.path, &credentials, access)
            .api()
    }

    /// Verifies credentials.
    pub async fn login(&self, auth: &AuthConfig) -> Result<AuthResponse, Error> {
        let login = self
            .0
            .registries
            .client
            .login(registry_host(&auth.serveraddress), &credentials(auth))
            .await
            .api()?;
        Ok(AuthResponse {
            identity_token: login.identity_token,
            status: "Login Succeeded".to_owned(),
        })
    }

    pub async fn image_search(
        &self,
        term: &str,
        limit: Option<u32>,
        filters: &Filters,
        auth: &AuthConfig,
    ) -> Result<Vec<SearchResult>, Error> {
        filters.validate(&["is-automated", "is-official", "stars"])?;
        let official = filters
            .contains("is-official")
            .then(|| filters.boolean("is-official", false))
            .transpose()?;
        let mut stars = 0;
        for text in filters.get("stars") {
            let least: u64 = text.parse().map_err(|error| {
                Error::invalid(format!("invalid filter 'stars={text}': {error}"))
            })?;
            stars = stars.max(least);
        }
        // Nothing is built by itself any more.
        if filters.boolean("is-automated", false)? {
            return Ok(Vec::new());
        }
        if term.contains("://") {
            return Err(Error::invalid(format!(
                "invalid repository name: repository name ({term}) should not have a scheme"
            )));
        }
        let limit = limit.filter(|limit| *limit != 0).unwrap_or(SEARCH_LIMIT);
        if !(1..=100).contains(&limit) {
            return Err(Error::invalid(format!(
                "limit {limit} is outside the range of [1, 100]"
            )));
        }
        let found = self
            .0
            .registries
            .client
            .search(term, limit, &credentials_for(auth, searched(term)))
            .await
            .api()?;
        Ok(found
            .into_iter()
            .filter(|row| official.is_none_or(|official| official == row.is_official))
            .filter(|row| row.stars >= stars)
            .map(|row| SearchResult {
                star_count: number(row.stars),
                is_official: row.is_official,
                name: row.name,
                is_automated: false,
                description: row.description,
            })
            .collect())
    }

    /// What a name stands for at its registry, and for which platforms.
    pub async fn distribution_inspect(
        &self,
        name: &str,
        auth: &AuthConfig,
    ) -> Result<DistributionInspect, Error> {
        let reference = Reference::parse(name).api()?;
        let repository = self.repository(&reference, auth, Access::Pull).await?;
        let tag = reference
            .digest
            .as_ref()
            .or(reference.tag.as_ref())
            .map_or("latest", String::as_str);
        let root = repository.manifest(tag).await.api()?;
        let platforms = match document::parse(&root.digest, &root.bytes)? {
            Document::Index(entries) => entries
                .iter()
                .filter_map(|entry| entry.platform())
                .map(shown)
                .collect(),
            Document::Manifest(manifest) => config_platform(&repository, &manifest)
                .await?
                .into_iter()
                .collect::<Vec<_>>(),
        };
        Ok(DistributionInspect {
            descriptor: Descriptor {
                media_type: root.media_type,
                digest: root.digest,
                size: number(root.bytes.len() as u64),
                ..Descriptor::default()
            },
            platforms: (!platforms.is_empty()).then_some(platforms),
        })
    }
}

/// An image's own word on its platform; an artifact has none.
async fn config_platform(
    repository: &Repository,
    manifest: &Manifest,
) -> Result<Option<Platform>, Error> {
    let mut body = repository
        .blob(&manifest.config.digest, 0, &[])
        .await
        .api()?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.stream.next().await {
        bytes.extend_from_slice(&piece.api()?);
        if bytes.len() > MAX_CONFIG {
            return Err(Error::new(
                Kind::System,
                format!("configuration {} is too large", manifest.config.digest),
            ));
        }
    }
    let platform: document::Platform = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok((platform.os.is_some() || platform.architecture.is_some()).then(|| shown(&platform)))
}

fn shown(platform: &document::Platform) -> Platform {
    Platform {
        architecture: platform.architecture.clone().unwrap_or_default(),
        os: platform.os.clone().unwrap_or_default(),
        variant: platform.variant.clone().unwrap_or_default(),
        ..Platform::default()
    }
}

/// The credentials, if they are for this registry: a password goes to no other
/// host than it was given for.
fn credentials_for(auth: &AuthConfig, host: &str) -> Credentials {
    let theirs = registry_host(&auth.serveraddress);
    if auth.serveraddress.is_empty() || theirs == host {
        return credentials(auth);
    }
    tracing::warn!("credentials for {theirs} are not sent to {host}");
    Credentials::default()
}

/// The registry that a term of a search begins with, as a name does.
fn searched(term: &str) -> &str {
    match term.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => registry_host(host),
        _ => DOCKER_HUB,
    }
}

fn credentials(auth: &AuthConfig) -> Credentials {
    Credentials {
        username: auth.username.clone(),
        password: auth.password.clone(),
        identity_token: auth.identitytoken.clone(),
        registry_token: auth.registrytoken.clone(),
    }
}

/// The registry that a server address means: "https://index.docker.io/v1/" is
/// Docker Hub, and so is nothing.
fn registry_host(address: &str) -> &str {
    let host = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"))
        .unwrap_or(address);
    match host.split('/').next().unwrap_or_default() {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_elsewhere_takes_no_password_along() {
        let auth = |serveraddress: &str| AuthConfig {
            username: "me".to_owned(),
            password: "secret".to_owned(),
            serveraddress: serveraddress.to_owned(),
            ..AuthConfig::default()
        };
        let hub = "https://index.docker.io/v1/";
        for (address, term, sent) in [
            (hub, "busybox", true),
            (hub, "me/busybox", true),
            (hub, "docker.io/busybox", true),
            (hub, "evil.example/busybox", false),
            (hub, "localhost:5000/busybox", false),
            ("r.example:5000", "r.example:5000/x", true),
            ("r.example:5000", "busybox", false),
            ("", "r.example/x", true),
        ] {
            let found = credentials_for(&auth(address), searched(term));
            assert_eq!(found.password == "secret", sent, "{address} {term}");
        }
    }

    #[test]
    fn server_addresses() {
        for (address, host) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("http://localhost:5000", "localhost:5000"),
            ("r.example/v2/", "r.example"),
        ] {
            assert_eq!(registry_host(address), host, "{address}");
        }
    }
}
