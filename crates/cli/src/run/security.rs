//! `--security-opt`: profiles are read here, where the file is.

use crate::failure::path_error;
use crate::flags::go_quote;

/// The options to send, and whether all of /proc and /sys shall be open.
pub(super) fn options(texts: &[String]) -> Result<(Vec<String>, bool), String> {
    let mut options = Vec::new();
    let mut open_paths = false;
    for text in texts {
        if text == "systempaths=unconfined" {
            open_paths = true;
            continue;
        }
        let pair = text.split_once('=').or_else(|| text.split_once(':'));
        match pair {
            Some(("seccomp", profile)) if profile != "unconfined" && profile != "builtin" => {
                options.push(format!("seccomp={}", read_profile(profile)?));
            }
            None if text != "no-new-privileges" => {
                return Err(format!("Invalid --security-opt: {}", go_quote(text)));
            }
            _ => options.push(text.clone()),
        }
    }
    Ok((options, open_paths))
}

fn read_profile(path: &str) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| {
        format!(
            "opening seccomp profile ({path}) failed: {}",
            path_error("open", path, &error)
        )
    })?;
    serde_json::from_slice::<&serde_json::value::RawValue>(&bytes)
        .map(|raw| crate::output::json::compact(raw.get()))
        .map_err(|error| format!("compacting json for seccomp profile ({path}) failed: {error}"))
}
