//! `registry inspect`: manifest, index and configuration as the registry has
//! them.

use berth_registry::client::Access;
use serde_json::Value;

use super::documents::{self, Document};
use super::remote::{Place, Remote, told};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{json, print_line, template};
use crate::tree::Outcome;

pub(crate) async fn inspect(context: &Context, args: &Parsed) -> Outcome {
    let mut all = Vec::new();
    for word in &args.words {
        all.push(text(context, args, word).await?);
    }
    match args.get("format") {
        Some(format) if !format.is_empty() && format != "json" => {
            for text in &all {
                print_line(&template::over_json(format, text)?);
            }
        }
        Some("json") => all.iter().for_each(|text| print_line(&json::compact(text))),
        _ => print_line(&json::indent(&format!("[{}]", all.join(",")), "    ")),
    }
    Ok(0)
}

/// One image as a JSON object; documents keep the order of their fields.
async fn text(context: &Context, args: &Parsed, word: &str) -> Result<String, Failure> {
    let place = Place::of_repository(word)?;
    let reference = match place.reference {
        "" => "latest",
        other => other,
    };
    let remote = Remote::new(context, args, place.host)?;
    let repository = remote.repository(place.repository, Access::Pull)?;
    let manifest = repository.manifest(reference).await.map_err(told)?;
    let document = Document::parse(&manifest.bytes)?;
    let quoted = |text: &str| Value::from(text).to_string();
    let raw = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kind = if document.manifests.is_empty() {
        "Manifest"
    } else {
        "Index"
    };
    let mut text = format!(
        "{{\"Name\":{},\"Digest\":{},\"MediaType\":{},\"Size\":{},\"{kind}\":{}",
        quoted(word),
        quoted(&manifest.digest),
        quoted(&manifest.media_type),
        manifest.bytes.len(),
        raw(&manifest.bytes)
    );
    if let Some(entry) = document
        .config
        .as_ref()
        .filter(|entry| entry.media_type.ends_with("+json"))
    {
        let config = documents::config(&repository, entry).await?;
        // An artifact's configuration may be anything.
        if serde_json::from_slice::<serde::de::IgnoredAny>(&config).is_ok() {
            text.push_str(&format!(",\"Config\":{}", raw(&config)));
        }
    }
    text.push('}');
    Ok(text)
}
