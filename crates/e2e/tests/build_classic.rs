//! Builds by clients without BuildKit: the stock `docker build`, which sends
//! one tar stream to `POST /build`, and docker-py (`dockerpy.rs`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_e2e::{Engine, Run, installed, possible};
use serde_json::Value;

/// The stock client against an engine, in a directory of the test's own; none
/// where it is not installed.
struct Client {
    engine: Engine,
    context: PathBuf,
}

impl Client {
    fn start() -> Option<Self> {
        let client = Self::start_empty()?;
        client.engine.import_busybox();
        Some(client)
    }

    /// With an engine that has no images.
    fn start_empty() -> Option<Self> {
        possible("stock docker client", installed("docker")).then(|| {
            let engine = Engine::start_empty(&[]);
            let context = engine.dir().join("context");
            std::fs::create_dir(&context).unwrap();
            Self { engine, context }
        })
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.context.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.engine.command("docker");
        command
            .env_remove("DOCKER_BUILDKIT")
            .arg("build")
            .args(args)
            .current_dir(&self.context);
        command
    }

    /// `docker build ARGS .`
    fn build(&self, args: &[&str]) -> Run {
        Run::new(self.command(args).arg("."), b"")
    }

    /// A Dockerfile, built.
    fn dockerfile(&self, text: &str, args: &[&str]) -> Run {
        self.file("Dockerfile", text).build(args)
    }

    fn run(&self, image: &str, command: &[&str]) -> String {
        let mut args = vec!["run", "--rm", image];
        args.extend(command);
        self.engine.docker(&args).ok()
    }

    fn id(&self, image: &str) -> String {
        let args = ["image", "inspect", "--format", "{{.Id}}", image];
        self.engine.docker(&args).ok()
    }

    fn config(&self, image: &str) -> Value {
        let args = ["image", "inspect", "--format", "{{json .Config}}", image];
        serde_json::from_str(&self.engine.docker(&args).ok()).unwrap()
    }
}

/// Output without what is different in every build.
fn shown(output: &str) -> String {
    let line = |line: &str| {
        let is_id = |word: &&str| word.len() == 12 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let words = line.split(' ').map(|word| match is_id(&word) {
            true => "<id>",
            false => word,
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let lines = output.lines().map(line);
    // The client's own.
    let own = lines.filter(|line| !line.starts_with("Sending build context"));
    own.collect::<Vec<_>>().join("\n")
}

/// Every part of the language that the endpoint has to carry over.
#[test]
fn the_language_through_the_classic_endpoint() {
    let Some(client) = Client::start() else {
        return;
    };
    client
        .file("a.txt", "a\n")
        .file("sub/b.txt", "b\n")
        .file("ignored.txt", "no\n")
        .file(".dockerignore", "ignored.txt\n");
    client
        .dockerfile(
            "FROM busybox\nONBUILD COPY a.txt /triggered\nONBUILD RUN echo trigger >> /triggered\n",
            &["-t", "parent"],
        )
        .ok();
    let text = r#"ARG BASE=busybox
FROM ${BASE} AS build
ARG WORD=default
ENV WORD=${WORD} DIR=/srv
WORKDIR $DIR/deep
COPY --chmod=640 --chown=1000:1000 . /in/
RUN <<END
set -e
echo "$WORD from $(pwd)" > out
ls /in >> out
stat -c '%a %u' /in/a.txt >> out
END
COPY <<EOF /written
written: $WORD
EOF
RUN --mount=type=cache,target=/cache echo kept > /cache/x && cat /cache/x >> out

FROM busybox AS unused
RUN false

FROM parent
COPY --from=build /srv/deep/out /written /
LABEL own=one
EXPOSE 80/tcp
VOLUME /data
USER app
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["cat /out /written /triggered"]
"#;
    let args = [
        "-t",
        "x",
        "-t",
        "y:2",
        "--build-arg",
        "WORD=given",
        "--label",
        "l=v w",
    ];
    let output = client.dockerfile(text, &args).ok();
    assert!(
        output.contains("# Executing 2 build triggers\n"),
        "{output}"
    );
    assert!(output.contains("Successfully tagged x:latest\nSuccessfully tagged y:2"));
    assert!(!output.contains("unused"), "{output}");
    assert_eq!(
        client.run("x", &[]),
        "given from /srv/deep\nDockerfile\na.txt\nsub\n640 1000\nkept\nwritten: given\na\ntrigger"
    );
    assert_eq!(client.id("x"), client.id("y:2"));
    let config = client.config("x");
    assert_eq!(config["Labels"]["own"], "one");
    assert_eq!(config["Labels"]["l"], "v w");
    assert_eq!(config["User"], "app");
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["Healthcheck"]["Interval"], 5_000_000_000_u64);
    assert!(config["ExposedPorts"]["80/tcp"].is_object());
    assert!(config["Volumes"]["/data"].is_object());
    client.engine.assert_nothing_left();
}

#[test]
fn output_is_what_the_classic_builder_prints() {
    let Some(client) = Client::start() else {
        return;
    };
    client.file("a.txt", "a");
    let text = "ARG X=1
FROM busybox AS one
RUN echo hello
ENV A=b
FROM one
COPY a.txt /
CMD [\"x\"]
";
    let first = client.dockerfile(text, &["-t", "x", "--build-arg", "NONE=1"]);
    // Said by the client, which has no buildx.
    assert!(first.stderr.contains("DEPRECATED: The legacy builder"));
    let output = first.ok();
    let expected = "Step 1/7 : ARG X=1
Step 2/7 : FROM busybox AS one
 ---> <id>
Step 3/7 : RUN echo hello
 ---> Running in <id>
hello
 ---> Removed intermediate container <id>
 ---> <id>
Step 4/7 : ENV A=b
 ---> <id>
Step 5/7 : FROM one
 ---> <id>
Step 6/7 : COPY a.txt /
 ---> <id>
Step 7/7 : CMD [\"x\"]
 ---> <id>
[Warning] One or more build-args [NONE] were not consumed
Successfully built <id>
Successfully tagged x:latest";
    assert_eq!(shown(&output), expected);
    let short = &client.id("x")["sha256:".len()..][..12];
    assert!(output.contains(&format!("Successfully built {short}\n")));
    let base = &client.id("busybox")["sha256:".len()..][..12];
    assert!(output.contains(&format!(" ---> {base}\n")), "{output}");

    let cached = shown(&client.build(&[]).ok());
    assert_eq!(cached.matches(" ---> Using cache").count(), 2, "{cached}");
    assert!(!cached.contains("Running in"), "{cached}");
}

#[test]
fn steps_that_run_side_by_side_are_printed_in_order() {
    let Some(client) = Client::start() else {
        return;
    };
    // The first stage waits for the second, which it can only if both run.
    let text = "FROM busybox AS slow
RUN --mount=type=cache,target=/c while ! test -e /c/go; do usleep 10000; done; echo slow
FROM busybox AS quick
RUN --mount=type=cache,target=/c echo quick; touch /c/go
FROM busybox
COPY --from=slow /bin/true /slow
COPY --from=quick /bin/true /quick
";
    let output = client.dockerfile(text, &[]).ok();
    let place = |text: &str| {
        output
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {output}"))
    };
    assert!(place("\nslow\n") < place("\nquick\n"), "{output}");
    assert!(place("AS slow") < place("\nslow\n"), "{output}");
    assert!(place("AS quick") < place("\nquick\n"), "{output}");
}

#[test]
fn failures_have_dockers_words_and_codes() {
    let Some(client) = Client::start() else {
        return;
    };
    let failed = client
        .dockerfile("FROM busybox\nRUN echo out; exit 3\n", &["-t", "never"])
        .fails(
            3,
            "The command '/bin/sh -c echo out; exit 3' returned a non-zero code: 3",
        );
    assert!(failed.stdout.contains("\nout\n"), "{failed:?}");
    client
        .engine
        .docker(&["image", "inspect", "never"])
        .fails(1, "");
    client
        .build(&["-q"])
        .fails(3, "returned a non-zero code: 3");
    for (text, args, words) in [
        (
            "FROM busybox\nFOO bar\n",
            &[][..],
            "dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)",
        ),
        (
            "FROM busybox\nCOPY nothere /\n",
            &[],
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nothere: file does not exist",
        ),
        (
            "FROM busybox\n",
            &["--target", "zz"],
            "target stage \"zz\" could not be found",
        ),
        ("RUN x\n", &[], "no build stage in current context"),
        (
            "FROM busybox\n",
            &["--memory", "1000"],
            "Minimum memory limit allowed is 6MB",
        ),
        (
            "FROM busybox\n",
            &["--network", "mine"],
            "building in network \"mine\" is not supported",
        ),
        (
            "FROM busybox\n",
            &["--security-opt", "label=x"],
            "security options are not supported on linux",
        ),
        (
            "FROM busybox\nRUN --mount=type=secret,id=s,required true\n",
            &[],
            "secret s: not found",
        ),
    ] {
        client.dockerfile(text, args).fails(1, words);
    }
    client.engine.assert_nothing_left();
}

#[test]
fn the_ways_to_give_a_dockerfile() {
    let Some(client) = Client::start() else {
        return;
    };
    client
        .file("a.txt", "a\n")
        .file("other/Dockerfile.x", "FROM busybox\nCOPY a.txt /x\n");
    let args = ["-q", "-t", "x", "-f", "other/Dockerfile.x"];
    assert_eq!(client.build(&args).ok(), client.id("x"));

    let file = client.engine.dir().join("iid");
    let name = file.to_str().unwrap().to_owned();
    client
        .dockerfile("FROM busybox\nCOPY a.txt /\n", &["--iidfile", &name])
        .ok();
    let id = std::fs::read_to_string(&file).unwrap();
    assert_eq!(client.run(&id, &["cat", "/a.txt"]), "a");

    // From stdin; its temporary name is in no image.
    let text = b"FROM busybox\nCOPY . /all\n";
    let build = || Run::new(&mut client.command(&["-q", "-f", "-", "."]), text).ok();
    let first = build();
    assert_eq!(first, build());
    let all = client.run(&first, &["ls", "-a", "/all"]);
    assert!(
        all.contains("a.txt") && !all.contains(".dockerfile."),
        "{all}"
    );

    // A Dockerfile alone, and archives plain and compressed.
    let alone = b"FROM busybox\nRUN echo alone > /alone\n";
    Run::new(&mut client.command(&["-t", "alone", "-"]), alone).ok();
    assert_eq!(client.run("alone", &["cat", "/alone"]), "alone");
    for program in ["", "gzip", "bzip2", "xz"] {
        if !program.is_empty() && !possible(program, installed(program)) {
            continue;
        }
        let name = format!("tar{program}");
        let archive = archive(&client.context, program);
        Run::new(&mut client.command(&["-t", &name, "-"]), &archive).ok();
        assert_eq!(client.run(&name, &["cat", "/a.txt"]), "a", "{program}");
    }
    client
        .build(&["-f", "nowhere"])
        .fails(1, "nowhere: no such file or directory");
}

fn archive(dir: &Path, program: &str) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.arg("-C").arg(dir).args(["-cf", "-", "."]);
    if !program.is_empty() {
        command.arg(format!("--use-compress-program={program}"));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn the_cache_is_of_content() {
    let Some(client) = Client::start() else {
        return;
    };
    let text = "FROM busybox\nARG A\nRUN cat /proc/uptime > /time; echo $A\nCOPY a.txt /\nRUN cat /a.txt\n";
    client.file("a.txt", "one\n").file("Dockerfile", text);
    let build = |args: &[&str]| client.build(&[&["-q"], args].concat()).ok();
    let first = build(&[]);
    assert_eq!(build(&[]), first);
    // Times do not count, contents do.
    let touched = Command::new("touch")
        .args(["-d", "2001-01-01"])
        .arg(client.context.join("a.txt"))
        .status();
    assert!(touched.unwrap().success());
    assert_eq!(build(&[]), first);
    client.file("a.txt", "two\n");
    let changed = client.build(&[]).ok();
    assert_eq!(changed.matches("Using cache").count(), 1, "{changed}");
    assert!(changed.contains("\ntwo\n"), "{changed}");
    client.file("a.txt", "one\n");
    assert_eq!(build(&[]), first);
    assert_ne!(build(&["--build-arg", "A=1"]), first);
    assert_ne!(build(&["--no-cache"]), first);
}

#[test]
fn prune_gives_the_cache_back() {
    let Some(client) = Client::start() else {
        return;
    };
    let text = "FROM busybox\nRUN dd if=/dev/urandom of=/noise bs=1024 count=1024\n";
    let first = client.dockerfile(text, &["-q"]).ok();
    client.engine.docker(&["rmi", &first]).ok();
    let prune = ["builder", "prune", "--all", "--force"];
    let report = client.engine.docker(&prune).ok();
    assert!(report.contains("Total reclaimed space:"), "{report}");
    assert!(!report.contains("Total reclaimed space: 0B"), "{report}");
    let again = client.build(&[]).ok();
    assert!(!again.contains("Using cache"), "{again}");
    let filter = ["builder", "prune", "--force", "--filter", "bogus=1"];
    client.engine.docker(&filter).fails(1, "bogus");
}

#[test]
fn steps_are_limited() {
    let Some(client) = Client::start() else {
        return;
    };
    let text = "FROM busybox
RUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max
RUN ulimit -n; df -k /dev/shm | tail -n 1
RUN cat /etc/hosts
";
    let args = [
        "--memory",
        "32m",
        "--ulimit",
        "nofile=77:77",
        "--shm-size",
        "1m",
        "--add-host",
        "made.example:192.0.2.1",
    ];
    let output = client.dockerfile(text, &args).ok();
    assert!(output.contains("\n33554432\n"), "{output}");
    assert!(output.contains("\n77\n"), "{output}");
    assert!(output.contains(" 1024 "), "{output}");
    assert!(output.contains("192.0.2.1\tmade.example\n"), "{output}");
}

const ENDLESS: &str = "FROM busybox\nRUN echo begun; sleep 1000000\n";

/// Starts a build whose step does not end, and waits until it runs.
fn endless(command: &mut Command) -> Child {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = child.stdout.as_mut().unwrap();
    let mut said = String::new();
    // As the step says it; the step's own text has a semicolon there.
    while !said.ends_with("\nbegun\n") && !said.ends_with("\"begun\\n\"") {
        let mut byte = [0];
        assert_eq!(
            output.read(&mut byte).unwrap(),
            1,
            "the build ended: {said}"
        );
        said.push(byte[0].into());
    }
    child
}

#[test]
fn a_build_ends_with_its_client() {
    let Some(client) = Client::start() else {
        return;
    };
    client.file("Dockerfile", ENDLESS);
    let mut build = endless(client.command(&["-t", "never"]).arg("."));
    build.kill().unwrap();
    build.wait().unwrap();
    client.engine.assert_nothing_left();
    client
        .engine
        .docker(&["image", "inspect", "never"])
        .fails(1, "");
    // And the engine builds on.
    client.dockerfile("FROM busybox\nRUN echo on\n", &[]).ok();
}

#[test]
fn a_build_is_cancelled_by_its_id() {
    let Some(client) = Client::start() else {
        return;
    };
    client.file("Dockerfile", ENDLESS);
    let tar = client.engine.dir().join("context.tar");
    std::fs::write(&tar, archive(&client.context, "")).unwrap();
    let request = |path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sN", "-X", "POST", "--unix-socket"])
            .arg(client.engine.socket())
            .arg(format!("http://berth/v1.47{path}"));
        curl
    };
    let mut build = endless(request("/build?buildid=mine").arg("-T").arg(&tar));
    Run::new(&mut request("/build/cancel?id=other"), b"").ok();
    Run::new(&mut request("/build/cancel?id=mine"), b"").ok();
    let mut rest = String::new();
    let output = build.stdout.as_mut().unwrap();
    output.read_to_string(&mut rest).unwrap();
    build.wait().unwrap();
    assert!(rest.contains("\"error\":\"Build cancelled\""), "{rest}");
    client.engine.assert_nothing_left();
    let none = Run::new(&mut request("/build/cancel"), b"").ok();
    assert!(none.contains("build ID not provided"), "{none}");
}

#[test]
fn what_is_built_is_the_same_everywhere() {
    let text = "FROM busybox
RUN mkdir /d && echo x > /d/f && ln -s f /d/l
WORKDIR /w
COPY . .
RUN touch made && chmod 600 made
LABEL a=b
";
    let build = |client: &Client| {
        client.file("one/two.txt", "2\n").file("a.txt", "a\n");
        client.dockerfile(text, &["-q"]).ok()
    };
    let Some(first) = Client::start() else {
        return;
    };
    let base = first.engine.dir().join("base.tar");
    let base = base.to_str().unwrap();
    first.engine.docker(&["save", "-o", base, "busybox"]).ok();
    let expected = build(&first);
    let second = Client::start_empty().unwrap();
    second.engine.docker(&["load", "-i", base]).ok();
    assert_eq!(build(&second), expected);
}

#[test]
fn kill_9_leaves_no_half_built_image() {
    let Some(mut client) = Client::start() else {
        return;
    };
    client.file("Dockerfile", ENDLESS);
    let mut build = endless(client.command(&["-t", "never"]).arg("."));
    client.engine.kill();
    build.wait().unwrap();
    client.engine.launch();
    client
        .engine
        .docker(&["image", "inspect", "never"])
        .fails(1, "");
    client.engine.assert_nothing_left();
    client
        .dockerfile("FROM busybox\nRUN echo on\n", &["-t", "on"])
        .ok();
}

/// A web server in the engine's network that gives one answer to everybody.
fn web(engine: &Engine, kind: &'static str, body: Vec<u8>) -> String {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = engine.inside(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
            }
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    format!("http://{address}")
}

/// The stock client fetches such contexts itself; by the API the engine does.
#[test]
fn the_engine_fetches_remote_contexts() {
    let Some(client) = Client::start() else {
        return;
    };
    let build = |url: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-X", "POST", "--unix-socket"])
            .arg(client.engine.socket())
            .arg(format!("http://berth/build?remote={url}"));
        Run::new(&mut curl, b"").ok()
    };
    let plain = b"FROM busybox\nRUN echo plain\n".to_vec();
    let told = build(&format!(
        "{}/Dockerfile",
        web(&client.engine, "text/plain", plain)
    ));
    assert!(told.contains("{\"stream\":\"plain\\n\"}"), "{told}");
    assert!(told.contains("Successfully built"), "{told}");
    client
        .file("a.txt", "of the archive\n")
        .file("Dockerfile", "FROM busybox\nCOPY a.txt /\nRUN cat /a.txt\n");
    let tar = archive(&client.context, "gzip");
    let told = build(&format!(
        "{}/x.tar.gz",
        web(&client.engine, "application/gzip", tar)
    ));
    assert!(
        told.contains("{\"stream\":\"of the archive\\n\"}"),
        "{told}"
    );
    let told = build("nonsense");
    assert!(told.contains("could not be recognized as URL"), "{told}");
}

/// An answer is seen by a client that is still sending.
#[test]
fn an_early_error_is_told_after_a_large_upload() {
    let Some(client) = Client::start() else {
        return;
    };
    let noise = berth_e2e::oci::noise(1, 8 << 20);
    std::fs::write(client.context.join("noise"), noise).unwrap();
    client
        .dockerfile("FROM busybox\n", &["--memory", "1000"])
        .fails(1, "Minimum memory limit allowed is 6MB");
}
