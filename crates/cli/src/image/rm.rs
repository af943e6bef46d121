//! `rmi` and `tag`.

use berth_api::image::Deleted;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{print_line, warn};
use crate::platform;
use crate::reference::Reference;
use crate::transport::{Request, image_segment};
use crate::tree::Outcome;

pub(crate) async fn rm(context: &Context, args: &Parsed) -> Outcome {
    let force = args.on("force");
    let platforms = platform::list_to_json(&args.list("platform"))?;
    let mut failures = Vec::new();
    for name in &args.words {
        let mut request = Request::delete(format!("/images/{}", image_segment(name)))
            .query_flag("force", force)
            .query_flag("noprune", args.on("no-prune"));
        for platform in &platforms {
            request = request.query("platforms", platform);
        }
        match context.json::<Vec<Deleted>>(request).await {
            Ok(done) => {
                for one in done {
                    if one.deleted.is_empty() {
                        print_line(&format!("Untagged: {}", one.untagged));
                    } else {
                        print_line(&format!("Deleted: {}", one.deleted));
                    }
                }
            }
            // What shall be gone is gone.
            Err(failure) if force && failure.is_not_found() => warn(&failure.message),
            Err(failure) => failures.push(failure.message),
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

pub(crate) async fn tag(context: &Context, args: &Parsed) -> Outcome {
    let [source, target] = args.words.as_slice() else {
        return Err(Failure::new("tag takes an image and a new name"));
    };
    let bad = |text: &str, why: String| {
        Failure::new(format!(
            "Error parsing reference: {} is not a valid repository/tag: {why}",
            crate::flags::go_quote(text)
        ))
    };
    let reference = Reference::parse(target)
        .map_err(|why| bad(target, why))?
        .or_latest();
    if reference.digest.is_some() {
        return Err(Failure::new(
            "refusing to create a tag with a digest reference",
        ));
    }
    let request = Request::post(format!("/images/{}/tag", image_segment(source)))
        .query("repo", reference.full_name())
        .query_some("tag", reference.tag.unwrap_or_default());
    context.done(request).await?;
    Ok(0)
}
