//! The daemon's log on standard error, in Docker's forms:
//! `time="…" level=info msg="…" key=value`, or the same as JSON.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Changes the level of a running daemon.
#[derive(Clone, Debug)]
pub(crate) struct Control(reload::Handle<Targets, tracing_subscriber::Registry>);

impl Control {
    pub(crate) fn set(&self, level: LevelFilter) {
        // Fails only when the log itself is gone.
        let _ = self.0.reload(filter(level));
    }
}

/// Our own crates at this level; what libraries have to say only when it is a
/// warning.
fn filter(level: LevelFilter) -> Targets {
    Targets::new()
        .with_target("berth", level)
        .with_default(level.min(LevelFilter::WARN))
}

pub(crate) fn start(level: LevelFilter, json: bool) -> Control {
    let (level, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(Format { json });
    // Fails only when a log has been started before: there is one call.
    let _ = tracing_subscriber::registry()
        .with(level)
        .with(lines)
        .try_init();
    Control(handle)
}

struct Format {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let time = jiff::Timestamp::now();
        writeln!(
            writer,
            "{}",
            line(self.json, &time.to_string(), level, &fields)
        )
    }
}

/// The message and the other fields, in their order.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.rest.push((field.name(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.rest.push((field.name(), value.to_owned()));
        }
    }
}

fn line(json: bool, time: &str, level: &str, fields: &Fields) -> String {
    if json {
        let mut object = serde_json::Map::new();
        let own = [("level", level), ("msg", &fields.message), ("time", time)];
        let rest = fields
            .rest
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        for (name, value) in own.into_iter().chain(rest) {
            object.insert(name.to_owned(), value.into());
        }
        return serde_json::Value::Object(object).to_string();
    }
    let mut line = format!("time={time:?} level={level} msg={:?}", fields.message);
    for (name, value) in &fields.rest {
        // Logrus quotes only what needs it.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c);
        let quoted = value.is_empty() || !value.chars().all(plain);
        let _ = if quoted {
            write!(line, " {name}={value:?}")
        } else {
            write!(line, " {name}={value}")
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_like_dockers() {
        let fields = Fields {
            message: "two \"words\"".to_owned(),
            rest: vec![
                ("path", "/run/x".to_owned()),
                ("error", "no such".to_owned()),
            ],
        };
        assert_eq!(
            line(false, "T", "info", &fields),
            r#"time="T" level=info msg="two \"words\"" path=/run/x error="no such""#
        );
        assert_eq!(
            line(true, "T", "info", &fields),
            r#"{"error":"no such","level":"info","msg":"two \"words\"","path":"/run/x","time":"T"}"#
        );
    }
}
