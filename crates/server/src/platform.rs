//! `platform` and `platforms` parameters: JSON objects, or "os[/arch[/variant]]".

use berth_api::Error;
use berth_api::container::Platform;

use crate::extract::Query;

/// All that were given; the parameter may come more than once.
pub(crate) fn all(query: &Query) -> Result<Vec<Platform>, Error> {
    listed(query, "platform")
}

/// The same in a parameter of another name.
pub(crate) fn listed(query: &Query, name: &str) -> Result<Vec<Platform>, Error> {
    query
        .all(name)
        .filter(|text| !text.is_empty())
        .map(parse)
        .collect()
}

/// The one that was given.
pub(crate) fn one(query: &Query) -> Result<Option<Platform>, Error> {
    let mut platforms = all(query)?;
    if platforms.len() > 1 {
        return Err(Error::invalid("only one platform can be given here"));
    }
    Ok(platforms.pop())
}

pub(crate) fn parse(text: &str) -> Result<Platform, Error> {
    if text.starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("invalid platform: {error}")));
    }
    let parts: Vec<&str> = text.split('/').collect();
    let is_word = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    if parts.len() > 3 || !parts.iter().all(is_word) {
        return Err(Error::invalid(format!(
            "\"{text}\" is an invalid platform: it must be os[/arch[/variant]]"
        )));
    }
    let part = |at: usize| parts.get(at).map(|part| normal(part)).unwrap_or_default();
    if parts.len() == 1 && !matches!(part(0).as_str(), "linux" | "windows" | "freebsd") {
        return Ok(Platform {
            os: "linux".to_owned(),
            architecture: part(0),
            ..Platform::default()
        });
    }
    Ok(Platform {
        os: part(0),
        architecture: part(1),
        variant: part(2),
        ..Platform::default()
    })
}

/// Other names of architectures, as containerd takes them.
fn normal(part: &str) -> String {
    match part.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "i386" => "386".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let parts = |text| {
            let Platform {
                os,
                architecture,
                variant,
                ..
            } = parse(text).unwrap();
            [os, architecture, variant].join(",")
        };
        assert_eq!(parts("linux/arm/v7"), "linux,arm,v7");
        assert_eq!(parts("linux"), "linux,,");
        assert_eq!(parts("aarch64"), "linux,arm64,");
        assert_eq!(
            parts(r#"{"os":"linux","architecture":"s390x"}"#),
            "linux,s390x,"
        );
        for bad in ["linux//v7", "a/b/c/d", "{", "linux/a b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
