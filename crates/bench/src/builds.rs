//! Builds: steps that do nothing, a large context, the same again from the
//! cache, and a file of many stages; against BuildKit and Docker's classic
//! builder in one engine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_e2e::Engine;

use crate::engines::Docker;
use crate::sample::{Series, table, time};

/// A context of this many files of one megabyte.
const FILES: usize = 500;
const STEPS: usize = 10;
const STAGES: usize = 60;

struct Builder<'a> {
    name: &'static str,
    command: Box<dyn Fn() -> Command + 'a>,
}

impl Builder<'_> {
    fn build(&self, context: &Path, flags: &[&str]) -> std::time::Duration {
        let mut command = (self.command)();
        command.args(["build", "--quiet", "--tag", "bench"]);
        time(command.args(flags).arg(context))
    }
}

pub(crate) fn measure(rounds: usize, place: &str) {
    let rounds = rounds.clamp(1, 10);
    let dir = tempfile::Builder::new()
        .prefix("bench-builds-")
        .tempdir_in(place)
        .expect("the directory can be written");
    let berth = Engine::start_in(dir.path(), &[]);
    let docker = Docker::start_in(dir.path());
    let mut builders = vec![Builder {
        name: "berth",
        command: Box::new(|| berth.command("berth")),
    }];
    if let Some(docker) = &docker {
        if docker.has_buildx() {
            builders.push(Builder {
                name: "docker, BuildKit",
                command: Box::new(|| with(docker.command(), "1")),
            });
        }
        builders.push(Builder {
            name: "docker, classic",
            command: Box::new(|| with(docker.command(), "0")),
        });
    }
    println!("Builds, data on {place}\n");

    let steps = context(dir.path(), "steps", &steps());
    in_turn(
        &format!("build of {STEPS} RUN steps, without cache"),
        &builders,
        rounds,
        |builder, _| builder.build(&steps, &["--no-cache"]),
    );
    in_turn(
        &format!("build of {STEPS} RUN steps, all cached"),
        &builders,
        rounds,
        |builder, _| builder.build(&steps, &[]),
    );

    let stages = context(dir.path(), "stages", &stages());
    in_turn(
        &format!("build of {STAGES} stages, all cached"),
        &builders,
        rounds,
        |builder, _| builder.build(&stages, &[]),
    );

    let mut first = series(&builders);
    let mut again = series(&builders);
    for round in 0..rounds.min(4) {
        let files = context(dir.path(), "files", "FROM scratch\nCOPY . /files/\n");
        fill(&files, round);
        for (at, builder) in builders.iter().enumerate() {
            let elapsed = (builder.build(&files, &[]), builder.build(&files, &[]));
            // The first round warms up.
            if round > 0 {
                first[at].add(elapsed.0);
                again[at].add(elapsed.1);
            }
        }
        std::fs::remove_dir_all(&files).expect("a directory of ours");
    }
    table(&format!("build with COPY of {FILES} MB, new"), &first);
    table(&format!("build with COPY of {FILES} MB, cached"), &again);
}

fn with(mut docker: Command, buildkit: &str) -> Command {
    docker.env("DOCKER_BUILDKIT", buildkit);
    docker
}

fn series(builders: &[Builder<'_>]) -> Vec<Series> {
    (builders.iter())
        .map(|builder| Series::new(builder.name))
        .collect()
}

fn in_turn(
    title: &str,
    builders: &[Builder<'_>],
    rounds: usize,
    build: impl Fn(&Builder<'_>, usize) -> std::time::Duration,
) {
    let mut rows = series(builders);
    for round in 0..=rounds {
        for (builder, row) in builders.iter().zip(&mut rows) {
            let elapsed = build(builder, round);
            if round > 0 {
                row.add(elapsed);
            }
        }
    }
    table(title, &rows);
}

/// A directory with a Dockerfile and a static busybox.
fn context(dir: &Path, name: &str, dockerfile: &str) -> PathBuf {
    let context = dir.join(name);
    std::fs::create_dir_all(&context).expect("a directory of ours");
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("a file of ours");
    std::fs::copy(berth_e2e::image::busybox(), context.join("busybox")).expect("a file of ours");
    context
}

fn steps() -> String {
    let mut text = "FROM scratch\nCOPY busybox /bin/sh\n".to_owned();
    for step in 0..STEPS {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "RUN echo {step} >/{step}");
    }
    text
}

fn stages() -> String {
    let mut text = "FROM scratch AS s0\nCOPY busybox /bin/sh\n".to_owned();
    for stage in 1..STAGES {
        let _ = writeln!(text, "FROM scratch AS s{stage}");
        let _ = writeln!(text, "COPY --from=s{} /bin/sh /bin/sh", stage - 1);
    }
    text
}

/// Files whose content is different in each round.
fn fill(dir: &Path, round: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content: Vec<u8> = Vec::with_capacity(1 << 20);
    while content.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    for file in 0..FILES {
        content[..16].copy_from_slice(format!("{round:8}{file:8}").as_bytes());
        std::fs::write(dir.join(format!("file-{file}")), &content).expect("a file of ours");
    }
}
