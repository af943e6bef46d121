//! `builder` of daemon.json, as Docker reads it: names in any case, sizes as
//! texts, old names for new ones.

use std::collections::BTreeMap;

use berth_api::filters::Filters;
use berth_engine::build::PruneOptions;
use berth_engine::{Bounds, BuildGc};
use serde_json::{Map, Value as Json};

use super::settings::bytes;

/// `values`: what is below "builder", each as JSON.
pub(crate) fn collection(values: &BTreeMap<String, String>) -> Result<BuildGc, String> {
    let mut found = BuildGc::Default(Bounds::default());
    for (name, text) in values {
        let json: Json = serde_json::from_str(text)
            .map_err(|error| format!("invalid JSON: builder.{name}: {error}"))?;
        if name.eq_ignore_ascii_case("gc") {
            found = gc(&json)?;
        } else if name.eq_ignore_ascii_case("entitlements") {
            entitlements(&json)?;
        } else {
            return Err(format!("builder.{name} is not supported by berth yet"));
        }
    }
    Ok(found)
}

fn gc(json: &Json) -> Result<BuildGc, String> {
    let mut enabled = true;
    let mut bounds = Bounds::default();
    let mut kept = None;
    let mut rules = None;
    for (name, value) in object(json, "builder.gc")? {
        let place = format!("builder.gc.{name}");
        match name.to_ascii_lowercase().as_str() {
            "enabled" => enabled = flag(value, &place)?,
            "defaultreservedspace" => bounds.reserved = size(value, &place)?,
            "defaultkeepstorage" => kept = Some(size(value, &place)?),
            "defaultmaxusedspace" => bounds.max_used = size(value, &place)?,
            "defaultminfreespace" => bounds.min_free = size(value, &place)?,
            "policy" => rules = Some(policy(value, &place)?),
            _ => return Err(unknown(&place)),
        }
    }
    if bounds.reserved == 0 {
        bounds.reserved = kept.unwrap_or(0);
    }
    if bounds.max_used > 0 && bounds.reserved > bounds.max_used {
        return Err(
            "builder.gc: defaultReservedSpace must not be above defaultMaxUsedSpace".to_owned(),
        );
    }
    Ok(match (enabled, rules) {
        (false, _) => BuildGc::Off,
        (true, Some(rules)) => BuildGc::Rules(rules),
        (true, None) => BuildGc::Default(bounds),
    })
}

fn policy(json: &Json, place: &str) -> Result<Vec<PruneOptions>, String> {
    let list = json
        .as_array()
        .ok_or_else(|| format!("{place} must be a list"))?;
    let mut rules = Vec::new();
    for (at, json) in list.iter().enumerate() {
        let place = format!("{place}[{at}]");
        let rule = rule(json, &place)?;
        rule.rule()
            .map_err(|error| format!("{place}: {}", error.message))?;
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(json: &Json, place: &str) -> Result<PruneOptions, String> {
    let mut rule = PruneOptions::default();
    let mut kept = None;
    for (name, value) in object(json, place)? {
        let place = format!("{place}.{name}");
        match name.to_ascii_lowercase().as_str() {
            "all" => rule.all = flag(value, &place)?,
            "filter" => filter(value, &place, &mut rule.filters)?,
            "keepduration" => {
                let text = value.as_str();
                let text = text.ok_or_else(|| format!("{place} must be a text like \"48h\""))?;
                rule.filters.insert("unused-for", text);
            }
            "reservedspace" => rule.reserved_space = size(value, &place)?,
            "keepstorage" => kept = Some(size(value, &place)?),
            "maxusedspace" => rule.max_used_space = size(value, &place)?,
            "minfreespace" => rule.min_free_space = size(value, &place)?,
            _ => return Err(unknown(&place)),
        }
    }
    if rule.reserved_space == 0 {
        rule.reserved_space = kept.unwrap_or(0);
    }
    Ok(rule)
}

/// `["unused-for=48h"]`; or, as Docker once wrote it, `{"unused-for":
/// {"48h": true}}`.
fn filter(json: &Json, place: &str, filters: &mut Filters) -> Result<(), String> {
    let Json::Array(list) = json else {
        *filters = Filters::parse(&json.to_string())
            .map_err(|error| format!("{place}: {}", error.message))?;
        return Ok(());
    };
    for entry in list {
        let text = entry.as_str();
        let text = text.ok_or_else(|| format!("{place} must be a list of texts"))?;
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        filters.insert(&name.trim().to_lowercase(), value.trim());
    }
    Ok(())
}

/// What berth does anyway may be said.
fn entitlements(json: &Json) -> Result<(), String> {
    for (name, value) in object(json, "builder.entitlements")? {
        let place = format!("builder.entitlements.{name}");
        let fixed = match name.as_str() {
            "network-host" => true,
            "security-insecure" | "device" => false,
            _ => return Err(unknown(&place)),
        };
        if flag(value, &place)? != fixed {
            return Err(format!("{place}={value} is not supported by berth yet"));
        }
    }
    Ok(())
}

fn unknown(place: &str) -> String {
    format!("the following directives don't match any configuration option: {place}")
}

fn object<'a>(json: &'a Json, place: &str) -> Result<&'a Map<String, Json>, String> {
    json.as_object()
        .ok_or_else(|| format!("{place} must be an object"))
}

fn flag(json: &Json, place: &str) -> Result<bool, String> {
    json.as_bool()
        .ok_or_else(|| format!("{place} must be true or false"))
}

fn size(json: &Json, place: &str) -> Result<u64, String> {
    let text = match json {
        Json::String(text) if text.is_empty() => return Ok(0),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    bytes(&text)
        .and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| format!("failed to parse {place}: invalid size: '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(gc: &str) -> Result<BuildGc, String> {
        collection(&BTreeMap::from([("gc".to_owned(), gc.to_owned())]))
    }

    #[test]
    fn docker_s_settings() {
        let BuildGc::Default(bounds) = collection(&BTreeMap::new()).unwrap() else {
            panic!("collection is on by default")
        };
        assert_eq!(bounds, Bounds::default());
        assert!(matches!(read(r#"{"enabled": false}"#), Ok(BuildGc::Off)));
        let BuildGc::Default(bounds) = read(
            r#"{"Enabled": true, "defaultKeepStorage": "20GB", "defaultMaxUsedSpace": "30g"}"#,
        )
        .unwrap() else {
            panic!("no default rules")
        };
        assert_eq!((bounds.reserved, bounds.max_used), (20 << 30, 30 << 30));
        let BuildGc::Rules(rules) = read(
            r#"{"policy": [
                {"keepStorage": "1GB", "filter": ["unused-for=2200h"]},
                {"reservedSpace": "5GB", "filter": {"unused-for": {"3300h": true}}},
                {"minFreeSpace": "1GB", "all": true, "keepDuration": "48h"}]}"#,
        )
        .unwrap() else {
            panic!("no rules")
        };
        assert_eq!(rules[0].reserved_space, 1 << 30);
        assert_eq!(rules[1].filters.get("unused-for").next(), Some("3300h"));
        assert!(rules[2].all && rules[2].filters.contains("unused-for"));
    }

    #[test]
    fn mistakes() {
        for (gc, words) in [
            ("1", "builder.gc must be an object"),
            (r#"{"nope": 1}"#, "builder.gc.nope"),
            (r#"{"enabled": "yes"}"#, "must be true or false"),
            (
                r#"{"defaultReservedSpace": "much"}"#,
                "invalid size: 'much'",
            ),
            (
                r#"{"defaultReservedSpace": "2g", "defaultMaxUsedSpace": "1g"}"#,
                "must not be above",
            ),
            (r#"{"policy": {}}"#, "must be a list"),
            (r#"{"policy": [{"filter": ["x=1"]}]}"#, "invalid filter 'x'"),
            (r#"{"policy": [{"until": "1h"}]}"#, "policy[0].until"),
        ] {
            let error = read(gc).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let other = |name: &str, json: &str| {
            collection(&BTreeMap::from([(name.to_owned(), json.to_owned())]))
        };
        assert!(other("history", "{}").is_err());
        assert!(other("entitlements", r#"{"network-host": true}"#).is_ok());
        assert!(other("entitlements", r#"{"security-insecure": true}"#).is_err());
    }
}
