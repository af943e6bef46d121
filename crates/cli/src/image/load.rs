//! `load` and `import`.

use tokio::io::AsyncRead;

use crate::context::Context;
use crate::failure::{Failure, path_error};
use crate::flags::Parsed;
use crate::output::progress::{self, To};
use crate::platform;
use crate::reference::Reference;
use crate::transport::{Lines, Request};
use crate::tree::Outcome;

async fn open(path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, Failure> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| Failure::new(path_error("open", path, &error)))?;
    Ok(Box::new(file))
}

pub(crate) async fn load(context: &Context, args: &Parsed) -> Outcome {
    let platforms = platform::list_to_json(&args.list("platform"))?;
    let input: Box<dyn AsyncRead + Send + Unpin> = match args.get("input") {
        Some(path) if !path.is_empty() => open(path).await?,
        _ if rustix::termios::isatty(rustix::stdio::stdin()) => {
            return Err(Failure::new(
                "requested load from stdin, but stdin is empty",
            ));
        }
        _ => Box::new(tokio::io::stdin()),
    };
    let quiet = args.on("quiet") || !rustix::termios::isatty(rustix::stdio::stdout());
    let mut request = Request::post("/images/load")
        .query("quiet", if quiet { "1" } else { "0" })
        .stream(input, "application/x-tar");
    for platform in platforms {
        request = request.query("platform", platform);
    }
    let mut lines = Lines::new(context.send(request).await?);
    progress::show(&mut lines, To::Stdout).await?;
    Ok(0)
}

pub(crate) async fn import(context: &Context, args: &Parsed) -> Outcome {
    let source = args.words.first().map_or("", String::as_str);
    let name = args.words.get(1).map_or("", String::as_str);
    if !name.is_empty() {
        Reference::parse(name).map_err(Failure::new)?;
    }
    let remote = source.starts_with("http://") || source.starts_with("https://");
    let mut request = Request::post("/images/create")
        .query("fromSrc", if remote { source } else { "-" })
        .query_some("message", args.text("message"))
        .query_some("platform", args.text("platform"))
        .query_some("repo", name);
    for change in args.list("change") {
        request = request.query("changes", change);
    }
    if source == "-" {
        request = request.stream(tokio::io::stdin(), "text/plain");
    } else if !remote {
        request = request.stream(open(source).await?, "text/plain");
    }
    let mut lines = Lines::new(context.send(request).await?);
    progress::show(&mut lines, To::Stdout).await?;
    Ok(0)
}
