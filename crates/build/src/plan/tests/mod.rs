//! Dockerfiles and what they come to.

mod reference;
mod shapes;

use std::collections::BTreeMap;

use berth_store::Platform;
use serde_json::{Value, json};

use super::*;
use crate::dockerfile;
use crate::graph::{Exec, FileAction, Files, ImagePlan, MountKind, Op, Plan};

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn platform(text: &str) -> Platform {
    Platform::parse(text, &Platform::default()).unwrap()
}

fn options() -> Options {
    Options {
        build_platform: platform("linux/amd64"),
        platform: platform("linux/amd64"),
        ..Options::default()
    }
}

fn with_args(args: &[(&str, &str)]) -> Options {
    let args = args
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())));
    Options {
        build_args: args.collect(),
        ..options()
    }
}

/// An image with a layer, and this in its `config`.
fn image(config: &Value) -> Base {
    Base {
        digest: DIGEST.to_owned(),
        config: json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base", "author": null}],
        }),
        platform: platform("linux/amd64"),
    }
}

/// Plans with every image being `base`; also which were asked for.
fn plan_on(text: &str, options: &Options, base: &Base) -> (Result<Plan, Error>, Vec<String>) {
    let file = dockerfile::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut bases = BTreeMap::new();
    let mut asked = Vec::new();
    for _ in 0..5 {
        match plan(&file, options, &bases) {
            Ok(Outcome::Done(plan)) => return (Ok(*plan), asked),
            Err(error) => return (Err(error), asked),
            Ok(Outcome::Needs(needs)) => {
                for Need { query, .. } in needs {
                    asked.push(query.reference.clone());
                    bases.insert(query, base.clone());
                }
            }
        }
    }
    panic!("it asks again and again: {asked:?}");
}

fn plan_with(text: &str, options: &Options) -> Plan {
    let (plan, _) = plan_on(text, options, &image(&json!({"Env": ["PATH=/bin"]})));
    plan.unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn plan_of(text: &str) -> Plan {
    plan_with(text, &options())
}

fn error_with(text: &str, options: &Options) -> Error {
    let (plan, _) = plan_on(text, options, &image(&json!({})));
    plan.map(|plan| names(&plan)).expect_err(text)
}

fn names(plan: &Plan) -> Vec<String> {
    plan.graph
        .vertices
        .iter()
        .map(|vertex| vertex.name.clone())
        .collect()
}

fn execs(plan: &Plan) -> Vec<&Exec> {
    let ops = plan.graph.vertices.iter().map(|vertex| &vertex.op);
    ops.filter_map(|op| match op {
        Op::Exec(exec) => Some(exec.as_ref()),
        _ => None,
    })
    .collect()
}

fn files(plan: &Plan) -> Vec<&Files> {
    let ops = plan.graph.vertices.iter().map(|vertex| &vertex.op);
    ops.filter_map(|op| match op {
        Op::Files(files) => Some(files),
        _ => None,
    })
    .collect()
}

fn copies(plan: &Plan) -> Vec<&crate::graph::Copy> {
    let actions = files(plan).into_iter().flat_map(|files| &files.actions);
    actions
        .filter_map(|action| match action {
            FileAction::Copy(copy) => Some(copy),
            _ => None,
        })
        .collect()
}

fn config(plan: &Plan) -> Value {
    Value::Object(plan.image.config.clone())
}

fn created_by(image: &ImagePlan) -> Vec<&str> {
    let own = image
        .history
        .iter()
        .filter(|entry| entry.created_by != "base");
    own.map(|entry| entry.created_by.as_str()).collect()
}

fn value<'a>(exec: &'a Exec, name: &str) -> Option<&'a str> {
    let pair = exec.env.iter().find(|(key, _)| key == name);
    pair.map(|(_, value)| value.as_str())
}

#[test]
fn a_simple_file() {
    let plan = plan_of(
        "FROM debian:12\nWORKDIR app\nCOPY a b ./\nENV A=1 B=\"x y\"\nRUN make $A\nCMD [\"./a\"]\n",
    );
    assert_eq!(
        names(&plan),
        [
            &format!("[1/4] FROM docker.io/library/debian:12@{DIGEST}"),
            "[2/4] WORKDIR app",
            "[internal] load build context",
            "[3/4] COPY a b ./",
            "[4/4] RUN make 1",
        ]
    );
    let inputs: Vec<&[usize]> = plan
        .graph
        .vertices
        .iter()
        .map(|v| v.inputs.as_slice())
        .collect();
    assert_eq!(inputs, [&[][..], &[0], &[], &[1, 2], &[3]]);
    assert_eq!(plan.output, Some(4));
    let Op::Local(local) = &plan.graph.vertices[2].op else {
        panic!("no context")
    };
    assert_eq!(
        (local.name.as_str(), &*local.paths),
        ("context", &["a".to_owned(), "b".to_owned()][..])
    );
    let [copy] = copies(&plan)[..] else { panic!() };
    assert_eq!((copy.from, copy.target.as_str()), (1, "/app/"));
    assert_eq!(copy.sources, ["a", "b"]);
    let [exec] = execs(&plan)[..] else { panic!() };
    assert_eq!(exec.args, ["/bin/sh", "-c", "make $A"]);
    assert_eq!((exec.root, exec.cwd.as_str()), (Some(0), "/app"));
    assert_eq!(value(exec, "SOURCE_DATE_EPOCH"), Some("315619200"));
    assert_eq!(
        config(&plan),
        json!({"Env": ["PATH=/bin", "A=1", "B=x y"], "Cmd": ["./a"], "WorkingDir": "/app", "ArgsEscaped": true})
    );
    assert_eq!(
        created_by(&plan.image),
        [
            "WORKDIR /app",
            "COPY a b ./ # buildkit",
            "ENV A=1 B=x y",
            "RUN /bin/sh -c make $A # buildkit",
            "CMD [\"./a\"]",
        ]
    );
    let vertices: Vec<_> = plan
        .image
        .history
        .iter()
        .map(|entry| entry.vertex)
        .collect();
    assert_eq!(vertices, [None, Some(1), Some(3), None, Some(4), None]);
    let empty: Vec<_> = plan
        .image
        .history
        .iter()
        .map(|entry| entry.empty_layer)
        .collect();
    assert_eq!(empty, [false, false, false, true, false, true]);
    assert!(plan.image.history[1].created.is_none());
    assert_eq!(plan.graph.vertices[4].text, "RUN make $A");
}

#[test]
fn arguments_are_seen_where_they_are_declared() {
    let text = "ARG V=12\nARG U=${V}x\nFROM debian:$V AS a\nRUN one\nARG V\nARG W=w$V\nRUN two\nFROM a\nRUN three\n";
    let plan = plan_with(text, &with_args(&[("V", "13"), ("NONE", "x")]));
    assert!(names(&plan)[0].starts_with("[a 1/3] FROM docker.io/library/debian:13@"));
    let [one, two, three] = execs(&plan)[..] else {
        panic!()
    };
    assert_eq!((value(one, "V"), value(one, "U")), (None, None));
    assert_eq!(
        (value(two, "V"), value(two, "W")),
        (Some("13"), Some("w13"))
    );
    assert_eq!(value(three, "W"), Some("w13"));
    assert_eq!(value(three, "NONE"), None);
    assert_eq!(
        created_by(&plan.image),
        [
            "RUN /bin/sh -c one # buildkit",
            "ARG V=13",
            "ARG W=w13",
            "RUN |2 V=13 W=w13 /bin/sh -c two # buildkit",
            "RUN |2 V=13 W=w13 /bin/sh -c three # buildkit",
        ]
    );
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, lines, why) in [
        (
            "ARG X\nFROM ${X}\n",
            Some(2),
            "base name (${X}) should not be blank",
        ),
        (
            "FROM a AS b\nCOPY --from=b /x /\n",
            Some(2),
            "circular dependency detected on stage: b",
        ),
        (
            "FROM a AS x\nCOPY --from=y /1 /\nFROM a AS y\nCOPY --from=x /2 /\n",
            Some(4),
            "circular dependency detected on stage: x",
        ),
        (
            "FROM a\nCOPY --from=9 / /\n",
            Some(2),
            "invalid stage index 9",
        ),
        (
            "FROM a\nCOPY --from=$X / /\n",
            Some(2),
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        ),
        (
            "FROM a/UP\n",
            Some(1),
            "failed to parse stage name \"a/UP\": invalid reference format: repository name (a/UP) must be lowercase",
        ),
        (
            "FROM --platform=moon a\n",
            Some(1),
            "failed to parse platform moon: \"moon\": unknown operating system or architecture: invalid argument",
        ),
    ] {
        let error = error_with(text, &options());
        assert_eq!(error.message, why, "{text}");
        assert_eq!(error.lines.map(|lines| lines.start), lines, "{text}");
    }
}

#[test]
fn mounts() {
    let plan = plan_of(
        "FROM a AS s\nFROM a\nRUN --mount=type=cache,target=/c --mount=from=s,target=x,source=/y cc\n",
    );
    let [exec] = execs(&plan)[..] else { panic!() };
    let kinds: Vec<&MountKind> = exec.mounts.iter().map(|mount| &mount.kind).collect();
    assert!(
        matches!(kinds[0], MountKind::Cache { id, .. } if id == "/c"),
        "{kinds:?}"
    );
    assert!(
        matches!(kinds[1], MountKind::Bind { from: Some(0), source } if source == "/y"),
        "{kinds:?}"
    );
    assert_eq!(exec.mounts[1].target, "/x");
}
