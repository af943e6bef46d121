//! `commit`.

use serde::Deserialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::print_line;
use crate::reference::Reference;
use crate::transport::Request;
use crate::tree::Outcome;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    id: String,
}

pub(crate) async fn commit(context: &Context, args: &Parsed) -> Outcome {
    if args.changed("pause") && args.changed("no-pause") {
        return Err(Failure::new(
            "conflicting options: --no-pause and --pause cannot be used together",
        ));
    }
    let pause = !args.on("no-pause") && args.on_by_default("pause");
    let container = args.words.first().map_or("", String::as_str);
    let mut request = Request::post("/commit")
        .query_some("author", args.text("author"))
        .query_some("comment", args.text("message"))
        .query("container", container)
        .query("pause", if pause { "1" } else { "0" });
    for change in args.list("change") {
        request = request.query("changes", change);
    }
    if let Some(name) = args.words.get(1).filter(|name| !name.is_empty()) {
        let named = Reference::parse(name).map_err(Failure::new)?.or_latest();
        if named.digest.is_some() {
            return Err(Failure::new(
                "refusing to create a tag with a digest reference",
            ));
        }
        request = request
            .query("repo", named.familiar_name())
            .query_some("tag", named.tag.unwrap_or_default());
    }
    let reply: Reply = context
        .json(request.json(&serde_json::json!(null))?)
        .await?;
    print_line(&reply.id);
    Ok(0)
}
