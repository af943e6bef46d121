//! Histories, names and configurations as BuildKit of Docker 28.5 gives them for
//! the same files: its answers were written down here.

use serde_json::json;

use super::*;

/// "plain:1" has an empty configuration, "base:1" this one.
fn base() -> Base {
    image(&json!({
        "Env": ["FOO=base"], "Entrypoint": ["/bin/old"], "Cmd": ["oldcmd"],
        "WorkingDir": "/basewd", "OnBuild": ["RUN echo trigger"],
    }))
}

fn check(text: &str, args: &[(&str, &str)], names: &[&str], history: &[&str]) -> Plan {
    let options = with_args(args);
    let (plan, _) = plan_on(text, &options, &image(&json!({})));
    let plan = plan.unwrap_or_else(|error| panic!("{text}: {error}"));
    compare(text, &plan, names, history);
    plan
}

/// Vertices without FROM and the like, and what the instructions are in the
/// history.
fn compare(text: &str, plan: &Plan, names: &[&str], history: &[&str]) {
    let shown: Vec<String> = super::names(plan)
        .into_iter()
        .filter(|name| !name.starts_with("[internal]") && !name.contains("FROM "))
        .collect();
    assert_eq!(shown, names, "{text}");
    assert_eq!(created_by(&plan.image), history, "{text}");
}

#[test]
fn arguments_and_environment() {
    let plan = check(
        "FROM plain:1\nENV A=env\nARG A=arg\nRUN echo \"A=$A\"; env\nRUN echo $A\n",
        &[],
        &["[2/3] RUN echo \"A=arg\"; env", "[3/3] RUN echo arg"],
        &[
            "ENV A=env",
            "ARG A=arg",
            "RUN |1 A=arg /bin/sh -c echo \"A=$A\"; env # buildkit",
            "RUN |1 A=arg /bin/sh -c echo $A # buildkit",
        ],
    );
    assert_eq!(
        config(&plan)["Env"],
        json!([format!("PATH={}", config::DEFAULT_PATH), "A=env"])
    );
    // The image's environment goes before the arguments of the stage below.
    check(
        "FROM plain:1 AS x\nENV A=env\nARG A=arg\nFROM x\nRUN echo A=$A\n",
        &[],
        &["[stage-1 1/1] RUN echo A=env"],
        &[
            "ENV A=env",
            "ARG A=arg",
            "RUN |1 A=env /bin/sh -c echo A=$A # buildkit",
        ],
    );
    check(
        "ARG A=1\nARG B=$A\nFROM plain:1\nARG A\nARG B=x$B\nARG C=${A}y\nRUN env\n",
        &[],
        &["[2/2] RUN env"],
        &[
            "ARG A=1",
            "ARG B=x",
            "ARG C=1y",
            "RUN |3 A=1 B=x C=1y /bin/sh -c env # buildkit",
        ],
    );
    check(
        "ARG A=1\nFROM plain:1\nARG A=2\nRUN echo $A\n",
        &[("A", "3")],
        &["[2/2] RUN echo 3"],
        &["ARG A=3", "RUN |1 A=3 /bin/sh -c echo $A # buildkit"],
    );
    check(
        "FROM plain:1 AS a\nONBUILD ARG Q=7\nONBUILD RUN echo $Q\nFROM a\nRUN echo $Q\n",
        &[],
        &[
            "[stage-1 1/3] ONBUILD RUN echo 7",
            "[stage-1 2/3] RUN echo 7",
        ],
        &[
            "ARG Q=7",
            "RUN |1 Q=7 /bin/sh -c echo $Q # buildkit",
            "RUN |1 Q=7 /bin/sh -c echo $Q # buildkit",
        ],
    );
    let plan = check(
        "FROM plain:1\nENV A=1 B=$A A=3\nENV A=2\nLABEL x y\nRUN env\n",
        &[],
        &["[2/2] RUN env"],
        &[
            "ENV A=1 B= A=3",
            "ENV A=2",
            "LABEL x=y",
            "RUN /bin/sh -c env # buildkit",
        ],
    );
    let env = &config(&plan)["Env"];
    assert_eq!((&env[1], &env[2]), (&json!("A=2"), &json!("B=")));
    check(
        "FROM plain:1\nENV PATH=/x:$PATH\nENV X=\"a  b\" Y='q' Z=a\\ b\nRUN /bin/env\n",
        &[],
        &["[2/2] RUN /bin/env"],
        &[
            "ENV PATH=/x:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ENV X=a  b Y=q Z=a b",
            "RUN /bin/sh -c /bin/env # buildkit",
        ],
    );
    let plan = check(
        "FROM --platform=$BUILDPLATFORM plain:1\nARG TARGETOS TARGETARCH TARGETVARIANT BUILDARCH TARGETSTAGE\nRUN env\n",
        &[],
        &["[2/2] RUN env"],
        &[
            "ARG TARGETOS=linux TARGETARCH=amd64 TARGETVARIANT= BUILDARCH=amd64 TARGETSTAGE=default",
            "RUN |5 TARGETOS=linux TARGETARCH=amd64 TARGETVARIANT= BUILDARCH=amd64 TARGETSTAGE=default /bin/sh -c env # buildkit",
        ],
    );
    assert_eq!(value(execs(&plan)[0], "TARGETVARIANT"), Some(""));
}

#[test]
fn the_configuration() {
    let text = "FROM base:1\nENTRYPOINT [\"/e\"]\nONBUILD RUN echo mine\nWORKDIR rel\n\
        HEALTHCHECK --interval=90s --timeout=1500ms --retries=3 CMD echo ok\n\
        EXPOSE 80 53/udp 9000-9001\nVOLUME /b /a\nCMD []\nSHELL [\"/bin/sh\",\"-ec\"]\n\
        CMD echo \"hi\nSTOPSIGNAL TERM\nLABEL a=b\nMAINTAINER x y\nRUN echo\nUSER 5\n\
        ONBUILD ADD x /\n";
    let (plan, _) = plan_on(text, &options(), &base());
    let plan = plan.unwrap();
    compare(
        text,
        &plan,
        &[
            "[2/4] ONBUILD RUN echo trigger",
            "[3/4] WORKDIR rel",
            "[4/4] RUN echo",
        ],
        &[
            "RUN /bin/sh -c echo trigger # buildkit",
            "ENTRYPOINT [\"/e\"]",
            "WORKDIR /basewd/rel",
            "HEALTHCHECK {Test:[CMD-SHELL echo ok] Interval:1m30s Timeout:1.5s StartPeriod:0s StartInterval:0s Retries:3}",
            "EXPOSE [53/udp 80/tcp 9000/tcp 9001/tcp]",
            "VOLUME [/b /a]",
            "CMD []",
            "SHELL [/bin/sh -ec]",
            "CMD [\"/bin/sh\" \"-ec\" \"echo \\\"hi\"]",
            "STOPSIGNAL TERM",
            "LABEL a=b",
            "MAINTAINER x y",
            "RUN /bin/sh -ec echo # buildkit",
            "USER 5",
        ],
    );
    assert_eq!(plan.image.author, "x y");
    assert_eq!(
        config(&plan),
        json!({
            "ArgsEscaped": true,
            "Cmd": ["/bin/sh", "-ec", "echo \"hi"],
            "Entrypoint": ["/e"],
            "Env": ["FOO=base", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "ExposedPorts": {"53/udp": {}, "80/tcp": {}, "9000/tcp": {}, "9001/tcp": {}},
            "Healthcheck": {"Interval": 90_000_000_000_u64, "Retries": 3, "Test": ["CMD-SHELL", "echo ok"], "Timeout": 1_500_000_000},
            "Labels": {"a": "b"},
            "OnBuild": ["RUN echo mine", "ADD x /"],
            "Shell": ["/bin/sh", "-ec"],
            "StopSignal": "TERM",
            "User": "5",
            "Volumes": {"/a": {}, "/b": {}},
            "WorkingDir": "/basewd/rel",
        })
    );
    let (plan, _) = plan_on("FROM base:1\n", &options(), &base());
    assert_eq!(
        config(&plan.unwrap()),
        json!({
            "Cmd": ["oldcmd"], "Entrypoint": ["/bin/old"], "WorkingDir": "/basewd",
            "Env": ["FOO=base", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        })
    );
    let plan = plan_of("FROM scratch\nCOPY Dockerfile /\n");
    assert_eq!(
        config(&plan),
        json!({"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"})
    );
    let plan = plan_of("FROM plain:1\nHEALTHCHECK NONE\n");
    assert_eq!(config(&plan)["Healthcheck"], json!({"Test": ["NONE"]}));
}

#[test]
fn entrypoint_and_cmd_of_bases() {
    let of = |text: &str| {
        let config = config(&plan_of(text));
        (config["Entrypoint"].clone(), config["Cmd"].clone())
    };
    assert_eq!(
        of("FROM p AS a\nCMD [\"x\"]\nFROM a\nENTRYPOINT [\"e\"]\n"),
        (json!(["e"]), Value::Null)
    );
    assert_eq!(
        of("FROM p AS a\nENTRYPOINT [\"e\"]\nCMD [\"x\"]\nFROM a\nCMD [\"y\"]\n"),
        (json!(["e"]), json!(["y"]))
    );
    assert_eq!(
        of("FROM p\nCMD [\"x\"]\nENTRYPOINT [\"e\"]\n"),
        (json!(["e"]), json!(["x"]))
    );
    assert_eq!(
        of("FROM p\nENTRYPOINT echo a\\\n  b   c\n"),
        (json!(["/bin/sh", "-c", "echo a  b   c"]), Value::Null)
    );
}

#[test]
fn directories() {
    let plan = check(
        "FROM plain:1\nWORKDIR /app/\nRUN pwd\nWORKDIR //x//y\nRUN pwd\nWORKDIR ''\nRUN pwd\nWORKDIR ..\nRUN pwd\nWORKDIR ./z/\nRUN pwd\n",
        &[],
        &[
            "[ 2/11] WORKDIR /app/",
            "[ 3/11] RUN pwd",
            "[ 4/11] WORKDIR //x//y",
            "[ 5/11] RUN pwd",
            "[ 6/11] WORKDIR ",
            "[ 7/11] RUN pwd",
            "[ 8/11] WORKDIR ..",
            "[ 9/11] RUN pwd",
            "[10/11] WORKDIR ./z/",
            "[11/11] RUN pwd",
        ],
        &[
            "WORKDIR /app/",
            "RUN /bin/sh -c pwd # buildkit",
            "WORKDIR //x//y",
            "RUN /bin/sh -c pwd # buildkit",
            "WORKDIR //x//y",
            "RUN /bin/sh -c pwd # buildkit",
            "WORKDIR /x",
            "RUN /bin/sh -c pwd # buildkit",
            "WORKDIR /x/z",
            "RUN /bin/sh -c pwd # buildkit",
        ],
    );
    let directories: Vec<&str> = execs(&plan).iter().map(|exec| exec.cwd.as_str()).collect();
    assert_eq!(directories, ["/app", "/x/y", "/x/y", "/x", "/x/z"]);
    let plan = check(
        "FROM plain:1\nENV D=/q U=9\nUSER $U\nWORKDIR $D/../a\nWORKDIR b\nWORKDIR /\nRUN pwd\n",
        &[],
        &["[2/5] WORKDIR /q/../a", "[3/5] WORKDIR b", "[4/5] RUN pwd"],
        &[
            "ENV D=/q U=9",
            "USER 9",
            "WORKDIR /q/../a",
            "WORKDIR /a/b",
            "WORKDIR /",
            "RUN /bin/sh -c pwd # buildkit",
        ],
    );
    let made = &files(&plan)[0].actions[0];
    assert!(
        matches!(made, FileAction::MakeDir { path, mode: 0o755, owner } if path == "/a" && owner.as_deref() == Some("9")),
        "{made:?}"
    );
    assert!(plan.image.history[5].empty_layer);
}

#[test]
fn documents() {
    let plan = check(
        "FROM plain:1\nRUN <<EOF\necho one\necho two\nEOF\nRUN <<EOF\n#!/bin/cat\nscript\nEOF\n\
         RUN cat <<A <<B\naaa\nA\nbbb\nB\nCOPY <<f.txt <<'g.txt' /d/\n$FOO \\x \"q\"\nf.txt\n$FOO\ng.txt\n\
         RUN <<-EOF\n\techo tab\n\tEOF\nRUN 3<<EOF cat <&3\nhi\nEOF\nRUN <<EOF cat\nz\nEOF\n\
         COPY --chmod=755 --chown=3:4 <<EOF /s\na$V \"$V\" \\$V\nEOF\n",
        &[],
        &[
            "[2/9] RUN <<EOF (echo one...)",
            "[3/9] RUN <<EOF (#!/bin/cat...)",
            "[4/9] RUN cat <<A <<B",
            "[5/9] COPY <<f.txt <<g.txt /d/",
            "[6/9] RUN <<-EOF (echo tab)",
            "[7/9] RUN 3<<EOF cat <&3",
            "[8/9] RUN <<EOF cat",
            "[9/9] COPY --chmod=755 --chown=3:4 <<EOF /s",
        ],
        &[
            "RUN /bin/sh -c echo one\necho two\n # buildkit",
            "RUN /bin/sh -c /dev/pipes/EOF # buildkit",
            "RUN /bin/sh -c cat <<A <<B\naaa\nA\nbbb\nB # buildkit",
            "COPY <<f.txt <<g.txt /d/ # buildkit",
            "RUN /bin/sh -c echo tab\n # buildkit",
            "RUN /bin/sh -c 3<<EOF cat <&3\nhi\nEOF # buildkit",
            "RUN /bin/sh -c <<EOF cat\nz\nEOF # buildkit",
            "COPY --chown=3:4 --chmod=755 <<EOF /s # buildkit",
        ],
    );
    let script = execs(&plan)[1];
    assert_eq!(script.args, ["/bin/sh", "-c", "/dev/pipes/EOF"]);
    let mount = &script.mounts[0];
    assert_eq!(
        (mount.target.as_str(), mount.read_only),
        ("/dev/pipes/", true)
    );
    let written: Vec<(&str, &[u8])> = files(&plan)
        .into_iter()
        .flat_map(|files| &files.actions)
        .filter_map(|action| match action {
            FileAction::Write { target, data, .. } => Some((target.as_str(), &**data)),
            _ => None,
        })
        .collect();
    assert_eq!(
        written,
        [
            ("/EOF", &b"#!/bin/cat\nscript\n"[..]),
            ("/d/f.txt", b" x \"q\"\n"),
            ("/d/g.txt", b"$FOO\n"),
            // The target may be a directory: copied, as a file would be.
            ("/EOF", b"a \"\" $V\n"),
        ]
    );
    let [copy] = copies(&plan)[..] else { panic!() };
    assert_eq!(
        (copy.target.as_str(), copy.owner.as_deref()),
        ("/s", Some("3:4"))
    );
    assert_eq!(copy.mode, Some(crate::graph::ModeChange::Octal(0o755)));
}

#[test]
fn names_of_steps() {
    check(
        "FROM plain:1 AS a\nRUN echo \"a\" 'b' $PATH \\$x ${Z:-q}\nCOPY [\"Dockerfile\", \"/a b\"]\n",
        &[],
        &[
            "[2/3] RUN echo \"a\" 'b' /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin $x ${Z:-q}",
            "[3/3] COPY [Dockerfile, /a b]",
        ],
        &[
            "RUN /bin/sh -c echo \"a\" 'b' $PATH \\$x ${Z:-q} # buildkit",
            "COPY Dockerfile /a b # buildkit",
        ],
    );
    check(
        "FROM plain:1\nARG T=/tt\nRUN --mount=type=tmpfs,target=$T,size=1m --mount=type=secret,id=x,env=SEC echo $T $SEC\n",
        &[],
        &[
            "[stage-0 2/2] RUN --mount=type=tmpfs,target=/tt,size=1m --mount=type=secret,id=x,env=SEC echo /tt ****",
        ],
        &[
            "ARG T=/tt",
            "RUN |1 T=/tt /bin/sh -c echo $T $SEC # buildkit",
        ],
    );
    check(
        "FROM plain:1\nENV V=Dockerfile\nCOPY --chown=1:2 --chmod=600 --link \"$V\" $NONE /a/\n",
        &[],
        &[
            "[2/2] COPY --chown=1:2 --chmod=600 --link Dockerfile  /a/",
            "[2/2] LINK COPY --chown=1:2 --chmod=600 --link Dockerfile  /a/",
        ],
        &[
            "ENV V=Dockerfile",
            "COPY --chown=1:2 --chmod=600 Dockerfile  /a/ # buildkit",
        ],
    );
    check(
        "FROM plain:1\nRUN echo  'x'   \\\n   y\n",
        &[],
        &["[2/2] RUN echo  'x'      y"],
        &["RUN /bin/sh -c echo  'x'      y # buildkit"],
    );
    check(
        "# escape=`\nFROM plain:1\nENV A=x`\n y=2\nRUN echo $A a`\n b\nCOPY Dockerfile /a\\b\n",
        &[],
        &["[2/3] RUN echo x a b", "[3/3] COPY Dockerfile /a\\b"],
        &[
            "ENV A=x y=2",
            "RUN /bin/sh -c echo $A a b # buildkit",
            "COPY Dockerfile /a\\b # buildkit",
        ],
    );
    check(
        "FROM plain:1\nADD http://127.0.0.1:8099/x%20y.txt?q=1 /d/\n",
        &[],
        &[
            "[2/2] ADD http://127.0.0.1:8099/x%20y.txt?q=1 /d/",
            "[2/2] ADD http://127.0.0.1:8099/x%20y.txt?q=1 /d/",
        ],
        &["ADD http://127.0.0.1:8099/x%20y.txt?q=1 /d/ # buildkit"],
    );
}

#[test]
fn names_of_stages() {
    check(
        "FROM plain:1 AS a\nRUN echo\nFROM scratch AS b\nCOPY --from=a /bin /bin\nFROM b\nRUN echo 1\n",
        &[],
        &[
            "[a 2/2] RUN echo",
            "[b 1/1] COPY --from=a /bin /bin",
            "[stage-2 1/1] RUN echo 1",
        ],
        &[
            "COPY /bin /bin # buildkit",
            "RUN /bin/sh -c echo 1 # buildkit",
        ],
    );
    let plan = check(
        "FROM plain:1 AS a\nRUN echo\nFROM plain:1\nCOPY --from=0 /bin /b\nCOPY --from=plain:1 /bin /c\n",
        &[],
        &[
            "[a 2/2] RUN echo",
            "[stage-1 2/3] COPY --from=0 /bin /b",
            "[stage-1 3/3] COPY --from=plain:1 /bin /c",
        ],
        &["COPY /bin /b # buildkit", "COPY /bin /c # buildkit"],
    );
    let images = plan
        .graph
        .vertices
        .iter()
        .filter(|vertex| matches!(vertex.op, Op::Image(_)));
    assert_eq!(images.count(), 1);
    // Of two stages with one name, FROM means the one before it.
    check(
        "FROM plain:1 AS a\nENV X=1\nFROM plain:1 AS a\nENV X=2\nFROM a\nRUN echo $X\n",
        &[],
        &["[stage-2 1/1] RUN echo 2"],
        &["ENV X=2", "RUN /bin/sh -c echo $X # buildkit"],
    );
    check(
        "FROM plain:1 AS p\nONBUILD COPY --from=q /bin /y\nFROM plain:1 AS q\nRUN echo q\nFROM p\n",
        &[],
        &[
            "[q 2/2] RUN echo q",
            "[stage-2 1/1] ONBUILD COPY --from=q /bin /y",
        ],
        &["COPY /bin /y # buildkit"],
    );
}

#[test]
fn errors() {
    for (text, why) in [
        (
            "FROM plain:1 AS a\nCOPY --from=b /x /\nFROM plain:1 AS b\nFROM a\n",
            "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
        ),
        (
            "FROM plain:1 AS a\nRUN --mount=from=b,target=/x echo\nFROM plain:1 AS b\nFROM a\n",
            "cannot mount from stage \"b\" to \"/x\", stage needs to be defined before current command",
        ),
        (
            "FROM plain:1\nRUN --mount=from=$X,target=/x echo\n",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
        (
            "FROM --platform=$TARGETPLATFROM plain:1\n",
            "empty platform value from expression $TARGETPLATFROM (did you mean TARGETPLATFORM?)",
        ),
        (
            "FROM plain:1\nCOPY --chmod=64a Dockerfile /x\n",
            "invalid chmod parameter: '64a'. it should be octal string and between 0 and 07777",
        ),
        ("FROM plain:1\nSTOPSIGNAL NOPE\n", "invalid signal: NOPE"),
        ("FROM plain:1\nEXPOSE x\n", "invalid containerPort: x"),
        (
            "FROM plain:1\nRUN --mount=type=tmpfs,target=/ env\n",
            "invalid mount target \"/\"",
        ),
        (
            "ARG X=${Y?no}\nFROM plain:1\n",
            "failed to process \"${Y?no}\": Y: no",
        ),
        (
            "FROM plain:1\nRUN echo ${A:?no}\nARG B=${A:?why}\n",
            "failed to process \"${A:?why}\": A: why",
        ),
        (
            "FROM plain:1\nADD --checksum=md5:00 http://127.0.0.1:8099/x.txt /d/\n",
            "unsupported digest algorithm",
        ),
        (
            "FROM plain:1\nADD --checksum=sha256:00 Dockerfile /d/\n",
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "FROM plain:1\nCOPY http://127.0.0.1:8099/x.txt /d/\n",
            "source can't be a URL for COPY",
        ),
        (
            "FROM plain:1\nCOPY https://127.0.0.1:8099/x.git /d/\n",
            "source can't be a git ref for COPY",
        ),
    ] {
        assert_eq!(error_with(text, &options()).message, why, "{text}");
    }
    let target = |target: &str| Options {
        target: target.to_owned(),
        ..options()
    };
    let error = error_with("FROM plain:1 AS build\n", &target("biuld"));
    assert_eq!(
        error.message,
        "target stage \"biuld\" could not be found (did you mean build?)"
    );
    let error = error_with("FROM plain:1\n", &with_args(&[("SOURCE_DATE_EPOCH", "x")]));
    assert_eq!(error.message, "invalid SOURCE_DATE_EPOCH: x");
}
