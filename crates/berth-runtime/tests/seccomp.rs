//! `linux.seccomp` as programs in a container meet it: each action, operator and
//! architecture. What the filter does in detail is tested in berth-seccomp.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::needless_pass_by_value, clippy::unwrap_used)]

mod common;

use common::bundle::Bundle;
use serde_json::{Value, json};

/// Killed by SIGSYS, as a shell gives it.
const KILLED: i32 = 128 + 31;

/// System calls by number of x86-64, unless said otherwise.
const GETPID: u32 = 39;
const GETPID_X86: u32 = 20;
const X32: u32 = 0x4000_0000;

/// How a program makes its one system call.
#[derive(Clone, Copy)]
enum Way {
    Bits64,
    Bits32,
}

/// A whole static program: it makes a system call with these first two arguments and
/// exits with the negated result, which is the error if there was one.
fn program(way: Way, number: u32, arguments: [u64; 2]) -> Vec<u8> {
    let mut code = Vec::new();
    match way {
        Way::Bits64 => {
            // mov rdi, …; mov rsi, …; mov eax, …; syscall
            code.extend([0x48, 0xbf]);
            code.extend(arguments[0].to_le_bytes());
            code.extend([0x48, 0xbe]);
            code.extend(arguments[1].to_le_bytes());
            code.push(0xb8);
            code.extend(number.to_le_bytes());
            code.extend([0x0f, 0x05]);
            // neg eax; mov edi, eax; mov eax, 60 (exit); syscall
            code.extend([0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
        }
        Way::Bits32 => {
            // mov ebx, …; mov ecx, …; mov eax, …; int 0x80
            code.push(0xbb);
            code.extend((arguments[0] as u32).to_le_bytes());
            code.push(0xb9);
            code.extend((arguments[1] as u32).to_le_bytes());
            code.push(0xb8);
            code.extend(number.to_le_bytes());
            code.extend([0xcd, 0x80]);
            // neg eax; mov ebx, eax; mov eax, 1 (exit); int 0x80
            code.extend([0xf7, 0xd8, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80]);
        }
    }
    elf(way, &code)
}

/// ELF header and one segment with everything, at the usual address.
fn elf(way: Way, code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let (class, machine, header, entry_size) = match way {
        Way::Bits64 => (2, 62_u16, 64_u64, 56_u16),
        Way::Bits32 => (1, 3, 52, 32),
    };
    let start = header + u64::from(entry_size);
    let size = start + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0];
    file.resize(16, 0);
    file.extend([2_u16.to_le_bytes(), machine.to_le_bytes()].concat());
    file.extend(1_u32.to_le_bytes());
    let word = |value: u64| match way {
        Way::Bits64 => value.to_le_bytes().to_vec(),
        Way::Bits32 => (value as u32).to_le_bytes().to_vec(),
    };
    // Entry, program headers, section headers; flags; sizes.
    file.extend([word(BASE + start), word(header), word(0)].concat());
    file.extend(0_u32.to_le_bytes());
    for half in [header as u16, entry_size, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    let readable_and_executable = 5_u32.to_le_bytes();
    if matches!(way, Way::Bits64) {
        file.extend(readable_and_executable);
    }
    file.extend([word(0), word(BASE), word(BASE), word(size), word(size)].concat());
    if matches!(way, Way::Bits32) {
        file.extend(readable_and_executable);
    }
    file.extend(word(0x1000));
    assert_eq!(file.len() as u64, start);
    file.extend(code);
    file
}

/// The exit code of a program under a filter.
fn code(seccomp: &Value, program: &[u8]) -> i32 {
    let mut bundle = Bundle::new(&["/program"]);
    let path = bundle.path().join("rootfs/program");
    std::fs::write(&path, program).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bundle.set(&[("/linux/seccomp", seccomp.clone())]);
    let output = bundle.output(&["run", "a"]);
    bundle.assert_empty();
    assert_eq!(
        output.stderr,
        b"",
        "{seccomp}: {:?}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.status.code().unwrap()
}

/// A filter that does one thing to getpid and allows all else.
fn on_getpid(action: &str, more: Value) -> Value {
    let mut entry = json!({ "names": ["getpid"], "action": format!("SCMP_ACT_{action}") });
    for (key, value) in more.as_object().unwrap() {
        entry[key] = value.clone();
    }
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry] })
}

#[test]
fn actions() {
    let getpid = program(Way::Bits64, GETPID, [0; 2]);
    // Process number 1.
    let allowed = 255;
    for (action, more, expected) in [
        ("ALLOW", json!({}), allowed),
        ("LOG", json!({}), allowed),
        ("ERRNO", json!({}), 1),
        ("ERRNO", json!({ "errnoRet": 77 }), 77),
        ("ERRNO", json!({ "errnoRet": 0 }), 0),
        // Nobody traces: ENOSYS.
        ("TRACE", json!({}), 38),
        ("TRACE", json!({ "errnoRet": 5 }), 38),
        ("TRAP", json!({}), KILLED),
        ("KILL", json!({}), KILLED),
        ("KILL_THREAD", json!({}), KILLED),
        ("KILL_PROCESS", json!({}), KILLED),
    ] {
        assert_eq!(
            code(&on_getpid(action, more.clone()), &getpid),
            expected,
            "{action} {more}"
        );
    }
}

#[test]
fn default_actions() {
    let getpid = program(Way::Bits64, GETPID, [0; 2]);
    // What the runtime does after it has loaded the filter, and the program's end.
    let allowed = [
        "execve",
        "exit",
        "exit_group",
        "write",
        "close",
        "capset",
        "capget",
        "prctl",
        "munmap",
        "recvmsg",
        "sendmsg",
        "sendto",
        "recvfrom",
        "rt_sigprocmask",
        "poll",
    ];
    for (action, errno, expected) in [
        ("ERRNO", None, 1),
        ("ERRNO", Some(77), 77),
        ("TRACE", None, 38),
        ("KILL_PROCESS", None, KILLED),
        ("KILL_THREAD", None, KILLED),
        ("KILL", None, KILLED),
        ("TRAP", None, KILLED),
        ("LOG", None, 255),
        ("ALLOW", None, 255),
    ] {
        let mut filter = json!({
            "defaultAction": format!("SCMP_ACT_{action}"),
            "syscalls": [{ "names": allowed, "action": "SCMP_ACT_ALLOW" }],
        });
        if let Some(errno) = errno {
            filter["defaultErrnoRet"] = json!(errno);
        }
        assert_eq!(code(&filter, &getpid), expected, "{action}");
    }
}

#[test]
fn operators() {
    // A call that takes any numbers: getpid itself.
    let high = 1_u64 << 32;
    for (op, value, two, argument, holds) in [
        ("EQ", high | 5, 0, high | 5, true),
        ("EQ", high | 5, 0, 5, false),
        ("NE", 5, 0, high | 5, true),
        ("NE", 5, 0, 5, false),
        ("LT", high, 0, high - 1, true),
        ("LT", high, 0, high, false),
        ("LE", high, 0, high, true),
        ("LE", high, 0, high | 1, false),
        ("GE", high, 0, high, true),
        ("GE", high, 0, high - 1, false),
        ("GT", u64::from(u32::MAX), 0, high, true),
        ("GT", high, 0, high, false),
        ("MASKED_EQ", high | 0xf, high | 3, high | 0x13, true),
        ("MASKED_EQ", high | 0xf, high | 3, 0x13, false),
        ("MASKED_EQ", 0xf, 0x13, high | 3, true),
    ] {
        let condition = json!([{ "index": 1, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}") }]);
        let filter = on_getpid("ERRNO", json!({ "errnoRet": 77, "args": condition }));
        let program = program(Way::Bits64, GETPID, [0, argument]);
        let expected = if holds { 77 } else { 255 };
        assert_eq!(
            code(&filter, &program),
            expected,
            "{argument:x} {op} {value:x} {two:x}"
        );
    }
    // Different arguments must all hold; several conditions on one are alternatives.
    let condition =
        |index: u32, value: u64| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
    for (conditions, arguments, expected) in [
        (json!([condition(0, 1), condition(1, 2)]), [1, 2], 77),
        (json!([condition(0, 1), condition(1, 2)]), [1, 3], 255),
        (json!([condition(0, 1), condition(0, 2)]), [2, 0], 77),
        (json!([condition(0, 1), condition(0, 2)]), [3, 0], 255),
    ] {
        let filter = on_getpid("ERRNO", json!({ "errnoRet": 77, "args": conditions }));
        assert_eq!(
            code(&filter, &program(Way::Bits64, GETPID, arguments)),
            expected
        );
    }
}

#[test]
fn architectures() {
    let mut filter = on_getpid("ERRNO", json!({ "errnoRet": 77 }));
    let native = program(Way::Bits64, GETPID, [0; 2]);
    let i386 = program(Way::Bits32, GETPID_X86, [0; 2]);
    let x32 = program(Way::Bits64, X32 | GETPID, [0; 2]);
    let mut codes = |architectures: &[&str]| {
        let names: Vec<_> = architectures
            .iter()
            .map(|name| format!("SCMP_ARCH_{name}"))
            .collect();
        filter["architectures"] = json!(names);
        [&native, &i386, &x32].map(|program| code(&filter, program))
    };
    // The native one is always there; others are killed unless listed.
    assert_eq!(codes(&[]), [77, KILLED, KILLED]);
    assert_eq!(codes(&["X86_64"]), [77, KILLED, KILLED]);
    assert_eq!(codes(&["X86"]), [77, 77, KILLED]);
    assert_eq!(codes(&["X86_64", "X86", "X32"]), [77, 77, 77]);
    // Of other machines: named in the profiles that everybody ships.
    assert_eq!(
        codes(&["X86_64", "AARCH64", "ARM", "S390X", "RISCV64"]),
        [77, KILLED, KILLED]
    );
    // Numbers differ, the name counts: 39 is mkdir on i386.
    filter["architectures"] = json!(["SCMP_ARCH_X86"]);
    let mkdir = program(Way::Bits32, 39, [0; 2]);
    let efault = 14;
    assert_eq!(code(&filter, &mkdir), efault);
}

#[test]
fn flags() {
    let getpid = program(Way::Bits64, GETPID, [0; 2]);
    let mut filter = on_getpid("ERRNO", json!({ "errnoRet": 77 }));
    for flags in [
        json!([]),
        json!(["SECCOMP_FILTER_FLAG_TSYNC"]),
        json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]),
    ] {
        filter["flags"] = flags;
        assert_eq!(code(&filter, &getpid), 77, "{filter}");
    }
}

/// With and without a new privilege to be had; the filter is the same.
#[test]
fn an_exec_has_the_filter_too() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let path = bundle.path().join("rootfs/program");
        std::fs::write(&path, program(Way::Bits64, GETPID, [0; 2])).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        bundle.set(&[
            (
                "/linux/seccomp",
                on_getpid("ERRNO", json!({ "errnoRet": 77 })),
            ),
            ("/process/noNewPrivileges", json!(no_new_privileges)),
            ("/process/user", json!({ "uid": 1000, "gid": 1000 })),
        ]);
        bundle.leave(&["run", "-d", "a"]);
        let output = bundle.output(&["exec", "a", "/program"]);
        assert_eq!(output.status.code(), Some(77), "{output:?}");
        bundle.ok(&["delete", "--force", "a"]);
        bundle.assert_empty();
    }
}

#[test]
fn mistakes_are_told() {
    let mut bundle = Bundle::new(&["true"]);
    let unknown = |field: &str| {
        let mut filter = on_getpid("ERRNO", json!({}));
        match field {
            "flags" | "architectures" => filter[field] = json!(["NOPE"]),
            field => filter["syscalls"][0][field] = json!("NOPE"),
        }
        filter
    };
    for (filter, words) in [
        (unknown("flags"), "linux.seccomp.flags[0]"),
        (unknown("architectures"), "linux.seccomp.architectures[0]"),
        (unknown("action"), "linux.seccomp.syscalls[0].action"),
        (
            on_getpid("KILL", json!({ "errnoRet": 5 })),
            "errnoRet cannot be given with",
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5 }),
            "errnoRet cannot be given with",
        ),
        (
            on_getpid(
                "ERRNO",
                json!({ "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] }),
            ),
            "index 6 is out of range",
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
            "cannot be the default action",
        ),
        (on_getpid("NOTIFY", json!({})), "listenerPath"),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x" }),
            "listenerPath",
        ),
    ] {
        bundle.set(&[("/linux/seccomp", filter.clone())]);
        let error = bundle.fails(&["run", "a"]);
        assert!(error.contains(words), "{filter}: {error}");
        bundle.assert_empty();
    }
}
