//! The flags of one instruction.

use super::suggest::hinted;

/// What an instruction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
    /// May be given several times.
    List,
}

/// Flags that were given, by name.
#[derive(Debug, Default)]
pub(super) struct Flags(Vec<(&'static str, String)>);

impl Flags {
    /// # Errors
    /// A flag that the instruction does not have, twice, or without its value.
    pub(super) fn parse(
        given: &[String],
        known: &'static [(&'static str, Kind)],
    ) -> Result<Self, String> {
        let mut flags = Self::default();
        for flag in given {
            let flag = flag.trim_start_matches("--");
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            let Some((name, kind)) = known.iter().find(|(known, _)| *known == name) else {
                let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
                return Err(hinted(format!("unknown flag: --{name}"), name, &names));
            };
            if *kind != Kind::List && flags.text(name).is_some() {
                return Err(format!("duplicate flag specified: --{name}"));
            }
            let value = match (kind, value) {
                (Kind::Bool, None) => "true".to_owned(),
                (Kind::Bool, Some(text)) => match text.to_ascii_lowercase().as_str() {
                    "" => return Err(format!("missing a value on flag: --{name}")),
                    lower @ ("true" | "false") => lower.to_owned(),
                    _ => {
                        return Err(format!(
                            "expecting boolean value for flag --{name}, not: {text}"
                        ));
                    }
                },
                (_, None) => return Err(format!("missing a value on flag: --{name}")),
                (_, Some(text)) => text.to_owned(),
            };
            flags.0.push((name, value));
        }
        Ok(flags)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[(&str, Kind)] = &[
        ("from", Kind::Text),
        ("link", Kind::Bool),
        ("mount", Kind::List),
    ];

    fn parse(given: &[&str]) -> Result<Flags, String> {
        let given: Vec<_> = given.iter().map(|&flag| flag.to_owned()).collect();
        Flags::parse(&given, KNOWN)
    }

    #[test]
    fn known_flags_are_found() {
        let flags = parse(&["--from=a=b", "--link", "--mount=1", "--mount=2"]).unwrap();
        assert_eq!(flags.text("from"), Some("a=b"));
        assert!(flags.is_set("link"));
        assert_eq!(flags.all("mount").collect::<Vec<_>>(), ["1", "2"]);
        assert!(!parse(&["--link=false"]).unwrap().is_set("link"));
    }

    #[test]
    fn others_are_refused() {
        for (given, why) in [
            (
                &["--form=a"][..],
                "unknown flag: --form (did you mean from?)",
            ),
            (&["--from"], "missing a value on flag: --from"),
            (
                &["--from=a", "--from=b"],
                "duplicate flag specified: --from",
            ),
            (&["--link=maybe"], "expecting boolean value"),
            (&["--link="], "missing a value"),
        ] {
            let error = parse(given).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
