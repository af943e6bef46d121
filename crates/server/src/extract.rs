//! What a request says: query parameters read the way Go's handlers read
//! them, and JSON bodies with Docker's checks and words.

use std::fmt::Display;
use std::str::FromStr;

use berth_api::Error;
use berth_api::filters::Filters;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

/// Longest JSON body, in bytes. Archives are streamed and have no limit here.
pub(crate) const MAX_JSON: usize = 8 * 1024 * 1024;

/// Query parameters in their order; a name may come more than once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Result<Self, Error> {
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((
                    decode(&name.replace('+', " "))?,
                    decode(&value.replace('+', " "))?,
                ))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The first value; empty when absent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Docker's `BoolValue`: anything but these words is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let value = self.text(name).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// The same with a default for an absent parameter.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        if self.has(name) {
            self.flag(name)
        } else {
            default
        }
    }

    /// A number; `None` when absent or empty.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error>
    where
        T::Err: Display,
    {
        let value = self.text(name);
        if value.is_empty() {
            return Ok(None);
        }
        value.parse().map(Some).map_err(|error| {
            Error::invalid(format!(
                "invalid value \"{value}\" for parameter \"{name}\": {error}"
            ))
        })
    }

    pub(crate) fn filters(&self) -> Result<Filters, Error> {
        Filters::parse(self.text("filters"))
    }

    /// "seconds[.fraction]" since 1970, in nanoseconds; `None` when absent.
    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>, Error> {
        let value = self.text(name);
        if value.is_empty() {
            return Ok(None);
        }
        parse_time(value).map(Some).ok_or_else(|| {
            Error::invalid(format!(
                "invalid value \"{value}\" for parameter \"{name}\": not a time in seconds since 1970"
            ))
        })
    }
}

/// Nanoseconds from "1700000000.123456789"; the fraction counts for nothing
/// when the seconds are negative, as in Docker.
fn parse_time(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || fraction.len() > 9 {
        return None;
    }
    let nanoseconds: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// Undoes percent encoding; refuses what Go refuses.
pub(crate) fn decode(text: &str) -> Result<String, Error> {
    let bytes = text.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let digits = bytes.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            let shown = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]);
            return Err(Error::invalid(format!("invalid URL escape \"{shown}\"")));
        }
    }
    Ok(percent_decode_str(text).decode_utf8_lossy().into_owned())
}

/// Reads a JSON body; `None` when there is none.
pub(crate) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Option<T>, Error> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default();
    let empty = body.is_end_stream();
    if content_type.is_empty() && empty {
        return Ok(None);
    }
    check_type(&content_type)?;
    if empty {
        return Ok(None);
    }
    let bytes = collect(body, MAX_JSON).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::invalid("got EOF while reading request body"));
    }
    let mut values = serde_json::Deserializer::from_slice(&bytes).into_iter();
    let value = match values.next() {
        Some(Ok(value)) => value,
        Some(Err(error)) => return Err(Error::invalid(format!("invalid JSON: {error}"))),
        None => return Err(Error::invalid("got EOF while reading request body")),
    };
    let rest = bytes.get(values.byte_offset()..).unwrap_or_default();
    if rest.iter().all(u8::is_ascii_whitespace) {
        Ok(Some(value))
    } else {
        Err(Error::invalid("unexpected content after JSON"))
    }
}

fn check_type(content_type: &str) -> Result<(), Error> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind.is_empty() {
        return Err(Error::invalid(format!(
            "malformed Content-Type header ({content_type}): mime: no media type"
        )));
    }
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Error::invalid(format!(
            "unsupported Content-Type header ({content_type}): must be 'application/json'"
        )));
    }
    Ok(())
}

/// The whole body, at most `limit` bytes.
pub(crate) async fn collect(body: Incoming, limit: usize) -> Result<Bytes, Error> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(Error::invalid(format!(
            "cannot read the request body (at most {limit} bytes): {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_read_as_go_reads_them() {
        let query = Query::parse("a=1&b=True&c=false&d=no&e&f=a%20b+c&f=2&t=10.5").unwrap();
        for (name, want) in [("a", true), ("b", true), ("c", false), ("d", false)] {
            assert_eq!(query.flag(name), want, "{name}");
        }
        assert!(!query.flag("e") && query.has("e") && !query.has("z"));
        assert!(query.flag_or("z", true) && !query.flag_or("c", true));
        assert_eq!(query.text("f"), "a b c");
        assert_eq!(query.all("f").count(), 2);
        assert_eq!(query.time("t").unwrap(), Some(10_500_000_000));
        assert_eq!(query.number::<u16>("a").unwrap(), Some(1));
        assert!(query.number::<u16>("b").is_err());
        let error = Query::parse("a=%zz").unwrap_err();
        assert_eq!(error.message, "invalid URL escape \"%zz\"");
        assert!(Query::parse("a=%4").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("0"), Some(0));
        assert_eq!(parse_time("1.000000001"), Some(1_000_000_001));
        assert_eq!(parse_time("x"), None);
        assert_eq!(parse_time("1.x"), None);
        assert_eq!(parse_time("9223372036854775807"), None);
    }

    #[test]
    fn content_types() {
        assert!(check_type("application/json; charset=utf-8").is_ok());
        assert_eq!(
            check_type("text/plain").unwrap_err().message,
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
        assert!(check_type("").is_err());
    }
}
