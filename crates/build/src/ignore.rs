//! `.dockerignore`: which files of a context a build does not see.
//!
//! Patterns are Go's `filepath.Match` plus `**`, from the root of the context;
//! the last that matches decides, `!` takes back. What is below a directory
//! that matches is out as well.

/// Patterns and their bytes, at most.
const MAX_PATTERNS: usize = 10_000;
const MAX_PATTERN: usize = 4096;

/// The patterns of a file.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// `!`: in after all.
    takes_back: bool,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`: any number of components.
    Deep,
    /// One component.
    One(Vec<Sign>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sign {
    Char(char),
    Any,
    Star,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Reads a `.dockerignore`.
    ///
    /// # Errors
    /// A pattern that cannot be, with its line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (at, line) in text.lines().enumerate() {
            // Only a sign in the first column makes a comment.
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (takes_back, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            if pattern.is_empty() {
                if takes_back {
                    return Err(format!("line {}: illegal exclusion pattern: \"!\"", at + 1));
                }
                continue;
            }
            if patterns.len() == MAX_PATTERNS || pattern.len() > MAX_PATTERN {
                return Err(format!("line {}: too many or too long patterns", at + 1));
            }
            let parts = parts(pattern).map_err(|why| format!("line {}: {why}", at + 1))?;
            if !parts.is_empty() {
                patterns.push(Pattern { takes_back, parts });
            }
        }
        Ok(Self { patterns })
    }

    /// Of patterns that are no file's: `--exclude`, `--parents`.
    ///
    /// # Errors
    /// A pattern that cannot be.
    pub(crate) fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut list = Vec::new();
        for pattern in patterns {
            let (takes_back, text) = match pattern.strip_prefix('!') {
                Some(text) => (true, text),
                None => (false, pattern),
            };
            // Paths have none in front, and BuildKit takes none away here.
            if text.starts_with('/') {
                continue;
            }
            if list.len() == MAX_PATTERNS || text.len() > MAX_PATTERN {
                return Err("too many or too long patterns".to_owned());
            }
            let parts = parts(text)?;
            if !parts.is_empty() {
                list.push(Pattern { takes_back, parts });
            }
        }
        Ok(Self { patterns: list })
    }

    /// Whether something below a directory that is not ignored may be.
    pub(crate) fn may_ignore_below(&self, path: &[&str]) -> bool {
        self.patterns
            .iter()
            .any(|pattern| !pattern.takes_back && pattern.may_match_below(path))
    }

    /// Whether some pattern takes back what another leaves out.
    pub(crate) fn takes_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.takes_back)
    }

    /// Whether a build sees the file or directory at this path below the root
    /// of the context (components without `.` and `..`).
    pub fn is_ignored(&self, path: &[&str]) -> bool {
        let mut ignored = false;
        for pattern in &self.patterns {
            if pattern.takes_back == ignored && pattern.matches(path) {
                ignored = !pattern.takes_back;
            }
        }
        ignored
    }

    /// Whether something below an ignored directory may be seen after all, so
    /// that it must be looked into.
    pub fn may_take_back_below(&self, path: &[&str]) -> bool {
        self.patterns
            .iter()
            .any(|pattern| pattern.takes_back && pattern.may_match_below(path))
    }
}

impl Pattern {
    /// The path itself or a directory above it.
    fn matches(&self, path: &[&str]) -> bool {
        run(&self.parts, path, true)
    }

    fn may_match_below(&self, path: &[&str]) -> bool {
        let mut parts = self.parts.iter();
        for component in path {
            match parts.next() {
                Some(Part::Deep) => return true,
                Some(Part::One(signs)) if component_matches(signs, component) => {}
                Some(Part::One(_)) => return false,
                // A directory above it is meant whole.
                None => return true,
            }
        }
        true
    }
}

/// A pattern of a path as Go's `filepath.Match` has it: `**` is no more than
/// `*`, and what is below a match does not match.
#[derive(Clone, Debug)]
pub(crate) struct Glob(Vec<Part>);

impl Glob {
    pub(crate) fn parse(pattern: &str) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN {
            return Err("the pattern is too long".to_owned());
        }
        let mut parts = parts(pattern)?;
        for part in &mut parts {
            if *part == Part::Deep {
                *part = Part::One(vec![Sign::Star]);
            }
        }
        Ok(Self(parts))
    }

    pub(crate) fn matches(&self, path: &[&str]) -> bool {
        path.len() == self.0.len() && matches(&self.0, path)
    }

    /// Whether something below that directory may match.
    pub(crate) fn may_match_below(&self, path: &[&str]) -> bool {
        path.len() < self.0.len() && matches(&self.0[..path.len()], path)
    }
}

fn matches(parts: &[Part], path: &[&str]) -> bool {
    run(parts, path, false)
}

/// Words of a set with one bit per part and one more: a part takes two bytes of
/// a pattern at least.
const WORDS: usize = MAX_PATTERN / 2 / 64 + 1;

/// The places in a pattern that a path has led to, so that many `**` cost no
/// more than their number. No allocations: a context has many files.
#[derive(Clone, Copy)]
struct Places([u64; WORDS]);

impl Places {
    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }

    fn add(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    /// `**` may stand for nothing.
    fn skip(&mut self, parts: &[Part]) {
        for (place, part) in parts.iter().enumerate() {
            if *part == Part::Deep && self.has(place) {
                self.add(place + 1);
            }
        }
    }
}

/// Whether the parts match the path; with `above` also when they match a
/// directory above it.
fn run(parts: &[Part], path: &[&str], above: bool) -> bool {
    let mut places = Places([0; WORDS]);
    places.add(0);
    places.skip(parts);
    for component in path {
        let mut next = Places([0; WORDS]);
        let mut any = false;
        for (place, part) in parts.iter().enumerate() {
            if !places.has(place) {
                continue;
            }
            match part {
                Part::Deep => next.add(place),
                Part::One(signs) if component_matches(signs, component) => next.add(place + 1),
                Part::One(_) => continue,
            }
            any = true;
        }
        if !any {
            return false;
        }
        next.skip(parts);
        if above && next.has(parts.len()) {
            return true;
        }
        places = next;
    }
    places.has(parts.len())
}

/// From left to right; where it fails, the last `*` takes one letter more. What
/// a `*` before that one took never needs to be changed.
fn component_matches(signs: &[Sign], component: &str) -> bool {
    let mut sign = 0;
    let mut rest = component.chars();
    let mut star = None;
    loop {
        if signs.get(sign) == Some(&Sign::Star) {
            sign += 1;
            star = Some((sign, rest.clone()));
            continue;
        }
        match (rest.next(), signs.get(sign)) {
            (None, None) => return true,
            (None, Some(_)) => return false,
            (Some(char), Some(wanted)) if wanted.is(char) => sign += 1,
            (Some(_), _) => {
                let Some((after, taken)) = &mut star else {
                    return false;
                };
                // Fails at the end only when nothing is left to take.
                if taken.next().is_none() {
                    return false;
                }
                (sign, rest) = (*after, taken.clone());
            }
        }
    }
}

impl Sign {
    fn is(&self, char: char) -> bool {
        match self {
            Self::Any => true,
            Self::Star => false,
            Self::Char(c) => *c == char,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(a, b)| (*a..=*b).contains(&char)) != *negated
            }
        }
    }
}

/// Cleaned as a path: no empty, `.` or leading parts, `..` by text.
fn parts(pattern: &str) -> Result<Vec<Part>, String> {
    let mut clean: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
        .into_iter()
        .map(|part| match part {
            "**" => Ok(Part::Deep),
            part => signs(part)
                .map(Part::One)
                .map_err(|why| format!("{why} in pattern {pattern:?}")),
        })
        .collect()
}

fn signs(part: &str) -> Result<Vec<Sign>, String> {
    let bad = || "syntax error".to_owned();
    let mut signs = Vec::new();
    let mut chars = part.chars();
    while let Some(char) = chars.next() {
        signs.push(match char {
            '*' => Sign::Star,
            '?' => Sign::Any,
            '\\' => Sign::Char(chars.next().ok_or_else(bad)?),
            '[' => class(&mut chars).ok_or_else(bad)?,
            other => Sign::Char(other),
        });
    }
    signs.dedup_by(|a, b| *a == Sign::Star && *b == Sign::Star);
    Ok(signs)
}

fn class(chars: &mut std::str::Chars<'_>) -> Option<Sign> {
    let mut ranges = Vec::new();
    let negated = chars.as_str().starts_with('^');
    if negated {
        chars.next();
    }
    let one = |chars: &mut std::str::Chars<'_>| match chars.next()? {
        '\\' => chars.next(),
        char => Some(char),
    };
    while !chars.as_str().starts_with(']') || ranges.is_empty() {
        let first = one(chars)?;
        let mut last = first;
        if chars.as_str().starts_with('-') {
            chars.next();
            last = one(chars)?;
        }
        ranges.push((first, last));
    }
    chars.next();
    Some(Sign::Class { negated, ranges })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(patterns: &str, path: &str) -> bool {
        let path: Vec<_> = path.split('/').collect();
        Ignore::parse(patterns).unwrap().is_ignored(&path)
    }

    #[test]
    fn patterns_match_as_in_docker() {
        for (patterns, path, wanted) in [
            ("node_modules", "node_modules/a/b", true),
            ("node_modules", "x/node_modules", false),
            ("**/node_modules", "x/y/node_modules/z", true),
            ("**/node_modules", "node_modules", true),
            ("*.md", "README.md", true),
            ("*.md", "docs/README.md", false),
            ("*/temp*", "a/temporary", true),
            ("*/*/temp*", "a/temp", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("/a/./b/../c", "a/c", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("# no\n *.o \n", "x.o", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "OTHER.md", true),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                "README-secret.md",
                true,
            ),
            ("**\n!src\n", "src/a", false),
            ("**\n!src\n", "lib/a", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("", "a", false),
            ("/\n.\n", "a", false),
            ("a*b*c", "axbxbxc/y", true),
            ("a*b*c", "axbxbx", false),
            ("*a?", "aaab", true),
            ("*a?", "aaa", true),
            ("*a?", "ba", false),
            ("**/a/**/b", "x/a/y/z/b/deep", true),
            ("**/a/**/b", "x/a/y/z", false),
        ] {
            assert_eq!(ignored(patterns, path), wanted, "{patterns:?} {path}");
        }
    }

    #[test]
    fn the_longest_pattern_has_its_place() {
        let pattern = "*/".repeat(MAX_PATTERN / 2);
        let path = vec!["a"; MAX_PATTERN / 2];
        let ignore = Ignore::parse(&pattern).unwrap();
        assert!(ignore.is_ignored(&path) && !ignore.is_ignored(&path[1..]));
    }

    #[test]
    fn what_may_come_back_is_looked_for() {
        let ignore = Ignore::parse("**\n!src/*.c\n!**/keep\n").unwrap();
        assert!(ignore.may_take_back_below(&["src"]));
        assert!(ignore.may_take_back_below(&["any"]));
        let ignore = Ignore::parse("*\n!src/*.c\n").unwrap();
        assert!(ignore.may_take_back_below(&["src"]));
        assert!(!ignore.may_take_back_below(&["lib"]));
    }

    #[test]
    fn wrong_patterns_are_named() {
        for (text, why) in [
            ("a\n!\n", "line 2: illegal exclusion pattern"),
            ("[a", "line 1: syntax error"),
            ("a\\", "syntax error"),
        ] {
            let error = Ignore::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_makes_it_panic(text in "[a*?/!\\[\\]^\\\\.#\n -]{0,40}") {
            if let Ok(ignore) = Ignore::parse(&text) {
                ignore.is_ignored(&["a", "b"]);
                ignore.may_take_back_below(&["a"]);
            }
        }
    }
}
