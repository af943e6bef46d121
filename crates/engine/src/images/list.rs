//! `GET /images/json`.

use std::collections::HashMap;

use berth_api::Error;
use berth_api::filters::Filters;
use berth_api::image;

use super::manifests::descriptor;
use super::{familiar, is_dangling, number};
use crate::engine::Engine;
use crate::time;

impl Engine {
    /// With `shared`, how much of each image others have as well; with
    /// `manifests`, what their indexes hold.
    pub async fn image_list(
        &self,
        filters: &Filters,
        shared: bool,
        manifests: bool,
    ) -> Result<Vec<image::Summary>, Error> {
        filters.validate(&[
            "before",
            "dangling",
            "label",
            "label!",
            "reference",
            "since",
            "until",
        ])?;
        let dangling = filters.boolean("dangling", false)?;
        let border = |field: &str| {
            let name = filters.get(field).next();
            name.map(|name| self.find_image(name).map(|image| image.created))
                .transpose()
        };
        let (before, since) = (border("before")?, border("since")?);
        let until = match filters.get("until").next() {
            Some(text) => Some(
                time::parse_filter_time(text)
                    .ok_or_else(|| Error::invalid(format!("invalid value for until: {text}")))?
                    / 1_000_000_000,
            ),
            None => None,
        };
        let mut used: HashMap<String, i64> = HashMap::new();
        for container in self.index().all() {
            *used.entry(container.record().image.clone()).or_default() += 1;
        }
        let shared = shared.then(|| self.0.store.shared_sizes());
        let users = manifests.then(|| self.image_users());
        let mut rows = Vec::new();
        for image in self.0.store.images() {
            // From what is parsed already: a thousand images are listed.
            let labels = (image.config.config().as_ref())
                .and_then(|config| config.labels().as_ref())
                .map(|labels| labels.clone().into_iter().collect());
            let all_labels = labels.clone().unwrap_or_default();
            let mut tags: Vec<String> = image.names.iter().map(|name| familiar(name)).collect();
            if filters.contains("reference") {
                tags.retain(|tag| {
                    filters
                        .get("reference")
                        .any(|pattern| matches(pattern, tag))
                });
                if tags.is_empty() {
                    continue;
                }
            }
            let wanted = (!filters.contains("dangling") || is_dangling(&image) == dangling)
                && before.is_none_or(|border| image.created < border)
                && since.is_none_or(|border| image.created > border)
                && until.is_none_or(|border| image.created < border)
                && filters.labels("label", &all_labels)
                && (!filters.contains("label!") || !filters.labels("label!", &all_labels));
            if wanted {
                rows.push(image::Summary {
                    containers: used.get(&image.id).copied().unwrap_or(0),
                    created: image.created,
                    id: image.id.clone(),
                    labels,
                    repo_digests: image.digests.iter().map(|name| familiar(name)).collect(),
                    repo_tags: tags,
                    descriptor: Some(descriptor(&image)),
                    manifests: (users.as_ref())
                        .map(|users| self.manifest_summaries(&image, users))
                        .transpose()?,
                    shared_size: shared.as_ref().map_or(-1, |sizes| {
                        number(sizes.get(&image.id).copied().unwrap_or_default())
                    }),
                    size: number(image.size + image.blob_size),
                    ..image::Summary::default()
                });
            }
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.created));
        Ok(rows)
    }
}

/// Go's `path.Match`, on the name with and without its tag.
fn matches(pattern: &str, tag: &str) -> bool {
    fn glob(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], text) => {
                let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
                (0..=end).any(|skip| glob(rest, &text[skip..]))
            }
            ([b'?', rest @ ..], [byte, more @ ..]) if *byte != b'/' => glob(rest, more),
            ([b'[', rest @ ..], [byte, more @ ..]) if *byte != b'/' => {
                class(rest, *byte).is_some_and(|(fits, rest)| fits && glob(rest, more))
            }
            ([b'\\', a, rest @ ..], [b, more @ ..]) => a == b && glob(rest, more),
            ([a, rest @ ..], [b, more @ ..]) if a == b => glob(rest, more),
            _ => false,
        }
    }
    /// "a-z]" or "^a-z]": whether the byte is in it, and what follows.
    fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
        let (negated, mut rest) = match pattern {
            [b'^', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let mut found = false;
        loop {
            rest = match rest {
                [low, b'-', high, rest @ ..] => {
                    found |= (*low..=*high).contains(&byte);
                    rest
                }
                [one, rest @ ..] => {
                    found |= *one == byte;
                    rest
                }
                [] => return None,
            };
            if let [b']', rest @ ..] = rest {
                return Some((found != negated, rest));
            }
        }
    }
    let bare = tag.rsplit_once(':').map_or(tag, |(bare, _)| bare);
    [tag, bare]
        .iter()
        .any(|text| glob(pattern.as_bytes(), text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_patterns() {
        for (pattern, tag, same) in [
            ("busybox", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("busybox:l?test", "busybox:latest", true),
            ("*", "a/b:c", false),
            ("*/*", "a/b:c", true),
            ("box", "busybox:latest", false),
            ("busybox:[kl]*", "busybox:latest", true),
            ("[a-c]usybox", "busybox:latest", true),
            ("[^a-c]usybox", "busybox:latest", false),
            ("busybox:[", "busybox:latest", false),
            ("busy\\box", "busybox:latest", true),
        ] {
            assert_eq!(matches(pattern, tag), same, "{pattern} {tag}");
        }
    }
}
