//! Shell patterns with `*` and `?`, for `${name#pattern}` and its kin.

/// One sign of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Char(char),
    Any,
    Star,
}

/// A pattern that matches a part of a text.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Vec<Sign>);

impl Pattern {
    /// A backslash takes `*`, `?` and itself literally; before `}` and `/` it
    /// only kept them from ending the substitution.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut signs = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            signs.push(match char {
                '*' => Sign::Star,
                '?' => Sign::Any,
                '\\' => match chars.next() {
                    Some(next @ ('}' | '/' | '*' | '?' | '\\')) => Sign::Char(next),
                    Some(next) => return Err(format!("invalid escape '\\{next}'")),
                    None => return Err("invalid escape at its end".to_owned()),
                },
                other => Sign::Char(other),
            });
        }
        // Several stars say no more than one.
        signs.dedup_by(|a, b| *a == Sign::Star && *b == Sign::Star);
        Ok(Self(signs))
    }

    /// Lengths of the beginnings of `text` that match, in characters; one bit
    /// of state per sign, so the cost is bounded by length times signs.
    fn prefixes(&self, text: &[char]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut states = vec![false; self.0.len() + 1];
        states[0] = true;
        for at in 0..=text.len() {
            // A star may stand for nothing.
            for (i, sign) in self.0.iter().enumerate() {
                if states[i] && *sign == Sign::Star {
                    states[i + 1] = true;
                }
            }
            if states[self.0.len()] {
                found.push(at);
            }
            let Some(char) = text.get(at) else { break };
            let mut next = vec![false; states.len()];
            for (i, sign) in self.0.iter().enumerate() {
                if states[i] {
                    match sign {
                        Sign::Char(c) if c == char => next[i + 1] = true,
                        Sign::Any => next[i + 1] = true,
                        Sign::Star => next[i] = true,
                        Sign::Char(_) => {}
                    }
                }
            }
            states = next;
        }
        found
    }

    fn reversed(&self) -> Self {
        Self(self.0.iter().rev().copied().collect())
    }

    /// Takes the shortest or longest matching beginning away.
    pub(super) fn trim_start(&self, text: &str, longest: bool) -> String {
        let chars: Vec<char> = text.chars().collect();
        let cut = pick(self.prefixes(&chars), longest).unwrap_or(0);
        chars[cut..].iter().collect()
    }

    /// Takes the shortest or longest matching end away.
    pub(super) fn trim_end(&self, text: &str, longest: bool) -> String {
        let chars: Vec<char> = text.chars().rev().collect();
        let cut = pick(self.reversed().prefixes(&chars), longest).unwrap_or(0);
        chars[cut..].iter().rev().collect()
    }

    /// Replaces the first or every longest match.
    pub(super) fn replace(&self, text: &str, by: &str, all: bool) -> String {
        let chars: Vec<char> = text.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        while at <= chars.len() {
            match pick(self.prefixes(&chars[at..]), true) {
                Some(0) | None => {
                    out.extend(chars.get(at));
                    at += 1;
                }
                Some(length) => {
                    out.push_str(by);
                    at += length;
                    if !all {
                        break;
                    }
                }
            }
        }
        out.extend(chars.get(at..).unwrap_or_default());
        out
    }
}

fn pick(lengths: Vec<usize>, longest: bool) -> Option<usize> {
    if longest {
        lengths.into_iter().next_back()
    } else {
        lengths.into_iter().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_ends_and_replacements() {
        let pattern = |text| Pattern::parse(text).unwrap();
        assert_eq!(pattern("*/").trim_start("a/b/c", false), "b/c");
        assert_eq!(pattern("*/").trim_start("a/b/c", true), "c");
        assert_eq!(pattern("/*").trim_end("a/b/c", false), "a/b");
        assert_eq!(pattern("/*").trim_end("a/b/c", true), "a");
        assert_eq!(pattern("x").trim_start("abc", true), "abc");
        assert_eq!(pattern("?").replace("abc", "-", true), "---");
        assert_eq!(pattern("b").replace("abcb", "x", false), "axcb");
        assert_eq!(pattern("b").replace("abcb", "x", true), "axcx");
        assert_eq!(pattern("\\*").replace("a*b", "x", true), "axb");
        assert_eq!(pattern("\\/").replace("a/b", "x", true), "axb");
        assert!(Pattern::parse("\\a").is_err());
        assert!(Pattern::parse("\\").is_err());
    }

    #[test]
    fn many_stars_take_no_more_than_their_share_of_time() {
        let pattern = Pattern::parse(&"*a".repeat(200)).unwrap();
        assert_eq!(pattern.trim_start(&"a".repeat(1000), false).len(), 800);
        let text = "b".repeat(1000);
        assert_eq!(pattern.trim_start(&text, true), text);
    }
}
