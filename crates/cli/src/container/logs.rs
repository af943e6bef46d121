//! `logs`.

use berth_api::container::Inspect;
use http_body_util::BodyExt as _;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::streams::Sink;
use crate::time::parse_point;
use crate::transport::{Request, segment};
use crate::tree::Outcome;

pub(crate) async fn logs(context: &Context, args: &Parsed) -> Outcome {
    let name = segment(args.words.first().map_or("", String::as_str));
    let container: Inspect = context
        .json(Request::get(format!("/containers/{name}/json")))
        .await?;
    let point = |flag: &str| {
        parse_point(&args.text(flag)).map_err(|failure| {
            Failure::new(format!("invalid value for \"{flag}\": {}", failure.message))
        })
    };
    let request = Request::get(format!("/containers/{}/logs", segment(&container.id)))
        .query_flag("details", args.on("details"))
        .query_flag("follow", args.on("follow"))
        .query_some("since", point("since")?)
        .query("stderr", "1")
        .query("stdout", "1")
        .query("tail", args.get("tail").unwrap_or("all"))
        .query_flag("timestamps", args.on("timestamps"))
        .query_some("until", point("until")?);
    let mut body = context.send(request).await?.into_body();
    let mut sink = Sink::new(!container.config.tty);
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Failure::new(format!("the engine's reply broke off: {error}")))?;
        if let Some(data) = frame.data_ref() {
            sink.push(data).await?;
        }
    }
    Ok(0)
}
