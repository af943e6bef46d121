//! What a graph is made of.

use super::*;
use crate::dockerfile::{Network, Security, Sharing};
use crate::graph::{Git, Http, Local, Unpack};

fn locals(plan: &Plan) -> BTreeMap<&str, Vec<&str>> {
    let ops = plan.graph.vertices.iter().map(|vertex| &vertex.op);
    ops.filter_map(|op| match op {
        Op::Local(Local { name, paths }) => {
            Some((name.as_str(), paths.iter().map(String::as_str).collect()))
        }
        _ => None,
    })
    .collect()
}

fn with_context(name: &str, context: NamedContext) -> Options {
    Options {
        contexts: [(name.to_owned(), context)].into(),
        ..options()
    }
}

#[test]
fn each_vertex_comes_after_its_inputs() {
    let text = "FROM a AS x\nRUN 1\nFROM b AS y\nCOPY --from=x /1 /\nRUN --mount=from=c,target=/m 2\n\
        FROM scratch\nCOPY --from=y / /\nCOPY --link --from=x / /l/\nADD ctx /\nCOPY <<F /f\nF\n";
    let plan = plan_of(text);
    for (id, vertex) in plan.graph.vertices.iter().enumerate() {
        assert!(vertex.inputs.iter().all(|input| *input < id), "{vertex:?}");
    }
    let again = plan_of(text);
    assert_eq!(format!("{plan:?}"), format!("{again:?}"));
}

#[test]
fn stages_that_nothing_needs_are_not_asked_about() {
    let text = "FROM one AS a\nFROM two AS b\nRUN b\nFROM three AS c\nCOPY --from=four /x /\nFROM a\nRUN d\n";
    let base = image(&json!({}));
    let asked = |target: &str| {
        let options = Options {
            target: target.to_owned(),
            ..options()
        };
        let (plan, mut asked) = plan_on(text, &options, &base);
        plan.unwrap();
        asked.sort();
        asked
    };
    let full = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .map(|name| format!("docker.io/library/{name}:latest"))
            .collect()
    };
    assert_eq!(asked(""), full(&["one"]));
    assert_eq!(asked("B"), full(&["two"]));
    assert_eq!(asked("2"), full(&["four", "three"]));
}

#[test]
fn only_what_is_used_of_the_context_is_sent() {
    for (text, wanted) in [
        ("COPY a ./b/../c /x/\n", vec!["a", "c"]),
        (
            "COPY src/*.c Makefile /x/\nADD t.tar /\n",
            vec!["Makefile", "src/*.c", "t.tar"],
        ),
        ("COPY a /\nCOPY . /\n", vec![]),
        ("COPY a/../../ /\n", vec![]),
        ("RUN --mount=source=/d,target=/m x\n", vec!["d"]),
        ("RUN --mount=target=/m x\n", vec![]),
        ("COPY --parents a/./b/**/*.c c/d /\n", vec!["a/b", "c/d"]),
        ("COPY --parents **/x /\n", vec![]),
    ] {
        let plan = plan_of(&format!("FROM a\n{text}"));
        assert_eq!(locals(&plan)["context"], wanted, "{text}");
    }
    for text in [
        "COPY <<EOF /\nEOF\n",
        "COPY --from=b / /\n",
        "ADD http://host/a /\n",
        "RUN --mount=type=cache,target=/m x\n",
    ] {
        assert!(
            locals(&plan_of(&format!("FROM a\n{text}"))).is_empty(),
            "{text}"
        );
    }
}

#[test]
fn every_kind_of_mount() {
    let plan = plan_with(
        "FROM a AS s\nRUN s\nFROM a\nWORKDIR /w\nENV D=dir\n\
         RUN --mount=type=bind,from=s,source=o,target=$D,rw \
         --mount=type=cache,target=rel/,id=i,sharing=locked,from=s,source=c,uid=1,gid=2,mode=700 \
         --mount=type=cache,target=/c/../d \
         --mount=type=tmpfs,target=/t,size=64m \
         --mount=type=secret,id=a/tok,required \
         --mount=type=secret,id=b,env=TOK \
         --mount=type=secret,target=/etc/key,mode=444,uid=3 \
         --mount=type=secret,id=e,env=E,target=/f \
         --mount=type=ssh --mount=type=ssh,id=k,target=/s x\n",
        &with_args(&[("BUILDKIT_CACHE_MOUNT_NS", "ns")]),
    );
    let exec = execs(&plan)[1];
    let mounts: Vec<(&str, bool)> = exec
        .mounts
        .iter()
        .map(|mount| (mount.target.as_str(), mount.read_only))
        .collect();
    assert_eq!(
        mounts,
        [
            ("/w/dir", false),
            ("/w/rel", false),
            ("/d", false),
            ("/t", false),
            ("/run/secrets/tok", true),
            ("/run/secrets/b", true),
            ("/etc/key", true),
            ("/f", true),
            ("/run/buildkit/ssh_agent.0", true),
            ("/s", true),
        ]
    );
    let stage = |input: usize| &plan.graph.vertices[plan.graph.vertices.len() - 1].inputs[input];
    let kinds: Vec<&MountKind> = exec.mounts.iter().map(|mount| &mount.kind).collect();
    assert!(
        matches!(kinds[0], MountKind::Bind { from: Some(from), source } if source == "/o" && *stage(*from) == 1)
    );
    assert_eq!(
        *kinds[1],
        MountKind::Cache {
            id: "ns/i".into(),
            sharing: Sharing::Locked,
            from: Some(1),
            source: "/c".into(),
            mode: 0o700,
            uid: 1,
            gid: 2
        }
    );
    assert_eq!(
        *kinds[2],
        MountKind::Cache {
            id: "ns//d".into(),
            sharing: Sharing::Shared,
            from: None,
            source: "/".into(),
            mode: 0o755,
            uid: 0,
            gid: 0
        }
    );
    assert_eq!(*kinds[3], MountKind::Tmpfs { size: 64 << 20 });
    let secret = |id: &str, required, mode, uid, file, env: Option<&str>| MountKind::Secret {
        id: id.to_owned(),
        required,
        mode,
        uid,
        gid: 0,
        file,
        env: env.map(str::to_owned),
    };
    assert_eq!(*kinds[4], secret("a/tok", true, 0o400, 0, true, None));
    assert_eq!(*kinds[5], secret("b", false, 0o400, 0, false, Some("TOK")));
    assert_eq!(*kinds[6], secret("key", false, 0o444, 3, true, None));
    assert_eq!(*kinds[7], secret("e", false, 0o400, 0, true, Some("E")));
    assert!(matches!(kinds[8], MountKind::Ssh { id, mode: 0o600, .. } if id == "default"));
    assert!(matches!(kinds[9], MountKind::Ssh { id, .. } if id == "k"));
    assert_eq!(
        value(exec, "SSH_AUTH_SOCK"),
        Some("/run/buildkit/ssh_agent.0")
    );
}

#[test]
fn how_a_step_runs() {
    let mut options = with_args(&[("https_proxy", "http://p"), ("UNUSED", "x")]);
    options.network = Network::Host;
    options.extra_hosts = vec!["h:1.2.3.4".to_owned()];
    let plan = plan_with(
        "FROM a\nRUN one\nRUN --network=none --security=insecure [\"/two\", \"$X\"]\nSHELL [\"/bin/bash\", \"-c\"]\nUSER u\nRUN three\n",
        &options,
    );
    let [one, two, three] = execs(&plan)[..] else {
        panic!()
    };
    assert_eq!(
        (one.network, one.security),
        (Network::Host, Security::Sandbox)
    );
    assert_eq!(
        (two.network, two.security),
        (Network::None, Security::Insecure)
    );
    assert_eq!(two.args, ["/two", "$X"]);
    assert_eq!(three.args, ["/bin/bash", "-c", "three"]);
    assert_eq!((one.user.as_str(), three.user.as_str()), ("", "u"));
    assert_eq!(one.hostname, "buildkitsandbox");
    assert_eq!(one.extra_hosts, ["h:1.2.3.4"]);
    let proxies =
        ["HTTPS_PROXY", "https_proxy"].map(|name| (name.to_owned(), "http://p".to_owned()));
    assert_eq!(one.proxies, proxies);
    assert_eq!(value(one, "https_proxy"), None);
    assert!(!created_by(&plan.image).join(" ").contains("proxy"));
    // What is not declared changes no key.
    let without = plan_with("FROM a\nRUN one\n", &with_args(&[]));
    let mut same = execs(&without)[0].clone();
    same.network = Network::Host;
    same.extra_hosts = vec!["h:1.2.3.4".to_owned()];
    assert_eq!(
        serde_json::to_value(&same).unwrap(),
        serde_json::to_value(one).unwrap()
    );
    // What a program may see of its limits does.
    options.ulimits = vec!["nofile=64:64".to_owned()];
    options.shm_size = 1 << 20;
    let limited = plan_with("FROM a\nRUN one\n", &options);
    let json = serde_json::to_value(execs(&limited)[0]).unwrap();
    assert_eq!(json["ulimits"], serde_json::json!(["nofile=64:64"]));
    assert_eq!(json["shm_size"], 1 << 20);
}

#[test]
fn the_time_of_files() {
    let text = "FROM a\nRUN one\n";
    let shown = |args: &[(&str, &str)], text: &str| {
        let plan = plan_with(text, &with_args(args));
        let shown = value(execs(&plan)[0], "SOURCE_DATE_EPOCH").map(str::to_owned);
        (
            shown,
            plan.image.source_date_epoch,
            plan.image.history[1].created.clone(),
        )
    };
    assert_eq!(shown(&[], text), (Some("315619200".into()), None, None));
    assert_eq!(
        shown(&[("SOURCE_DATE_EPOCH", "1000")], text),
        (
            Some("1000".into()),
            Some(1000),
            Some("1970-01-01T00:16:40Z".into())
        )
    );
    assert_eq!(
        shown(&[("SOURCE_DATE_EPOCH", "")], text),
        (None, None, None)
    );
    let own = "FROM a\nENV SOURCE_DATE_EPOCH=5\nRUN one\n";
    assert_eq!(shown(&[], own).0, Some("5".into()));
    let global = "ARG SOURCE_DATE_EPOCH=7\nFROM a\nRUN one\n";
    assert_eq!(shown(&[], global).1, Some(7));
}

#[test]
fn add_of_addresses() {
    let sum = format!("sha256:{}", "0".repeat(64));
    let plan = plan_of(&format!(
        "FROM a\nADD --checksum={sum} --unpack=true https://host/d/a%5Bb.tgz?x=1 /opt/\n\
         ADD http://host f.tar https://host/r.git?ref=v1&subdir=s&keep-git-dir=1 /x/\n\
         ADD --keep-git-dir=true --checksum=abc git@host:r#main:d /y\n"
    ));
    let sources: Vec<&Op> = plan
        .graph
        .vertices
        .iter()
        .map(|vertex| &vertex.op)
        .filter(|op| matches!(op, Op::Http(_) | Op::Git(_)))
        .collect();
    let http = |url: &str, checksum: &str, filename: &str| {
        Op::Http(Http {
            url: url.into(),
            checksum: checksum.into(),
            filename: filename.into(),
        })
    };
    assert_eq!(
        *sources[0],
        http("https://host/d/a%5Bb.tgz?x=1", &sum, "a[b.tgz")
    );
    assert_eq!(*sources[1], http("http://host", "", "__unnamed__"));
    assert_eq!(
        *sources[2],
        Op::Git(Git {
            remote: "https://host/r.git".into(),
            reference: "v1".into(),
            subdir: "s".into(),
            keep_git_dir: true,
            checksum: String::new(),
            submodules: true,
        })
    );
    assert_eq!(
        *sources[3],
        Op::Git(Git {
            remote: "git@host:r".into(),
            reference: "main".into(),
            subdir: "d".into(),
            keep_git_dir: true,
            checksum: "abc".into(),
            submodules: true,
        })
    );
    let copies: Vec<(&[String], &str, Unpack)> = copies(&plan)
        .iter()
        .map(|copy| (copy.sources.as_slice(), copy.target.as_str(), copy.unpack))
        .collect();
    let one = |text: &str| vec![text.to_owned()];
    assert_eq!(copies[0], (&*one("a\\[b.tgz"), "/opt/", Unpack::Archives));
    assert_eq!(copies[1], (&*one("__unnamed__"), "/x/", Unpack::Never));
    assert_eq!(copies[2], (&*one("f.tar"), "/x/", Unpack::Archives));
    assert_eq!(copies[3], (&*one("."), "/x/", Unpack::Never));
    let error = error_with(
        "FROM a\nADD --keep-git-dir=false https://host/r.git?keep-git-dir=1 /x/\n",
        &options(),
    );
    assert_eq!(error.message, "inconsistent keep-git-dir configuration");
}

#[test]
fn links_stand_beside_their_base() {
    let plan = plan_of("FROM a\nCOPY --link x /y\nRUN r\n");
    let vertices = &plan.graph.vertices;
    let merge = vertices
        .iter()
        .position(|vertex| vertex.op == Op::Merge)
        .unwrap();
    assert_eq!(vertices[merge].inputs, [0, 2]);
    assert!(matches!(&vertices[2].op, Op::Files(files) if files.base.is_none()));
    assert_eq!(vertices[merge + 1].inputs, [merge]);
    assert_eq!(plan.image.history[1].vertex, Some(2));
    // Nothing to stand beside, or a name that only the base knows.
    for text in [
        "FROM scratch\nCOPY --link x /y\n",
        "FROM a\nCOPY --link --chown=web:1 x /y\n",
    ] {
        let plan = plan_of(text);
        let mut vertices = plan.graph.vertices.iter();
        assert!(vertices.all(|vertex| vertex.op != Op::Merge), "{text}");
    }
    let plan = plan_of("FROM a\nCOPY --link --chown=1:2 x /y\n");
    let mut vertices = plan.graph.vertices.iter();
    assert!(vertices.any(|vertex| vertex.op == Op::Merge));
}

#[test]
fn named_contexts_go_before_stages_and_images() {
    let text = "FROM debian AS base\nRUN never\nFROM base\nCOPY --from=other /x /\nRUN x\n";
    let local = plan_with(text, &with_context("other", NamedContext::Local));
    assert_eq!(locals(&local)["other"], ["x"]);
    assert!(names(&local).contains(&"[context other] load from client".to_owned()));
    let image = plan_with(
        text,
        &with_context(
            "base",
            NamedContext::Image("docker-image://alpine:3".into()),
        ),
    );
    assert_eq!(
        names(&image)[0],
        format!("[context base] docker.io/library/alpine:3@{DIGEST}")
    );
    assert_eq!(execs(&image).len(), 1);
    assert!(!names(&image).join("\n").contains("debian"));
    for (key, name) in [
        ("debian", "debian:latest"),
        ("docker.io/library/debian:12", "debian:12"),
    ] {
        let plan = plan_with(
            &format!("FROM {name}\nRUN x\n"),
            &with_context(key, NamedContext::Local),
        );
        assert_eq!(locals(&plan)[key], [""; 0], "{key}");
        assert!(
            matches!(&files(&plan)[0].actions[0], FileAction::Copy(copy) if copy.target == "/")
        );
        assert_eq!(execs(&plan)[0].root, Some(0));
    }
    let git = plan_with(
        "FROM scratch\nCOPY --from=src /a /\n",
        &with_context("src", NamedContext::Git("https://host/r.git#v1".into())),
    );
    assert!(matches!(&git.graph.vertices[0].op, Op::Git(git) if git.reference == "v1"));
    let http = plan_with(
        "FROM scratch\nCOPY --from=src /a /\n",
        &with_context("src", NamedContext::Http("https://host/r.tgz".into())),
    );
    assert!(matches!(&http.graph.vertices[0].op, Op::Http(_)));
    assert_eq!(copies(&http)[0].unpack, Unpack::Archives);
}

#[test]
fn several_platforms() {
    let options = Options {
        platform: platform("linux/arm64"),
        multi_platform: true,
        ..options()
    };
    let plan = plan_with(
        "FROM --platform=$BUILDPLATFORM go AS build\nARG TARGETARCH\nRUN x\nFROM debian\nCOPY --from=build /x /\nRUN y\n",
        &options,
    );
    let names = names(&plan);
    assert!(
        names[0].starts_with("[linux/amd64 build 1/2] FROM "),
        "{names:?}"
    );
    assert_eq!(names[1], "[linux/amd64->arm64 build 2/2] RUN x");
    assert!(
        names[2].starts_with("[linux/arm64 stage-1 1/3] FROM "),
        "{names:?}"
    );
    let platforms: Vec<String> = execs(&plan)
        .iter()
        .map(|exec| exec.platform.to_string())
        .collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    assert_eq!(value(execs(&plan)[0], "TARGETARCH"), Some("arm64"));
}

#[test]
fn caches_that_are_not_to_be_used() {
    let text = "FROM a AS x\nRUN 1\nWORKDIR /w\nFROM x AS y\nCOPY c /\nRUN 2\n";
    let ignored = |options: &Options| -> Vec<String> {
        let plan = plan_with(text, options);
        let vertices = plan
            .graph
            .vertices
            .iter()
            .filter(|vertex| vertex.ignore_cache);
        vertices.map(|vertex| vertex.text.clone()).collect()
    };
    assert!(ignored(&options()).is_empty());
    let all = Options {
        no_cache: true,
        ..options()
    };
    assert_eq!(ignored(&all), ["RUN 1", "WORKDIR /w", "COPY c /", "RUN 2"]);
    let one = Options {
        no_cache_filter: vec!["Y".to_owned()],
        ..options()
    };
    assert_eq!(ignored(&one), ["COPY c /", "RUN 2"]);
}

#[test]
fn images_without_layers_are_scratch() {
    let base = Base {
        config: json!({"config": {"Env": ["A=1"]}, "rootfs": {"diff_ids": []}}),
        ..image(&json!({}))
    };
    let (plan, _) = plan_on("FROM a\nCOPY x /\n", &options(), &base);
    let plan = plan.unwrap();
    assert_eq!(plan.graph.vertices.len(), 2);
    assert_eq!(config(&plan)["Env"][0], "A=1");
}

#[test]
fn labels_and_what_else_a_base_says() {
    let options = Options {
        labels: [("z".to_owned(), "1".to_owned())].into(),
        ..options()
    };
    let base = Base {
        config: json!({
            "os": "linux", "os.features": ["f"], "variant": "v8", "author": "me", "created": "2020",
            "config": {"Labels": {"z": "0", "y": "2"}}, "rootfs": {"diff_ids": [DIGEST]},
        }),
        ..image(&json!({}))
    };
    let (plan, _) = plan_on("FROM a\n", &options, &base);
    let plan = plan.unwrap();
    assert_eq!(config(&plan)["Labels"], json!({"z": "1", "y": "2"}));
    assert_eq!(plan.image.author, "me");
    assert_eq!(
        Value::Object(plan.image.base),
        json!({"os.features": ["f"], "variant": "v8"})
    );
}

#[test]
fn hostile_files_end() {
    // Values that double.
    let mut text = String::from("FROM a\nENV A=aaaaaaaaaaaaaaaa\n");
    text.push_str(&"ENV A=$A$A\n".repeat(40));
    assert!(
        error_with(&text, &options())
            .message
            .contains("longer than")
    );
    // Environments and histories that add up.
    let mut text = String::from("FROM a\n");
    for n in 0..20_000 {
        text.push_str(&format!("ENV V{n}={n}\nRUN x\n"));
    }
    assert!(error_with(&text, &options()).message.contains("MiB"));
    // A long chain, and many triggers.
    let mut text = String::from("FROM a AS s0\nRUN x\n");
    for n in 1..4000 {
        text.push_str(&format!("FROM a AS s{n}\nCOPY --from=s{} / /\n", n - 1));
    }
    assert!(plan_of(&text).graph.vertices.len() > 3000);
    let mut text = String::from("FROM a AS t\n");
    text.push_str(&"ONBUILD ENV A=1\n".repeat(1000));
    for n in 0..30 {
        text.push_str(&format!("FROM t AS s{n}\n"));
    }
    text.push_str("FROM a\n");
    for n in 0..30 {
        text.push_str(&format!("COPY --from=s{n} / /\n"));
    }
    assert!(
        error_with(&text, &options())
            .message
            .contains("ONBUILD triggers")
    );
}

proptest::proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "(FROM [as${}]{1,3}( AS [ab])?\n|(COPY|ADD)( --from=[ab01$])? [a./*$-]{1,4} [a./]{1,2}\n|RUN( --mount=(type=(bind|cache|secret|ssh|tmpfs),)?(from=[ab],)?target=[a./$]{0,3})? [a$]{1,2}\n|(ENV|ARG|LABEL|ONBUILD|WORKDIR|EXPOSE|USER|VOLUME) [ab$={}:-]{1,5}\n){0,12}") {
        if let Ok(file) = dockerfile::parse(&text) {
            let base = image(&json!({"OnBuild": ["COPY --from=a / /"]}));
            let mut bases = BTreeMap::new();
            while let Ok(Outcome::Needs(needs)) = plan(&file, &options(), &bases) {
                bases.extend(needs.into_iter().map(|need| (need.query, base.clone())));
            }
        }
    }
}

#[test]
fn what_must_be_looked_up_has_the_place_that_names_it_first() {
    let text = "ARG BASE=one\nFROM $BASE AS a\nRUN x\nCOPY --from=two /x /y\nFROM a\nRUN --mount=from=two,target=/t x\nCOPY --from=one /x /z\n";
    let file = dockerfile::parse(text).unwrap();
    let Ok(Outcome::Needs(needs)) = plan(&file, &options(), &BTreeMap::new()) else {
        panic!("it asks for nothing");
    };
    let places: Vec<(&str, usize)> = (needs.iter())
        .map(|need| (need.query.reference.as_str(), need.lines.start))
        .collect();
    assert_eq!(
        places,
        [
            ("docker.io/library/one:latest", 2),
            ("docker.io/library/two:latest", 4),
        ]
    );
}
