//! `top`.

use berth_api::container::Top;

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::{print, table};
use crate::transport::{Request, segment};
use crate::tree::Outcome;

pub(crate) async fn top(context: &Context, args: &Parsed) -> Outcome {
    let (name, options) = args
        .words
        .split_first()
        .map_or(("", &[][..]), |(name, options)| (name, options));
    let request = Request::get(format!("/containers/{}/top", segment(name)))
        .query_some("ps_args", options.join(" "));
    let top: Top = context.json(request).await?;
    let lines: Vec<_> = std::iter::once(&top.titles)
        .chain(&top.processes)
        .map(|cells| cells.join("\t"))
        .collect();
    print(&table::align_with(&lines, 20, 1));
    Ok(0)
}
