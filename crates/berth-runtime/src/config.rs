//! `config.json`: read, and checked for what the types cannot say. What is wrong
//! is told by the name of its field.

use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Context, Error, Result};

/// What a document must have, though the types have a default for it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Required {
    oci_version: Option<String>,
    process: Option<RequiredProcess>,
    root: Option<RequiredRoot>,
    linux: Option<RequiredLinux>,
}

/// What of `linux` is wanted as it is written.
#[derive(Deserialize)]
struct RequiredLinux {
    seccomp: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct RequiredProcess {
    #[serde(default)]
    args: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RequiredRoot {
    path: Option<String>,
}

/// A bundle's configuration, parsed and as it is in the file, and the text of
/// `linux.seccomp`.
///
/// # Errors
/// It is missing, no JSON, lacks what is required, has a wrong type or value, or
/// follows another version of the specification.
pub(crate) fn read(path: &Path) -> Result<(Spec, Vec<u8>, Option<Box<RawValue>>)> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(format!(
                "JSON specification file {} not found",
                path.display()
            )));
        }
        result => result.context(|| format!("read {}", path.display()))?,
    };
    let spec = parse_spec(path, &bytes)?;
    let required: Required = parse(path, &bytes)?;
    check(&required).map_err(|why| Error::new(format!("{}: {why}", path.display())))?;
    if let Some(process) = spec.process() {
        check_environment(process)?;
    }
    let seccomp = required.linux.and_then(|linux| linux.seccomp);
    Ok((spec, bytes, seccomp))
}

/// The text of `linux.seccomp` in a configuration that has been parsed.
pub(crate) fn seccomp(bytes: &[u8]) -> Option<Box<RawValue>> {
    let required: Required = serde_json::from_slice(bytes).ok()?;
    required.linux?.seccomp
}

/// Each variable has a name and a value, as runc demands.
pub(crate) fn check_environment(process: &Process) -> Result<()> {
    for variable in process.env().iter().flatten() {
        let why = match variable.find('=') {
            None => "missing '='",
            Some(0) => "name cannot be empty",
            Some(_) if variable.contains('\0') => "contains a NUL byte",
            Some(_) => continue,
        };
        return Err(Error::new(format!(
            "invalid environment variable: {why}: {variable:?}"
        )));
    }
    Ok(())
}

/// A process of `exec --process`.
pub(crate) fn parse_process(path: &Path, bytes: &[u8]) -> Result<Process> {
    parse_renamed(path, bytes, "/scheduler/flags")
}

/// With the flags that the types call by other names than the specification, which
/// are looked for when a document is refused.
fn parse_renamed<T: DeserializeOwned>(path: &Path, bytes: &[u8], flags: &str) -> Result<T> {
    parse(path, bytes).or_else(|error| {
        let mut value: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let mut renamed = false;
        let list = value.pointer_mut(flags).and_then(Value::as_array_mut);
        for flag in list.into_iter().flatten() {
            let other = match flag.as_str() {
                Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
                Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
                _ => continue,
            };
            *flag = other.into();
            renamed = true;
        }
        if renamed {
            parse(path, value.to_string().as_bytes())
        } else {
            Err(error)
        }
    })
}

/// What the types call by other names than the specification.
#[derive(Deserialize)]
struct Misnamed {
    linux: MisnamedLinux,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MisnamedLinux {
    intel_rdt: MisnamedRdt,
}

#[derive(Deserialize)]
struct MisnamedRdt {
    #[serde(rename = "enableCMT")]
    cmt: Option<bool>,
    #[serde(rename = "enableMBM")]
    mbm: Option<bool>,
}

/// A configuration, not yet checked for what it must have.
#[allow(deprecated, reason = "configurations still have them")]
pub(crate) fn parse_spec(path: &Path, bytes: &[u8]) -> Result<Spec> {
    let mut spec: Spec = parse_renamed(path, bytes, "/process/scheduler/flags")?;
    if let Some(linux) = spec.linux()
        && let Some(rdt) = linux.intel_rdt()
    {
        let given: Misnamed = parse(path, bytes)?;
        let (mut linux, mut rdt) = (linux.clone(), rdt.clone());
        rdt.set_enable_cmt(given.linux.intel_rdt.cmt)
            .set_enable_mbm(given.linux.intel_rdt.mbm);
        linux.set_intel_rdt(Some(rdt));
        spec.set_linux(Some(linux));
    }
    Ok(spec)
}

/// A JSON document of the command line, with the path to what is wrong in it.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let why = error.to_string();
        let mut steps = steps_to(bytes, error.line(), error.column());
        if let Some(missing) = quoted_after(&why, "missing field `")
            && let Some(Step::Key(key)) = steps.last_mut()
        {
            // It is noticed at the end of the object, after another field.
            missing.clone_into(key);
        }
        let why = match quoted_after(&why, "no variant for ") {
            Some(name) => format!("unknown capability {name}"),
            None => why,
        };
        let place = match show(&steps).as_str() {
            "" => String::new(),
            field => format!("{field}: "),
        };
        Error::new(format!("parse {}: {place}{why}", path.display()))
    })
}

/// The word after `start`, up to a quotation mark or a space.
fn quoted_after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split(['`', ' ']).next()
}

fn check(required: &Required) -> std::result::Result<(), String> {
    match required.oci_version.as_deref() {
        None | Some("") => return Err("ociVersion is missing".to_owned()),
        Some(version) if !is_supported(version) => {
            return Err(format!(
                "ociVersion {version:?} is not supported: this runtime follows 1.0 to {}",
                crate::commands::OCI_VERSION
            ));
        }
        Some(_) => {}
    }
    match &required.root {
        Some(root) if root.path.as_deref().is_some_and(|path| !path.is_empty()) => {}
        Some(_) => return Err("root.path is missing".to_owned()),
        None => return Err("root is missing".to_owned()),
    }
    match &required.process {
        Some(process) if process.args.as_ref().is_some_and(|args| !args.is_empty()) => {}
        Some(_) => return Err("process.args is missing".to_owned()),
        None => return Err("process is missing".to_owned()),
    }
    match &required.linux {
        Some(_) => Ok(()),
        None => Err("linux is missing".to_owned()),
    }
}

/// A version 1 of any kind: what a later one adds is ignored, as it demands.
fn is_supported(version: &str) -> bool {
    let mut numbers = version
        .split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.');
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    let parts = (number(), number(), number());
    matches!(parts, (Some(1), Some(_), Some(_))) && numbers.next().is_none()
}

/// The path to the value that ends at, or holds, a place in a JSON text.
fn steps_to(text: &[u8], line: usize, column: usize) -> Vec<Step> {
    let before: usize = (text.split_inclusive(|&b| b == b'\n'))
        .take(line.saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    let end = text.len().min(before + column);
    // Where each open container is: a key, or a number in a list.
    let mut path: Vec<Step> = Vec::new();
    let mut at = 0;
    while at < end {
        match text[at] {
            b'{' => path.push(Step::Key(String::new())),
            b'[' => path.push(Step::Index(0)),
            // The last one is what is being complained about.
            b'}' | b']' if at + 1 < end => {
                path.pop();
            }
            b',' => {
                if let Some(Step::Index(index)) = path.last_mut() {
                    *index += 1;
                }
            }
            b'"' => {
                let start = at + 1;
                at = start;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                let is_key = text
                    .get(at + 1..)
                    .and_then(|rest| rest.iter().find(|b| !b.is_ascii_whitespace()))
                    == Some(&b':');
                if let (true, Some(Step::Key(key)), Some(name)) =
                    (is_key, path.last_mut(), text.get(start..at))
                {
                    *key = String::from_utf8_lossy(name).into_owned();
                }
            }
            _ => {}
        }
        at += 1;
    }
    path
}

/// "a.b[2]".
fn show(path: &[Step]) -> String {
    let mut shown = String::new();
    for step in path {
        match step {
            Step::Key(key) if key.is_empty() => {}
            Step::Key(key) => {
                if !shown.is_empty() {
                    shown.push('.');
                }
                shown.push_str(key);
            }
            Step::Index(index) => shown.push_str(&format!("[{index}]")),
        }
    }
    shown
}

enum Step {
    Key(String),
    Index(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let path = Path::new("config.json");
        let whole = parse::<Spec>(path, text.as_bytes())
            .and_then(|_| parse::<Required>(path, text.as_bytes()));
        match whole {
            Err(error) => error.to_string(),
            Ok(required) => check(&required).unwrap_err(),
        }
    }

    #[test]
    fn mistakes_are_told_by_their_field() {
        for (text, field, why) in [
            ("{", "", "EOF"),
            ("[1]", "", "invalid type"),
            (
                r#"{"ociVersion":"1.0.0","process":{"user":{"uid":"root","gid":0},"cwd":"/"}}"#,
                "process.user.uid: ",
                "invalid type: string \"root\"",
            ),
            (
                "{\"ociVersion\":\"1.0.0\",\n \"linux\":{\"namespaces\":[{\"type\":\"pid\"},\n{\"type\":\"foo\"}]}}",
                "linux.namespaces[1].type: ",
                "unknown variant `foo`",
            ),
            (
                r#"{"ociVersion":"1.0.0","mounts":[{"type":"tmpfs"}]}"#,
                "mounts[0].destination: ",
                "missing field `destination`",
            ),
            (
                r#"{"ociVersion":"1.0.0","process":{"cwd":"/","args":"sh"}}"#,
                "process.args: ",
                "expected a sequence",
            ),
            (
                r#"{"ociVersion":"1.0.0","linux":{"seccomp":{"defaultAction":"SCMP_ACT_X"}}}"#,
                "linux.seccomp.defaultAction: ",
                "unknown variant",
            ),
            (
                r#"{"ociVersion":"1.0.0","process":{"user":{"uid":0,"gid":0},"args":["x"]}}"#,
                "process.cwd: ",
                "missing field",
            ),
            (
                r#"{"ociVersion":"1.0.0","process":{"user":{"uid":0,"gid":0},"cwd":"/","capabilities":{"bounding":["CAP_X"]}}}"#,
                "process.capabilities.bounding[0]: ",
                "unknown capability CAP_X",
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"x"}}"#,
                "process",
                "missing",
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"x"},"process":{"user":{"uid":0,"gid":0},"cwd":"/"}}"#,
                "process.args",
                "missing",
            ),
            (
                r#"{"ociVersion":"1.0.0","root":{"path":"x"},"process":{"user":{"uid":0,"gid":0},"cwd":"/","args":["x"]}}"#,
                "linux",
                "missing",
            ),
            ("{}", "ociVersion", "missing"),
            (
                r#"{"ociVersion":"2.0.0"}"#,
                "ociVersion \"2.0.0\"",
                "not supported",
            ),
            (r#"{"ociVersion":"x"}"#, "ociVersion \"x\"", "not supported"),
            (r#"{"ociVersion":"1.0.2"}"#, "root", "missing"),
            (
                r#"{"ociVersion":"1.3.0-rc.1","root":{"path":""}}"#,
                "root.path",
                "missing",
            ),
        ] {
            let error = error(text);
            assert!(
                error.contains(field) && error.contains(why),
                "{text}: {error}"
            );
        }
    }

    #[test]
    #[allow(deprecated)]
    fn names_of_the_specification_count() {
        for flag in [
            "RESET_ON_FORK",
            "RECLAIM",
            "DL_OVERRUN",
            "KEEP_POLICY",
            "KEEP_PARAMS",
            "UTIL_CLAMP_MIN",
            "UTIL_CLAMP_MAX",
        ] {
            let text = format!(
                r#"{{"cwd":"/","user":{{"uid":0,"gid":0}},
                    "scheduler":{{"policy":"SCHED_OTHER","flags":["SCHED_FLAG_{flag}"]}}}}"#
            );
            parse_process(Path::new("x"), text.as_bytes()).unwrap();
        }
        let text = r#"{"linux":{"intelRdt":{"enableCMT":true,"enableMBM":false}}}"#;
        let spec = parse_spec(Path::new("x"), text.as_bytes()).unwrap();
        let rdt = spec.linux().as_ref().unwrap().intel_rdt().clone().unwrap();
        assert_eq!(
            (rdt.enable_cmt(), rdt.enable_mbm()),
            (&Some(true), &Some(false))
        );
    }

    #[test]
    fn versions_of_the_specification() {
        for good in ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0-rc.1", "1.9.9+x"] {
            assert!(is_supported(good), "{good}");
        }
        for bad in ["", "1", "1.0", "0.9.0", "2.0.0", "1.0.0.0", "x"] {
            assert!(!is_supported(bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\a\n ]{0,60}", line in 0_usize..9, column in 0_usize..70) {
            let _ = show(&steps_to(text.as_bytes(), line, column));
        }
    }
}
