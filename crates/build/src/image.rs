//! Documents of an image: configuration, manifest, index. Pure: equal plans
//! and layers give equal bytes.
//!
//! Keys stand in the order in which BuildKit writes them: of the configuration
//! by name, of its `config` and of descriptors as in their Go structures.

use std::collections::{BTreeMap, BTreeSet};

use berth_store::{Digest, Platform};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::graph::{History, Id, ImagePlan};
use crate::tree::Layer;

/// Annotation keys and values.
pub type Annotations = BTreeMap<String, String>;

/// Order of the keys of `config`: the OCI structure's, then Docker's.
const CONFIG_KEYS: [&str; 15] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "StopTimeout",
    "Shell",
    "Hostname",
];

/// What a history entry says of a layer of a base image that its history does
/// not speak of.
const UNTOLD: &str = "berth: layer without history";

/// Whose media types documents have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    #[default]
    Oci,
    Docker,
}

impl Family {
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// The media type of a layer in this family's words. A layer that was not
    /// to be distributed by others is here, and so it is distributed.
    pub fn layer(self, media_type: &str) -> String {
        let (plain, joint) = match self {
            Self::Oci => ("application/vnd.oci.image.layer.v1.tar", '+'),
            Self::Docker => ("application/vnd.docker.image.rootfs.diff.tar", '.'),
        };
        match Compression::of(media_type) {
            Some(Compression::Uncompressed) => plain.to_owned(),
            Some(Compression::Gzip) => format!("{plain}{joint}gzip"),
            Some(Compression::Zstd) => format!("{plain}{joint}zstd"),
            None => media_type.to_owned(),
        }
    }
}

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Uncompressed,
    Gzip,
    Zstd,
}

impl Compression {
    /// None if it is not the media type of a tar layer.
    pub fn of(media_type: &str) -> Option<Self> {
        let (_, rest) = ["layer.", "rootfs."]
            .iter()
            .find_map(|mark| media_type.split_once(mark))?;
        match rest.rsplit_once(".tar")?.1 {
            "" => Some(Self::Uncompressed),
            "+gzip" | ".gzip" => Some(Self::Gzip),
            "+zstd" | ".zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "go_platform"
    )]
    pub platform: Option<Platform>,
}

fn go_platform<S: Serializer>(
    platform: &Option<Platform>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let Some(platform) = platform else {
        return serializer.serialize_none();
    };
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("architecture", &platform.architecture)?;
    map.serialize_entry("os", &platform.os)?;
    for (key, value) in [
        ("os.version", &platform.os_version),
        ("variant", &platform.variant),
    ] {
        if !value.is_empty() {
            map.serialize_entry(key, value)?;
        }
    }
    map.end()
}

/// The OCI configuration. `produced`: vertices that put a layer on what they
/// stand on. `extra`: keys besides (inline cache).
pub fn configuration(
    plan: &ImagePlan,
    platform: &Platform,
    layers: &[Layer],
    produced: &BTreeSet<Id>,
    extra: &Map<String, Value>,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct RootFs<'a> {
        r#type: &'static str,
        diff_ids: Vec<&'a str>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Part<'a> {
        Value(&'a Value),
        Text(&'a str),
        Config(#[serde(serialize_with = "in_order")] &'a Map<String, Value>),
        History(Vec<History>),
        RootFs(RootFs<'a>),
    }
    let created = plan.source_date_epoch.map(rfc3339);
    let mut parts: BTreeMap<&str, Part<'_>> = BTreeMap::new();
    for (key, value) in plan.base.iter().chain(extra) {
        parts.insert(key, Part::Value(value));
    }
    // The base's are not this image's.
    for key in ["created", "author", "variant", "os.version"] {
        parts.remove(key);
    }
    for (key, value) in [
        ("architecture", platform.architecture.as_str()),
        ("os", &platform.os),
        ("variant", &platform.variant),
        ("os.version", &platform.os_version),
        ("author", &plan.author),
        ("created", created.as_deref().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            parts.insert(key, Part::Text(value));
        }
    }
    parts.insert("config", Part::Config(&plan.config));
    parts.insert(
        "history",
        Part::History(history(plan, layers.len(), produced)),
    );
    let diff_ids = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let r#type = "layers";
    parts.insert("rootfs", Part::RootFs(RootFs { r#type, diff_ids }));
    // Maps with text keys are always JSON.
    serde_json::to_vec(&parts).unwrap_or_default()
}

fn in_order<S: Serializer>(config: &Map<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(config.len()))?;
    for key in CONFIG_KEYS {
        if let Some(value) = config.get(key) {
            map.serialize_entry(key, value)?;
        }
    }
    let others: BTreeMap<_, _> = (config.iter())
        .filter(|(key, _)| !CONFIG_KEYS.contains(&key.as_str()))
        .collect();
    for (key, value) in others {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

/// As many entries that are no empty layer as there are layers: what this
/// build made is known; what base images say of theirs may be wrong.
fn history(plan: &ImagePlan, layers: usize, produced: &BTreeSet<Id>) -> Vec<History> {
    let mut history = plan.history.clone();
    let mut of_base = layers;
    for entry in &mut history {
        if let Some(vertex) = entry.vertex {
            entry.empty_layer = !produced.contains(&vertex);
            of_base = of_base.saturating_sub(usize::from(!entry.empty_layer));
        }
    }
    for entry in &mut history {
        if entry.vertex.is_none() && !entry.empty_layer {
            match of_base.checked_sub(1) {
                Some(left) => of_base = left,
                None => entry.empty_layer = true,
            }
        }
    }
    let built = (history.iter()).position(|entry| entry.vertex.is_some());
    let at = built.unwrap_or(history.len());
    let untold = History {
        comment: UNTOLD.to_owned(),
        ..History::default()
    };
    history.splice(at..at, std::iter::repeat_n(untold, of_base));
    if let Some(epoch) = plan.source_date_epoch {
        for entry in &mut history {
            entry.created.get_or_insert_with(|| rfc3339(epoch));
        }
    }
    history
}

/// Layers bottom first.
pub fn manifest(
    family: Family,
    config: &Descriptor,
    layers: &[Descriptor],
    annotations: &Annotations,
) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a> {
        schema_version: u32,
        media_type: &'a str,
        config: &'a Descriptor,
        layers: &'a [Descriptor],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: &'a Annotations,
    }
    indented(&Manifest {
        schema_version: 2,
        media_type: family.manifest(),
        config,
        layers,
        annotations,
    })
}

/// An image of several platforms.
pub fn index(family: Family, manifests: &[Descriptor], annotations: &Annotations) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index<'a> {
        schema_version: u32,
        media_type: &'a str,
        manifests: &'a [Descriptor],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: &'a Annotations,
    }
    indented(&Index {
        schema_version: 2,
        media_type: family.index(),
        manifests,
        annotations,
    })
}

fn indented(document: &impl Serialize) -> Vec<u8> {
    // Structures with text keys are always JSON.
    serde_json::to_vec_pretty(document).unwrap_or_default()
}

/// RFC 3339 of seconds since 1970, in UTC.
pub fn rfc3339(seconds: i64) -> String {
    const DAY: i64 = 86_400;
    let (days, time) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Years from March on, so that the leap day is the last one; eras of 400
    // years have equal lengths.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layer(digest: &str) -> Layer {
        Layer {
            digest: digest.to_owned(),
            stored: "another".to_owned(),
            blob: None,
        }
    }

    fn entry(by: &str, vertex: Option<Id>, empty_layer: bool) -> History {
        History {
            created_by: by.to_owned(),
            vertex,
            empty_layer,
            ..History::default()
        }
    }

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    fn amd64() -> Platform {
        Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            ..Platform::default()
        }
    }

    #[test]
    fn a_configuration_as_buildkit_writes_it() {
        let plan = ImagePlan {
            config: map(
                json!({"Labels": {"b": "1", "a": "2"}, "Cmd": ["sh"], "Env": ["PATH=/bin"], "Shell": ["sh"], "X": 1, "User": "u"}),
            ),
            author: "me".into(),
            base: map(
                json!({"os.features": ["f"], "created": "2001-01-01T00:00:00Z", "variant": "v9"}),
            ),
            history: vec![
                entry("base", None, false),
                entry("ENV", None, true),
                entry("RUN true", Some(4), false),
                entry("RUN touch", Some(5), false),
            ],
            source_date_epoch: None,
        };
        let text = |plan: &ImagePlan| {
            let layers = [layer("sha256:a"), layer("sha256:b")];
            let extra = map(json!({"moby.buildkit.cache.v0": "x"}));
            let bytes = configuration(plan, &amd64(), &layers, &[5].into(), &extra);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(
            text(&plan),
            r#"{"architecture":"amd64","author":"me","config":{"User":"u","Env":["PATH=/bin"],"Cmd":["sh"],"Labels":{"a":"2","b":"1"},"Shell":["sh"],"X":1},"history":[{"created_by":"base"},{"created_by":"ENV","empty_layer":true},{"created_by":"RUN true","empty_layer":true},{"created_by":"RUN touch"}],"moby.buildkit.cache.v0":"x","os":"linux","os.features":["f"],"rootfs":{"type":"layers","diff_ids":["sha256:a","sha256:b"]}}"#
        );
        let dated = ImagePlan {
            source_date_epoch: Some(0),
            ..plan
        };
        let text = text(&dated);
        assert!(
            text.contains(r#""created":"1970-01-01T00:00:00Z","history""#),
            "{text}"
        );
        assert_eq!(text.matches("1970").count(), 5, "{text}");
    }

    #[test]
    fn history_agrees_with_the_layers() {
        let of = |entries: Vec<History>, layers, produced: &[Id]| -> String {
            let plan = ImagePlan {
                history: entries,
                ..ImagePlan::default()
            };
            let produced = produced.iter().copied().collect();
            let history = history(&plan, layers, &produced);
            (history.iter())
                .map(|entry| match (entry.empty_layer, entry.comment == UNTOLD) {
                    (true, _) => '-',
                    (false, true) => '?',
                    (false, false) => '+',
                })
                .collect()
        };
        let run = |id| entry("RUN", Some(id), false);
        let base = || entry("base", None, false);
        // The base says nothing of its two layers, too little, too much.
        assert_eq!(of(vec![run(1), run(2)], 3, &[2]), "??-+");
        assert_eq!(of(vec![base(), run(1)], 3, &[1]), "+?+");
        assert_eq!(of(vec![base(), base(), run(1)], 2, &[1]), "+-+");
        assert_eq!(of(vec![base()], 1, &[]), "+");
        assert_eq!(of(vec![], 1, &[]), "?");
        assert_eq!(of(vec![], 0, &[]), "");
    }

    #[test]
    fn manifests_and_indexes() {
        let descriptor = |kind: &str| Descriptor {
            media_type: kind.to_owned(),
            digest: "sha256:00".into(),
            size: 7,
            ..Descriptor::default()
        };
        let annotations = Annotations::from([("k".to_owned(), "v".to_owned())]);
        let text = manifest(
            Family::Oci,
            &descriptor(Family::Oci.config()),
            &[],
            &annotations,
        );
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n  \"config\": {\n    \"mediaType\": \"application/vnd.oci.image.config.v1+json\",\n    \"digest\": \"sha256:00\",\n    \"size\": 7\n  },\n  \"layers\": [],\n  \"annotations\": {\n    \"k\": \"v\"\n  }\n}"
        );
        let mut of = descriptor(Family::Docker.manifest());
        of.annotations = annotations;
        of.platform = Some(Platform {
            variant: "v7".into(),
            architecture: "arm".into(),
            ..amd64()
        });
        let text = index(Family::Docker, &[of], &Annotations::new());
        let compact: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            compact,
            json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": [{
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": "sha256:00", "size": 7,
                "annotations": {"k": "v"}, "platform": {"architecture": "arm", "os": "linux", "variant": "v7"}}]})
        );
    }

    #[test]
    fn media_types_of_layers_are_translated() {
        let oci = "application/vnd.oci.image.layer.v1.tar";
        let docker = "application/vnd.docker.image.rootfs.diff.tar";
        for (given, family, is) in [
            (format!("{docker}.gzip"), Family::Oci, format!("{oci}+gzip")),
            (
                format!("{oci}+zstd"),
                Family::Docker,
                format!("{docker}.zstd"),
            ),
            (oci.to_owned(), Family::Docker, docker.to_owned()),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned(),
                Family::Oci,
                format!("{oci}+gzip"),
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".to_owned(),
                Family::Oci,
                format!("{oci}+gzip"),
            ),
            (
                "application/vnd.in-toto+json".to_owned(),
                Family::Docker,
                "application/vnd.in-toto+json".to_owned(),
            ),
        ] {
            assert_eq!(family.layer(&given), is);
        }
    }

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (crate::FILE_TIME, "1980-01-02T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
