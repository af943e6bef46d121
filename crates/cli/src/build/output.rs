//! `--output`, `--push` and `--load`: what comes of a build, and where it goes.

use std::path::{Path, PathBuf};

use berth_api::build::Output;
use rustix::termios::isatty;

use super::csv;
use crate::flags::Parsed;

/// Where this client puts what the engine sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The engine keeps it, or sends it to a registry.
    Engine,
    /// Files in a directory.
    Directory(PathBuf),
    /// A tar stream in a file.
    File(PathBuf),
    Stdout,
}

/// The outputs as the engine is asked for them, each with its place.
pub(super) fn parse(args: &Parsed) -> Result<Vec<(Output, Place)>, String> {
    let mut outputs = args
        .list("output")
        .iter()
        .map(|text| one(text))
        .collect::<Result<Vec<_>, _>>()?;
    if args.on("push") {
        push(&mut outputs)?;
    }
    if args.on("load") && !outputs.iter().any(|(output, _)| is_kept(output)) {
        outputs.push(kept("image"));
    }
    if outputs.is_empty() {
        outputs.push(kept("image"));
    }
    let to_stdout = outputs.iter().filter(|(_, place)| *place == Place::Stdout);
    if to_stdout.count() > 1 {
        return Err("only one output can be written to stdout".to_owned());
    }
    Ok(outputs)
}

fn kept(kind: &str) -> (Output, Place) {
    let output = Output {
        kind: kind.to_owned(),
        ..Output::default()
    };
    (output, Place::Engine)
}

fn push(outputs: &mut Vec<(Output, Place)>) -> Result<(), String> {
    if outputs.is_empty() {
        outputs.push(kept("registry"));
        return Ok(());
    }
    for (output, _) in outputs {
        match output.kind.as_str() {
            "registry" => {}
            "image" => {
                let push = output.attributes.entry("push".to_owned());
                push.or_insert_with(|| "true".to_owned());
            }
            other => return Err(format!("push and {other:?} output can't be used together")),
        }
    }
    Ok(())
}

/// Whether the engine has the image afterwards.
fn is_kept(output: &Output) -> bool {
    matches!(output.kind.as_str(), "image" | "registry")
}

fn one(text: &str) -> Result<(Output, Place), String> {
    let fields = csv::fields(text)?;
    if fields.len() == 1 && fields[0] == text && !text.starts_with("type=") {
        let kind = if text == "-" { "tar" } else { "local" };
        return place(kept(kind).0, Some(text.to_owned()));
    }
    let mut attributes = csv::pairs(text)?;
    let kind = attributes
        .remove("type")
        .ok_or("type is required for output")?;
    let dest = attributes.remove("dest");
    place(Output { kind, attributes }, dest)
}

fn place(output: Output, dest: Option<String>) -> Result<(Output, Place), String> {
    let kind = output.kind.as_str();
    let dest = dest.filter(|dest| !dest.is_empty());
    let place = match kind {
        "image" | "registry" | "cacheonly" => {
            if dest.is_some() {
                return Err(format!("dest cannot be used with the {kind} exporter"));
            }
            Place::Engine
        }
        "local" => directory(kind, dest.as_deref())?,
        "oci" | "docker"
            if output
                .attributes
                .get("tar")
                .is_some_and(|tar| tar == "false") =>
        {
            directory(kind, dest.as_deref())?
        }
        // Loaded into the engine that built it.
        "docker" if dest.is_none() => {
            let output = Output {
                kind: "image".to_owned(),
                ..output
            };
            return Ok((output, Place::Engine));
        }
        "tar" | "oci" | "docker" => file(kind, dest.as_deref())?,
        "" => return Err("type is required for output".to_owned()),
        other => return Err(format!("output type {other:?} is not supported")),
    };
    if let Some(mode) = output.attributes.get("mode")
        && kind == "local"
        && mode != "copy"
    {
        return Err(format!(
            "local output with mode={mode} is not supported yet"
        ));
    }
    Ok((output, place))
}

fn directory(kind: &str, dest: Option<&str>) -> Result<Place, String> {
    match dest {
        None => Err(format!("dest is required for {kind} exporter")),
        Some("-") => Err(format!("dest cannot be stdout for {kind} exporter")),
        Some(dest) if Path::new(dest).exists() && !Path::new(dest).is_dir() => {
            Err(format!("destination directory {dest} is a file"))
        }
        Some(dest) => Ok(Place::Directory(dest.into())),
    }
}

fn file(kind: &str, dest: Option<&str>) -> Result<Place, String> {
    match dest {
        None | Some("-") if isatty(rustix::stdio::stdout()) => Err(format!(
            "dest file is required for {kind} exporter. refusing to write to console"
        )),
        None | Some("-") => Ok(Place::Stdout),
        Some(dest) if Path::new(dest).is_dir() => {
            Err(format!("destination file {dest} is a directory"))
        }
        Some(dest) => Ok(Place::File(dest.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    fn outputs(line: &str) -> Result<Vec<(Output, Place)>, String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let build = tree::find("build").unwrap();
        parse(&Parsed::parse(build.flags, &words, false).unwrap())
    }

    fn kinds(line: &str) -> Vec<(String, Place)> {
        let outputs = outputs(line).unwrap().into_iter();
        outputs
            .map(|(output, place)| (output.kind, place))
            .collect()
    }

    #[test]
    fn short_and_long_forms() {
        let directory = |path: &str| Place::Directory(path.into());
        let is = |line: &str, kind: &str, place: Place| {
            assert_eq!(kinds(line), [(kind.to_owned(), place)], "{line}");
        };
        is("", "image", Place::Engine);
        is("-o out", "local", directory("out"));
        is("-o type=local,dest=a", "local", directory("a"));
        is("-o type=tar,dest=a.tar", "tar", Place::File("a.tar".into()));
        is("-o type=docker", "image", Place::Engine);
        is("--load", "image", Place::Engine);
        is("--push", "registry", Place::Engine);
        is("-o type=oci,dest=d,tar=false", "oci", directory("d"));
        let pushed = outputs("-o type=image,name=x --push").unwrap();
        assert_eq!(pushed[0].0.attributes["push"], "true");
        assert_eq!(kinds("-o out --load").len(), 2);
    }

    #[test]
    fn mistakes_are_told_in_buildxs_words() {
        for (line, why) in [
            ("-o dest=a,b=c", "type is required for output"),
            ("-o type=local", "dest is required for local exporter"),
            (
                "-o type=local,dest=-",
                "dest cannot be stdout for local exporter",
            ),
            (
                "-o type=local,dest=/etc/passwd",
                "destination directory /etc/passwd is a file",
            ),
            ("-o type=tar,dest=/", "destination file / is a directory"),
            (
                "-o out --push",
                "push and \"local\" output can't be used together",
            ),
            ("-o type=blob", "output type \"blob\" is not supported"),
            (
                "-o type=local,dest=a,mode=delete",
                "local output with mode=delete is not supported yet",
            ),
        ] {
            assert_eq!(outputs(line).unwrap_err(), why, "{line}");
        }
    }
}
