//! How Go's `fmt` writes what stands in a history and in names.

use std::fmt::Write as _;
use std::time::Duration;

use crate::dockerfile::Health;

/// `%q` of a list of texts: `["sh" "-c"]`.
pub(super) fn quoted_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(" "))
}

/// `strconv.Quote`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            // Writing to a String cannot fail.
            char if u32::from(char) < 0x20 || char == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(char));
            }
            char if char.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

/// `%v` of a list of texts: `[/a /b]`.
pub(super) fn plain_list(list: &[String]) -> String {
    format!("[{}]", list.join(" "))
}

/// `%+v` of the health check.
pub(super) fn health(health: &Health) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&health.test),
        duration(health.interval),
        duration(health.timeout),
        duration(health.start_period),
        duration(health.start_interval),
        health.retries
    )
}

/// `time.Duration`'s own form: "1m30s", "1.5s", "300ms".
fn duration(time: Duration) -> String {
    let nanoseconds = time.as_nanos();
    let fraction = |unit: u128, name: &str| {
        let text = format!(
            "{}.{:0w$}",
            nanoseconds / unit,
            nanoseconds % unit,
            w = unit.ilog10() as usize
        );
        let text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
        text + name
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(1_000_000, "ms"),
        _ => {
            let seconds = time.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = Duration::new(seconds % 60, time.subsec_nanos()).as_nanos();
            let text = format!("{}.{:09}", rest / 1_000_000_000, rest % 1_000_000_000);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            match (hours, minutes) {
                (0, 0) => format!("{text}s"),
                (0, minutes) => format!("{minutes}m{text}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{text}s"),
            }
        }
    }
}

/// The first line of a document.
pub(super) fn summary(document: &str) -> String {
    let mut lines = document.trim().lines();
    let first = lines.next().unwrap_or_default();
    match lines.next() {
        Some(_) => format!("{first}..."),
        None => first.to_owned(),
    }
}

/// The name of the instruction in capitals.
pub(super) fn uppercased(text: &str) -> String {
    match text.split_once(' ') {
        Some((name, rest)) => format!("{} {rest}", name.to_uppercase()),
        None => text.to_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_it() {
        let list = ["a b".to_owned(), "\"\\\n\u{1}é".to_owned()];
        assert_eq!(quoted_list(&list), "[\"a b\" \"\\\"\\\\\\n\\x01é\"]");
        assert_eq!(quoted_list(&[]), "[]");
        for (milliseconds, wanted) in [
            (0, "0s"),
            (300, "300ms"),
            (1500, "1.5s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), wanted);
        }
        assert_eq!(duration(Duration::from_micros(1500)), "1.5ms");
        assert_eq!(summary("a\nb\n"), "a...");
        assert_eq!(uppercased("run x"), "RUN x");
    }
}
