//! The steps of a Dockerfile as the classic builder counts them: every
//! instruction of the stages that are needed, whether it makes a layer or not.

use std::collections::{BTreeMap, BTreeSet};

use berth_build::dockerfile::{self, Arg, Dockerfile, Instruction, Stage};
use berth_build::graph::Id;

/// What the daemon takes from the client's environment and never misses.
const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) text: String,
    pub(super) kind: Kind,
    /// What makes its result; none if it changes no file.
    pub(super) vertices: Vec<Id>,
    /// FROM: what the base image's triggers run.
    pub(super) triggers: Vec<Id>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// ARG before the first FROM: there is no image yet.
    Global,
    /// FROM: an image.
    Image,
    Scratch,
    /// FROM: the last step of this number is what the stage stands on.
    Stage(usize),
    Run,
    #[default]
    Other,
}

/// A vertex, as far as it tells which step it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
}

/// What a request says that shows in the steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) target: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Names of the build arguments given.
    pub(super) args: BTreeSet<String>,
}

/// The steps in their order, and the build arguments that none of them uses.
/// Without a Dockerfile that can be read, the vertices themselves.
pub(super) fn steps(
    text: &str,
    shown: &Shown,
    vertices: &BTreeMap<Id, Known<'_>>,
) -> (Vec<Step>, Vec<String>) {
    let Ok(file) = dockerfile::parse(text) else {
        return (plain(vertices), Vec::new());
    };
    let stages = needed(&file, &shown.target);
    let mut free: BTreeMap<Id, Known<'_>> = vertices.clone();
    let mut steps: Vec<Step> = file.global_args.iter().map(global).collect();
    let mut images = BTreeMap::new();
    // Number of the last step of each stage.
    let mut ends = BTreeMap::new();
    for &number in &stages {
        let stage = &file.stages[number];
        let label = label(&file, number);
        let first = steps.len();
        let mut begin = from(&file, number, &ends, &mut free);
        if begin.kind == Kind::Image {
            // Stages of one image share a vertex, which is the first one's.
            match images.get(&stage.base) {
                Some(image) if begin.vertices.is_empty() => begin.vertices.clone_from(image),
                _ => drop(images.insert(stage.base.clone(), begin.vertices.clone())),
            }
        }
        steps.push(begin);
        for command in &stage.commands {
            let makes_nothing = matches!(
                command.instruction,
                Instruction::Arg(_) | Instruction::Env(_) | Instruction::Label(_)
            );
            steps.push(Step {
                text: command.text.clone(),
                kind: match command.instruction {
                    Instruction::Run(_) => Kind::Run,
                    _ => Kind::Other,
                },
                vertices: if makes_nothing {
                    Vec::new()
                } else {
                    take(&mut free, &label, &command.text)
                },
                triggers: Vec::new(),
            });
        }
        // What is left of the stage is what its base image had it run.
        steps[first].triggers = rest(&mut free, &label);
        ends.insert(number, steps.len() - 1);
    }
    for (key, value) in &shown.labels {
        steps.push(Step {
            text: format!("LABEL {key}={value}"),
            ..Step::default()
        });
    }
    let used = used_args(&file, &stages);
    let is_unused = |name: &&String| {
        let builtin = PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name));
        !builtin
            && !used.contains(name.as_str())
            && !name.starts_with("BUILDKIT_")
            && *name != "SOURCE_DATE_EPOCH"
    };
    let unused = shown.args.iter().filter(is_unused).cloned().collect();
    (steps, unused)
}

fn plain(vertices: &BTreeMap<Id, Known<'_>>) -> Vec<Step> {
    let own = vertices.iter().filter(|(_, known)| !is_internal(known));
    own.map(|(&id, known)| Step {
        text: known.text.to_owned(),
        vertices: vec![id],
        ..Step::default()
    })
    .collect()
}

/// What belongs to no instruction: reading the Dockerfile, the context.
pub(super) fn is_internal(known: &Known<'_>) -> bool {
    known.text.is_empty() || known.name.starts_with("[internal]")
}

fn global(arg: &Arg) -> Step {
    let default = arg.default.as_ref();
    let value = default.map(|value| format!("={value}")).unwrap_or_default();
    Step {
        text: format!("ARG {}{value}", arg.name),
        kind: Kind::Global,
        ..Step::default()
    }
}

fn from(
    file: &Dockerfile,
    number: usize,
    ends: &BTreeMap<usize, usize>,
    free: &mut BTreeMap<Id, Known<'_>>,
) -> Step {
    let stage = &file.stages[number];
    let mut step = Step {
        text: stage.text.clone(),
        kind: Kind::Image,
        ..Step::default()
    };
    if let Some(end) = by_name(file, &stage.base, number).and_then(|base| ends.get(&base)) {
        step.kind = Kind::Stage(*end);
    } else if stage.base == "scratch" {
        step.kind = Kind::Scratch;
    } else {
        step.vertices = take(free, &label(file, number), &stage.text);
    }
    step
}

/// The vertices of the first step of this text in a stage. Steps of the same
/// text are told apart by their numbers, which are in the names.
fn take(free: &mut BTreeMap<Id, Known<'_>>, label: &str, text: &str) -> Vec<Id> {
    let is_it = |known: &Known<'_>| {
        known.text == text && label_of(known.name) == Some(label) && !is_trigger(known)
    };
    let first = free.values().find(|known| is_it(known)).copied();
    let Some(first) = first else {
        return Vec::new();
    };
    let same = free.iter().filter(|(_, known)| known.name == first.name);
    let ids: Vec<Id> = same.map(|(&id, _)| id).collect();
    free.retain(|id, _| !ids.contains(id));
    ids
}

fn rest(free: &mut BTreeMap<Id, Known<'_>>, label: &str) -> Vec<Id> {
    let left = |known: &Known<'_>| label_of(known.name) == Some(label) && is_trigger(known);
    let ids = free.iter().filter(|(_, known)| left(known));
    let ids: Vec<Id> = ids.map(|(&id, _)| id).collect();
    free.retain(|id, _| !ids.contains(id));
    ids
}

fn is_trigger(known: &Known<'_>) -> bool {
    let after = known.name.split_once("] ").map(|(_, after)| after);
    after.is_some_and(|after| after.starts_with("ONBUILD "))
}

/// "build" of "[build 2/5] RUN make", "" of "[2/5] RUN make".
fn label_of(name: &str) -> Option<&str> {
    let (inside, _) = name.strip_prefix('[')?.split_once("] ")?;
    let (label, count) = inside.rsplit_once(' ').unwrap_or(("", inside));
    // "[build  2/12] RUN make": numbers are as wide as the count.
    count.contains('/').then_some(label.trim_end())
}

/// How the vertices of a stage are labelled.
fn label(file: &Dockerfile, number: usize) -> String {
    match &file.stages[number].name {
        Some(name) => name.clone(),
        None if file.stages.len() == 1 && !takes(file) => String::new(),
        None => format!("stage-{number}"),
    }
}

/// Whether the only stage takes from anything else.
fn takes(file: &Dockerfile) -> bool {
    let commands = file.stages.iter().flat_map(|stage| &stage.commands);
    commands
        .into_iter()
        .any(|command| match &command.instruction {
            Instruction::Copy(copy) => copy.from.is_some(),
            Instruction::Run(run) => !run.mounts.is_empty(),
            _ => false,
        })
}

/// The target and what it stands on and takes from, in the file's order.
fn needed(file: &Dockerfile, target: &str) -> BTreeSet<usize> {
    let last = file.stages.len().saturating_sub(1);
    let target = by_name(file, target, file.stages.len())
        .or_else(|| target.parse().ok().filter(|number| *number <= last));
    let mut needed = BTreeSet::new();
    let mut open = vec![target.unwrap_or(last)];
    while let Some(number) = open.pop() {
        let Some(stage) = file.stages.get(number).filter(|_| needed.insert(number)) else {
            continue;
        };
        open.extend(by_name(file, &stage.base, number));
        open.extend(taken(file, stage, number));
    }
    needed
}

/// The stages that a stage takes from.
fn taken<'a>(
    file: &'a Dockerfile,
    stage: &'a Stage,
    number: usize,
) -> impl Iterator<Item = usize> + 'a {
    let names = stage.commands.iter().flat_map(|command| {
        let names: Vec<&str> = match &command.instruction {
            Instruction::Copy(copy) => copy.from.as_deref().into_iter().collect(),
            Instruction::Run(run) => (run.mounts.iter())
                .flat_map(|mount| mount.split(','))
                .filter_map(|part| part.trim().strip_prefix("from="))
                .collect(),
            _ => Vec::new(),
        };
        names
    });
    names.filter_map(move |name| {
        let by_number = || name.parse().ok().filter(|taken| *taken < number);
        by_name(file, name, number).or_else(by_number)
    })
}

/// The last stage of that name before `before`.
fn by_name(file: &Dockerfile, name: &str, before: usize) -> Option<usize> {
    (0..before.min(file.stages.len())).rev().find(|&number| {
        let stage = file.stages[number].name.as_deref();
        stage.is_some_and(|stage| stage.eq_ignore_ascii_case(name))
    })
}

fn used_args<'a>(file: &'a Dockerfile, stages: &BTreeSet<usize>) -> BTreeSet<&'a str> {
    let stages = stages.iter().filter_map(|number| file.stages.get(*number));
    let commands = stages.flat_map(|stage| &stage.commands);
    let own = commands.filter_map(|command| match &command.instruction {
        Instruction::Arg(args) => Some(args),
        _ => None,
    });
    let all = file.global_args.iter().chain(own.flatten());
    all.map(|arg| arg.name.as_str()).collect()
}
