//! What is said of a Dockerfile: warnings of a build, and what `--call` is
//! told instead of one.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_api::Error;
use berth_api::build::{
    BuildResult, LintError, LintResult, LintWarning, Location, Outline, OutlineArgument,
    OutlineNeed, Position, SourceInfo, SourceRange, Target, TargetList,
};
use berth_build::check::{self, Found, Options};
use berth_build::dockerfile::{self, Dockerfile, Lines};
use berth_build::ignore::Ignore;
use berth_build::plan::{self, Base, Query};
use berth_build::progress::Event;
use serde::Serialize;

use super::resolve::{self, Source};
use super::session::Session;
use super::{Failure, MAIN_CONTEXT, context};

/// Stages whose bases are looked up for a check: each is planned by itself.
const MAX_STAGES: usize = 200;

/// Answers `--call`.
pub(super) async fn call(session: &Session, source: &Source) -> Result<BuildResult, Failure> {
    let plan = resolve::first(session)?;
    let value = match session.request.call.as_str() {
        "check" | "lint" => json(&lint(session, source, &plan).await?),
        "outline" => json(&outline(&read(source)?, source, &plan)?),
        "targets" => json(&targets(&read(source)?, source)),
        other => {
            return Err(Error::invalid(format!(
                "subrequest {other:?} is not supported: use \"check\", \"outline\" or \"targets\""
            ))
            .into());
        }
    };
    Ok(BuildResult {
        call: Some(value?),
        ..BuildResult::default()
    })
}

/// Tells the warnings of a build. `bases`: what was looked up for it.
///
/// # Errors
/// The Dockerfile or a build argument wants a failure for them.
pub(super) async fn warn(
    session: &Session,
    source: &Source,
    bases: &BTreeMap<Query, Base>,
) -> Result<(), Failure> {
    let plan = resolve::first(session)?;
    let ignore = ignore(session, source, &plan).await?;
    let options = Options {
        plan: &plan,
        bases,
        ignore: ignore.as_ref(),
        all_stages: false,
    };
    let Found { warnings, failure } = check::check(&source.text, &options);
    for warning in warnings {
        session.tell(Event::Warning {
            rule: warning.rule.to_owned(),
            url: check::find(warning.rule).map_or_else(String::new, check::Rule::url),
            message: warning.message,
            lines: Some(warning.lines),
        });
    }
    match failure {
        Some(failure) => {
            let error = Error::invalid(failure.message);
            Err(Failure::at(error, source, failure.lines))
        }
        None => Ok(()),
    }
}

fn read(source: &Source) -> Result<Dockerfile, Failure> {
    dockerfile::parse(&source.text).map_err(|error| {
        let lines = Some(error.lines);
        Failure::at(Error::invalid(error.to_string()), source, lines)
    })
}

fn json(value: &impl Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| Error::system(format!("write the answer: {error}")).into())
}

/// Only one check wants it, and only if it is asked for.
async fn ignore(
    session: &Session,
    source: &Source,
    plan: &plan::Options,
) -> Result<Option<Ignore>, Error> {
    let asked = check::asks_for("CopyIgnoredFile", &source.text, plan);
    if !asked || !session.request.contexts.contains_key(MAIN_CONTEXT) {
        return Ok(None);
    }
    let id = session.numbers.next();
    let tree = context::unfiltered(session, id, MAIN_CONTEXT).await?;
    let files = session.files().map_err(super::of_solve)?;
    let own = format!("{}.dockerignore", session.dockerfile_path());
    for path in [own.as_str(), ".dockerignore"] {
        if let Some(text) = context::text_file(&files, &tree, path)? {
            return Ignore::parse(&text).map(Some).map_err(Error::invalid);
        }
    }
    Ok(None)
}

async fn lint(
    session: &Session,
    source: &Source,
    plan: &plan::Options,
) -> Result<LintResult, Failure> {
    let mut bases = BTreeMap::new();
    let mut failure = None;
    if let Ok(file) = dockerfile::parse(&source.text) {
        // Without a target all stages are meant.
        let targets = match plan.target.as_str() {
            "" => (0..file.stages.len().min(MAX_STAGES))
                .map(|id| id.to_string())
                .collect(),
            target => vec![target.to_owned()],
        };
        for target in targets {
            let plan = plan::Options {
                target,
                ..plan.clone()
            };
            let asked = resolve::ask(session, &file, &plan, &mut bases).await;
            failure = failure.or_else(|| asked.err());
        }
    }
    let ignore = ignore(session, source, plan).await?;
    let options = Options {
        plan,
        bases: &bases,
        ignore: ignore.as_ref(),
        all_stages: plan.target.is_empty(),
    };
    let found = check::check(&source.text, &options);
    let failure = match (failure, found.failure) {
        (Some((error, lines)), _) => Some((error.message, lines)),
        (None, Some(failure)) => Some((failure.message, failure.lines)),
        (None, None) => None,
    };
    Ok(LintResult {
        warnings: found.warnings.into_iter().map(warning).collect(),
        sources: vec![SourceInfo {
            filename: source.name.clone(),
            data: STANDARD.encode(&source.text),
            language: "Dockerfile".to_owned(),
        }],
        build_error: failure.map(|(message, lines)| LintError {
            message,
            location: lines.map(location).unwrap_or_default(),
        }),
    })
}

fn warning(warning: check::Warning) -> LintWarning {
    let rule = check::find(warning.rule);
    LintWarning {
        rule_name: warning.rule.to_owned(),
        description: rule.map_or_else(String::new, |rule| rule.description.to_owned()),
        url: rule.map_or_else(String::new, check::Rule::url),
        detail: warning.message,
        location: location(warning.lines),
    }
}

/// BuildKit names each line.
fn location(lines: Lines) -> Location {
    let range = |line: usize| {
        let at = || Position {
            line: line as u64,
            character: 0,
        };
        SourceRange {
            start: at(),
            end: at(),
        }
    };
    Location {
        source_index: 0,
        ranges: (lines.start..=lines.end).map(range).collect(),
    }
}

fn outline(file: &Dockerfile, source: &Source, plan: &plan::Options) -> Result<Outline, Failure> {
    let options = Options {
        plan,
        bases: &BTreeMap::new(),
        ignore: None,
        all_stages: false,
    };
    let outline = check::outline(file, &options).map_err(Error::invalid)?;
    let arguments = outline.arguments.into_iter();
    let needs = |needs: Vec<check::Need>| {
        let need = |need: check::Need| OutlineNeed {
            name: need.name,
            required: need.required,
            location: location(need.lines),
        };
        needs.into_iter().map(need).collect()
    };
    Ok(Outline {
        name: outline.name,
        description: outline.description,
        args: arguments
            .map(|one| OutlineArgument {
                name: one.name,
                description: one.description,
                value: one.value,
                location: location(one.lines),
            })
            .collect(),
        secrets: needs(outline.secrets),
        ssh: needs(outline.ssh),
        sources: vec![STANDARD.encode(&source.text)],
    })
}

fn targets(file: &Dockerfile, source: &Source) -> TargetList {
    let target = |one: check::Target| Target {
        name: one.name,
        is_default: one.is_default,
        description: one.description,
        base: one.base,
        platform: one.platform,
        location: location(one.lines),
    };
    TargetList {
        targets: check::targets(file).into_iter().map(target).collect(),
        sources: vec![STANDARD.encode(&source.text)],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_have_buildkits_shape() {
        let source = Source {
            name: "Dockerfile".to_owned(),
            text: "# a the first\nFROM scratch AS a\nARG X=1\nRUN --mount=type=secret,id=s \\\n y\nFROM a\n".to_owned(),
        };
        let file = dockerfile::parse(&source.text).unwrap();
        let line = |line: u64| json!({"start": {"line": line}, "end": {"line": line}});
        let encoded = STANDARD.encode(&source.text);
        let plan = plan::Options::default();
        assert_eq!(
            json(&outline(&file, &source, &plan).unwrap()).unwrap(),
            json!({
                "args": [{"name": "X", "value": "1", "location": {"ranges": [line(3)]}}],
                "secrets": [{"name": "s", "location": {"ranges": [line(4), line(5)]}}],
                "sources": [encoded],
            })
        );
        assert_eq!(
            json(&targets(&file, &source)).unwrap(),
            json!({
                "targets": [
                    {"name": "a", "description": "the first", "base": "scratch", "location": {"ranges": [line(2)]}},
                    {"default": true, "base": "a", "location": {"ranges": [line(6)]}},
                ],
                "sources": [encoded],
            })
        );
        let found = dockerfile::Warning {
            rule: "UndefinedVar",
            message: "m".to_owned(),
            lines: Lines { start: 7, end: 7 },
        };
        assert_eq!(
            json(&warning(found)).unwrap(),
            json!({
                "ruleName": "UndefinedVar",
                "description": "Variables should be defined before their use",
                "url": "https://docs.docker.com/go/dockerfile/rule/undefined-var/",
                "detail": "m",
                "location": {"ranges": [line(7)]},
            })
        );
    }
}
