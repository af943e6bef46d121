//! The graph as it grows: stages in the order of the file, vertices that are
//! shared, and what is known after each step.

use std::collections::{BTreeMap, BTreeSet};

use berth_store::Platform;
use serde_json::{Map, Value};

use super::config::{Config, split_pair};
use super::stages::{External, ExternalId, StageId, Stages, StandsOn, Step};
use super::variables::{self, Epoch};
use super::{Base, Error, Options, Query, platform, text};
use crate::dockerfile::{Dockerfile, Expander, Instruction, Lines};
use crate::graph::{Graph, History, Id, ImagePlan, Input, Local, Op, Plan, Variables, Vertex};

const COMMENT: &str = "buildkit.dockerfile.v0";
/// Bytes of environment, history and names that a plan may come to: values may
/// double with each line, and stages inherit.
const MAX_BYTES: usize = 64 << 20;

pub(super) struct Planner<'a> {
    pub(super) options: &'a Options,
    pub(super) globals: &'a Variables,
    pub(super) expander: Expander,
    pub(super) epoch: Epoch,
    pub(super) proxies: Vec<(String, String)>,
    pub(super) bases: &'a BTreeMap<Query, Base>,
    pub(super) stages: &'a Stages<'a>,
    pub(super) graph: Graph,
    pub(super) contexts: BTreeMap<String, Context>,
    pub(super) sources: BTreeMap<ExternalId, Source>,
    pub(super) done: Vec<Option<State>>,
    /// The root filesystem with nothing in it.
    pub(super) empty: Option<Id>,
    bytes: usize,
}

/// Files of the client that the plan uses.
pub(super) struct Context {
    pub(super) id: Id,
    pub(super) paths: BTreeSet<String>,
}

/// Something to copy from or to mount.
#[derive(Clone)]
pub(super) enum Source {
    /// None = scratch.
    Root(Option<Id>),
    Tree {
        id: Id,
        /// The context of the client that it is.
        context: Option<String>,
    },
}

/// What is known of a stage after a step.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) root: Option<Id>,
    pub(super) config: Config,
    pub(super) author: String,
    pub(super) history: Vec<History>,
    /// ENV, and ARG with a value.
    pub(super) env: Variables,
    /// ARG, in order; the value is for those that `env` does not have.
    pub(super) args: Vec<String>,
    pub(super) platform: Platform,
    base: Map<String, Value>,
}

/// A stage that is being planned.
pub(super) struct Now {
    pub(super) state: State,
    pub(super) stage: StageId,
    pub(super) ignore_cache: bool,
    /// The stage has a CMD of its own, which ENTRYPOINT leaves alone.
    pub(super) has_cmd: bool,
    pub(super) label: String,
    pub(super) index: usize,
    total: usize,
}

/// Inputs of a vertex that is being made.
#[derive(Default)]
pub(super) struct Inputs(pub(super) Vec<Id>);

impl Inputs {
    pub(super) fn add(&mut self, id: Id) -> Input {
        let known = self.0.iter().position(|input| *input == id);
        known.unwrap_or_else(|| {
            self.0.push(id);
            self.0.len() - 1
        })
    }
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        file: &'a Dockerfile,
        options: &'a Options,
        bases: &'a BTreeMap<Query, Base>,
        globals: &'a Variables,
        stages: &'a Stages<'a>,
    ) -> Result<Self, Error> {
        Ok(Self {
            epoch: Epoch::of(options, globals)?,
            proxies: variables::proxies(options),
            expander: file.expander(),
            done: (stages.all.iter()).map(|_| None).collect(),
            options,
            globals,
            bases,
            stages,
            graph: Graph::default(),
            contexts: BTreeMap::new(),
            sources: BTreeMap::new(),
            empty: None,
            bytes: 0,
        })
    }

    pub(super) fn plan(
        mut self,
        needed: &BTreeSet<StageId>,
        target: StageId,
    ) -> Result<Plan, Error> {
        // A stage stands on earlier ones only, so the order of the file will do.
        for &id in needed {
            let state = self.stage(id)?;
            self.done[id] = Some(state);
        }
        for (name, context) in std::mem::take(&mut self.contexts) {
            let paths = match context.paths.contains(".") {
                true => Vec::new(),
                false => context.paths.into_iter().collect(),
            };
            self.graph.vertices[context.id].op = Op::Local(Local { name, paths });
        }
        let mut state = self.done[target].take().unwrap_or_default();
        let labels = self.options.labels.clone();
        state.config.labels.extend(labels);
        Ok(Plan {
            graph: self.graph,
            output: state.root,
            image: ImagePlan {
                config: state.config.to_map(),
                author: state.author,
                base: state.base,
                history: state.history,
                source_date_epoch: self.epoch.given(),
            },
            platform: self.options.platform.clone(),
        })
    }

    fn stage(&mut self, id: StageId) -> Result<State, Error> {
        let stages = self.stages;
        let stage = &stages.all[id];
        let failed = |lines: Lines| move |message: String| Error::new(message, Some(lines));
        let name = stage.written.name.as_deref();
        let is_filtered = |wanted: &String| {
            name.is_some_and(|name| name.eq_ignore_ascii_case(wanted)) || wanted.parse() == Ok(id)
        };
        let mut now = Now {
            state: State::default(),
            stage: id,
            ignore_cache: self.options.no_cache
                || self.options.no_cache_filter.iter().any(is_filtered),
            has_cmd: false,
            label: stage.label.clone(),
            index: 0,
            total: 0,
        };
        let layers = stage.steps.iter().filter(|step| step.is_counted()).count();
        let from_image = match stage.stands_on {
            StandsOn::External(external) => stages.externals[external] != External::Scratch,
            StandsOn::Stage(_) => false,
        };
        now.total = layers + usize::from(from_image);
        now.state = (self.base(&mut now)).map_err(failed(stage.written.lines))?;
        for step in &stage.steps {
            self.step(&mut now, step).map_err(failed(step.lines))?;
        }
        Ok(now.state)
    }

    /// Where a stage begins.
    fn base(&mut self, now: &mut Now) -> Result<State, String> {
        let stages = self.stages;
        let stage = &stages.all[now.stage];
        let mut state = match stage.stands_on {
            // A stage that comes later is none that FROM can mean.
            StandsOn::Stage(base) => self.done[base].clone().unwrap_or_default(),
            StandsOn::External(external) => {
                let mut state = self.begun(external, &stage.platform)?;
                let source = self.external(external, Some(now))?;
                state.root = match source {
                    Source::Root(root) => root,
                    Source::Tree { .. } => Some(self.root_of(&source)),
                };
                state
            }
        };
        self.charge(state.size())?;
        state.config.on_build.clear();
        state.config.ensure_path(&state.platform.os);
        for pair in &state.config.env {
            let (name, value) = split_pair(pair);
            state.env.insert(name.to_owned(), value.to_owned());
        }
        Ok(state)
    }

    /// What an image says besides its layers.
    fn begun(&self, external: ExternalId, platform: &Platform) -> Result<State, String> {
        let External::Image { query, .. } = &self.stages.externals[external] else {
            return Ok(State {
                config: Config::scratch(),
                platform: match self.stages.externals[external] {
                    External::Scratch => self.options.platform.clone(),
                    _ => platform.clone(),
                },
                ..State::default()
            });
        };
        let Some(base) = self.bases.get(query) else {
            return Err(format!("nothing is known of {}", query.reference));
        };
        let text = |key: &str| base.config.get(key).and_then(Value::as_str);
        let keys = ["os.version", "os.features", "variant"];
        let kept = keys.iter().filter_map(|key| {
            let value = base.config.get(*key).filter(|value| !value.is_null())?;
            Some(((*key).to_owned(), value.clone()))
        });
        Ok(State {
            root: None,
            config: Config::of_image(&base.config)?,
            author: text("author").unwrap_or_default().to_owned(),
            history: history_of(&base.config)?,
            platform: platform.clone(),
            base: kept.collect(),
            ..State::default()
        })
    }

    /// Adds a vertex of a step.
    pub(super) fn push_step(
        &mut self,
        now: &Now,
        step: &Step<'_>,
        op: Op,
        inputs: Vec<Id>,
        name: String,
    ) -> Result<Id, String> {
        let id = self.push(op, inputs, name, step.text.to_string(), Some(step.lines))?;
        let is_source = matches!(self.graph.vertices[id].op, Op::Git(_) | Op::Http(_));
        self.graph.vertices[id].ignore_cache = now.ignore_cache && !is_source;
        Ok(id)
    }

    pub(super) fn push(
        &mut self,
        op: Op,
        inputs: Vec<Id>,
        name: String,
        text: String,
        lines: Option<Lines>,
    ) -> Result<Id, String> {
        self.charge(name.len() + text.len())?;
        self.graph.vertices.push(Vertex {
            op,
            inputs,
            name,
            text,
            lines,
            ignore_cache: false,
        });
        Ok(self.graph.vertices.len() - 1)
    }

    /// Counts what a plan comes to.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > MAX_BYTES {
            true => Err(format!(
                "the environment, history and names of this build's steps come to more than {} MiB",
                MAX_BYTES >> 20
            )),
            false => Ok(()),
        }
    }

    /// Replaces variables by what the stage knows.
    pub(super) fn expand(&self, now: &Now, text: &str) -> Result<String, String> {
        Ok(self.expander.expand(text, &now.state.env)?.text)
    }

    /// "[build 2/5] RUN make": a name for a vertex of a stage, counted.
    pub(super) fn name(&self, now: &mut Now, step: &Step<'_>, text: &str) -> String {
        let (platform, env) = (
            now.state.platform.clone(),
            std::mem::take(&mut now.state.env),
        );
        let name = self.prefixed(now, &platform, &env, step.is_trigger, text);
        now.state.env = env;
        name
    }

    pub(super) fn prefixed(
        &self,
        now: &mut Now,
        platform: &Platform,
        env: &Variables,
        is_trigger: bool,
        text: &str,
    ) -> String {
        if now.total == 0 {
            return text.to_owned();
        }
        now.index += 1;
        let mut prefix = String::new();
        if self.options.multi_platform {
            let cross = platform::cross(platform, env);
            prefix = format!("{}{cross} ", platform.normalized());
        }
        if !now.label.is_empty() {
            prefix.push_str(&now.label);
            prefix.push(' ');
        }
        let width = now.total.to_string().len();
        let on_build = if is_trigger { "ONBUILD " } else { "" };
        format!(
            "[{prefix}{:width$}/{}] {on_build}{text}",
            now.index, now.total
        )
    }

    /// Adds to the history: an instruction, and the vertex that made its layer.
    pub(super) fn commit(
        &mut self,
        now: &mut Now,
        created_by: String,
        vertex: Option<Id>,
    ) -> Result<(), String> {
        self.charge(created_by.len())?;
        let time = self.epoch.given();
        now.state.history.push(History {
            created: time
                .and_then(|time| jiff::Timestamp::from_second(time).ok())
                .map(|time| time.to_string()),
            created_by,
            comment: COMMENT.to_owned(),
            empty_layer: vertex.is_none(),
            vertex,
            ..History::default()
        });
        Ok(())
    }
}

impl Step<'_> {
    /// Whether progress counts it.
    fn is_counted(&self) -> bool {
        self.is_trigger
            || matches!(
                self.instruction.as_ref(),
                Instruction::Add(_)
                    | Instruction::Copy(_)
                    | Instruction::Run(_)
                    | Instruction::Workdir(_)
            )
    }
}

impl State {
    /// Bytes that a copy of it takes, about.
    fn size(&self) -> usize {
        let env: usize = self
            .env
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let history = self
            .history
            .iter()
            .map(|entry| entry.created_by.len() + size_of::<History>());
        let labels = self
            .config
            .labels
            .iter()
            .map(|(name, value)| name.len() + value.len());
        let sets = self.config.exposed_ports.len() + self.config.volumes.len() + self.args.len();
        2 * env + history.sum::<usize>() + labels.sum::<usize>() + 32 * sets
    }
}

/// The history of a base; null is nothing.
pub(super) fn history_of(config: &Value) -> Result<Vec<History>, String> {
    let entries = match config.get("history") {
        Some(Value::Array(entries)) => entries.as_slice(),
        _ => &[],
    };
    let read = entries.iter().map(|entry| {
        let known = entry.as_object().into_iter().flatten();
        let known = known.filter(|(_, value)| !value.is_null());
        let object = known
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        serde_json::from_value(Value::Object(object))
            .map_err(|error| format!("failed to parse image config: {error}"))
    });
    read.collect()
}

/// The name of a vertex as people wrote it, variables replaced.
pub(super) fn shown(expander: &Expander, text: &str, env: &Variables) -> String {
    let expanded = expander.expand(text, env);
    text::uppercased(&expanded.map_or_else(|_| text.to_owned(), |expanded| expanded.text))
}
