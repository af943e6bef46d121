//! What a remote has, and getting it.

use berth_build::graph::Git;
use berth_build::solve;

use super::command::Program;
use super::invalid;

/// A commit that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) commit: String,
    /// The object that the reference names: the commit, or the tag of it.
    pub(super) object: String,
    /// "refs/heads/main"; empty for a commit that was named itself.
    pub(super) name: String,
}

/// What is given to git as a remote: an address of a protocol that is allowed,
/// never an option (CVE-2017-1000117) and never a path.
pub(super) fn check(remote: &str) -> Result<(), solve::Error> {
    let is_plain =
        !remote.starts_with('-') && !remote.chars().any(|char| char.is_control() || char == ' ');
    let known = match remote.split_once("://") {
        Some((scheme, rest)) => {
            matches!(scheme, "http" | "https" | "git" | "ssh")
                && !rest.starts_with(['-', '/'])
                && !rest.is_empty()
        }
        // user@host:path; "a::b" names a program.
        None => {
            let (user, rest) = remote.split_once('@').unwrap_or_default();
            let (host, path) = rest.split_once(':').unwrap_or_default();
            let is_word = |text: &str| {
                text.starts_with(|char: char| char.is_ascii_alphanumeric())
                    && (text.bytes())
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            };
            is_word(user) && is_word(host) && !path.is_empty() && !path.starts_with(':')
        }
    };
    match is_plain && known {
        true => Ok(()),
        false => Err(invalid(format!(
            "{:?} is no remote of git that builds can use",
            shown(remote)
        ))),
    }
}

/// Names as git allows them (git-check-ref-format), and commits.
pub(super) fn check_reference(reference: &str) -> Result<(), solve::Error> {
    let bad = reference.starts_with(['-', '/', '.'])
        || reference.ends_with(['/', '.'])
        || reference.contains("..")
        || reference.contains("//")
        || reference.contains("@{")
        || reference
            .chars()
            .any(|char| char.is_control() || char.is_whitespace() || "~^:?*[\\".contains(char));
    match bad {
        true => Err(invalid(format!("invalid git ref {reference:?}"))),
        false => Ok(()),
    }
}

pub(super) fn check_commit(git: &Git, found: &Found) -> Result<(), solve::Error> {
    let wanted = git.checksum.to_ascii_lowercase();
    if wanted.is_empty() {
        return Ok(());
    }
    if wanted.len() < 7 || !is_hex(&wanted) {
        return Err(invalid(format!(
            "invalid checksum {wanted} for Git URL, expected hex commit hash"
        )));
    }
    match found.commit.starts_with(&wanted) || found.object.starts_with(&wanted) {
        true => Ok(()),
        false => Err(invalid(format!(
            "expected checksum to match {wanted}, got {}",
            found.commit
        ))),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

/// Sees to it that the commit is in the repository.
pub(super) async fn fetch(git: &Program<'_>, wanted: &Git) -> Result<Found, solve::Error> {
    if is_commit(&wanted.reference) {
        let commit = wanted.reference.clone();
        let found = Found {
            object: commit.clone(),
            commit,
            name: String::new(),
        };
        if has(git, &found.commit).await {
            return Ok(found);
        }
        if shallow(git, &found.object).await.is_err() || !has(git, &found.commit).await {
            // The server gives what has a name only: all of it, then.
            everything(git).await?;
        }
        return match has(git, &found.commit).await {
            true => Ok(found),
            false => Err(missing(git, wanted)),
        };
    }
    let listed = git
        .run(&[
            "ls-remote",
            "--quiet",
            "--",
            git.remote(),
            name_or_head(wanted),
            &peeled(wanted),
        ])
        .await?;
    let mut found = pick(&String::from_utf8_lossy(&listed), &wanted.reference)
        .ok_or_else(|| missing(git, wanted))?;
    if has(git, &found.commit).await && has(git, &found.object).await {
        return Ok(found);
    }
    if shallow(git, &found.object).await.is_ok() && has(git, &found.commit).await {
        return Ok(found);
    }
    // An old server: by name, which may have moved since.
    const PIN: &str = "refs/berth/pin";
    shallow(git, &format!("+{}:{PIN}", found.name)).await?;
    found.object = one(git, PIN).await?;
    found.commit = one(git, &format!("{PIN}^{{commit}}")).await?;
    Ok(found)
}

async fn shallow(git: &Program<'_>, what: &str) -> Result<(), solve::Error> {
    let args = [
        "fetch",
        "--quiet",
        "--depth=1",
        "--no-tags",
        "--no-write-fetch-head",
        "--",
        git.remote(),
        what,
    ];
    git.run(&args).await.map(drop)
}

async fn everything(git: &Program<'_>) -> Result<(), solve::Error> {
    let mut args = vec!["fetch", "--quiet", "--no-write-fetch-head"];
    if git.repository().join("shallow").exists() {
        args.push("--unshallow");
    }
    args.extend([
        "--",
        git.remote(),
        "+refs/heads/*:refs/berth/heads/*",
        "+refs/tags/*:refs/berth/tags/*",
    ]);
    git.run(&args).await.map(drop)
}

/// Whether an object is here, and what it stands on.
async fn has(git: &Program<'_>, object: &str) -> bool {
    git.run(&["cat-file", "-e", &format!("{object}^{{tree}}")])
        .await
        .is_ok()
}

async fn one(git: &Program<'_>, name: &str) -> Result<String, solve::Error> {
    let out = git
        .run(&["rev-parse", "--verify", "--end-of-options", name])
        .await?;
    let text = String::from_utf8_lossy(&out).trim().to_owned();
    match is_commit(&text) {
        true => Ok(text),
        false => Err(invalid(format!("git gives no object for {name}"))),
    }
}

fn missing(git: &Program<'_>, wanted: &Git) -> solve::Error {
    solve::Error::NotFound(format!(
        "repository {} does not contain ref {}",
        shown(git.remote()),
        name_or_head(wanted)
    ))
}

fn name_or_head(wanted: &Git) -> &str {
    match wanted.reference.as_str() {
        "" => "HEAD",
        reference => reference,
    }
}

fn peeled(wanted: &Git) -> String {
    format!("{}^{{}}", name_or_head(wanted))
}

/// The best of what `ls-remote` lists: the name itself, a tag, a branch.
fn pick(listed: &str, reference: &str) -> Option<Found> {
    let lines: Vec<(&str, &str)> = listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(object, _)| is_commit(object))
        .collect();
    let object_of = |name: &str| {
        let found = lines.iter().find(|(_, listed)| *listed == name);
        found.map(|(object, _)| (*object).to_owned())
    };
    let names = match reference {
        "" => vec!["HEAD".to_owned()],
        name if name.starts_with("refs/") => vec![name.to_owned()],
        name => vec![
            format!("refs/tags/{name}"),
            format!("refs/heads/{name}"),
            format!("refs/{name}"),
            name.to_owned(),
        ],
    };
    names.into_iter().find_map(|name| {
        let object = object_of(&name)?;
        let commit = object_of(&format!("{name}^{{}}")).unwrap_or_else(|| object.clone());
        Some(Found {
            commit,
            object,
            name,
        })
    })
}

/// Without login.
pub(super) fn shown(remote: &str) -> String {
    let Some((scheme, rest)) = remote.split_once("://") else {
        return remote.to_owned();
    };
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = host.rsplit('@').next().unwrap_or(host);
    match path {
        Some(path) => format!("{scheme}://{host}/{path}"),
        None => format!("{scheme}://{host}"),
    }
}

/// "https://host/" of an HTTP remote.
pub(super) fn origin(remote: &str) -> Option<String> {
    let shown = shown(remote);
    let (scheme, rest) = shown.split_once("://")?;
    let host = rest.split('/').next()?;
    matches!(scheme, "http" | "https").then(|| format!("{scheme}://{host}/"))
}

/// The remote of a submodule, which may be relative to its parent's.
pub(super) fn relative(parent: &str, address: &str) -> String {
    if !address.starts_with("./") && !address.starts_with("../") {
        return address.to_owned();
    }
    let mut base = parent.trim_end_matches('/').to_owned();
    let mut rest = address;
    loop {
        if let Some(tail) = rest.strip_prefix("./") {
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("../") {
            rest = tail;
            // Never above the host.
            let start = base.find("://").map_or(0, |at| at + 3);
            let cut = base.get(start..).and_then(|path| path.rfind(['/', ':']));
            match cut {
                Some(at) if base.as_bytes().get(start + at) == Some(&b'/') => {
                    base.truncate(start + at)
                }
                Some(at) => base.truncate(start + at + 1),
                None => return address.to_owned(),
            }
        } else {
            break;
        }
    }
    match base.ends_with(':') {
        true => format!("{base}{rest}"),
        false => format!("{base}/{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_and_names() {
        for good in [
            "https://h/r.git",
            "ssh://git@h:22/r",
            "git://h/r",
            "git@h.org:a/b.git",
        ] {
            check(good).unwrap();
        }
        for bad in [
            "--upload-pack=x",
            "/etc",
            "file:///etc",
            "ext::sh -c x",
            "ssh://-oProxyCommand=x/y",
            "git@-oProxy:x",
            "https://h/a b",
            "../x",
            "",
            "h::x",
            "a@b::c",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for good in ["", "main", "refs/heads/a/b", "v1.0", "feature/x-1"] {
            check_reference(good).unwrap();
        }
        for bad in [
            "-x", "a..b", "a b", "a^{}", "a:b", "*", "a\n", "/a", "a@{1}",
        ] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_best_of_what_there_is() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        let listed = format!(
            "{a}\tHEAD\n{a}\trefs/heads/v1\n{b}\trefs/tags/v1\n{c}\trefs/tags/v1^{{}}\n{a}\trefs/heads/x/v1\nnonsense\n"
        );
        let found = pick(&listed, "v1").unwrap();
        assert_eq!((found.commit, found.object), (c, b));
        assert_eq!(found.name, "refs/tags/v1");
        assert_eq!(pick(&listed, "refs/heads/v1").unwrap().commit, a);
        assert_eq!(pick(&listed, "").unwrap().name, "HEAD");
        assert_eq!(pick(&listed, "none"), None);
    }

    #[test]
    fn submodules_beside_their_parent() {
        for (parent, address, wanted) in [
            ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
            ("https://h/a/b.git", "../../c/d", "https://h/c/d"),
            ("https://h/a", "../../../x", "../../../x"),
            ("git@h:a/b", "../c", "git@h:a/c"),
            ("git@h:b", "../c", "git@h:c"),
            ("https://h/a", "./c", "https://h/a/c"),
            ("https://h/a", "https://x/y", "https://x/y"),
        ] {
            assert_eq!(relative(parent, address), wanted, "{parent} {address}");
        }
        assert_eq!(shown("https://u:p@h/x"), "https://h/x");
        assert_eq!(origin("https://u:p@h:8/x").as_deref(), Some("https://h:8/"));
        assert_eq!(origin("git@h:x"), None);
    }
}
