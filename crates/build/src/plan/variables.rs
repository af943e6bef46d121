//! What a build was given: global arguments, proxies, the time of files.

use super::{Error, Options, platform};
use crate::FILE_TIME;
use crate::dockerfile::Dockerfile;
use crate::graph::Variables;

/// The last second of the year 9999, as far as RFC 3339 goes.
const MAX_TIME: i64 = 253_402_300_799;
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// The value of `--build-arg`, if there is one.
pub(super) fn given<'a>(options: &'a Options, name: &str) -> Option<&'a String> {
    options.build_args.get(name)?.as_ref()
}

/// What FROM sees, and a stage that declares it without a value of its own: the
/// platforms, and ARG before the first FROM.
pub(super) fn globals(file: &Dockerfile, options: &Options) -> Result<Variables, Error> {
    let last = file.stages.last().and_then(|stage| stage.name.as_deref());
    let target = match options.target.as_str() {
        "" => last.unwrap_or_default(),
        target => target,
    };
    let mut globals = platform::variables(options, target);
    let expander = file.expander();
    for arg in &file.global_args {
        let value = match (given(options, &arg.name), &arg.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => {
                let expanded = expander.expand(default, &globals);
                expanded.map_err(|message| Error::new(message, None))?.text
            }
            (None, None) => continue,
        };
        globals.insert(arg.name.clone(), value);
    }
    Ok(globals)
}

/// Variables for steps that are no part of a cache's key, in both cases.
pub(super) fn proxies(options: &Options) -> Vec<(String, String)> {
    let mut proxies = Vec::new();
    for name in PROXIES {
        let mut values = options
            .build_args
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .filter_map(|(_, value)| value.as_deref())
            .filter(|value| !value.is_empty());
        if let Some(value) = values.next_back() {
            proxies.push((name.to_owned(), value.to_owned()));
            proxies.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
    proxies
}

/// SOURCE_DATE_EPOCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Epoch {
    /// Nobody spoke of it: files have [`FILE_TIME`], and steps see that.
    Default,
    /// Given and empty: steps do not see any.
    Hidden,
    /// Seconds since 1970.
    At(i64),
}

impl Epoch {
    pub(super) fn of(options: &Options, globals: &Variables) -> Result<Self, Error> {
        const NAME: &str = "SOURCE_DATE_EPOCH";
        let value = given(options, NAME).or_else(|| globals.get(NAME));
        match value.map(String::as_str) {
            None => Ok(Self::Default),
            Some("") => Ok(Self::Hidden),
            Some(text) => match text.parse() {
                Ok(time @ 0..=MAX_TIME) => Ok(Self::At(time)),
                _ => Err(Error::new(
                    format!("invalid SOURCE_DATE_EPOCH: {text}"),
                    None,
                )),
            },
        }
    }

    pub(super) fn given(self) -> Option<i64> {
        match self {
            Self::At(time) => Some(time),
            Self::Default | Self::Hidden => None,
        }
    }

    /// What steps see.
    pub(super) fn shown(self) -> Option<i64> {
        match self {
            Self::Default => Some(FILE_TIME),
            Self::Hidden => None,
            Self::At(time) => Some(time),
        }
    }
}
