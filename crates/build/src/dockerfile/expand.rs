//! Quotes, escapes and variables in the words of an instruction: the part of a
//! shell that the Dockerfile language has.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::str::Chars;

use super::pattern::Pattern;

/// `${a:-${b:-…}}`: deeper than anyone nests, and no deeper than a stack is.
const MAX_NESTING: usize = 64;
/// Longest result; a few doublings in a row must not fill memory.
const MAX_LENGTH: usize = 4 << 20;

/// Replaces variables. Made once per instruction.
#[derive(Clone, Debug)]
pub struct Expander {
    escape: char,
    keep_quotes: bool,
    keep_escapes: bool,
    no_quotes: bool,
    keep_unset: bool,
}

/// What came of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    pub text: String,
    /// The same, split at spaces that were not quoted.
    pub words: Vec<String>,
    /// Variables that were asked for and were there.
    pub used: BTreeSet<String>,
    /// Variables that were asked for and were not.
    pub unset: BTreeSet<String>,
}

impl Expander {
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            keep_quotes: false,
            keep_escapes: false,
            no_quotes: false,
            keep_unset: false,
        }
    }

    /// Leaves variables without a value as they are written.
    pub fn keep_unset(mut self) -> Self {
        self.keep_unset = true;
        self
    }

    /// Leaves quotes as they are written.
    pub fn keep_quotes(mut self) -> Self {
        self.keep_quotes = true;
        self
    }

    /// Leaves quotes and escapes as they are written, too.
    pub fn raw(mut self) -> Self {
        self.keep_quotes = true;
        self.keep_escapes = true;
        self.keep_unset = true;
        self
    }

    /// Quotes mean nothing (documents within instructions).
    pub fn without_quotes(mut self) -> Self {
        self.no_quotes = true;
        self
    }

    /// The words of a text, no variable having a value.
    pub(super) fn words(&self, text: &str) -> Result<Vec<String>, String> {
        Ok(self.expand(text, &BTreeMap::new())?.words)
    }

    /// # Errors
    /// Says what of the text is wrong, in BuildKit's words.
    pub fn expand(
        &self,
        text: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<Expanded, String> {
        let mut reading = Reading {
            rules: self,
            keep_escapes: self.keep_escapes,
            chars: text.chars().peekable(),
            variables,
            out: Expanded::default(),
            nesting: 0,
        };
        let words = reading
            .until(None)
            .map_err(|error| format!("failed to process {text:?}: {error}"))?;
        let mut out = reading.out;
        (out.text, out.words) = words.finish();
        Ok(out)
    }
}

/// Text, and the words it falls into.
#[derive(Default)]
struct Words {
    text: String,
    word: String,
    words: Vec<String>,
}

impl Words {
    /// As written: a space ends a word.
    fn bare(&mut self, char: char) {
        self.text.push(char);
        self.split(char);
    }

    /// A value that was not quoted: its spaces end words, too.
    fn value(&mut self, value: &str) {
        self.text.push_str(value);
        value.chars().for_each(|char| self.split(char));
    }

    fn split(&mut self, char: char) {
        if !char.is_whitespace() {
            self.word.push(char);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    /// Quoted or escaped.
    fn quoted(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn finish(mut self) -> (String, Vec<String>) {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        (self.text, self.words)
    }
}

struct Reading<'a> {
    rules: &'a Expander,
    keep_escapes: bool,
    chars: Peekable<Chars<'a>>,
    variables: &'a BTreeMap<String, String>,
    out: Expanded,
    nesting: usize,
}

impl Reading<'_> {
    /// Reads to the end, or past `stop`.
    fn until(&mut self, stop: Option<char>) -> Result<Words, String> {
        let mut words = Words::default();
        while let Some(&char) = self.chars.peek() {
            if words.text.len() > MAX_LENGTH {
                return Err(format!("the result is longer than {MAX_LENGTH} bytes"));
            }
            if Some(char) == stop {
                self.chars.next();
                return Ok(words);
            }
            match char {
                '$' => {
                    let value = self.dollar()?;
                    words.value(&value);
                }
                '\'' if !self.rules.no_quotes => {
                    let text = self.single_quoted()?;
                    words.quoted(&text);
                }
                '"' if !self.rules.no_quotes => {
                    let text = self.double_quoted()?;
                    words.quoted(&text);
                }
                char if char == self.rules.escape => {
                    self.chars.next();
                    let mut text = String::new();
                    if self.keep_escapes {
                        text.push(char);
                    }
                    text.extend(self.chars.next());
                    words.quoted(&text);
                }
                char => {
                    self.chars.next();
                    words.bare(char);
                }
            }
        }
        match stop {
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
            None => Ok(words),
        }
    }

    /// Like [`Self::until`], within `${…}`.
    fn inner(&mut self, stop: char, keep_escapes: bool) -> Result<String, String> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err("syntax error: substitutions are nested too deeply".to_owned());
        }
        let before = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let words = self.until(Some(stop));
        self.keep_escapes = before;
        self.nesting -= 1;
        match words {
            Ok(words) => Ok(words.text),
            Err(_) if self.chars.peek().is_none() => Err(match stop {
                '/' => "syntax error: missing '/' in ${}".to_owned(),
                stop => format!("syntax error: missing '{stop}'"),
            }),
            Err(error) => Err(error),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        self.chars.next();
        let mut text = String::new();
        loop {
            match self.chars.next() {
                Some('\'') => return Ok(self.with_quotes('\'', text)),
                Some(char) => text.push(char),
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote"
                            .to_owned(),
                    );
                }
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        self.chars.next();
        let escape = self.rules.escape;
        let mut text = String::new();
        loop {
            match self.chars.peek().copied() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .to_owned(),
                    );
                }
                Some('"') => {
                    self.chars.next();
                    return Ok(self.with_quotes('"', text));
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(char) if char == escape => {
                    self.chars.next();
                    // Only these are escaped; before others it is itself.
                    match self.chars.peek().copied() {
                        Some(next) if matches!(next, '"' | '$') || next == escape => {
                            if self.keep_escapes {
                                text.push(escape);
                            }
                            text.push(next);
                            self.chars.next();
                        }
                        Some(_) => text.push(escape),
                        None => {}
                    }
                }
                Some(char) => {
                    text.push(char);
                    self.chars.next();
                }
            }
        }
    }

    fn with_quotes(&self, quote: char, text: String) -> String {
        if self.rules.keep_quotes {
            format!("{quote}{text}{quote}")
        } else {
            text
        }
    }

    /// `$name`, `${name}` and `${name` with a modifier.
    fn dollar(&mut self) -> Result<String, String> {
        self.chars.next();
        if self.chars.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                None if self.rules.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.chars.next();
        match self.chars.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        match self.chars.next() {
            Some('}') => Ok(match self.value(&name) {
                None if self.rules.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => {
                let modifier = self.chars.next();
                self.modified(&name, modifier, true)
            }
            Some('/') => self.replaced(&name),
            modifier => self.modified(&name, modifier, false),
        }
    }

    fn modified(
        &mut self,
        name: &str,
        modifier: Option<char>,
        empty_is_unset: bool,
    ) -> Result<String, String> {
        let Some(modifier) = modifier else {
            return Err("syntax error: missing '}'".to_owned());
        };
        let shown = if empty_is_unset {
            format!(":{modifier}")
        } else {
            modifier.to_string()
        };
        let is_pattern = matches!(modifier, '#' | '%');
        if !matches!(modifier, '+' | '-' | '?') && (!is_pattern || empty_is_unset) {
            return Err(format!("unsupported modifier ({shown}) in substitution"));
        }
        let word = self.inner('}', is_pattern)?;
        let value = self.value(name);
        if value.is_none() && self.rules.keep_unset {
            return Ok(format!("${{{name}{shown}{word}}}"));
        }
        let has_value = value
            .as_ref()
            .is_some_and(|value| !empty_is_unset || !value.is_empty());
        let text = value.clone().unwrap_or_default();
        match modifier {
            '-' => Ok(if has_value { text } else { word }),
            '+' => Ok(if has_value { word } else { String::new() }),
            '?' if has_value => Ok(text),
            '?' => {
                let why = match (word.as_str(), &value) {
                    ("", None) => "is not allowed to be unset",
                    ("", Some(_)) => "is not allowed to be empty",
                    (word, _) => word,
                };
                Err(format!("{name}: {why}"))
            }
            side => {
                let (longest, pattern) = match word.strip_prefix(side) {
                    Some(pattern) => (true, pattern),
                    None => (false, word.as_str()),
                };
                let pattern = parse_pattern(pattern)?;
                Ok(if side == '#' {
                    pattern.trim_start(&text, longest)
                } else {
                    pattern.trim_end(&text, longest)
                })
            }
        }
    }

    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.chars.next_if_eq(&'/').is_some();
        let pattern = self.inner('/', true)?;
        let by = self.inner('}', true)?;
        match self.value(name) {
            None if self.rules.keep_unset => Ok(format!("${{{name}/{pattern}/{by}}}")),
            value => Ok(parse_pattern(&pattern)?.replace(&value.unwrap_or_default(), &by, all)),
        }
    }

    /// A name, a number, or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.chars.peek().copied() {
            Some(char) if char.is_numeric() => {
                while let Some(char) = self.chars.next_if(|char| char.is_numeric()) {
                    name.push(char);
                }
            }
            Some(char @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                self.chars.next();
                name.push(char);
            }
            _ => {
                while let Some(char) =
                    (self.chars).next_if(|char| char.is_alphanumeric() || *char == '_')
                {
                    name.push(char);
                }
            }
        }
        name
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name).cloned();
        let list = match value {
            Some(_) => &mut self.out.used,
            None => &mut self.out.unset,
        };
        list.insert(name.to_owned());
        value
    }
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text)
        .map_err(|error| format!("invalid pattern ({text}) in substitution: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> BTreeMap<String, String> {
        [("A", "one two"), ("EMPTY", ""), ("P", "a/b/c.tar.gz")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    fn expand(text: &str) -> Result<String, String> {
        let expanded = Expander::new('\\').expand(text, &variables())?;
        Ok(expanded.text)
    }

    #[test]
    fn every_form_of_a_variable() {
        for (text, wanted) in [
            ("$A", "one two"),
            ("${A}x", "one twox"),
            ("$NONE-", "-"),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A\"", "one two"),
            ("\"\\$A \\n \\\"\"", "$A \\n \""),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("${NONE:-d}", "d"),
            ("${NONE:-${A}}", "one two"),
            ("${NONE-d}${EMPTY-d}${EMPTY:-e}", "de"),
            ("${A:+s}${NONE:+s}${EMPTY:+s}${EMPTY+t}", "st"),
            ("${A:?no}", "one two"),
            ("${P#*/}", "b/c.tar.gz"),
            ("${P##*/}", "c.tar.gz"),
            ("${P%.*}", "a/b/c.tar"),
            ("${P%%.*}", "a/b/c"),
            ("${P/\\//-}", "a-b/c.tar.gz"),
            ("${P//\\//-}", "a-b-c.tar.gz"),
            ("${P//./}", "a/b/ctargz"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("${A", "missing '}'"),
            ("${}", "bad substitution"),
            ("${:x}", "bad substitution"),
            ("${A!x}", "unsupported modifier (!) in substitution"),
            ("${A:#x}", "unsupported modifier (:#) in substitution"),
            ("${NONE:?is missing}", "NONE: is missing"),
            ("${NONE?}", "NONE: is not allowed to be unset"),
            ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
            ("${P/x}", "missing '/' in ${}"),
            ("'a", "single-quote"),
            ("\"a", "double-quote"),
            ("${P#\\a}", "invalid escape"),
        ] {
            let error = expand(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(expand(&"${A:-".repeat(100_000)).is_err());
    }

    #[test]
    fn words_and_names() {
        let expanded = Expander::new('\\')
            .expand("$A \"$A\" x\\ y $NONE 'q r'", &variables())
            .unwrap();
        assert_eq!(expanded.words, ["one", "two", "one two", "x y", "q r"]);
        assert_eq!(expanded.used.into_iter().collect::<Vec<_>>(), ["A"]);
        assert_eq!(expanded.unset.into_iter().collect::<Vec<_>>(), ["NONE"]);
    }

    #[test]
    fn what_has_no_value_can_stay() {
        let keep = Expander::new('\\').keep_unset();
        for text in ["$B", "${B}", "${B:-x}", "${B/x/y}"] {
            assert_eq!(keep.expand(text, &variables()).unwrap().text, text);
        }
        let raw = Expander::new('\\').raw();
        let text = "a \"b $c\" 'd' \\e";
        assert_eq!(raw.expand(text, &variables()).unwrap().text, text);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ab$({}):#%/'\"\\\\*?+ -]{0,40}") {
            let _ = expand(&text);
        }
    }
}
