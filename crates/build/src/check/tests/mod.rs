//! [`files`] and [`instructions`] hold what Docker 28.5 (BuildKit) says of the
//! same texts, checked with it, but for names that newer ones take for no secret
//! and paths that they clean.

mod files;
mod instructions;

use berth_store::Platform;
use serde_json::json;

use super::*;
use crate::dockerfile::parse;

fn amd64() -> Platform {
    Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        ..Platform::default()
    }
}

/// With a `.dockerignore`, an image `base:1`, and build arguments.
fn with<T>(arguments: &[(&str, &str)], run: impl FnOnce(&Options<'_>) -> T) -> T {
    let plan = plan::Options {
        platform: amd64(),
        build_platform: amd64(),
        build_args: (arguments.iter())
            .map(|&(name, value)| (name.to_owned(), Some(value.to_owned())))
            .collect(),
        ..plan::Options::default()
    };
    let query = Query {
        reference: "docker.io/library/base:1".into(),
        platform: amd64(),
    };
    let base = Base {
        platform: amd64(),
        config: json!({"config": {"Env": ["FROMBASE=1"], "WorkingDir": "/w", "Shell": null}}),
        ..Base::default()
    };
    let ignore = Ignore::parse("ignored\nign\n").unwrap();
    let options = Options {
        plan: &plan,
        bases: &BTreeMap::from([(query, base)]),
        ignore: Some(&ignore),
        all_stages: true,
    };
    run(&options)
}

/// Says the same of each file: "rule first-last line: message".
fn same(cases: &[(&str, &[&str])]) {
    for (text, wanted) in cases {
        let found = with(&[], |options| check(text, options));
        assert_eq!(told(&found), *wanted, "{text}");
    }
}

fn told(found: &Found) -> Vec<String> {
    let warnings = found.warnings.iter();
    warnings
        .map(|one| {
            let Lines { start, end } = one.lines;
            format!("{} {start}-{end}: {}", one.rule, one.message)
        })
        .collect()
}

#[test]
fn every_check_is_known_and_described() {
    let rule = find("JSONArgsRecommended").unwrap();
    assert_eq!(
        rule.url(),
        "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    );
    assert_eq!(find("InvalidBaseImagePlatform").unwrap().url(), "");
    assert_eq!(RULES.iter().filter(|rule| rule.is_experimental).count(), 2);
    // Those that are found are among them.
    for rule in RULES {
        assert_eq!(find(rule.name).unwrap().description, rule.description);
    }
    assert!(find("NoSuchRule").is_none());
}

#[test]
fn failures_are_in_buildkits_words() {
    for (text, argument, message) in [
        (
            "# check=foo=bar\nFROM scratch as base\n",
            None,
            "failed to parse check options: invalid check option \"foo\"",
        ),
        (
            "# check=skip\nFROM scratch as base\n",
            None,
            "failed to parse check options: invalid check option \"skip\"",
        ),
        (
            "# check=error=maybe\nFROM scratch as base\n",
            None,
            "failed to parse check options: failed to parse check option \"error=maybe\": strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
        (
            "# check=error=true\nFROM scratch as Base\ncopy file .\n",
            None,
            "lint violation found for rules: StageNameCasing, FromAsCasing, ConsistentInstructionCasing",
        ),
        (
            "# check=skip=all\nFROM scratch as base\n",
            Some("skip=ConsistentInstructionCasing;error=true"),
            "lint violation found for rules: FromAsCasing",
        ),
        (
            "# check=error=true\nFROM scratch as base\n",
            Some("skip=all"),
            "",
        ),
        ("# check=error=true\nFROM scratch\n", None, ""),
        (
            "FROM scratch\nBADCMD\n",
            None,
            "dockerfile parse error on line 2: unknown instruction: BADCMD",
        ),
    ] {
        let arguments: Vec<_> = argument
            .map(|value| ("BUILDKIT_DOCKERFILE_CHECK", value))
            .into_iter()
            .collect();
        let found = with(&arguments, |options| check(text, options));
        let failure = found.failure.map(|failure| failure.message);
        assert_eq!(failure.unwrap_or_default(), message, "{text}");
    }
}

#[test]
fn bases_are_known_or_nothing_is_said_of_what_they_set() {
    let of = |text: &str| with(&[], |options| told(&check(text, options)));
    assert_eq!(
        of("FROM base:1\nENV A=$FROMBASE B=$FROMBAS\nCOPY $HOME /\n"),
        [
            "UndefinedVar 2-2: Usage of undefined variable '$FROMBAS' (did you mean $FROMBASE?)",
            "UndefinedVar 3-3: Usage of undefined variable '$HOME'"
        ]
    );
    assert!(of("FROM other\nENV A=$X\n").is_empty());
    assert_eq!(
        of("FROM --platform=$BUILDOS/arm64 base:1\n"),
        [
            "InvalidBaseImagePlatform 1-1: Base image base:1 was pulled with platform \"linux/amd64\", expected \"linux/arm64\" for current build"
        ]
    );
    assert!(of("FROM --platform=$BUILDPLATFORM base:1\n").is_empty());
}

#[test]
fn only_needed_stages_are_looked_at_in_a_build() {
    let text = "FROM scratch AS a\nENV x y\nFROM scratch AS b\nENV z w\nFROM scratch\nCOPY --from=1 /f /\nRUN --mount=type=bind,from=a,target=/a true\nFROM scratch AS last\n";
    let of = |target: &str| {
        with(&[], |options| {
            let plan = plan::Options {
                target: target.to_owned(),
                ..options.plan.clone()
            };
            let options = Options {
                plan: &plan,
                all_stages: false,
                ..*options
            };
            let lines = |warning: &Warning| warning.lines.start;
            let found = check(text, &options);
            found.warnings.iter().map(lines).collect::<Vec<_>>()
        })
    };
    assert!(of("").is_empty());
    assert_eq!(of("2"), [2, 4]);
    assert_eq!(of("A"), [2]);
    assert!(of("nosuch").is_empty());
}

const OUTLINED: &str = "# VER the version\nARG VER=1\nARG UNUSED=2\nARG BASE=scratch\n# first the first stage\nFROM $BASE AS first\n# FOO what foo is\nARG FOO=bar\nARG VER\nARG DEAD=1\nENV X=$FOO$VER\nRUN --mount=type=secret,id=tok,required --mount=type=ssh --mount=type=cache,target=/c,id=cc echo $INRUN\n\n# second is the second stage\nFROM first AS second\nARG DEP=$FOO\nARG TWO=$DEP\nRUN --mount=type=secret,target=/run/secrets/aws --mount=type=ssh,id=key,required echo $TWO\nLABEL a=$TWO\n\nFROM scratch\nARG LAST\nARG NOPE\nCOPY --from=second /a$LAST /\nENV Q=$LAST\n";

#[test]
fn what_a_target_can_be_given() {
    let of = |text: &str, target: &str| {
        let file = parse(text).unwrap();
        with(&[("C", "given")], |options| {
            let plan = plan::Options {
                target: target.to_owned(),
                ..options.plan.clone()
            };
            let options = Options {
                plan: &plan,
                all_stages: false,
                ..*options
            };
            outline(&file, &options)
        })
    };
    let shown = |outline: &Outline| {
        let arguments = outline.arguments.iter();
        let arguments = arguments.map(|one| {
            format!(
                "{}={}@{} {}",
                one.name, one.value, one.lines.start, one.description
            )
        });
        let needs = outline.secrets.iter().chain(&outline.ssh);
        let needs = needs.map(|one| format!("{} {}@{}", one.name, one.required, one.lines.start));
        arguments.chain(needs).collect::<Vec<_>>()
    };
    let all = of(OUTLINED, "").unwrap();
    assert_eq!((all.name.as_str(), all.description.as_str()), ("", ""));
    assert_eq!(
        shown(&all),
        [
            "VER=1@2 the version",
            "BASE=scratch@4 ",
            "FOO=bar@8 what foo is",
            "DEAD=1@10 ",
            "DEP=bar@16 ",
            "TWO=bar@17 ",
            "LAST=@22 ",
            "NOPE=@23 ",
            "tok true@12",
            "aws false@18",
            "default false@12",
            "key true@18",
        ]
    );
    let second = of(OUTLINED, "second").unwrap();
    assert_eq!(second.description, "is the second stage");
    assert_eq!(second.arguments.len(), 6);
    let text = "ARG A=1\nARG B=$A\nFROM scratch\nARG B\nARG C\nARG TARGETPLATFORM\nRUN x $B\n";
    assert_eq!(
        shown(&of(text, "").unwrap()),
        ["A=1@1 ", "B=1@2 ", "C=given@5 "]
    );
    let error = of(text, "nosuch").unwrap_err();
    assert_eq!(error, "target stage \"nosuch\" could not be found");
}

#[test]
fn what_can_be_built() {
    let targets = targets(&parse(OUTLINED).unwrap());
    let shown: Vec<_> = (targets.iter())
        .map(|one| {
            (
                one.name.as_str(),
                one.is_default,
                one.description.as_str(),
                one.base.as_str(),
                one.lines.start,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("first", false, "the first stage", "$BASE", 6),
            ("second", false, "is the second stage", "first", 15),
            ("", true, "", "scratch", 21),
        ]
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(FROM |AS |RUN |COPY |ENV |ARG |EXPOSE |WORKDIR |--mount=|--from=|--platform=|<<E|E|\n|\\\\|\"|'|\\[|\\]|\\$\\{|\\$|[a-zA-Z0-9=/,:#.]| ){0,60}") {
        let _ = with(&[], |options| {
            if let Ok(file) = parse(&text) {
                let _ = (outline(&file, options), targets(&file));
            }
            check(&text, options)
        });
    }
}
