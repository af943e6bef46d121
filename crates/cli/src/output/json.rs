//! JSON as the engine sent it: fields keep their order, numbers their digits.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Re-indents JSON text by `indent` per level without reading its values.
pub(crate) fn indent(text: &str, indent: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut letters = text.chars().filter(|_| true).peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    };
    while let Some(letter) = letters.next() {
        if in_string {
            out.push(letter);
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match letter {
            '"' => {
                in_string = true;
                out.push('"');
            }
            '{' | '[' => {
                out.push(letter);
                while letters
                    .peek()
                    .is_some_and(|next| next.is_ascii_whitespace())
                {
                    letters.next();
                }
                let close = if letter == '{' { '}' } else { ']' };
                if letters.peek() == Some(&close) {
                    letters.next();
                    out.push(close);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(letter);
            }
            ',' => {
                out.push(',');
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ if letter.is_ascii_whitespace() => {}
            _ => out.push(letter),
        }
    }
    out
}

/// JSON text without spaces between values.
pub(crate) fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for letter in text.chars() {
        if in_string || !letter.is_ascii_whitespace() {
            out.push(letter);
        }
        if in_string {
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
        } else {
            in_string = letter == '"';
        }
    }
    out
}

/// The text at a path of fields, in its original order: for `{{json .A.B}}`.
pub(crate) fn at<'a>(text: &'a str, path: &[&str]) -> Option<&'a str> {
    let mut text = text;
    for name in path {
        let fields: BTreeMap<String, &'a RawValue> = serde_json::from_str(text).ok()?;
        text = fields.get(*name)?.get();
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_like_go() {
        let text = r#"[{"B":1,"A":[],"C":{},"D":["x:,{\"",2.50]}]"#;
        let want = "[\n    {\n        \"B\": 1,\n        \"A\": [],\n        \"C\": {},\n        \"D\": [\n            \"x:,{\\\"\",\n            2.50\n        ]\n    }\n]";
        assert_eq!(indent(text, "    "), want);
        assert_eq!(compact(&indent(text, "  ")), text);
        assert_eq!(indent(want, "    "), want);
    }

    #[test]
    fn paths_keep_order() {
        let text = r#"{"Z":{"b":1,"a":2}}"#;
        assert_eq!(at(text, &["Z"]), Some(r#"{"b":1,"a":2}"#));
        assert_eq!(at(text, &["Z", "a"]), Some("2"));
        assert_eq!(at(text, &["Q"]), None);
    }
}
