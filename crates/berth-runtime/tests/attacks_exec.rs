//! A container that lies in wait for an exec, and what its processes inherit.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::bundle::Bundle;
use common::*;
use serde_json::json;

/// A file of the host that no container may see.
const SECRET: &str = "secret-of-the-host";

/// How often the container gets a chance.
const ROUNDS: usize = 30;

/// The attacker: a copy of this test program in the container, bound at `/attacker`
/// and called with `--ignored --exact`. Looks at every process that shows up until
/// `/stop` is there, and writes down what it could get hold of.
#[test]
#[ignore = "what the attacks run in their containers"]
fn role_watch() {
    assert_eq!(fs::read_to_string("/role").unwrap(), "watch");
    let own = std::process::id();
    let mut found = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    fs::write("/ready", "").unwrap();
    while !Path::new("/stop").exists() {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            if pid != own && pid != 1 {
                seen.insert(pid);
                look_at(pid, &mut found);
            }
        }
    }
    found.sort();
    found.dedup();
    fs::write("/seen", seen.len().to_string()).unwrap();
    fs::write("/found", found.join("\n")).unwrap();
}

fn look_at(pid: u32, found: &mut Vec<String>) {
    let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    for way in ["root", "cwd"] {
        if of(way).join(SECRET).exists() || of(way).join("..").join(SECRET).exists() {
            found.push(format!("{way} is the host's"));
        }
    }
    let mut places: Vec<PathBuf> = (3..24).map(|fd| of(&format!("fd/{fd}"))).collect();
    places.push(of("exe"));
    for place in places {
        if place.join(SECRET).exists() {
            found.push("a descriptor is of a directory of the host".to_owned());
        }
        let Ok(target) = fs::read_link(&place) else {
            continue;
        };
        if target.to_string_lossy().contains("berth-runtime")
            && let Ok(mut file) = fs::File::options().write(true).open(&place)
        {
            let written = std::io::Write::write_all(&mut file, b"#!/evil");
            found.push(format!("{} opened, {written:?}", target.display()));
        }
    }
    // The right to attach a debugger.
    if let Ok(mut memory) = fs::File::options().write(true).open(of("mem"))
        && fs::read_to_string(of("comm")).is_ok_and(|name| name.contains("berth"))
        && std::io::Write::flush(&mut memory).is_ok()
    {
        found.push("its memory".to_owned());
    }
}

/// A directory that the attacker knows as the host's: `/secret-of-the-host` cannot
/// be made on a machine that is not ours, so the callers' own directory has it.
struct Watched {
    bundle: Bundle,
    program: PathBuf,
    before: Vec<u8>,
}

impl Watched {
    /// Runs the attacker, with execs passing by.
    fn new(change: impl FnOnce(&mut Bundle)) -> Self {
        let mut bundle = Bundle::new(&[
            "/attacker",
            "--ignored",
            "--exact",
            "role_watch",
            "--test-threads",
            "1",
        ]);
        fs::write(bundle.rootfs().join("attacker"), "").unwrap();
        fs::write(bundle.rootfs().join("role"), "watch").unwrap();
        bundle.bind(&std::env::current_exe().unwrap(), "/attacker");
        change(&mut bundle);
        fs::write(bundle.path().join(SECRET), "").unwrap();
        // Not the program that other tests run.
        let program = bundle.path().join("berth-runtime");
        fs::copy(BINARY, &program).unwrap();
        let before = fs::read(&program).unwrap();
        Self {
            bundle,
            program,
            before,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bundle.command_of(&self.program, args);
        command.stdin(Stdio::null());
        command.stdout(Stdio::null());
        command
    }

    /// What the attacker got hold of while others went by.
    fn found(self) -> String {
        let root = self.bundle.rootfs();
        let status = self
            .command(&["run", "-d", "a"])
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        eventually("the attacker is ready", || {
            root.join("ready").exists().then_some(())
        });
        for _ in 0..ROUNDS {
            let status = self.command(&["exec", "a", "/bin/true"]).status();
            assert!(status.unwrap().success());
        }
        fs::write(root.join("stop"), "").unwrap();
        let found = eventually("the attacker is done", || {
            fs::read_to_string(root.join("found")).ok()
        });
        let seen = fs::read_to_string(root.join("seen")).unwrap();
        assert_ne!(seen, "0", "the attacker saw nobody");
        self.bundle.ok(&["delete", "--force", "a"]);
        self.bundle.assert_empty();
        assert_eq!(
            fs::read(&self.program).unwrap(),
            self.before,
            "CVE-2019-5736"
        );
        found
    }
}

/// CVE-2019-5736, CVE-2016-9962: nothing of a process that joins is within reach.
#[test]
fn cve_2016_9962_exec_passes_by_a_container() {
    assert_eq!(Watched::new(|_| {}).found(), "");
}

/// With CAP_SYS_PTRACE an undumpable process can be looked at: then the root and
/// the working directory it shows must be the container's already.
#[test]
fn cve_2016_9962_exec_passes_by_a_debugger() {
    let found = Watched::new(|bundle| bundle.allow("CAP_SYS_PTRACE")).found();
    let host: Vec<&str> = (found.lines())
        .filter(|line| line.contains("host") || line.contains("Ok(())"))
        .collect();
    assert!(host.is_empty(), "{host:#?}");
}

/// CVE-2019-5736: the runtime as a program, as an interpreter and as a hook is not
/// the host's file; the attacker is its child and opens it in every way.
#[test]
#[ignore = "what the attacks run in their containers"]
fn role_overwrite() {
    use std::os::unix::fs::PermissionsExt;
    let parent = std::os::unix::process::parent_id();
    let exe = PathBuf::from(format!("/proc/{parent}/exe"));
    let target = fs::read_link(&exe).unwrap();
    assert!(
        target.to_string_lossy().contains("berth-runtime"),
        "{target:?}"
    );
    let mut done = Vec::new();
    for options in [
        fs::File::options().write(true),
        fs::File::options().read(true).write(true),
        fs::File::options().append(true),
        fs::File::options().write(true).truncate(true),
    ] {
        if let Ok(mut file) = options.open(&exe) {
            done.push(format!(
                "{options:?}: {:?}",
                std::io::Write::write(&mut file, b"#!")
            ));
            let _ = file.set_len(0);
        }
    }
    // Once more through a descriptor that was only opened for reading.
    let held = fs::File::open(&exe).unwrap();
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    if let Ok(mut file) = fs::File::options().write(true).open(&again) {
        done.push(format!(
            "again: {:?}",
            std::io::Write::write(&mut file, b"#!")
        ));
    }
    let _ = fs::set_permissions(&exe, fs::Permissions::from_mode(0o777));
    let _ = held.set_permissions(fs::Permissions::from_mode(0o777));
    let _ = std::os::unix::fs::chown(&exe, Some(1), Some(1));
    let _ = rustix::fs::link(&exe, "/link");
    let ours = "/proc/self/exe";
    let _ = fs::rename(ours, "/moved");
    fs::write("/tried", done.join("\n")).unwrap();
}

const ROLE_OVERWRITE: [&str; 5] = [
    "/attacker",
    "--ignored",
    "--exact",
    "role_overwrite",
    "--nocapture",
];

/// The attacker as a child of the runtime's `init`, which `/proc/self/exe` becomes.
fn overwriting() -> Vec<&'static str> {
    let mut words = vec!["/proc/self/exe", "init", "--"];
    words.extend(ROLE_OVERWRITE);
    words
}

/// A script whose interpreter is the runtime.
fn put_script(bundle: &Bundle, at: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = bundle.rootfs().join(at);
    let _ = fs::remove_file(&path);
    fs::write(&path, "#!/proc/self/exe state\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

struct Untouched {
    bundle: Bundle,
    program: PathBuf,
    before: String,
}

impl Untouched {
    fn new(args: &[&str]) -> Self {
        let mut bundle = Bundle::new(args);
        fs::write(bundle.rootfs().join("attacker"), "").unwrap();
        bundle.bind(&std::env::current_exe().unwrap(), "/attacker");
        let dir = bundle.path().join("program");
        fs::create_dir(&dir).unwrap();
        let program = dir.join("berth-runtime");
        fs::copy(BINARY, &program).unwrap();
        let before = snapshot(&dir);
        Self {
            bundle,
            program,
            before,
        }
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        let mut command = self.bundle.command_of(&self.program, args);
        let child = (command.stdin(Stdio::null()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        ended(child.unwrap(), "it ends")
    }

    /// `tried`: whether the attacker must have had its chance.
    fn check(&self, tried: bool) {
        let path = self.bundle.rootfs().join("tried");
        let found = fs::read_to_string(&path);
        assert_eq!(found.is_ok(), tried, "the attacker did not run");
        assert!(
            !found.unwrap_or_default().contains("Ok("),
            "something was written"
        );
        let _ = fs::remove_file(path);
        assert_eq!(snapshot(self.program.parent().unwrap()), self.before);
        assert!(!self.bundle.rootfs().join("link").exists());
    }
}

#[test]
fn cve_2019_5736_run_of_the_runtime() {
    let attack = Untouched::new(&overwriting());
    let output = attack.run(&["run", "a"]);
    assert!(output.status.success(), "{output:?}");
    attack.check(true);
    attack.bundle.assert_empty();
}

#[test]
fn cve_2019_5736_exec_of_the_runtime() {
    let attack = Untouched::new(&["sleep", "1000"]);
    let status = (attack
        .bundle
        .command_of(&attack.program, &["run", "-d", "a"]))
    .stdin(Stdio::null())
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .status();
    assert!(status.unwrap().success());
    let mut exec = vec!["exec", "a"];
    exec.extend(overwriting());
    let output = attack.run(&exec);
    assert!(output.status.success(), "{output:?}");
    attack.check(true);
    // An interpreter gets the script, not the attacker: it is only not to be hurt.
    put_script(&attack.bundle, "script");
    attack.run(&["exec", "a", "/script"]);
    attack.check(false);
    attack.bundle.ok(&["delete", "--force", "a"]);
    attack.bundle.assert_empty();
}

#[test]
fn cve_2019_5736_script_of_the_runtime() {
    let mut attack = Untouched::new(&["/script"]);
    put_script(&attack.bundle, "script");
    attack.run(&["run", "a"]);
    attack.check(false);
    // The shell of the image is one too.
    put_script(&attack.bundle, "bin/sh");
    attack.bundle.config["process"]["args"] = json!(["sh", "-c", "true"]);
    attack.run(&["run", "a"]);
    attack.check(false);
    attack.bundle.assert_empty();
}

#[test]
fn cve_2019_5736_hook_of_the_runtime() {
    let mut attack = Untouched::new(&["true"]);
    attack.bundle.config["hooks"]["startContainer"] = json!([{
        "path": "/proc/self/exe",
        "args": overwriting(),
    }]);
    let output = attack.run(&["run", "a"]);
    assert!(output.status.success(), "{output:?}");
    attack.check(true);
    attack.bundle.assert_empty();
}

/// CVE-2024-21626: with more open in the caller than anyone should have.
#[test]
fn cve_2024_21626_descriptors_of_the_caller() {
    let mut bundle = Bundle::new(&["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"]);
    fs::write(bundle.path().join(SECRET), "").unwrap();
    let list = "ls -l /proc/self/fd > /tmp/$0; ls /proc/self/fd | tr '\\n' ' ' > /tmp/$0.numbers";
    for name in ["startContainer", "createContainer"] {
        // The second runs with the host's programs, but is a process of the container.
        let out = bundle.rootfs().join("tmp");
        let list = match name {
            "createContainer" => list.replace("/tmp", out.to_str().unwrap()),
            _ => list.to_owned(),
        };
        bundle.config["hooks"][name] = json!([{
            "path": "/bin/sh",
            "args": ["sh", "-c", list, name],
            "env": ["PATH=/bin:/usr/bin"],
        }]);
    }
    bundle.save();
    // Directories and files, read and write, low and high.
    let with_open = |bundle: &Bundle, words: &str| {
        let script = format!(
            "exec 3<. 4</ 5>>log 6</proc 7<&3 63<. 9</dev/null; {BINARY} --root state {words}"
        );
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(bundle.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // 3 is the listing's own.
    assert_eq!(with_open(&bundle, "run a"), "0 1 2 3 ");
    for name in ["startContainer", "createContainer"] {
        let numbers = fs::read_to_string(bundle.rootfs().join(format!("tmp/{name}.numbers")));
        assert_eq!(numbers.unwrap(), "0 1 2 3 ", "{name}");
    }
    bundle.config["process"]["args"] = json!(["sleep", "1000"]);
    bundle.config["hooks"] = json!({});
    bundle.leave(&["run", "-d", "a"]);
    let listed = with_open(
        &bundle,
        "exec a sh -c 'ls /proc/self/fd | tr \"\\n\" \" \"'",
    );
    assert_eq!(listed, "0 1 2 3 ");
    // Nor is a hook or the container kept from them by numbers of the runtime's own.
    for number in 3..40 {
        let cwd = format!("/proc/self/fd/{number}");
        let output = bundle.output(&["exec", "--cwd", &cwd, "a", "ls"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains(SECRET), "{cwd}: {output:?}");
        let script = "ls . .. ../.. ../../.. ../../../.. | cat";
        let output = bundle.output(&["exec", "--cwd", &cwd, "a", "sh", "-c", script]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains(SECRET), "{cwd}: {output:?}");
    }
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

/// CVE-2024-21626.
#[test]
fn cve_2024_21626_working_directory_is_a_descriptor() {
    let mut bundle = Bundle::new(&["sh", "-c", "ls . .. ../.. ../../.. ../../../.. | cat"]);
    fs::write(bundle.path().join(SECRET), "").unwrap();
    for number in 3..24 {
        for way in ["self", "thread-self", "1", "self/task/1"] {
            bundle.config["process"]["cwd"] = json!(format!("/proc/{way}/fd/{number}"));
            let output = bundle.output(&["run", "a"]);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(!text.contains(SECRET), "{number}: {output:?}");
        }
    }
    for place in ["/proc/self/cwd", "/proc/self/root", "/proc/1/cwd"] {
        bundle.config["process"]["cwd"] = json!(place);
        let output = bundle.output(&["run", "a"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains(SECRET), "{place}: {output:?}");
    }
    bundle.assert_empty();
}

/// With the standard streams closed in the caller, none of the runtime's own
/// descriptors takes their numbers.
#[test]
fn closed_streams_are_not_the_hosts() {
    let mut bundle = Bundle::new(&["sh", "-c", "ls -l /proc/self/fd > /list"]);
    for (closed, number) in [("<&-", 0), (">&-", 1), ("2>&-", 2)] {
        bundle.save();
        let script = format!("exec {closed}; {BINARY} --root state run a");
        let status = Command::new("bash")
            .args(["-c", &script])
            .current_dir(bundle.path())
            .status();
        assert!(status.unwrap().success(), "{closed}");
        let list = fs::read_to_string(bundle.rootfs().join("list")).unwrap();
        let line = list
            .lines()
            .find(|line| line.contains(&format!(" {number} -> ")));
        let expected = if number == 1 { "/list" } else { "/dev/null" };
        assert!(line.is_some_and(|line| line.ends_with(expected)), "{list}");
    }
    bundle.config["process"]["args"] = json!(["true"]);
    bundle.assert_empty();
}

/// CVE-2022-29162, CVE-2022-36109: what the caller is goes no further.
#[test]
fn cve_2022_36109_groups_and_capabilities_of_the_caller() {
    let script = "id -G; grep -E 'CapInh|CapAmb' /proc/self/status";
    let bundle = Bundle::new(&["sh", "-c", script]);
    let nothing = "0\nCapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    let as_somebody = |args: &[&str]| {
        let command = bundle.command(args);
        let mut outer = Command::new("setpriv");
        outer.args(["--groups", "4,5", "--inh-caps", "+chown,+mknod"]);
        outer.arg("--").arg(command.get_program());
        outer.args(command.get_args());
        let output = outer
            .current_dir(bundle.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(as_somebody(&["run", "a"]), nothing);
    let sleeper = Bundle::new(&["sleep", "1000"]);
    sleeper.leave(&["run", "-d", "a"]);
    let state = sleeper.state();
    let exec = [
        "--root",
        state.to_str().unwrap(),
        "exec",
        "--cap",
        "CAP_SYS_ADMIN",
        "a",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(as_somebody(&exec), nothing);
    sleeper.ok(&["delete", "--force", "a"]);
    sleeper.assert_empty();
}

/// The session keyring is the container's own, at the start and for an exec.
#[test]
fn keys_of_the_caller_stay_outside() {
    let script = "cat /proc/keys; echo; ls -l /proc/self/ns/user";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.config["linux"]["maskedPaths"] = json!([]);
    let keys = bundle.ok(&["run", "own-keys"]);
    assert!(keys.contains("_ses.own-keys"), "{keys}");
    bundle.assert_empty();
}
