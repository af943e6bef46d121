//! `manifest`: lists of images for several platforms, put together on this
//! machine and pushed to a registry, without the engine.

mod entry;
mod remote;
mod store;

use berth_registry::client::Access;
use bytes::Bytes;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{json, print_line};
use crate::reference::Reference;
use crate::tree::Outcome;
use entry::{Entry, Platform};
use remote::Remote;
use store::Store;

/// With ":latest" where there is neither tag nor digest.
fn named(text: &str) -> Result<Reference, Failure> {
    Ok(Reference::parse(text).map_err(Failure::new)?.or_latest())
}

fn words(args: &Parsed) -> Result<(Reference, &[String]), Failure> {
    let (first, rest) = args
        .words
        .split_first()
        .ok_or_else(|| Failure::new("a name is missing"))?;
    Ok((named(first)?, rest))
}

pub(crate) async fn create(context: &Context, args: &Parsed) -> Outcome {
    let (list, images) = words(args)?;
    let store = Store::of(context);
    if store.has(&list) && !args.on("amend") {
        return Err(Failure::new(
            "refusing to amend an existing manifest list with no --amend flag",
        ));
    }
    // All are found before one is kept.
    let mut entries = Vec::new();
    for image in images {
        let name = named(image)?;
        let entry = match store.get(&list, &name)? {
            Some(entry) if entry.is_complete() => entry,
            _ => {
                Remote::connect(context, &name, args.on("insecure"), Access::Pull)?
                    .image(&name)
                    .await?
            }
        };
        entries.push((name, entry));
    }
    for (name, entry) in &entries {
        store.put(&list, name, entry)?;
    }
    print_line(&format!("Created manifest list {}", list.full()));
    Ok(0)
}

pub(crate) async fn annotate(context: &Context, args: &Parsed) -> Outcome {
    let (list, rest) = words(args)?;
    let image = rest.first().map_or("", String::as_str);
    let name = named(image)?;
    let store = Store::of(context);
    let mut entry = store.get(&list, &name)?.ok_or_else(|| {
        Failure::new(format!(
            "manifest for image {image} does not exist in {}",
            args.words.first().map_or("", String::as_str)
        ))
    })?;
    let platform = entry.descriptor.platform.get_or_insert_default();
    for (flag, field) in [
        ("os", &mut platform.os),
        ("arch", &mut platform.architecture),
        ("variant", &mut platform.variant),
        ("os-version", &mut platform.os_version),
    ] {
        let value = args.text(flag);
        if !value.is_empty() {
            *field = value;
        }
    }
    for text in args.list("os-features") {
        for feature in text.split(',').filter(|feature| !feature.is_empty()) {
            if !platform.os_features.iter().any(|have| have == feature) {
                platform.os_features.push(feature.to_owned());
            }
        }
    }
    if !entry::is_known(&platform.os, &platform.architecture) {
        return Err(Failure::new(format!(
            "manifest entry for image has unsupported os/arch combination: {}/{}",
            platform.os, platform.architecture
        )));
    }
    store.put(&list, &name, &entry)?;
    Ok(0)
}

pub(crate) async fn inspect(context: &Context, args: &Parsed) -> Outcome {
    let verbose = args.on("verbose");
    let (first, rest) = words(args)?;
    let store = Store::of(context);
    if let Some(image) = rest.first() {
        let name = named(image)?;
        let entry = store.get(&first, &name)?.ok_or_else(|| no_such(&name))?;
        return show_image(&entry, verbose);
    }
    if store.has(&first) {
        return show_list(&first, &store.list(&first)?, verbose);
    }
    let remote = Remote::connect(context, &first, args.on("insecure"), Access::Pull)?;
    match remote.any(&first).await? {
        remote::Found::Image(entry) => show_image(&entry, verbose),
        remote::Found::List(entries) => show_list(&first, &entries, verbose),
    }
}

fn no_such(name: &Reference) -> Failure {
    Failure::new(format!("No such manifest: {}", name.full()))
}

fn show_image(entry: &Entry, verbose: bool) -> Outcome {
    let text = if verbose {
        entry.to_json()?
    } else {
        entry.manifest_text()?
    };
    print_line(&json::indent(&text, "\t"));
    Ok(0)
}

fn show_list(target: &Reference, entries: &[Entry], verbose: bool) -> Outcome {
    if verbose {
        let texts = entries
            .iter()
            .map(Entry::to_json)
            .collect::<Result<Vec<_>, _>>()?;
        print_line(&json::indent(&format!("[{}]", texts.join(",")), "\t"));
    } else {
        print_line(&list_text(target, entries)?);
    }
    Ok(0)
}

/// The list as it is pushed.
fn list_text(target: &Reference, entries: &[Entry]) -> Result<String, Failure> {
    for entry in entries {
        let host = Reference::parse(&entry.reference)
            .map_err(Failure::new)?
            .domain;
        if host != target.domain {
            return Err(Failure::new(format!(
                "cannot use source images from a different registry than the target image: {host} != {}",
                target.domain
            )));
        }
    }
    entry::list(entries)
}

pub(crate) async fn push(context: &Context, args: &Parsed) -> Outcome {
    let (list, _) = words(args)?;
    let store = Store::of(context);
    if !store.has(&list) {
        return Err(no_such(&list));
    }
    let entries = store.list(&list)?;
    if entries.is_empty() {
        return Err(Failure::new(format!("{} not found", list.full())));
    }
    for entry in &entries {
        let complete = entry
            .descriptor
            .platform
            .as_ref()
            .is_some_and(|platform: &Platform| {
                !platform.os.is_empty() && !platform.architecture.is_empty()
            });
        if !complete {
            return Err(Failure::new(format!(
                "manifest {} must have an OS and Architecture to be pushed to a registry",
                entry.reference
            )));
        }
    }
    let text = list_text(&list, &entries)?;
    let remote = Remote::connect(context, &list, args.on("insecure"), Access::Push)?;
    for entry in &entries {
        let source = Reference::parse(&entry.reference).map_err(Failure::new)?;
        if source.full_name() != list.full_name() {
            let digest = remote.bring(&source, entry).await?;
            print_line(&format!(
                "Pushed ref {}@{} with digest: {digest}",
                list.full_name(),
                entry.descriptor.digest
            ));
        }
    }
    let media_type = entry::list_type(&entries);
    let digest = remote
        .put(&list, media_type, Bytes::from(text.into_bytes()))
        .await?;
    print_line(&digest);
    if args.on("purge") {
        store.remove(&list)?;
    }
    Ok(0)
}

pub(crate) async fn rm(context: &Context, args: &Parsed) -> Outcome {
    let store = Store::of(context);
    let mut failures = Vec::new();
    for word in &args.words {
        let outcome = named(word).and_then(|list| {
            if store.has(&list) {
                store.remove(&list)
            } else {
                Err(no_such(&list))
            }
        });
        failures.extend(outcome.err().map(|failure| failure.message));
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}
