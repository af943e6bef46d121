//! Builds by a real engine with real steps, without HTTP: in a network
//! namespace, a control group and directories of the test's own. They need root
//! and the `berth-runtime` binary beside the test, or in BERTH_BIN_DIR.

#![allow(clippy::print_stderr, clippy::unwrap_used)]

mod rig;

use berth_api::build::{BuildRequest, ContextSource};
use berth_build::progress::Event;
use rig::Rig;

fn request(dockerfile: &str) -> BuildRequest {
    BuildRequest {
        dockerfile: Some(dockerfile.to_owned()),
        tags: vec!["built".to_owned()],
        outputs: vec![berth_api::build::Output {
            kind: "image".to_owned(),
            attributes: [("compression".to_owned(), "gzip".to_owned())].into(),
        }],
        ..BuildRequest::default()
    }
}

#[test]
fn a_step_runs_and_its_changes_become_the_image() {
    Rig::run(async |rig| {
        let text = "FROM busybox\nRUN echo hello > /etc/new; echo out; echo err >&2; rm /etc/group\nRUN cat /etc/new\nRUN true\n";
        let built = rig.build(request(text)).await.unwrap();
        assert!(built.image.starts_with("sha256:"), "{built:?}");
        assert_eq!(rig.output(false), "out\nhello\n");
        assert_eq!(rig.output(true), "err\n");
        assert_eq!(rig.ran(), 3);
        assert_eq!(rig.files(), ["etc", "etc/.wh.group", "etc/new"]);
        // All is known.
        let again = rig.build(request(text)).await.unwrap();
        assert_eq!(again.image, built.image);
        assert_eq!(rig.ran(), 0);
        rig.nothing_is_left();
    });
}

#[test]
fn a_failing_step_says_command_code_and_place() {
    Rig::run(async |rig| {
        let failure = rig
            .build(request("FROM busybox\nRUN true\nRUN echo no; exit 7\n"))
            .await
            .unwrap_err();
        assert_eq!(
            failure.error.message,
            "process \"/bin/sh -c echo no; exit 7\" did not complete successfully: exit code: 7"
        );
        assert_eq!(failure.exit_code, 7);
        assert!(
            failure.excerpt.contains("   3 | >>> RUN echo no; exit 7"),
            "{}",
            failure.excerpt
        );
        assert_eq!(rig.output(false), "no\n");
        let missing = rig
            .build(request("FROM busybox\nRUN [\"/no/such\"]\n"))
            .await;
        assert_eq!(missing.unwrap_err().exit_code, 127);
        let nobody = rig
            .build(request("FROM busybox\nUSER nobody2\nRUN true\n"))
            .await;
        let words = nobody.unwrap_err().error.message;
        assert!(words.contains("unable to find user nobody2"), "{words}");
        rig.nothing_is_left();
    });
}

#[test]
fn a_dropped_build_ends_its_step() {
    Rig::run(async |rig| {
        let building = rig.build(request("FROM busybox\nRUN echo started; sleep 1000\n"));
        let started = async {
            while rig.output(false) != "started\n" {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            result = building => panic!("{result:?}"),
            () = started => {}
        }
        rig.nothing_is_left_soon().await;
    });
}

#[test]
fn a_step_sees_what_buildkit_shows_it() {
    Rig::run(async |rig| {
        let text = "FROM busybox\nWORKDIR /a/b\nENV X=1\nRUN pwd; hostname; cat /etc/hosts; env | sort; id -u; grep -c nameserver /etc/resolv.conf >/dev/null; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; echo x 2>&1 >/proc/sys/kernel/hostname | grep -o 'Read-only'\n";
        let mut wanted = request(text);
        wanted.extra_hosts = vec!["extra:10.1.2.3".to_owned()];
        rig.build(wanted).await.unwrap();
        let output = rig.output(false);
        for line in [
            "/a/b",
            "buildkitsandbox",
            "127.0.0.1\tlocalhost buildkitsandbox",
            "10.1.2.3\textra",
            "X=1",
            "SOURCE_DATE_EPOCH=315619200",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "CapEff:\t00000000a80425fb",
            "Seccomp:\t2",
        ] {
            assert!(output.lines().any(|have| have == line), "{line}: {output}");
        }
        assert!(!output.contains("HOSTNAME="), "{output}");
        // No trace of what was made to mount on.
        assert_eq!(rig.files(), ["a", "a/b"]);
    });
}

#[test]
fn networks_and_privileges_must_be_allowed() {
    Rig::run(async |rig| {
        let none = "FROM busybox\nRUN --network=none ip -o link | wc -l\n";
        rig.build(request(none)).await.unwrap();
        assert_eq!(rig.output(false).trim(), "1");
        let words = |result: Result<_, berth_engine::build::Failure>| {
            result
                .map(|_: berth_api::build::BuildResult| ())
                .unwrap_err()
                .error
                .message
        };
        let host = "FROM busybox\nRUN --network=host ip -o link show berth0\n";
        let refused = words(rig.build(request(host)).await);
        assert!(
            refused.starts_with("network.host is not allowed"),
            "{refused}"
        );
        let mut allowed = request(host);
        allowed.allow = vec!["network.host".to_owned()];
        rig.build(allowed).await.unwrap();
        let insecure = "# syntax=docker/dockerfile:1-labs\nFROM busybox\nRUN --security=insecure grep CapEff /proc/self/status; mount -t tmpfs x /tmp\n";
        let refused = words(rig.build(request(insecure)).await);
        assert!(
            refused.starts_with("security.insecure is not allowed"),
            "{refused}"
        );
        let mut allowed = request(insecure);
        allowed.allow = vec!["security.insecure".to_owned()];
        rig.build(allowed).await.unwrap();
        // All that this machine has to give, at least the right to mount.
        let output = rig.output(false);
        let mask = output.trim().trim_start_matches("CapEff:\t");
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert!(mask & (1 << 21) != 0, "{output}");
    });
}

#[test]
fn bounds_hold() {
    Rig::run(async |rig| {
        let mut wanted = request("FROM busybox\nRUN ulimit -n; df -k /dev/shm | tail -1\n");
        wanted.limits.ulimits = vec![berth_api::container::Ulimit {
            name: "nofile".to_owned(),
            soft: 77,
            hard: 99,
        }];
        wanted.limits.shm_size = 8 << 20;
        rig.build(wanted).await.unwrap();
        let output = rig.output(false);
        assert!(output.starts_with("77\n"), "{output}");
        assert!(output.contains(" 8192 "), "{output}");
        let mut small = request("FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=60M count=1\n");
        small.limits.memory = 16 << 20;
        small.limits.memory_swap = 16 << 20;
        let failure = rig.build(small).await.unwrap_err();
        assert_eq!(failure.exit_code, 137, "{failure:?}");
        assert!(
            rig.output(true).contains("more memory than its limit"),
            "{}",
            rig.output(true)
        );
    });
}

#[test]
fn caches_secrets_and_tmpfs() {
    Rig::run(async |rig| {
        let text = "FROM busybox\nRUN --mount=type=cache,target=/c,mode=0700,uid=1000 stat -c %a:%u /c; cat /c/n 2>/dev/null; echo kept >> /c/n\n";
        rig.build(request(text)).await.unwrap();
        assert_eq!(rig.output(false), "700:1000\n");
        assert_eq!(rig.files(), Vec::<String>::new());
        let mut again = request(text);
        again.no_cache = true;
        rig.build(again).await.unwrap();
        assert_eq!(rig.output(false), "700:1000\nkept\n");
        let text = "FROM busybox\nRUN --mount=type=secret,id=key,uid=1000 stat -c %a:%u /run/secrets/key; cat /run/secrets/key; echo x 2>&1 >/run/secrets/key | grep -o Read-only\nRUN --mount=type=secret,id=key,env=K echo \"is $K\"; test ! -e /run/secrets\nRUN --mount=type=secret,id=none echo fine\n";
        rig.build(request(text)).await.unwrap();
        let output = rig.output(false);
        assert!(output.starts_with("400:1000\nvalue"), "{output}");
        assert!(output.contains("is value"), "{output}");
        assert!(output.contains("fine"), "{output}");
        let text = "FROM busybox\nRUN --mount=type=secret,id=none,required=true echo fine\n";
        let missing = rig.build(request(text)).await.unwrap_err();
        assert_eq!(missing.error.message, "secret none: not found");
        let text = "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=1048576 df -k /t | tail -1; echo x > /t/y\n";
        rig.build(request(text)).await.unwrap();
        assert!(
            rig.output(false).contains(" 1024 "),
            "{}",
            rig.output(false)
        );
        assert_eq!(rig.files(), Vec::<String>::new());
        rig.nothing_is_left();
    });
}

#[test]
fn binds_of_stages() {
    Rig::run(async |rig| {
        let text = "FROM busybox AS one\nRUN mkdir -p /d/e; echo content > /d/e/f; ln -s ../../etc/passwd /d/out; ln -s /d/e /link\nFROM busybox\nRUN --mount=from=one,source=/link,target=/m cat /m/f; touch /m/x 2>&1 | grep -o 'Read-only file system'\nRUN --mount=from=one,source=/d/e/f,target=/file cat /file\nRUN --mount=from=one,source=/bin,target=/p /p/busybox true\nRUN --mount=from=one,target=/m,rw echo more > /m/d/e/g; cat /m/d/e/g\nRUN --mount=from=one,target=/m test ! -e /m/d/e/g && test ! -e /file && test ! -s /m/out\n";
        rig.build(request(text)).await.unwrap();
        assert_eq!(
            rig.output(false),
            "content\nRead-only file system\ncontent\nmore\n"
        );
        assert_eq!(rig.files(), Vec::<String>::new());
        let text =
            "FROM busybox AS one\nFROM busybox\nRUN --mount=from=one,source=/no,target=/m true\n";
        let missing = rig.build(request(text)).await.unwrap_err().error.message;
        assert!(missing.contains("not found"), "{missing}");
        rig.nothing_is_left();
    });
}

fn with_context(dockerfile: &str) -> BuildRequest {
    let source = ContextSource::Client {
        identity: "here".to_owned(),
    };
    BuildRequest {
        contexts: [("context".to_owned(), source)].into(),
        ..request(dockerfile)
    }
}

#[test]
fn only_what_changed_and_is_needed_is_sent() {
    Rig::run(async |rig| {
        let context = rig.context();
        std::fs::create_dir_all(context.join("src/deep")).unwrap();
        for (path, text) in [
            ("src/a", "a"),
            ("src/deep/b", "b"),
            ("big", "big"),
            ("c", "c"),
        ] {
            std::fs::write(context.join(path), text).unwrap();
        }
        std::os::unix::fs::symlink("c", context.join("link")).unwrap();
        let text = "FROM busybox\nCOPY src /src\nCOPY link /c\nRUN cat /src/a /src/deep/b /c\n";
        let first = rig.build(with_context(text)).await.unwrap();
        assert_eq!(rig.output(false), "abc");
        assert_eq!(rig.asked(), ["c", "src/a", "src/deep/b"]);
        assert_eq!(rig.files(), ["c", "src", "src/a", "src/deep", "src/deep/b"]);
        let again = rig.build(with_context(text)).await.unwrap();
        assert_eq!(again.image, first.image);
        assert_eq!(rig.asked(), Vec::<String>::new());
        assert_eq!(rig.ran(), 0);
        // Only its time: it is read again, and nothing else.
        std::fs::write(context.join("src/a"), "a").unwrap();
        let touched = rig.build(with_context(text)).await.unwrap();
        assert_eq!(rig.asked(), ["src/a"]);
        assert_eq!((touched.image, rig.ran()), (first.image, 0));
        std::fs::write(context.join("src/a"), "A").unwrap();
        rig.build(with_context(text)).await.unwrap();
        assert_eq!((rig.asked(), rig.ran()), (vec!["src/a".to_owned()], 1));
        assert_eq!(rig.output(false), "Abc");
        let bind = "FROM busybox\nRUN --mount=target=/m cat /m/src/a /m/link; echo x 2>&1 >/m/c | grep -o Read-only\nRUN --mount=source=src/deep,target=/m,rw cat /m/b; echo new > /m/c; cat /m/c\n";
        rig.build(with_context(bind)).await.unwrap();
        let output = rig.output(false);
        assert!(output.contains("AcRead-only\n"), "{output}");
        assert!(output.contains("bnew\n"), "{output}");
    });
}

#[test]
fn an_archive_brings_dockerfile_and_dockerignore() {
    Rig::run(async |rig| {
        let context = rig.context();
        std::fs::create_dir_all(context.join("d/e")).unwrap();
        for (path, text) in [
            ("Dockerfile", "FROM busybox\nCOPY . /all\n"),
            (".dockerignore", "Dockerfile\n.dockerignore\nd\n!d/e/kept\n"),
            ("d/gone", "1"),
            ("d/e/kept", "2"),
            ("top", "3"),
        ] {
            std::fs::write(context.join(path), text).unwrap();
        }
        let mut wanted = request("");
        wanted.dockerfile = None;
        wanted.contexts = [("context".to_owned(), ContextSource::Archive)].into();
        rig.build(wanted.clone()).await.unwrap();
        assert_eq!(
            rig.files(),
            ["all", "all/d", "all/d/e", "all/d/e/kept", "all/top"]
        );
        std::fs::remove_file(context.join("Dockerfile")).unwrap();
        let missing = rig.build(wanted).await.unwrap_err().error.message;
        assert!(
            missing.starts_with("failed to read dockerfile: open Dockerfile"),
            "{missing}"
        );
    });
}

#[test]
fn an_agent_has_a_socket_where_it_is_asked_for() {
    Rig::run(async |rig| {
        let text = "FROM busybox\nRUN --mount=type=ssh,mode=0666 test -S $SSH_AUTH_SOCK && stat -c %a:%u $SSH_AUTH_SOCK\n";
        let mut wanted = request(text);
        wanted.ssh = vec!["default".to_owned()];
        rig.build(wanted).await.unwrap();
        assert_eq!(rig.output(false), "666:0\n");
        let text = "FROM busybox\nRUN --mount=type=ssh,required=true true\n";
        let refused = rig.build(request(text)).await.unwrap_err().error.message;
        assert_eq!(refused, "no SSH key \"default\" forwarded from the client");
    });
}

#[test]
fn what_is_known_is_not_run_again() {
    Rig::run(async |rig| {
        let steps: String = (0..10).map(|n| format!("RUN echo {n} > /f\n")).collect();
        let text = format!("FROM busybox\n{steps}");
        let mut wanted = request(&text);
        wanted.no_cache = true;
        rig.build(wanted.clone()).await.unwrap();
        assert_eq!(rig.ran(), 10);
        rig.build(request(&text)).await.unwrap();
        assert_eq!(rig.ran(), 0);
        rig.build(wanted).await.unwrap();
        assert_eq!(rig.ran(), 10);
    });
}

#[test]
fn warnings_and_errors_of_the_language() {
    Rig::run(async |rig| {
        let failure = rig
            .build(request("FROM busybox\nRUM true\n"))
            .await
            .unwrap_err();
        assert_eq!(
            failure.error.message,
            "dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)"
        );
        assert!(
            failure.excerpt.contains(">>> RUM true"),
            "{}",
            failure.excerpt
        );
        let failure = rig
            .build(request("FROM localhost:1/none\n"))
            .await
            .unwrap_err();
        assert!(
            failure
                .error
                .message
                .starts_with("failed to resolve source metadata for localhost:1/none:latest: "),
            "{failure}"
        );
        assert!(
            failure.excerpt.contains(">>> FROM localhost:1/none"),
            "{}",
            failure.excerpt
        );
        let known = rig.events();
        assert!(known.iter().any(|event| matches!(
            event,
            Event::Known { name, .. } if name == "[internal] load build definition from Dockerfile"
        )));
    });
}
