//! Manifests and indexes: what was asked for is what is returned.

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::Answer;
use super::session::{Call, Session};
use super::transport::Payload;
use super::{Descriptor, Error, Manifest, Repository, digest};

/// The specification has registries take 4 MiB at least.
const MAX_MANIFEST: usize = 8 << 20;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";

impl Repository {
    pub(super) async fn get_manifest(&self, reference: &str) -> Result<Manifest, Error> {
        let path = self.manifest_path(reference)?;
        let tag = !reference.contains(':');
        let mut places = self.places(tag);
        loop {
            let session = places.next()?;
            match self.get_manifest_at(session, &path, reference).await {
                Ok(found) => return Ok(found),
                Err(error) => places.failed(error),
            }
        }
    }

    async fn get_manifest_at(
        &self,
        session: &Session,
        path: &str,
        reference: &str,
    ) -> Result<Manifest, Error> {
        let call = Call::new(Method::GET, path, self.scopes()).header("accept", ACCEPT)?;
        let (answer, bytes) = session.fetch(&call, MAX_MANIFEST).await?;
        if !answer.status().is_success() {
            return Err(self.refused(answer, reference).await);
        }
        verify(&answer, bytes, reference)
    }

    pub(super) async fn head_manifest(&self, reference: &str) -> Result<Option<Descriptor>, Error> {
        let path = self.manifest_path(reference)?;
        let mut places = self.places(true);
        loop {
            let session = match places.next() {
                Err(Error::NotFound(_)) => return Ok(None),
                next => next?,
            };
            match self.head_manifest_at(session, &path, reference).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) => places.failed(error),
            }
        }
    }

    async fn head_manifest_at(
        &self,
        session: &Session,
        path: &str,
        reference: &str,
    ) -> Result<Descriptor, Error> {
        let call = Call::new(Method::HEAD, path, self.scopes()).header("accept", ACCEPT)?;
        let answer = session.send(&call).await?;
        let status = answer.status();
        if !status.is_success() && status != StatusCode::METHOD_NOT_ALLOWED {
            return Err(self.refused(answer, reference).await);
        }
        let media_type = media_type(&answer);
        let said = answer.header("docker-content-digest").map(str::to_owned);
        if let (true, Some(said), Some(media_type), Some(size)) =
            (status.is_success(), said, media_type, answer.length())
        {
            if !digest::is_valid(&said) || (reference.contains(':') && said != reference) {
                return Err(answer.invalid("the registry gave another digest"));
            }
            return Ok(Descriptor {
                media_type,
                digest: said,
                size,
            });
        }
        // The registry says too little: the manifest itself says all.
        let manifest = self.get_manifest_at(session, path, reference).await?;
        Ok(Descriptor {
            media_type: manifest.media_type,
            digest: manifest.digest,
            size: manifest.bytes.len() as u64,
        })
    }

    pub(super) async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<String, Error> {
        let path = self.manifest_path(reference)?;
        let session = self.writer()?;
        let mut call =
            Call::new(Method::PUT, &path, self.scopes()).header("content-type", media_type)?;
        let algorithm = if reference.contains(':') {
            reference
        } else {
            "sha256:"
        };
        let computed = digest::of(algorithm, &bytes)?;
        if reference.contains(':') && computed != reference {
            return Err(Error::Invalid(format!(
                "the manifest to push is {computed}, not {reference}"
            )));
        }
        call.payload = Payload::Bytes(bytes);
        let answer = session.send(&call).await?;
        if !answer.status().is_success() {
            return Err(self.refused(answer, reference).await);
        }
        let given = answer
            .header("docker-content-digest")
            .filter(|d| digest::is_valid(d));
        match given {
            Some(given)
                if digest::algorithm(given) == digest::algorithm(&computed)
                    && given != computed =>
            {
                Err(answer.invalid(&format!("the registry stored {given}, not {computed}")))
            }
            _ => Ok(computed),
        }
    }

    pub(super) async fn remove_manifest(&self, reference: &str) -> Result<(), Error> {
        let path = self.manifest_path(reference)?;
        let session = self.writer()?;
        let mut scopes = self.scopes();
        scopes.push(format!("repository:{}:delete", self.name()));
        let answer = session
            .send(&Call::new(Method::DELETE, &path, scopes))
            .await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(self.refused(answer, reference).await)
    }

    fn manifest_path(&self, reference: &str) -> Result<String, Error> {
        if reference.contains(':') {
            digest::check(reference)?;
        } else if !is_tag(reference) {
            return Err(Error::Invalid(format!("invalid tag \"{reference}\"")));
        }
        Ok(format!("{}/manifests/{reference}", self.name()))
    }
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// It is what was asked for, and what the registry says it is.
fn verify(answer: &Answer, bytes: Bytes, reference: &str) -> Result<Manifest, Error> {
    let digest = if reference.contains(':') {
        let found = digest::of(reference, &bytes)?;
        if found != reference {
            return Err(answer.invalid(&format!(
                "manifest verification failed for digest {reference}"
            )));
        }
        found
    } else {
        digest::of("sha256:", &bytes)?
    };
    if let Some(said) = answer.header("docker-content-digest")
        && digest::check(said).is_ok()
        && digest::of(said, &bytes)? != said
    {
        return Err(answer.invalid(&format!(
            "the registry says the manifest is {said}, which it is not"
        )));
    }
    let media_type = type_of(&bytes, media_type(answer)).map_err(|why| answer.invalid(&why))?;
    if media_type.starts_with("application/vnd.docker.distribution.manifest.v1+") {
        return Err(Error::Unsupported(
            "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, \
             schema 1 are not supported: the image must be built again, or pushed again by a \
             newer version"
                .to_owned(),
        ));
    }
    Ok(Manifest {
        media_type,
        digest,
        bytes,
    })
}

/// What the header says, unless it says nothing.
fn media_type(answer: &Answer) -> Option<String> {
    let text = answer.header("content-type")?;
    let text = text.split(';').next()?.trim().to_ascii_lowercase();
    let vague = matches!(
        text.as_str(),
        "" | "application/json" | "application/octet-stream" | "text/plain" | "text/html"
    );
    (!vague).then_some(text)
}

/// The parts of a document that tell what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline<'a> {
    media_type: Option<String>,
    #[serde(borrow)]
    manifests: Option<&'a RawValue>,
    #[serde(borrow)]
    layers: Option<&'a RawValue>,
    #[serde(borrow)]
    config: Option<&'a RawValue>,
    #[serde(borrow)]
    fs_layers: Option<&'a RawValue>,
}

/// CVE-2021-41190: a document that can be taken for two things is refused.
fn type_of(bytes: &[u8], header: Option<String>) -> Result<String, String> {
    let outline: Outline<'_> =
        serde_json::from_slice(bytes).map_err(|_| "the manifest is not valid JSON".to_owned())?;
    let index = outline.manifests.is_some();
    let image = outline.layers.is_some() || outline.config.is_some() || outline.fs_layers.is_some();
    if index && image {
        return Err("the manifest is both an index and an image".to_owned());
    }
    let inside = outline.media_type.filter(|text| !text.is_empty());
    let media_type = match (header, inside) {
        (Some(header), Some(inside)) if header != inside => {
            return Err(format!(
                "mediaType in manifest should be '{header}' not '{inside}'"
            ));
        }
        (Some(media_type), _) | (None, Some(media_type)) => media_type,
        (None, None) if index => INDEX.to_owned(),
        (None, None) if image => MANIFEST.to_owned(),
        (None, None) => return Err("the manifest has no media type".to_owned()),
    };
    match media_type.as_str() {
        INDEX | DOCKER_LIST if image => Err(format!("an image is served as '{media_type}'")),
        MANIFEST | DOCKER_MANIFEST if index => Err(format!("an index is served as '{media_type}'")),
        _ => Ok(media_type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_one_thing() {
        let image = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(type_of(image, None).unwrap(), MANIFEST);
        assert_eq!(type_of(index, None).unwrap(), INDEX);
        assert_eq!(
            type_of(image, Some(DOCKER_MANIFEST.to_owned())).unwrap(),
            DOCKER_MANIFEST
        );
        type_of(image, Some(INDEX.to_owned())).unwrap_err();
        type_of(index, Some(MANIFEST.to_owned())).unwrap_err();
        type_of(br#"{"manifests":[],"layers":[]}"#, None).unwrap_err();
        let named = format!(r#"{{"mediaType":"{INDEX}","manifests":[]}}"#);
        assert_eq!(type_of(named.as_bytes(), None).unwrap(), INDEX);
        type_of(named.as_bytes(), Some(DOCKER_LIST.to_owned())).unwrap_err();
        type_of(b"<html>", None).unwrap_err();
        type_of(b"{}", None).unwrap_err();
    }
}
