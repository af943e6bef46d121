//! What the sources of a copy name: wildcards, `--parents`, `--exclude`.

use std::io;

use super::Source;
use super::source::Item;
use crate::draft::{invalid, join, show};
use crate::graph::Copy;
use crate::ignore::{Glob, Ignore};

/// One thing that is copied.
pub(super) struct Match<'a> {
    /// Its name when it is put into a directory.
    pub(super) name: Vec<u8>,
    /// Without links.
    pub(super) path: Vec<u8>,
    pub(super) item: Item<'a>,
    /// With `--parents`: what of it.
    pub(super) only: Option<Ignore>,
}

/// What of a source is taken: patterns from the directory that is copied.
pub(super) struct Filter<'f> {
    pub(super) only: Option<&'f Ignore>,
    pub(super) exclude: Option<&'f Ignore>,
}

/// What a filter says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) taken: bool,
    /// Something below may be taken.
    pub(super) enter: bool,
}

impl Filter<'_> {
    pub(super) fn judge(&self, path: &[u8]) -> Verdict {
        if self.only.is_none() && self.exclude.is_none() {
            let (taken, enter) = (true, true);
            return Verdict { taken, enter };
        }
        let text = String::from_utf8_lossy(path);
        let parts: Vec<&str> = text.split('/').collect();
        let included = self.only.is_none_or(|only| only.is_ignored(&parts));
        let below = included || self.only.is_none_or(|only| only.may_ignore_below(&parts));
        let excluded = self
            .exclude
            .is_some_and(|exclude| exclude.is_ignored(&parts));
        let back = !excluded || (self.exclude).is_some_and(|list| list.may_take_back_below(&parts));
        Verdict {
            taken: included && !excluded,
            enter: below && back,
        }
    }
}

pub(super) fn exclude(copy: &Copy) -> io::Result<Option<Ignore>> {
    if copy.exclude.is_empty() {
        return Ok(None);
    }
    let list = Ignore::of(copy.exclude.iter().map(String::as_str));
    list.map(Some)
        .map_err(|why| invalid(format!("invalid excludepatterns: {why}")))
}

/// All that a source of a copy names.
///
/// # Errors
/// `NotFound` if it has no wildcard and there is nothing.
pub(super) fn select<'a>(
    copy: &Copy,
    source: &str,
    from: Source<'a>,
) -> io::Result<Vec<Match<'a>>> {
    if !copy.parents {
        return wild(source, from);
    }
    let (above, pattern) = source.split_once("/./").unwrap_or(("/", source));
    let pattern = clean(pattern).join("/");
    if !has_wildcard(above) && !has_wildcard(&pattern) {
        // Patterns do not lead through links.
        let there = match from.follow(above.as_bytes())? {
            Some(above) => from.find(&join(above, pattern.as_bytes()))?.is_some(),
            None => false,
        };
        if !there && !pattern.is_empty() {
            return Err(missing(&format!("{above}/{pattern}")));
        }
    }
    let only = Ignore::of([pattern.as_str()])
        .map_err(|why| invalid(format!("invalid includepatterns: {why}")))?;
    let mut matches = wild(above, from)?;
    for found in &mut matches {
        found.only = (!pattern.is_empty()).then(|| only.clone());
    }
    Ok(matches)
}

/// One path.
///
/// # Errors
/// `NotFound` if there is nothing.
pub(super) fn one<'a>(source: &str, from: Source<'a>) -> io::Result<Match<'a>> {
    let source = clean(source).join("/");
    take(source.as_bytes(), from)?.ok_or_else(|| missing(&source))
}

fn wild<'a>(source: &str, from: Source<'a>) -> io::Result<Vec<Match<'a>>> {
    let parts = clean(source);
    let plain = parts.iter().take_while(|part| !has_wildcard(part)).count();
    let start = parts[..plain].join("/");
    if plain == parts.len() {
        // A backslash may be part of a name, or take a wildcard literally.
        let found = match take(start.as_bytes(), from)? {
            None if start.contains('\\') => take(unescaped(&start).as_bytes(), from)?,
            found => found,
        };
        return found
            .map(|found| vec![found])
            .ok_or_else(|| missing(&start));
    }
    let pattern = parts[plain..].join("/");
    let glob = Glob::parse(&pattern).map_err(invalid)?;
    let Some(start) = from.follow(start.as_bytes())? else {
        return Err(missing(&start));
    };
    if !from.find(&start)?.is_some_and(|item| item.is_directory()) {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    from.walk(&start, &mut |path, _| {
        let text = String::from_utf8_lossy(path);
        let parts: Vec<&str> = text.split('/').collect();
        if glob.matches(&parts) {
            paths.push(join(start.clone(), path));
            return Ok(false);
        }
        Ok(glob.may_match_below(&parts))
    })?;
    let mut matches = Vec::new();
    for path in paths {
        matches.push(take(&path, from)?.ok_or_else(|| missing(&String::from_utf8_lossy(&path)))?);
    }
    Ok(matches)
}

fn take<'a>(path: &[u8], from: Source<'a>) -> io::Result<Option<Match<'a>>> {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let Some(path) = from.follow(path)? else {
        return Ok(None);
    };
    Ok(from.find(&path)?.map(|item| Match {
        name: name.to_vec(),
        path,
        item,
        only: None,
    }))
}

/// Cleaned by text, from the root.
fn clean(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

fn has_wildcard(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

fn unescaped(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = String::new();
    while let Some(char) = chars.next() {
        match char {
            '\\' => out.extend(chars.next()),
            other => out.push(other),
        }
    }
    out
}

/// BuildKit's words, as far as they say anything.
fn missing(path: &str) -> io::Error {
    let path = show(clean(path).join("/").as_bytes());
    io::Error::new(io::ErrorKind::NotFound, format!("\"{path}\": not found"))
}
