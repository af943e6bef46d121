//! Dockerfiles as projects have them, on a busybox base: the files, the
//! configuration and the errors that BuildKit (Docker 28.5) gives for the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use berth_e2e::{Engine, Run};
use serde_json::{Value, json};

struct Bench {
    engine: Engine,
    /// What is in the base image.
    base: BTreeMap<String, String>,
}

/// A Dockerfile, the files beside it, and what it gives.
struct Project<'a> {
    dockerfile: &'a str,
    files: &'a [(&'a str, &'a str)],
    args: &'a [&'a str],
    /// "path mode uid:gid", with "= text" or "-> target" behind it; without the
    /// base's own.
    made: &'a [&'a str],
    /// These keys of the configuration.
    config: Value,
}

impl Bench {
    fn start() -> Self {
        let mut bench = Self {
            engine: Engine::start(),
            base: BTreeMap::new(),
        };
        bench.context("FROM busybox\n", &[]);
        bench.base = bench.listing(&[]);
        bench
    }

    fn root(&self) -> PathBuf {
        self.engine.dir().join("context")
    }

    fn context(&self, dockerfile: &str, files: &[(&str, &str)]) {
        let root = self.root();
        let _ = std::fs::remove_dir_all(&root);
        for (path, text) in files.iter().chain(&[("Dockerfile", dockerfile)]) {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn build(&self, args: &[&str]) -> Run {
        let mut command = self.engine.command("berth");
        command.args(["build", "--progress=plain"]).args(args);
        Run::new(command.arg(self.root()), b"")
    }

    fn listing(&self, args: &[&str]) -> BTreeMap<String, String> {
        let archive = self.engine.dir().join("files.tar");
        let output = format!("type=tar,dest={}", archive.display());
        self.build(&[args, &["-o", &output]].concat()).ok();
        let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
        let line = |mut entry: tar::Entry<'_, std::fs::File>| {
            let path = entry.path().unwrap().display().to_string();
            let path = path.trim_end_matches('/').to_owned();
            let header = entry.header();
            let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
            let mut line = format!("{:o} {uid}:{gid}", header.mode().unwrap() & 0o7777);
            match header.entry_type() {
                tar::EntryType::Directory => line.push('/'),
                tar::EntryType::Symlink => {
                    let target = entry.link_name().unwrap().unwrap();
                    line = format!("-> {}", target.display());
                }
                _ => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).unwrap();
                    line.push_str(&format!(" = {}", String::from_utf8_lossy(&bytes)));
                }
            }
            (path, line)
        };
        (archive.entries().unwrap())
            .map(|entry| line(entry.unwrap()))
            .collect()
    }

    #[track_caller]
    fn check(&self, project: &Project<'_>) {
        let text = project.dockerfile;
        self.context(text, project.files);
        let made: Vec<String> = (self.listing(project.args).into_iter())
            .filter(|(path, line)| self.base.get(path) != Some(line))
            .map(|(path, line)| format!("{path} {line}"))
            .collect();
        assert_eq!(made, project.made, "{text}");
        self.build(&[project.args, &["-t", "project"]].concat())
            .ok();
        let format = [
            "image",
            "inspect",
            "--format",
            "{{json .Config}}",
            "project",
        ];
        let config: Value = serde_json::from_str(&self.engine.berth(&format).ok()).unwrap();
        for (key, wanted) in project.config.as_object().unwrap() {
            assert_eq!(&config[key], wanted, "{key}: {text}");
        }
    }

    #[track_caller]
    fn fails(&self, dockerfile: &str, words: &str) {
        self.context(dockerfile, &[("a", "1"), ("b", "2"), ("d/x", "3")]);
        self.build(&[]).fails(1, words);
    }
}

#[test]
fn services_as_the_official_images_have_them() {
    let bench = Bench::start();
    bench.check(&Project {
        dockerfile: r##"FROM busybox
# explicitly set user/group IDs
RUN set -eux; \
	echo 'db:x:999:' >> /etc/group; \
	echo 'db:x:999:999::/data:/bin/sh' >> /etc/passwd; \
# a comment within
	mkdir -p /data/x; \

	# an indented one, after an empty line
	chown -R db:db /data
ENV LANG en_US.utf8
ENV MAJOR 16
ENV PATH $PATH:/usr/lib/db/$MAJOR/bin
ENV DATA /data/x
RUN chmod 1777 "$DATA"
VOLUME /data/x
COPY --chown=db:db entry.sh ensure.sh /srv/
RUN ln -s ensure.sh /srv/enforce.sh && cat /etc/passwd | tail -n 1 > /srv/user && rm /etc/passwd /etc/group
ENTRYPOINT ["entry.sh"]
STOPSIGNAL SIGINT
EXPOSE 5432 8000-8001/udp
HEALTHCHECK --interval=30s --start-interval=1s --retries=5 CMD wget -q localhost || exit 1
CMD ["db"]
"##,
        files: &[("entry.sh", "e"), ("ensure.sh", "n")],
        args: &[],
        made: &[
            "data 755 999:999/",
            "data/x 1777 999:999/",
            "srv 755 999:999/",
            "srv/enforce.sh -> ensure.sh",
            "srv/ensure.sh 644 999:999 = n",
            "srv/entry.sh 644 999:999 = e",
            "srv/user 644 0:0 = db:x:999:999::/data:/bin/sh\n",
        ],
        config: json!({
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/db/16/bin",
                "LANG=en_US.utf8",
                "MAJOR=16",
                "DATA=/data/x",
            ],
            "Volumes": {"/data/x": {}},
            "Entrypoint": ["entry.sh"],
            "Cmd": ["db"],
            "StopSignal": "SIGINT",
            "ExposedPorts": {"5432/tcp": {}, "8000/udp": {}, "8001/udp": {}},
            "Healthcheck": {
                "Test": ["CMD-SHELL", "wget -q localhost || exit 1"],
                "Interval": 30_000_000_000_u64,
                "StartInterval": 1_000_000_000,
                "Retries": 5,
            },
        }),
    });
    bench.check(&Project {
        dockerfile: r#"FROM busybox
SHELL ["/bin/sh", "-eo", "pipefail", "-c"]
ENV DIR /etc/php
RUN <<EOF
mkdir $DIR
{
  echo 'memory=128'
  echo "dir=${DIR}"
} > $DIR/conf
EOF
COPY <<EOF $DIR/ini
dir = ${DIR}
EOF
COPY <<'EOF' <<-X /conf/
raw ${DIR} \$x
EOF
	tabbed
		two
	X
CMD php -a
"#,
        files: &[],
        args: &[],
        made: &[
            "conf 755 0:0/",
            "conf/EOF 644 0:0 = raw ${DIR} \\$x\n",
            "conf/X 644 0:0 = tabbed\ntwo\n",
            "etc/php 755 0:0/",
            "etc/php/conf 644 0:0 = memory=128\ndir=/etc/php\n",
            "etc/php/ini 644 0:0 = dir = /etc/php\n",
        ],
        config: json!({
            "Shell": ["/bin/sh", "-eo", "pipefail", "-c"],
            "Cmd": ["/bin/sh", "-eo", "pipefail", "-c", "php -a"],
        }),
    });
}

#[test]
fn programs_built_in_stages() {
    let bench = Bench::start();
    bench.check(&Project {
        dockerfile: r#"ARG VERSION=dev
ARG NAME=app-${VERSION:-none}
FROM --platform=$BUILDPLATFORM busybox AS base
WORKDIR /src
FROM base AS build
ARG VERSION NAME TARGETOS
COPY --parents pkg/*/mod ./
COPY --exclude=*.md . .
RUN --mount=type=cache,target=/root/.cache --mount=type=bind,source=notes.md,target=/n \
    cat /n > /out && echo "$VERSION $NAME $TARGETOS" >> /out && find . | sort >> /out
FROM scratch AS final
COPY --from=busybox /etc/group /etc/
COPY --link --from=build --chmod=755 /out /app
USER 65534:65534
ENTRYPOINT ["/app"]
FROM base AS never
RUN false
"#,
        files: &[
            ("pkg/a/mod", "a"),
            ("pkg/b/mod", "b"),
            ("main", "m"),
            ("notes.md", "notes\n"),
            ("tmp/x", "x"),
            (".dockerignore", "# all but\n**\n!pkg\n!main\n!*.md\n"),
        ],
        args: &["--target", "final", "--build-arg", "VERSION=1.2"],
        made: &[
            "app 755 0:0 = notes\n1.2 app-1.2 linux\n.\n./main\n./pkg\n./pkg/a\n./pkg/a/mod\n./pkg/b\n./pkg/b/mod\n",
        ],
        config: json!({"User": "65534:65534", "Entrypoint": ["/app"], "WorkingDir": "/"}),
    });
    bench.check(&Project {
        dockerfile: "\u{feff}# escape=`\r\nFROM busybox AS parent\r\nONBUILD COPY a.txt /app/\r\nONBUILD ENV FOO=bar\r\nFROM parent\r\nRUN echo one `\r\n  && echo C:\\x > /y\r\nENV P=C:\\dir Q=\"a`\"b\"\r\n",
        files: &[("a.txt", "hello")],
        args: &[],
        made: &[
            "app 755 0:0/",
            "app/a.txt 644 0:0 = hello",
            "y 644 0:0 = C:x\n",
        ],
        config: json!({
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "FOO=bar",
                "P=C:\\dir",
                "Q=a\"b",
            ],
        }),
    });
    bench.check(&Project {
        dockerfile: r#"FROM busybox
ENV X=env A="a b" B='c "d"' C=e\ f F=$A
ARG X=arg
ARG Z=def
ENV Z=${Z}-env
ARG Z=again
ENV G=${Z%-*} H=${NO:-${A}} I=${A:+set}
RUN echo "$X $Z" > /r
LABEL multi="one \
two" "quoted key"=$Z
LABEL version 1.0 beta
"#,
        files: &[],
        args: &["--build-arg", "X=cli", "--build-arg", "Z=cli"],
        // The later of ENV and ARG holds for RUN.
        made: &["r 644 0:0 = cli cli\n"],
        config: json!({
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "X=env",
                "A=a b",
                "B=c \"d\"",
                "C=e f",
                "F=",
                "Z=cli-env",
                "G=cli",
                "H=a b",
                "I=set",
            ],
            "Labels": {"multi": "one two", "quoted key": "cli", "version": "1.0 beta"},
        }),
    });
}

#[test]
fn owners_and_places_are_buildkits() {
    let bench = Bench::start();
    bench.check(&Project {
        dockerfile: "FROM busybox
COPY --chown=nosuch a /o/1
COPY --chown=app:nosuch a /o/2
COPY --chown=7:nosuch a /o/3
COPY --chown=nosuch:extra a /o/4
COPY a b /o
COPY d a /new
USER nosuch
WORKDIR /w/1
USER app
WORKDIR /w/2/x
",
        files: &[("a", "1"), ("b", "2"), ("d/x", "3")],
        args: &[],
        made: &[
            "new 755 0:0/",
            "new/a 644 0:0 = 1",
            "new/x 644 0:0 = 3",
            "o 755 0:0/",
            "o/1 644 0:0 = 1",
            "o/2 644 1000:1000 = 1",
            "o/3 644 7:7 = 1",
            "o/4 644 0:1234 = 1",
            "o/a 644 0:0 = 1",
            "o/b 644 0:0 = 2",
            "w 755 0:0/",
            "w/1 755 0:0/",
            "w/2 755 1000:1000/",
            "w/2/x 755 1000:1000/",
        ],
        config: json!({"User": "app", "WorkingDir": "/w/2/x"}),
    });
    bench.check(&Project {
        dockerfile: "FROM scratch\nCOPY --chown=root:root a /x\n",
        files: &[("a", "1")],
        args: &[],
        made: &["x 644 0:0 = 1"],
        config: json!({}),
    });
    // Here BuildKit keeps the last file, and loses the others.
    let several = "When using COPY with more than one source file, the destination must be a directory and end with a /";
    bench.fails("FROM busybox\nCOPY a b /name\n", several);
    bench.fails(
        "FROM busybox\nCOPY a d /name\n",
        "cannot copy to non-directory: /name",
    );
    bench.fails(
        "FROM scratch\nCOPY --chown=app a /x\n",
        "unable to find user app: no matching entries in passwd file",
    );
}

#[test]
fn errors_show_their_place() {
    let bench = Bench::start();
    bench.fails(
        "FROM busybox\nUSER nosuch\nRUN id\n",
        "   3 | >>> RUN id\n   4 |     \n--------------------\nERROR: failed to build: failed to solve: process \"/bin/sh -c id\" did not complete successfully: unable to find user nosuch: no matching entries in passwd file",
    );
    bench.fails(
        "ARG BASE=127.0.0.1:1/none\nFROM $BASE\n",
        "   2 | >>> FROM $BASE\n   3 |     \n--------------------\nERROR: failed to build: failed to solve: failed to resolve source metadata for 127.0.0.1:1/none:latest: ",
    );
    bench.fails(
        "FROM busybox\nRUN true\nCOPY --from=127.0.0.1:1/none /a /b\n",
        "   3 | >>> COPY --from=127.0.0.1:1/none /a /b\n",
    );
    bench.fails(
        "FROM busybox\nCOPY --chwon=1 a /b\n",
        "   2 | >>> COPY --chwon=1 a /b\n   3 |     \n--------------------\nERROR: failed to build: failed to solve: dockerfile parse error on line 2: unknown flag: --chwon (did you mean chown?)",
    );
}
