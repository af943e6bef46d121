//! `save`.

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::archive::Target;
use crate::platform;
use crate::transport::Request;
use crate::tree::Outcome;

pub(crate) async fn save(context: &Context, args: &Parsed) -> Outcome {
    let platforms = platform::list_to_json(&args.list("platform"))?;
    let target = Target::open(&args.text("output"), "failed to save image")?;
    let mut request = Request::get("/images/get");
    for name in &args.words {
        request = request.query("names", name);
    }
    for platform in platforms {
        request = request.query("platform", platform);
    }
    target.receive(context, request).await?;
    Ok(0)
}
