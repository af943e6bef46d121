//! `registry serve`: the registry in this process, in the foreground.

use berth_registry::server::{Options, Registry};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::print_line;
use crate::tree::Outcome;

/// Threads for what blocks, at most: files and hashing.
const BLOCKING: usize = 64;

pub(crate) async fn serve(_: &Context, args: &Parsed) -> Outcome {
    let options = options(args)?;
    // Commands run on one thread; a server wants all processors.
    tokio::task::spawn_blocking(move || run(options))
        .await
        .map_err(|error| Failure::new(error.to_string()))?
}

fn run(options: Options) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING)
        .thread_name("berth-registry")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(async {
        let registry = Registry::bind(options).await?;
        print_line(&format!("Serving the registry at {}", registry.url()));
        registry.run().await
    });
    runtime.shutdown_background();
    outcome
        .map(|()| 0)
        .map_err(|error| Failure::new(error.to_string()))
}

fn options(args: &Parsed) -> Result<Options, Failure> {
    let root = args
        .get("root")
        .filter(|root| !root.is_empty())
        .ok_or_else(|| Failure::new("--root is missing: say where the registry keeps its data"))?;
    let address = args.get("addr").unwrap_or("127.0.0.1:5000");
    let mut options = Options::new(address, root);
    options.read_only = args.on("read-only");
    Ok(options)
}
