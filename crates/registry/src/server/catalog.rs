//! Requests for lists: tags, repositories, referrers.

use std::cmp::Ordering;

use hyper::Response;
use hyper::header::LINK;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::document::{INDEX_TYPE, index_of};
use super::errors::{Code, Failure};
use super::manifests::Page;
use super::names::Digest;
use super::reply::{self, Body, FILTERS};
use super::routes::Query;
use super::{Reply, Server, proxy};

/// Names in one reply, at most.
const MAX_PAGE: usize = 10_000;

/// Bytes of descriptors in one page of referrers: clients read 4 MiB.
const MAX_REFERRERS: usize = 2 << 20;

pub(crate) async fn tags(server: &Server, name: String, query: &Query) -> Reply {
    let there = match &server.origin {
        Some(origin) => proxy::tags(origin, &name).await?,
        None => None,
    };
    let path = format!("/v2/{name}/tags/list");
    let mut tags = match there {
        Some(tags) => tags,
        None => tags_here(server, &name).await?,
    };
    let (page, link) = page(&mut tags, query, &path)?;
    let mut response = reply::json(&serde_json::json!({"name": name, "tags": page}));
    add_link(&mut response, link);
    Ok(response)
}

async fn tags_here(server: &Server, name: &str) -> Result<Vec<String>, Failure> {
    let of = name.to_owned();
    server
        .storage(move |storage| {
            let tags = storage.tags(&of)?;
            Ok((!tags.is_empty() || storage.has_repository(&of)?).then_some(tags))
        })
        .await?
        .ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Failure {
    Failure::new(Code::NameUnknown, "repository name not known to registry")
        .detail(serde_json::json!({"name": name}))
}

pub(crate) async fn repositories(server: &Server, query: &Query) -> Reply {
    let mut names = server.storage(|storage| storage.repositories()).await?;
    let (page, link) = page(&mut names, query, "/v2/_catalog")?;
    let mut response = reply::json(&serde_json::json!({"repositories": page}));
    add_link(&mut response, link);
    Ok(response)
}

/// "Lexical order (i.e. case-insensitive alphanumeric order)", as the
/// specification has it; bytes decide between equals.
fn order(a: &str, b: &str) -> Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    let letters = a.bytes().map(lower).cmp(b.bytes().map(lower));
    letters.then_with(|| a.cmp(b))
}

/// The part of a list that is asked for, and where the next one is.
fn page<'a>(
    all: &'a mut [String],
    query: &Query,
    path: &str,
) -> Result<(&'a [String], Option<String>), Failure> {
    let count = match query.get("n") {
        None => MAX_PAGE,
        Some(text) => text.parse::<usize>().map_err(|_| {
            Failure::new(
                Code::PaginationNumberInvalid,
                "n must be a number, 0 or more",
            )
        })?,
    };
    let count = count.min(MAX_PAGE);
    all.sort_unstable_by(|a, b| order(a, b));
    let all = &*all;
    let start = query.get("last").map_or(0, |last| {
        all.partition_point(|one| order(one, last).is_le())
    });
    let rest = all.get(start..).unwrap_or_default();
    let page = rest.get(..count).unwrap_or(rest);
    let link = match page.last() {
        Some(last) if page.len() < rest.len() => {
            let last = utf8_percent_encode(last, NON_ALPHANUMERIC);
            Some(format!("<{path}?last={last}&n={count}>; rel=\"next\""))
        }
        _ => None,
    };
    Ok((page, link))
}

fn add_link(response: &mut Response<Body>, link: Option<String>) {
    if let Some(link) = link {
        reply::set(response, LINK, &link);
    }
}

pub(crate) async fn referrers(
    server: &Server,
    name: String,
    digest: Digest,
    query: &Query,
) -> Reply {
    if let Some(origin) = &server.origin {
        proxy::referrers(server, origin, &name, &digest).await;
    }
    let filter = query.get("artifactType").filter(|text| !text.is_empty());
    let asked = Page {
        after: query.get("last").map(str::to_owned),
        artifact_type: filter.map(str::to_owned),
        most: MAX_REFERRERS,
    };
    let (of, subject) = (name.clone(), digest.clone());
    let (found, more) = server
        .storage(move |storage| storage.referrers(&of, &subject, &asked))
        .await?;
    let mut response = reply::typed(INDEX_TYPE, index_of(&found).into());
    if let (true, Some(last)) = (more, found.last()) {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let filter = filter.map_or_else(String::new, |text| {
            format!("&artifactType={}", encode(text))
        });
        let last = encode(last["digest"].as_str().unwrap_or_default());
        let link = format!("</v2/{name}/referrers/{digest}?last={last}{filter}>; rel=\"next\"");
        add_link(&mut response, Some(link));
    }
    if filter.is_some() {
        reply::set(&mut response, FILTERS, "artifactType");
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let ask_of = |all: &[&str], query: &str| {
            let mut all: Vec<_> = all.iter().map(|&one| one.to_owned()).collect();
            let (page, link) = page(&mut all, &Query::parse(query), "/p").unwrap();
            (page.join(" "), link)
        };
        let ask = |query: &str| ask_of(&["a", "b", "c/d", "e"], query);
        assert_eq!(ask(""), ("a b c/d e".to_owned(), None));
        let next = "</p?last=c%2Fd&n=3>; rel=\"next\"".to_owned();
        assert_eq!(ask("n=3"), ("a b c/d".to_owned(), Some(next)));
        assert_eq!(ask("n=3&last=c%2Fd"), ("e".to_owned(), None));
        assert_eq!(ask("n=0"), (String::new(), None));
        assert_eq!(ask("last=bb"), ("c/d e".to_owned(), None));
        assert_eq!(ask("last=zzz"), (String::new(), None));
        for bad in ["n=-1", "n=x", "n="] {
            assert!(page(&mut [], &Query::parse(bad), "/p").is_err(), "{bad}");
        }
        let mixed = ["b", "Z", "a", "B", "C"];
        assert_eq!(ask_of(&mixed, "").0, "a B b C Z");
        assert_eq!(ask_of(&mixed, "n=2&last=B").0, "b C");
        assert_eq!(ask_of(&mixed, "last=bb").0, "C Z");
    }
}
