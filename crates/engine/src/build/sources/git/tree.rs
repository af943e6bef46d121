//! The files of a commit, and trees within trees.

use std::collections::BTreeMap;

use berth_build::files::Files;
use berth_build::solve;
use berth_build::tree::{Entry, Node, Tree};

use super::command::Program;
use super::invalid;
use super::remote::{self, Found};

/// Where another repository belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Submodule {
    /// From the root of the tree.
    pub(super) path: String,
    pub(super) remote: String,
    pub(super) commit: String,
}

/// A directory within the repository: relative, nothing above it.
pub(super) fn clean(subdir: &str) -> Result<String, solve::Error> {
    let parts: Vec<&str> = subdir
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    let escapes = parts.contains(&"..") || parts.contains(&".git");
    if escapes || subdir.starts_with('-') || subdir.contains('\0') {
        return Err(invalid(format!(
            "invalid subdir {subdir:?} of a git repository"
        )));
    }
    Ok(parts.join("/"))
}

pub(super) async fn of_commit(
    git: &Program<'_>,
    files: &Files,
    found: &Found,
    subdir: &str,
) -> Result<Tree, solve::Error> {
    let mut args = vec!["archive", "--format=tar", found.commit.as_str()];
    if !subdir.is_empty() {
        args.push(subdir);
    }
    let files = files.clone();
    let missing = || {
        let shown = remote::shown(git.remote());
        solve::Error::NotFound(format!("subdir {subdir} not found in {shown}"))
    };
    let tree = git.stream(&args, move |input| files.take_tar(input)).await;
    let tree = tree.map_err(|error| match error {
        solve::Error::Invalid(text) if text.contains("did not match any files") => missing(),
        other => other,
    })?;
    below(tree, subdir).ok_or_else(missing)
}

/// What is in a directory; a link is none.
fn below(tree: Tree, directory: &str) -> Option<Tree> {
    if directory.is_empty() {
        return Some(tree);
    }
    let is_there = |entry: &Entry| entry.path == directory && entry.node == Node::Directory;
    if !tree.entries.iter().any(is_there) {
        return None;
    }
    let prefix = format!("{directory}/");
    let entries = tree.entries.into_iter().filter_map(|mut entry| {
        entry.path = entry.path.strip_prefix(&prefix)?.to_owned();
        if let Node::HardLink(first) = &mut entry.node {
            *first = first.strip_prefix(&prefix)?.to_owned();
        }
        Some(entry)
    });
    Some(Tree {
        entries: entries.collect(),
    })
}

/// `inner` in place of what the directory `path` of `outer` has. What is there
/// otherwise (a link, a file) stays, and nothing is put through it.
pub(super) fn grafted(outer: Tree, path: &str, inner: Tree) -> Tree {
    let prefix = format!("{path}/");
    let Some(directory) = (outer.entries.iter())
        .find(|entry| entry.path == path)
        .cloned()
        .or_else(|| (!path.contains('/')).then(|| own_directory(path)))
        .filter(|entry| entry.node == Node::Directory)
    else {
        return outer;
    };
    let stays = |entry: &Entry| entry.path != path && !entry.path.starts_with(&prefix);
    let mut entries: Vec<Entry> = outer.entries.into_iter().filter(stays).collect();
    entries.push(directory);
    entries.extend(inner.entries.into_iter().map(|mut entry| {
        entry.path = format!("{prefix}{}", entry.path);
        if let Node::HardLink(first) = &mut entry.node {
            *first = format!("{prefix}{first}");
        }
        entry
    }));
    entries.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    Tree { entries }
}

fn own_directory(path: &str) -> Entry {
    Entry {
        path: path.to_owned(),
        node: Node::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

/// Whether all contents are here. Blocks.
pub(super) fn is_complete(tree: &Tree, files: &Files) -> bool {
    tree.entries.iter().all(|entry| match &entry.node {
        Node::File { digest, .. } => files.contains(digest),
        _ => true,
    })
}

/// What `.gitmodules` says of the commits of other repositories in the tree.
pub(super) async fn submodules(
    git: &Program<'_>,
    parent: &str,
    found: &Found,
    subdir: &str,
) -> Result<Vec<Submodule>, solve::Error> {
    let listed = git
        .run(&["ls-tree", "-r", "-z", "--full-tree", &found.commit])
        .await?;
    let links = links(&String::from_utf8_lossy(&listed));
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let blob = format!("{}:.gitmodules", found.commit);
    let pattern = r"^submodule\..*\.(path|url)$";
    let args = ["config", "--blob", &blob, "-z", "--get-regexp", pattern];
    // Without the file, they are only directories.
    let Ok(said) = git.run(&args).await else {
        return Ok(Vec::new());
    };
    let remotes = remotes(&String::from_utf8_lossy(&said));
    let mut modules = Vec::new();
    for (path, commit) in links {
        let Some(address) = remotes.get(&path) else {
            continue;
        };
        let path = match subdir {
            "" => path,
            subdir => match path.strip_prefix(&format!("{subdir}/")) {
                Some(path) => path.to_owned(),
                None => continue,
            },
        };
        modules.push(Submodule {
            path,
            remote: remote::relative(parent, address),
            commit,
        });
    }
    Ok(modules)
}

/// Path and commit of each "160000 commit <object>\t<path>".
fn links(listed: &str) -> Vec<(String, String)> {
    let lines = listed.split('\0').filter_map(|line| {
        let (head, path) = line.split_once('\t')?;
        let object = head.strip_prefix("160000 commit ")?;
        Some((path.to_owned(), object.trim().to_owned()))
    });
    lines.collect()
}

/// Path → address, of "submodule.<name>.<key>\n<value>\0".
fn remotes(said: &str) -> BTreeMap<String, String> {
    let mut paths = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for pair in said.split('\0') {
        let Some((key, value)) = pair.split_once('\n') else {
            continue;
        };
        let name = key
            .strip_prefix("submodule.")
            .and_then(|rest| rest.rsplit_once('.'));
        match name {
            Some((name, "path")) => {
                paths.insert(name.to_owned(), value.trim_end_matches('/').to_owned())
            }
            Some((name, "url")) => addresses.insert(name.to_owned(), value.to_owned()),
            _ => None,
        };
    }
    let pairs = paths
        .into_iter()
        .filter_map(|(name, path)| Some((path, addresses.remove(&name)?)));
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[(&str, Node)]) -> Tree {
        let entries = paths.iter().map(|(path, node)| Entry {
            node: node.clone(),
            ..own_directory(path)
        });
        Tree {
            entries: entries.collect(),
        }
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.entries
            .iter()
            .map(|entry| entry.path.as_str())
            .collect()
    }

    fn link() -> Node {
        Node::Symlink("/etc".to_owned())
    }

    #[test]
    fn directories_within() {
        let all = tree(&[
            ("a", Node::Directory),
            ("a/b", Node::Directory),
            ("a/b/x", link()),
            ("a/l", link()),
            ("c", Node::Directory),
        ]);
        assert_eq!(paths(&below(all.clone(), "a/b").unwrap()), ["x"]);
        assert_eq!(below(all.clone(), "a/l"), None);
        assert_eq!(below(all.clone(), "none"), None);
        let inner = tree(&[("m", Node::Directory), ("m/n", link())]);
        let whole = grafted(all.clone(), "a/b", inner.clone());
        assert_eq!(paths(&whole), ["a", "a/b", "a/b/m", "a/b/m/n", "a/l", "c"]);
        // Nothing goes through a link.
        assert_eq!(grafted(all.clone(), "a/l", inner.clone()), all);
        let own = grafted(all, ".git", inner);
        assert_eq!(paths(&own)[..3], [".git", ".git/m", ".git/m/n"]);
        assert_eq!(clean("./a//b/").unwrap(), "a/b");
        for bad in ["../x", "a/../../b", "-x", ".git", "a/.git/b"] {
            assert!(clean(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_gitmodules_says() {
        let object = "a".repeat(40);
        let listed = format!("100644 blob {object}\tf\x00160000 commit {object}\td/m\x00");
        assert_eq!(links(&listed), [("d/m".to_owned(), object)]);
        let said = "submodule.a.b.path\nd/m\0submodule.a.b.url\n../x\0submodule.c.url\ny\0";
        let all = remotes(said);
        assert_eq!(all.get("d/m").map(String::as_str), Some("../x"));
        assert_eq!(all.len(), 1);
    }
}
