//! Real servers on loopback.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

struct Rig {
    dir: TempDir,
    files: Files,
    sources: Sources,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("build");
    std::fs::create_dir_all(root.join("git")).unwrap();
    std::fs::create_dir_all(root.join("http")).unwrap();
    let files = Files::open(&dir.path().join("files")).unwrap();
    let sources = Sources::new(&root, "test");
    Rig {
        dir,
        files,
        sources,
    }
}

fn quiet(_: u64, _: u64, _: bool) {}

impl Rig {
    async fn git(&self, git: &Git) -> Result<Arc<Tree>, solve::Error> {
        self.sources
            .git(&self.files, git, &Access::default(), &quiet)
            .await
    }

    async fn http(&self, http: &Http) -> Result<Arc<Tree>, solve::Error> {
        self.sources.http(&self.files, http, &quiet).await
    }

    fn text(&self, tree: &Tree, path: &str) -> String {
        let entry = tree.entries.iter().find(|entry| entry.path == path);
        let Some(Node::File { digest, .. }) = entry.map(|entry| &entry.node) else {
            panic!("{path} is no file of {tree:?}")
        };
        let mut text = String::new();
        self.files
            .read(digest)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.entries
        .iter()
        .map(|entry| entry.path.as_str())
        .collect()
}

/// Runs git as a user would.
fn git(directory: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", "1000000000 +0000")
        .env("GIT_COMMITTER_DATE", "1000000000 +0000")
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A repository with these files on `main`; returns its directory.
fn repository(base: &Path, name: &str, contents: &[(&str, &str)]) -> PathBuf {
    let directory = base.join(name);
    std::fs::create_dir_all(&directory).unwrap();
    git(&directory, &["init", "-q"]);
    commit(&directory, contents);
    directory
}

fn commit(directory: &Path, contents: &[(&str, &str)]) -> String {
    for (path, text) in contents {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    git(directory, &["add", "-A"]);
    git(directory, &["commit", "-q", "--allow-empty", "-m", "m"]);
    git(directory, &["rev-parse", "HEAD"])
}

/// `git daemon` for all below `base`; how many came.
fn daemon(base: &Path) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let (served, base) = (count.clone(), base.to_owned());
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            served.fetch_add(1, Ordering::SeqCst);
            let output = socket.try_clone().unwrap();
            Command::new("git")
                .args([
                    "-c",
                    "safe.directory=*",
                    "daemon",
                    "--inetd",
                    "--export-all",
                ])
                .arg(format!("--base-path={}", base.display()))
                .env("HOME", &base)
                .stdin(Stdio::from(OwnedFd::from(socket)))
                .stdout(Stdio::from(OwnedFd::from(output)))
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
                .wait()
                .unwrap();
        }
    });
    (format!("git://{address}"), count)
}

/// A server that knows the first protocol only, and gives what has a name.
fn old_daemon(base: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let base = base.to_owned();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            // "0030git-upload-pack /r\0host=…"
            let mut length = [0; 4];
            socket.read_exact(&mut length).unwrap();
            let length = usize::from_str_radix(std::str::from_utf8(&length).unwrap(), 16).unwrap();
            let mut request = vec![0; length - 4];
            socket.read_exact(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split(['\0', '\n']).next().unwrap();
            let path = path.strip_prefix("git-upload-pack /").unwrap();
            let output = socket.try_clone().unwrap();
            let _ = Command::new("git")
                .args(["-c", "safe.directory=*", "upload-pack"])
                .arg(base.join(path))
                .env("HOME", &base)
                .stdin(Stdio::from(OwnedFd::from(socket)))
                .stdout(Stdio::from(OwnedFd::from(output)))
                .stderr(Stdio::null())
                .status();
        }
    });
    format!("git://{address}")
}

fn wanted(remote: &str, reference: &str) -> Git {
    Git {
        remote: remote.to_owned(),
        reference: reference.to_owned(),
        subdir: String::new(),
        keep_git_dir: false,
        checksum: String::new(),
        submodules: true,
    }
}

#[tokio::test]
async fn branches_tags_and_commits() {
    let rig = rig();
    let base = rig.dir.path().join("served");
    let repo = repository(
        &base,
        "r",
        &[
            ("a", "one"),
            ("bin/x", "run"),
            (".gitattributes", "a export-ignore\n"),
        ],
    );
    std::os::unix::fs::symlink("a", repo.join("link")).unwrap();
    let first = commit(&repo, &[]);
    git(&repo, &["tag", "-a", "v1", "-m", "v1"]);
    git(&repo, &["update-index", "--chmod=+x", "bin/x"]);
    let second = commit(&repo, &[("a", "two")]);
    let (address, count) = daemon(&base);
    let remote = format!("{address}/r");

    let head = rig.git(&wanted(&remote, "")).await.unwrap();
    assert_eq!(
        paths(&head),
        [".gitattributes", "a", "bin", "bin/x", "link"]
    );
    assert_eq!(rig.text(&head, "a"), "two");
    assert_eq!(head.entries[4].node, Node::Symlink("a".to_owned()));
    assert_eq!(head.entries[1].mode, 0o644);
    assert_eq!(head.entries[1].mtime, 1_000_000_000_000_000_000);

    let tagged = rig.git(&wanted(&remote, "v1")).await.unwrap();
    assert_eq!(rig.text(&tagged, "a"), "one");
    assert_eq!(rig.git(&wanted(&remote, &first)).await.unwrap(), tagged);
    assert_eq!(
        rig.git(&wanted(&remote, "refs/heads/main")).await.unwrap(),
        head
    );

    // What is here needs no server, when a commit is asked for.
    let before = count.load(Ordering::SeqCst);
    rig.git(&wanted(&remote, &second)).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), before);

    // A branch that moved.
    commit(&repo, &[("a", "three")]);
    let moved = rig.git(&wanted(&remote, "main")).await.unwrap();
    assert_eq!(rig.text(&moved, "a"), "three");

    let with = |checksum: &str| Git {
        checksum: checksum.to_owned(),
        ..wanted(&remote, "v1")
    };
    rig.git(&with(&first)).await.unwrap();
    rig.git(&with(&first[..8])).await.unwrap();
    let error = rig.git(&with(&second)).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("expected checksum to match {second}, got {first}")
    );
    let error = rig.git(&wanted(&remote, "none")).await.unwrap_err();
    assert!(
        matches!(&error, solve::Error::NotFound(text) if text.contains("does not contain ref none")),
        "{error}"
    );
    let error = rig
        .git(&wanted(&format!("{address}/none"), ""))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("failed to fetch remote git://"), "{error}");
    let error = rig
        .git(&wanted(&remote, &"a".repeat(40)))
        .await
        .unwrap_err();
    assert!(matches!(error, solve::Error::NotFound(_)), "{error}");
}

#[tokio::test]
async fn servers_that_give_only_what_has_a_name() {
    let rig = rig();
    let base = rig.dir.path().join("served");
    let repo = repository(&base, "r", &[("a", "one")]);
    let first = git(&repo, &["rev-parse", "HEAD"]);
    let second = commit(&repo, &[("a", "two")]);
    commit(&repo, &[("a", "three")]);
    let remote = format!("{}/r", old_daemon(&base));
    let main = rig.git(&wanted(&remote, "main")).await.unwrap();
    assert_eq!(rig.text(&main, "a"), "three");
    // Behind what was fetched before.
    let tree = rig.git(&wanted(&remote, &first)).await.unwrap();
    assert_eq!(rig.text(&tree, "a"), "one");
    let tree = rig.git(&wanted(&remote, &second)).await.unwrap();
    assert_eq!(rig.text(&tree, "a"), "two");
    let error = rig
        .git(&wanted(&remote, &"b".repeat(40)))
        .await
        .unwrap_err();
    assert!(matches!(error, solve::Error::NotFound(_)), "{error}");
}

#[tokio::test]
async fn subdirectories_do_not_escape() {
    let rig = rig();
    let base = rig.dir.path().join("served");
    let repo = repository(&base, "r", &[("d/e/f", "x"), ("g", "y")]);
    std::os::unix::fs::symlink("/etc", repo.join("out")).unwrap();
    commit(&repo, &[]);
    let remote = format!("{}/r", daemon(&base).0);
    let below = |subdir: &str| Git {
        subdir: subdir.to_owned(),
        ..wanted(&remote, "")
    };
    assert_eq!(paths(&rig.git(&below("d/")).await.unwrap()), ["e", "e/f"]);
    for bad in ["../x", "out", "g", "none", "-x", ".git"] {
        assert!(rig.git(&below(bad)).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn submodules_are_trees_in_their_place() {
    let rig = rig();
    let base = rig.dir.path().join("served");
    let leaf = repository(&base, "leaf", &[("deep", "3")]);
    let inner = repository(&base, "inner", &[("i", "2")]);
    let (address, _) = daemon(&base);
    git(
        &inner,
        &["submodule", "add", "-q", "../leaf", "sub/leaf"].map(|text| text),
    );
    commit(&inner, &[]);
    let outer = repository(&base, "outer", &[("o", "1")]);
    git(
        &outer,
        &["submodule", "--quiet", "add", inner.to_str().unwrap(), "m"],
    );
    git(
        &outer,
        &["config", "-f", ".gitmodules", "submodule.m.url", "../inner"],
    );
    // One that nothing may be fetched from.
    let secret = repository(rig.dir.path(), "secret", &[("s", "s")]);
    git(
        &outer,
        &[
            "submodule",
            "--quiet",
            "add",
            secret.to_str().unwrap(),
            "evil",
        ],
    );
    git(
        &outer,
        &[
            "config",
            "-f",
            ".gitmodules",
            "submodule.evil.url",
            "../inner",
        ],
    );
    commit(&outer, &[]);
    let remote = format!("{address}/outer");
    let error = rig.git(&wanted(&remote, "")).await.unwrap_err();
    assert!(
        matches!(error, solve::Error::NotFound(_) | solve::Error::Invalid(_)),
        "{error}"
    );
    git(
        &outer,
        &[
            "config",
            "-f",
            ".gitmodules",
            "submodule.evil.url",
            secret.to_str().unwrap(),
        ],
    );
    commit(&outer, &[]);
    let error = rig.git(&wanted(&remote, "")).await.unwrap_err().to_string();
    assert!(
        error.contains("is no remote of git that builds can use"),
        "{error}"
    );
    git(&outer, &["rm", "-qf", "evil"]);
    commit(&outer, &[]);
    let tree = rig.git(&wanted(&remote, "")).await.unwrap();
    assert_eq!(
        paths(&tree),
        [
            ".gitmodules",
            "m",
            "m/.gitmodules",
            "m/i",
            "m/sub",
            "m/sub/leaf",
            "m/sub/leaf/deep",
            "o"
        ]
    );
    assert_eq!(rig.text(&tree, "m/sub/leaf/deep"), "3");
    let without = Git {
        submodules: false,
        ..wanted(&remote, "")
    };
    assert_eq!(
        paths(&rig.git(&without).await.unwrap()),
        [".gitmodules", "m", "o"]
    );
    drop(leaf);
}

#[tokio::test]
async fn a_git_directory_is_the_same_each_time() {
    let rig = rig();
    let base = rig.dir.path().join("served");
    let repo = repository(&base, "r", &[("a", "one"), ("d/b", "two")]);
    commit(&repo, &[("a", "three")]);
    git(&repo, &["tag", "-a", "v1", "-m", "v1"]);
    let remote = format!("{}/r", daemon(&base).0);
    let kept = Git {
        keep_git_dir: true,
        ..wanted(&remote, "v1")
    };
    let tree = rig.git(&kept).await.unwrap();
    // As another engine has it, where more was fetched before.
    let other = self::rig();
    other.git(&wanted(&remote, "main")).await.unwrap();
    commit(&repo, &[("c", "later")]);
    other.git(&wanted(&remote, "main")).await.unwrap();
    assert_eq!(other.git(&kept).await.unwrap(), tree);

    // git takes it for a clean checkout.
    let out = rig.dir.path().join("out");
    for entry in &tree.entries {
        let path = out.join(&entry.path);
        match &entry.node {
            Node::Directory => std::fs::create_dir_all(path).unwrap(),
            Node::File { digest, .. } => {
                let mut content = rig.files.read(digest).unwrap();
                let mut file = std::fs::File::create(path).unwrap();
                std::io::copy(&mut content, &mut file).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(git(&out, &["status", "--porcelain"]), "");
    assert_eq!(git(&out, &["describe", "--tags"]), "v1");
    assert_eq!(git(&out, &["config", "remote.origin.url"]), remote);
    git(&out, &["fsck", "--strict"]);
}

#[tokio::test]
async fn hostile_remotes_run_nothing() {
    let rig = rig();
    let mark = rig.dir.path().join("mark");
    for remote in [
        format!("ext::touch {}", mark.display()),
        format!("ssh://-oProxyCommand=touch${{IFS}}{}/x", mark.display()),
        format!("--upload-pack=touch {}", mark.display()),
        format!("file://{}", rig.dir.path().display()),
        rig.dir.path().display().to_string(),
    ] {
        let error = rig.git(&wanted(&remote, "")).await.unwrap_err().to_string();
        assert!(error.contains("is no remote of git"), "{error}");
    }
    let base = rig.dir.path().join("served");
    let repo = repository(
        &base,
        "r",
        &[("a", "x"), (".gitattributes", "* filter=evil\n")],
    );
    let hook = repo.join(".git/hooks/post-checkout");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
    let remote = format!("{}/r", daemon(&base).0);
    rig.git(&wanted(&remote, "")).await.unwrap();
    assert!(!mark.exists());
    for reference in ["--upload-pack=x", "a b", "HEAD^{/x}", "-x"] {
        let error = rig
            .git(&wanted(&remote, reference))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("invalid git ref"), "{error}");
    }
}

#[tokio::test]
async fn what_a_killed_git_leaves_does_not_matter() {
    let rig = rig();
    let base = rig.dir.path().join("served");
    let repo = repository(&base, "r", &[("a", "x")]);
    let remote = format!("{}/r", daemon(&base).0);
    let bare = rig.sources.git.join(hash(&format!("{remote} ")));
    // Killed while it was made.
    std::fs::create_dir_all(bare.join("objects")).unwrap();
    std::fs::write(bare.join("config"), "[core").unwrap();
    rig.git(&wanted(&remote, "")).await.unwrap();
    // Killed while it fetched.
    std::fs::write(bare.join("shallow.lock"), "").unwrap();
    std::fs::write(bare.join("objects/pack/tmp_pack_x"), "half").unwrap();
    commit(&repo, &[("a", "y")]);
    let tree = rig.git(&wanted(&remote, "")).await.unwrap();
    assert_eq!(rig.text(&tree, "a"), "y");
    // The tree that is kept names contents that are gone.
    rig.files.collect(&|_| false).unwrap();
    let again = rig.git(&wanted(&remote, "")).await.unwrap();
    assert_eq!(rig.text(&again, "a"), "y");
}

#[tokio::test]
async fn repositories_are_a_part_of_the_cache() {
    use berth_build::solve::Shelf as _;
    let rig = rig();
    let base = rig.dir.path().join("served");
    repository(&base, "r", &[("a", "x")]);
    let remote = format!("{}/r", daemon(&base).0);
    rig.git(&wanted(&remote, "")).await.unwrap();
    let rows = rig.sources.rows();
    let [row] = rows.as_slice() else {
        panic!("{rows:?}")
    };
    assert_eq!(row.description, format!("git repository {remote}"));
    assert!(row.size > 0 && !row.in_use);
    {
        let user = rig.sources.user(&hash(&format!("{remote} ")));
        let _alone = user.lock().await;
        assert!(rig.sources.rows()[0].in_use);
        assert!(!rig.sources.remove(&row.id).unwrap());
    }
    assert!(rig.sources.remove(&row.id).unwrap());
    assert!(rig.sources.rows().is_empty());
    rig.git(&wanted(&remote, "")).await.unwrap();
}

/// Answers each request as `answer` says; how many there were.
async fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let served = count.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.unwrap() > 0 {}
            served.fetch_add(1, Ordering::SeqCst);
            let answer = answer(&String::from_utf8_lossy(&head));
            let _ = socket.write_all(&answer).await;
        }
    });
    (format!("http://{address}"), count)
}

fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn address(url: &str) -> Http {
    Http {
        url: url.to_owned(),
        checksum: String::new(),
        filename: String::new(),
    }
}

#[tokio::test]
async fn downloads() {
    let rig = rig();
    let (server, count) = serve(|head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        if head.to_lowercase().contains("if-none-match: \"e\"") {
            return b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_vec();
        }
        match path {
            "/d/named?x" => ok("Content-Length: 5\r\nETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 1970 00:01:00 GMT\r\n", b"hello"),
            "/said" => ok("Content-Disposition: attachment; filename=\"../../a/evil\"\r\n", b"no length"),
            "/short" => ok("Content-Length: 50\r\n", b"hello"),
            "/" => ok("", b"root"),
            _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        }
    })
    .await;
    let url = format!("{server}/d/named?x");
    let tree = rig.http(&address(&url)).await.unwrap();
    assert_eq!(paths(&tree), ["named"]);
    assert_eq!(rig.text(&tree, "named"), "hello");
    assert_eq!(
        (tree.entries[0].mode, tree.entries[0].mtime),
        (0o600, 60_000_000_000)
    );
    // Asked about, and not sent again.
    assert_eq!(rig.http(&address(&url)).await.unwrap(), tree);
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // With its checksum it need not be asked about.
    let digest = berth_store::digest_of(b"hello");
    let checked = Http {
        checksum: digest.clone(),
        filename: "f".to_owned(),
        ..address(&url)
    };
    assert_eq!(paths(&rig.http(&checked).await.unwrap()), ["f"]);
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // What is known of it is of no use when its content is gone.
    rig.files.collect(&|_| false).unwrap();
    assert_eq!(rig.http(&address(&url)).await.unwrap(), tree);

    let said = rig.http(&address(&format!("{server}/said"))).await.unwrap();
    assert_eq!(paths(&said), ["evil"]);
    assert_eq!(rig.text(&said, "evil"), "no length");
    assert_eq!(
        paths(&rig.http(&address(&server)).await.unwrap()),
        [UNNAMED]
    );
    let wrong = Http {
        checksum: format!("sha256:{}", "0".repeat(64)),
        ..address(&url)
    };
    let error = rig.http(&wrong).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("digest mismatch {digest}: sha256:000")),
        "{error}"
    );
    assert!(
        rig.http(&address(&format!("{server}/short")))
            .await
            .is_err()
    );
    let error = rig
        .http(&address(&format!("{server}/none")))
        .await
        .unwrap_err();
    assert!(matches!(error, solve::Error::NotFound(_)), "{error}");
}

const UNNAMED: &str = "__unnamed__";

#[tokio::test]
async fn a_download_that_is_given_up_leaves_nothing() {
    let rig = rig();
    let (server, count) =
        serve(|_| ok("Content-Length: 5000000\r\nETag: \"e\"\r\n", b"begun")).await;
    let url = address(&format!("{server}/x"));
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(1), rig.http(&url)).await;
    assert!(given_up.is_err() || given_up.unwrap().is_err());
    assert!(rig.http(&url).await.is_err());
    assert!(count.load(Ordering::SeqCst) >= 1);
    assert_eq!(std::fs::read_dir(&rig.sources.http).unwrap().count(), 0);
}

#[tokio::test]
async fn contexts() {
    let rig = rig();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    header.set_cksum();
    archive
        .append_data(&mut header, "Dockerfile", &b"tar"[..])
        .unwrap();
    let archive = archive.into_inner().unwrap();
    let (server, _) = serve(move |head| match head.contains("/c.tar") {
        true => ok("", &archive),
        false => ok("", b"FROM scratch\n"),
    })
    .await;
    let access = Access::default();
    let context = async |address: &str, keep: bool| {
        rig.sources
            .context(&rig.files, address, keep, &access, &quiet)
            .await
            .unwrap()
    };
    let tree = context(&format!("{server}/c.tar"), false).await;
    assert_eq!(rig.text(&tree, "Dockerfile"), "tar");
    let tree = context(&format!("{server}/d"), false).await;
    assert_eq!(rig.text(&tree, "Dockerfile"), "FROM scratch\n");
    let base = rig.dir.path().join("served");
    repository(&base, "r", &[("sub/Dockerfile", "git")]);
    let (address, _) = daemon(&base);
    let tree = context(&format!("{address}/r#main:sub"), false).await;
    assert_eq!(rig.text(&tree, "Dockerfile"), "git");
    let tree = context(&format!("{address}/r"), true).await;
    assert!(paths(&tree).contains(&".git/HEAD"));
}
