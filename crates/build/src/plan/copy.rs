//! COPY and ADD.

use std::fmt::Write as _;
use std::sync::Arc;

use super::planner::{Inputs, Now, Planner, Source, shown};
use super::stages::Step;
use super::{GitAddress, chmod, git, path};
use crate::dockerfile::{self, Add, Expander, Heredoc};
use crate::graph::{Copy, FileAction, Files, Http, Input, Op, Unpack};

/// What ADD calls a file whose address has no name.
const UNNAMED: &str = "__unnamed__";

/// Both instructions, their variables replaced.
struct Copying<'a> {
    keyword: &'static str,
    sources: Vec<Given<'a>>,
    /// As written, for the history.
    target: String,
    chown: String,
    chmod: String,
    checksum: String,
    keep_git_dir: Option<bool>,
    unpack: Option<bool>,
    parents: bool,
    link: bool,
    exclude: &'a [String],
    from: Source,
}

enum Given<'a> {
    Path(String),
    Document(&'a Heredoc, String),
}

impl Planner<'_> {
    pub(super) fn copy(
        &mut self,
        now: &mut Now,
        step: &Step<'_>,
        copy: &dockerfile::Copy,
    ) -> Result<(), String> {
        let (sources, target) = self.sources(now, &copy.files)?;
        let from = match step.from.first() {
            Some(Some(from)) => self.source(*from)?.ok_or_else(|| {
                format!(
                    "cannot copy from stage {:?}, it needs to be defined before current stage {:?}",
                    copy.from.as_deref().unwrap_or_default(),
                    now.label
                )
            })?,
            _ => Source::Root(None),
        };
        let is_from = copy.from.is_some();
        let needs_context = !is_from && sources.iter().any(|given| matches!(given, Given::Path(_)));
        let copying = Copying {
            keyword: "COPY",
            sources,
            target,
            chown: self.optional(now, copy.chown.as_deref())?,
            chmod: self.optional(now, copy.chmod.as_deref())?,
            checksum: String::new(),
            keep_git_dir: None,
            unpack: Some(false),
            parents: copy.parents,
            link: copy.link,
            exclude: &copy.exclude,
            from: match needs_context {
                true => self.main_context()?,
                false => from,
            },
        };
        self.copying(now, step, &copying)
    }

    pub(super) fn add(&mut self, now: &mut Now, step: &Step<'_>, add: &Add) -> Result<(), String> {
        let (sources, target) = self.sources(now, &add.files)?;
        let known = add.keep_git_dir.is_some();
        let is_local = |given: &Given<'_>| match given {
            Given::Path(text) => matches!(Address::of(text, known), Ok(Address::Path)),
            Given::Document(..) => false,
        };
        let copying = Copying {
            keyword: "ADD",
            from: match sources.iter().any(is_local) {
                true => self.main_context()?,
                false => Source::Root(None),
            },
            sources,
            target,
            chown: self.optional(now, add.chown.as_deref())?,
            chmod: self.optional(now, add.chmod.as_deref())?,
            checksum: self.optional(now, add.checksum.as_deref())?,
            keep_git_dir: add.keep_git_dir,
            unpack: add.unpack,
            parents: false,
            link: add.link,
            exclude: &add.exclude,
        };
        self.copying(now, step, &copying)
    }

    fn optional(&self, now: &Now, text: Option<&str>) -> Result<String, String> {
        text.map_or_else(|| Ok(String::new()), |text| self.expand(now, text))
    }

    fn sources<'s>(
        &self,
        now: &Now,
        files: &'s dockerfile::Sources,
    ) -> Result<(Vec<Given<'s>>, String), String> {
        // Documents know nothing of quotes, and one escape only.
        let plain = Expander::new('\\').without_quotes();
        let given = files.sources.iter().map(|source| match source {
            dockerfile::Source::Path(text) => Ok(Given::Path(self.expand(now, text)?)),
            dockerfile::Source::Inline(document) => {
                let text = document.text();
                let text = match document.expand {
                    true => plain.expand(&text, &now.state.env)?.text,
                    false => text,
                };
                Ok(Given::Document(document, text))
            }
        });
        let given: Result<Vec<_>, String> = given.collect();
        Ok((given?, self.expand(now, &files.target)?))
    }

    fn copying(
        &mut self,
        now: &mut Now,
        step: &Step<'_>,
        copying: &Copying<'_>,
    ) -> Result<(), String> {
        let mode = match copying.chmod.as_str() {
            "" => None,
            text => Some(chmod::parse(text)?),
        };
        copying.check()?;
        let name = shown(&self.expander, &step.text, &now.state.env);
        let full_name = self.name(now, step, &name);
        // Names of owners are looked up in the base: no copy of its own then.
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let stands_alone = copying.link && copying.chown.split(':').all(is_number);
        let links = stands_alone && now.state.root.is_some();
        let mut inputs = Inputs::default();
        let root = now.state.root.filter(|_| !stands_alone);
        let base = root.map(|root| inputs.add(root));
        let target = path::target(&now.state.config.working_dir, &copying.target);
        let mut actions = Vec::new();
        let owner = Some(copying.chown.clone()).filter(|owner| !owner.is_empty());
        for given in &copying.sources {
            let one = match given {
                Given::Path(text) => self.one(now, step, copying, text, &full_name, &mut inputs)?,
                Given::Document(document, text) if target.ends_with('/') => {
                    actions.push(FileAction::Write {
                        target: format!("{target}{}", document.name),
                        data: Arc::from(text.as_bytes()),
                        mode: mode.clone(),
                        owner: owner.clone(),
                    });
                    continue;
                }
                // Whether the target is a directory is not known yet.
                Given::Document(document, text) => {
                    let from = inputs.add(self.inline(&document.name, text, None)?);
                    plain_copy(from, path::escaped(&document.name), Unpack::Never)
                }
            };
            let copy = Copy {
                target: target.clone(),
                owner: owner.clone(),
                mode: mode.clone(),
                exclude: copying.exclude.to_vec(),
                ..one
            };
            // Sources that differ in nothing else are one action.
            match actions.last_mut() {
                Some(FileAction::Copy(last)) if last.is_like(&copy) => {
                    last.sources.extend(copy.sources);
                }
                _ => actions.push(FileAction::Copy(copy)),
            }
        }
        let op = Op::Files(Files { base, actions });
        let inputs = inputs.0;
        let copied = self.push_step(now, step, op, inputs, full_name.clone())?;
        let created_by = copying.created_by();
        now.state.root = match now.state.root {
            Some(root) if links => {
                let name = full_name.replacen(&name, &format!("LINK {name}"), 1);
                Some(self.push_step(now, step, Op::Merge, vec![root, copied], name)?)
            }
            _ => Some(copied),
        };
        self.commit(now, created_by, Some(copied))
    }

    /// What one source is copied from; target, owner and mode are all sources'.
    fn one(
        &mut self,
        now: &Now,
        step: &Step<'_>,
        copying: &Copying<'_>,
        text: &str,
        name: &str,
        inputs: &mut Inputs,
    ) -> Result<Copy, String> {
        match Address::of(text, copying.keep_git_dir.is_some())? {
            Address::Git(_) if copying.keyword == "COPY" => {
                Err("source can't be a git ref for COPY".to_owned())
            }
            Address::Http { .. } if copying.keyword == "COPY" => {
                Err("source can't be a URL for COPY".to_owned())
            }
            Address::Git(address) => {
                let op = Op::Git(copying.git(*address)?.source());
                let id = self.push_step(now, step, op, Vec::new(), name.to_owned())?;
                Ok(plain_copy(inputs.add(id), ".".to_owned(), Unpack::Never))
            }
            Address::Http { filename } => {
                check_digest(&copying.checksum)?;
                let op = Op::Http(Http {
                    url: text.to_owned(),
                    checksum: copying.checksum.clone(),
                    filename: filename.clone(),
                });
                let id = self.push_step(now, step, op, Vec::new(), name.to_owned())?;
                let unpack = match copying.unpack {
                    Some(true) => Unpack::Archives,
                    _ => Unpack::Never,
                };
                Ok(plain_copy(inputs.add(id), path::escaped(&filename), unpack))
            }
            Address::Path => {
                let from = match &copying.from {
                    Source::Root(Some(id)) => *id,
                    Source::Root(None) => self.empty(),
                    Source::Tree { id, context } => {
                        self.needs(context.as_deref(), text);
                        *id
                    }
                };
                let unpack = match copying.unpack.unwrap_or(copying.keyword == "ADD") {
                    true => Unpack::Archives,
                    false => Unpack::Never,
                };
                let source = match text.split_once("/./").filter(|_| copying.parents) {
                    Some((before, after)) => {
                        format!("{}/./{}", path::source(before), path::source(after))
                    }
                    None => path::source(text),
                };
                Ok(Copy {
                    parents: copying.parents,
                    ..plain_copy(inputs.add(from), source, unpack)
                })
            }
        }
    }
}

impl Copying<'_> {
    fn check(&self) -> Result<(), String> {
        if self.checksum.is_empty() {
            return Ok(());
        }
        let [source] = self.sources.as_slice() else {
            return Err("checksum can't be specified for multiple sources".to_owned());
        };
        match source {
            Given::Path(text)
                if !matches!(
                    Address::of(text, self.keep_git_dir.is_some()),
                    Ok(Address::Path)
                ) =>
            {
                Ok(())
            }
            _ => Err("checksum requires HTTP(S) or Git sources".to_owned()),
        }
    }

    /// The address with what the flags say; both must not say different things.
    fn git(&self, mut address: GitAddress) -> Result<GitAddress, String> {
        match (self.keep_git_dir, address.keep_git_dir) {
            (Some(flag), Some(query)) if flag != query => {
                return Err("inconsistent keep-git-dir configuration".to_owned());
            }
            (flag, query) => address.keep_git_dir = query.or(flag),
        }
        if address.checksum.is_empty() {
            address.checksum.clone_from(&self.checksum);
        } else if !self.checksum.is_empty() && self.checksum != address.checksum {
            return Err(format!(
                "checksum mismatch {:?} != {:?}",
                self.checksum, address.checksum
            ));
        }
        Ok(address)
    }

    fn created_by(&self) -> String {
        let mut text = self.keyword.to_owned();
        if self.parents {
            text.push_str(" --parents");
        }
        // Writing to a String cannot fail.
        if !self.chown.is_empty() {
            let _ = write!(text, " --chown={}", self.chown);
        }
        if !self.chmod.is_empty() {
            let _ = write!(text, " --chmod={}", self.chmod);
        }
        for given in &self.sources {
            if let Given::Path(path) = given {
                let _ = write!(text, " {path}");
            }
        }
        for given in &self.sources {
            if let Given::Document(document, _) = given {
                let _ = write!(text, " <<{}", document.name);
            }
        }
        let _ = write!(text, " {} # buildkit", self.target);
        text
    }
}

fn plain_copy(from: Input, source: String, unpack: Unpack) -> Copy {
    Copy {
        from,
        sources: vec![source],
        target: String::new(),
        owner: None,
        mode: None,
        parents: false,
        exclude: Vec::new(),
        unpack,
    }
}

impl Copy {
    fn is_like(&self, other: &Self) -> bool {
        self.from == other.from
            && self.target == other.target
            && self.owner == other.owner
            && self.mode == other.mode
            && self.parents == other.parents
            && self.exclude == other.exclude
            && self.unpack == other.unpack
    }
}

/// What a source of ADD is.
enum Address {
    Git(Box<GitAddress>),
    Http { filename: String },
    Path,
}

impl Address {
    fn of(text: &str, known_git: bool) -> Result<Self, String> {
        if let Some(address) = GitAddress::parse(text, known_git) {
            let address = address?;
            if !address.is_bare {
                return Ok(Self::Git(Box::new(address)));
            }
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(Self::Path);
        }
        let end = text.find(['?', '#']).unwrap_or(text.len());
        let address = text.get(..end).unwrap_or(text);
        let path = address.splitn(4, '/').nth(3).unwrap_or_default();
        let name = git::decoded(path);
        let name = name
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let filename = match name {
            "" | "." | ".." => UNNAMED,
            name => name,
        };
        Ok(Self::Http {
            filename: filename.to_owned(),
        })
    }
}

/// "sha256:…", as far as downloads are checked by.
fn check_digest(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let Some((algorithm, hex)) = text.split_once(':') else {
        return Err("invalid checksum digest format".to_owned());
    };
    if algorithm != "sha256" {
        return Err("unsupported digest algorithm".to_owned());
    }
    if hex.len() != 64 {
        return Err("invalid checksum digest length".to_owned());
    }
    match hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        true => Ok(()),
        false => Err("invalid checksum digest format".to_owned()),
    }
}
