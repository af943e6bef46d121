//! RUN and its mounts.

use std::borrow::Cow;

use super::path;
use super::planner::{Inputs, Now, Planner, Source};
use super::stages::{StandsOn, Step};
use super::text::{plain_list, summary, uppercased};
use super::variables;
use crate::dockerfile::{self, Heredoc, Line, Network, Run};
use crate::graph::{Exec, ModeChange, Mount, MountKind, Op, Variables};

/// Of a step without another.
const HOSTNAME: &str = "buildkitsandbox";
/// Where a document with a `#!` line of its own is.
const SCRIPTS: &str = "/dev/pipes/";
const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const SSH_MODE: u32 = 0o600;
const EPOCH: &str = "SOURCE_DATE_EPOCH";
const AGENT: &str = "SSH_AUTH_SOCK";

/// What is run.
struct Program {
    args: Vec<String>,
    /// As the vertex is named.
    shown: String,
    /// A document that is mounted: its name and content.
    script: Option<(String, String)>,
}

impl Planner<'_> {
    pub(super) fn run(&mut self, now: &mut Now, step: &Step<'_>, run: &Run) -> Result<(), String> {
        let line = command_line(now, step, run)?;
        let mut inputs = Inputs::default();
        let root = now.state.root.map(|root| inputs.add(root));
        let mut mounts = Vec::new();
        if let Some((name, content)) = &line.script {
            let mode = Some(ModeChange::Octal(0o755));
            let from = inputs.add(self.inline(name, content, mode)?);
            mounts.push(Mount {
                target: SCRIPTS.to_owned(),
                kind: MountKind::Bind {
                    from: Some(from),
                    source: "/".to_owned(),
                },
                read_only: true,
            });
        }
        let mut secrets = Variables::new();
        for (text, from) in run.mounts.iter().zip(&step.from) {
            let mut expand = |value: &str| self.expand(now, value);
            let mount = dockerfile::Mount::parse(text, &mut expand)?;
            if let Some(name) = mount.env.clone() {
                secrets.insert(name, "****".to_owned());
            }
            let is_ssh = |mount: &&Mount| matches!(mount.kind, MountKind::Ssh { .. });
            let agents = mounts.iter().filter(is_ssh).count();
            mounts.push(self.mount(now, mount, *from, agents, &mut inputs)?);
        }
        let env = self.environment(now, &mounts);
        self.charge(
            env.iter()
                .map(|(name, value)| name.len() + value.len() + 48)
                .sum(),
        )?;
        let known = match secrets.is_empty() {
            true => Cow::Borrowed(&now.state.env),
            false => {
                let mut known = now.state.env.clone();
                known.extend(secrets);
                Cow::Owned(known)
            }
        };
        let expander = self.expander.clone().keep_quotes().keep_unset();
        let shown = expander.expand(&line.shown, &known);
        let shown = uppercased(&shown.map_or_else(|_| line.shown.clone(), |shown| shown.text));
        let name = self.name(now, step, &shown);
        let created_by = created_by(now, &line.args);
        let hostname = variables::given(self.options, "BUILDKIT_SANDBOX_HOSTNAME")
            .unwrap_or(&self.options.hostname);
        let op = Op::Exec(Box::new(Exec {
            root,
            args: line.args,
            env,
            proxies: self.proxies.clone(),
            cwd: path::absolute(&now.state.config.working_dir),
            user: now.state.config.user.clone(),
            hostname: match hostname.as_str() {
                "" => HOSTNAME.to_owned(),
                hostname => hostname.to_owned(),
            },
            network: match run.network {
                Network::Default => self.options.network,
                network => network,
            },
            security: run.security,
            extra_hosts: self.options.extra_hosts.clone(),
            ulimits: self.options.ulimits.clone(),
            shm_size: self.options.shm_size,
            mounts,
            platform: now.state.platform.clone(),
        }));
        let id = self.push_step(now, step, op, inputs.0, name)?;
        now.state.root = Some(id);
        self.commit(now, created_by, Some(id))
    }

    /// What a step sees: by name, since the order in which variables were set
    /// decides nothing; then what is not set otherwise.
    fn environment(&self, now: &Now, mounts: &[Mount]) -> Vec<(String, String)> {
        let socket = mounts.iter().find_map(|mount| match mount.kind {
            MountKind::Ssh { .. } => Some(mount.target.clone()),
            _ => None,
        });
        let own = [
            (EPOCH, self.epoch.shown().map(|time| time.to_string())),
            (AGENT, socket),
        ];
        let mut env: Vec<(String, String)> = (now.state.env.iter())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        for (name, value) in own {
            if let (Some(value), false) = (value, now.state.env.contains_key(name)) {
                env.push((name.to_owned(), value));
            }
        }
        env
    }

    fn mount(
        &mut self,
        now: &Now,
        mount: dockerfile::Mount,
        from: Option<StandsOn>,
        agents: usize,
        inputs: &mut Inputs,
    ) -> Result<Mount, String> {
        let read_only = mount.is_read_only();
        let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let given = mount.target.as_deref().unwrap_or_default();
        let target = path::join(&now.state.config.working_dir, given);
        let source = path::absolute(mount.source.as_deref().unwrap_or_default());
        let (target, kind) = match mount.kind {
            dockerfile::MountKind::Bind => {
                let from = self.mounted(&mount, from, &source, inputs, true)?;
                (target, MountKind::Bind { from, source })
            }
            dockerfile::MountKind::Cache => {
                let id = mount.id.clone().unwrap_or_else(|| clean(given));
                let namespace = variables::given(self.options, "BUILDKIT_CACHE_MOUNT_NS");
                let kind = MountKind::Cache {
                    id: match namespace {
                        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
                        _ => id,
                    },
                    sharing: mount.sharing.unwrap_or_default(),
                    from: self.mounted(&mount, from, &source, inputs, false)?,
                    source,
                    mode: mount.mode.unwrap_or(CACHE_MODE),
                    uid,
                    gid,
                };
                (target, kind)
            }
            dockerfile::MountKind::Tmpfs => {
                let size = mount.size.unwrap_or(0);
                (target, MountKind::Tmpfs { size })
            }
            dockerfile::MountKind::Secret => {
                let named = mount.source.or(mount.id).filter(|id| !id.is_empty());
                let id = match named {
                    Some(id) => id,
                    None if given.is_empty() => {
                        return Err("one of source, target required".to_owned());
                    }
                    None => base_name(given).to_owned(),
                };
                let target = match given {
                    "" => path::join("/run/secrets", base_name(&id)),
                    given => path::join("/", given),
                };
                let kind = MountKind::Secret {
                    id,
                    required: mount.required,
                    mode: mount.mode.unwrap_or(SECRET_MODE),
                    uid,
                    gid,
                    file: mount.env.is_none() || !given.is_empty(),
                    env: mount.env,
                };
                (target, kind)
            }
            dockerfile::MountKind::Ssh => {
                let target = match given {
                    "" => format!("/run/buildkit/ssh_agent.{agents}"),
                    given => path::join("/", given),
                };
                let kind = MountKind::Ssh {
                    id: mount.id.unwrap_or_else(|| "default".to_owned()),
                    required: mount.required,
                    mode: mount.mode.unwrap_or(SSH_MODE),
                    uid,
                    gid,
                };
                (target, kind)
            }
        };
        if target == "/" {
            return Err(format!("invalid mount target {given:?}"));
        }
        Ok(Mount {
            target,
            kind,
            read_only,
        })
    }

    /// The input that a mount shows; none = nothing.
    fn mounted(
        &mut self,
        mount: &dockerfile::Mount,
        from: Option<StandsOn>,
        source: &str,
        inputs: &mut Inputs,
        else_context: bool,
    ) -> Result<Option<usize>, String> {
        let given = match from {
            Some(stage) => self.source(stage)?.ok_or_else(|| {
                let from = mount.from.as_deref().unwrap_or_default();
                let target = mount.target.as_deref().unwrap_or_default();
                format!("cannot mount from stage {from:?} to {target:?}, stage needs to be defined before current command")
            })?,
            None if else_context => self.main_context()?,
            None => return Ok(None),
        };
        Ok(match given {
            Source::Root(root) => root.map(|id| inputs.add(id)),
            Source::Tree { id, context } => {
                self.needs(context.as_deref(), source);
                Some(inputs.add(id))
            }
        })
    }
}

fn command_line(now: &Now, step: &Step<'_>, run: &Run) -> Result<Program, String> {
    let mut shown = step.text.to_string();
    let with_shell = |line: String| (now.state.config).with_shell(line, &now.state.platform.os);
    let (text, documents) = match (&run.line, run.heredocs.as_slice()) {
        (Line::Exec(args), []) => {
            return Ok(Program {
                args: args.clone(),
                shown,
                script: None,
            });
        }
        (Line::Exec(args), _) => {
            return Err(format!(
                "parsing produced an invalid run command: {}",
                plain_list(args)
            ));
        }
        (Line::Shell(text), documents) => (text, documents),
    };
    let mut script = None;
    let line = match documents {
        [] => text.clone(),
        // Nothing but a document is a script, even where the shell knows none.
        [document, ..] if Heredoc::of_word(text, '\\').is_some() => {
            let content = document.text();
            shown = format!("{shown} ({})", summary(&document.content));
            if content.starts_with("#!") && now.state.platform.os != "windows" {
                let path = format!("{SCRIPTS}{}", document.name);
                script = Some((document.name.clone(), content));
                path
            } else {
                content
            }
        }
        documents => {
            let mut line = text.clone();
            for document in documents {
                line.push('\n');
                line.push_str(&document.content);
                line.push_str(&document.name);
            }
            line
        }
    };
    Ok(Program {
        args: with_shell(line),
        shown,
        script,
    })
}

/// "RUN |1 A=b /bin/sh -c make # buildkit": with the arguments that are
/// declared.
fn created_by(now: &Now, args: &[String]) -> String {
    let mut words = Vec::new();
    if !now.state.args.is_empty() {
        words.push(format!("|{}", now.state.args.len()));
    }
    for name in &now.state.args {
        let value = now.state.env.get(name).map_or("", String::as_str);
        words.push(format!("{name}={value}"));
    }
    words.extend(args.iter().cloned());
    format!("RUN {} # buildkit", words.join(" "))
}

/// A target as written, only cleaned: caches are known by it.
fn clean(target: &str) -> String {
    match target.starts_with('/') {
        true => path::absolute(target),
        false => path::source(target),
    }
}

fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}
