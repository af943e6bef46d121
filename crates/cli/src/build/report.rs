//! What is told after a build, and the files that are written then.

use std::io::Write as _;
use std::path::Path;

use berth_api::build::{BuildResult, VertexWarning};
use rustix::termios::isatty;

use super::call::Shown;
use super::progress::{Mode, decoded};
use crate::failure::{Failure, path_error};
use crate::output::{harmless_lines, print, print_line, warn};
use crate::tree::Outcome;

/// A file of an earlier build must not be taken for this one's.
pub(super) fn remove_stale(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!(
            "removing image ID file: {}",
            path_error("remove", path, &error)
        )),
        _ => Ok(()),
    }
}

/// The checks' warnings, in short; with `--debug` all there is to say.
pub(super) fn warnings(warnings: &[VertexWarning], debug: bool) {
    if !warnings.is_empty() {
        let colours = isatty(rustix::stdio::stderr())
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let _ = std::io::stderr().write_all(list(warnings, debug, colours).as_bytes());
    }
}

fn list(warnings: &[VertexWarning], debug: bool, colours: bool) -> String {
    let mut head = match warnings.len() {
        1 => "1 warning found".to_owned(),
        count => format!("{count} warnings found"),
    };
    if !debug {
        head += " (use docker --debug to expand)";
    }
    let mut text = if colours {
        format!("\n \x1b[33m{head}:\n\x1b[0m")
    } else {
        format!("\n {head}:\n")
    };
    for warning in warnings {
        text += &format!(" - {}\n", harmless_lines(&decoded(&warning.short)));
        if !debug {
            continue;
        }
        for detail in &warning.detail {
            text += &format!("{}\n", harmless_lines(&decoded(detail)));
        }
        if !warning.url.is_empty() {
            text += &format!("More info: {}\n", harmless_lines(&warning.url));
        }
        text.push('\n');
    }
    text
}

/// What `--call` found.
pub(super) fn call(shown: &Shown) -> Outcome {
    print(&shown.text);
    if !shown.error.is_empty() {
        warn(&format!("ERROR: {}", shown.error.trim_end()));
    }
    Ok(shown.status)
}

/// Why there is no image.
pub(super) fn failure(message: &str, excerpt: &str) -> Failure {
    let mut text = harmless_lines(excerpt.trim_end_matches('\n'));
    if !text.is_empty() {
        text.push('\n');
    }
    text += &format!(
        "ERROR: failed to build: failed to solve: {}",
        harmless_lines(message.trim_end())
    );
    Failure::new(text)
}

/// ID, `--iidfile` and `--metadata-file`.
pub(super) fn done(
    result: &BuildResult,
    mode: Mode,
    iidfile: &str,
    metadata: &str,
) -> Result<(), String> {
    let id = if result.config.is_empty() {
        &result.image
    } else {
        &result.config
    };
    if mode == Mode::Quiet {
        print_line(id);
    }
    if !iidfile.is_empty() {
        write(iidfile, id.as_bytes()).map_err(|why| format!("writing image ID file: {why}"))?;
    }
    if !metadata.is_empty() {
        let text = serde_json::to_string_pretty(&result.metadata)
            .map_err(|error| format!("writing metadata file: {error}"))?;
        write(metadata, text.as_bytes())?;
    }
    Ok(())
}

/// Old or new content, never half.
fn write(path: &str, bytes: &[u8]) -> Result<(), String> {
    let place = Path::new(path);
    let failed = |error: std::io::Error| path_error("open", path, &error);
    if place.metadata().is_ok_and(|meta| !meta.is_file()) {
        return std::fs::write(place, bytes).map_err(failed);
    }
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let temporary = place.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    std::fs::write(&temporary, bytes).map_err(failed)?;
    std::fs::rename(&temporary, place).map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn warnings_in_short_and_in_full() {
        let warning = VertexWarning {
            short: STANDARD
                .encode("FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"),
            detail: vec![STANDARD.encode("The keywords should match")],
            url: "https://example.com/rule".to_owned(),
            ..VertexWarning::default()
        };
        assert_eq!(
            list(std::slice::from_ref(&warning), false, false),
            "\n 1 warning found (use docker --debug to expand):\n - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n"
        );
        let full = list(&[warning.clone(), warning], true, false);
        assert!(
            full.starts_with("\n 2 warnings found:\n - FromAsCasing"),
            "{full}"
        );
        assert!(full.contains("The keywords should match\nMore info: https://example.com/rule\n"));
    }

    #[test]
    fn failures_show_their_place() {
        let failure = failure(
            "process \"/bin/sh -c false\" did not complete successfully: exit code: 1",
            "Dockerfile:2\n--------------------\n   2 | >>> RUN false\n--------------------\n",
        );
        assert!(failure.message.ends_with("--------------------\nERROR: failed to build: failed to solve: process \"/bin/sh -c false\" did not complete successfully: exit code: 1"));
        assert_eq!(failure.status, 1);
    }

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("iid");
        let name = path.to_str().unwrap();
        let result = BuildResult {
            image: "sha256:a".to_owned(),
            ..BuildResult::default()
        };
        std::fs::write(&path, "old").unwrap();
        remove_stale(name).unwrap();
        remove_stale(name).unwrap();
        done(&result, Mode::Plain, name, "").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "sha256:a");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
        assert!(write("/no/such/file", b"").is_err());
    }
}
