//! Times as the Engine API writes them.

use jiff::Timestamp;

/// Go's zero time: "never".
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

pub(crate) fn now() -> String {
    format(Timestamp::now())
}

/// RFC 3339 with nine digits, UTC.
/// RFC 3339 without a fraction, UTC.
pub(crate) fn format_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(crate) fn format(time: Timestamp) -> String {
    format!("{time:.9}")
}

/// `None` for [`NEVER`] and for anything that is no time.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    (text != NEVER).then_some(time)
}

pub(crate) fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

/// How long ago, in words, as go-units writes it.
pub(crate) fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds as f64 / 3600.0).round() as i64;
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", (seconds as f64 / 3600.0 / 24.0 / 365.0) as i64),
    }
}

/// Go durations in filters and queries ("1h30m", "10s"), in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Some(total as i64)
}

/// A time in a filter: seconds (with fraction) since 1970, a Go duration back
/// from now, or RFC 3339 with its common short forms. Nanoseconds since 1970.
pub(crate) fn parse_filter_time(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Some((seconds * 1e9) as i64);
    }
    if let Some(back) = parse_duration(text) {
        return Some(nanoseconds(Timestamp::now()).saturating_sub(back));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(nanoseconds(time));
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let zoned = civil.to_zoned_datetime(jiff::tz::TimeZone::system()).ok()?;
    Some(nanoseconds(zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_go_units() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (61 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn durations_and_times() {
        assert_eq!(parse_duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(parse_duration("1.5s"), Some(1_500_000_000));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_filter_time("12.5"), Some(12_500_000_000));
        assert_eq!(
            parse_filter_time("1970-01-01T00:00:01Z"),
            Some(1_000_000_000)
        );
        assert!(parse_filter_time("2024-01-01").is_some());
        assert!(parse_filter_time("soon").is_none());
        assert!(parse(NEVER).is_none());
        assert_eq!(
            format(Timestamp::UNIX_EPOCH),
            "1970-01-01T00:00:00.000000000Z"
        );
    }
}
