//! `events`.

use berth_api::event::Event;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{harmless, print_line, template};
use crate::time::parse_point;
use crate::transport::{Lines, Request};
use crate::tree::Outcome;

pub(crate) async fn events(context: &Context, args: &Parsed) -> Outcome {
    let request = Request::get("/events")
        .filters(&args.filters())
        .query_some("since", parse_point(&args.text("since"))?)
        .query_some("until", parse_point(&args.text("until"))?);
    let format = args.get("format").unwrap_or_default();
    let mut lines = Lines::new(context.send(request).await?);
    while let Some(event) = lines.next::<Event>().await? {
        if format.is_empty() {
            print_line(&describe(&event));
        } else {
            let text = serde_json::to_string(&event)
                .map_err(|error| Failure::new(format!("cannot show an event: {error}")))?;
            print_line(&template::over_json(format, &text)?);
        }
    }
    Ok(0)
}

/// "2024-05-01T12:00:00.000000000+02:00 container start 0123 (image=x, name=y)"
fn describe(event: &Event) -> String {
    let stamp = if event.time_nano == 0 {
        Timestamp::from_second(event.time)
    } else {
        Timestamp::from_nanosecond(i128::from(event.time_nano))
    };
    let time = stamp.map_or_else(
        |_| event.time.to_string(),
        |stamp| {
            stamp
                .to_zoned_datetime(TimeZone::system())
                .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
                .to_string()
                .replace("+00:00", "Z")
        },
    );
    let mut text = format!(
        "{time} {} {} {}",
        event.r#type, event.action, event.actor.id
    );
    if !event.actor.attributes.is_empty() {
        let attributes: Vec<_> = event
            .actor
            .attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        text = format!("{text} ({})", attributes.join(", "));
    }
    harmless(&text)
}
