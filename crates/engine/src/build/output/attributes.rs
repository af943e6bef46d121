//! What a request says of its outputs: kinds, names, attributes, annotations.
//! Names of attributes and words for what is wrong with them are BuildKit's.

use std::collections::BTreeMap;

use berth_api::Error;
use berth_api::build::{BuildRequest, Output};
use berth_build::image::{Annotations, Compression, Family};
use berth_store::{Platform, Reference};

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

/// Annotations by what they stand on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(Vec<(Level, Option<Platform>, String, String)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

impl Marks {
    /// Those of one level; with a platform, those of it go before those of all.
    pub(super) fn of(&self, level: Level, platform: Option<&Platform>) -> Annotations {
        let mut of = Annotations::new();
        for only in [false, true] {
            for (is, on, key, value) in &self.0 {
                let fits = match on {
                    None => !only,
                    Some(on) => only && platform == Some(on),
                };
                if *is == level && fits {
                    of.insert(key.clone(), value.clone());
                }
            }
        }
        of
    }

    fn add(&mut self, level: &str, key: &str, value: &str) -> Result<(), Error> {
        let (name, platform) = match level.split_once('[') {
            Some((name, rest)) => match rest.strip_suffix(']') {
                Some(platform) => (name, Some(platform_of(platform)?)),
                None => {
                    return Err(Error::invalid(format!(
                        "could not fully parse annotation {level}"
                    )));
                }
            },
            None => (level, None),
        };
        let level = match name {
            "" | "manifest" => Level::Manifest,
            "manifest-descriptor" => Level::ManifestDescriptor,
            "index" => Level::Index,
            "index-descriptor" => Level::IndexDescriptor,
            other => {
                return Err(Error::invalid(format!(
                    "unrecognized annotation type {other}"
                )));
            }
        };
        if key.is_empty() {
            return Err(Error::invalid("an annotation must have a key"));
        }
        self.0
            .push((level, platform, key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// An attribute `annotation[-level][[platform]].key`; whether it is one.
    fn attribute(&mut self, name: &str, value: &str) -> Result<bool, Error> {
        let Some(rest) = name.strip_prefix("annotation") else {
            return Ok(false);
        };
        // A platform has no dot; a key may.
        let Some((level, key)) = rest.split_once('.') else {
            return Ok(false);
        };
        let level = match level.strip_prefix('-') {
            Some(level) => level,
            None if level.is_empty() || level.starts_with('[') => level,
            None => return Ok(false),
        };
        self.add(level, key, value)?;
        Ok(true)
    }

    /// `--annotation`: `[level[,level…]:]key`.
    fn given(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match name.split_once(':') {
            None => self.add("", name, value),
            Some((levels, key)) => levels
                .split(',')
                .try_for_each(|level| self.add(level, key, value)),
        }
    }

    fn has_index(&self) -> bool {
        let of_index = |level: &Level| matches!(level, Level::Index | Level::IndexDescriptor);
        self.0.iter().any(|(level, ..)| of_index(level))
    }

    fn platforms(&self) -> impl Iterator<Item = &Platform> {
        self.0.iter().filter_map(|(_, on, ..)| on.as_ref())
    }
}

/// "linux/arm64/v8"; `_` for the slashes as well.
fn platform_of(text: &str) -> Result<Platform, Error> {
    let text = text.replace('_', "/");
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts.as_slice() {
        [os, architecture] => (*os, *architecture, ""),
        [os, architecture, variant] => (*os, *architecture, *variant),
        _ => {
            return Err(Error::invalid(format!(
                "invalid annotation: {text:?} is no platform"
            )));
        }
    };
    let platform = Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    };
    Ok(platform.normalized())
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
mod tests {
    use super::*;

    fn request(kind: &str, attributes: &[(&str, &str)], tags: &[&str]) -> BuildRequest {
        let attributes = attributes.iter();
        BuildRequest {
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            outputs: vec![Output {
                kind: kind.to_owned(),
                attributes: attributes
                    .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            }],
            ..BuildRequest::default()
        }
    }

    fn one(request: &BuildRequest) -> Kind {
        parse(request).unwrap().remove(0).kind
    }

    #[test]
    fn usual_outputs() {
        let Kind::Image {
            names,
            options,
            push,
            store,
            ..
        } = one(&BuildRequest {
            tags: vec!["a".into(), "x/b:1".into()],
            ..BuildRequest::default()
        })
        else {
            panic!("no image");
        };
        let full: Vec<_> = names.iter().map(Reference::full).collect();
        assert_eq!(full, ["docker.io/library/a:latest", "docker.io/x/b:1"]);
        assert_eq!(
            (options.family, options.compression),
            (Family::Oci, Compression::Uncompressed)
        );
        assert!(push.is_none() && store);

        let Kind::Image { options, push, .. } =
            one(&request("registry", &[("name", "r:5000/a")], &[]))
        else {
            panic!("no image");
        };
        assert_eq!(
            (options.compression, push),
            (Compression::Gzip, Some(Push { by_digest: false }))
        );

        let Kind::Archive {
            options,
            for_docker,
            ..
        } = one(&request("docker", &[("dest", "x")], &[]))
        else {
            panic!("no archive");
        };
        assert_eq!((options.family, for_docker), (Family::Docker, true));
        let zstd = request(
            "docker",
            &[("compression", "zstd"), ("compression-level", "19")],
            &[],
        );
        let Kind::Archive { options, .. } = one(&zstd) else {
            panic!("no archive");
        };
        assert_eq!((options.family, options.level), (Family::Oci, Some(19)));
        let several = BuildRequest {
            platforms: vec!["linux/amd64".into(), "linux/arm64".into()],
            ..request("local", &[("mode", "delete")], &[])
        };
        assert!(matches!(one(&several), Kind::Files { split: true, .. }));
        assert!(matches!(
            one(&request("tar", &[], &[])),
            Kind::Files { split: false, .. }
        ));
        assert_eq!(one(&request("cacheonly", &[], &[])), Kind::Nothing);
    }

    #[test]
    fn annotations_by_level_and_platform() {
        let mut asked = request(
            "oci",
            &[
                ("annotation.a.b", "1"),
                ("annotation-index.k", "2"),
                ("annotation-manifest-descriptor[linux/arm64].k", "3"),
                ("annotation[linux/amd64].a.b", "4"),
            ],
            &[],
        );
        asked.platforms = vec!["linux/amd64".into(), "linux/arm64".into()];
        asked.annotations = BTreeMap::from([("index,manifest:x:y".to_owned(), "5".to_owned())]);
        let Kind::Archive { options, .. } = one(&asked) else {
            panic!("no archive");
        };
        let of = |level, platform: &str| {
            let platform = platform_of(platform).unwrap();
            let of = options.annotations.of(level, Some(&platform));
            let text: Vec<_> = of
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            text.join(" ")
        };
        assert_eq!(of(Level::Manifest, "linux/amd64"), "a.b=4 x:y=5");
        assert_eq!(of(Level::Manifest, "linux/arm64"), "a.b=1 x:y=5");
        assert_eq!(of(Level::ManifestDescriptor, "linux/amd64"), "");
        assert_eq!(of(Level::ManifestDescriptor, "linux/arm64"), "k=3");
        assert_eq!(of(Level::Index, "linux/amd64"), "k=2 x:y=5");
    }

    #[test]
    fn what_is_wrong_is_said_before_anything_is_built() {
        for (asked, words) in [
            (
                request("imag", &[], &[]),
                "exporter \"imag\" could not be found",
            ),
            (
                request("image", &[("pusch", "1")], &[]),
                "no attribute \"pusch\"",
            ),
            (
                request("image", &[("push", "ja")], &[]),
                "non-bool value specified for push",
            ),
            (
                request("image", &[("push", "true")], &[]),
                "tag is needed when pushing to registry",
            ),
            (
                request("image", &[], &["A"]),
                "invalid tag \"A\": invalid reference format: repository name (library/A) must be lowercase",
            ),
            (request("local", &[], &["a:b:c"]), "invalid tag"),
            (
                request("image", &[("name", "a,b@x")], &[]),
                "invalid reference format",
            ),
            (
                request("registry", &[("push-by-digest", "")], &["r/a:1"]),
                "can't push tagged ref r/a:1 by digest",
            ),
            (
                request("image", &[("compression", "lz4")], &[]),
                "unsupported compression type lz4",
            ),
            (
                request("image", &[("compression", "estargz")], &[]),
                "estargz is not supported",
            ),
            (
                request("oci", &[("compression-level", "x")], &[]),
                "non-integer value x",
            ),
            (
                request("oci", &[("compression-level", "10")], &[]),
                "not between 0 and 9",
            ),
            (
                request("oci", &[("annotation-index.k", "v")], &[]),
                "index annotations not supported",
            ),
            (
                request("oci", &[("annotation-top.k", "v")], &[]),
                "unrecognized annotation type top",
            ),
            (
                request("oci", &[("annotation[linux/arm].k", "v")], &[]),
                "no platform linux/arm/v7 found",
            ),
            (
                request("image", &[("registry.insecure", "true")], &[]),
                "registry.insecure=true is not supported",
            ),
            (
                request("tar", &[("name", "x")], &[]),
                "no attribute \"name\"",
            ),
        ] {
            let error = parse(&asked).unwrap_err();
            assert!(error.message.contains(words), "{asked:?}: {error}");
        }
        let several = BuildRequest {
            platforms: vec!["linux/amd64".into(), "linux/arm64".into()],
            ..request("docker", &[], &[])
        };
        let error = parse(&several).unwrap_err();
        assert!(error.message.contains("manifest lists"), "{error}");
    }
}
