//! Git repositories.
//!
//! The `git` program speaks with the remote; everything else it is kept out of.
//! There is never a working tree: the files of a commit come as the stream of
//! `git archive`, so no link, hook or filter of a repository can do anything
//! here (CVE-2018-11235, CVE-2021-21300, CVE-2024-32002). Submodules are trees
//! of other repositories, fetched in the same way and put in their place, so
//! `git submodule` is not run (CVE-2018-17456, CVE-2025-48384).

mod command;
mod dotgit;
mod remote;
mod shelf;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use berth_build::files::Files;
use berth_build::graph::Git;
use berth_build::solve::{self, Boxed};
use berth_build::tree::Tree;

pub(in super::super) use self::command::Access;
use self::command::Program;
use self::remote::Found;
use super::{Sources, Tell, hash, invalid, stopped, system};
use crate::files as small;

/// Submodules of submodules.
const MAX_DEPTH: usize = 8;
/// Submodules, those of submodules included.
const MAX_SUBMODULES: usize = 1000;

impl Sources {
    /// The files of a commit; modes 0644 and 0755, times that of the commit.
    ///
    /// # Errors
    /// `Invalid` for what cannot be fetched, with git's own words.
    pub(in super::super) async fn git(
        &self,
        files: &Files,
        git: &Git,
        access: &Access,
        tell: Tell<'_>,
    ) -> Result<Arc<Tree>, solve::Error> {
        let work = Work {
            files,
            access,
            submodules: AtomicUsize::new(0),
        };
        let tree = self.commit(&work, git, 0).await?;
        tell(0, 0, true);
        Ok(Arc::new(tree))
    }

    /// A future on the heap: repositories are in repositories.
    fn commit<'a>(&'a self, work: &'a Work<'a>, git: &'a Git, depth: usize) -> Boxed<'a, Tree> {
        Box::pin(self.commit_at(work, git, depth))
    }

    async fn commit_at(
        &self,
        work: &Work<'_>,
        git: &Git,
        depth: usize,
    ) -> Result<Tree, solve::Error> {
        let (files, access) = (work.files, work.access);
        remote::check(&git.remote)?;
        remote::check_reference(&git.reference)?;
        let subdir = tree::clean(&git.subdir)?;
        // Who cannot open the remote does not get what another client could.
        let name = hash(&format!(
            "{} {}",
            git.remote,
            access.authorization().unwrap_or_default()
        ));
        let repository = self.git.join(&name);
        let (commit, mut found, submodules) = {
            let user = self.user(&name);
            let _alone = user.lock().await;
            let program = Program::new(&repository, &self.git, &git.remote, access);
            prepare(&program, &repository, &git.remote).await?;
            let commit = remote::fetch(&program, git).await?;
            remote::check_commit(git, &commit)?;
            let kept = Kept::new(&repository, git, &subdir, &commit);
            if let Some(tree) = kept.read(files).await? {
                return Ok(tree);
            }
            let mut tree = tree::of_commit(&program, files, &commit, &subdir).await?;
            let submodules = match git.submodules {
                true => tree::submodules(&program, &git.remote, &commit, &subdir).await?,
                false => Vec::new(),
            };
            // A part of a repository is none, as in BuildKit.
            if git.keep_git_dir && subdir.is_empty() {
                let own = dotgit::of_commit(&program, files, git, &commit).await?;
                tree = tree::grafted(tree, ".git", own);
            }
            (commit, tree, submodules)
        };
        // The lock is free: a submodule may lead back here.
        let count = submodules.len();
        let before = work.submodules.fetch_add(count, Ordering::Relaxed);
        if count > 0 && (depth == MAX_DEPTH || before + count > MAX_SUBMODULES) {
            return Err(invalid(format!(
                "{} has more than {MAX_SUBMODULES} submodules, or they are nested more than {MAX_DEPTH} deep",
                remote::shown(&git.remote)
            )));
        }
        for module in submodules {
            let inner = Git {
                remote: module.remote,
                reference: module.commit,
                submodules: true,
                ..empty()
            };
            let tree = self.commit(work, &inner, depth + 1).await?;
            found = tree::grafted(found, &module.path, tree);
        }
        let kept = Kept::new(&repository, git, &subdir, &commit);
        kept.write(&found);
        Ok(found)
    }
}

/// One fetch, with all submodules.
struct Work<'a> {
    files: &'a Files,
    access: &'a Access,
    /// So many were found.
    submodules: AtomicUsize,
}

fn empty() -> Git {
    Git {
        remote: String::new(),
        reference: String::new(),
        subdir: String::new(),
        keep_git_dir: false,
        checksum: String::new(),
        submodules: false,
    }
}

/// Makes a repository if there is none, and removes what a git that was killed
/// left: nobody else uses it.
async fn prepare(git: &Program<'_>, repository: &Path, remote: &str) -> Result<(), solve::Error> {
    let failed = |error: std::io::Error| system(format!("make a git repository: {error}"));
    if !repository.join("remote").exists() {
        // Half-made, or not there.
        match std::fs::remove_dir_all(repository) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        small::make_dir(repository, 0o700).map_err(failed)?;
        git.run(&["init", "--quiet", "--bare", "--template="])
            .await?;
        let attributes = repository.join("info");
        small::make_dir(&attributes, 0o700).map_err(failed)?;
        // A checkout would have these files, and as they are.
        let all = b"* -export-ignore -export-subst\n";
        std::fs::write(attributes.join("attributes"), all).map_err(failed)?;
        small::make_dir(&repository.join("trees"), 0o700).map_err(failed)?;
        let shown = remote::shown(remote);
        small::replace(&repository.join("remote"), shown.as_bytes(), 0o600).map_err(failed)?;
    }
    for lock in [
        "shallow.lock",
        "packed-refs.lock",
        "config.lock",
        "HEAD.lock",
    ] {
        let _ = std::fs::remove_file(repository.join(lock));
    }
    let _ = std::fs::remove_dir_all(repository.join("refs/berth"));
    // When it was last used; lost, it is only given up earlier.
    let _ = std::fs::File::open(repository).and_then(|dir| dir.set_modified(SystemTime::now()));
    Ok(())
}

/// The tree of a commit, kept beside the repository while its contents last.
struct Kept(PathBuf);

impl Kept {
    fn new(repository: &Path, git: &Git, subdir: &str, commit: &Found) -> Self {
        let what = format!(
            "{} {} {} {} {subdir}",
            commit.commit, commit.name, git.keep_git_dir, git.submodules
        );
        Self(repository.join("trees").join(hash(&what)))
    }

    async fn read(&self, files: &Files) -> Result<Option<Tree>, solve::Error> {
        let (path, files) = (self.0.clone(), files.clone());
        let read = move || {
            let bytes = std::fs::read(path).ok()?;
            let tree: Tree = serde_json::from_slice(&bytes).ok()?;
            tree::is_complete(&tree, &files).then_some(tree)
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| stopped(&error))
    }

    fn write(&self, tree: &Tree) {
        let written = serde_json::to_vec(tree)
            .map_err(std::io::Error::from)
            .and_then(|bytes| small::replace(&self.0, &bytes, 0o600));
        if let Err(error) = written {
            tracing::warn!("write {}: {error}", self.0.display());
        }
    }
}
