//! System call filters: resolved for a set of capabilities, compiled, kept.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use berth_api::Error;
use berth_seccomp::Profile;

use crate::error::{IntoApi as _, io};
use crate::spec::security::SeccompChoice;

/// Compiled programs by profile and capabilities. A handful in practice; when
/// users send ever new profiles, they are forgotten together.
const KEPT: usize = 64;

#[derive(Debug)]
pub(crate) struct Seccomp {
    /// The daemon's default; `None` = unconfined.
    default: Option<Profile>,
    builtin: bool,
    compiled: Mutex<HashMap<Key, Arc<Vec<u8>>>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    profile: Source,
    capabilities: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Default,
    Builtin,
    Json(String),
}

impl Seccomp {
    /// `setting`: a path, "builtin" or "unconfined".
    pub(crate) fn new(setting: &str) -> Result<Self, Error> {
        let default = match setting {
            "unconfined" => None,
            "" | "builtin" => Some(Profile::docker_default()),
            path => {
                let path = Path::new(path);
                let json = std::fs::read(path)
                    .map_err(|error| io("read the seccomp profile", path, &error))?;
                Some(Profile::parse(&json).api()?)
            }
        };
        Ok(Self {
            default,
            builtin: matches!(setting, "" | "builtin"),
            compiled: Mutex::default(),
        })
    }

    /// As `info` shows it.
    pub(crate) fn name(&self) -> &'static str {
        match (&self.default, self.builtin) {
            (None, _) => "unconfined",
            (_, true) => "builtin",
            _ => "custom",
        }
    }

    /// A program in [`berth_seccomp::Program::to_bytes`] form; `None` =
    /// unconfined.
    pub(crate) fn program(
        &self,
        choice: &SeccompChoice,
        privileged: bool,
        capabilities: &BTreeSet<&'static str>,
        kernel: (u32, u32),
    ) -> Result<Option<Arc<Vec<u8>>>, Error> {
        let source = match choice {
            SeccompChoice::Unconfined => return Ok(None),
            SeccompChoice::Default if privileged || self.default.is_none() => return Ok(None),
            SeccompChoice::Default => Source::Default,
            SeccompChoice::Builtin => Source::Builtin,
            SeccompChoice::Profile(json) => Source::Json(json.clone()),
        };
        let key = Key {
            profile: source.clone(),
            capabilities: capabilities.iter().copied().collect(),
        };
        if let Some(program) = self.lock().get(&key) {
            return Ok(Some(program.clone()));
        }
        let parsed;
        let profile = match (&source, &self.default) {
            (Source::Default, Some(profile)) => profile,
            (Source::Json(json), _) => {
                parsed = Profile::parse(json.as_bytes()).api()?;
                &parsed
            }
            _ => {
                parsed = Profile::docker_default();
                &parsed
            }
        };
        let section = profile.resolve(&key.capabilities, kernel).api()?;
        let program = Arc::new(berth_seccomp::compile(&section).api()?.to_bytes());
        let mut compiled = self.lock();
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(key, program.clone());
        Ok(Some(program))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Vec<u8>>>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
