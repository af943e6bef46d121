//! `--format`: Go templates, "table …" and "json".

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{MissingKey, Template, Value};
use serde_json::Value as Json;

use super::{json, table};
use crate::failure::Failure;

/// One row for people: names as templates use them, and their values.
#[derive(Debug, Default)]
pub(crate) struct Row {
    fields: Vec<(&'static str, Json)>,
    label: Option<Label>,
}

/// What `{{.Label "name"}}` gives.
#[derive(Clone, Debug)]
enum Label {
    Of(BTreeMap<String, String>),
    /// In the heading of a table: the name's last part.
    Head,
}

impl Label {
    fn get(&self, name: &str) -> String {
        match self {
            Self::Of(labels) => labels.get(name).cloned().unwrap_or_default(),
            Self::Head => name
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .replace(['-', '_'], " "),
        }
    }
}

impl Row {
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<Json>) {
        self.fields.push((name, value.into()));
    }

    /// Sets `.Labels` and what `.Label` looks in.
    pub(crate) fn set_labels(&mut self, labels: &BTreeMap<String, String>) {
        let texts: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        self.set("Labels", texts.join(","));
        self.label = Some(Label::Of(labels.clone()));
    }

    /// `{"Name":"…"}` in alphabetical order, as Docker's rows are.
    pub(crate) fn to_json(&self) -> String {
        let mut fields: Vec<_> = self
            .fields
            .iter()
            .map(|(name, value)| format!("{}:{value}", Json::from(*name)))
            .collect();
        fields.sort_unstable();
        // Go escapes these in JSON, for browsers.
        format!("{{{}}}", fields.join(","))
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
    }

    fn value(&self) -> Value {
        let mut fields: BTreeMap<Arc<str>, Value> = self
            .fields
            .iter()
            .map(|(name, value)| (Arc::from(*name), to_value(value)))
            .collect();
        if let Some(label) = self.label.clone() {
            let get: gotmpl::ValueFunc = Arc::new(move |args: &[Value]| {
                let name = args.first().and_then(Value::as_str).unwrap_or_default();
                Ok(Value::String(label.get(name).into()))
            });
            fields.insert(Arc::from("Label"), Value::Function(get));
        }
        Value::Map(Arc::new(fields))
    }
}

/// How a listing is shown.
pub(crate) struct Listing<'a> {
    /// `--format`, or the configured one; "" = "table".
    pub(crate) format: &'a str,
    /// Template of the plain table.
    pub(crate) table: &'a str,
    /// Template of `--quiet`.
    pub(crate) quiet: Option<&'a str>,
    /// Column heads by field.
    pub(crate) heads: &'a [(&'static str, &'static str)],
}

impl Listing<'_> {
    pub(crate) fn render(&self, rows: &[Row]) -> Result<String, Failure> {
        let format = unescape(match self.format {
            "" => "table",
            other => other,
        });
        if let Some(quiet) = self.quiet
            && (self.format.is_empty() || format == "table")
        {
            return self.lines(quiet, rows);
        }
        if format == "json" {
            return Ok(rows.iter().map(|row| row.to_json() + "\n").collect());
        }
        match format.strip_prefix("table") {
            Some(template) => {
                let template = template.trim();
                let template = if template.is_empty() {
                    self.table
                } else {
                    template
                };
                let mut head = Row::default();
                for (field, name) in self.heads {
                    head.set(field, *name);
                }
                head.label = Some(Label::Head);
                let mut lines = vec![render_row(&heads_only(template), &head)?];
                for row in rows {
                    lines.push(render_row(template, row)?);
                }
                let lines: Vec<_> = lines
                    .iter()
                    .flat_map(|line| line.split('\n'))
                    .map(str::to_owned)
                    .collect();
                Ok(table::align(&lines))
            }
            None => self.lines(&format, rows),
        }
    }

    fn lines(&self, template: &str, rows: &[Row]) -> Result<String, Failure> {
        rows.iter()
            .map(|row| render_row(template, row).map(|line| line + "\n"))
            .collect()
    }
}

fn render_row(template: &str, row: &Row) -> Result<String, Failure> {
    if template.split_whitespace().collect::<String>() == "{{json.}}" {
        return Ok(row.to_json());
    }
    // A method with an argument, which the template engine has as a function in
    // a field.
    execute(&template.replace(".Label ", "call .Label "), &row.value())
}

/// The heading of a table column is its field's name, whatever the template
/// does with the value (`{{json .Names}}` heads "NAMES").
fn heads_only(template: &str) -> String {
    ["json", "lower", "title", "truncate", "pad", "split"]
        .iter()
        .fold(template.to_owned(), |text, function| {
            text.replace(&format!("{{{{{function} ."), "{{.")
                .replace(&format!("{{{{ {function} ."), "{{.")
        })
}

/// A template over one JSON text of the engine.
pub(crate) fn over_json(template: &str, text: &str) -> Result<String, Failure> {
    let template = unescape(template);
    if template == "json" {
        return Ok(json::compact(text));
    }
    // {{json .A.B}} alone keeps the engine's order of fields.
    let inner = template
        .trim()
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"))
        .and_then(|rest| rest.trim().strip_prefix("json"))
        .map(str::trim);
    if let Some(path) = inner
        && let Some(path) = path.strip_prefix('.')
        && path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_')
    {
        let names: Vec<_> = path.split('.').filter(|name| !name.is_empty()).collect();
        if let Some(found) = json::at(text, &names) {
            return Ok(json::compact(found));
        }
    }
    let value: Json = serde_json::from_str(text)
        .map_err(|error| Failure::new(format!("cannot read the engine's reply: {error}")))?;
    execute_inspect(&template, &to_value(&value))
}

/// Renders `template`; an unknown field is an error. The words and statuses for
/// mistakes are those of Docker's listings.
fn execute(template: &str, data: &Value) -> Result<String, Failure> {
    parse(template)
        .map_err(|why| Failure::new(format!("failed to parse template: template: :1: {why}")))?
        .execute_to_string(data)
        .map_err(|why| Failure::new(format!("failed to execute template: template: {why}")))
}

/// The same with those of Docker's inspect.
fn execute_inspect(template: &str, data: &Value) -> Result<String, Failure> {
    parse(template)
        .map_err(|why| {
            Failure::with_status(format!("template parsing error: template: :1: {why}"), 64)
        })?
        .execute_to_string(data)
        .map_err(|why| Failure::new(format!("template parsing error: template: {why}")))
}

fn parse(template: &str) -> gotmpl::Result<Template> {
    functions(Template::new(""))
        .missing_key(MissingKey::Error)
        .parse(template)
}

/// Docker's functions on top of Go's own.
fn functions(template: Template) -> Template {
    fn word(args: &[Value], at: usize) -> String {
        args.get(at)
            .map(|value| match value {
                Value::String(text) => text.to_string(),
                other => other.to_string(),
            })
            .unwrap_or_default()
    }
    fn count(args: &[Value], at: usize) -> usize {
        args.get(at)
            .and_then(Value::as_int)
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or(0)
    }
    template
        .func("json", |args| {
            let value = args.first().map_or(Json::Null, from_value);
            Ok(Value::String(value.to_string().into()))
        })
        // Docker's lists may be null, whose length is 0.
        .func("len", |args| {
            let length = args.first().and_then(Value::len).unwrap_or(0);
            Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
        })
        .func("split", |args| {
            let (text, separator) = (word(args, 0), word(args, 1));
            let parts: Vec<Value> = if separator.is_empty() {
                text.chars()
                    .map(|c| Value::String(c.to_string().into()))
                    .collect()
            } else {
                text.split(&separator)
                    .map(|part| Value::String(part.into()))
                    .collect()
            };
            Ok(Value::List(parts.into()))
        })
        .func("join", |args| {
            let separator = word(args, 1);
            let joined = match args.first() {
                Some(Value::List(items)) => items
                    .iter()
                    .map(|item| word(std::slice::from_ref(item), 0))
                    .collect::<Vec<_>>()
                    .join(&separator),
                _ => String::new(),
            };
            Ok(Value::String(joined.into()))
        })
        .func("title", |args| {
            let text = word(args, 0);
            let mut letters = text.chars();
            let titled = letters
                .next()
                .map(|first| first.to_uppercase().collect::<String>() + letters.as_str());
            Ok(Value::String(titled.unwrap_or_default().into()))
        })
        .func("lower", |args| {
            Ok(Value::String(word(args, 0).to_lowercase().into()))
        })
        .func("upper", |args| {
            Ok(Value::String(word(args, 0).to_uppercase().into()))
        })
        .func("pad", |args| {
            let text = word(args, 0);
            let padded = if text.is_empty() {
                text
            } else {
                format!(
                    "{}{text}{}",
                    " ".repeat(count(args, 1)),
                    " ".repeat(count(args, 2))
                )
            };
            Ok(Value::String(padded.into()))
        })
        .func("truncate", |args| {
            let text: String = word(args, 0).chars().take(count(args, 1)).collect();
            Ok(Value::String(text.into()))
        })
}

/// What a shell passes as two characters: "\t" and "\n".
fn unescape(format: &str) -> String {
    format.replace("\\t", "\t").replace("\\n", "\n")
}

fn to_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int(value),
            (_, Some(value)) => Value::Uint(value),
            _ => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::List(items.iter().map(to_value).collect()),
        Json::Object(fields) => Value::Map(Arc::new(
            fields
                .iter()
                .map(|(name, value)| (Arc::from(name.as_str()), to_value(value)))
                .collect(),
        )),
    }
}

fn from_value(value: &Value) -> Json {
    match value {
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::String(text) => Json::from(text.as_ref()),
        Value::List(items) => Json::Array(items.iter().map(from_value).collect()),
        Value::Map(fields) => Json::Object(
            fields
                .iter()
                .map(|(name, value)| (name.to_string(), from_value(value)))
                .collect(),
        ),
        _ => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"Name":"/x","Z":{"b":1,"a":[1,2]},"State":{"Running":true,"Pid":12},
        "Labels":{"a.b":"c"},"Mounts":[{"Source":"/s","Type":"bind"},{"Source":"/t","Type":"tmpfs"}],
        "NetworkSettings":{"Networks":{"bridge":{"IPAddress":"172.17.0.2"}},"Ports":{"80/tcp":[{"HostPort":"8080"}],"81/tcp":null}}}"#;

    #[test]
    fn what_people_do_with_inspect() {
        for (template, want) in [
            ("{{.Name}}", "/x"),
            ("{{.State.Running}} {{.State.Pid}}", "true 12"),
            ("{{json .Z}}", r#"{"b":1,"a":[1,2]}"#),
            ("{{json .Name}}", r#""/x""#),
            ("{{index .Labels \"a.b\"}}", "c"),
            (
                "{{range .Mounts}}{{.Source}}:{{.Type}} {{end}}",
                "/s:bind /t:tmpfs ",
            ),
            (
                "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}}{{end}}",
                "bridge=172.17.0.2",
            ),
            (
                "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
                "8080",
            ),
            (
                "{{.NetworkSettings.Networks.bridge.IPAddress}}",
                "172.17.0.2",
            ),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{with .State}}{{.Pid}}{{end}}", "12"),
            ("{{join (split \"a,b\" \",\") \"-\"}}", "a-b"),
            (
                "{{upper .Name}} {{len .Mounts}} {{printf \"%.2s\" .Name}}",
                "/X 2 /x",
            ),
            ("{{println .Name}}", "/x\n"),
            ("{{range .Mounts}}{{println .Type}}{{end}}", "bind\ntmpfs\n"),
            (
                "{{truncate .Name 1}}|{{pad .Name 1 2}}|{{title \"ab\"}}",
                "/| /x  |Ab",
            ),
            ("a\\tb", "a\tb"),
            (
                "{{range $p, $b := .NetworkSettings.Ports}}{{$p}} {{len $b}} {{end}}",
                "80/tcp 1 81/tcp 0 ",
            ),
        ] {
            assert_eq!(over_json(template, TEXT).unwrap(), want, "{template}");
        }
        assert!(over_json("{{.Foo}}", TEXT).is_err());
        assert!(
            over_json("{{.Foo", TEXT)
                .unwrap_err()
                .message
                .starts_with("template parsing error")
        );
    }

    #[test]
    fn listings() {
        let mut row = Row::default();
        row.set("ID", "123");
        row.set("Names", "a,b");
        row.set_labels(&BTreeMap::from([("a.b-c".to_owned(), "v".to_owned())]));
        let listing = |format| Listing {
            format,
            table: "{{.ID}}\t{{.Names}}",
            quiet: None,
            heads: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
        };
        let show = |format| listing(format).render(std::slice::from_ref(&row)).unwrap();
        assert_eq!(show(""), "CONTAINER ID   NAMES\n123            a,b\n");
        assert_eq!(
            show("table {{.Names}}\\t{{.ID}}"),
            "NAMES     CONTAINER ID\na,b       123\n"
        );
        let json = "{\"ID\":\"123\",\"Labels\":\"a.b-c=v\",\"Names\":\"a,b\"}\n";
        assert_eq!(show("json"), json);
        assert_eq!(show("{{json .}}"), json);
        assert_eq!(show("{{.Label \"a.b-c\"}}|{{.Label \"x\"}}"), "v|\n");
        assert_eq!(show("table {{.Label \"a.b-c\"}}"), "b c\nv\n");
        assert_eq!(show("{{.ID}}: {{upper .Names}}"), "123: A,B\n");
    }
}
