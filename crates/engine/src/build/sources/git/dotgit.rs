//! `--keep-git-dir`: a repository of one commit, made so that the same commit
//! gives the same bytes.

use std::path::Path;

use berth_build::files::Files;
use berth_build::graph::Git;
use berth_build::solve;
use berth_build::tree::Tree;

use super::command::Program;
use super::remote::{Found, shown};
use super::{stopped, system};
use crate::files as small;

/// Where it is put together.
const SCRATCH: &str = "dotgit";

/// What belongs in `.git`.
pub(super) async fn of_commit(
    git: &Program<'_>,
    files: &Files,
    wanted: &Git,
    found: &Found,
) -> Result<Tree, solve::Error> {
    let scratch = git.repository().join(SCRATCH);
    let failed = |error: std::io::Error| system(format!("make a .git directory: {error}"));
    remove(&scratch).map_err(failed)?;
    let packs = scratch.join("objects/pack");
    for directory in [
        &packs,
        &scratch.join("objects/info"),
        &scratch.join("refs/heads"),
        &scratch.join("refs/tags"),
    ] {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let write = |name: &str, text: String| std::fs::write(scratch.join(name), text).map_err(failed);
    let config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
         [remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
        quoted(&shown(&wanted.remote))
    );
    write("config", config)?;
    write("HEAD", format!("{}\n", found.commit))?;
    write("shallow", format!("{}\n", found.commit))?;
    if let Some(tag) = found.name.strip_prefix("refs/tags/") {
        write("packed-refs", format!("{} refs/tags/{tag}\n", found.object))?;
    }
    pack(git, &packs, found).await?;
    // An index without times: git looks at the files when it is first asked.
    let index = format!("--index-output={SCRATCH}/index");
    git.run(&["read-tree", &index, &found.commit]).await?;
    let _ = std::fs::remove_file(git.repository().join("index"));
    let files = files.clone();
    let directory = scratch.clone();
    let taken = tokio::task::spawn_blocking(move || files.take_directory(&directory, &|_| false));
    let mut tree = taken
        .await
        .map_err(|error| stopped(&error))?
        .map_err(failed)?;
    for entry in &mut tree.entries {
        (entry.uid, entry.gid, entry.mtime) = (0, 0, 0);
        entry.mode = match entry.node {
            berth_build::tree::Node::Directory => 0o755,
            _ => 0o644,
        };
        entry.xattrs.clear();
    }
    remove(&scratch).map_err(failed)?;
    Ok(tree)
}

/// All objects in one pack, each packed anew: how the remote packed them
/// decides nothing.
async fn pack(git: &Program<'_>, packs: &Path, found: &Found) -> Result<(), solve::Error> {
    let failed = |error: std::io::Error| system(format!("pack a commit: {error}"));
    let mut args = vec![
        "rev-list",
        "--objects",
        "--max-count=1",
        found.commit.as_str(),
    ];
    let listed = git.run(&args).await?;
    let mut objects: Vec<String> = (String::from_utf8_lossy(&listed).lines())
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    if found.object != found.commit {
        objects.push(found.object.clone());
    }
    objects.sort();
    objects.dedup();
    let list = packs.join("list");
    small::replace(&list, (objects.join("\n") + "\n").as_bytes(), 0o600).map_err(failed)?;
    let base = packs.join("pack");
    let base = base.to_string_lossy();
    args = vec![
        "pack-objects",
        "--quiet",
        "--no-reuse-delta",
        "--no-reuse-object",
        "--window=0",
        "--threads=1",
        &base,
    ];
    git.run_with(&args, Some(&list)).await?;
    std::fs::remove_file(&list).map_err(failed)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A value in git's configuration.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
