//! `filters` query parameters: a JSON object of lists, or (from old clients)
//! of objects whose keys are the values.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::Error;

/// Field → accepted values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Parses the parameter; an empty one means no filters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            List(Vec<String>),
            Set(BTreeMap<String, bool>),
        }
        if text.is_empty() {
            return Ok(Self::default());
        }
        let fields: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("invalid filter: {error}")))?;
        Ok(Self(
            fields
                .into_iter()
                .map(|(field, values)| {
                    let values = match values {
                        Values::List(list) => list.into_iter().collect(),
                        Values::Set(set) => set
                            .into_iter()
                            .filter(|(_, on)| *on)
                            .map(|(value, _)| value)
                            .collect(),
                    };
                    (field, values)
                })
                .collect(),
        ))
    }

    /// As clients send it.
    pub fn to_json(&self) -> String {
        let sets: BTreeMap<_, BTreeMap<_, _>> = self
            .0
            .iter()
            .map(|(field, values)| (field, values.iter().map(|value| (value, true)).collect()))
            .collect();
        serde_json::to_string(&sets).unwrap_or_default()
    }

    /// Adds what a person wrote: "name=value".
    pub fn add(&mut self, text: &str) -> Result<(), Error> {
        let (field, value) = text.split_once('=').ok_or_else(|| {
            Error::invalid(format!(
                "invalid argument \"{text}\" for \"-f, --filter\" flag: invalid filter '{text}'"
            ))
        })?;
        self.insert(&field.trim().to_lowercase(), value.trim());
        Ok(())
    }

    pub fn insert(&mut self, field: &str, value: &str) {
        self.0
            .entry(field.to_owned())
            .or_default()
            .insert(value.to_owned());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Values of one field; none when it was not given.
    pub fn get(&self, field: &str) -> impl Iterator<Item = &str> {
        self.0.get(field).into_iter().flatten().map(String::as_str)
    }

    pub fn contains(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// Refuses fields that an endpoint does not know.
    pub fn validate(&self, known: &[&str]) -> Result<(), Error> {
        match self.0.keys().find(|field| !known.contains(&field.as_str())) {
            Some(field) => Err(Error::invalid(format!("invalid filter '{field}'"))),
            None => Ok(()),
        }
    }

    /// A field that holds one boolean; `default` when absent.
    pub fn boolean(&self, field: &str, default: bool) -> Result<bool, Error> {
        let Some(values) = self.0.get(field) else {
            return Ok(default);
        };
        let on = values.contains("1") || values.contains("true");
        let off = values.contains("0") || values.contains("false");
        if on == off {
            let shown = values
                .iter()
                .map(|value| format!("'{value}'"))
                .collect::<Vec<_>>()
                .join(", ");
            return Err(Error::invalid(format!(
                "invalid filter '{field}={}'",
                shown.trim_matches('\'')
            )));
        }
        Ok(on)
    }

    /// True when the field is absent or one value equals `text`.
    pub fn exact(&self, field: &str, text: &str) -> bool {
        self.0.get(field).is_none_or(|values| values.contains(text))
    }

    /// True when the field is absent or all its "key" / "key=value" entries hold.
    pub fn labels(&self, field: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(field).all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let list = Filters::parse(r#"{"label":["a=b","c"],"status":["running"]}"#).unwrap();
        let set = Filters::parse(
            r#"{"label":{"a=b":true,"c":true,"d":false},"status":{"running":true}}"#,
        )
        .unwrap();
        assert_eq!(list, set);
        assert!(Filters::parse("[1]").is_err());
        assert_eq!(Filters::parse(&list.to_json()).unwrap(), list);
    }

    #[test]
    fn booleans_and_unknown_fields() {
        let filters = Filters::parse(r#"{"dangling":["true"],"x":["1","0"]}"#).unwrap();
        assert!(filters.boolean("dangling", false).unwrap());
        assert!(filters.boolean("absent", true).unwrap());
        assert!(filters.boolean("x", true).is_err());
        assert!(filters.validate(&["dangling"]).is_err());
    }
}
