//! Platforms of an image: which there are, and one of them picked out.

use crate::blob::short;
use crate::error::{Error, Result, invalid};
use crate::images::find;
use crate::manifest::{Found, host_architecture, image, provide};
use crate::reference::familiar;
use crate::store::{StoredBlobs, crash_point, hex};
use crate::{Digest, Image, ManifestKind, ManifestSummary, Platform, Store};

impl Store {
    /// The manifests of an image, in the index's order: those that are here,
    /// whole or in part, and those that its index only speaks of.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn manifests(&self, id: &str) -> Result<Vec<ManifestSummary>> {
        let state = self.inner.state();
        let record = find(&state, id)?.0;
        let blob_size = |digest: &String| state.blobs.get(digest);
        let layer_size = |(diff_id, _): &(String, String)| Some(state.layers.get(diff_id)?.size);
        let summaries = record.manifests.iter().map(|found| ManifestSummary {
            digest: found.digest.clone(),
            media_type: found.media_type.clone(),
            size: found.size,
            kind: found.kind.clone(),
            platform: found.platform.clone(),
            available: found.available,
            content_size: found.blobs.iter().filter_map(blob_size).sum(),
            unpacked_size: found.layers.iter().filter_map(layer_size).sum(),
            config_digest: found.config_digest.clone(),
        });
        Ok(summaries.collect())
    }

    /// Like [`Store::find`], for a platform other than this machine's; its
    /// `config` and sizes are that platform's, its `id` stays the index's.
    ///
    /// # Errors
    /// `NotFound` ("image with reference x was found but does not provide the
    /// specified platform (linux/arm64)").
    pub fn find_platform(&self, reference: &str, platform: &Platform) -> Result<Image> {
        let state = self.inner.state();
        let record = find(&state, reference)?.0;
        let Some(found) = provide(&record.manifests, platform) else {
            return Err(Error::NotFound(format!(
                "image with reference {reference} was found but does not provide the specified platform ({platform})"
            )));
        };
        let source = StoredBlobs {
            inner: &self.inner,
            sizes: &state.blobs,
            layers: &state.layers,
        };
        let resolved = image(found, &source)?;
        let layers = resolved.layers.iter();
        Ok(Image {
            config_digest: resolved.config_digest,
            config: resolved.config.into(),
            raw_config: resolved.raw_config.into(),
            size: layers
                .filter_map(|(diff_id, _)| Some(state.layers.get(diff_id)?.size))
                .sum(),
            blob_size: content_size(found, &source),
            ..record.image.clone()
        })
    }
}

impl Store {
    /// Unpacks the layers of an image that are here as blobs only: those of
    /// another platform of an index that was loaded whole. Blocking.
    ///
    /// # Errors
    /// `NotFound` if the image is gone.
    pub fn unpack(&self, image: &Image) -> Result<()> {
        let layers = {
            let state = self.inner.state();
            let record = find(&state, &image.id)?.0;
            let mut manifests = record.manifests.iter();
            let found = manifests
                .find(|found| found.available && found.config_digest == image.config_digest);
            // Nothing to unpack; whoever needs it says what is wrong.
            let Some(found) = found else { return Ok(()) };
            let layers = found.layers.clone();
            if layers
                .iter()
                .all(|(diff_id, _)| state.layers.contains_key(diff_id))
            {
                return Ok(());
            }
            layers
        };
        let incoming = self.incoming()?;
        for (diff_id, blob) in &layers {
            incoming.unpack(blob, diff_id, &mut |_| {})?;
        }
        // From now on the image stands on them.
        let state = &mut *self.inner.state();
        self.inner.describe_image(state, &image.id)
    }
}

impl Store {
    /// Removes what is here of some platforms of an image, with what attests
    /// to it, from all images that have the same manifests. The images stay,
    /// with what else they have. `in_use(configuration's digest)` says why one
    /// must not go. Returns the manifests that went.
    ///
    /// Killed in between, the manifests are gone first: the next open finds the
    /// rest as blobs that nothing stands on.
    ///
    /// # Errors
    /// `NotFound` if a platform is not here; `Conflict` if it is in use, or an
    /// image would have nothing left.
    pub fn remove_platforms(
        &self,
        reference: &str,
        platforms: &[Platform],
        in_use: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<Digest>> {
        let inner = &*self.inner;
        let state = &mut *inner.state();
        let record = find(state, reference)?.0;
        let mut gone: Vec<Digest> = Vec::new();
        for platform in platforms {
            let found = provide(&record.manifests, platform)
                .filter(|found| platform.rank(&found.platform) == Some(0));
            let Some(found) = found else {
                return Err(Error::NotFound(format!(
                    "image with reference {reference} was found but does not provide the specified platform ({platform})"
                )));
            };
            if let Some(user) = in_use(&found.config_digest) {
                return Err(Error::Conflict(format!(
                    "conflict: unable to delete {} (cannot be forced) - {user}",
                    short(&found.digest)
                )));
            }
            let attests = |other: &&Found| matches!(&other.kind, ManifestKind::Attestation(of) if *of == found.digest);
            gone.push(found.digest.clone());
            gone.extend(
                record
                    .manifests
                    .iter()
                    .filter(attests)
                    .map(|other| other.digest.clone()),
            );
        }
        gone.retain(|digest| state.blobs.contains_key(digest));
        if let Some(digest) = gone
            .iter()
            .find(|digest| state.leases.contains_key(*digest))
        {
            return Err(Error::Conflict(format!(
                "{} is being pulled, pushed or saved: try again when that is done",
                short(digest)
            )));
        }
        let goes = |found: &Found| gone.contains(&found.digest);
        let mut changed = Vec::new();
        for other in (state.images.values()).filter(|other| other.manifests.iter().any(goes)) {
            let stays = |found: &Found| {
                found.available && found.kind == ManifestKind::Image && !goes(found)
            };
            if !other.manifests.iter().any(stays) {
                let name = other.saved.names.first().unwrap_or(&other.saved.id);
                return Err(Error::Conflict(format!(
                    "image {} has no other platform here: remove the image",
                    familiar(name)
                )));
            }
            changed.push(other.saved.id.clone());
        }
        for digest in &gone {
            state.blobs.remove(digest);
            inner.discard(&inner.dirs.blobs, hex(digest).as_bytes());
            crash_point("platform");
        }
        for id in &changed {
            inner.describe_image(state, id)?;
        }
        inner.collect(state);
        Ok(gone)
    }
}

fn content_size(found: &Found, source: &StoredBlobs<'_>) -> u64 {
    let sizes = found.blobs.iter().filter_map(|blob| source.sizes.get(blob));
    sizes.sum()
}

fn is_component(part: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !part.is_empty() && part.bytes().all(is_plain)
}

fn is_os(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "linux" | "windows" | "darwin" | "macos" | "freebsd" | "wasip1"
    )
}

fn is_architecture(text: &str) -> bool {
    let platform = Platform {
        architecture: text.to_owned(),
        ..Platform::default()
    };
    matches!(
        platform.normalized().architecture.as_str(),
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips"
            | "mips64"
            | "mips64le"
            | "mipsle"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: host_architecture().to_string(),
            ..Self::default()
        }
    }

    /// "os", "architecture", "os/architecture" or "os/architecture/variant", by
    /// the rules of containerd's `platforms` package. What an "os" alone leaves
    /// open is `host`'s.
    ///
    /// # Errors
    /// `Invalid`, in that package's words.
    pub fn parse(text: &str, host: &Self) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        if let Some(part) = parts.iter().find(|part| !is_component(part)) {
            return invalid(format!(
                "{part:?} is an invalid component of {text:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
            ));
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [os] if is_os(os) => (*os, host.architecture.as_str(), host.variant.as_str()),
            [architecture] if is_architecture(architecture) => ("linux", *architecture, ""),
            [_] => {
                return invalid(format!(
                    "{text:?}: unknown operating system or architecture: invalid argument"
                ));
            }
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => {
                return invalid(format!(
                    "{text:?}: cannot parse platform specifier: invalid argument"
                ));
            }
        };
        let platform = Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os_version: String::new(),
        };
        Ok(platform.normalized())
    }

    /// How well something made for `other` does where this is asked for: 0
    /// best, none if it does not. What is empty here may be anything.
    pub fn rank(&self, other: &Platform) -> Option<u8> {
        let wanted = self.normalized();
        let other = other.normalized();
        let same = |wanted: &str, other: &str| wanted.is_empty() || wanted == other;
        if !same(&wanted.os, &other.os) || !same(&wanted.architecture, &other.architecture) {
            return None;
        }
        if !self.os_version.is_empty() && !other.os_version.starts_with(&wanted.os_version) {
            return None;
        }
        match (wanted.level(), other.level()) {
            // A processor does what its forerunners did.
            (Some(wanted), Some(level)) if level <= wanted => Some(wanted - level),
            (Some(_), Some(_)) => None,
            _ if same(&wanted.variant, &other.variant) => Some(0),
            _ => None,
        }
    }

    /// In Go's words, as containerd normalises them.
    pub fn normalized(&self) -> Platform {
        let lower = |text: &str| text.to_ascii_lowercase();
        let (os, variant) = (lower(&self.os), lower(&self.variant));
        let (architecture, variant) = match (lower(&self.architecture).as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64".to_owned(), String::new()),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64".to_owned(), other.to_owned()),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0" | "") => ("arm64".to_owned(), String::new()),
            ("aarch64" | "arm64", other) => ("arm64".to_owned(), other.to_owned()),
            ("armhf", _) | ("arm", "" | "7") => ("arm".to_owned(), "v7".to_owned()),
            ("armel", _) | ("arm", "6") => ("arm".to_owned(), "v6".to_owned()),
            ("arm", "5") => ("arm".to_owned(), "v5".to_owned()),
            ("arm", "8") => ("arm".to_owned(), "v8".to_owned()),
            ("i386", _) => ("386".to_owned(), String::new()),
            (other, variant) => (other.to_owned(), variant.to_owned()),
        };
        Platform {
            os: if os == "macos" {
                "darwin".to_owned()
            } else {
                os
            },
            architecture,
            variant,
            os_version: self.os_version.clone(),
        }
    }

    /// The level of a family of processors in which each runs what is made for
    /// a lower one.
    fn level(&self) -> Option<u8> {
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("amd64", "") => Some(1),
            ("arm64", "") => Some(80),
            ("amd64" | "arm", variant) => variant.strip_prefix('v')?.parse().ok(),
            ("arm64", variant) => {
                let (major, minor) = variant.strip_prefix('v')?.split_once('.')?;
                let minor: u8 = minor.parse().ok().filter(|minor| *minor < 10)?;
                major
                    .parse::<u8>()
                    .ok()?
                    .checked_mul(10)?
                    .checked_add(minor)
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [&self.os, &self.architecture, &self.variant];
        let given: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        for (at, part) in given.iter().enumerate() {
            write!(f, "{}{part}", if at == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_platform() {
        let host = Platform::parse("linux/amd64", &Platform::default()).unwrap();
        for (text, wanted) in [
            ("linux", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("Linux/ARM64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(
                Platform::parse(text, &host).unwrap().to_string(),
                wanted,
                "{text}"
            );
        }
        for text in ["", "x", "linux/", "linux/a b", "a/b/c/d"] {
            assert!(Platform::parse(text, &host).is_err(), "{text}");
        }
    }
}
