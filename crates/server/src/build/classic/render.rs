//! What the classic builder prints, from the events of a build. Steps run side
//! by side, but are told in the Dockerfile's order: what a step says is held
//! back until those before it are done.

use std::collections::BTreeMap;

use berth_api::build::BuildResult;
use berth_api::progress::{ErrorDetail, Progress};
use berth_build::graph::Id;
use berth_build::progress::Event;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::steps::{self, Kind, Known, Shown, Step};

/// Bytes of output that are held back at most.
const MAX_HELD: usize = 16 << 20;

const CLIPPED: &[u8] = b"[output clipped: too much of it waits for the steps before]\n";

#[derive(Debug, Default)]
pub(super) struct Renderer {
    shown: Shown,
    dockerfile: String,
    vertices: BTreeMap<Id, Vertex>,
    /// Known with the first event after the vertices are.
    steps: Option<Vec<Step>>,
    unused_args: Vec<String>,
    /// The step that is being told, and how far.
    at: usize,
    head_told: bool,
    /// Vertices of the step that have been told to the end.
    parts_told: usize,
    /// What is shown as the result of each step that is done.
    results: Vec<String>,
    held: usize,
    clipped: bool,
    lines: Vec<Progress>,
}

#[derive(Debug, Default)]
struct Vertex {
    name: String,
    text: String,
    is_started: bool,
    is_cached: bool,
    is_running_told: bool,
    /// Its result, or none when it failed.
    done: Option<Option<String>>,
    /// (standard error, bytes)
    output: Vec<(bool, Vec<u8>)>,
    /// A character whose last bytes are still to come, per stream.
    rest: [Vec<u8>; 2],
}

/// How a build that failed is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) message: String,
    /// Of a RUN; else 0.
    pub(super) code: i32,
}

impl Renderer {
    pub(super) fn new(shown: Shown) -> Self {
        Self {
            shown,
            ..Self::default()
        }
    }

    /// Whether anything was told yet.
    pub(super) fn has_told(&self) -> bool {
        self.head_told || self.at > 0
    }

    /// What is to be told now.
    pub(super) fn take(&mut self) -> Vec<Progress> {
        std::mem::take(&mut self.lines)
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Dockerfile(text) => self.dockerfile = text,
            Event::Known { id, name, text, .. } => {
                let vertex = Vertex {
                    name,
                    text,
                    ..Vertex::default()
                };
                self.vertices.insert(id, vertex);
            }
            Event::Started(id) => {
                self.begin();
                if let Some(vertex) = self.vertices.get_mut(&id) {
                    vertex.is_started = true;
                }
            }
            Event::Cached(id) => {
                self.begin();
                if let Some(vertex) = self.vertices.get_mut(&id) {
                    vertex.is_cached = true;
                }
            }
            Event::Log { id, stderr, data } => self.log(id, stderr, data),
            Event::Completed { id, result, error } => {
                self.begin();
                if let Some(vertex) = self.vertices.get_mut(&id) {
                    vertex.done = Some(error.is_none().then_some(result));
                }
            }
            // The classic builder shows neither; both are in berth's own.
            Event::Status { .. } | Event::Warning { .. } => {}
        }
        self.advance(false);
    }

    fn log(&mut self, id: Id, stderr: bool, mut data: Vec<u8>) {
        let Some(vertex) = self.vertices.get_mut(&id) else {
            return;
        };
        vertex.is_started = true;
        if self.held + data.len() > MAX_HELD {
            if std::mem::replace(&mut self.clipped, true) {
                return;
            }
            data = CLIPPED.to_vec();
        }
        self.held += data.len();
        vertex.output.push((stderr, data));
    }

    /// Finds out the steps once the vertices are known: all are told before
    /// the first of them starts.
    fn begin(&mut self) {
        let known = |vertex: &Vertex| !steps::is_internal(&vertex.known());
        if self.steps.is_some() || !self.vertices.values().any(known) {
            return;
        }
        self.count();
    }

    fn count(&mut self) {
        let vertices = (self.vertices.iter())
            .map(|(id, vertex)| (*id, vertex.known()))
            .collect();
        let (steps, unused) = steps::steps(&self.dockerfile, &self.shown, &vertices);
        self.steps = Some(steps);
        self.unused_args = unused;
    }

    /// Tells what can be told. `all`: the build is done, and with it all steps.
    fn advance(&mut self, all: bool) {
        let Some(steps) = self.steps.take() else {
            return;
        };
        while let Some(step) = steps.get(self.at) {
            if !self.head_told {
                self.head_told = true;
                self.head(step, steps.len());
            }
            if !self.parts(step, all) {
                break;
            }
            // The result of the last one is that of the build, known at its end.
            if self.at + 1 == steps.len() && !all {
                break;
            }
            let result = self.result(step);
            if step.kind != Kind::Global && (!all || self.at + 1 < steps.len()) {
                self.say(&format!(" ---> {}\n", short(&result)));
            }
            self.results.push(result);
            self.at += 1;
            (self.head_told, self.parts_told) = (false, 0);
        }
        self.steps = Some(steps);
    }

    fn head(&mut self, step: &Step, count: usize) {
        self.say(&format!("Step {}/{count} : {}", self.at + 1, step.text));
        self.say("\n");
        if !step.triggers.is_empty() {
            let count = step.triggers.len();
            let plural = if count == 1 { "" } else { "s" };
            self.say(&format!("# Executing {count} build trigger{plural}\n"));
        }
    }

    /// Tells of a step's vertices; true when all are done.
    fn parts(&mut self, step: &Step, all: bool) -> bool {
        let parts = step.vertices.iter().chain(&step.triggers);
        for (number, &id) in parts.enumerate().skip(self.parts_told) {
            let Some(mut vertex) = self.vertices.remove(&id) else {
                continue;
            };
            let is_run = match number < step.vertices.len() {
                true => step.kind == Kind::Run,
                false => is_run(&vertex.text),
            };
            self.part(id, &mut vertex, is_run);
            let is_done = all || matches!(vertex.done, Some(Some(_)));
            self.vertices.insert(id, vertex);
            if !is_done {
                return false;
            }
            self.parts_told = number + 1;
        }
        true
    }

    fn part(&mut self, id: Id, vertex: &mut Vertex, is_run: bool) {
        let container = short(&digest(&format!("{id} {}", vertex.name))).to_owned();
        let is_done = matches!(vertex.done, Some(Some(_)));
        let is_image = vertex.text.to_ascii_uppercase().starts_with("FROM ");
        if is_done && vertex.is_cached && !is_image {
            self.say(" ---> Using cache\n");
            return;
        }
        // Whether the result is known is told right after the start.
        let runs = !vertex.output.is_empty() || (vertex.done.is_some() && !vertex.is_cached);
        if is_run && runs && !std::mem::replace(&mut vertex.is_running_told, true) {
            self.say(&format!(" ---> Running in {container}\n"));
        }
        for (stderr, data) in std::mem::take(&mut vertex.output) {
            self.held = self.held.saturating_sub(data.len());
            let text = vertex.text_of(stderr, data);
            self.output(stderr, text);
        }
        if vertex.done.is_some() {
            for stderr in [false, true] {
                let rest = std::mem::take(&mut vertex.rest[usize::from(stderr)]);
                self.output(stderr, String::from_utf8_lossy(&rest).into_owned());
            }
        }
        if is_done && is_run {
            self.say(&format!(
                " ---> Removed intermediate container {container}\n"
            ));
        }
    }

    fn output(&mut self, stderr: bool, text: String) {
        if text.is_empty() {
            return;
        }
        self.say(&match stderr {
            true => format!("\u{1b}[91m{text}\u{1b}[0m"),
            false => text,
        });
    }

    /// What stands for the image after a step. There is none before the end of
    /// the build; this names what the step came to.
    fn result(&self, step: &Step) -> String {
        let before = || self.results.last().cloned().unwrap_or_default();
        let parts = step.vertices.iter().chain(&step.triggers);
        let mut made = parts.filter_map(|id| self.vertices.get(id)?.done.clone()?);
        match step.kind {
            Kind::Global | Kind::Scratch => String::new(),
            Kind::Image if step.triggers.is_empty() => {
                let vertex = step.vertices.first().and_then(|id| self.vertices.get(id));
                vertex.map_or_else(String::new, Vertex::image)
            }
            Kind::Stage(end) => self.results.get(end).cloned().unwrap_or_default(),
            Kind::Image | Kind::Run | Kind::Other => digest(&format!(
                "{} {} {:?}",
                before(),
                step.text,
                made.next_back()
            )),
        }
    }

    /// The end of a build that went well.
    pub(super) fn done(&mut self, result: &BuildResult, with_aux: bool) {
        if self.steps.is_none() {
            self.count();
        }
        self.advance(true);
        let image = short(&result.image).to_owned();
        self.say(&format!(" ---> {image}\n"));
        if with_aux {
            self.lines.push(Progress {
                aux: Some(json!({ "ID": result.image })),
                ..Progress::default()
            });
        }
        if !self.unused_args.is_empty() {
            let names = self.unused_args.join(" ");
            self.say(&format!(
                "[Warning] One or more build-args [{names}] were not consumed\n"
            ));
        }
        self.say(&format!("Successfully built {image}\n"));
        for name in &result.names {
            let line = format!("Successfully tagged {}\n", familiar(name));
            self.say(&line);
        }
    }

    /// The end of a build that failed.
    pub(super) fn failed(&self, message: &str, exit_code: i32) -> Told {
        let command = failed_command(message).filter(|_| exit_code != 0);
        let run = command.map(|command| {
            format!("The command '{command}' returned a non-zero code: {exit_code}")
        });
        let classic = run.or_else(|| self.failed_copy(message));
        Told {
            message: classic.unwrap_or_else(|| message.to_owned()),
            code: exit_code,
        }
    }

    /// A file that is not there, in the words of the classic builder.
    fn failed_copy(&self, message: &str) -> Option<String> {
        let step = self.steps.as_ref()?.get(self.at)?;
        let instruction = step.text.split_whitespace().next()?.to_ascii_uppercase();
        let missing = message.strip_prefix("\"/")?.strip_suffix("\": not found")?;
        matches!(instruction.as_str(), "COPY" | "ADD").then(|| {
            format!(
                "{instruction} failed: file not found in build context or excluded by .dockerignore: stat {missing}: file does not exist"
            )
        })
    }

    fn say(&mut self, text: &str) {
        self.lines.push(Progress {
            stream: text.to_owned(),
            ..Progress::default()
        });
    }
}

impl Told {
    pub(super) fn line(self) -> Progress {
        Progress {
            error_detail: Some(ErrorDetail {
                code: self.code.into(),
                message: self.message,
            }),
            ..Progress::default()
        }
    }
}

impl Vertex {
    fn known(&self) -> Known<'_> {
        Known {
            name: &self.name,
            text: &self.text,
        }
    }

    /// Bytes as text; the beginning of a character waits for its end.
    fn text_of(&mut self, stderr: bool, data: Vec<u8>) -> String {
        let rest = &mut self.rest[usize::from(stderr)];
        let mut bytes = std::mem::take(rest);
        bytes.extend(data);
        if let Err(error) = std::str::from_utf8(&bytes)
            && error.error_len().is_none()
        {
            *rest = bytes.split_off(error.valid_up_to());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The image's ID, which is in the name: "[1/2] FROM name@digest".
    fn image(&self) -> String {
        let digest = self.name.rsplit_once('@').map(|(_, digest)| digest);
        let result = || self.done.clone().flatten().unwrap_or_default();
        digest.map_or_else(result, str::to_owned)
    }
}

fn is_run(text: &str) -> bool {
    text.get(..4)
        .is_some_and(|word| word.eq_ignore_ascii_case("RUN "))
}

/// The first twelve digits.
fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

fn digest(text: &str) -> String {
    use std::fmt::Write;
    let mut hex = String::new();
    for byte in Sha256::digest(text) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// "busybox:latest" of "docker.io/library/busybox:latest".
fn familiar(name: &str) -> &str {
    let Some(path) = name.strip_prefix("docker.io/") else {
        return name;
    };
    let official = path.strip_prefix("library/");
    official.filter(|rest| !rest.contains('/')).unwrap_or(path)
}

/// The command of BuildKit's words for a RUN that failed:
/// `process "/bin/sh -c false" did not complete successfully: exit code: 1`.
fn failed_command(message: &str) -> Option<String> {
    let (_, quoted) = message.split_once("process \"")?;
    let (quoted, _) = quoted.rsplit_once("\" did not complete successfully")?;
    let mut command = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            command.push(character);
            continue;
        }
        match characters.next()? {
            'n' => command.push('\n'),
            't' => command.push('\t'),
            'r' => command.push('\r'),
            'u' if characters.as_str().starts_with('{') => {
                let (hex, rest) = characters.as_str().get(1..)?.split_once('}')?;
                command.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
                characters = rest.chars();
            }
            other => command.push(other),
        }
    }
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A build as its events tell it.
    struct Build {
        renderer: Renderer,
        text: String,
    }

    impl Build {
        fn of(dockerfile: &str, shown: Shown, vertices: &[(&str, &str)]) -> Self {
            let mut build = Self {
                renderer: Renderer::new(shown),
                text: String::new(),
            };
            build.tell(Event::Dockerfile(dockerfile.to_owned()));
            for (id, (name, text)) in vertices.iter().enumerate() {
                build.tell(Event::Known {
                    id,
                    name: (*name).to_owned(),
                    text: (*text).to_owned(),
                    inputs: Vec::new(),
                });
            }
            build
        }

        fn tell(&mut self, event: Event) -> &mut Self {
            self.renderer.event(event);
            self.collect()
        }

        fn collect(&mut self) -> &mut Self {
            for line in self.renderer.take() {
                self.text += &line.stream;
                if let Some(aux) = line.aux {
                    self.text += &format!("{aux}\n");
                }
            }
            self
        }

        fn start(&mut self, id: Id) -> &mut Self {
            self.tell(Event::Started(id))
        }

        fn log(&mut self, id: Id, stderr: bool, data: &[u8]) -> &mut Self {
            let data = data.to_vec();
            self.tell(Event::Log { id, stderr, data })
        }

        fn end(&mut self, id: Id) -> &mut Self {
            self.tell(Event::Completed {
                id,
                result: format!("sha256:{id:064}"),
                error: None,
            })
        }

        fn cached(&mut self, id: Id) -> &mut Self {
            self.start(id).tell(Event::Cached(id)).end(id)
        }

        fn done(&mut self) -> String {
            let result = BuildResult {
                image: format!("sha256:{}", "f".repeat(64)),
                names: vec![
                    "docker.io/library/x:latest".to_owned(),
                    "r.example/y:2".to_owned(),
                ],
                ..BuildResult::default()
            };
            self.renderer.done(&result, true);
            self.collect().shown()
        }

        /// Without what is different in every build.
        fn shown(&self) -> String {
            let line = |line: &str| {
                let hex = |word: &str| {
                    word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
                };
                let words = line.split(' ').map(|word| match word {
                    "ffffffffffff" => "<image>",
                    word if hex(word) => "<id>",
                    word => word,
                });
                words.collect::<Vec<_>>().join(" ") + "\n"
            };
            self.text.lines().map(line).collect()
        }
    }

    const FILE: &str = "ARG X=1
FROM busybox AS one
RUN echo hello
ENV A=b
FROM busybox AS unused
RUN never
FROM one
COPY a.txt /
RUN echo hello
CMD [\"x\"]
";

    const VERTICES: &[(&str, &str)] = &[
        (
            "[one 1/2] FROM docker.io/library/busybox:latest@sha256:abcdef0123456789",
            "FROM busybox AS one",
        ),
        ("[one 2/2] RUN echo hello", "RUN echo hello"),
        (
            "[internal] load build context",
            "[internal] load build context",
        ),
        ("[stage-2 1/2] COPY a.txt /", "COPY a.txt /"),
        ("[stage-2 2/2] RUN echo hello", "RUN echo hello"),
    ];

    #[test]
    fn a_build_is_told_as_docker_tells_it() {
        let args = ["UNUSED", "HTTP_PROXY", "X"].map(str::to_owned);
        let shown = Shown {
            labels: BTreeMap::from([("l".to_owned(), "v w".to_owned())]),
            args: args.into(),
            ..Shown::default()
        };
        let mut build = Build::of(FILE, shown, VERTICES);
        build.start(0).end(0).start(1);
        build.log(1, false, b"hel").log(1, false, b"lo\n");
        build.log(1, true, b"err \xe2\x82").log(1, true, b"\xac\n");
        build.end(1).start(2).end(2).cached(3).cached(4);
        assert_eq!(
            build.done(),
            "Step 1/9 : ARG X=1
Step 2/9 : FROM busybox AS one
 ---> <id>
Step 3/9 : RUN echo hello
 ---> Running in <id>
hello
\u{1b}[91merr \u{1b}[0m\u{1b}[91m\u{20ac}
\u{1b}[0m ---> Removed intermediate container <id>
 ---> <id>
Step 4/9 : ENV A=b
 ---> <id>
Step 5/9 : FROM one
 ---> <id>
Step 6/9 : COPY a.txt /
 ---> Using cache
 ---> <id>
Step 7/9 : RUN echo hello
 ---> Using cache
 ---> <id>
Step 8/9 : CMD [\"x\"]
 ---> <id>
Step 9/9 : LABEL l=v w
 ---> <image>
{\"ID\":\"sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\"}
[Warning] One or more build-args [UNUSED] were not consumed
Successfully built <image>
Successfully tagged x:latest
Successfully tagged r.example/y:2
"
        );
        assert!(build.text.contains(" ---> abcdef012345\n"));
    }

    #[test]
    fn steps_that_run_side_by_side_are_told_in_order() {
        let mut build = Build::of(FILE, Shown::default(), VERTICES);
        build.start(0).start(4).log(4, false, b"late\n").end(4);
        assert!(!build.text.contains("late"), "{}", build.text);
        build.end(0).start(1).log(1, false, b"now\n");
        assert!(build.text.ends_with("now\n"), "{}", build.text);
        build.end(1).start(3);
        assert!(!build.text.contains("late"), "{}", build.text);
        build.end(3);
        assert!(build.text.contains("late\n ---> Removed"), "{}", build.text);
    }

    #[test]
    fn held_output_is_bounded() {
        let mut build = Build::of(FILE, Shown::default(), VERTICES);
        build.start(4);
        for _ in 0..64 {
            build.log(4, false, &vec![b'x'; 1 << 20]);
        }
        assert!(build.renderer.held <= MAX_HELD + CLIPPED.len());
        build.start(0).end(0).start(1).end(1).start(3).end(3).end(4);
        assert!(build.text.contains("[output clipped"));
        assert!(build.text.len() < MAX_HELD + 4096);
    }

    #[test]
    fn stages_of_one_image_share_its_vertex() {
        let file = "FROM b AS x\nRUN a\nFROM b\nCOPY --from=x / /\n";
        let vertices = [
            (
                "[x 1/2] FROM docker.io/library/b@sha256:0123456789abcdef",
                "FROM b AS x",
            ),
            ("[x 2/2] RUN a", "RUN a"),
            ("[stage-1 2/2] COPY --from=x / /", "COPY --from=x / /"),
        ];
        let mut build = Build::of(file, Shown::default(), &vertices);
        build.start(0).end(0).start(1).end(1).start(2).end(2);
        let told = build.done();
        assert!(told.contains("Step 3/4 : FROM b\n ---> <id>\n"), "{told}");
        assert_eq!(build.text.matches(" ---> 0123456789ab\n").count(), 2);
    }

    #[test]
    fn triggers_and_stages_that_nothing_needs() {
        let file = "FROM scratch AS a\nCOPY x /\nFROM onb\nRUN true\n";
        let vertices = [
            (
                "[stage-1 1/4] FROM docker.io/library/onb:latest@sha256:1",
                "FROM onb",
            ),
            ("[stage-1 2/4] ONBUILD RUN echo trig", "RUN echo trig"),
            ("[stage-1 3/4] ONBUILD COPY x /", "COPY x /"),
            ("[stage-1 4/4] RUN true", "RUN true"),
        ];
        let mut build = Build::of(file, Shown::default(), &vertices);
        build
            .start(0)
            .end(0)
            .start(1)
            .log(1, false, b"trig\n")
            .end(1);
        build.start(2).end(2).start(3).end(3);
        let told = build.done();
        assert!(
            told.starts_with(
                "Step 1/2 : FROM onb
# Executing 2 build triggers
 ---> Running in <id>
trig
 ---> Removed intermediate container <id>
 ---> <id>
Step 2/2 : RUN true
 ---> Running in <id>
 ---> Removed intermediate container <id>
 ---> <image>
"
            ),
            "{told}"
        );
    }

    #[test]
    fn nothing_is_told_before_the_first_step() {
        let mut build = Build::of("FROM x\n", Shown::default(), &[]);
        assert!(!build.renderer.has_told());
        build.tell(Event::Known {
            id: 0,
            name: "[internal] load build definition".to_owned(),
            text: String::new(),
            inputs: Vec::new(),
        });
        build.start(0).end(0);
        assert!(!build.renderer.has_told());
        let told = build.done();
        assert_eq!(told.lines().next(), Some("Step 1/1 : FROM x"));
    }

    #[test]
    fn failures_are_in_the_classic_words() {
        let renderer = Renderer::default();
        let told = |message: &str, code| renderer.failed(message, code).message;
        let command = "/bin/sh -c echo \"a\\b\"\n\u{7}\tfi";
        let message = format!("process {command:?} did not complete successfully: exit code: 3");
        assert_eq!(
            told(&message, 3),
            format!("The command '{command}' returned a non-zero code: 3")
        );
        assert_eq!(told("no such image", 0), "no such image");
        let mut build = Build::of(FILE, Shown::default(), VERTICES);
        build.start(0).end(0).start(1).end(1).start(3);
        assert_eq!(
            build.renderer.failed("\"/a.txt\": not found", 0).message,
            "COPY failed: file not found in build context or excluded by .dockerignore: stat a.txt: file does not exist"
        );
        assert_eq!(told("process \"x", 1), "process \"x");
        let line = renderer.failed(&message, 3).line().error_detail.unwrap();
        assert_eq!(line.code, 3);
    }
}
