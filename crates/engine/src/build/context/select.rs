//! Which files of a context the steps need: so that no other is sent.

use std::collections::HashSet;

use berth_api::build::Stat;

/// Links followed from one path to the next, in all.
const MAX_LINKS: usize = 1000;

const S_IFMT: u32 = 0o170_000;
const S_IFLNK: u32 = 0o120_000;

/// Paths and wildcards, as steps name them.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// None: everything.
    patterns: Option<Vec<Vec<String>>>,
}

impl Selection {
    pub(super) fn all() -> Self {
        Self { patterns: None }
    }

    pub(super) fn new(paths: &[String]) -> Self {
        let mut patterns = Vec::new();
        for path in paths {
            let parts = components(path);
            // What may be anywhere, or is the root.
            if parts.is_empty() || path.contains("**") {
                return Self::all();
            }
            patterns.push(parts);
        }
        Self {
            patterns: Some(patterns),
        }
    }

    /// For each entry, whether it is needed: what a pattern matches and all
    /// below it, and what is on the way there. A symbolic link that is needed
    /// brings what it leads to.
    pub(super) fn of(&self, stats: &[Stat]) -> Vec<bool> {
        let Some(patterns) = &self.patterns else {
            return vec![true; stats.len()];
        };
        let mut patterns = patterns.clone();
        let mut needed = vec![false; stats.len()];
        let mut followed = HashSet::new();
        let mut from = 0;
        while from < patterns.len() {
            let new = &patterns[from..];
            let mut found = Vec::new();
            for (at, stat) in stats.iter().enumerate() {
                let parts: Vec<&str> = stat.path.split('/').collect();
                if !new.iter().any(|pattern| touches(pattern, &parts)) {
                    continue;
                }
                needed[at] = true;
                if stat.mode & S_IFMT == S_IFLNK
                    && followed.len() < MAX_LINKS
                    && followed.insert(at)
                    && let Some(target) = follow(&stat.path, &stat.link)
                {
                    found.push((parts.len(), target));
                }
            }
            let rest = new.to_vec();
            from = patterns.len();
            for (depth, target) in found {
                let target = components(&target);
                if target.is_empty() {
                    return vec![true; stats.len()];
                }
                // What the pattern wants is below the target; which part of it
                // is no matter where it only is on the way.
                for pattern in &rest {
                    let below = pattern.get(depth..).unwrap_or_default();
                    let mut next = target.clone();
                    next.extend_from_slice(below);
                    patterns.push(next);
                }
                patterns.push(target);
            }
            patterns.dedup();
            if patterns.len() > MAX_LINKS * 4 {
                return vec![true; stats.len()];
            }
        }
        needed
    }
}

fn components(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.map(str::to_owned).collect()
}

/// Where a link of a context leads, within it; none if that is the root or
/// above.
pub(super) fn follow(path: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.starts_with('/') {
        true => Vec::new(),
        false => {
            let mut parts: Vec<&str> = path.split('/').collect();
            parts.pop();
            parts
        }
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Whether a path is matched, below what is matched, or on the way to it.
fn touches(pattern: &[String], path: &[&str]) -> bool {
    pattern
        .iter()
        .zip(path)
        .all(|(pattern, name)| matches(pattern.as_bytes(), name.as_bytes()))
}

/// Go's `path.Match` on one component; a pattern that is none matches, for it
/// is others who refuse it.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if !pattern
        .iter()
        .any(|sign| matches!(sign, b'*' | b'?' | b'[' | b'\\'))
    {
        return pattern == name;
    }
    // Classes and escapes are left to who copies: more may come than is needed.
    if pattern.iter().any(|sign| matches!(sign, b'[' | b'\\')) {
        return true;
    }
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => {
                // One character, not one byte.
                n += 1;
                while n < name.len() && name[n] & 0xC0 == 0x80 {
                    n += 1;
                }
                p += 1;
            }
            Some(sign) if *sign == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|sign| *sign == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(list: &[(&str, u32, &str)]) -> Vec<Stat> {
        let stat = |(path, mode, link): &(&str, u32, &str)| Stat {
            path: (*path).to_owned(),
            mode: *mode,
            link: (*link).to_owned(),
            ..Stat::default()
        };
        list.iter().map(stat).collect()
    }

    #[test]
    fn what_steps_name_and_what_links_lead_to() {
        let dir = 0o040_755;
        let file = 0o100_644;
        let all = stats(&[
            ("a", dir, ""),
            ("a/one.c", file, ""),
            ("a/two.h", file, ""),
            ("b", dir, ""),
            ("b/deep", dir, ""),
            ("b/deep/x", file, ""),
            ("link", S_IFLNK, "b/deep"),
            ("loop", S_IFLNK, "loop"),
            ("other", file, ""),
        ]);
        let chosen = |paths: &[&str]| -> Vec<&str> {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let needed = Selection::new(&paths).of(&all);
            let chosen = all.iter().zip(needed).filter(|(_, needed)| *needed);
            chosen.map(|(stat, _)| stat.path.as_str()).collect()
        };
        assert_eq!(chosen(&["a/*.c"]), ["a", "a/one.c"]);
        assert_eq!(chosen(&["/b/"]), ["b", "b/deep", "b/deep/x"]);
        assert_eq!(chosen(&["link/x"]), ["b", "b/deep", "b/deep/x", "link"]);
        assert_eq!(chosen(&["loop"]), ["loop"]);
        assert_eq!(chosen(&["oth?r"]), ["other"]);
        assert_eq!(chosen(&["nothing"]), Vec::<&str>::new());
        assert_eq!(chosen(&["."]).len(), all.len());
        assert_eq!(chosen(&["**/x"]).len(), all.len());
    }

    #[test]
    fn links_stay_within() {
        assert_eq!(follow("a/b", "../../../etc/x").as_deref(), Some("etc/x"));
        assert_eq!(follow("a/b", "/c").as_deref(), Some("c"));
        assert_eq!(follow("a/b", "c/./d").as_deref(), Some("a/c/d"));
        assert_eq!(follow("a", ".."), None);
    }
}
