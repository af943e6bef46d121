//! `push`.

use serde::Deserialize;

use crate::context::Context;
use crate::credentials;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::progress::{self, To};
use crate::output::{self, print, print_line};
use crate::platform;
use crate::reference::Reference;
use crate::transport::{Lines, Request, image_segment};
use crate::tree::Outcome;

/// What the engine adds when not all of an image could be pushed.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Addition {
    #[serde(rename = "manifestPushedInsteadOfIndex")]
    instead_of_index: bool,
    #[serde(rename = "originalIndex")]
    original: Digest,
    #[serde(rename = "selectedManifest")]
    selected: Digest,
    #[serde(rename = "contentMissing")]
    content_missing: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Digest {
    digest: String,
}

pub(crate) async fn push(context: &Context, args: &Parsed) -> Outcome {
    let text = args.words.first().map_or("", String::as_str);
    let (all, quiet) = (args.on("all-tags"), args.on("quiet"));
    let platform = platform::to_json(&args.text("platform"))?;
    if !platform.is_empty() {
        note(
            "Using --platform pushes only the specified platform manifest of a multi-platform image index.\nOther components, like attestations, will not be included.\nTo push the complete multi-platform image, remove the --platform flag.\n",
        );
    }
    let mut named = Reference::parse(text).map_err(Failure::new)?;
    let bare = named.tag.is_none() && named.digest.is_none();
    if all && !bare {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    if bare && !all {
        named = named.or_latest();
        if !quiet {
            print_line("Using default tag: latest");
        }
    }
    if named.digest.is_some() {
        return Err(Failure::new("cannot push a digest reference"));
    }
    let request = Request::post(format!(
        "/images/{}/push",
        image_segment(&named.familiar_name())
    ))
    .registry_auth(&credentials::for_host(&context.config, &named.domain)?)
    .query_some("tag", named.tag.clone().unwrap_or_default())
    .query_some("platform", platform);
    let mut lines = Lines::new(context.send(request).await?);
    let to = if quiet { To::Nowhere } else { To::Stdout };
    let additions = progress::show(&mut lines, to).await?;
    if quiet {
        print_line(&named.full());
    }
    for addition in additions {
        if let Ok(addition) = serde_json::from_value(addition) {
            explain(&addition);
        }
    }
    Ok(0)
}

fn explain(addition: &Addition) {
    if addition.instead_of_index {
        note(&format!(
            "Not all multiplatform-content is present and only the available single-platform image was pushed\n{} -> {}",
            addition.original.digest, addition.selected.digest
        ));
    }
    if addition.content_missing {
        note(
            "You're trying to push a manifest list/index which references multiple platform specific manifests, but not all of them are available locally or available to the remote repository.\n\nMake sure you have all the referenced content and try again.\n\nYou can also push only a single platform specific manifest directly by specifying the platform you want to push with the --platform flag.",
        );
    }
}

fn note(text: &str) {
    let terminal = rustix::termios::isatty(rustix::stdio::stdout());
    print(&output::note(text, terminal));
}
