//! Points in time as people and the API write them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::failure::Failure;
use crate::units::{human_duration, parse_duration};

/// Now, in seconds since 1970.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_second()
}

/// Seconds since 1970 of an RFC 3339 time.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// "2 minutes ago"
pub(crate) fn ago(seconds: i64) -> String {
    format!("{} ago", human_duration((now() - seconds).max(0)))
}

/// `--since` and `--until`: seconds since 1970, a date, a time, or how long ago
/// ("10m"). Gives "seconds[.nanoseconds]", or the text itself when it is
/// already that.
pub(crate) fn parse_point(text: &str) -> Result<String, Failure> {
    if text.is_empty() {
        return Ok(String::new());
    }
    // "0" is the beginning of time, not "no time ago".
    if text != "0"
        && let Ok(length) = parse_duration(text)
    {
        let nanoseconds = Timestamp::now().as_nanosecond() - i128::from(length);
        return Ok(nanoseconds.div_euclid(1_000_000_000).to_string());
    }
    let numeric = text
        .split_once('.')
        .map_or((text, "0"), |(whole, part)| (whole, part));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if digits(numeric.0.trim_start_matches('-')) && digits(numeric.1) {
        return Ok(text.to_owned());
    }
    let stamp = text.parse::<Timestamp>().ok().or_else(|| {
        let completed = match text.len() {
            // "2013-01-02T13" and "2013-01-02T13:23" lack what jiff insists on.
            13 => format!("{text}:00"),
            _ => text.to_owned(),
        };
        completed
            .parse::<DateTime>()
            .ok()?
            .to_zoned_datetime(TimeZone::system())
            .ok()
            .map(|zoned| zoned.timestamp())
    });
    stamp
        .map(|stamp| format!("{}.{:09}", stamp.as_second(), stamp.subsec_nanosecond()))
        .ok_or_else(|| {
            Failure::new(format!(
                "failed to parse value as time or duration: {}",
                crate::flags::go_quote(text)
            ))
        })
}

/// "2024-05-01 12:00:00 +0200 CEST" in the local zone.
pub(crate) fn local(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |stamp| {
            stamp
                .to_zoned_datetime(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S %z %Z")
                .to_string()
        },
    )
}

/// "2024-05-01T12:00:00+02:00" in the local zone.
pub(crate) fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |stamp| {
            let zoned = stamp.to_zoned_datetime(TimeZone::system());
            zoned
                .strftime("%Y-%m-%dT%H:%M:%S%:z")
                .to_string()
                .replace("+00:00", "Z")
        },
    )
}

/// An RFC 3339 time as Go prints one: "2024-05-01 12:00:00.5 +0000 UTC".
pub(crate) fn go_string(text: &str) -> String {
    if text.is_empty() {
        return "0001-01-01 00:00:00 +0000 UTC".to_owned();
    }
    text.parse::<Timestamp>().map_or_else(
        |_| text.to_owned(),
        |stamp| stamp.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points() {
        assert_eq!(parse_point("").unwrap(), "");
        assert_eq!(parse_point("1136073600.5").unwrap(), "1136073600.5");
        assert_eq!(
            parse_point("2013-01-02T13:23:37Z").unwrap(),
            "1357133017.000000000"
        );
        let ten: i64 = parse_point("10m").unwrap().parse().unwrap();
        assert!((now() - ten - 600).abs() <= 1);
        assert!(parse_point("2013-01-02").is_ok() && parse_point("2013-01-02T13:23").is_ok());
        assert!(parse_point("yesterday").is_err());
        assert_eq!(
            go_string("2024-05-01T12:00:00.5Z"),
            "2024-05-01 12:00:00.5 +0000 UTC"
        );
    }
}
