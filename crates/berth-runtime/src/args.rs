//! Options as runc takes them (Go's style): `--name value`, `--name=value`,
//! `-name` for `--name`, and short forms.

use std::ffi::{OsStr, OsString};

use crate::error::{Error, Result};

/// One option that a command knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    name: &'static str,
    short: Option<char>,
    takes_value: bool,
}

impl Opt {
    pub(crate) const fn flag(name: &'static str) -> Self {
        Self {
            name,
            short: None,
            takes_value: false,
        }
    }

    pub(crate) const fn value(name: &'static str) -> Self {
        Self {
            name,
            short: None,
            takes_value: true,
        }
    }

    #[cfg(test)]
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    fn matches(&self, name: &str) -> bool {
        let mut chars = name.chars();
        self.name == name
            || (self.short.is_some() && chars.next() == self.short && chars.next().is_none())
    }
}

/// Whether options may follow the first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first argument ends the options: what follows belongs to someone
    /// else (`exec ID ls -l`).
    OptionsFirst,
    Anywhere,
}

/// The options that were given.
#[derive(Debug, Default)]
pub(crate) struct Args(Vec<(&'static str, String)>);

impl Args {
    /// Takes the options out of `arguments`, leaving the rest.
    pub(crate) fn parse(
        arguments: &mut Vec<OsString>,
        known: &[Opt],
        order: Order,
    ) -> Result<Self> {
        let mut options = Vec::new();
        let mut rest = Vec::new();
        let mut input = std::mem::take(arguments).into_iter();
        while let Some(argument) = input.next() {
            let text = argument.to_str().unwrap_or_default();
            let Some(option) = text.strip_prefix('-').filter(|option| !option.is_empty()) else {
                rest.push(argument);
                if order == Order::OptionsFirst {
                    break;
                }
                continue;
            };
            if option == "-" {
                break;
            }
            let option = option.strip_prefix('-').unwrap_or(option);
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let Some(opt) = known.iter().find(|opt| opt.matches(name)) else {
                return Err(match name {
                    "help" | "h" => Error::help(),
                    _ => Error::usage(format!("unknown option `{text}`")),
                });
            };
            let value = match (opt.takes_value, value) {
                (true, Some(value)) => value,
                (true, None) => input
                    .next()
                    .and_then(|value| value.into_string().ok())
                    // Podman looks for these words to see what `restore` can do.
                    .ok_or_else(|| Error::usage(format!("flag needs an argument: {text}")))?,
                (false, None) => "true".to_owned(),
                (false, Some(value)) => boolean(&value)
                    .ok_or_else(|| Error::usage(format!("option `{text}` is true or false")))?
                    .to_string(),
            };
            options.push((opt.name, value));
        }
        rest.extend(input);
        *arguments = rest;
        Ok(Self(options))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false")
    }

    /// The last one given.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(given, _)| *given == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The one argument of a command without options.
pub(crate) fn alone(mut arguments: Vec<OsString>, what: &str) -> Result<String> {
    Args::parse(&mut arguments, &[], Order::Anywhere)?;
    only(arguments, what)
}

/// The one argument of a command that takes one.
pub(crate) fn only(arguments: Vec<OsString>, what: &str) -> Result<String> {
    let mut arguments = arguments.into_iter();
    match (arguments.next(), arguments.next()) {
        (Some(argument), None) => argument
            .into_string()
            .map_err(|_| Error::usage(format!("the {what} is not valid UTF-8"))),
        (None, _) => Err(Error::usage(format!("the {what} is missing"))),
        (_, Some(extra)) => Err(unexpected(&extra)),
    }
}

/// For a command whose arguments, if any, have been taken.
pub(crate) fn no_more(arguments: &[OsString]) -> Result<()> {
    arguments
        .first()
        .map_or(Ok(()), |extra| Err(unexpected(extra)))
}

fn unexpected(argument: &OsStr) -> Error {
    Error::usage(format!(
        "unexpected argument `{}`",
        argument.to_string_lossy()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Opt] = &[
        Opt::value("bundle").short('b'),
        Opt::flag("force").short('f'),
        Opt::value("env"),
    ];

    fn parse(line: &str, order: Order) -> Result<(Args, Vec<String>)> {
        let mut arguments = line.split(' ').map(OsString::from).collect();
        let args = Args::parse(&mut arguments, KNOWN, order)?;
        Ok((
            args,
            arguments
                .into_iter()
                .map(|a| a.into_string().unwrap())
                .collect(),
        ))
    }

    #[test]
    fn all_spellings() {
        for line in [
            "--bundle x id",
            "--bundle=x id",
            "-b x id",
            "-bundle x id",
            "-b=x id",
        ] {
            let (args, rest) = parse(line, Order::OptionsFirst).unwrap();
            assert_eq!(args.value("bundle"), Some("x"), "{line}");
            assert_eq!(rest, ["id"]);
        }
        let (args, rest) = parse("id -f --env a --env b", Order::Anywhere).unwrap();
        assert!(args.has("force"));
        assert_eq!(args.values("env").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(rest, ["id"]);
        for (text, given) in [("false", false), ("0", false), ("T", true), ("1", true)] {
            let line = format!("--force={text}");
            assert_eq!(
                parse(&line, Order::Anywhere).unwrap().0.has("force"),
                given,
                "{line}"
            );
        }
    }

    #[test]
    fn what_follows_belongs_to_the_program() {
        let (args, rest) = parse("-f id ls -l -- x", Order::OptionsFirst).unwrap();
        assert!(args.has("force"));
        assert_eq!(rest, ["id", "ls", "-l", "--", "x"]);
        assert_eq!(parse("-- -f", Order::Anywhere).unwrap().1, ["-f"]);
    }

    #[test]
    fn mistakes_are_errors() {
        for line in ["--nope", "--bundle", "--force=2", "-x"] {
            assert!(parse(line, Order::Anywhere).is_err(), "{line}");
        }
    }
}
