//! The command line, with the grammar of Docker's: `--flag value`,
//! `--flag=value`, `-f value`, `-fvalue`; booleans take a value only with `=`.

use std::ffi::OsString;

use super::options::{self, Kind, Opt, Value, Values};

/// Reads the words after the daemon's name. The error is the sentence to show.
pub(crate) fn parse(words: &[OsString]) -> Result<Values, String> {
    let mut values = Values::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let word = text(word)?;
        let (shown, opt, attached) = if let Some(long) = word.strip_prefix("--") {
            let (flag, value) = match long.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (long, None),
            };
            let opt = options::by_flag(flag).ok_or_else(|| format!("unknown flag: --{flag}"))?;
            (format!("--{flag}"), opt, value)
        } else if let Some(rest) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            let short = rest.chars().next().unwrap_or_default();
            let opt = options::by_short(short)
                .ok_or_else(|| format!("unknown shorthand flag: '{short}' in -{rest}"))?;
            let value = &rest[short.len_utf8()..];
            if opt.kind == Kind::Bool && !value.is_empty() && !value.starts_with('=') {
                return Err(format!("flags must be given one by one, not as -{rest}"));
            }
            let value = value.strip_prefix('=').unwrap_or(value);
            (
                format!("-{short}, --{}", opt.flag),
                opt,
                (!value.is_empty()).then_some(value),
            )
        } else {
            return Err("accepts no arguments".to_owned());
        };
        let value = match attached {
            Some(value) => value,
            None if opt.kind == Kind::Bool => "true",
            None => match words.next() {
                Some(next) => text(next)?,
                None if word.starts_with("--") => {
                    return Err(format!("flag needs an argument: {shown}"));
                }
                None => {
                    let short = opt.short.unwrap_or_default();
                    return Err(format!("flag needs an argument: '{short}' in {word}"));
                }
            },
        };
        add(&mut values, opt, value)
            .map_err(|why| format!("invalid argument \"{value}\" for \"{shown}\" flag: {why}"))?;
    }
    Ok(values)
}

fn text(word: &OsString) -> Result<&str, String> {
    word.to_str()
        .ok_or_else(|| format!("the argument {word:?} is not UTF-8"))
}

/// Adds one written value; lists and maps grow, others are replaced.
fn add(values: &mut Values, opt: &Opt, text: &str) -> Result<(), String> {
    let name = opt.name();
    match opt.kind {
        Kind::Bool => {
            let value = match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                _ => return Err("it must be true or false".to_owned()),
            };
            values.insert(name, Value::Bool(value));
        }
        Kind::Int => {
            let value = text.parse().map_err(|_| "it must be a number".to_owned())?;
            values.insert(name, Value::Int(value));
        }
        Kind::Text => {
            values.insert(name, Value::Text(text.to_owned()));
        }
        Kind::List => {
            match values
                .entry(name)
                .or_insert_with(|| Value::List(Vec::new()))
            {
                Value::List(list) => list.push(text.to_owned()),
                other => *other = Value::List(vec![text.to_owned()]),
            }
        }
        Kind::Map => {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| "it must be name=value".to_owned())?;
            let entry = (key.to_owned(), value.to_owned());
            match values.entry(name).or_insert_with(|| Value::Map([].into())) {
                Value::Map(map) => {
                    map.insert(entry.0, entry.1);
                }
                other => *other = Value::Map([entry].into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Values, String> {
        let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
        parse(&words)
    }

    #[test]
    fn all_spellings() {
        let values = run(
            "-D -H unix:///a -Hunix:///b -H=fd:// --host unix:///c --mtu=9000 --log-opt a=b=c --log-opt d=e --icc=false -l warn",
        )
        .unwrap();
        assert_eq!(values["debug"], Value::Bool(true));
        let hosts = ["unix:///a", "unix:///b", "fd://", "unix:///c"].map(str::to_owned);
        assert_eq!(values["hosts"], Value::List(hosts.into()));
        assert_eq!(values["mtu"], Value::Int(9000));
        assert_eq!(values["log-opts"].to_string(), "map[a:b=c d:e]");
        assert_eq!(values["icc"], Value::Bool(false));
        assert_eq!(values["log-level"], Value::Text("warn".to_owned()));
    }

    #[test]
    fn mistakes_are_named_as_docker_names_them() {
        for (line, want) in [
            ("--nope", "unknown flag: --nope"),
            ("--nope=1", "unknown flag: --nope"),
            ("-x1", "unknown shorthand flag: 'x' in -x1"),
            ("-H", "flag needs an argument: 'H' in -H"),
            ("--host", "flag needs an argument: --host"),
            (
                "--mtu x",
                "invalid argument \"x\" for \"--mtu\" flag: it must be a number",
            ),
            ("stray", "accepts no arguments"),
        ] {
            assert_eq!(run(line).unwrap_err(), want);
        }
        assert!(run("--debug=maybe").is_err());
    }
}
