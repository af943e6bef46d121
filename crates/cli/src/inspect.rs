//! `inspect` of anything.

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{json, print, template, warn};
use crate::platform;
use crate::transport::{Request, image_segment, segment};
use crate::tree::Outcome;

#[derive(Clone, Copy)]
enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    fn request(self, name: &str, args: &Parsed) -> Result<Request, Failure> {
        Ok(match self {
            Self::Container => Request::get(format!("/containers/{}/json", segment(name)))
                .query_flag("size", args.on("size")),
            Self::Image => Request::get(format!("/images/{}/json", image_segment(name)))
                .query_some("platform", platform::to_json(&args.text("platform"))?),
            Self::Network => Request::get(format!("/networks/{}", segment(name)))
                .query_flag("verbose", args.on("verbose")),
            Self::Volume => Request::get(format!("/volumes/{}", segment(name))),
        })
    }
}

pub(crate) async fn containers(context: &Context, args: &Parsed) -> Outcome {
    show(context, args, &[Kind::Container]).await
}

pub(crate) async fn images(context: &Context, args: &Parsed) -> Outcome {
    show(context, args, &[Kind::Image]).await
}

pub(crate) async fn networks(context: &Context, args: &Parsed) -> Outcome {
    show(context, args, &[Kind::Network]).await
}

pub(crate) async fn volumes(context: &Context, args: &Parsed) -> Outcome {
    show(context, args, &[Kind::Volume]).await
}

/// `inspect`: the first kind of object that has the name, or the kind of
/// `--type`.
pub(crate) async fn inspect(context: &Context, args: &Parsed) -> Outcome {
    let kinds: &[Kind] = match args.get("type") {
        None => &[Kind::Container, Kind::Image, Kind::Network, Kind::Volume],
        Some("container") => &[Kind::Container],
        Some("image") => &[Kind::Image],
        Some("network") => &[Kind::Network],
        Some("volume") => &[Kind::Volume],
        Some("") => {
            return Err(Failure::new(
                "type is empty: must be one of \"container\", \"image\", \"network\", \"volume\"",
            ));
        }
        Some(other @ ("config" | "node" | "plugin" | "secret" | "service" | "task")) => {
            return Err(Failure::new(format!("--type={other} is not supported yet")));
        }
        Some(other) => {
            return Err(Failure::new(format!(
                "unknown type: {}: must be one of \"container\", \"image\", \"network\", \"volume\"",
                crate::flags::go_quote(other)
            )));
        }
    };
    show(context, args, kinds).await
}

async fn show(context: &Context, args: &Parsed, kinds: &[Kind]) -> Outcome {
    let mut texts = Vec::new();
    let mut failures = Vec::new();
    for name in &args.words {
        match find(context, args, kinds, name).await {
            Ok(text) => texts.push(text),
            Err(failure) => failures.push(failure.message),
        }
    }
    let format = args.get("format").unwrap_or_default();
    if format.is_empty() {
        let list = format!("[{}]", texts.join(","));
        print(&format!("{}\n", json::indent(&list, "    ")));
    } else if format == "json" {
        print(&format!(
            "{}\n",
            json::compact(&format!("[{}]", texts.join(",")))
        ));
    } else {
        for text in &texts {
            print(&format!("{}\n", template::over_json(format, text)?));
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        warn(&failures.join("\n"));
        Ok(1)
    }
}

async fn find(
    context: &Context,
    args: &Parsed,
    kinds: &[Kind],
    name: &str,
) -> Result<String, Failure> {
    for kind in kinds {
        match context.bytes(kind.request(name, args)?).await {
            Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(failure) if failure.is_not_found() && kinds.len() > 1 => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::new(format!("Error: No such object: {name}")))
}
