//! `--call` and `--check`: what is told of a Dockerfile instead of building it.

use serde::Deserialize;
use serde_json::Value;

use super::csv;
use crate::flags::Parsed;
use crate::output::harmless_lines;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// "check", "outline", "targets".
    pub(super) method: &'static str,
    json: bool,
    /// Succeed whatever is found.
    ignore_status: bool,
}

/// "check", "outline,format=json"; none for a build.
pub(super) fn parse(args: &Parsed) -> Result<Option<Call>, String> {
    let mut text = args.text("call");
    if args.on("check") {
        if !matches!(text.as_str(), "" | "build" | "check" | "lint") {
            return Err(format!("--check and --call={text} cannot be used together"));
        }
        if text.is_empty() || text == "build" {
            "check".clone_into(&mut text);
        }
    }
    if text.is_empty() {
        return Ok(None);
    }
    let mut call = Call {
        method: "",
        json: false,
        ignore_status: false,
    };
    for field in csv::fields(&text)? {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        match (key, value) {
            ("build", "") => return Ok(None),
            ("check" | "lint", "") => call.method = "check",
            ("outline", "") => call.method = "outline",
            ("targets", "") => call.method = "targets",
            ("format", "json") => call.json = true,
            ("format", "text" | "") => {}
            ("format", other) => return Err(format!("invalid format {other:?}")),
            ("ignorestatus", "" | "true") => call.ignore_status = true,
            ("ignorestatus", "false") => {}
            _ => return Err(format!("invalid call {text:?}: {field:?} is not known")),
        }
    }
    if call.method.is_empty() {
        return Err(format!("invalid call {text:?}: no method is named"));
    }
    Ok(Some(call))
}

/// What is printed, and the exit status.
pub(super) struct Shown {
    pub(super) text: String,
    /// Printed on stderr.
    pub(super) error: String,
    pub(super) status: i32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lint {
    warnings: Vec<Warning>,
    sources: Vec<SourceFile>,
    #[serde(rename = "buildError")]
    error: Option<BuildError>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Warning {
    rule_name: String,
    url: String,
    detail: String,
    location: Location,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BuildError {
    message: String,
    location: Location,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Location {
    source_index: i64,
    ranges: Vec<Range>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Position {
    line: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SourceFile {
    filename: String,
    /// Base64.
    data: String,
}

/// `path`: the Dockerfile as people know it.
pub(super) fn show(call: &Call, found: &Value, path: &str) -> Result<Shown, String> {
    let mut shown = Shown {
        text: String::new(),
        error: String::new(),
        status: 0,
    };
    if call.json {
        let text = serde_json::to_string_pretty(found).map_err(|error| error.to_string())?;
        shown.text = text + "\n";
    }
    match call.method {
        "check" => check(call, found, path, &mut shown)?,
        "outline" if !call.json => shown.text = outline(found),
        "targets" if !call.json => shown.text = targets(found),
        _ => {}
    }
    if call.ignore_status {
        shown.status = 0;
    }
    Ok(shown)
}

fn check(call: &Call, found: &Value, path: &str, shown: &mut Shown) -> Result<(), String> {
    let mut lint = Lint::deserialize(found)
        .map_err(|error| format!("cannot read the engine's reply: {error}"))?;
    lint.warnings.sort_by_key(|warning| {
        let first = warning.location.ranges.first();
        first.map(|range| range.start.line)
    });
    let count = lint.warnings.len();
    if !call.json {
        if count > 0 {
            let what = if count == 1 {
                "1 warning has been found!".to_owned()
            } else {
                format!("{count} warnings have been found!")
            };
            shown.text += &format!("Check complete, {what}\n");
        }
        for warning in &lint.warnings {
            shown.text += &format!("\nWARNING: {}", harmless_lines(&warning.rule_name));
            if !warning.url.is_empty() {
                shown.text += &format!(" - {}", harmless_lines(&warning.url));
            }
            shown.text += &format!("\n{}\n", harmless_lines(&warning.detail));
            shown.text += &excerpt(&lint.sources, &warning.location, path);
        }
    }
    if let Some(error) = &lint.error {
        if !call.json && count > 0 {
            shown.text.push('\n');
        }
        shown.error = harmless_lines(&error.message) + "\n";
        shown.error += &excerpt(&lint.sources, &error.location, path);
    } else if count == 0 && !call.json {
        shown.text += "Check complete, no warnings found.\n";
    }
    shown.status = i32::from(count > 0 || lint.error.is_some());
    Ok(())
}

/// The lines that are meant, and some around them, as BuildKit shows them.
fn excerpt(sources: &[SourceFile], location: &Location, path: &str) -> String {
    let lines = |range: &Range| (range.start.line, range.end.line.max(range.start.line));
    let ranges: Vec<_> = location.ranges.iter().map(lines).collect();
    let source = usize::try_from(location.source_index)
        .ok()
        .and_then(|at| sources.get(at));
    let (Some(source), Some(first), Some(last)) = (
        source,
        ranges.iter().map(|range| range.0).min(),
        ranges.iter().map(|range| range.1).max(),
    ) else {
        return String::new();
    };
    let text = super::progress::decoded(&source.data);
    let text: Vec<&str> = text.split('\n').collect();
    if first == 0 || first > text.len() {
        return String::new();
    }
    let (mut from, mut to) = (first, last.min(text.len()));
    let wanted = if from == to { 4 } else { 2 };
    let mut around = 0;
    while around < wanted {
        if from > 1 {
            from -= 1;
            around += 1;
        }
        if to < text.len() {
            to += 1;
            around += 1;
        }
        around += 1;
    }
    let name = if path.is_empty() {
        &source.filename
    } else {
        path
    };
    let mut shown = format!("{}:{first}\n--------------------\n", harmless_lines(name));
    for number in from..=to {
        let mark = if ranges.iter().any(|&(a, b)| (a..=b).contains(&number)) {
            ">>>"
        } else {
            "   "
        };
        let line = harmless_lines(text[number - 1]);
        shown += &format!(" {number:3} | {mark} {line}\n");
    }
    shown + "--------------------\n"
}

fn text_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn table(head: &str, rows: &[String]) -> String {
    let mut lines = vec![head.to_owned()];
    lines.extend(rows.iter().map(|row| harmless_lines(row)));
    crate::output::table::align_with(&lines, 0, 3)
}

/// Arguments, secrets and agents of a target.
fn outline(found: &Value) -> String {
    let mut text = String::new();
    let name = text_of(found, "name");
    if !name.is_empty() {
        text += &format!("TARGET:\t{}\n", harmless_lines(name));
    }
    let description = text_of(found, "description");
    if !description.is_empty() {
        text += &format!("DESCRIPTION:\t{}\n", harmless_lines(description));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let args: Vec<_> = list(found, "args")
        .iter()
        .map(|arg| {
            format!(
                "{}\t{}\t{}",
                text_of(arg, "name"),
                text_of(arg, "value"),
                text_of(arg, "description")
            )
        })
        .collect();
    if !args.is_empty() {
        text += &table("BUILD ARG\tVALUE\tDESCRIPTION", &args);
        text.push('\n');
    }
    for (field, head) in [
        ("secrets", "SECRET"),
        ("ssh", "SSH"),
        ("cacheMounts", "CACHE MOUNT"),
    ] {
        let rows: Vec<_> = list(found, field)
            .iter()
            .map(|row| {
                let name = match text_of(row, "name") {
                    "" => text_of(row, "id"),
                    name => name,
                };
                let required = row.get("required").and_then(Value::as_bool) == Some(true);
                format!("{name}\t{}", if required { "true" } else { "" })
            })
            .collect();
        if !rows.is_empty() {
            text += &table(&format!("{head}\tREQUIRED"), &rows);
            text.push('\n');
        }
    }
    text
}

fn targets(found: &Value) -> String {
    let rows: Vec<_> = list(found, "targets")
        .iter()
        .map(|target| {
            let name = match text_of(target, "name") {
                "" => "(default)".to_owned(),
                name if target.get("default").and_then(Value::as_bool) == Some(true) => {
                    format!("{name} (default)")
                }
                name => name.to_owned(),
            };
            format!("{name}\t{}", text_of(target, "description"))
        })
        .collect();
    table("TARGET\tDESCRIPTION", &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;
    use base64::Engine as _;

    fn parsed(line: &str) -> Result<Option<Call>, String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let build = tree::find("build").unwrap();
        parse(&Parsed::parse(build.flags, &words, false).unwrap())
    }

    fn checked(line: &str, found: &Value) -> Shown {
        show(&parsed(line).unwrap().unwrap(), found, "Dockerfile").unwrap()
    }

    #[test]
    fn calls() {
        assert_eq!(parsed("").unwrap(), None);
        assert_eq!(parsed("--call build").unwrap(), None);
        let call = parsed("--call lint,format=json").unwrap().unwrap();
        assert!(call.method == "check" && call.json);
        assert_eq!(parsed("--check").unwrap().unwrap().method, "check");
        assert!(parsed("--call x").is_err() && parsed("--check --call outline").is_err());
    }

    #[test]
    fn checks_as_buildx_prints_them() {
        let text = "FROM scratch as x\nCOPY a b\n";
        let data = base64::engine::general_purpose::STANDARD.encode(text);
        let found = serde_json::json!({
            "sources": [{"filename": "Dockerfile", "data": data}],
            "warnings": [{
                "ruleName": "FromAsCasing",
                "url": "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
                "detail": "'as' and 'FROM' keywords' casing do not match",
                "location": {"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]}
            }]
        });
        let shown = checked("--check", &found);
        assert_eq!(shown.status, 1);
        assert_eq!(
            shown.text,
            "Check complete, 1 warning has been found!\n\n\
             WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/\n\
             'as' and 'FROM' keywords' casing do not match\n\
             Dockerfile:1\n--------------------\n   \
             1 | >>> FROM scratch as x\n   2 |     COPY a b\n   3 |     \n--------------------\n"
        );
        let none = checked("--check", &serde_json::json!({}));
        assert_eq!(
            (none.text.as_str(), none.status),
            ("Check complete, no warnings found.\n", 0)
        );
        assert_eq!(checked("--call check,ignorestatus", &found).status, 0);
        let json = checked("--call check,format=json", &found);
        assert!(json.text.starts_with("{\n") && json.text.contains("\"ruleName\""));
    }
}
