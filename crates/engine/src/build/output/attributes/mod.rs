//! What a request says of its outputs: kinds, names, attributes, annotations.
//! Names of attributes and words for what is wrong with them are BuildKit's.

mod annotations;

use std::collections::BTreeMap;

use berth_api::Error;
use berth_api::build::{BuildRequest, Output};
use berth_build::image::{Compression, Family};
use berth_store::{Platform, Reference};

use self::annotations::platform_of;
pub(super) use self::annotations::{Level, Marks};

/// One output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Of the request's list: how the client knows it.
    pub(super) index: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the image store, and perhaps on to a registry.
    Image {
        names: Vec<Reference>,
        options: Options,
        push: Option<Push>,
        /// Keep it in the store under its names.
        store: bool,
        /// Known by its digest as well.
        name_canonical: bool,
    },
    /// To the client, in one file.
    Archive {
        names: Vec<Reference>,
        options: Options,
        /// With what `docker load` of old needs.
        for_docker: bool,
    },
    /// The files themselves, as a tar stream.
    Files { split: bool, title: &'static str },
    /// Only the cache is filled.
    Nothing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Push {
    pub(super) by_digest: bool,
}

/// How the documents and blobs of an image are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) family: Family,
    pub(super) compression: Compression,
    /// None = the compression's usual one.
    pub(super) level: Option<i32>,
    /// Layers of base images, too.
    pub(super) force: bool,
    pub(super) annotations: Marks,
}

/// All outputs of a request; without any, the image store.
pub(super) fn parse(request: &BuildRequest) -> Result<Vec<Wanted>, Error> {
    let usual = [Output {
        kind: "image".to_owned(),
        ..Output::default()
    }];
    let given = match request.outputs.as_slice() {
        [] => &usual[..],
        given => given,
    };
    let tags = (request.tags.iter())
        .map(|tag| tagged(tag))
        .collect::<Result<Vec<_>, _>>()?;
    (given.iter().enumerate())
        .map(|(index, output)| {
            Ok(Wanted {
                index,
                kind: kind(output, &tags, request)?,
            })
        })
        .collect()
}

fn tagged(text: &str) -> Result<Reference, Error> {
    let reference = Reference::parse(text)
        .map_err(|error| Error::invalid(format!("invalid tag {text:?}: {error}")))?;
    if reference.digest.is_some() {
        return Err(Error::invalid(format!(
            "invalid tag {text:?}: refusing to create a tag with a digest reference"
        )));
    }
    Ok(reference)
}

fn kind(output: &Output, tags: &[Reference], request: &BuildRequest) -> Result<Kind, Error> {
    let multi = request.platforms.len() > 1;
    let mut rest = Rest::new(output);
    let kind = match output.kind.as_str() {
        name @ ("image" | "registry") => {
            let push = rest.flag("push", name == "registry")?;
            let by_digest = rest.flag("push-by-digest", false)?;
            let store = rest.flag("store", true)?;
            let name_canonical = rest.flag("name-canonical", false)?;
            // A layer of an image is here as files, always.
            rest.only("unpack", true)?;
            // What says how a registry is reached is the daemon's.
            rest.only("registry.insecure", false)?;
            let (names, options) = image(&mut rest, tags, request, push, Family::Oci)?;
            if push && names.is_empty() {
                return Err(Error::invalid("tag is needed when pushing to registry"));
            }
            if push && by_digest {
                refuse_tags(&rest.names, &request.tags)?;
            }
            Kind::Image {
                names,
                options,
                push: push.then_some(Push { by_digest }),
                store,
                name_canonical,
            }
        }
        name @ ("docker" | "oci") => {
            let for_docker = name == "docker";
            if for_docker && multi {
                return Err(Error::invalid(
                    "docker exporter does not currently support exporting manifest lists",
                ));
            }
            // A directory instead of a file: the client unpacks.
            rest.flag("tar", true)?;
            let family = if for_docker {
                Family::Docker
            } else {
                Family::Oci
            };
            let (names, options) = image(&mut rest, tags, request, true, family)?;
            Kind::Archive {
                names,
                options,
                for_docker,
            }
        }
        name @ ("local" | "tar") => {
            if name == "local" {
                // Whether what is there is deleted: the client's.
                rest.take("mode");
            }
            Kind::Files {
                split: rest.flag("platform-split", multi)? && multi,
                title: match name {
                    "local" => "exporting to client directory",
                    _ => "exporting to client tarball",
                },
            }
        }
        "cacheonly" => Kind::Nothing,
        other => {
            return Err(Error::invalid(format!(
                "exporter {other:?} could not be found"
            )));
        }
    };
    rest.end()?;
    Ok(kind)
}

fn refuse_tags(names: &str, tags: &[String]) -> Result<(), Error> {
    let has_tag = |name: &&str| {
        let last = name.rsplit('/').next().unwrap_or_default();
        last.contains(':')
    };
    let all = names.split(',').chain(tags.iter().map(String::as_str));
    match all.filter(|name| !name.is_empty()).find(has_tag) {
        Some(name) => Err(Error::invalid(format!(
            "can't push tagged ref {name} by digest"
        ))),
        None => Ok(()),
    }
}

fn image(
    rest: &mut Rest<'_>,
    tags: &[Reference],
    request: &BuildRequest,
    compress: bool,
    family: Family,
) -> Result<(Vec<Reference>, Options), Error> {
    let multi = request.platforms.len() > 1;
    let mut names = tags.to_vec();
    for name in rest.names.split(',').filter(|name| !name.is_empty()) {
        let name = tagged(name)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut annotations = Marks::default();
    for (name, value) in &request.annotations {
        annotations.given(name, value)?;
    }
    let attributes = rest.left.clone();
    for (name, value) in &attributes {
        if annotations.attribute(name, value)? {
            rest.take(name);
        }
    }
    if annotations.has_index() && !multi {
        return Err(Error::invalid(
            "index annotations not supported for single platform export",
        ));
    }
    let built: Vec<Platform> = (request.platforms.iter())
        .map(|text| platform_of(text))
        .collect::<Result<_, _>>()?;
    if let Some(platform) = (annotations.platforms()).find(|on| !built.contains(on)) {
        return Err(Error::invalid(format!(
            "invalid annotation: no platform {platform} found in source"
        )));
    }
    let compression = match rest.take("compression") {
        None if compress => Compression::Gzip,
        None | Some("uncompressed") => Compression::Uncompressed,
        Some("" | "gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some("estargz") => {
            return Err(Error::not_implemented(
                "compression estargz is not supported: use gzip, zstd or uncompressed",
            ));
        }
        Some(other) => {
            return Err(Error::invalid(format!(
                "unsupported compression type {other}"
            )));
        }
    };
    let level = match rest.take("compression-level") {
        None => None,
        Some(text) => Some(level(text, compression)?),
    };
    let oci = rest.flag("oci-mediatypes", family == Family::Oci)?;
    // Docker's types know neither of the two.
    let oci = oci || compression == Compression::Zstd || annotations != Marks::default();
    // Files of built layers have one time anyway.
    rest.flag("rewrite-timestamp", false)?;
    for attribute in [
        "prefer-nondist-layers",
        "buildinfo",
        "buildinfo-attrs",
        "attestation-inline",
        "oci-artifact",
    ] {
        rest.only(attribute, false)?;
    }
    let options = Options {
        family: if oci { Family::Oci } else { Family::Docker },
        compression,
        level,
        force: rest.flag("force-compression", false)?,
        annotations,
    };
    Ok((names, options))
}

fn level(text: &str, compression: Compression) -> Result<i32, Error> {
    let level: i32 = text.parse().map_err(|_| {
        Error::invalid(format!(
            "non-integer value {text} specified for compression-level"
        ))
    })?;
    let range = match compression {
        Compression::Uncompressed => 0..=0,
        Compression::Gzip => 0..=9,
        Compression::Zstd => 1..=22,
    };
    if range.contains(&level) {
        return Ok(level);
    }
    Err(Error::invalid(format!(
        "compression-level {level} is not between {} and {}",
        range.start(),
        range.end()
    )))
}

/// Attributes that nobody has asked for yet.
struct Rest<'a> {
    kind: &'a str,
    left: BTreeMap<&'a str, &'a str>,
    names: String,
}

impl<'a> Rest<'a> {
    fn new(output: &'a Output) -> Self {
        let mut left: BTreeMap<&str, &str> = (output.attributes.iter())
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        // Where the client puts it.
        left.remove("dest");
        let images = matches!(
            output.kind.as_str(),
            "image" | "registry" | "docker" | "oci"
        );
        let names = if images { left.remove("name") } else { None };
        Self {
            kind: &output.kind,
            names: names.unwrap_or_default().to_owned(),
            left,
        }
    }

    fn take(&mut self, name: &str) -> Option<&'a str> {
        self.left.remove(name)
    }

    /// As Go's `strconv.ParseBool`; empty is true.
    fn flag(&mut self, name: &str, usual: bool) -> Result<bool, Error> {
        match self.take(name) {
            None => Ok(usual),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(Error::invalid(format!(
                "non-bool value specified for {name}: strconv.ParseBool: parsing {other:?}: invalid syntax"
            ))),
        }
    }

    /// A flag that can have one value only here.
    fn only(&mut self, name: &str, value: bool) -> Result<(), Error> {
        if self.flag(name, value)? == value {
            return Ok(());
        }
        Err(Error::not_implemented(format!(
            "{name}={} is not supported for outputs of type {}",
            !value, self.kind
        )))
    }

    fn end(self) -> Result<(), Error> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "outputs of type {} have no attribute {name:?}",
                self.kind
            ))),
        }
    }
}

/// By registry, under the names that clients use for the first one.
pub(super) fn auth(
    request: &BuildRequest,
    reference: &Reference,
) -> berth_api::registry::AuthConfig {
    const HUB: [&str; 4] = [
        "docker.io",
        "https://index.docker.io/v1/",
        "index.docker.io",
        "registry-1.docker.io",
    ];
    let domain = reference.domain.as_str();
    let own = [domain];
    let names = if domain == HUB[0] { &HUB[..] } else { &own[..] };
    let found = names.iter().find_map(|name| request.auth.get(*name));
    found.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests;
