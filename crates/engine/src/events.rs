//! What happened: the last 256 events, and those to come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use berth_api::Error;
use berth_api::event::{Actor, Event};
use berth_api::filters::Filters;
use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::container::Record;
use crate::engine::Engine;
use crate::{Events, time};

/// How many past events `since` can reach; Docker's number.
const KEPT: usize = 256;

/// Fields of `GET /events`' filters.
const FIELDS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

#[derive(Debug)]
pub(crate) struct EventLog {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self {
            past: Mutex::new(VecDeque::with_capacity(KEPT)),
            live: broadcast::channel(4 * KEPT).0,
        }
    }

    pub(crate) fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    pub(crate) fn emit(
        &self,
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let nanoseconds = time::nanoseconds(Timestamp::now());
        let old_style = matches!(kind, "container" | "image");
        let event = Event {
            status: if old_style {
                action.into()
            } else {
                String::new()
            },
            id: if old_style { id.into() } else { String::new() },
            from: if kind == "container" {
                attributes.get("image").cloned().unwrap_or_default()
            } else {
                String::new()
            },
            r#type: kind.into(),
            action: action.into(),
            actor: Actor {
                id: id.into(),
                attributes,
            },
            scope: "local".into(),
            time: nanoseconds / 1_000_000_000,
            time_nano: nanoseconds,
        };
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Sent under the lock, so that a listener sees each event once.
        let _ = self.live.send(event);
    }

    /// Those to come.
    pub(crate) fn live(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }

    fn subscribe(&self, since: Option<i64>, filters: &Filters) -> Events {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        Events {
            live: self.live.subscribe(),
            past: since.map_or_else(Vec::new, |since| {
                past.iter()
                    .filter(|event| event.time_nano >= since && event_matches(event, filters))
                    .cloned()
                    .collect()
            }),
        }
    }
}

impl Engine {
    /// Times in nanoseconds since 1970. The receiver's messages are not yet
    /// filtered: use [`event_matches`].
    pub fn events(&self, since: Option<i64>, filters: &Filters) -> Result<Events, Error> {
        filters.validate(FIELDS)?;
        Ok(self.0.events.subscribe(since, filters))
    }

    /// An event about a container: its labels, image and name, and `extra`.
    pub(crate) fn container_event(&self, record: &Record, action: &str, extra: &[(&str, String)]) {
        let mut attributes = record.config.labels.clone().unwrap_or_default();
        attributes.insert("image".into(), record.config.image.clone());
        attributes.insert("name".into(), record.name.clone());
        for (key, value) in extra {
            attributes.insert((*key).into(), value.clone());
        }
        self.0
            .events
            .emit("container", action, &record.id, attributes);
    }

    pub(crate) fn network_event(&self, network: (&str, &str), container: &str, action: &str) {
        let (name, id) = network;
        let driver = if name == "none" { "null" } else { name };
        let attributes = [("container", container), ("name", name), ("type", driver)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.0.events.emit("network", action, id, attributes.into());
    }
}

/// Whether an event passes the filters of `GET /events`.
pub fn event_matches(event: &Event, filters: &Filters) -> bool {
    let named = |field: &str| {
        if !filters.contains(field) {
            return true;
        }
        if event.r#type != field {
            return false;
        }
        let name = event.actor.attributes.get("name");
        filters.get(field).any(|wanted| {
            event.actor.id == wanted
                || name.is_some_and(|name| name == wanted)
                || (wanted.len() >= 4 && event.actor.id.starts_with(wanted))
        })
    };
    let action = filters.get("event").any(|wanted| {
        // "exec_start: sh" is found by "exec_start" too.
        event.action == wanted || event.action.split(':').next() == Some(wanted)
    });
    let image = !filters.contains("image") || {
        let of_image = event.r#type == "image";
        let name = event
            .actor
            .attributes
            .get(if of_image { "name" } else { "image" })
            .map_or("", String::as_str);
        filters.get("image").any(|wanted| {
            (of_image && event.actor.id == wanted)
                || name == wanted
                || name
                    .rsplit_once(':')
                    .is_some_and(|(bare, _)| bare == wanted)
        })
    };
    (action || !filters.contains("event"))
        && image
        && filters.exact("type", &event.r#type)
        && filters.exact("scope", &event.scope)
        && [
            "container",
            "daemon",
            "network",
            "plugin",
            "volume",
            "node",
            "service",
            "secret",
            "config",
        ]
        .into_iter()
        .all(named)
        && filters.labels("label", &event.actor.attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(json: &str) -> Filters {
        Filters::parse(json).unwrap()
    }

    #[test]
    fn ring_keeps_the_last_and_filters_hold() {
        let log = EventLog::new();
        let mut live = log.subscribe(None, &Filters::default()).live;
        for number in 0..300 {
            log.emit(
                "container",
                "exec_start: sh",
                &format!("{number:064}"),
                [
                    ("name".to_owned(), format!("c{number}")),
                    ("image".to_owned(), "busybox:latest".to_owned()),
                    ("stage".to_owned(), "test".to_owned()),
                ]
                .into(),
            );
        }
        assert_eq!(live.try_recv().unwrap().actor.attributes["name"], "c0");
        let all = log.subscribe(Some(0), &Filters::default());
        assert_eq!(all.past.len(), KEPT);
        for (json, count) in [
            (r#"{"event":["exec_start"]}"#, KEPT),
            (r#"{"container":["c299"]}"#, 1),
            (r#"{"container":["c1"]}"#, 0),
            (r#"{"image":["busybox"]}"#, KEPT),
            (r#"{"type":["network"]}"#, 0),
            (
                r#"{"label":["stage=test"],"event":["die","exec_start: sh"]}"#,
                KEPT,
            ),
            (r#"{"label":["stage=prod"]}"#, 0),
        ] {
            assert_eq!(
                log.subscribe(Some(0), &filters(json)).past.len(),
                count,
                "{json}"
            );
        }
    }
}
