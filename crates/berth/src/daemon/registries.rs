//! What the options say about registries, with Docker's checks and words.

use std::net::IpAddr;

use berth_engine::RegistryOptions;

use super::settings::Given;

pub(crate) fn options(given: Given<'_>) -> Result<RegistryOptions, String> {
    let mut mirrors: Vec<String> = Vec::new();
    for text in given.list("registry-mirrors") {
        let mirror = mirror(text)?;
        if !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    let attempts = given.number("max-download-attempts", 5)?;
    Ok(RegistryOptions {
        mirrors,
        insecure: given
            .list("insecure-registries")
            .iter()
            .map(|text| insecure(text))
            .collect::<Result<_, _>>()?,
        max_downloads: limit(given, "max-concurrent-downloads", 3)?,
        max_uploads: limit(given, "max-concurrent-uploads", 5)?,
        download_attempts: u32::try_from(attempts)
            .ok()
            .filter(|attempts| *attempts > 0)
            .ok_or_else(|| format!("invalid max download attempts: {attempts}"))?,
    })
}

fn limit(given: Given<'_>, name: &'static str, default: i64) -> Result<usize, String> {
    let number = given.number(name, default)?;
    usize::try_from(number).map_err(|_| format!("invalid {}: {number}", name.replace('-', " ")))
}

/// A base address with a slash at its end.
fn mirror(text: &str) -> Result<String, String> {
    let (scheme, rest) = text
        .split_once("://")
        .filter(|(scheme, _)| !scheme.is_empty())
        .ok_or_else(|| {
            format!(
                "invalid mirror: no scheme specified for \"{text}\": must use either 'https://' or 'http://'"
            )
        })?;
    if scheme != "http" && scheme != "https" {
        return Err(format!(
            "invalid mirror: unsupported scheme \"{scheme}\" in \"{text}\": must use either 'https://' or 'http://'"
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(format!(
            "invalid mirror: query or fragment at end of the URI \"{text}\""
        ));
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if let Some((user, host)) = host.rsplit_once('@') {
        // Never a password in a message.
        let user = user.split(':').next().unwrap_or_default();
        return Err(format!(
            "invalid mirror: username/password not allowed in URI \"{scheme}://{user}:xxxxx@{host}/{path}\""
        ));
    }
    if host.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("invalid mirror: \"{text}\" is not a valid URI"));
    }
    Ok(format!("{}/", text.strip_suffix('/').unwrap_or(text)))
}

/// A network ("10.0.0.0/8") or a host with or without a port.
fn insecure(text: &str) -> Result<String, String> {
    if text.starts_with('-') || text.ends_with('-') {
        return Err(format!(
            "invalid index name ({text}). Cannot begin or end with a hyphen"
        ));
    }
    let text = match text.split_once("://") {
        Some((scheme, host))
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
        {
            tracing::warn!(
                "insecure registry {text} should not contain '{scheme}' and '{scheme}' has been removed from the insecure registry config"
            );
            host
        }
        Some(_) => {
            return Err(format!("insecure registry {text} should not contain '://'"));
        }
        None => text,
    };
    if is_network(text) {
        return Ok(text.to_owned());
    }
    let invalid = |reason: String| format!("insecure registry {text} is not valid: {reason}");
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let name = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let good = match bare {
        Some(address) => address.parse::<IpAddr>().is_ok(),
        None => host.split('.').all(name),
    };
    if !good {
        return Err(invalid(format!("invalid host \"{host}\"")));
    }
    if let Some(port) = port
        && port.parse::<u16>().is_err()
    {
        return Err(invalid(format!("invalid port \"{port}\"")));
    }
    Ok(text.to_owned())
}

fn is_network(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}

#[cfg(test)]
mod tests {
    use super::super::options::{Value, Values};
    use super::*;

    #[test]
    fn mirrors_are_checked_as_docker_does() {
        assert_eq!(mirror("https://m.example").unwrap(), "https://m.example/");
        assert_eq!(mirror("http://m:5000/x/").unwrap(), "http://m:5000/x/");
        for (text, words) in [
            (
                "m.example:5000",
                "no scheme specified for \"m.example:5000\"",
            ),
            ("ftp://m", "unsupported scheme \"ftp\""),
            ("https://m/?a=b", "query or fragment"),
            ("https://me:secret@m/", "username/password not allowed"),
            ("https://", "not a valid URI"),
        ] {
            let error = mirror(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn insecure_registries() {
        for (text, want) in [
            ("r.example:5000", "r.example:5000"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("fd00::/8", "fd00::/8"),
            ("http://r.example", "r.example"),
            ("[fd00::1]:5000", "[fd00::1]:5000"),
        ] {
            assert_eq!(insecure(text).as_deref(), Ok(want));
        }
        for (text, words) in [
            ("-x", "Cannot begin or end with a hyphen"),
            ("ftp://x", "should not contain '://'"),
            ("x:99999", "invalid port \"99999\""),
            ("a b", "invalid host \"a b\""),
            ("10.0.0.0/33", "not valid"),
        ] {
            let error = insecure(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn limits() {
        let build = |name, number| {
            let values: Values = [(name, Value::Int(number))].into();
            options(Given(&values))
        };
        assert_eq!(
            build("max-concurrent-downloads", 0).unwrap().max_downloads,
            0
        );
        assert_eq!(
            build("max-concurrent-uploads", -1).unwrap_err(),
            "invalid max concurrent uploads: -1"
        );
        assert_eq!(
            build("max-download-attempts", 0).unwrap_err(),
            "invalid max download attempts: 0"
        );
        let options = options(Given(&Values::new())).unwrap();
        assert_eq!(
            (
                options.max_downloads,
                options.max_uploads,
                options.download_attempts
            ),
            (3, 5, 5)
        );
    }
}
