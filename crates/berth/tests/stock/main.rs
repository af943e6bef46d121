//! berth's command line beside Docker's own: the same words must lead to the
//! same requests, the same output and the same exit status. Needs the `docker`
//! client; without it the tests say so and check nothing.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod recorder;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use recorder::{Recorded, Recorder};

struct Clients {
    directory: tempfile::TempDir,
    stock: PathBuf,
}

impl Clients {
    fn new() -> Option<Self> {
        let stock = std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|directory| directory.join("docker"))
            .find(|path| path.is_file());
        let Some(stock) = stock else {
            println!("skipped: there is no docker client to compare with in PATH");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        symlink(env!("CARGO_BIN_EXE_berth"), directory.path().join("docker")).unwrap();
        std::fs::create_dir(directory.path().join("config")).unwrap();
        Some(Self { directory, stock })
    }

    fn ours(&self) -> PathBuf {
        self.directory.path().join("docker")
    }

    fn run(&self, program: &Path, host: &Path, words: &[String]) -> Output {
        Command::new(program)
            .args(words)
            .env_clear()
            .env("HOME", "/root")
            .env("TZ", "UTC")
            .env("DOCKER_HOST", format!("unix://{}", host.display()))
            .env("DOCKER_CONFIG", self.directory.path().join("config"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

/// Splits at spaces; single quotes keep a word whole.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut any) = (false, false);
    for letter in line.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                any = true;
            }
            ' ' if !quoted => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            _ => {
                word.push(letter);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

fn shown(output: &Output) -> String {
    format!(
        "status {:?}\n--- stdout\n{}--- stderr\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs all lines with both; `same` says whether they agree.
fn compare(
    lines: &str,
    same: impl Fn(&str, (&Output, &[Recorded]), (&Output, &[Recorded])) -> Result<(), String>,
) {
    let Some(clients) = Clients::new() else {
        return;
    };
    let recorder = Recorder::start(clients.directory.path());
    let mut differ = Vec::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = words(line);
        let theirs = clients.run(&clients.stock, &recorder.socket, &words);
        let their_requests = recorder.take();
        let ours = clients.run(&clients.ours(), &recorder.socket, &words);
        let our_requests = recorder.take();
        if let Err(why) = same(line, (&theirs, &their_requests), (&ours, &our_requests)) {
            differ.push(format!("===== docker {line}\n{why}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

fn same_output(theirs: &Output, ours: &Output) -> Result<(), String> {
    // Docker's client misspells one hint.
    let (theirs, ours) = (shown(theirs).replace("SRun '", "Run '"), shown(ours));
    if theirs == ours {
        Ok(())
    } else {
        Err(format!("stock: {theirs}\nberth: {ours}"))
    }
}

fn same_requests(theirs: &[Recorded], ours: &[Recorded]) -> Result<(), String> {
    if theirs == ours {
        Ok(())
    } else {
        Err(format!("stock: {theirs:#?}\nberth: {ours:#?}"))
    }
}

#[test]
fn create_sends_the_same() {
    compare(
        include_str!("create.txt"),
        |line, (theirs, their_requests), (ours, our_requests)| {
            // Docker waits for what it does not attach to, and forgets it.
            let detached = line.starts_with("run -d");
            let relevant = |requests: &[Recorded]| -> Vec<_> {
                requests
                    .iter()
                    .filter(|request| !(detached && request.path.ends_with("/wait")))
                    .cloned()
                    .collect()
            };
            same_requests(&relevant(their_requests), &relevant(our_requests))?;
            same_output(theirs, ours)
        },
    );
}

#[test]
fn other_commands_send_and_print_the_same() {
    compare(
        include_str!("commands.txt"),
        |line, (theirs, their_requests), (ours, our_requests)| {
            same_requests(
                &without_extras(line, their_requests),
                &without_extras(line, our_requests),
            )?;
            same_output(theirs, ours)
        },
    );
}

/// Leaves out what Docker's client sends and berth's, on purpose, does not.
fn without_extras(line: &str, requests: &[Recorded]) -> Vec<Recorded> {
    // Whether the container exists: the engine answers the same to what follows.
    let exec = line.starts_with("exec");
    let mut sorted = requests.to_vec();
    // Several at once arrive in any order.
    if ["stop", "rm "].iter().any(|verb| line.starts_with(verb)) {
        sorted.sort_by(|a, b| a.path.cmp(&b.path));
    }
    sorted
        .iter()
        .filter(|request| !(exec && request.path == "/containers/x/json"))
        // Kinds of objects that come later.
        .filter(|request| {
            let later = [
                "/volumes/",
                "/info",
                "/nodes/",
                "/plugins/",
                "/services/",
                "/tasks/",
                "/secrets/",
                "/configs/",
            ];
            !later.iter().any(|path| request.path.starts_with(path))
        })
        .cloned()
        .map(|mut request| {
            if request.path.ends_with("/exec")
                && let Some(body) = request.body.as_object_mut()
            {
                // Not in the API: no engine reads it.
                body.remove("Detach");
            }
            if request.path == "/images/json" {
                // Docker 29 asks for it, the stock client here does not yet.
                request.query.remove("manifests");
            }
            request
        })
        .collect()
}

#[test]
fn refusals_are_the_same() {
    compare(include_str!("refusals.txt"), |_, (theirs, _), (ours, _)| {
        same_output(theirs, ours)
    });
}
