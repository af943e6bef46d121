//! How the rest of an instruction falls into arguments.

use serde_json::Value;

/// Separates arguments.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

/// Arguments in JSON form or in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    List(Vec<String>),
    Text(String),
}

/// A JSON array of strings, or the text as it is.
pub(super) fn maybe_json(rest: &str) -> Result<Form, String> {
    let trimmed = rest.trim_start();
    if trimmed.starts_with('[')
        && let Ok(Value::Array(values)) = serde_json::from_str(trimmed)
    {
        let strings = values.into_iter().map(|value| match value {
            Value::String(text) => Ok(text),
            _ => Err(
                "when using JSON array syntax, arrays must be comprised of strings only".to_owned(),
            ),
        });
        return strings.collect::<Result<_, _>>().map(Form::List);
    }
    Ok(Form::Text(rest.to_owned()))
}

/// The same, the text split at spaces.
pub(super) fn maybe_json_list(rest: &str) -> Result<Vec<String>, String> {
    Ok(match maybe_json(rest)? {
        Form::List(list) => list,
        Form::Text(text) => fields(&text),
    })
}

pub(super) fn fields(text: &str) -> Vec<String> {
    text.split(is_space)
        .filter(|field| !field.is_empty())
        .map(str::to_owned)
        .collect()
}

/// At the first run of spaces.
pub(super) fn split_once(text: &str) -> Option<(&str, &str)> {
    let (first, rest) = text.split_once(is_space)?;
    Some((first, rest.trim_start_matches(is_space)))
}

/// Words as a shell sees them, their quotes and escapes kept.
pub(super) fn words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match quote {
            None if char.is_whitespace() => words.extend(word.take()),
            Some(open) if char == open => {
                quote = None;
                word.get_or_insert_default().push(char);
            }
            // Nothing can be escaped between single quotes.
            _ if char == escape && quote != Some('\'') => {
                if let Some(next) = chars.next() {
                    word.get_or_insert_default().extend([char, next]);
                }
            }
            None if matches!(char, '\'' | '"') => {
                quote = Some(char);
                word.get_or_insert_default().push(char);
            }
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

/// `name=value` pairs, or the old form `name value`, for ENV and LABEL.
pub(super) fn pairs(
    rest: &str,
    instruction: &str,
    escape: char,
) -> Result<Vec<(String, String)>, String> {
    let words = words(rest, escape);
    let Some(first) = words.first() else {
        return Err(format!("{instruction} requires at least one argument"));
    };
    let pairs: Vec<(String, String)> = if first.contains('=') {
        let split = words.iter().map(|word| match word.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            )),
        });
        split.collect::<Result<_, _>>()?
    } else {
        match split_once(rest) {
            Some((name, value)) => vec![(name.to_owned(), value.to_owned())],
            None => return Err(format!("{instruction} must have two arguments")),
        }
    };
    if pairs.iter().any(|(name, _)| name.is_empty()) {
        return Err(format!("{instruction} names can not be blank"));
    }
    Ok(pairs)
}

/// Whether ENV or LABEL, as written, has the old form `name value`.
pub(crate) fn is_legacy_pair(instruction: &str, escape: char) -> bool {
    let (_, rest) = split_once(instruction).unwrap_or_default();
    let first = words(rest, escape).into_iter().next();
    first.is_some_and(|word| !word.contains('='))
}

/// The flags at the beginning, with quotes and escapes resolved, and the rest.
pub(super) fn leading_flags(text: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let mut flag = String::new();
        let mut quote = None;
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, char)) = chars.next() {
            match quote {
                None if char.is_whitespace() => {
                    end = at;
                    break;
                }
                Some(open) if char == open => quote = None,
                None if matches!(char, '\'' | '"') => quote = Some(char),
                _ if char == '\\' => flag.extend(chars.next().map(|(_, next)| next)),
                _ => flag.push(char),
            }
        }
        rest = rest[end..].trim_start();
        if flag == "--" {
            break;
        }
        flags.push(flag);
    }
    (flags, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_texts() {
        let list = |text| maybe_json_list(text).unwrap();
        assert_eq!(list("[\"a b\", \"c\"]"), ["a b", "c"]);
        assert_eq!(list("a  b\tc "), ["a", "b", "c"]);
        assert_eq!(list("[a, b]"), ["[a,", "b]"]);
        assert!(maybe_json("[1]").is_err());
        assert_eq!(
            maybe_json("[ -f x ]"),
            Ok(Form::Text("[ -f x ]".to_owned()))
        );
    }

    #[test]
    fn words_keep_quotes() {
        assert_eq!(
            words(r#"a="b c" d='e \' f\ g"#, '\\'),
            [r#"a="b c""#, r"d='e \'", r"f\ g"]
        );
        assert_eq!(words("\"\" x", '\\'), ["\"\"", "x"]);
    }

    #[test]
    fn pairs_old_and_new() {
        let of = |text| pairs(text, "ENV", '\\');
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            of("a=1 b=\"2 3\"").unwrap(),
            [pair("a", "1"), pair("b", "\"2 3\"")]
        );
        assert_eq!(of("a b=c  d").unwrap(), [pair("a", "b=c  d")]);
        assert!(of("a").unwrap_err().contains("two arguments"));
        assert!(of("a=1 b").unwrap_err().contains("can't find ="));
        assert!(of("=1").unwrap_err().contains("blank"));
        assert!(of("").is_err());
    }

    #[test]
    fn flags_come_first() {
        assert_eq!(
            leading_flags("--a=1 --b=\"x y\" c --d"),
            (vec!["--a=1".to_owned(), "--b=x y".to_owned()], "c --d")
        );
        assert_eq!(leading_flags("--a -- --b"), (vec!["--a".to_owned()], "--b"));
        assert_eq!(leading_flags("a --b"), (vec![], "a --b"));
    }
}
