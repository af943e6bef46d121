//! The command line for images and registries, beside the stock client.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use berth_e2e::oci::{self, Content};
use berth_e2e::registry::DockerRegistry;
use berth_e2e::{Engine, Run, installed, possible};

/// "u" with the password "pw".
const HTPASSWD: &str = "u:$2y$05$t6ClXHthu06yGg/AWTExau8txr1rignJ9lWH8iyQtANAxwt8JE8w6\n";
/// A password that is nobody's.
const SECRET: &str = "correct horse";

fn has_docker() -> bool {
    possible("stock docker client", installed("docker"))
}

/// The same command by both clients, which must say the same. Returns ours.
#[track_caller]
fn same(engine: &Engine, args: &[&str]) -> Run {
    // Replies differ by version, and the stock client may be older.
    let run = |client: &str| {
        let mut command = engine.command(client);
        Run::new(command.env("DOCKER_API_VERSION", "1.50").args(args), b"")
    };
    let ours = run("berth");
    if has_docker() {
        let theirs = run("docker");
        assert_eq!(
            (&ours.stdout, &ours.stderr, ours.code),
            (&theirs.stdout, &theirs.stderr, theirs.code),
            "{args:?}"
        );
    }
    ours
}

/// A client inside the network namespace, for what it does without the engine.
fn inside(engine: &Engine, client: &str, args: &[&str]) -> Run {
    let prepared = engine.command(client);
    let [program, target] = engine.nsenter();
    let mut command = Command::new(program);
    command.arg(target).arg(prepared.get_program()).args(args);
    for (name, value) in prepared.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Run::new(&mut command, b"")
}

/// Puts an image of each platform into a registry; their names.
fn images(engine: &Engine, registry: &DockerRegistry, platforms: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for platform in platforms {
        let mut content = Content::default();
        let digest = content.image(platform, vec![oci::layer(&[("f", platform.as_bytes())])]);
        let dir = tempfile::tempdir_in(engine.dir()).unwrap();
        content.write_layout(dir.path(), "x", &digest);
        let name = registry.name(&format!("multi:{platform}"));
        engine
            .in_network(&[
                "skopeo",
                "copy",
                "--preserve-digests",
                "--dest-tls-verify=false",
                &format!("oci:{}:x", dir.path().display()),
                &format!("docker://{name}"),
            ])
            .ok();
        names.push(name);
    }
    names
}

#[test]
fn pulls_and_pushes_look_like_dockers() {
    let engine = Engine::start();
    let registry = DockerRegistry::start(&engine, 5000);
    let (one, two) = (registry.name("a/b:1"), registry.name("a/b:2"));
    engine.berth(&["tag", "busybox", &one]).ok();
    engine.berth(&["tag", "busybox", &two]).ok();
    engine.berth(&["push", &one]).ok();
    same(&engine, &["push", &one]).ok();
    same(&engine, &["push", "-q", &two]).ok();
    same(&engine, &["push", "-a", &registry.name("a/b")]).ok();
    same(&engine, &["pull", &one]).ok();
    same(&engine, &["pull", "-q", &one]).ok();
    same(&engine, &["pull", "-a", &registry.name("a/b")]).ok();
    same(&engine, &["pull", &registry.name("none")]).fails(1, "Error response from daemon");
    same(&engine, &["push", &registry.name("none")]).fails(1, "");
    same(&engine, &["pull", "-a", &one]).fails(1, "tag can't be used with --all-tags/-a");
    same(&engine, &["push", "-a", &one]).fails(1, "tag can't be used with --all-tags/-a");
    same(&engine, &["pull", "BAD"]).fails(1, "must be lowercase");
}

#[test]
fn runs_pull_what_they_lack() {
    let engine = Engine::start();
    let registry = DockerRegistry::start(&engine, 5000);
    let image = registry.name("r:1");
    engine.berth(&["tag", "busybox", &image]).ok();
    engine.berth(&["push", "-q", &image]).ok();
    engine.berth(&["rmi", &image]).ok();
    let run = engine.berth(&["run", "--rm", &image, "echo", "hello"]);
    assert_eq!((run.stdout.as_str(), run.code), ("hello\n", 0), "{run:?}");
    assert!(
        run.stderr
            .starts_with(&format!("Unable to find image '{image}' locally\n"))
    );
    let run = engine.berth(&["run", "--rm", "--pull", "always", &image, "true"]);
    assert!(run.stderr.contains("Image is up to date"), "{run:?}");
    engine
        .berth(&["run", "--pull", "never", &registry.name("none"), "true"])
        .fails(125, "No such image");
    engine
        .berth(&["run", &registry.name("none"), "true"])
        .fails(125, "Error response from daemon");
}

#[test]
fn lists_of_images() {
    let engine = Engine::start();
    engine.berth(&["tag", "busybox", "a/b:1"]).ok();
    for args in [
        &["images", "-q"][..],
        &["images", "-q", "--no-trunc"],
        &[
            "image",
            "ls",
            "--format",
            "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}",
            // The stock client shows several repositories in any order.
            "busybox",
        ],
        &["images", "--format", "table {{.Tag}}\t{{.Size}}", "busybox"],
        &[
            "images",
            "--filter",
            "reference=a/*",
            "--format",
            "{{.Tag}}",
        ],
        &["image", "inspect", "--platform", "linux/amd64", "busybox"],
        &["history", "--no-trunc", "-q", "busybox"],
    ] {
        same(&engine, args).ok();
    }
    same(&engine, &["images", "--tree", "-q"]).fails(1, "--quiet is not yet supported with --tree");
    let id = engine.berth(&["images", "-q", "busybox"]).ok();
    let list = engine.berth(&["images"]);
    let rows: Vec<_> = list.stdout.lines().collect();
    assert_eq!(
        rows[0],
        "IMAGE            ID             DISK USAGE   CONTENT SIZE   EXTRA"
    );
    assert!(
        rows[1].starts_with(&format!("a/b:1            {id}")),
        "{rows:?}"
    );
    assert!(
        rows[2].starts_with(&format!("busybox:latest   {id}")),
        "{rows:?}"
    );
    assert!(
        list.stderr
            .starts_with("WARNING: This output is designed for human readability.")
    );
    let tree = engine.berth(&["images", "--tree"]).ok();
    assert!(tree.contains("└─ linux/"), "{tree}");
}

/// Whether `secret` is in any file below `dir` that others may read, or in
/// the engine's log.
fn leaks(engine: &Engine, secret: &str) -> bool {
    fn walk(dir: &Path, secret: &[u8]) -> bool {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| {
                let path = entry.path();
                let meta = entry.metadata().unwrap();
                if meta.is_dir() {
                    return walk(&path, secret);
                }
                meta.is_file()
                    && meta.permissions().mode() & 0o077 != 0
                    && std::fs::read(&path)
                        .unwrap_or_default()
                        .windows(secret.len())
                        .any(|window| window == secret)
            })
    }
    engine.log().contains(secret) || walk(&engine.dir().join("config"), secret.as_bytes())
}

#[test]
fn logins_are_kept_as_dockers() {
    let engine = Engine::start();
    let file = engine.dir().join("htpasswd");
    std::fs::write(&file, HTPASSWD).unwrap();
    let auth = format!(
        "auth: {{htpasswd: {{realm: test, path: {}}}}}",
        file.display()
    );
    let registry = DockerRegistry::start_with(&engine, 5000, &auth);
    let host = registry.address.as_str();
    let config = engine.dir().join("config/config.json");
    let image = registry.name("x:1");
    engine.berth(&["tag", "busybox", &image]).ok();
    let login = |client: &str, password: &[u8]| {
        engine.client_with(
            client,
            &["login", "-u", "u", "--password-stdin", host],
            password,
        )
    };

    let wrong = login("berth", SECRET.as_bytes());
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(!config.exists());
    let ours = login("berth", b"pw\n");
    assert_eq!(
        (ours.stdout.as_str(), ours.code),
        ("Login Succeeded\n", 0),
        "{ours:?}"
    );
    let kept = std::fs::read_to_string(&config).unwrap();
    assert_eq!(
        std::fs::metadata(&config).unwrap().permissions().mode() & 0o777,
        0o600
    );
    engine.berth(&["push", "-q", &image]).ok();
    same(&engine, &["login", "--password-stdin", host]).fails(1, "requires --username");
    engine.berth(&["login", host]).ok();
    if has_docker() {
        std::fs::remove_file(&config).unwrap();
        let theirs = login("docker", b"pw\n");
        assert_eq!(
            (&theirs.stdout, &theirs.stderr),
            (&ours.stdout, &ours.stderr)
        );
        assert_eq!(std::fs::read_to_string(&config).unwrap(), kept);
    }
    let out = engine.berth(&["logout", host]).ok();
    assert_eq!(out, format!("Removing login credentials for {host}"));
    assert!(!std::fs::read_to_string(&config).unwrap().contains(host));
    engine.berth(&["pull", &image]).fails(1, "");
    same(&engine, &["login", host]).fails(1, "non TTY device");
    assert!(!leaks(&engine, SECRET) && !leaks(&engine, "dTpwdw"));

    // A helper keeps what the file does not.
    let bin = engine.dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-test");
    let kept = engine.dir().join("kept");
    std::fs::write(
        &helper,
        format!(
            "#!/bin/sh\ncase \"$1\" in store) cat > {0};; get) cat {0} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }};; erase) rm -f {0};; esac\n",
            kept.display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(
        &config,
        format!(r#"{{"credHelpers":{{"{host}":"test"}},"other":1}}"#),
    )
    .unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let with_helper = |args: &[&str], input: &[u8]| {
        Run::new(engine.command("berth").env("PATH", &path).args(args), input)
    };
    with_helper(&["login", "-u", "u", "--password-stdin", host], b"pw").ok();
    assert!(
        std::fs::read_to_string(&kept)
            .unwrap()
            .contains("\"Secret\":\"pw\"")
    );
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(
        text.contains("\"other\": 1") && !text.contains("dTpw"),
        "{text}"
    );
    with_helper(&["pull", "-q", &image], b"").ok();
    with_helper(&["logout", host], b"").ok();
    assert!(!kept.exists());
    with_helper(&["pull", &image], b"").fails(1, "");
}

#[test]
fn archives_go_to_files_and_pipes() {
    let engine = Engine::start();
    let file = engine.dir().join("saved.tar");
    let path = file.to_str().unwrap();
    engine.berth(&["save", "-o", path, "busybox"]).ok();
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    engine.berth(&["rmi", "-f", "busybox"]).ok();
    let loaded = engine.berth(&["load", "-i", path]).ok();
    assert_eq!(loaded, "Loaded image: busybox:latest");
    engine
        .berth(&["save", "-o", path, "none-such"])
        .fails(1, "No such image");
    assert!(
        std::fs::metadata(&file).unwrap().len() > 100_000,
        "the old file stays"
    );
    let left = std::fs::read_dir(engine.dir()).unwrap().flatten();
    assert!(
        !left
            .into_iter()
            .any(|entry| entry.file_name().to_str().unwrap().ends_with(".tmp"))
    );
    for args in [
        ["save", "-o", "/none-such/x", "busybox"],
        ["export", "-o", "/none-such/x", "busybox"],
    ] {
        same(&engine, &args).fails(1, "invalid output path: stat /none-such");
    }

    engine
        .berth(&[
            "run",
            "--name",
            "made",
            "busybox",
            "sh",
            "-c",
            "echo new > /new",
        ])
        .ok();
    let id = engine
        .berth(&[
            "commit", "-m", "why", "-a", "who", "-c", "ENV A=b", "made", "made:1",
        ])
        .ok();
    assert!(id.starts_with("sha256:"), "{id}");
    let shown = engine
        .berth(&["run", "--rm", "made:1", "sh", "-c", "cat /new; echo $A"])
        .ok();
    assert_eq!(shown, "new\nb");
    same(&engine, &["commit", "none-such"]).fails(1, "No such container");
}

#[test]
fn space_is_shown_and_given_back() {
    let engine = Engine::start();
    engine.berth(&["volume", "create", "kept"]).ok();
    engine.berth(&["create", "--name", "made", "busybox"]).ok();
    for args in [
        &["system", "df"][..],
        &["system", "df", "--format", "{{json .}}"],
        &["system", "df", "-v"],
    ] {
        let older = same(&engine, args).ok();
        // Since 1.52 the engine adds up itself.
        assert_eq!(engine.berth(args).ok(), older, "{args:?}");
    }
    let check = engine.berth(&["system", "check"]);
    assert_eq!(check.code, 0, "{check:?}");
    assert!(check.stdout.contains("no damage"), "{check:?}");
    let question = engine.berth(&["system", "prune", "-a"]);
    assert_eq!(
        question.stdout,
        "WARNING! This will remove:\n  - all stopped containers\n  - all images without at least one container associated to them\n  - all build cache\n\nAre you sure you want to continue? [y/N] "
    );
    assert_eq!(question.code, 0);
    same(&engine, &["image", "prune"]).ok();
    let pruned = engine.berth(&["system", "prune", "-af", "--volumes"]).ok();
    assert!(pruned.starts_with("Deleted Containers:\n"), "{pruned}");
    assert!(
        pruned.contains("\nDeleted Images:\nuntagged: busybox:latest\ndeleted: sha256:"),
        "{pruned}"
    );
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
    assert_eq!(engine.berth(&["images", "-aq"]).ok(), "");
    assert_eq!(
        engine.berth(&["volume", "ls", "-q"]).ok(),
        "kept",
        "it has a name"
    );
    same(&engine, &["image", "prune", "-f"]).ok();
}

#[test]
fn manifest_lists_are_dockers() {
    let engine = Engine::start_empty(&[]);
    let registry = DockerRegistry::start(&engine, 5000);
    let names = images(&engine, &registry, &["amd64", "s390x"]);
    let list = registry.name("multi:all");
    let berth = |args: &[&str]| inside(&engine, "berth", args);
    // Both clients read what the other keeps and what the registry has.
    let both = |args: &[&str]| {
        let ours = berth(args).ok();
        if has_docker() {
            assert_eq!(ours, inside(&engine, "docker", args).ok(), "{args:?}");
        }
        ours
    };
    both(&["manifest", "inspect", "--insecure", &names[0]]);
    both(&["manifest", "inspect", "--insecure", "-v", &names[0]]);
    let made = berth(&["manifest", "create", "--insecure", &list, &names[0]]).ok();
    assert_eq!(made, format!("Created manifest list {list}"));
    berth(&["manifest", "create", "--insecure", &list, &names[1]]).fails(
        1,
        "refusing to amend an existing manifest list with no --amend flag",
    );
    berth(&[
        "manifest",
        "create",
        "--insecure",
        "--amend",
        &list,
        &names[1],
    ])
    .ok();
    berth(&["manifest", "annotate", "--variant", "v2", &list, &names[0]]).ok();
    berth(&["manifest", "annotate", "--arch", "none", &list, &names[0]])
        .fails(1, "unsupported os/arch combination");
    let text = both(&["manifest", "inspect", &list]);
    assert!(
        text.contains("\"variant\": \"v2\"") && text.contains("s390x"),
        "{text}"
    );
    both(&["manifest", "inspect", "-v", &list]);
    both(&["manifest", "inspect", &list, &names[1]]);
    let digest = berth(&["manifest", "push", "--insecure", "--purge", &list]).ok();
    berth(&["manifest", "rm", &list]).fails(1, "No such manifest");
    let raw = engine.in_network(&[
        "skopeo",
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{list}"),
    ]);
    assert_eq!(oci::digest(raw.stdout.as_bytes()), digest);
    both(&["manifest", "inspect", "--insecure", &list]);
    both(&["manifest", "inspect", "--insecure", "-v", &list]);

    // In another repository the registry takes the blobs over.
    let other = registry.name("other:all");
    berth(&[
        "manifest",
        "create",
        "--insecure",
        &other,
        &names[0],
        &names[1],
    ])
    .ok();
    let pushed = berth(&["manifest", "push", "--insecure", &other]).ok();
    assert_eq!(pushed.matches("Pushed ref ").count(), 2, "{pushed}");
    engine.berth(&["pull", "-q", &other]).ok();
    berth(&["manifest", "inspect", "--insecure", &registry.name("none")])
        .fails(1, "no such manifest: ");
}

#[test]
fn a_terminal_sees_bars_and_keeps_the_outcome() {
    use std::io::Read;
    let engine = Engine::start();
    let registry = DockerRegistry::start(&engine, 5000);
    let image = registry.name("t:1");
    engine.berth(&["tag", "busybox", &image]).ok();
    let (mut master, slave) = berth_e2e::engine::terminal();
    let mut command = engine.command("berth");
    command
        .args(["push", &image])
        .env("NO_COLOR", "1")
        .env("TERM", "xterm")
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut seen = Vec::new();
    // A terminal whose other side is gone gives an error.
    let _ = master.read_to_end(&mut seen);
    assert!(child.wait().unwrap().success());
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.contains("The push refers to repository ["), "{seen:?}");
    assert!(seen.contains(": Pushed\r\n"), "{seen:?}");
    let end = seen.rsplit("\x1b[J").next().unwrap();
    assert!(
        end.starts_with("1: digest: sha256:") || end.contains("\r\n1: digest: sha256:"),
        "{seen:?}"
    );
    // Cursor movements, but no colours.
    assert!(
        !seen.contains("\x1b[36m") && !seen.contains("\x1b[3"),
        "{seen:?}"
    );
}

/// Reads from a terminal until `text` was there.
fn read_until(master: &mut std::fs::File, text: &str) -> String {
    use std::io::Read;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        let mut byte = [0];
        assert_eq!(
            master.read(&mut byte).unwrap(),
            1,
            "{:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn passwords_are_typed_unseen() {
    use rustix::termios::{LocalModes, tcgetattr};
    use std::io::Write;
    let engine = Engine::start_empty(&[]);
    let (mut master, slave) = berth_e2e::engine::terminal();
    let echoes = || {
        tcgetattr(&slave)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    };
    assert!(echoes());
    for signalled in [false, true] {
        let mut child = engine
            .command("berth")
            .args(["login", "127.0.0.1:1"])
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave.try_clone().unwrap())
            .spawn()
            .unwrap();
        read_until(&mut master, "Username: ");
        master.write_all(b"me\n").unwrap();
        read_until(&mut master, "Password: ");
        assert!(!echoes());
        if signalled {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        } else {
            master.write_all(format!("{SECRET}\n").as_bytes()).unwrap();
            let seen = read_until(&mut master, "Error response from daemon");
            assert!(!seen.contains(SECRET), "{seen}");
        }
        assert!(!child.wait().unwrap().success());
        assert!(echoes(), "the terminal is as it was");
    }
    assert!(!leaks(&engine, SECRET));
}

#[test]
fn damage_is_found_and_mended() {
    let engine = Engine::start();
    let config = engine
        .berth(&[
            "image",
            "inspect",
            "-f",
            "{{.Descriptor.digest}}",
            "busybox",
        ])
        .ok();
    let blob = engine
        .data_root()
        .join("blobs/sha256")
        .join(config.trim_start_matches("sha256:"));
    assert!(blob.is_file(), "{}", blob.display());
    std::fs::write(&blob, "{}").unwrap();
    let found = engine.berth(&["system", "check"]);
    assert_eq!(found.code, 1, "{found:?}");
    assert!(found.stdout.contains("sha256:"), "{found:?}");
    assert!(
        found
            .stdout
            .contains("Run 'berth system check --repair' to repair"),
        "{found:?}"
    );
    engine.berth(&["system", "check", "--repair"]).ok();
    engine.berth(&["system", "check"]).ok();
}
