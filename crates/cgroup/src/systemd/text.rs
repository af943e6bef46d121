//! Values of annotations `org.systemd.property.*`, in GVariant's text format
//! (<https://docs.gtk.org/glib/gvariant-text-format.html>), as runc reads them.

use super::wire::Value;

/// Deepest nesting of arrays that is read.
const MAX_DEPTH: usize = 8;

/// One value: `true`, `7`, `uint64 7`, `'text'`, `['a', 'b']`, `@as []`,
/// `[byte 0x01]`, `<'variant'>`.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text };
    let value = parser.value(None, 0)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(format!("unexpected {:?} after the value", parser.rest)),
    }
}

#[derive(Debug)]
struct Parser<'a> {
    rest: &'a str,
}

/// Names of types before a value, with their signature.
const KEYWORDS: [(&str, &str); 12] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn eat(&mut self, what: char) -> bool {
        let found = self.peek() == Some(what);
        if found {
            self.rest = &self.rest[what.len_utf8()..];
        }
        found
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || "[]<>{}(),'\":".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// `wanted` is the type that was named before it.
    fn value(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        match self.peek() {
            None => Err("it is empty".into()),
            Some('\'' | '"') => {
                let text = self.quoted()?;
                match wanted {
                    None | Some("s") => Ok(Value::Text(text)),
                    Some("o") => Ok(Value::Path(text)),
                    Some("g") => Ok(Value::Signature(text)),
                    Some(other) => Err(format!("{text:?} is not of type {other}")),
                }
            }
            Some('[') => self.array(wanted, depth),
            Some('<') if matches!(wanted, None | Some("v")) => {
                self.eat('<');
                let inner = self.value(None, depth + 1)?;
                if !self.eat('>') {
                    return Err("a variant does not end".into());
                }
                Ok(Value::Variant(Box::new(inner)))
            }
            Some('@') => {
                self.eat('@');
                let signature = self.word().to_owned();
                self.value(Some(&signature), depth + 1)
            }
            Some('{' | '(') => Err("dictionaries and tuples are not supported".into()),
            Some(_) => self.plain(wanted, depth),
        }
    }

    fn plain(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        let word = self.word();
        if let Some((_, signature)) = KEYWORDS.iter().find(|(name, _)| *name == word) {
            return self.value(Some(signature), depth + 1);
        }
        match (word, wanted) {
            ("true", None | Some("b")) => return Ok(Value::Bool(true)),
            ("false", None | Some("b")) => return Ok(Value::Bool(false)),
            // A text of bytes, which ends with a zero.
            ("b", None | Some("ay")) if self.rest.starts_with(['\'', '"']) => {
                let text = self.quoted()?;
                let bytes = text.bytes().chain([0]).map(Value::Byte).collect();
                return Ok(Value::Array("y".into(), bytes));
            }
            _ => {}
        }
        number(word, wanted)
    }

    fn array(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        let of = match wanted {
            None => None,
            Some(signature) => Some(
                signature
                    .strip_prefix('a')
                    .ok_or_else(|| format!("an array is not of type {signature}"))?
                    .to_owned(),
            ),
        };
        self.eat('[');
        let mut values: Vec<Value> = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return Err("an array lacks a comma or its end".into());
            }
            // The first one says what the others are.
            let first = values.first().map(Value::signature);
            let value = self.value(of.as_deref().or(first.as_deref()), depth + 1)?;
            let expected = of.clone().or(first);
            if expected.is_some_and(|expected| expected != value.signature()) {
                return Err("the elements of an array differ in type".into());
            }
            values.push(value);
        }
        let of = of.or_else(|| values.first().map(Value::signature));
        match of {
            Some(of) if is_simple(&of) => Ok(Value::Array(of, values)),
            Some(of) => Err(format!("arrays of {of:?} are not supported")),
            None => Err("an empty array needs its type, as in @as []".into()),
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut chars = self.rest.chars();
        let quote = chars.next();
        let mut text = String::new();
        loop {
            match chars.next() {
                None => return Err("a text does not end".into()),
                Some(c) if Some(c) == quote => break,
                Some('\0') => return Err("a text holds a zero".into()),
                Some('\\') => text.push(match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('a') => '\x07',
                    Some('b') => '\x08',
                    Some('f') => '\x0c',
                    Some('v') => '\x0b',
                    Some('u') => code(&mut chars, 4)?,
                    Some('U') => code(&mut chars, 8)?,
                    Some(c @ ('\'' | '"' | '\\')) => c,
                    other => return Err(format!("{other:?} cannot be escaped")),
                }),
                Some(c) => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(text)
    }
}

/// A signature whose arrays can be written: basic types, and arrays of them.
fn is_simple(signature: &str) -> bool {
    let basic = signature.trim_start_matches('a');
    signature.len() <= MAX_DEPTH && basic.len() == 1 && "ybnqiuxtdsogv".contains(basic)
}

fn code(chars: &mut std::str::Chars<'_>, digits: usize) -> Result<char, String> {
    let text: String = chars.take(digits).collect();
    u32::from_str_radix(&text, 16)
        .ok()
        .filter(|&number| number != 0)
        .and_then(char::from_u32)
        .ok_or_else(|| format!("{text:?} is no character"))
}

/// Decimal, hexadecimal (0x) or octal (0), with a sign; an `int32` unless said.
fn number(word: &str, wanted: Option<&str>) -> Result<Value, String> {
    let bad = || match wanted {
        Some(wanted) => format!("{word:?} is not of type {wanted}"),
        None => format!("{word:?} is no value"),
    };
    let float = wanted == Some("d") || (wanted.is_none() && word.contains('.'));
    if float {
        return word.parse().map(Value::F64).map_err(|_| bad());
    }
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, digits) = match digits.strip_prefix("0x") {
        Some(digits) => (16, digits),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return Err(bad());
    }
    let number = i128::from_str_radix(digits, radix).map_err(|_| bad())?;
    let number = if negative { -number } else { number };
    let value = match wanted {
        Some("y") => u8::try_from(number).map(Value::Byte),
        Some("n") => i16::try_from(number).map(Value::I16),
        Some("q") => u16::try_from(number).map(Value::U16),
        None | Some("i") => i32::try_from(number).map(Value::I32),
        Some("u") => u32::try_from(number).map(Value::U32),
        Some("x") => i64::try_from(number).map(Value::I64),
        Some("t") => u64::try_from(number).map(Value::U64),
        Some(_) => return Err(bad()),
    };
    value.map_err(|_| bad())
}

/// A number of seconds as microseconds.
pub(super) fn seconds_to_micros(value: &Value) -> Option<Value> {
    const MILLION: u64 = 1_000_000;
    let whole = |seconds: i128| {
        u64::try_from(seconds)
            .ok()
            .and_then(|seconds| seconds.checked_mul(MILLION))
    };
    Some(Value::U64(match *value {
        Value::Byte(number) => whole(number.into())?,
        Value::I16(number) => whole(number.into())?,
        Value::U16(number) => whole(number.into())?,
        Value::I32(number) => whole(number.into())?,
        Value::U32(number) => whole(number.into())?,
        Value::I64(number) => whole(number.into())?,
        Value::U64(number) => whole(number.into())?,
        Value::F64(number) if (0.0..1e13).contains(&number) => (number * 1e6) as u64,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_gvariant_writes_them() {
        let text = |text: &str| Value::Text(text.into());
        for (written, value) in [
            ("true", Value::Bool(true)),
            ("7", Value::I32(7)),
            ("-0x10", Value::I32(-16)),
            ("uint64 7", Value::U64(7)),
            (" int64  -7 ", Value::I64(-7)),
            ("byte 0377", Value::Byte(255)),
            ("1.5", Value::F64(1.5)),
            ("double 2", Value::F64(2.0)),
            ("@t 9", Value::U64(9)),
            (r"'it\'s'", text("it's")),
            (r#""a\n\u00e9""#, text("a\né")),
            ("objectpath '/a'", Value::Path("/a".into())),
            (
                "['a', 'b']",
                Value::Array("s".into(), vec![text("a"), text("b")]),
            ),
            ("@as []", Value::Array("s".into(), vec![])),
            (
                "[uint16 1, 2]",
                Value::Array("q".into(), vec![Value::U16(1), Value::U16(2)]),
            ),
            (
                "b'a'",
                Value::Array("y".into(), vec![Value::Byte(97), Value::Byte(0)]),
            ),
            ("<'x'>", Value::Variant(Box::new(text("x")))),
        ] {
            assert_eq!(parse(written).unwrap(), value, "{written}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (written, why) in [
            ("", "empty"),
            ("inactive", "no value"),
            ("'x", "does not end"),
            ("[]", "needs its type"),
            ("[1, 'a']", "type"),
            ("[1 2]", "comma"),
            ("uint16 70000", "not of type q"),
            ("byte -1", "not of type y"),
            ("1 2", "after the value"),
            ("{'a': 1}", "not supported"),
            ("uint64 'x'", "not of type t"),
            ("uint64 +-1", "not of type t"),
            ("@a(ss) []", "not supported"),
            (&"[".repeat(100), "deeply"),
        ] {
            let error = parse(written).unwrap_err();
            assert!(error.contains(why), "{written}: {error}");
        }
    }

    #[test]
    fn seconds() {
        assert_eq!(
            seconds_to_micros(&Value::I32(5)),
            Some(Value::U64(5_000_000))
        );
        assert_eq!(
            seconds_to_micros(&Value::F64(0.25)),
            Some(Value::U64(250_000))
        );
        for bad in [Value::I32(-1), Value::U64(u64::MAX), Value::Bool(true)] {
            assert_eq!(seconds_to_micros(&bad), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]<>@'\\\\ abuint640x1,]{0,40}|.{0,40}") {
            let _ = parse(&text);
        }
    }
}
