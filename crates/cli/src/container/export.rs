//! `export`.

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::archive::Target;
use crate::transport::{Request, segment};
use crate::tree::Outcome;

pub(crate) async fn export(context: &Context, args: &Parsed) -> Outcome {
    let name = args.words.first().map_or("", String::as_str);
    let target = Target::open(&args.text("output"), "failed to export container")?;
    let request = Request::get(format!("/containers/{}/export", segment(name)));
    target.receive(context, request).await?;
    Ok(0)
}
