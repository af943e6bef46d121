//! Lists, page by page: tags, repositories, referrers.

use std::collections::HashSet;

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::session::{Call, Session, Target};
use super::{Client, Credentials, Descriptor, Error, Repository, digest, link};

const MAX_PAGE: usize = 8 << 20;
/// Of one list: more would be an endless one.
const MAX_PAGES: usize = 10_000;
const MAX_ENTRIES: usize = 1_000_000;
/// Of all pages together, bytes.
const MAX_LIST: usize = 64 << 20;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Catalog {
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
}

impl Client {
    pub(super) async fn all_repositories(
        &self,
        host: &str,
        credentials: &Credentials,
    ) -> Result<Vec<String>, Error> {
        let session = self.session(host, credentials)?;
        let scopes = vec!["registry:catalog:*".to_owned()];
        let call = Call::new(Method::GET, "_catalog", scopes);
        match pages(&session, call, |page: Catalog| page.repositories).await? {
            Ok(names) => Ok(names),
            Err(answer) => Err(answer.refusal().await),
        }
    }
}

impl Repository {
    pub(super) async fn all_tags(&self) -> Result<Vec<String>, Error> {
        let path = format!("{}/tags/list", self.name());
        let mut places = self.places(true);
        loop {
            let session = places.next()?;
            match self.tags_at(session, &path).await {
                Ok(found) => return Ok(found),
                Err(error) => places.failed(error),
            }
        }
    }

    async fn tags_at(&self, session: &Session, path: &str) -> Result<Vec<String>, Error> {
        let call = Call::new(Method::GET, path, self.scopes());
        match pages(session, call, |page: Tags| page.tags).await? {
            Ok(tags) => Ok(tags),
            Err(answer) => Err(self.refused(answer, "").await),
        }
    }

    pub(super) async fn all_referrers(&self, subject: &str) -> Result<Vec<Descriptor>, Error> {
        digest::check(subject)?;
        let mut places = self.places(true);
        loop {
            let session = places.next()?;
            match self.referrers_at(session, subject).await {
                Ok(found) => return Ok(found),
                Err(error) => places.failed(error),
            }
        }
    }

    /// Before version 1.1 there was only a tag.
    async fn referrers_at(
        &self,
        session: &Session,
        subject: &str,
    ) -> Result<Vec<Descriptor>, Error> {
        let path = format!("{}/referrers/{subject}", self.name());
        let found = match self.index(session, &path, subject).await {
            Err(Error::NotFound(_) | Error::Invalid(_)) => {
                let path = format!("{}/manifests/{}", self.name(), subject.replace(':', "-"));
                self.index(session, &path, subject).await
            }
            found => found,
        };
        match found {
            Err(Error::NotFound(_)) => Ok(Vec::new()),
            found => found,
        }
    }

    async fn index(
        &self,
        session: &Session,
        path: &str,
        subject: &str,
    ) -> Result<Vec<Descriptor>, Error> {
        let call = Call::new(Method::GET, path, self.scopes()).header("accept", INDEX)?;
        let entries = match pages(session, call, |page: Index| page.manifests).await? {
            Ok(entries) => entries,
            Err(answer) => return Err(self.refused(answer, subject).await),
        };
        let described = entries.into_iter().map(|entry| {
            digest::check(&entry.digest)?;
            Ok(Descriptor {
                media_type: entry.media_type,
                digest: entry.digest,
                size: entry.size,
            })
        });
        described.collect()
    }
}

/// All entries of a list, or the first answer that is no page of it.
async fn pages<P: DeserializeOwned, T>(
    session: &Session,
    mut call: Call<'_>,
    entries: impl Fn(P) -> Option<Vec<T>>,
) -> Result<Result<Vec<T>, super::answer::Answer>, Error> {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    let mut read = 0;
    loop {
        let (answer, body) = session.fetch(&call, MAX_PAGE).await?;
        if !answer.status().is_success() {
            return Ok(Err(answer));
        }
        read += body.len();
        let page = serde_json::from_slice(&body)
            .map_err(|_| answer.invalid("the registry's list is not valid JSON"))?;
        all.extend(entries(page).unwrap_or_default());
        let Some(next) = link::next(answer.headers(), &answer.url)? else {
            return Ok(Ok(all));
        };
        let again = !seen.insert(next.clone());
        if again || seen.len() >= MAX_PAGES || all.len() >= MAX_ENTRIES || read >= MAX_LIST {
            return Err(answer.invalid("the registry's list does not end"));
        }
        call.target = Target::Url(next);
    }
}
