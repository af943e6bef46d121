//! "WWW-Authenticate" (RFC 9110 §11.6.1): what a registry wants to see.

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Headers and challenges that are looked at; the rest cannot be honest.
const MAX_CHALLENGES: usize = 32;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case: "basic", "bearer".
    pub scheme: String,
    /// Names in lower case.
    pub parameters: BTreeMap<String, String>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// All challenges of a response, in order. What cannot be read is left out.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse)
        .take(MAX_CHALLENGES)
        .collect()
}

/// One header may hold several challenges, separated as their parameters are:
/// by commas. A word that is not followed by "=" begins the next one.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = header;
    while found.len() < MAX_CHALLENGES {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (name, after) = token(rest);
        if name.is_empty() {
            break;
        }
        match parameter(after) {
            Some((value, after)) => {
                let Some(challenge) = found.last_mut() else {
                    break;
                };
                challenge
                    .parameters
                    .entry(name.to_ascii_lowercase())
                    .or_insert(value);
                rest = after;
            }
            None => {
                found.push(Challenge {
                    scheme: name.to_ascii_lowercase(),
                    parameters: BTreeMap::new(),
                });
                rest = token68(after);
            }
        }
    }
    found
}

/// `= value` or `= "quoted value"`.
fn parameter(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']).strip_prefix('=')?;
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries do not quote addresses: up to the next comma.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    // The quote is never closed.
    Some((value, ""))
}

/// Steps over the bare value of a scheme such as `Negotiate YWJj==`.
fn token68(text: &str) -> &str {
    let start = text.trim_start_matches([' ', '\t']);
    let end = start
        .find(|c: char| !(c.is_ascii_alphanumeric() || "-._~+/".contains(c)))
        .unwrap_or(start.len());
    let padded = start[end..].trim_start_matches('=');
    let tail = padded.trim_start_matches([' ', '\t']);
    if end > 0 && (tail.is_empty() || tail.starts_with(',')) {
        return tail;
    }
    start
}

fn token(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)))
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn several_in_one_header() {
        let found = parse(
            r#"Negotiate YWJj==, Bearer realm="https://a.example/t?x=1,2",service="r", scope="repository:a:pull,push" , Basic realm="say \"hi\"""#,
        );
        let schemes: Vec<_> = found.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "bearer", "basic"]);
        assert_eq!(found[1].parameter("realm"), "https://a.example/t?x=1,2");
        assert_eq!(found[1].parameter("scope"), "repository:a:pull,push");
        assert_eq!(found[2].parameter("realm"), "say \"hi\"");
    }

    #[test]
    fn what_is_not_quoted_or_not_closed() {
        let found = parse("bearer REALM=https://a.example/token,service=x");
        assert_eq!(found[0].parameter("realm"), "https://a.example/token");
        assert_eq!(found[0].parameter("service"), "x");
        assert_eq!(parse("Basic realm=\"open")[0].parameter("realm"), "open");
        assert_eq!(parse("Basic")[0].scheme, "basic");
        assert!(parse("=x").is_empty());
    }

    proptest! {
        #[test]
        fn never_panics_and_is_bounded(text in "\\PC{0,200}") {
            prop_assert!(parse(&text).len() <= MAX_CHALLENGES);
        }

        #[test]
        fn hostile_punctuation(text in "[ ,=\"\\\\a/\u{e9}]{0,60}") {
            parse(&text);
        }

        #[test]
        fn reads_back_what_was_written(
            schemes in prop::collection::vec(
                ("[A-Za-z][A-Za-z0-9]{0,8}", prop::collection::btree_map("[a-z]{1,8}", "[ -~]{0,20}", 1..4)),
                1..4,
            )
        ) {
            let quote = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"");
            let text: Vec<String> = schemes.iter().map(|(scheme, parameters)| {
                let parameters: Vec<String> = parameters.iter()
                    .map(|(name, value)| format!("{name}=\"{}\"", quote(value))).collect();
                format!("{scheme} {}", parameters.join(", "))
            }).collect();
            let wanted: Vec<Challenge> = schemes.into_iter().map(|(scheme, parameters)| Challenge {
                scheme: scheme.to_ascii_lowercase(), parameters,
            }).collect();
            prop_assert_eq!(parse(&text.join(", ")), wanted);
        }
    }
}
