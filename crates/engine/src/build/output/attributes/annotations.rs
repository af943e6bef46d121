//! Annotations: `annotation[-level][[platform]].key` as attributes of an output,
//! `[level:]key` as `--annotation`.

use berth_api::Error;
use berth_build::image::Annotations;
use berth_store::Platform;

/// Annotations by what they stand on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::build::output) struct Marks(Vec<(Level, Option<Platform>, String, String)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::build::output) enum Level {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

impl Marks {
    /// Those of one level; with a platform, those of it go before those of all.
    pub(in crate::build::output) fn of(
        &self,
        level: Level,
        platform: Option<&Platform>,
    ) -> Annotations {
        let mut of = Annotations::new();
        for only in [false, true] {
            for (is, on, key, value) in &self.0 {
                let fits = match on {
                    None => !only,
                    Some(on) => only && platform == Some(on),
                };
                if *is == level && fits {
                    of.insert(key.clone(), value.clone());
                }
            }
        }
        of
    }

    fn add(&mut self, level: &str, key: &str, value: &str) -> Result<(), Error> {
        let (name, platform) = match level.split_once('[') {
            Some((name, rest)) => match rest.strip_suffix(']') {
                Some(platform) => (name, Some(platform_of(platform)?)),
                None => {
                    return Err(Error::invalid(format!(
                        "could not fully parse annotation {level}"
                    )));
                }
            },
            None => (level, None),
        };
        let level = match name {
            "" | "manifest" => Level::Manifest,
            "manifest-descriptor" => Level::ManifestDescriptor,
            "index" => Level::Index,
            "index-descriptor" => Level::IndexDescriptor,
            other => {
                return Err(Error::invalid(format!(
                    "unrecognized annotation type {other}"
                )));
            }
        };
        if key.is_empty() {
            return Err(Error::invalid("an annotation must have a key"));
        }
        self.0
            .push((level, platform, key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// An attribute `annotation[-level][[platform]].key`; whether it is one.
    pub(super) fn attribute(&mut self, name: &str, value: &str) -> Result<bool, Error> {
        let Some(rest) = name.strip_prefix("annotation") else {
            return Ok(false);
        };
        // A platform has no dot; a key may.
        let Some((level, key)) = rest.split_once('.') else {
            return Ok(false);
        };
        let level = match level.strip_prefix('-') {
            Some(level) => level,
            None if level.is_empty() || level.starts_with('[') => level,
            None => return Ok(false),
        };
        self.add(level, key, value)?;
        Ok(true)
    }

    /// `--annotation`: `[level[,level…]:]key`.
    pub(super) fn given(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match name.split_once(':') {
            None => self.add("", name, value),
            Some((levels, key)) => levels
                .split(',')
                .try_for_each(|level| self.add(level, key, value)),
        }
    }

    pub(super) fn has_index(&self) -> bool {
        let of_index = |level: &Level| matches!(level, Level::Index | Level::IndexDescriptor);
        self.0.iter().any(|(level, ..)| of_index(level))
    }

    pub(super) fn platforms(&self) -> impl Iterator<Item = &Platform> {
        self.0.iter().filter_map(|(_, on, ..)| on.as_ref())
    }
}

/// "linux/arm64/v8"; `_` for the slashes as well.
pub(super) fn platform_of(text: &str) -> Result<Platform, Error> {
    let text = text.replace('_', "/");
    let parts: Vec<&str> = text.split('/').collect();
    let (os, architecture, variant) = match parts.as_slice() {
        [os, architecture] => (*os, *architecture, ""),
        [os, architecture, variant] => (*os, *architecture, *variant),
        _ => {
            return Err(Error::invalid(format!(
                "invalid annotation: {text:?} is no platform"
            )));
        }
    };
    let platform = Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    };
    Ok(platform.normalized())
}
