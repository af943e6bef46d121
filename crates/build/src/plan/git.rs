//! Addresses of git repositories as ADD, contexts and named contexts have them:
//! `https://host/repo.git#branch:directory`, `git@host:repo.git?tag=v1`.

use crate::graph;

/// An address and what its fragment and query say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitAddress {
    /// As git takes it.
    pub remote: String,
    /// Branch, tag, commit or ref; empty = the remote's HEAD.
    pub reference: String,
    pub subdir: String,
    /// Commit that it must be, whole or a prefix.
    pub checksum: String,
    pub keep_git_dir: Option<bool>,
    pub submodules: Option<bool>,
    /// `github.com/user/repo`: an address only where no path of that name can
    /// be meant (contexts).
    pub is_bare: bool,
}

impl GitAddress {
    /// None if it is no address of a repository: over http and https only what
    /// ends with `.git` is, unless `known` to be.
    ///
    /// # Errors
    /// The query asks for what there is not, or contradicts itself.
    pub fn parse(text: &str, known: bool) -> Option<Result<Self, String>> {
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = address.split_once('?').unwrap_or((address, ""));
        let is_bare = text.starts_with("github.com/");
        let remote = match remote.split_once("://") {
            Some((scheme, rest)) => {
                let scheme = scheme.to_ascii_lowercase();
                let is_git = match scheme.as_str() {
                    "http" | "https" => known || rest.ends_with(".git"),
                    "git" | "ssh" => true,
                    _ => false,
                };
                if !is_git || rest.trim_start_matches('/').is_empty() {
                    return None;
                }
                format!("{scheme}://{rest}")
            }
            None if is_bare => format!("https://{remote}"),
            None if is_scp(remote) => remote.to_owned(),
            None => return None,
        };
        let fragment = decoded(fragment);
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        let mut address = Self {
            remote,
            reference: reference.to_owned(),
            subdir: subdir.to_owned(),
            is_bare,
            ..Self::default()
        };
        Some(address.query(query).map(|()| address))
    }

    fn query(&mut self, query: &str) -> Result<(), String> {
        let (mut tag, mut branch) = (String::new(), String::new());
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(key), decoded(value));
            if seen.contains(&key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            let is_switch = matches!(key.as_str(), "keep-git-dir" | "submodules");
            if value.is_empty() && !is_switch {
                return Err(format!("query {key:?} has no value"));
            }
            match key.as_str() {
                "ref" => agree("ref", &mut self.reference, value)?,
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "tag" => tag = under("refs/tags/", &value),
                "branch" => branch = under("refs/heads/", &value),
                "checksum" | "commit" => self.checksum = value,
                "keep-git-dir" => self.keep_git_dir = Some(switch(&key, &value)?),
                "submodules" => self.submodules = Some(switch(&key, &value)?),
                other => return Err(format!("unexpected query {other:?}")),
            }
            seen.push(key);
        }
        if !tag.is_empty() && !branch.is_empty() {
            return Err("branch conflicts with tag".to_owned());
        }
        for name in [tag, branch] {
            if !name.is_empty() {
                agree("ref", &mut self.reference, name)?;
            }
        }
        if self.reference.is_empty() {
            self.reference.clone_from(&self.checksum);
        }
        Ok(())
    }

    /// The source operation for it.
    pub fn source(self) -> graph::Git {
        graph::Git {
            remote: self.remote,
            reference: self.reference,
            subdir: self.subdir,
            keep_git_dir: self.keep_git_dir.unwrap_or(false),
            checksum: self.checksum,
            submodules: self.submodules.unwrap_or(true),
        }
    }
}

/// `user@host:path`.
fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else {
        return false;
    };
    let Some((host, _)) = rest.split_once(':') else {
        return false;
    };
    let is_name = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || more.contains(&b))
    };
    is_name(user, b"_") && is_name(host, b".")
}

fn agree(what: &str, known: &mut String, value: String) -> Result<(), String> {
    if !known.is_empty() && *known != value {
        return Err(format!("{what} conflicts: {known:?} vs {value:?}"));
    }
    *known = value;
    Ok(())
}

fn under(prefix: &str, name: &str) -> String {
    match name.starts_with(prefix) {
        true => name.to_owned(),
        false => format!("{prefix}{name}"),
    }
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value: {value:?}")),
    }
}

/// `%2F` and the like replaced; what is no such sequence, or gives no UTF-8,
/// stays.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|&b| char::from(b).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.extend(u8::try_from(high * 16 + low));
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GitAddress {
        GitAddress::parse(text, false).unwrap().unwrap()
    }

    #[test]
    fn addresses() {
        let address = parse("https://user@host/a/b.git#feature/x:sub/dir");
        assert_eq!(address.remote, "https://user@host/a/b.git");
        assert_eq!(
            (address.reference.as_str(), address.subdir.as_str()),
            ("feature/x", "sub/dir")
        );
        let address = parse("git@host.org:a/b?tag=v1&subdir=d&keep-git-dir&submodules=0");
        assert_eq!(address.remote, "git@host.org:a/b");
        assert_eq!(address.reference, "refs/tags/v1");
        assert_eq!(address.subdir, "d");
        assert_eq!(
            (address.keep_git_dir, address.submodules),
            (Some(true), Some(false))
        );
        let address = parse("ssh://git@host:22/a?commit=abc%31");
        assert_eq!(
            (address.reference, address.checksum),
            ("abc1".into(), "abc1".into())
        );
        assert!(parse("github.com/a/b").is_bare);
        for text in [
            "https://host/a.tar.gz",
            "./a.git",
            "a/b.git",
            "ftp://host/a.git",
            "https://",
            "https://host/a.git/x",
            "a b@c:d",
        ] {
            assert_eq!(GitAddress::parse(text, false), None, "{text}");
        }
        assert!(GitAddress::parse("https://host/a", true).is_some());
    }

    #[test]
    fn queries_that_make_no_sense() {
        for (query, why) in [
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("ref=", "query \"ref\" has no value"),
            ("x=1", "unexpected query \"x\""),
            ("submodules=maybe", "invalid submodules value: \"maybe\""),
            ("ref=b", "ref conflicts: \"a\" vs \"b\""),
        ] {
            let text = format!("https://host/a.git?{query}#a");
            let error = GitAddress::parse(&text, false).unwrap().unwrap_err();
            assert_eq!(error, why, "{query}");
        }
    }
}
