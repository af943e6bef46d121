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

    let Kind::Image { options, push, .. } = one(&request("registry", &[("name", "r:5000/a")], &[]))
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
