//! Build checks (`--check`, and the warnings of a build), and what a Dockerfile
//! can be asked for: `--call=outline`, `--call=targets`. Pure.
//!
//! ```text
//! dockerfile::read ─▶ what letters and comments say   (even before an error)
//! stages           ─▶ names, bases and platforms of stages
//! scope            ─▶ instructions, with the variables there are at each
//! ```

mod outline;
mod rules;
mod scope;
mod stages;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use self::outline::{Argument, Need, Outline, Target, outline, targets};
pub use self::rules::{Config, RULES, Rule, find};
use self::scope::Scope;
use self::stages::Stages;
pub use crate::dockerfile::Warning;
use crate::dockerfile::{Dockerfile, Lines, Reading, read};
use crate::ignore::Ignore;
use crate::plan::{self, Base, Query};

/// What is known besides the Dockerfile.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    pub plan: &'a plan::Options,
    /// Base images that were looked up. Of what stands on others nothing is
    /// said that depends on their variables.
    pub bases: &'a BTreeMap<Query, Base>,
    /// `.dockerignore`, if there is one.
    pub ignore: Option<&'a Ignore>,
    /// Stages that the target does not need, too.
    pub all_stages: bool,
}

/// What is wrong with a Dockerfile when it was only to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    pub lines: Option<Lines>,
}

/// What a check found: warnings in the order in which BuildKit finds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub warnings: Vec<Warning>,
    /// Why a build would fail: the text cannot be read, or it wants a failure
    /// for what was found ("lint violation found for rules: …").
    pub failure: Option<Failure>,
}

/// Whether a text or a build asks for a check, by its name.
pub fn asks_for(rule: &str, text: &str, plan: &plan::Options) -> bool {
    let reading = read(text);
    config(&reading, plan).is_ok_and(|config| config.wants(rule))
}

fn config(reading: &Reading, plan: &plan::Options) -> Result<Config, String> {
    let given = plan.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    let given = given.and_then(Option::as_deref);
    Config::parse(given.or(reading.check.as_deref()).unwrap_or_default())
}

/// Checks a text, whether or not it can be read.
pub fn check(text: &str, options: &Options<'_>) -> Found {
    let reading = read(text);
    let config = match config(&reading, options.plan) {
        Ok(config) => config,
        Err(message) => {
            return Found {
                warnings: Vec::new(),
                failure: Some(Failure {
                    message,
                    lines: None,
                }),
            };
        }
    };
    let Reading {
        mut warnings, file, ..
    } = reading;
    let failure = match file {
        Ok(file) => {
            warnings.extend(of_file(&file, options));
            None
        }
        Err(error) => Some(Failure {
            message: error.to_string(),
            lines: Some(error.lines),
        }),
    };
    warnings.retain(|warning| config.wants(warning.rule));
    let failure = failure.or_else(|| violation(&config, &warnings));
    Found { warnings, failure }
}

fn violation(config: &Config, warnings: &[Warning]) -> Option<Failure> {
    if !config.fails || warnings.is_empty() {
        return None;
    }
    let mut names: Vec<&str> = Vec::new();
    for warning in warnings {
        if !names.contains(&warning.rule) {
            names.push(warning.rule);
        }
    }
    Some(Failure {
        message: format!("lint violation found for rules: {}", names.join(", ")),
        lines: None,
    })
}

fn of_file(file: &Dockerfile, options: &Options<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let stages = Stages::read(file, options, &mut warnings);
    for scope in scopes(file, &stages, options) {
        warnings.extend(scope.warnings);
    }
    warnings
}

/// What is known at the end of each stage that is looked at.
fn scopes<'a>(
    file: &'a Dockerfile,
    stages: &'a Stages<'a>,
    options: &'a Options<'a>,
) -> Vec<Scope<'a>> {
    let needed = match options.all_stages {
        true => (0..file.stages.len()).collect(),
        false => stages.needed(&options.plan.target),
    };
    let mut ends: BTreeMap<usize, Scope<'a>> = BTreeMap::new();
    for &id in &needed {
        let base = stages.all[id].stands_on.and_then(|base| ends.get(&base));
        let mut scope = match base {
            Some(base) => base.inherit(),
            None => Scope::new(file, stages, options, id),
        };
        scope.stage(id);
        ends.insert(id, scope);
    }
    ends.into_values().collect()
}

/// Stages by number, in their order.
type Needed = BTreeSet<usize>;
