//! The OCI `linux.seccomp` section → a filter.
//!
//! For each architecture the system calls become a binary search over ranges of
//! numbers with equal treatment, so that an allowed call costs about ten
//! instructions whatever its number. Rules with arguments stand at the leaves.
//!
//! As runc does: names unknown to an architecture are passed over; rules whose
//! action is the default are left out; a call newer than all that the profile
//! names gets ENOSYS instead of a refusal, so that programs fall back; an
//! architecture that is not listed is killed.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompFilterFlag as Flag, LinuxSeccompOperator as Op,
};

use crate::bpf::{Half, Instruction as I};
use crate::{Error, Program, numbers};

const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE: u32 = 1 << 5;

/// The kernel takes no more (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;
const X32_BIT: u32 = 0x4000_0000;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_X86: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARM: u32 = 0x4000_0028;

/// A calling convention: its number in `seccomp_data`, names, and the bit that
/// all its numbers carry.
#[derive(Clone, Copy)]
struct Convention {
    audit: u32,
    names: &'static [(&'static str, u32)],
    bit: u32,
}

const X86_64: Convention = Convention {
    audit: AUDIT_X86_64,
    names: numbers::X86_64,
    bit: 0,
};
const X32: Convention = Convention {
    audit: AUDIT_X86_64,
    names: numbers::X32,
    bit: X32_BIT,
};
const X86: Convention = Convention {
    audit: AUDIT_X86,
    names: numbers::X86,
    bit: 0,
};
const AARCH64: Convention = Convention {
    audit: AUDIT_AARCH64,
    names: numbers::AARCH64,
    bit: 0,
};
const ARM: Convention = Convention {
    audit: AUDIT_ARM,
    names: numbers::ARM,
    bit: 0,
};

fn native() -> Result<Convention, Error> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(X86_64),
        "aarch64" => Ok(AARCH64),
        other => Err(Error::Invalid(format!(
            "seccomp is not supported on {other}"
        ))),
    }
}

/// What happens to one system call: the first entry whose conditions hold
/// decides; none means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Treatment(Vec<(Vec<Condition>, u32)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Condition {
    index: u32,
    test: Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Equal { mask: u64, value: u64 },
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
}

/// Compiles the `linux.seccomp` section of an OCI configuration for the native
/// architecture and the sub-architectures it lists.
pub fn compile(section: &LinuxSeccomp) -> Result<Program, Error> {
    let default = action(section.default_action(), section.default_errno_ret())?;
    let mut notifies = default == NOTIFY;
    let mut rules: Vec<(&str, Vec<Condition>, u32)> = Vec::new();
    for entry in section.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret())?;
        notifies |= action == NOTIFY;
        if action == default {
            continue;
        }
        for conditions in alternatives(entry.args().as_deref().unwrap_or_default())? {
            for name in entry.names() {
                rules.push((name, conditions.clone(), action));
            }
        }
    }
    let mut code = Vec::new();
    for (audit, conventions) in by_audit(&conventions(section)?) {
        let mut ranges = Vec::new();
        for convention in conventions {
            ranges.extend(ranges_of(&convention, &rules, default));
        }
        // From the last number of these conventions to the end of all numbers.
        let block = search(&ranges, default);
        code.push(I::equal(audit, 1, 0));
        code.push(I::jump(block.len() as u32 + 1));
        code.push(I::load_number());
        code.extend(block);
        // Back to the architecture for the next comparison: A holds it still,
        // because the jump went around the load.
    }
    code.insert(0, I::load_architecture());
    code.push(I::ret(KILL_THREAD));
    if code.len() > MAX_INSTRUCTIONS {
        return Err(Error::Invalid(format!(
            "the seccomp profile is too long: {} instructions of {MAX_INSTRUCTIONS} that the kernel takes",
            code.len()
        )));
    }
    Ok(Program {
        filter: code.into_iter().flat_map(I::to_bytes).collect(),
        flags: flags(section, notifies),
    })
}

fn action(action: Action, errno: Option<u32>) -> Result<u32, Error> {
    let data = |default: u32| {
        let errno = errno.unwrap_or(default);
        // The kernel takes 16 bits and caps them at 4095 itself.
        u16::try_from(errno)
            .map(u32::from)
            .map_err(|_| Error::Invalid(format!("errnoRet {errno} does not fit 16 bits")))
    };
    if errno.is_some() && !matches!(action, Action::ScmpActErrno | Action::ScmpActTrace) {
        return Err(Error::Invalid(format!(
            "errnoRet cannot be given with {action:?}"
        )));
    }
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => KILL_THREAD,
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActTrap => TRAP,
        Action::ScmpActErrno => ERRNO | data(EPERM)?,
        Action::ScmpActNotify => NOTIFY,
        Action::ScmpActTrace => TRACE | data(EPERM)?,
        Action::ScmpActLog => LOG,
        Action::ScmpActAllow => ALLOW,
    })
}

/// Conditions on different arguments must all hold; several on the same one are
/// alternatives, as runc reads them.
fn alternatives(arguments: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, Error> {
    let conditions = arguments
        .iter()
        .map(condition)
        .collect::<Result<Vec<_>, _>>()?;
    let indexes: BTreeSet<_> = conditions.iter().map(|condition| condition.index).collect();
    if indexes.len() == conditions.len() {
        Ok(vec![conditions])
    } else {
        Ok(conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect())
    }
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition, Error> {
    let index = u32::try_from(argument.index())
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| {
            Error::Invalid(format!(
                "a system call has six arguments: index {} is out of range",
                argument.index()
            ))
        })?;
    let value = argument.value();
    let test = match argument.op() {
        Op::ScmpCmpNe => Test::NotEqual(value),
        Op::ScmpCmpLt => Test::Less(value),
        Op::ScmpCmpLe => Test::LessOrEqual(value),
        Op::ScmpCmpEq => Test::Equal {
            mask: u64::MAX,
            value,
        },
        Op::ScmpCmpGe => Test::GreaterOrEqual(value),
        Op::ScmpCmpGt => Test::Greater(value),
        Op::ScmpCmpMaskedEq => Test::Equal {
            mask: value,
            value: argument.value_two().unwrap_or_default(),
        },
    };
    Ok(Condition { index, test })
}

fn conventions(section: &LinuxSeccomp) -> Result<Vec<Convention>, Error> {
    let native = native()?;
    let mut found = vec![native];
    for architecture in section.architectures().iter().flatten() {
        let convention = match architecture {
            Arch::ScmpArchNative => native,
            Arch::ScmpArchX86_64 => X86_64,
            Arch::ScmpArchX32 => X32,
            Arch::ScmpArchX86 => X86,
            Arch::ScmpArchAarch64 => AARCH64,
            Arch::ScmpArchArm => ARM,
            // Of machines that this one is not: no process here can use them.
            _ => continue,
        };
        let foreign = matches!(native.audit, AUDIT_X86_64)
            != matches!(convention.audit, AUDIT_X86_64 | AUDIT_X86);
        if !foreign
            && !found
                .iter()
                .any(|other| (other.audit, other.bit) == (convention.audit, convention.bit))
        {
            found.push(convention);
        }
    }
    Ok(found)
}

fn by_audit(conventions: &[Convention]) -> Vec<(u32, Vec<Convention>)> {
    let mut groups: Vec<(u32, Vec<Convention>)> = Vec::new();
    for &convention in conventions {
        match groups
            .iter_mut()
            .find(|(audit, _)| *audit == convention.audit)
        {
            Some((_, group)) => group.push(convention),
            None => groups.push((convention.audit, vec![convention])),
        }
    }
    for (_, group) in &mut groups {
        group.sort_by_key(|convention| convention.bit);
        // x32 shares its number with x86-64: unlisted, its calls are refused.
        if group.len() == 1 && group[0].audit == AUDIT_X86_64 {
            group.push(Convention { names: &[], ..X32 });
        }
    }
    groups
}

/// Ranges with equal treatment, from the convention's first number on; each ends
/// where the next begins.
fn ranges_of(
    convention: &Convention,
    rules: &[(&str, Vec<Condition>, u32)],
    default: u32,
) -> Vec<(u32, Treatment)> {
    if convention.names.is_empty() {
        return vec![(convention.bit, Treatment(vec![(Vec::new(), KILL_THREAD)]))];
    }
    let mut calls: BTreeMap<u32, Treatment> = BTreeMap::new();
    let mut newest = 0;
    for (name, conditions, action) in rules {
        let Ok(at) = convention
            .names
            .binary_search_by_key(name, |(name, _)| name)
        else {
            continue;
        };
        let number = convention.names[at].1;
        newest = newest.max(number);
        let treatment = &mut calls.entry(number).or_default().0;
        // Nothing after an unconditional entry can decide.
        if treatment
            .last()
            .is_none_or(|(conditions, _)| !conditions.is_empty())
        {
            treatment.push((conditions.clone(), *action));
        }
    }
    let mut ranges: Vec<(u32, Treatment)> = vec![(convention.bit, Treatment::default())];
    let mut push = |start: u32, treatment: Treatment| match ranges.last_mut() {
        Some((last, held)) if *last == start => *held = treatment,
        Some((_, held)) if *held == treatment => {}
        _ => ranges.push((start, treatment)),
    };
    for (number, treatment) in calls {
        push(convention.bit + number, treatment);
        push(convention.bit + number + 1, Treatment::default());
    }
    let refuses =
        !matches!(default, ALLOW | LOG) && default & 0xffff_0000 != TRACE && default != NOTIFY;
    if refuses && newest > 0 && convention.names.len() > 100 {
        push(
            convention.bit + newest + 1,
            Treatment(vec![(Vec::new(), ERRNO | ENOSYS)]),
        );
    }
    // Neighbours that became equal by the replacement above.
    ranges.dedup_by(|next, kept| next.1 == kept.1);
    ranges
}

/// A binary search tree; the accumulator holds the number. Every path returns.
fn search(ranges: &[(u32, Treatment)], default: u32) -> Vec<I> {
    match ranges {
        [] => vec![I::ret(default)],
        [(_, treatment)] => leaf(treatment, default),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let pivot = right[0].0;
            let (left, right) = (search(left, default), search(right, default));
            let mut code = match u8::try_from(left.len()) {
                Ok(distance) => vec![I::at_least(pivot, distance, 0)],
                Err(_) => vec![I::at_least(pivot, 0, 1), I::jump(left.len() as u32)],
            };
            code.extend(left);
            code.extend(right);
            code
        }
    }
}

fn leaf(treatment: &Treatment, default: u32) -> Vec<I> {
    let mut code = Vec::new();
    for (conditions, action) in &treatment.0 {
        let mut block = Vec::new();
        for condition in conditions.iter().rev() {
            // Built from the end, where the distance to the failure is known:
            // `after` instructions and the return stand before it.
            let mut test = tests(condition, block.len() as u8 + 1);
            test.extend(block);
            block = test;
        }
        code.extend(block);
        code.push(I::ret(*action));
        if conditions.is_empty() {
            return code;
        }
    }
    code.push(I::ret(default));
    code
}

/// Falls through when the condition holds; else skips `after` further
/// instructions. Six conditions of seven instructions: distances fit 8 bits.
fn tests(condition: &Condition, after: u8) -> Vec<I> {
    let load = |half| I::load_argument(condition.index, half);
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    match condition.test {
        Test::Equal {
            mask: u64::MAX,
            value,
        } => {
            let (high, low) = halves(value);
            vec![
                load(Half::High),
                I::equal(high, 0, after + 2),
                load(Half::Low),
                I::equal(low, 0, after),
            ]
        }
        Test::Equal { mask, value } => {
            let ((high, low), (high_mask, low_mask)) = (halves(value), halves(mask));
            vec![
                load(Half::High),
                I::and(high_mask),
                I::equal(high, 0, after + 3),
                load(Half::Low),
                I::and(low_mask),
                I::equal(low, 0, after),
            ]
        }
        Test::NotEqual(value) => {
            let (high, low) = halves(value);
            vec![
                load(Half::High),
                I::equal(high, 0, 2),
                load(Half::Low),
                I::equal(low, after, 0),
            ]
        }
        Test::Greater(value) => {
            let (high, low) = halves(value);
            vec![
                load(Half::High),
                I::greater(high, 3, 0),
                I::equal(high, 0, after + 2),
                load(Half::Low),
                I::greater(low, 0, after),
            ]
        }
        Test::GreaterOrEqual(value) => {
            let (high, low) = halves(value);
            vec![
                load(Half::High),
                I::greater(high, 3, 0),
                I::equal(high, 0, after + 2),
                load(Half::Low),
                I::at_least(low, 0, after),
            ]
        }
        Test::Less(value) => {
            let (high, low) = halves(value);
            vec![
                load(Half::High),
                I::greater(high, after + 3, 0),
                I::equal(high, 0, 2),
                load(Half::Low),
                I::at_least(low, after, 0),
            ]
        }
        Test::LessOrEqual(value) => {
            let (high, low) = halves(value);
            vec![
                load(Half::High),
                I::greater(high, after + 3, 0),
                I::equal(high, 0, 2),
                load(Half::Low),
                I::greater(low, after, 0),
            ]
        }
    }
}

/// Without any flag given, speculation stays as it is (as runc does): the
/// mitigation costs every process that has a filter. TSYNC says nothing here:
/// the process that loads the filter has one thread.
fn flags(section: &LinuxSeccomp, notifies: bool) -> u32 {
    let mut bits = match section.flags() {
        None => FLAG_SPEC_ALLOW,
        Some(flags) => flags.iter().fold(0, |bits, flag| {
            bits | match flag {
                Flag::SeccompFilterFlagLog => FLAG_LOG,
                Flag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
                Flag::SeccompFilterFlagWaitKillableRecv => FLAG_WAIT_KILLABLE,
                Flag::SeccompFilterFlagTsync => 0,
            }
        }),
    };
    if notifies {
        bits |= FLAG_NEW_LISTENER;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{Call, run};
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
        for entry in section.syscalls().iter().flatten() {
            let result = action(entry.action(), entry.errno_ret()).unwrap();
            if result == default || !entry.names().iter().any(|other| other == name) {
                continue;
            }
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
                        actual & value == argument.value_two().unwrap_or_default()
                    }
                }
            };
            let given = entry.args().clone().unwrap_or_default();
            let different: BTreeSet<_> = given.iter().map(|argument| argument.index()).collect();
            let all = different.len() == given.len();
            if given.is_empty()
                || (all && given.iter().all(holds))
                || (!all && given.iter().any(holds))
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
        ] {
            assert!(compile(&section(bad)).is_err(), "{bad}");
        }
    }
}
