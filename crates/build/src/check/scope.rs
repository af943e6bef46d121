//! The instructions of a stage, with the variables that there are at each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Options;
use super::outline::Notes;
use super::stages::{Stages, written_name};
use crate::dockerfile::{
    Arg, Command, Dockerfile, Expander, Instruction, Line, Lines, Mount, MountKind, Source,
    Sources, Stage, Warning, is_legacy_pair, nearest,
};
use crate::graph::Variables;

/// Known to BuildKit though they are in no environment.
const KNOWN: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Words of names that hold secrets, and of names that hold none after all.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const NO_SECRET: [&str; 3] = ["public", "file", "version"];

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) struct Scope<'a> {
    file: &'a Dockerfile,
    stages: &'a Stages<'a>,
    options: &'a Options<'a>,
    variables: Variables,
    /// Their names, in the order in which they were set last.
    order: Vec<String>,
    /// Arguments that were declared.
    declared: BTreeSet<String>,
    /// What is not there is not in the base image either.
    is_complete: bool,
    has_shell: bool,
    has_workdir: bool,
    /// Where instructions stand that count only once.
    once: BTreeMap<&'static str, Lines>,
    pub(super) warnings: Vec<Warning>,
    pub(super) notes: Notes,
}

impl<'a> Scope<'a> {
    pub(super) fn new(
        file: &'a Dockerfile,
        stages: &'a Stages<'a>,
        options: &'a Options<'a>,
        id: usize,
    ) -> Self {
        let stage = &stages.all[id];
        let mut scope = Self {
            file,
            stages,
            options,
            variables: Variables::new(),
            order: Vec::new(),
            declared: BTreeSet::new(),
            is_complete: stage.is_scratch || stage.image.is_some(),
            has_shell: false,
            has_workdir: false,
            once: BTreeMap::new(),
            warnings: Vec::new(),
            notes: Notes::default(),
        };
        if let Some(image) = stage.image {
            let config = &image.config["config"];
            let texts = |key: &str| config[key].as_array().map_or(&[][..], Vec::as_slice);
            for pair in texts("Env").iter().filter_map(Value::as_str) {
                if let Some((name, value)) = pair.split_once('=') {
                    scope.set(name, value.to_owned());
                }
            }
            scope.has_shell = !texts("Shell").is_empty();
        }
        if !scope.variables.contains_key("PATH") {
            scope.set("PATH", PATH.to_owned());
        }
        scope
    }

    /// For a stage that stands on this one.
    pub(super) fn inherit(&self) -> Self {
        Self {
            variables: self.variables.clone(),
            order: self.order.clone(),
            declared: self.declared.clone(),
            once: BTreeMap::new(),
            warnings: Vec::new(),
            notes: Notes::default(),
            ..*self
        }
    }

    pub(super) fn stage(&mut self, id: usize) {
        let stage: &'a Stage = &self.file.stages[id];
        self.notes.begin(self.file, self.stages, id);
        for command in &stage.commands {
            // What cannot be expanded ends a build; who plans it says so.
            if self.command(command).is_none() {
                return;
            }
        }
    }

    fn set(&mut self, name: &str, value: String) {
        self.order.retain(|one| one != name);
        self.order.push(name.to_owned());
        self.variables.insert(name.to_owned(), value);
    }

    fn warn(&mut self, rule: &'static str, message: String, lines: Lines) {
        self.warnings.push(Warning {
            rule,
            message,
            lines,
        });
    }

    /// Replaces variables; tells of those that are not there.
    fn expand(&mut self, text: &str, lines: Lines) -> Option<String> {
        self.expand_with(&self.file.expander(), text, lines)
    }

    fn expand_with(&mut self, expander: &Expander, text: &str, lines: Lines) -> Option<String> {
        let expanded = expander.expand(text, &self.variables).ok()?;
        for name in &expanded.unset {
            let known = self.declared.contains(name) || KNOWN.contains(&name.as_str());
            if known || !self.is_complete {
                continue;
            }
            let mut message = format!("Usage of undefined variable '${name}'");
            let others = self.order.iter().map(String::as_str);
            if let Some(other) = nearest(name, others) {
                message.push_str(&format!(" (did you mean ${other}?)"));
            }
            self.warn("UndefinedVar", message, lines);
        }
        Some(expanded.text)
    }

    fn all(&mut self, texts: &[String], lines: Lines) -> Option<Vec<String>> {
        texts.iter().map(|text| self.expand(text, lines)).collect()
    }

    fn pairs(&mut self, pairs: &[(String, String)], lines: Lines) -> Option<Vec<(String, String)>> {
        let pair = |(name, value): &(String, String)| {
            let name = self.expand(name, lines)?;
            Some((name, self.expand(value, lines)?))
        };
        pairs.iter().map(pair).collect()
    }

    fn command(&mut self, command: &Command) -> Option<()> {
        let lines = command.lines;
        match &command.instruction {
            Instruction::Add(add) => {
                let flags = [&add.chown, &add.chmod, &add.checksum];
                self.copy(&add.files, &flags, &add.exclude, Some("Add"), lines)?;
            }
            Instruction::Copy(copy) => {
                let flags = [&copy.chown, &copy.chmod];
                let from_context = copy.from.is_none().then_some("Copy");
                self.copy(&copy.files, &flags, &copy.exclude, from_context, lines)?;
            }
            Instruction::Arg(args) => {
                for arg in args {
                    self.argument(arg, lines)?;
                }
            }
            Instruction::Env(pairs) => {
                let pairs = self.pairs(pairs, lines)?;
                self.legacy(command);
                for (name, value) in pairs {
                    self.secret("ENV", &name, lines);
                    self.set(&name, value);
                }
            }
            Instruction::Label(pairs) => {
                self.pairs(pairs, lines)?;
                self.legacy(command);
            }
            Instruction::Cmd(line) => self.started("CMD", command, Some(line)),
            Instruction::Entrypoint(line) => self.started("ENTRYPOINT", command, Some(line)),
            Instruction::Healthcheck(_) => self.started("HEALTHCHECK", command, None),
            Instruction::Expose(ports) => {
                for port in ports {
                    let expanded = self.file.expander().expand(port, &self.variables).ok()?;
                    for port in &expanded.words {
                        self.port(port, lines);
                    }
                }
            }
            Instruction::Run(run) => {
                for mount in &run.mounts {
                    self.mount(mount, lines)?;
                }
            }
            Instruction::Shell(_) => self.has_shell = true,
            Instruction::Stopsignal(text) | Instruction::User(text) => {
                self.expand(text, lines)?;
            }
            Instruction::Volume(paths) => {
                self.all(paths, lines)?;
            }
            Instruction::Workdir(path) => {
                let path = self.expand(path, lines)?;
                if !self.has_workdir && !path.starts_with('/') {
                    let message = format!(
                        "Relative workdir {path:?} can have unexpected results if the base image changes"
                    );
                    self.warn("WorkdirRelativePath", message, lines);
                }
                self.has_workdir = true;
            }
            Instruction::Maintainer(_) | Instruction::Onbuild(_) => {}
        }
        Some(())
    }

    fn copy(
        &mut self,
        files: &Sources,
        flags: &[&Option<String>],
        exclude: &[String],
        from_context: Option<&str>,
        lines: Lines,
    ) -> Option<()> {
        for flag in flags.iter().copied().flatten() {
            self.expand(flag, lines)?;
        }
        self.all(exclude, lines)?;
        let mut paths = Vec::new();
        for source in &files.sources {
            if let Source::Path(path) = source {
                paths.push(self.expand(path, lines)?);
            }
        }
        self.expand(&files.target, lines)?;
        for source in &files.sources {
            if let Source::Inline(document) = source
                && document.expand
            {
                let expander = Expander::new('\\').without_quotes();
                self.expand_with(&expander, &document.content, lines)?;
            }
        }
        for path in paths {
            if let Some(what) = from_context {
                self.ignored(what, &path, lines);
            }
        }
        Some(())
    }

    /// Patterns that take something back are too much to judge.
    fn ignored(&mut self, what: &str, path: &str, lines: Lines) {
        let Some(ignore) = self.options.ignore.filter(|ignore| !ignore.takes_back()) else {
            return;
        };
        if path.contains("://") || path.starts_with("git@") {
            return;
        }
        let parts: Vec<&str> = (path.split('/'))
            .filter(|part| !matches!(*part, "" | "."))
            .collect();
        if parts.contains(&"..") || parts.is_empty() || !ignore.is_ignored(&parts) {
            return;
        }
        let file = parts.join("/");
        let message =
            format!("Attempting to {what} file {file:?} that is excluded by .dockerignore");
        self.warn("CopyIgnoredFile", message, lines);
    }

    fn argument(&mut self, arg: &Arg, lines: Lines) -> Option<()> {
        self.secret("ARG", &arg.name, lines);
        let given = self.options.plan.build_args.get(&arg.name);
        let given = given.cloned().flatten();
        let inherited = match (&given, &arg.default) {
            (None, None) => self.stages.globals.get(&arg.name).cloned(),
            _ => None,
        };
        let is_inherited = inherited.is_some();
        let mut uses = BTreeSet::new();
        let value = match (given, &arg.default) {
            (Some(given), _) => Some(given),
            (None, Some(default)) => {
                let expander = self.file.expander();
                uses = expander.expand(default, &self.variables).ok()?.used;
                Some(self.expand(default, lines)?)
            }
            (None, None) => inherited,
        };
        self.notes
            .argument(arg, value.as_deref(), uses, is_inherited, lines);
        self.declared.insert(arg.name.clone());
        if let Some(value) = value {
            self.set(&arg.name, value);
        }
        Some(())
    }

    /// A word of the name at its beginning, at its end or between underscores.
    fn secret(&mut self, instruction: &str, name: &str, lines: Lines) {
        let has = |words: &[&str]| {
            let mut parts = name.split('_');
            parts.any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)))
        };
        if has(&SECRET) && !has(&NO_SECRET) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})"
            );
            self.warn("SecretsUsedInArgOrEnv", message, lines);
        }
    }

    fn legacy(&mut self, command: &Command) {
        if is_legacy_pair(&command.text, self.file.directives.escape) {
            let name = written_name(&command.text);
            let message = format!(
                "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
            );
            self.warn("LegacyKeyValueFormat", message, command.lines);
        }
    }

    /// What a container starts: only the last of its kind counts.
    fn started(&mut self, kind: &'static str, command: &Command, line: Option<&Line>) {
        let name = written_name(&command.text);
        if let Some(earlier) = self.once.insert(kind, command.lines) {
            let message = format!(
                "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            );
            self.warn("MultipleInstructionsDisallowed", message, earlier);
        }
        if let Some(Line::Shell(_)) = line
            && !self.has_shell
        {
            let message = format!(
                "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            );
            self.warn("JSONArgsRecommended", message, command.lines);
        }
    }

    /// `[[ip:]host:]container[/protocol]`.
    fn port(&mut self, port: &str, lines: Lines) {
        let (container, has_host) = match port.rsplit_once(':') {
            Some((_, container)) => (container, true),
            None => (port, false),
        };
        let protocol = container
            .split_once('/')
            .map_or("", |(_, protocol)| protocol);
        if protocol != protocol.to_lowercase() {
            let message =
                format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            self.warn("ExposeProtoCasing", message, lines);
        }
        if has_host {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            );
            self.warn("ExposeInvalidFormat", message, lines);
        }
    }

    fn mount(&mut self, text: &str, lines: Lines) -> Option<()> {
        let mut expand = |value: &str| match value.contains('$') {
            true => self.expand(value, lines).ok_or_else(String::new),
            false => Ok(value.to_owned()),
        };
        let mount = Mount::parse(text, &mut expand).ok()?;
        match mount.kind {
            MountKind::Secret => {
                let target = mount.target.as_deref();
                let of_target = target.and_then(|path| path.rsplit('/').next());
                let id = mount.id.as_deref().or(of_target).unwrap_or_default();
                self.notes.secret(id, mount.required, lines);
            }
            MountKind::Ssh => {
                let id = mount.id.as_deref().filter(|id| !id.is_empty());
                self.notes
                    .ssh(id.unwrap_or("default"), mount.required, lines);
            }
            _ => {}
        }
        Some(())
    }
}
