//! Command-line flags as Docker's clients parse them (Go's pflag): short flags
//! may be joined, a boolean takes a value only behind "=", and the words of an
//! error are the ones scripts and people know.

use crate::units;

/// What a flag holds; decides its parsing and its type name in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Text,
    /// Given again, it adds.
    List,
    /// The same under another name in the help.
    Array,
    Strings,
    Map,
    Filter,
    Mount,
    Network,
    Ulimit,
    Gpus,
    Int,
    Uint16,
    Uint,
    Bytes,
    Cpus,
    Duration,
}

impl Kind {
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Text => "string",
            Self::List => "list",
            Self::Array => "stringArray",
            Self::Strings => "strings",
            Self::Map => "map",
            Self::Filter => "filter",
            Self::Mount => "mount",
            Self::Network => "network",
            Self::Ulimit => "ulimit",
            Self::Gpus => "gpu-request",
            Self::Int => "int",
            Self::Uint16 => "uint16",
            Self::Uint => "uint",
            Self::Bytes => "bytes",
            Self::Cpus => "decimal",
            Self::Duration => "duration",
        }
    }

    fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Bool => parse_bool(text).map(drop),
            Self::Int => parse_int(text).map(drop),
            Self::Uint16 => parse_uint(text, u64::from(u16::MAX)).map(drop),
            Self::Uint => parse_uint(text, u64::MAX).map(drop),
            Self::Bytes if text == "-1" => Ok(()),
            Self::Bytes => units::parse_bytes(text).map(drop),
            Self::Cpus => units::parse_nano_cpus(text).map(drop),
            Self::Duration => units::parse_duration(text).map(drop),
            Self::Filter if text.is_empty() || text.contains('=') => Ok(()),
            Self::Filter => Err("bad format of filter (expected name=value)".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Whether a value is one, or why not.
pub(crate) type Check = fn(&str) -> Result<(), String>;

/// One flag of one command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    pub(crate) usage: &'static str,
    /// As the help shows it; empty = the zero value, which it does not show.
    pub(crate) default: &'static str,
    pub(crate) hidden: bool,
    /// A further check of each value while parsing.
    check: Option<Check>,
}

pub(crate) const fn flag(name: &'static str, kind: Kind, usage: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind,
        usage,
        default: "",
        hidden: false,
        check: None,
    }
}

impl Flag {
    pub(crate) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }
    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
    pub(crate) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }
    pub(crate) const fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// "-m, --memory", as errors name the flag.
    fn shown(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

/// The words of one command, sorted out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parsed {
    values: Vec<(&'static Flag, String)>,
    pub(crate) words: Vec<String>,
    pub(crate) help: bool,
    /// The command as it was typed, with the program: "docker run".
    pub(crate) typed: String,
}

impl Parsed {
    /// Parses `arguments`. With `stop_at_word` flags end at the first word that
    /// is none: what follows belongs to the container's command.
    pub(crate) fn parse(
        flags: &[&'static [Flag]],
        arguments: &[String],
        stop_at_word: bool,
    ) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                parsed.words.extend(rest.by_ref().cloned());
            } else if let Some(long) = argument.strip_prefix("--") {
                parsed.long(flags, long, &mut rest)?;
            } else if argument.len() > 1 && argument.starts_with('-') {
                parsed.joined(flags, &argument[1..], &mut rest)?;
            } else {
                parsed.words.push(argument.clone());
                if stop_at_word {
                    parsed.words.extend(rest.by_ref().cloned());
                }
            }
        }
        Ok(parsed)
    }

    fn long<'a>(
        &mut self,
        flags: &[&'static [Flag]],
        text: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(format!("bad flag syntax: --{text}"));
        }
        let Some(flag) = find(flags, |flag| flag.name == name) else {
            if name == "help" {
                self.help = true;
                return Ok(());
            }
            return Err(format!("unknown flag: --{name}"));
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => rest
                .next()
                .cloned()
                .ok_or_else(|| format!("flag needs an argument: --{name}"))?,
        };
        self.set(flag, value)
    }

    /// "-it", "-eA=b", "-e A=b", "-t=false".
    fn joined<'a>(
        &mut self,
        flags: &[&'static [Flag]],
        text: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        let mut left = text;
        while let Some(short) = left.chars().next() {
            let after = &left[short.len_utf8()..];
            let Some(flag) = find(flags, |flag| flag.short == Some(short)) else {
                if short == 'h' {
                    self.help = true;
                    left = after;
                    continue;
                }
                return Err(format!("unknown shorthand flag: '{short}' in -{left}"));
            };
            if let Some(value) = after.strip_prefix('=') {
                return self.set(flag, value.to_owned());
            }
            if flag.kind == Kind::Bool {
                self.set(flag, "true".to_owned())?;
                left = after;
                continue;
            }
            let value = if after.is_empty() {
                rest.next()
                    .cloned()
                    .ok_or_else(|| format!("flag needs an argument: '{short}' in -{left}"))?
            } else {
                after.to_owned()
            };
            return self.set(flag, value);
        }
        Ok(())
    }

    fn set(&mut self, flag: &'static Flag, value: String) -> Result<(), String> {
        flag.kind
            .check(&value)
            .and_then(|()| flag.check.map_or(Ok(()), |check| check(&value)))
            .map_err(|why| {
                format!(
                    "invalid argument {} for \"{}\" flag: {why}",
                    go_quote(&value),
                    flag.shown()
                )
            })?;
        self.values.push((flag, value));
        Ok(())
    }

    pub(crate) fn changed(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    fn last(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .rev()
            .find(|(flag, _)| flag.name == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value, if the flag was given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.last(name)
    }

    /// The value, or "".
    pub(crate) fn text(&self, name: &str) -> String {
        self.last(name).unwrap_or_default().to_owned()
    }

    /// All values in the order given.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.values
            .iter()
            .filter(|(flag, _)| flag.name == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// All values of several spellings of one flag, in the order given.
    pub(crate) fn lists(&self, names: &[&str]) -> Vec<String> {
        self.values
            .iter()
            .filter(|(flag, _)| names.contains(&flag.name))
            .map(|(_, value)| value.clone())
            .collect()
    }

    pub(crate) fn on(&self, name: &str) -> bool {
        self.last(name)
            .is_some_and(|text| parse_bool(text) == Ok(true))
    }

    pub(crate) fn on_by_default(&self, name: &str) -> bool {
        self.last(name)
            .is_none_or(|text| parse_bool(text) == Ok(true))
    }

    // Values were checked while parsing, so a failure here cannot happen.

    pub(crate) fn int(&self, name: &str) -> i64 {
        self.last(name)
            .and_then(|text| parse_int(text).ok())
            .unwrap_or_default()
    }

    pub(crate) fn uint(&self, name: &str) -> u64 {
        self.last(name)
            .and_then(|text| parse_uint(text, u64::MAX).ok())
            .unwrap_or_default()
    }

    /// Bytes; -1 as such.
    pub(crate) fn bytes(&self, name: &str) -> i64 {
        match self.last(name) {
            Some("-1") => -1,
            Some(text) => units::parse_bytes(text).unwrap_or_default(),
            None => 0,
        }
    }

    pub(crate) fn nano_cpus(&self, name: &str) -> i64 {
        self.last(name)
            .and_then(|text| units::parse_nano_cpus(text).ok())
            .unwrap_or_default()
    }

    /// Nanoseconds.
    pub(crate) fn duration(&self, name: &str) -> i64 {
        self.last(name)
            .and_then(|text| units::parse_duration(text).ok())
            .unwrap_or_default()
    }

    pub(crate) fn filters(&self) -> berth_api::filters::Filters {
        let mut filters = berth_api::filters::Filters::default();
        for text in self.list("filter") {
            if let Some((field, value)) = text.split_once('=') {
                filters.insert(&field.trim().to_lowercase(), value.trim());
            }
        }
        filters
    }
}

fn find(flags: &[&'static [Flag]], wanted: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    flags.iter().copied().flatten().find(|flag| wanted(flag))
}

/// Go's `strconv.Quote` for the common characters.
pub(crate) fn go_quote(text: &str) -> String {
    format!("{text:?}").replace("\\'", "'")
}

pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {}: invalid syntax",
            go_quote(text)
        )),
    }
}

/// Decimal, or with Go's 0x, 0o and 0b prefixes.
fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let wide = magnitude(digits);
    let value = wide.and_then(|value| {
        let value = i128::from(value);
        i64::try_from(if negative { -value } else { value })
            .map_err(|_| std::num::IntErrorKind::PosOverflow)
    });
    value.map_err(|kind| go_number_error("ParseInt", text, &kind))
}

fn parse_uint(text: &str, most: u64) -> Result<u64, String> {
    match magnitude(text) {
        Ok(value) if value <= most => Ok(value),
        Ok(_) => Err(go_number_error(
            "ParseUint",
            text,
            &std::num::IntErrorKind::PosOverflow,
        )),
        Err(kind) => Err(go_number_error("ParseUint", text, &kind)),
    }
}

fn magnitude(digits: &str) -> Result<u64, std::num::IntErrorKind> {
    let lower = digits.to_ascii_lowercase();
    let (body, radix) = if let Some(body) = lower.strip_prefix("0x") {
        (body, 16)
    } else if let Some(body) = lower.strip_prefix("0b") {
        (body, 2)
    } else if let Some(body) = lower.strip_prefix("0o") {
        (body, 8)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (&lower[1..], 8)
    } else {
        (lower.as_str(), 10)
    };
    if body.starts_with(['+', '-']) {
        return Err(std::num::IntErrorKind::InvalidDigit);
    }
    u64::from_str_radix(body, radix).map_err(|error| *error.kind())
}

pub(crate) fn go_number_error(function: &str, text: &str, kind: &std::num::IntErrorKind) -> String {
    let why = match kind {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            "value out of range"
        }
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {}: {why}", go_quote(text))
}

#[cfg(test)]
mod tests {
    use super::Kind::*;
    use super::*;

    static FLAGS: &[Flag] = &[
        flag("env", List, "").short('e'),
        flag("interactive", Bool, "").short('i'),
        flag("tty", Bool, "").short('t'),
        flag("name", Text, ""),
        flag("memory", Bytes, "").short('m'),
        flag("weight", Uint16, ""),
        flag("swappiness", Int, ""),
    ];

    fn parse(line: &str) -> Result<Parsed, String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        Parsed::parse(&[FLAGS], &words, true)
    }

    #[test]
    fn flags_in_all_spellings() {
        let parsed =
            parse("-it -eA=1 -e B=2 --env=C --name x -m=4m --tty=false img -z --foo").unwrap();
        assert!(parsed.on("interactive") && !parsed.on("tty") && parsed.changed("tty"));
        assert_eq!(parsed.list("env"), ["A=1", "B=2", "C"]);
        assert_eq!(parsed.text("name"), "x");
        assert_eq!(parsed.bytes("memory"), 4 << 20);
        assert_eq!(parsed.words, ["img", "-z", "--foo"]);
        assert_eq!(parse("-- --name").unwrap().words, ["--name"]);
        assert!(parse("--help").unwrap().help);
    }

    #[test]
    fn errors_are_dockers() {
        for (line, want) in [
            ("--foo", "unknown flag: --foo"),
            ("-iz", "unknown shorthand flag: 'z' in -z"),
            ("--name", "flag needs an argument: --name"),
            ("-ie", "flag needs an argument: 'e' in -e"),
            (
                "-m abc",
                r#"invalid argument "abc" for "-m, --memory" flag: invalid size: 'abc'"#,
            ),
            (
                "--tty=foo",
                r#"invalid argument "foo" for "-t, --tty" flag: strconv.ParseBool: parsing "foo": invalid syntax"#,
            ),
            (
                "--weight 70000",
                r#"invalid argument "70000" for "--weight" flag: strconv.ParseUint: parsing "70000": value out of range"#,
            ),
            (
                "--weight -1",
                r#"invalid argument "-1" for "--weight" flag: strconv.ParseUint: parsing "-1": invalid syntax"#,
            ),
            (
                "--swappiness x",
                r#"invalid argument "x" for "--swappiness" flag: strconv.ParseInt: parsing "x": invalid syntax"#,
            ),
        ] {
            assert_eq!(parse(line).unwrap_err(), want, "{line}");
        }
    }
}
