//! Stages: what each stands on and takes from, and which are needed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use berth_store::{Platform, Reference};

use super::{Base, Error, NamedContext, Need, Options, Query, config::Config};
use crate::dockerfile::{self, Dockerfile, Instruction, Lines, Mount, hinted};
use crate::graph::Variables;

/// Triggers of all stages together: they multiply, and a file may be hostile.
const MAX_TRIGGERS: usize = 20_000;
/// Triggers stand in images as they would in a file without directives.
const TRIGGER_ESCAPE: char = '\\';

/// Place in [`Stages::all`].
pub(super) type StageId = usize;
/// Place in [`Stages::externals`].
pub(super) type ExternalId = usize;

pub(super) struct Stages<'a> {
    options: &'a Options,
    pub(super) all: Vec<Stage<'a>>,
    pub(super) externals: Vec<External>,
    interned: BTreeMap<External, ExternalId>,
    by_name: BTreeMap<String, StageId>,
    contexts: BTreeMap<String, (&'a str, &'a NamedContext)>,
    /// Triggers of all stages.
    triggers: usize,
    /// Whether some step takes from something, or mounts: then BuildKit names a
    /// stage that has no name.
    takes: bool,
}

pub(super) struct Stage<'a> {
    pub(super) written: &'a dockerfile::Stage,
    /// As its vertices are named: its own name, or "stage-0".
    pub(super) label: String,
    pub(super) stands_on: StandsOn,
    /// What its base is asked for; that of the stage it stands on goes before.
    pub(super) platform: Platform,
    pub(super) steps: Vec<Step<'a>>,
    triggers_known: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StandsOn {
    Stage(StageId),
    External(ExternalId),
}

/// Something that is no stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum External {
    Scratch,
    Image {
        query: Query,
        /// The named context that it is.
        context: Option<String>,
    },
    /// Files of a named context.
    Files {
        context: String,
        from: NamedContext,
    },
}

/// One instruction of a stage.
pub(super) struct Step<'a> {
    pub(super) instruction: Cow<'a, Instruction>,
    pub(super) text: Cow<'a, str>,
    pub(super) lines: Lines,
    pub(super) is_trigger: bool,
    /// COPY: one, of `--from`; RUN: one for each mount.
    pub(super) from: Vec<Option<StandsOn>>,
}

impl<'a> Stages<'a> {
    pub(super) fn read(
        file: &'a Dockerfile,
        options: &'a Options,
        globals: &Variables,
    ) -> Result<Self, Error> {
        let contexts = options.contexts.iter().map(|(name, context)| {
            let (bare, platform) = name.split_once("::").unwrap_or((name, ""));
            let key = match platform {
                "" => familiar(bare),
                platform => format!("{}::{platform}", familiar(bare)),
            };
            (key, (name.as_str(), context))
        });
        let mut stages = Self {
            options,
            all: Vec::new(),
            externals: Vec::new(),
            interned: BTreeMap::new(),
            by_name: BTreeMap::new(),
            contexts: contexts.collect(),
            triggers: 0,
            takes: false,
        };
        for written in &file.stages {
            let stage = stages
                .stage(file, written, globals)
                .map_err(|message| Error::new(message, Some(written.lines)))?;
            if let Some(name) = &written.name {
                stages.by_name.insert(name.clone(), stages.all.len());
            }
            stages.all.push(stage);
        }
        // Only now, since names of later stages are names as well.
        for (id, written) in file.stages.iter().enumerate() {
            if stages.is_replaced(id) {
                continue;
            }
            for command in &written.commands {
                let step = stages
                    .step(file, Cow::Borrowed(&command.instruction))
                    .map_err(|message| Error::new(message, Some(command.lines)))?;
                stages.all[id].steps.push(Step {
                    text: Cow::Borrowed(&command.text),
                    lines: command.lines,
                    ..step
                });
            }
        }
        stages.check_circles()?;
        if let ([stage], false) = (stages.all.as_mut_slice(), stages.takes) {
            stage.label = String::new();
        }
        Ok(stages)
    }

    fn stage(
        &mut self,
        file: &Dockerfile,
        written: &'a dockerfile::Stage,
        globals: &Variables,
    ) -> Result<Stage<'a>, String> {
        let expander = file.expander();
        let base = expander.expand(&written.base, globals)?.text;
        if base.is_empty() {
            return Err(format!("base name ({}) should not be blank", written.base));
        }
        let wanted = match &written.platform {
            None => self.options.platform.clone(),
            Some(text) => {
                let value = expander.expand(text, globals).map_err(|error| {
                    format!("failed to process arguments for platform {text}: {error}")
                })?;
                if value.text.is_empty() {
                    let unset = value.unset.first().map_or("", String::as_str);
                    let names: Vec<&str> = globals.keys().map(String::as_str).collect();
                    return Err(hinted(
                        format!("empty platform value from expression {text}"),
                        unset,
                        &names,
                    ));
                }
                Platform::parse(&value.text, &self.options.build_platform)
                    .map_err(|error| format!("failed to parse platform {text}: {error}"))?
            }
        };
        let named = written.name.as_deref();
        let in_its_place = named.and_then(|name| self.named_context(name, &wanted));
        let stands_on = match in_its_place {
            Some(context) => StandsOn::External(self.intern(context?)),
            None => match self.by_name.get(&base.to_lowercase()) {
                Some(&stage) => StandsOn::Stage(stage),
                None => StandsOn::External(self.external(&base, &wanted)?),
            },
        };
        Ok(Stage {
            written,
            label: match named {
                Some(name) => name.to_owned(),
                None => format!("stage-{}", self.all.len()),
            },
            stands_on,
            platform: wanted,
            steps: Vec::new(),
            triggers_known: false,
        })
    }

    /// Whether a named context takes the place of the whole stage.
    pub(super) fn is_replaced(&self, id: StageId) -> bool {
        let stage = &self.all[id];
        (stage.written.name.as_deref())
            .is_some_and(|name| self.find_context(name, &stage.platform).is_some())
    }

    fn find_context(&self, name: &str, platform: &Platform) -> Option<(&'a str, &'a NamedContext)> {
        if name == "scratch" || name == "context" || self.contexts.is_empty() {
            return None;
        }
        let key = familiar(name);
        let found = self.contexts.get(&format!("{key}::{platform}"));
        found.or_else(|| self.contexts.get(&key)).copied()
    }

    fn named_context(&self, name: &str, platform: &Platform) -> Option<Result<External, String>> {
        let (name, context) = self.find_context(name, platform)?;
        let context_name = name.to_owned();
        Some(match context {
            NamedContext::Image(address) => {
                image_of(address, platform).map(|query| External::Image {
                    query,
                    context: Some(context_name),
                })
            }
            other => Ok(External::Files {
                context: context_name,
                from: other.clone(),
            }),
        })
    }

    fn external(&mut self, name: &str, platform: &Platform) -> Result<ExternalId, String> {
        let external = match self.named_context(name, platform) {
            _ if name == "scratch" => External::Scratch,
            Some(context) => context?,
            None => External::Image {
                query: Query {
                    reference: Reference::parse(name)
                        .map_err(|error| format!("failed to parse stage name {name:?}: {error}"))?
                        .full(),
                    platform: platform.clone(),
                },
                context: None,
            },
        };
        Ok(self.intern(external))
    }

    fn intern(&mut self, external: External) -> ExternalId {
        let next = self.externals.len();
        let id = *self.interned.entry(external.clone()).or_insert(next);
        if id == next {
            self.externals.push(external);
        }
        id
    }

    /// An instruction with what it takes from; text and lines are filled in
    /// later.
    fn step(
        &mut self,
        file: &Dockerfile,
        instruction: Cow<'a, Instruction>,
    ) -> Result<Step<'a>, String> {
        let from = match instruction.as_ref() {
            Instruction::Copy(copy) => match &copy.from {
                Some(from) => vec![Some(self.copied_from(file, from)?)],
                None => vec![None],
            },
            Instruction::Run(run) => {
                let mut all = Vec::new();
                for mount in &run.mounts {
                    all.push(match Mount::from(mount)? {
                        Some(name) => Some(self.taken_from(&name)?),
                        None => None,
                    });
                    self.takes = true;
                }
                all
            }
            _ => Vec::new(),
        };
        Ok(Step {
            instruction,
            text: Cow::Borrowed(""),
            lines: Lines { start: 0, end: 0 },
            is_trigger: false,
            from,
        })
    }

    fn copied_from(&mut self, file: &Dockerfile, from: &str) -> Result<StandsOn, String> {
        if file.expander().expand(from, &Variables::new())?.text != from {
            return Err("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround".to_owned());
        }
        match from.parse::<i64>() {
            Ok(index) => match usize::try_from(index) {
                Ok(id) if id < self.all.len() => Ok(StandsOn::Stage(id)),
                _ => Err(format!("invalid stage index {index}")),
            },
            Err(_) => self.taken_from(from),
        }
    }

    fn taken_from(&mut self, name: &str) -> Result<StandsOn, String> {
        if let Some(&stage) = self.by_name.get(&name.to_lowercase()) {
            return Ok(StandsOn::Stage(stage));
        }
        self.takes = true;
        let platform = self.options.platform.clone();
        self.external(name, &platform).map(StandsOn::External)
    }

    /// Stages that copy from each other.
    fn check_circles(&self) -> Result<(), Error> {
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            Not,
            OnPath,
            Done,
        }
        let edges: Vec<Vec<(StageId, Lines)>> = self.all.iter().map(Stage::takes_from).collect();
        let mut seen = vec![Seen::Not; self.all.len()];
        for start in 0..self.all.len() {
            // Not recursive: a file may have more stages than a stack frames.
            let mut path = vec![(start, 0)];
            while let Some((id, next)) = path.last_mut() {
                if *next == 0 && seen[*id] == Seen::Done {
                    path.pop();
                    continue;
                }
                seen[*id] = Seen::OnPath;
                match edges[*id].get(*next) {
                    None => {
                        seen[*id] = Seen::Done;
                        path.pop();
                    }
                    Some(&(to, lines)) => {
                        *next += 1;
                        if seen[to] == Seen::OnPath {
                            let label = &self.all[start].label;
                            return Err(Error::new(
                                format!("circular dependency detected on stage: {label}"),
                                Some(lines),
                            ));
                        }
                        if seen[to] == Seen::Not {
                            path.push((to, 0));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The stage that is built.
    pub(super) fn target(&self) -> Result<StageId, Error> {
        let target = self.options.target.as_str();
        if target.is_empty() {
            // A file without stages does not read.
            return Ok(self.all.len().saturating_sub(1));
        }
        let by_number = || target.parse().ok().filter(|id| *id < self.all.len());
        let by_name = self.by_name.get(&target.to_lowercase()).copied();
        by_name.or_else(by_number).ok_or_else(|| {
            let names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
            let message = format!("target stage {target:?} could not be found");
            Error::new(hinted(message, target, &names), None)
        })
    }

    /// The stages that the target needs, itself included, with the triggers of
    /// their bases before their own steps; or what must be known of images
    /// first.
    pub(super) fn needed(
        &mut self,
        file: &Dockerfile,
        target: StageId,
        bases: &BTreeMap<Query, Base>,
    ) -> Result<Result<BTreeSet<StageId>, Vec<Need>>, Error> {
        loop {
            let (stages, externals) = self.reached(target);
            let mut needs: BTreeMap<&Query, Lines> = BTreeMap::new();
            for (id, lines) in externals {
                match &self.externals[id] {
                    External::Image { query, .. } if !bases.contains_key(query) => {
                        let first = needs.entry(query).or_insert(lines);
                        *first = lines.min(*first);
                    }
                    _ => {}
                }
            }
            if !needs.is_empty() {
                let need = |(query, lines): (&Query, Lines)| Need {
                    query: query.clone(),
                    lines,
                };
                return Ok(Err(needs.into_iter().map(need).collect()));
            }
            let mut takes_more = false;
            for &id in &stages {
                let lines = self.all[id].written.lines;
                takes_more |= self
                    .add_triggers(file, id, bases)
                    .map_err(|message| Error::new(message, Some(lines)))?;
            }
            if !takes_more {
                return Ok(Ok(stages));
            }
        }
    }

    /// All that it stands on or takes from; what is no stage with the first
    /// place that names it.
    fn reached(&self, target: StageId) -> (BTreeSet<StageId>, BTreeMap<ExternalId, Lines>) {
        let mut stages = BTreeSet::new();
        let mut externals = BTreeMap::new();
        let mut open = vec![(StandsOn::Stage(target), self.all[target].written.lines)];
        while let Some((next, lines)) = open.pop() {
            match next {
                StandsOn::External(id) => {
                    let first = externals.entry(id).or_insert(lines);
                    *first = lines.min(*first);
                }
                StandsOn::Stage(id) if stages.insert(id) => {
                    let stage = &self.all[id];
                    open.push((stage.stands_on, stage.written.lines));
                    open.extend(stage.steps.iter().flat_map(|step| {
                        let from = step.from.iter().flatten();
                        from.map(|from| (*from, step.lines))
                    }));
                }
                StandsOn::Stage(_) => {}
            }
        }
        (stages, externals)
    }

    /// Whether the triggers take from something.
    fn add_triggers(
        &mut self,
        file: &Dockerfile,
        id: StageId,
        bases: &BTreeMap<Query, Base>,
    ) -> Result<bool, String> {
        if self.all[id].triggers_known {
            return Ok(false);
        }
        self.all[id].triggers_known = true;
        if self.is_replaced(id) {
            return Ok(false);
        }
        let triggers: Vec<String> = match self.all[id].stands_on {
            StandsOn::Stage(base) => {
                let steps = self.all[base].steps.iter();
                let own = steps.filter_map(|step| match step.instruction.as_ref() {
                    Instruction::Onbuild(text) => Some(text.clone()),
                    _ => None,
                });
                own.collect()
            }
            StandsOn::External(external) => match &self.externals[external] {
                External::Image { query, .. } => match bases.get(query) {
                    Some(base) => Config::of_image(&base.config)?.on_build,
                    None => Vec::new(),
                },
                _ => Vec::new(),
            },
        };
        self.triggers += triggers.len();
        if self.triggers > MAX_TRIGGERS {
            return Err(format!(
                "there are more than {MAX_TRIGGERS} ONBUILD triggers to run"
            ));
        }
        let lines = self.all[id].written.lines;
        let mut steps = Vec::new();
        for text in triggers {
            let instruction =
                dockerfile::instruction(&text, TRIGGER_ESCAPE).map_err(|error| error.message)?;
            let step = self.step(file, Cow::Owned(instruction))?;
            steps.push(Step {
                text: Cow::Owned(text.lines().next().unwrap_or_default().to_owned()),
                lines,
                is_trigger: true,
                ..step
            });
        }
        let takes = steps
            .iter()
            .any(|step| step.from.iter().any(Option::is_some));
        self.all[id].steps.splice(0..0, steps);
        Ok(takes)
    }
}

impl Stage<'_> {
    /// Stages that its steps take from, and where they do.
    fn takes_from(&self) -> Vec<(StageId, Lines)> {
        let of_step = |step: &Step<'_>| {
            let lines = step.lines;
            let stages = step.from.iter().flatten().filter_map(|from| match from {
                StandsOn::Stage(id) => Some(*id),
                StandsOn::External(_) => None,
            });
            stages.map(|id| (id, lines)).collect::<Vec<_>>()
        };
        self.steps.iter().flat_map(of_step).collect()
    }
}

/// As named contexts are known: without the hub's name and `:latest`.
fn familiar(name: &str) -> String {
    match Reference::parse(name) {
        Ok(reference) => {
            let name = reference.familiar();
            name.strip_suffix(":latest").unwrap_or(&name).to_owned()
        }
        Err(_) => name.to_owned(),
    }
}

/// `docker-image://name`, `oci-layout://…`.
fn image_of(address: &str, platform: &Platform) -> Result<Query, String> {
    let reference = match address.strip_prefix("oci-layout://") {
        Some(_) => address.to_owned(),
        None => {
            let name = address.strip_prefix("docker-image://").unwrap_or(address);
            let parsed = Reference::parse(name);
            parsed
                .map_err(|error| format!("invalid named context {address}: {error}"))?
                .full()
        }
    };
    Ok(Query {
        reference,
        platform: platform.clone(),
    })
}
