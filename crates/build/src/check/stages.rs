//! What FROM says: names, bases, platforms; and which stages stand on which.

use std::collections::{BTreeMap, BTreeSet};

use berth_store::{Platform, Reference};

use super::{Needed, Options};
use crate::dockerfile::{Command, Dockerfile, Instruction, Lines, Mount, Warning, nearest};
use crate::graph::Variables;
use crate::plan::{Base, platform};

/// What BuildKit means something else by.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) struct Stages<'a> {
    file: &'a Dockerfile,
    pub(super) all: Vec<Stage<'a>>,
    /// What FROM sees.
    pub(super) globals: Variables,
    /// Variables that the values of global arguments were made of.
    pub(super) global_uses: BTreeMap<String, BTreeSet<String>>,
}

pub(super) struct Stage<'a> {
    /// An earlier stage.
    pub(super) stands_on: Option<usize>,
    /// The image that it stands on, if that was looked up.
    pub(super) image: Option<&'a Base>,
    pub(super) is_scratch: bool,
    /// Variables of its FROM.
    pub(super) uses: BTreeSet<String>,
    /// Stages that its steps take from.
    takes: BTreeSet<usize>,
}

impl<'a> Stages<'a> {
    /// In BuildKit's order: what is wrong with names, letters, defaults, and
    /// then FROM by FROM.
    pub(super) fn read(
        file: &'a Dockerfile,
        options: &Options<'a>,
        warnings: &mut Vec<Warning>,
    ) -> Self {
        names(file, warnings);
        casing(file, warnings);
        let last = file.stages.last().and_then(|stage| stage.name.as_deref());
        let target = match options.plan.target.as_str() {
            "" => last.unwrap_or_default(),
            target => target,
        };
        let predefined = platform::variables(options.plan, target);
        defaults(file, &predefined, warnings);
        let mut stages = Self {
            file,
            all: Vec::new(),
            globals: predefined,
            global_uses: BTreeMap::new(),
        };
        stages.read_globals(options);
        for id in 0..file.stages.len() {
            let stage = stages.stage(id, options, warnings);
            stages.all.push(stage);
        }
        for (id, stage) in file.stages.iter().enumerate() {
            for command in &stage.commands {
                let takes = stages.takes(id, command);
                stages.all[id].takes.extend(takes);
            }
        }
        stages
    }

    fn read_globals(&mut self, options: &Options<'_>) {
        let expander = self.file.expander();
        for arg in &self.file.global_args {
            let given = options.plan.build_args.get(&arg.name).cloned().flatten();
            let mut uses = BTreeSet::new();
            let value = given.or_else(|| {
                let expanded = expander.expand(arg.default.as_ref()?, &self.globals).ok()?;
                uses = expanded.used;
                Some(expanded.text)
            });
            if let Some(value) = value {
                self.globals.insert(arg.name.clone(), value);
            }
            self.global_uses.insert(arg.name.clone(), uses);
        }
    }

    fn stage(&self, id: usize, options: &Options<'a>, warnings: &mut Vec<Warning>) -> Stage<'a> {
        let written = &self.file.stages[id];
        let expander = self.file.expander();
        let mut warn = Warner {
            warnings,
            lines: written.lines,
        };
        let mut stage = Stage {
            stands_on: None,
            image: None,
            is_scratch: false,
            uses: BTreeSet::new(),
            takes: BTreeSet::new(),
        };
        let Ok(base) = expander.expand(&written.base, &self.globals) else {
            return stage;
        };
        self.undeclared(&base.unset, &mut warn);
        stage.uses.extend(base.used);
        let mut wanted = options.plan.platform.clone();
        if let Some(text) = &written.platform
            && let Ok(expanded) = expander.expand(text, &self.globals)
        {
            self.undeclared(&expanded.unset, &mut warn);
            let only = expanded.used.len() == 1 && expanded.unset.is_empty();
            if only
                && expanded.used.contains("TARGETPLATFORM")
                && self.globals.get("TARGETPLATFORM") == Some(&expanded.text)
            {
                warn.say(
                    "RedundantTargetPlatform",
                    format!("Setting platform to predefined {text} in FROM is redundant as this is the default behavior"),
                );
            }
            let parsed = Platform::parse(&expanded.text, &options.plan.build_platform);
            let constant = expanded.used.is_empty() && expanded.unset.is_empty();
            if constant && let Ok(parsed) = &parsed {
                let name = written.name.as_deref().unwrap_or_default();
                if !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
                    warn.say(
                        "FromPlatformFlagConstDisallowed",
                        format!(
                            "FROM --platform flag should not use constant value {:?}",
                            expanded.text
                        ),
                    );
                }
            }
            stage.uses.extend(expanded.used);
            wanted = parsed.unwrap_or(wanted);
        }
        let name = base.text.to_lowercase();
        stage.stands_on = self.named(&name, id);
        stage.is_scratch = stage.stands_on.is_none() && base.text == "scratch";
        if stage.stands_on.is_none() && !stage.is_scratch {
            stage.image = looked_up(&base.text, &wanted, options);
            if let Some(image) = stage.image {
                wrong_platform(&base.text, &wanted, image, &mut warn);
            }
        }
        stage
    }

    /// The last stage of that name before another.
    fn named(&self, name: &str, before: usize) -> Option<usize> {
        let mut earlier = (0..before).rev();
        earlier.find(|&id| self.file.stages[id].name.as_deref() == Some(name))
    }

    /// Declared arguments are known even without a value.
    fn undeclared(&self, unset: &BTreeSet<String>, warn: &mut Warner<'_>) {
        let known = self.globals.keys().chain(self.global_uses.keys());
        let known: BTreeSet<&str> = known.map(String::as_str).collect();
        for name in unset {
            if known.contains(name.as_str()) {
                continue;
            }
            let mut message = format!("FROM argument '{name}' is not declared");
            if let Some(other) = nearest(name, known.iter().copied()) {
                message.push_str(&format!(" (did you mean {other}?)"));
            }
            warn.say("UndefinedArgInFrom", message);
        }
    }

    /// Stages that a step takes from.
    fn takes(&self, id: usize, command: &Command) -> Vec<usize> {
        let stage = |name: &str| {
            let number = name.parse().ok().filter(|&number: &usize| number < id);
            number.or_else(|| self.named(&name.to_lowercase(), id))
        };
        match &command.instruction {
            Instruction::Copy(copy) => copy.from.iter().filter_map(|from| stage(from)).collect(),
            Instruction::Run(run) => (run.mounts.iter())
                .filter_map(|mount| stage(&Mount::from(mount).ok()??))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// What a target needs, itself included.
    pub(super) fn needed(&self, target: &str) -> Needed {
        let mut needed = Needed::new();
        let mut open: Vec<usize> = self.target(target).into_iter().collect();
        while let Some(id) = open.pop() {
            if needed.insert(id) {
                open.extend(self.below(id));
            }
        }
        needed
    }

    /// What a stage stands on, then what it takes from.
    pub(super) fn below(&self, id: usize) -> impl Iterator<Item = usize> + '_ {
        let stage = &self.all[id];
        (stage.stands_on.into_iter()).chain(stage.takes.iter().copied())
    }

    /// By name or number; the last without a name.
    pub(super) fn target(&self, target: &str) -> Option<usize> {
        let count = self.all.len();
        if target.is_empty() {
            return count.checked_sub(1);
        }
        let by_name = self.named(&target.to_lowercase(), count);
        by_name.or_else(|| target.parse().ok().filter(|&id| id < count))
    }
}

struct Warner<'w> {
    warnings: &'w mut Vec<Warning>,
    lines: Lines,
}

impl Warner<'_> {
    fn say(&mut self, rule: &'static str, message: String) {
        self.warnings.push(Warning {
            rule,
            message,
            lines: self.lines,
        });
    }
}

fn looked_up<'a>(base: &str, wanted: &Platform, options: &Options<'a>) -> Option<&'a Base> {
    let name = base.to_lowercase();
    let mut contexts = options.plan.contexts.keys();
    if contexts.any(|context| context.split("::").next() == Some(name.as_str())) {
        return None;
    }
    let full = Reference::parse(base).ok()?.full();
    let of_name = || (options.bases.iter()).filter(|(query, _)| query.reference == full);
    let exact = of_name().find(|(query, _)| query.platform == *wanted);
    exact.or_else(|| of_name().next()).map(|(_, base)| base)
}

fn wrong_platform(name: &str, wanted: &Platform, image: &Base, warn: &mut Warner<'_>) {
    let (wanted, is) = (wanted.normalized(), image.platform.normalized());
    if is.os.is_empty() || wanted.os == is.os && wanted.architecture == is.architecture {
        return;
    }
    let (wanted, is) = (wanted.to_string(), is.to_string());
    warn.say(
        "InvalidBaseImagePlatform",
        format!("Base image {name} was pulled with platform {is:?}, expected {wanted:?} for current build"),
    );
}

fn names(file: &Dockerfile, warnings: &mut Vec<Warning>) {
    let mut seen = BTreeSet::new();
    for stage in &file.stages {
        let Some(name) = &stage.name else { continue };
        let mut warn = Warner {
            warnings: &mut *warnings,
            lines: stage.lines,
        };
        if RESERVED.contains(&name.as_str()) {
            warn.say(
                "ReservedStageName",
                format!("Stage name should not use the same name as reserved stage {name:?}"),
            );
        }
        if !seen.insert(name) {
            warn.say(
                "DuplicateStageName",
                format!("Duplicate stage name {name:?}, stage names should be unique"),
            );
        }
    }
}

/// The name of an instruction as it is written.
pub(super) fn written_name(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// All instructions are in small letters or all in capitals, as most are.
fn casing(file: &Dockerfile, warnings: &mut Vec<Warning>) {
    let all = || {
        file.stages.iter().flat_map(|stage| {
            let from = (written_name(&stage.text), stage.lines);
            let commands = stage.commands.iter();
            std::iter::once(from).chain(commands.map(|one| (written_name(&one.text), one.lines)))
        })
    };
    let is_lower = |name: &str| name == name.to_lowercase();
    let is_upper = |name: &str| name == name.to_uppercase();
    let lower = all().filter(|(name, _)| is_lower(name)).count();
    let upper = all().filter(|(name, _)| is_upper(name)).count();
    let (fits, how): (&dyn Fn(&str) -> bool, _) = match lower > upper {
        true => (&is_lower, "lowercase"),
        false => (&is_upper, "uppercase"),
    };
    for (name, lines) in all().filter(|(name, _)| !fits(name)) {
        warnings.push(Warning {
            rule: "ConsistentInstructionCasing",
            message: format!(
                "Command '{name}' should match the case of the command majority ({how})"
            ),
            lines,
        });
    }
}

/// Bases must be names even if no argument is given.
fn defaults(file: &Dockerfile, predefined: &Variables, warnings: &mut Vec<Warning>) {
    let expander = file.expander();
    let mut variables = predefined.clone();
    for arg in &file.global_args {
        let Some(default) = &arg.default else {
            continue;
        };
        let Ok(value) = expander.expand(default, &variables) else {
            return;
        };
        variables.insert(arg.name.clone(), value.text);
    }
    for stage in &file.stages {
        let Ok(base) = expander.expand(&stage.base, &variables) else {
            return;
        };
        if Reference::parse(&base.text).is_err() {
            warnings.push(Warning {
                rule: "InvalidDefaultArgInFrom",
                message: format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base
                ),
                lines: stage.lines,
            });
        }
    }
}
