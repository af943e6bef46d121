//! The OCI `linux.seccomp` section → a filter.
//!
//! For each architecture the system calls become a binary search over ranges of
//! numbers with equal treatment, so that an allowed call costs about ten
//! instructions whatever its number. Rules with arguments stand at the leaves.
//!
//! As runc with libseccomp does: names unknown to an architecture are passed
//! over; rules whose action is the default are left out; an entry without
//! conditions decides whatever others say of the call, else the first whose
//! conditions hold; a call newer than all that the profile names gets ENOSYS
//! instead of a refusal, so that programs fall back; an architecture that is not
//! listed is killed.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Op,
};

use crate::bpf::{Half, Instruction as I};
use crate::convention::{ARM_PRIVATE, Convention, by_audit, conventions};
use crate::{Error, Program};

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
/// What happens to one system call: the first entry whose conditions hold
/// decides; none means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Treatment(Vec<(Vec<Condition>, u32)>);

impl Treatment {
    fn always(action: u32) -> Self {
        Self(vec![(Vec::new(), action)])
    }

    fn add(&mut self, conditions: Vec<Condition>, action: u32) {
        match self.0.as_slice() {
            [(first, _)] if first.is_empty() => {}
            _ if conditions.is_empty() => *self = Self::always(action),
            _ => self.0.push((conditions, action)),
        }
    }
}

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
    // Whoever loads the filter hands its listener on, with calls that nobody
    // could answer yet.
    if default == NOTIFY {
        return Err(Error::Invalid(
            "SCMP_ACT_NOTIFY cannot be the default action".into(),
        ));
    }
    let mut notifies = false;
    let mut rules: Vec<(&str, Vec<Condition>, u32)> = Vec::new();
    for entry in section.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret())?;
        if action == NOTIFY {
            notifies = true;
            if entry.names().iter().any(|name| name == "write") {
                return Err(Error::Invalid(
                    "SCMP_ACT_NOTIFY cannot be used for write".into(),
                ));
            }
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
            // Bits outside the mask do not count.
            value: argument.value_two().unwrap_or_default() & value,
        },
    };
    Ok(Condition { index, test })
}

/// Ranges with equal treatment, from the convention's first number on; each ends
/// where the next begins.
fn ranges_of(
    convention: &Convention,
    rules: &[(&str, Vec<Condition>, u32)],
    default: u32,
) -> Vec<(u32, Treatment)> {
    if convention.names.is_empty() {
        // -1 has the bit but is no x32 call: a tracer skips a call with it.
        return vec![
            (convention.bit, Treatment::always(KILL_THREAD)),
            (u32::MAX, Treatment::default()),
        ];
    }
    let mut calls: BTreeMap<u32, Treatment> = BTreeMap::new();
    let mut newest: Option<u32> = None;
    for (name, conditions, action) in rules {
        let mut add = |name: &str, conditions: Vec<Condition>| {
            let Some(number) = convention.number(name) else {
                return;
            };
            if number < ARM_PRIVATE {
                newest = newest.max(Some(number));
            }
            if *action != default {
                let treatment = calls.entry(number).or_default();
                treatment.add(conditions, *action);
            }
        };
        add(name, conditions.clone());
        // What is said of a call is said of the other way to make it, unless it
        // is about arguments: those are in memory there.
        if conditions.is_empty()
            && let Some((call, first)) = convention.multiplexer(name)
        {
            let test = Test::Equal {
                mask: u64::MAX,
                value: first,
            };
            add(call, vec![Condition { index: 0, test }]);
        }
    }
    let mut ranges: Vec<(u32, Treatment)> = vec![(convention.bit, Treatment::default())];
    let mut push = |start: u32, treatment: Treatment| match ranges.last_mut() {
        Some((last, held)) if *last == start => *held = treatment,
        Some((_, held)) if *held == treatment => {}
        _ => ranges.push((start, treatment)),
    };
    // Where the numbers begin that the section cannot know, if that matters.
    let refuses = !matches!(default, ALLOW | LOG) && default & 0xffff_0000 != TRACE;
    let mut edge = newest.filter(|_| refuses).map(|newest| newest + 1);
    let mut unnamed = Treatment::default();
    for (number, treatment) in calls {
        if let Some(edge) = edge.take_if(|edge| *edge <= number) {
            unnamed = Treatment::always(ERRNO | ENOSYS);
            push(convention.bit + edge, unnamed.clone());
        }
        push(convention.bit + number, treatment);
        push(convention.bit + number + 1, unnamed.clone());
    }
    if let Some(edge) = edge {
        push(convention.bit + edge, Treatment::always(ERRNO | ENOSYS));
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
    let mut rest = treatment.0.as_slice();
    while let Some(((conditions, action), others)) = rest.split_first() {
        let values = equal_values(rest);
        if values.len() > 1 {
            code.extend(one_of(conditions[0].index, &values, *action));
            rest = &rest[values.len()..];
            continue;
        }
        rest = others;
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

/// Most values compared in one go: all distances fit 8 bits.
const MAX_VALUES: usize = 128;

/// The values of the first entries that do the same when one argument equals
/// one of several values with the same high half: the address families of
/// `socket`, the personas of `personality`.
fn equal_values(entries: &[(Vec<Condition>, u32)]) -> Vec<u64> {
    let single = |(conditions, action): &(Vec<Condition>, u32)| match conditions.as_slice() {
        &[
            Condition {
                index,
                test:
                    Test::Equal {
                        mask: u64::MAX,
                        value,
                    },
            },
        ] => Some((index, value >> 32, *action, value)),
        _ => None,
    };
    let Some((index, high, action, _)) = entries.first().and_then(single) else {
        return Vec::new();
    };
    entries
        .iter()
        .map_while(single)
        .take_while(|found| (found.0, found.1, found.2) == (index, high, action))
        .map(|(.., value)| value)
        .take(MAX_VALUES)
        .collect()
}

/// Returns `action` when the argument is one of `values`, which share their high
/// half; falls through otherwise.
fn one_of(index: u32, values: &[u64], action: u32) -> Vec<I> {
    let count = values.len() as u8;
    let high = values.first().map_or(0, |value| (value >> 32) as u32);
    let mut code = vec![
        I::load_argument(index, Half::High),
        I::equal(high, 0, count + 2),
        I::load_argument(index, Half::Low),
    ];
    for (left, &value) in (0..count).rev().zip(values) {
        // The last one skips the return when it does not hold either.
        code.push(I::equal(value as u32, left, u8::from(left == 0)));
    }
    code.push(I::ret(action));
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
                // The kernel takes it only together with a listener.
                Flag::SeccompFilterFlagWaitKillableRecv if notifies => FLAG_WAIT_KILLABLE,
                Flag::SeccompFilterFlagWaitKillableRecv => 0,
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
mod tests;
