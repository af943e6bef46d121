//! What a build can be given (`--call=outline`), and what can be built
//! (`--call=targets`).

use std::collections::{BTreeMap, BTreeSet};

use super::scope::Scope;
use super::stages::Stages;
use super::{Options, scopes};
use crate::dockerfile::{Arg, Dockerfile, Lines};

/// Parameters of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    pub name: String,
    pub description: String,
    pub arguments: Vec<Argument>,
    pub secrets: Vec<Need>,
    pub ssh: Vec<Need>,
}

/// A build argument that does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub description: String,
    /// As this build has it; empty if it has none.
    pub value: String,
    pub lines: Lines,
}

/// A secret or an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub name: String,
    pub required: bool,
    pub lines: Lines,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    /// It is what is built when nobody says.
    pub is_default: bool,
    pub description: String,
    /// As written.
    pub base: String,
    pub platform: String,
    pub lines: Lines,
}

/// All stages.
pub fn targets(file: &Dockerfile) -> Vec<Target> {
    let last = file.stages.len().saturating_sub(1);
    let stages = file.stages.iter().enumerate();
    stages
        .map(|(id, stage)| Target {
            name: stage.name.clone().unwrap_or_default(),
            is_default: id == last,
            description: stage.comment.clone().unwrap_or_default(),
            base: stage.base.clone(),
            platform: stage.platform.clone().unwrap_or_default(),
            lines: stage.lines,
        })
        .collect()
}

/// What the target and the stages that it needs can be given.
///
/// # Errors
/// There is no such target: BuildKit's words.
pub fn outline(file: &Dockerfile, options: &Options<'_>) -> Result<Outline, String> {
    let stages = Stages::read(file, options, &mut Vec::new());
    let target = &options.plan.target;
    let Some(id) = stages.target(target) else {
        return Err(format!("target stage {target:?} could not be found"));
    };
    let needed: Vec<usize> = match options.all_stages {
        true => (0..file.stages.len()).collect(),
        false => stages.needed(target).into_iter().collect(),
    };
    let scopes = scopes(file, &stages, options);
    let scopes: BTreeMap<usize, &Scope<'_>> = needed.into_iter().zip(&scopes).collect();
    let stage = &file.stages[id];
    let mut outline = Outline {
        name: stage.name.clone().unwrap_or_default(),
        description: stage.comment.clone().unwrap_or_default(),
        ..Outline::default()
    };
    // Nearest first: what a stage says of a name goes before those below it.
    let mut open = vec![id];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        if let Some(scope) = scopes.get(&id) {
            scope.notes.add_to(&mut outline);
        }
        let below: Vec<usize> = stages.below(id).collect();
        open.extend(below.into_iter().rev());
    }
    outline.arguments.sort_by_key(|one| one.lines.start);
    outline.secrets.sort_by_key(|one| one.lines.start);
    outline.ssh.sort_by_key(|one| one.lines.start);
    Ok(outline)
}

/// What one stage can be given.
#[derive(Debug, Default)]
pub(super) struct Notes {
    known: BTreeMap<String, (Argument, BTreeSet<String>)>,
    used: BTreeSet<String>,
    secrets: Vec<Need>,
    ssh: Vec<Need>,
}

impl Notes {
    /// A stage begins with the global arguments; its FROM uses some.
    pub(super) fn begin(&mut self, file: &Dockerfile, stages: &Stages<'_>, id: usize) {
        for arg in &file.global_args {
            let value = stages.globals.get(&arg.name).map(String::as_str);
            let uses = stages.global_uses.get(&arg.name).cloned();
            let argument = of(arg, value, arg.lines);
            self.known
                .insert(arg.name.clone(), (argument, uses.unwrap_or_default()));
        }
        self.used.extend(stages.all[id].uses.iter().cloned());
    }

    /// One whose value is a global argument's is that.
    pub(super) fn argument(
        &mut self,
        arg: &Arg,
        value: Option<&str>,
        uses: BTreeSet<String>,
        is_inherited: bool,
        lines: Lines,
    ) {
        if !is_inherited {
            let argument = of(arg, value, lines);
            self.known.insert(arg.name.clone(), (argument, uses));
        }
        self.used.insert(arg.name.clone());
    }

    pub(super) fn secret(&mut self, name: &str, required: bool, lines: Lines) {
        need(&mut self.secrets, name, required, lines);
    }

    pub(super) fn ssh(&mut self, name: &str, required: bool, lines: Lines) {
        need(&mut self.ssh, name, required, lines);
    }

    fn add_to(&self, outline: &mut Outline) {
        let mut open: Vec<&str> = self.used.iter().map(String::as_str).collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            let Some((argument, uses)) = self.known.get(name) else {
                continue;
            };
            if !seen.insert(name) {
                continue;
            }
            open.extend(uses.iter().map(String::as_str));
            let mut have = outline.arguments.iter();
            if have.all(|have| have.name != argument.name) {
                outline.arguments.push(argument.clone());
            }
        }
        for (have, more) in [
            (&mut outline.secrets, &self.secrets),
            (&mut outline.ssh, &self.ssh),
        ] {
            for one in more {
                if have.iter().all(|have| have.name != one.name) {
                    have.push(one.clone());
                }
            }
        }
    }
}

fn of(arg: &Arg, value: Option<&str>, lines: Lines) -> Argument {
    Argument {
        name: arg.name.clone(),
        description: arg.comment.clone().unwrap_or_default(),
        value: value.unwrap_or_default().to_owned(),
        lines,
    }
}

/// Required if one of those that name it says so.
fn need(needs: &mut Vec<Need>, name: &str, required: bool, lines: Lines) {
    match needs.iter_mut().find(|need| need.name == name) {
        Some(need) => need.required |= required,
        None => needs.push(Need {
            name: name.to_owned(),
            required,
            lines,
        }),
    }
}
