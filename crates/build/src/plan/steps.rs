//! Instructions that change the configuration, and WORKDIR.

use super::planner::{Now, Planner, shown};
use super::stages::Step;
use super::{path, ports, signal, text, variables};
use crate::dockerfile::{Arg, Health, Instruction, Line};
use crate::graph::{FileAction, Files, Op};

/// Of directories that WORKDIR makes.
const DIRECTORY_MODE: u32 = 0o755;

impl Planner<'_> {
    pub(super) fn step(&mut self, now: &mut Now, step: &Step<'_>) -> Result<(), String> {
        match step.instruction.as_ref() {
            Instruction::Add(add) => self.add(now, step, add),
            Instruction::Copy(copy) => self.copy(now, step, copy),
            Instruction::Run(run) => self.run(now, step, run),
            Instruction::Workdir(path) => self.workdir(now, step, path),
            Instruction::Arg(args) => self.arg(now, args),
            Instruction::Cmd(line) => {
                let args = command(now, line);
                now.has_cmd = true;
                now.state.config.args_escaped = true;
                let created_by = format!("CMD {}", text::quoted_list(&args));
                now.state.config.cmd = args;
                self.commit(now, created_by, None)
            }
            Instruction::Entrypoint(line) => {
                let args = command(now, line);
                if !now.has_cmd {
                    now.state.config.cmd.clear();
                }
                let created_by = format!("ENTRYPOINT {}", text::quoted_list(&args));
                now.state.config.entrypoint = args;
                self.commit(now, created_by, None)
            }
            Instruction::Env(pairs) => {
                let pairs = self.pairs(now, pairs)?;
                let mut created_by = String::from("ENV");
                for (name, value) in pairs {
                    created_by.push_str(&format!(" {name}={value}"));
                    now.state.config.set_env(&name, &value);
                    now.state.env.insert(name, value);
                }
                self.commit(now, created_by, None)
            }
            Instruction::Label(pairs) => {
                let pairs = self.pairs(now, pairs)?;
                let mut created_by = String::from("LABEL");
                for (name, value) in pairs {
                    created_by.push_str(&format!(" {name}={value}"));
                    now.state.config.labels.insert(name, value);
                }
                self.commit(now, created_by, None)
            }
            Instruction::Expose(words) => {
                let mut all = Vec::new();
                for word in words {
                    for port in self.expander.expand(word, &now.state.env)?.words {
                        all.extend(ports::parse(&port)?);
                    }
                }
                let created_by = format!("EXPOSE {}", text::plain_list(&all));
                now.state.config.exposed_ports.extend(all);
                self.commit(now, created_by, None)
            }
            Instruction::Healthcheck(health) => {
                now.state.config.healthcheck = Some(health_config(health));
                let created_by = format!("HEALTHCHECK {}", text::health(health));
                self.commit(now, created_by, None)
            }
            Instruction::Maintainer(author) => {
                now.state.author.clone_from(author);
                self.commit(now, format!("MAINTAINER {author}"), None)
            }
            Instruction::Onbuild(trigger) => {
                now.state.config.on_build.push(trigger.clone());
                Ok(())
            }
            Instruction::Shell(shell) => {
                now.state.config.shell.clone_from(shell);
                self.commit(now, format!("SHELL {}", text::plain_list(shell)), None)
            }
            Instruction::Stopsignal(text) => {
                let name = self.expand(now, text)?;
                signal::check(&name)?;
                now.state.config.stop_signal.clone_from(&name);
                self.commit(now, format!("STOPSIGNAL {name}"), None)
            }
            Instruction::User(text) => {
                let user = self.expand(now, text)?;
                now.state.config.user.clone_from(&user);
                self.commit(now, format!("USER {user}"), None)
            }
            Instruction::Volume(paths) => {
                let mut all = Vec::new();
                for path in paths {
                    let path = self.expand(now, path)?;
                    if path.is_empty() {
                        return Err("VOLUME specified can not be an empty string".to_owned());
                    }
                    all.push(path);
                }
                let created_by = format!("VOLUME {}", text::plain_list(&all));
                now.state.config.volumes.extend(all);
                self.commit(now, created_by, None)
            }
        }
    }

    fn pairs(
        &self,
        now: &Now,
        pairs: &[(String, String)],
    ) -> Result<Vec<(String, String)>, String> {
        let expanded = pairs
            .iter()
            .map(|(name, value)| Ok((self.expand(now, name)?, self.expand(now, value)?)));
        expanded.collect()
    }

    /// What the user gives goes before the default, and that before the global
    /// argument of the name.
    fn arg(&mut self, now: &mut Now, args: &[Arg]) -> Result<(), String> {
        let mut created_by = String::from("ARG");
        for arg in args {
            let value = match (variables::given(self.options, &arg.name), &arg.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(now, default)?),
                (None, None) => self.globals.get(&arg.name).cloned(),
            };
            created_by.push(' ');
            created_by.push_str(&arg.name);
            if let Some(value) = value {
                created_by.push('=');
                created_by.push_str(&value);
                now.state.env.insert(arg.name.clone(), value);
            }
            if !now.state.args.contains(&arg.name) {
                now.state.args.push(arg.name.clone());
            }
        }
        self.commit(now, created_by, None)
    }

    fn workdir(&mut self, now: &mut Now, step: &Step<'_>, text: &str) -> Result<(), String> {
        let given = self.expand(now, text)?;
        // An absolute path stays as it is written, where people read it.
        let directory = match (given.as_str(), now.state.config.working_dir.as_str()) {
            ("", "") => "/".to_owned(),
            ("", current) => current.to_owned(),
            (given, _) if given.starts_with('/') => given.to_owned(),
            (given, current) => path::join(current, given),
        };
        now.state.config.working_dir.clone_from(&directory);
        let created_by = format!("WORKDIR {directory}");
        let name = shown(&self.expander, &step.text, &now.state.env);
        if directory == "/" {
            return self.commit(now, created_by, None);
        }
        let name = self.name(now, step, &name);
        let user = &now.state.config.user;
        let op = Op::Files(Files {
            base: now.state.root.map(|_| 0),
            actions: vec![FileAction::MakeDir {
                path: path::absolute(&directory),
                mode: DIRECTORY_MODE,
                owner: Some(user.clone()).filter(|user| !user.is_empty()),
            }],
        });
        let inputs = now.state.root.into_iter().collect();
        let id = self.push_step(now, step, op, inputs, name)?;
        now.state.root = Some(id);
        self.commit(now, created_by, Some(id))
    }
}

fn command(now: &Now, line: &Line) -> Vec<String> {
    match line {
        Line::Exec(args) => args.clone(),
        Line::Shell(text) => (now.state.config).with_shell(text.clone(), &now.state.platform.os),
    }
}

/// As Docker's configuration has it: times in nanoseconds, 0 left out.
fn health_config(health: &Health) -> serde_json::Value {
    let mut map = serde_json::Map::new();
    map.insert("Test".to_owned(), health.test.clone().into());
    let times = [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ];
    for (name, time) in times {
        if !time.is_zero() {
            let nanoseconds = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
            map.insert(name.to_owned(), nanoseconds.into());
        }
    }
    if health.retries != 0 {
        map.insert("Retries".to_owned(), health.retries.into());
    }
    map.into()
}
