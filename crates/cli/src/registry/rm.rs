//! `registry rm`: removes tags and manifests from a registry.

use berth_registry::client::Access;

use super::remote::{Place, Remote, told};
use crate::container::prune::confirmed;
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::print_line;
use crate::tree::Outcome;

pub(crate) async fn rm(context: &Context, args: &Parsed) -> Outcome {
    // All words are understood before anything is removed.
    let places = args
        .words
        .iter()
        .map(|word| match Place::of_repository(word)? {
            place if place.reference.is_empty() => Err(Failure::new(format!(
                "{word:?} names no image: write HOST[:PORT]/REPOSITORY:TAG or @DIGEST"
            ))),
            place => Ok((word, place)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let what = args.words.join("\n  ");
    if !args.on("force")
        && !confirmed(&format!(
            "This will remove from the registry:\n  {what}\nAre you sure you want to continue? [y/N] "
        ))
    {
        return Err(Failure::new("registry rm has been cancelled"));
    }
    let mut failures = Vec::new();
    for (word, place) in places {
        let remote = Remote::new(context, args, place.host)?;
        let repository = remote.repository(place.repository, Access::Push)?;
        match repository.delete_manifest(place.reference).await {
            Ok(()) => print_line(&format!("Deleted: {word}")),
            Err(error) => failures.push(told(error).message),
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}
