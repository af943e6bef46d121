//! `RUN --mount=…`.

use serde::{Deserialize, Serialize};

use super::suggest::hinted;

/// One mount of a step, its variables still as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// Stage, image or named context.
    pub from: Option<String>,
    pub source: Option<String>,
    pub target: Option<String>,
    /// As written; else what the kind has by itself.
    pub read_only: Option<bool>,
    pub id: Option<String>,
    pub sharing: Option<Sharing>,
    pub required: bool,
    /// As a variable of the environment (secrets).
    pub env: Option<String>,
    /// Bytes (tmpfs).
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

const KINDS: &[&str] = &["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARING: &[&str] = &["shared", "private", "locked"];
const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "size",
    "env",
];

impl Mount {
    /// Read-only unless said otherwise, except for caches and tmpfs.
    pub fn is_read_only(&self) -> bool {
        (self.read_only).unwrap_or(!matches!(self.kind, MountKind::Cache | MountKind::Tmpfs))
    }

    /// Reads `type=cache,target=/x,…` after `expand` has replaced the variables
    /// of each value.
    ///
    /// # Errors
    /// Says which key or value is wrong.
    pub fn parse(
        text: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, String> {
        let mut mount = Self::default();
        let fields = csv(text)?;
        // Which keys are allowed depends on the kind, wherever it stands.
        for field in &fields {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("type")
            {
                mount.kind = kind(&expand(value)?)?;
            }
        }
        for field in &fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), Some(expand(value)?)),
                None => (field.to_ascii_lowercase(), None),
            };
            mount.set(&key, value, field)?;
        }
        mount.check()?;
        Ok(mount)
    }

    /// The stage, image or named context that a mount as written is from: known
    /// before any variable is.
    ///
    /// # Errors
    /// A variable is in it.
    pub fn from(text: &str) -> Result<Option<String>, String> {
        let mut from = None;
        for field in csv(text)? {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("from")
            {
                if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                    return Err(
                        "'from' doesn't support variable expansion, define alias stage instead"
                            .to_owned(),
                    );
                }
                from = Some(value.to_owned()).filter(|value| !value.is_empty());
            }
        }
        Ok(from)
    }

    fn set(&mut self, key: &str, value: Option<String>, field: &str) -> Result<(), String> {
        let is_switch = matches!(key, "readonly" | "ro" | "readwrite" | "rw" | "required");
        if !KEYS.contains(&key) {
            return Err(hinted(
                format!("unexpected key '{key}' in '{field}'"),
                key,
                KEYS,
            ));
        }
        let value = match value {
            Some(value) => value,
            None if is_switch => "true".to_owned(),
            None => return Err(format!("invalid field '{field}' must be a key=value pair")),
        };
        let invalid = || format!("invalid value for {key}: {value}");
        let misplaced = || {
            Err(format!(
                "unexpected key '{key}' for mount type '{}'",
                self.kind.name()
            ))
        };
        let owned_by_file = || format!("invalid value {value} for {key}");
        let number = || value.parse().map_err(|_| owned_by_file());
        match key {
            "type" => {}
            "from" => self.from = Some(value),
            "source" | "src" => self.source = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "readonly" | "ro" => self.read_only = Some(boolean(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean(&value).ok_or_else(invalid)?),
            "required" if !matches!(self.kind, MountKind::Secret | MountKind::Ssh) => {
                return misplaced();
            }
            "required" => self.required = boolean(&value).ok_or_else(invalid)?,
            "size" if self.kind != MountKind::Tmpfs => return misplaced(),
            "size" => self.size = Some(bytes(&value).ok_or_else(invalid)?),
            "env" if self.kind != MountKind::Secret => return misplaced(),
            "env" => self.env = Some(value),
            "id" => self.id = Some(value),
            "sharing" => self.sharing = Some(sharing(&value)?),
            "mode" => {
                self.mode = Some(u32::from_str_radix(&value, 8).map_err(|_| owned_by_file())?);
            }
            "uid" => self.uid = Some(number()?),
            _ => self.gid = Some(number()?),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let kind = self.kind.name();
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            for (name, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(format!("{name} not allowed for {kind:?} type mounts"));
                }
            }
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(format!("invalid cache sharing set for {kind} mount"));
        }
        if self.kind == MountKind::Secret {
            if self.from.is_some() {
                return Err("secret mount should not have a from".to_owned());
            }
            if self.source.is_none()
                && self.target.is_none()
                && self.id.is_none()
                && self.env.is_none()
            {
                return Err("invalid secret mount. one of source, target required".to_owned());
            }
            if self.source.is_some() && self.id.is_some() {
                return Err("both source and id can't be set".to_owned());
            }
        }
        if self.target.is_none()
            && matches!(
                self.kind,
                MountKind::Bind | MountKind::Cache | MountKind::Tmpfs
            )
        {
            return Err(format!("{kind} mount requires a target"));
        }
        Ok(())
    }
}

impl MountKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

fn kind(text: &str) -> Result<MountKind, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "bind" => MountKind::Bind,
        "cache" => MountKind::Cache,
        "tmpfs" => MountKind::Tmpfs,
        "secret" => MountKind::Secret,
        "ssh" => MountKind::Ssh,
        _ => {
            return Err(hinted(
                format!("unsupported mount type {text:?}"),
                text,
                KINDS,
            ));
        }
    })
}

fn sharing(text: &str) -> Result<Sharing, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => {
            return Err(hinted(
                format!("unsupported sharing value {text:?}"),
                text,
                SHARING,
            ));
        }
    })
}

/// Go's strconv.ParseBool.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// "64m", "1GiB": powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|char: char| !char.is_ascii_digit());
    let shift = match lower.get(digits.len()..)?.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// One line of comma-separated values, fields quoted with `"`.
fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(char) = chars.next() {
        let Some(field) = fields.last_mut() else {
            break;
        };
        match char {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '"' => return Err("failed to parse csv mounts: bare \" in a field".to_owned()),
            ',' if !quoted => fields.push(String::new()),
            char => field.push(char),
        }
    }
    if quoted {
        return Err("failed to parse csv mounts: a quote is not closed".to_owned());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Mount, String> {
        Mount::parse(text, &mut |value| Ok(value.replace("$V", "value")))
    }

    #[test]
    fn every_kind() {
        let cache =
            parse("type=cache,id=a,target=/c,sharing=locked,mode=0750,uid=1,gid=2").unwrap();
        assert_eq!(cache.kind, MountKind::Cache);
        assert_eq!(cache.sharing, Some(Sharing::Locked));
        assert_eq!(
            (cache.mode, cache.uid, cache.gid),
            (Some(0o750), Some(1), Some(2))
        );
        assert!(!cache.is_read_only());
        let bind = parse("target=/b,from=stage,\"source=/a,b\"").unwrap();
        assert_eq!(bind.source.as_deref(), Some("/a,b"));
        assert!(bind.is_read_only());
        assert!(!parse("target=/b,rw").unwrap().is_read_only());
        assert_eq!(
            parse("size=64m,type=tmpfs,target=/t").unwrap().size,
            Some(64 << 20)
        );
        let secret = parse("type=secret,id=$V,required,env=TOKEN").unwrap();
        assert_eq!(secret.id.as_deref(), Some("value"));
        assert!(secret.required);
        assert_eq!(parse("type=ssh").unwrap().kind, MountKind::Ssh);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            (
                "type=bnd,target=/a",
                "unsupported mount type \"bnd\" (did you mean bind?)",
            ),
            (
                "target=/a,sorce=b",
                "unexpected key 'sorce' in 'sorce=b' (did you mean source?)",
            ),
            ("target=/a,mode=0700", "mode not allowed for \"bind\""),
            (
                "type=cache,target=/a,sharing=mine",
                "unsupported sharing value",
            ),
            (
                "target=/a,sharing=shared",
                "invalid cache sharing set for bind mount",
            ),
            ("type=secret", "one of source, target required"),
            ("type=secret,id=a,source=b", "both source and id"),
            ("type=secret,id=a,from=b", "should not have a from"),
            ("target=/a,size=1", "unexpected key 'size'"),
            ("target=/a,ro=maybe", "invalid value for ro: maybe"),
            ("target", "must be a key=value pair"),
            ("type=cache", "cache mount requires a target"),
            ("\"target=/a", "csv"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
