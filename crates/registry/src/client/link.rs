//! "Link" (RFC 8288): where the next page of a list is.

use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};

use super::Error;

/// Address of the next page, if there is one.
///
/// # Errors
/// `Invalid` if it leads to another host: credentials would follow it.
pub(super) fn next(headers: &HeaderMap, page: &Url) -> Result<Option<Url>, Error> {
    let target = headers
        .get_all(LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(target);
    let Some(target) = target else {
        return Ok(None);
    };
    let url = page.join(target).map_err(|error| {
        Error::Invalid(format!("the registry's next page has no address: {error}"))
    })?;
    if url.origin() != page.origin() {
        return Err(Error::Invalid(format!(
            "the registry's next page is at another host: {}",
            super::transport::shown(&url)
        )));
    }
    Ok(Some(url))
}

/// The target of `<target>; rel="next"` among the links of a header.
fn target(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let end = end_of_link(after);
        if has_next(&after[..end]) {
            return Some(target.trim());
        }
        rest = &after[end..];
    }
}

/// Up to the comma that is not in quotes.
fn end_of_link(text: &str) -> usize {
    let mut quoted = false;
    for (at, character) in text.char_indices() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

fn has_next(parameters: &str) -> bool {
    parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .any(|(name, value)| {
            name.trim().eq_ignore_ascii_case("rel")
                && value
                    .trim()
                    .trim_matches('"')
                    .split_ascii_whitespace()
                    .any(|word| word.eq_ignore_ascii_case("next"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(link: &str) -> Result<Option<Url>, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, link.parse().unwrap());
        next(
            &headers,
            &"https://r.example/v2/x/tags/list".parse().unwrap(),
        )
    }

    #[test]
    fn relative_and_absolute() {
        for link in [
            "</v2/x/tags/list?last=b&n=2>; rel=\"next\"",
            "<https://r.example/v2/x/tags/list?last=b&n=2>;rel=next",
            "</a>; rel=\"prev\", </v2/x/tags/list?last=b&n=2>; title=\"a, b\"; rel=\"last next\"",
            "<list?last=b&n=2>; rel=Next",
        ] {
            assert_eq!(
                at(link).unwrap().unwrap().as_str(),
                "https://r.example/v2/x/tags/list?last=b&n=2",
                "{link}"
            );
        }
        assert!(at("</a>; rel=prev").unwrap().is_none());
        assert!(at("garbage").unwrap().is_none());
    }

    #[test]
    fn another_host_is_refused() {
        let error = at("<https://evil.example/?token=x>; rel=next").unwrap_err();
        assert!(error.to_string().contains("evil.example"));
        assert!(!error.to_string().contains("token"));
        at("<http://r.example/>; rel=next").unwrap_err();
        at("<//evil.example/>; rel=next").unwrap_err();
    }

    proptest! {
        #[test]
        fn never_panics(text in "[<>;,=\" a-zé]{0,80}") {
            target(&text);
        }

        #[test]
        fn finds_its_target(target in "/[a-z0-9/?=&,]{0,40}", before in 0usize..4) {
            let mut links: Vec<String> = (0..before).map(|n| format!("</{n}>; rel=\"prev\"")).collect();
            links.push(format!("<{target}>; rel=\"next\""));
            let header = links.join(", ");
            prop_assert_eq!(super::target(&header), Some(target.as_str()));
        }
    }
}
