//! HEALTHCHECK.

use std::time::Duration;

use super::flags::{Flags, Kind};
use super::words::{Form, maybe_json, split_once};

/// Shorter intervals are refused.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) const FLAGS: &[(&str, Kind)] = &[
    ("interval", Kind::Text),
    ("timeout", Kind::Text),
    ("start-period", Kind::Text),
    ("start-interval", Kind::Text),
    ("retries", Kind::Text),
];

/// A health check; zero durations and retries are the engine's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// "NONE", or "CMD" and its arguments, or "CMD-SHELL" and a line.
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: u32,
}

impl Health {
    pub(super) fn parse(flags: &[String], rest: &str) -> Result<Self, String> {
        let (kind, command) = split_once(rest).unwrap_or((rest, ""));
        if kind.is_empty() {
            return Err("HEALTHCHECK requires at least one argument".to_owned());
        }
        match kind.to_ascii_uppercase().as_str() {
            "NONE" if !command.is_empty() => Err("HEALTHCHECK NONE takes no arguments".to_owned()),
            "NONE" => {
                Flags::parse(flags, &[])?;
                Ok(Self {
                    test: vec!["NONE".to_owned()],
                    ..Self::default()
                })
            }
            "CMD" => {
                let flags = Flags::parse(flags, FLAGS)?;
                let test = match maybe_json(command)? {
                    Form::Text(text) if text.is_empty() => Vec::new(),
                    Form::Text(text) => vec!["CMD-SHELL".to_owned(), text],
                    Form::List(list) if list.is_empty() => Vec::new(),
                    Form::List(list) => [vec!["CMD".to_owned()], list].concat(),
                };
                if test.is_empty() {
                    return Err("Missing command after HEALTHCHECK CMD".to_owned());
                }
                let time = |name| time(&flags, name);
                Ok(Self {
                    test,
                    interval: time("interval")?,
                    timeout: time("timeout")?,
                    start_period: time("start-period")?,
                    start_interval: time("start-interval")?,
                    retries: retries(&flags)?,
                })
            }
            other => Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
        }
    }
}

fn time(flags: &Flags, name: &str) -> Result<Duration, String> {
    let Some(text) = flags.text(name).filter(|text| !text.is_empty()) else {
        return Ok(Duration::ZERO);
    };
    let time = duration(text).ok_or_else(|| format!("time: invalid duration {text:?}"))?;
    if !time.is_zero() && time < SHORTEST {
        return Err(format!("Interval {name:?} cannot be less than 1ms"));
    }
    Ok(time)
}

fn retries(flags: &Flags) -> Result<u32, String> {
    let Some(text) = flags.text("retries").filter(|text| !text.is_empty()) else {
        return Ok(0);
    };
    match text.parse::<i32>() {
        Ok(number) => {
            u32::try_from(number).map_err(|_| format!("--retries cannot be negative ({number})"))
        }
        Err(_) => Err(format!("invalid value for --retries: {text:?}")),
    }
}

/// Go's time.ParseDuration without signs: "1h30m", "1.5s", "300ms".
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest
            .find(|char: char| char.is_ascii_digit() || char == '.')
            .unwrap_or(rest.len());
        total += number
            * match rest.get(..unit)? {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = rest.get(unit..)?;
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Health, String> {
        let (flags, rest) = super::super::words::leading_flags(text);
        Health::parse(&flags, rest)
    }

    #[test]
    fn forms() {
        let health = parse("--interval=1m30s --retries=3 CMD curl -f x || exit 1").unwrap();
        assert_eq!(health.test, ["CMD-SHELL", "curl -f x || exit 1"]);
        assert_eq!(health.interval, Duration::from_secs(90));
        assert_eq!(health.retries, 3);
        assert_eq!(parse("CMD [\"a\", \"b\"]").unwrap().test, ["CMD", "a", "b"]);
        assert_eq!(parse("none").unwrap().test, ["NONE"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "at least one argument"),
            ("CMD", "Missing command"),
            ("NONE x", "takes no arguments"),
            ("RUN x", "Unknown type \"RUN\""),
            ("--interval=1 CMD x", "invalid duration"),
            ("--interval=1us CMD x", "cannot be less than 1ms"),
            ("--retries=-1 CMD x", "cannot be negative (-1)"),
            ("--intervall=1s CMD x", "did you mean interval?"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
