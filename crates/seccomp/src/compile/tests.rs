use super::*;
use crate::bpf::{Call, run};
use crate::convention::{ARM, AUDIT_X86, AUDIT_X86_64, X32_BIT, X86, native};
use crate::numbers;
use oci_spec::runtime::LinuxSyscall;
use proptest::prelude::*;

fn section(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn call(name: &str, arguments: [u64; 6]) -> Call {
    let names = native().unwrap().names;
    let at = names.binary_search_by_key(&name, |(name, _)| name).unwrap();
    Call {
        number: names[at].1,
        architecture: native().unwrap().audit,
        arguments,
    }
}

/// What the section says, plainly.
fn evaluate(section: &LinuxSeccomp, name: &str, arguments: &[u64; 6]) -> u32 {
    let default = action(section.default_action(), section.default_errno_ret()).unwrap();
    let given = |entry: &LinuxSyscall| entry.args().clone().unwrap_or_default();
    let mut entries: Vec<_> = section
        .syscalls()
        .iter()
        .flatten()
        .filter(|entry| entry.names().iter().any(|other| other == name))
        .map(|entry| (entry, action(entry.action(), entry.errno_ret()).unwrap()))
        .filter(|(_, result)| *result != default)
        .collect();
    // Those without conditions decide; the sort keeps the order otherwise.
    entries.sort_by_key(|(entry, _)| !given(entry).is_empty());
    for (entry, result) in entries {
        let holds = |argument: &LinuxSeccompArg| {
            let (actual, value) = (arguments[argument.index()], argument.value());
            match argument.op() {
                Op::ScmpCmpNe => actual != value,
                Op::ScmpCmpLt => actual < value,
                Op::ScmpCmpLe => actual <= value,
                Op::ScmpCmpEq => actual == value,
                Op::ScmpCmpGe => actual >= value,
                Op::ScmpCmpGt => actual > value,
                Op::ScmpCmpMaskedEq => {
                    actual & value == argument.value_two().unwrap_or_default() & value
                }
            }
        };
        let given = given(entry);
        let different: BTreeSet<_> = given.iter().map(|argument| argument.index()).collect();
        let all = different.len() == given.len();
        if given.is_empty() || (all && given.iter().all(holds)) || (!all && given.iter().any(holds))
        {
            return result;
        }
    }
    default
}

const OPS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

prop_compose! {
    /// Values near each other and at the borders of the halves.
    fn value()(base in prop::sample::select(vec![0u64, 1, 0xffff_ffff, 0x1_0000_0000, 0x7e02_0000, u64::MAX - 1]), add in 0u64..3) -> u64 {
        base.wrapping_add(add)
    }
}

prop_compose! {
    fn argument()(index in 0usize..3, op in 0usize..7, one in value(), two in value()) -> String {
        format!(r#"{{"index":{index},"value":{one},"valueTwo":{two},"op":"SCMP_CMP_{}"}}"#, OPS[op])
    }
}

prop_compose! {
    fn entry()(name in prop::sample::select(vec!["read", "clone", "socket", "mount", "getpid"]),
               action in prop::sample::select(vec!["ALLOW", "ERRNO", "LOG", "KILL_PROCESS"]),
               arguments in prop::collection::vec(argument(), 0..4)) -> String {
        format!(r#"{{"names":["{name}","no_such_call"],"action":"SCMP_ACT_{action}","args":[{}]}}"#, arguments.join(","))
    }
}

proptest! {
    #[test]
    fn program_agrees_with_the_section(
        entries in prop::collection::vec(entry(), 0..12),
        name in prop::sample::select(vec!["read", "clone", "socket", "mount", "getpid"]),
        arguments in prop::array::uniform6(value()),
    ) {
        // Allowed by default: else unnamed calls above the newest get ENOSYS.
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, entries.join(","));
        let section = section(&json);
        let program = compile(&section).unwrap();
        let (result, _) = run(&program.filter, &call(name, arguments)).unwrap();
        prop_assert_eq!(result, evaluate(&section, name, &arguments), "{}", json);
    }
}

#[test]
fn newer_calls_do_not_exist_and_others_are_refused() {
    let program = compile(&section(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"syscalls":[{"names":["read","openat2"],"action":"SCMP_ACT_ALLOW"}]}"#,
    ))
    .unwrap();
    let of = |number| {
        run(
            &program.filter,
            &Call {
                number,
                architecture: native().unwrap().audit,
                arguments: [0; 6],
            },
        )
        .unwrap()
        .0
    };
    assert_eq!(of(call("read", [0; 6]).number), ALLOW);
    assert_eq!(of(call("mount", [0; 6]).number), ERRNO | 1);
    assert_eq!(of(438), ERRNO | ENOSYS);
    assert_eq!(of(2000), ERRNO | ENOSYS);
}

#[test]
fn other_architectures_are_killed_unless_listed() {
    let body = r#""defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]"#;
    let without = compile(&section(&format!("{{{body}}}"))).unwrap();
    let with = compile(&section(&format!(
        r#"{{{body},"architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_ARM"]}}"#
    )))
    .unwrap();
    let call = |architecture, number| Call {
        architecture,
        number,
        arguments: [0; 6],
    };
    if cfg!(target_arch = "x86_64") {
        assert_eq!(
            run(&without.filter, &call(AUDIT_X86, 21)).unwrap().0,
            KILL_THREAD
        );
        assert_eq!(
            run(&with.filter, &call(AUDIT_X86, 21)).unwrap().0,
            ERRNO | 1
        );
        assert_eq!(run(&with.filter, &call(AUDIT_X86, 20)).unwrap().0, ALLOW);
        assert_eq!(
            run(&without.filter, &call(AUDIT_X86_64, X32_BIT | 165))
                .unwrap()
                .0,
            KILL_THREAD
        );
        assert_eq!(
            run(&with.filter, &call(AUDIT_X86_64, X32_BIT | 165))
                .unwrap()
                .0,
            ERRNO | 1
        );
    }
    assert_eq!(run(&with.filter, &call(0x15, 1)).unwrap().0, KILL_THREAD);
}

/// As libseccomp 2.5 does it, tried out.
#[test]
fn an_entry_without_conditions_decides() {
    let conditional = r#"{"names":["personality"],"action":"SCMP_ACT_ALLOW",
        "args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]}"#;
    let always = r#"{"names":["personality"],"action":"SCMP_ACT_ERRNO","errnoRet":77}"#;
    for entries in [
        format!("{conditional},{always}"),
        format!("{always},{conditional}"),
    ] {
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{entries}]}}"#);
        let program = compile(&section(&json)).unwrap();
        for argument in [0, 1] {
            let call = call("personality", [argument, 0, 0, 0, 0, 0]);
            assert_eq!(run(&program.filter, &call).unwrap().0, ERRNO | 77);
        }
    }
}

#[test]
fn many_values_of_one_argument() {
    // Two high halves, more values than one go compares, another action between.
    let values: Vec<u64> = (0..300).map(|i| i * 3 + ((i / 150) << 32)).collect();
    let entry = |value: &u64, errno: u32| {
        format!(
            r#"{{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":{errno},
                "args":[{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#
        )
    };
    let entries: Vec<_> = values
        .iter()
        .map(|value| entry(value, if *value == 30 { 8 } else { 7 }))
        .collect();
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#,
        entries.join(",")
    );
    let program = compile(&section(&json)).unwrap();
    assert!(program.filter.len() / 8 < 340);
    for value in (0..1000).chain((0..1000).map(|low| low | 1 << 32)) {
        let expected = match value {
            30 => ERRNO | 8,
            _ if values.contains(&value) => ERRNO | 7,
            _ => ALLOW,
        };
        let call = call("socket", [value, 0, 0, 0, 0, 0]);
        assert_eq!(run(&program.filter, &call).unwrap().0, expected, "{value}");
    }
}

#[test]
fn bits_outside_the_mask_do_not_count() {
    let program = compile(&section(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW",
            "args":[{"index":0,"value":15,"valueTwo":19,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
    ))
    .unwrap();
    for (argument, expected) in [(3, ALLOW), (0x13, ALLOW), (4, ERRNO | 1)] {
        let call = call("personality", [argument, 0, 0, 0, 0, 0]);
        assert_eq!(
            run(&program.filter, &call).unwrap().0,
            expected,
            "{argument}"
        );
    }
}

#[test]
fn entries_that_say_what_the_default_says_are_known_calls() {
    let program = compile(&section(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ALLOW"},{"names":["openat2"],"action":"SCMP_ACT_ERRNO"}]}"#,
    ))
    .unwrap();
    let newest = call("openat2", [0; 6]);
    assert_eq!(run(&program.filter, &newest).unwrap().0, ERRNO | 1);
    let newer = Call {
        number: newest.number + 1,
        ..newest
    };
    assert_eq!(run(&program.filter, &newer).unwrap().0, ERRNO | ENOSYS);
}

#[test]
fn arms_private_calls_are_not_newest() {
    let allow = |name| (name, Vec::new(), ALLOW);
    let ranges = ranges_of(
        &ARM,
        &[allow("set_tls"), allow("read"), allow("openat2")],
        ERRNO | 1,
    );
    let of = |number| {
        let at = ranges.partition_point(|(start, _)| *start <= number) - 1;
        ranges[at].1.clone()
    };
    assert_eq!(of(3), Treatment::always(ALLOW));
    assert_eq!(of(4), Treatment::default());
    assert_eq!(of(438), Treatment::always(ERRNO | ENOSYS));
    assert_eq!(of(ARM_PRIVATE + 5), Treatment::always(ALLOW));
    assert_eq!(of(ARM_PRIVATE + 6), Treatment::always(ERRNO | ENOSYS));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_refused_on_i386_is_refused_through_the_multiplexer() {
    let program = compile(&section(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
            "syscalls":[{"names":["socket","shmget"],"action":"SCMP_ACT_ERRNO"}]}"#,
    ))
    .unwrap();
    for (name, first, expected) in [
        ("socket", 0, ERRNO | 1),
        ("socketcall", 1, ERRNO | 1),
        ("socketcall", 3, ALLOW),
        ("ipc", 23, ERRNO | 1),
        ("ipc", 21, ALLOW),
    ] {
        let call = Call {
            number: X86.number(name).unwrap(),
            architecture: AUDIT_X86,
            arguments: [first, 0, 0, 0, 0, 0],
        };
        assert_eq!(
            run(&program.filter, &call).unwrap().0,
            expected,
            "{name} {first}"
        );
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_skipped_call_kills_nothing() {
    for default in ["ALLOW", "ERRNO"] {
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_{default}"}}"#);
        let skipped = Call {
            number: u32::MAX,
            ..call("read", [0; 6])
        };
        let program = compile(&section(&json)).unwrap();
        let expected = if default == "ALLOW" { ALLOW } else { ERRNO | 1 };
        assert_eq!(run(&program.filter, &skipped).unwrap().0, expected);
    }
}

#[test]
fn flags_fit_the_actions() {
    let flags = |action: &str| {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                "syscalls":[{{"names":["mkdir"],"action":"SCMP_ACT_{action}"}}]}}"#
        );
        compile(&section(&json)).unwrap().flags
    };
    assert_eq!(flags("NOTIFY"), FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE);
    assert_eq!(flags("ERRNO"), 0);
    let none = section(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    assert_eq!(compile(&none).unwrap().flags, FLAG_SPEC_ALLOW);
}

#[test]
fn tables_are_sorted() {
    for names in [
        numbers::X86_64,
        numbers::X32,
        numbers::X86,
        numbers::AARCH64,
        numbers::ARM,
    ] {
        assert!(names.is_sorted_by(|a, b| a.0 < b.0));
    }
}

#[test]
fn bad_sections_are_refused() {
    for bad in [
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":5}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":70000}"#,
        r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    ] {
        assert!(compile(&section(bad)).is_err(), "{bad}");
    }
}
