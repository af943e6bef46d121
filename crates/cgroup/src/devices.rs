//! Which device nodes a group's processes may open or make: lines of text on
//! v1, an eBPF program on v2.
//!
//! The program is assembled here. The last rule that matches decides, as on v1;
//! without any match access is denied.

use std::os::fd::AsFd;
use std::path::Path;

use berth_sys::bpf::{self, Instruction};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{Mode, OFlags};

use crate::Error;

const READ: i32 = 2;
const WRITE: i32 = 4;
const MKNOD: i32 = 1;
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// One rule, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `BLOCK`, `CHAR` or both when `None`.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    fn parse(rule: &LinuxDeviceCgroup) -> Result<Self, Error> {
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => None,
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHAR),
            Some(LinuxDeviceType::P) => {
                return Err(Error::Invalid(
                    "a device rule cannot be about a fifo".into(),
                ));
            }
        };
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => i32::try_from(value)
                .ok()
                .filter(|value| *value >= 0)
                .map(Some)
                .ok_or_else(|| Error::Invalid(format!("{value} is no device number"))),
        };
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                other => {
                    return Err(Error::Invalid(format!(
                        "{other:?} in a device rule is none of r, w, m"
                    )));
                }
            };
        }
        Ok(Self {
            allow: rule.allow(),
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access,
        })
    }
}

/// "c 1:3 rwm", as devices.allow and devices.deny take it.
pub(crate) fn v1_rule(rule: &LinuxDeviceCgroup) -> Result<String, Error> {
    let rule = Rule::parse(rule)?;
    let number = |value: Option<i32>| value.map_or_else(|| "*".into(), |value| value.to_string());
    let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| rule.access & bit != 0)
        .map(|(_, c)| c)
        .collect();
    let kind = match rule.kind {
        Some(BLOCK) => 'b',
        Some(_) => 'c',
        // "a" stands for everything, whatever else the line says.
        None if rule.major.is_none() && rule.minor.is_none() => return Ok("a *:* rwm".into()),
        None => {
            return Err(Error::Invalid(
                "a device rule with numbers needs a type".into(),
            ));
        }
    };
    Ok(format!(
        "{kind} {}:{} {access}",
        number(rule.major),
        number(rule.minor)
    ))
}

/// Puts the rules in force on a v2 group; earlier programs of ours are taken
/// off after the new one is on, so there is no moment without.
pub fn attach(dir: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    let rules = rules
        .iter()
        .map(Rule::parse)
        .collect::<Result<Vec<_>, _>>()?;
    let program = assemble(&merged(&rules));
    let group = rustix::fs::open(
        dir,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| Error::io("open", dir, errno))?;
    let old = bpf::device_programs(group.as_fd())
        .map_err(|error| Error::io("list the device programs of", dir, error))?;
    let program = bpf::load_device_program(&program)
        .map_err(|error| Error::io("load the device program for", dir, error))?;
    bpf::attach_device_program(group.as_fd(), program.as_fd())
        .map_err(|error| Error::io("attach the device program to", dir, error))?;
    for program in old {
        bpf::detach_device_program(group.as_fd(), program.as_fd())
            .map_err(|error| Error::io("detach the old device program from", dir, error))?;
    }
    Ok(())
}

/// Grants of one device in several rules count together, as on v1: with "r" and
/// "w" a device may be opened for both. A denial between them keeps them apart.
fn merged(rules: &[Rule]) -> Vec<Rule> {
    let mut merged: Vec<Rule> = Vec::with_capacity(rules.len());
    for &rule in rules {
        let same = merged
            .iter_mut()
            .rev()
            .take_while(|earlier| rule.allow && earlier.allow)
            .find(|earlier| {
                (earlier.kind, earlier.major, earlier.minor) == (rule.kind, rule.major, rule.minor)
            });
        match same {
            Some(earlier) => earlier.access |= rule.access,
            None => merged.push(rule),
        }
    }
    merged
}

// Registers: r0 result, r1 context; r2 type, r3 access, r4 major, r5 minor,
// r6 scratch. Context: u32 access_type (type low 16, access high 16), major, minor.
fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        Instruction::load_word(2, 1, 0),
        Instruction::move_register(3, 2),
        Instruction::and(2, 0xffff),
        Instruction::shift_right(3, 16),
        Instruction::load_word(4, 1, 4),
        Instruction::load_word(5, 1, 8),
    ];
    for rule in rules.iter().rev() {
        // Conditions that do not hold skip to the end of this rule's block.
        let mut block: Vec<Instruction> = Vec::new();
        let mut jumps = Vec::new();
        for (register, value) in [(2, rule.kind), (4, rule.major), (5, rule.minor)] {
            if let Some(value) = value {
                jumps.push(block.len());
                block.push(Instruction::jump_not_equal(register, value, 0));
            }
        }
        if rule.access != READ | WRITE | MKNOD {
            block.push(Instruction::move_register(6, 3));
            if rule.allow {
                // All that is asked for must be allowed.
                block.push(Instruction::and(6, !rule.access));
                jumps.push(block.len());
                block.push(Instruction::jump_not_equal(6, 0, 0));
            } else {
                // One forbidden bit is enough.
                block.push(Instruction::and(6, rule.access));
                jumps.push(block.len());
                block.push(Instruction::jump_equal(6, 0, 0));
            }
        }
        block.push(Instruction::move_value(0, i32::from(rule.allow)));
        block.push(Instruction::exit());
        let end = block.len();
        for &at in &jumps {
            block[at] = block[at].with_offset((end - at - 1) as i16);
        }
        let decides_all = jumps.is_empty();
        code.extend(block);
        if decides_all {
            // What follows could not be reached, which the verifier refuses.
            return code;
        }
    }
    code.push(Instruction::move_value(0, 0));
    code.push(Instruction::exit());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        allow: bool,
        kind: Option<i32>,
        major: Option<i32>,
        minor: Option<i32>,
        access: i32,
    ) -> Rule {
        Rule {
            allow,
            kind,
            major,
            minor,
            access,
        }
    }

    /// What the rules say, plainly.
    fn decide(rules: &[Rule], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let matches = |rule: &&Rule| {
            rule.kind.is_none_or(|want| want == kind)
                && rule.major.is_none_or(|want| want == major)
                && rule.minor.is_none_or(|want| want == minor)
                && if rule.allow {
                    access & !rule.access == 0
                } else {
                    access & rule.access != 0
                }
        };
        rules
            .iter()
            .rev()
            .find(matches)
            .is_some_and(|rule| rule.allow)
    }

    #[test]
    fn program_agrees_with_the_rules() {
        let rules = [
            rule(false, None, None, None, 7),
            rule(true, Some(CHAR), Some(1), Some(3), 7),
            rule(true, Some(CHAR), Some(136), None, READ | WRITE),
            rule(true, Some(BLOCK), Some(8), Some(0), READ),
            rule(false, Some(CHAR), Some(136), Some(9), WRITE),
        ];
        let program = assemble(&rules);
        for kind in [BLOCK, CHAR] {
            for access in 1..8 {
                for major in [1, 8, 136, 7] {
                    for minor in [0, 3, 9] {
                        let context = [(access << 16 | kind) as u32, major as u32, minor as u32];
                        assert_eq!(
                            bpf::interpret(&program, &context) == 1,
                            decide(&rules, kind, access, major, minor),
                            "{kind} {access} {major}:{minor}"
                        );
                    }
                }
            }
        }
        // And the kernel's verifier takes it.
        bpf::load_device_program(&program).unwrap();
    }

    #[test]
    fn grants_of_one_device_count_together() {
        let zero = |allow, access| rule(allow, Some(CHAR), Some(1), Some(5), access);
        let null = rule(true, Some(CHAR), Some(1), Some(3), READ);
        let both = merged(&[zero(true, READ), null, zero(true, WRITE)]);
        assert_eq!(both, [zero(true, READ | WRITE), null]);
        let opened = [((READ | WRITE) << 16 | CHAR) as u32, 1, 5];
        assert_eq!(bpf::interpret(&assemble(&both), &opened), 1);
        let apart = [zero(true, READ), zero(false, READ), zero(true, WRITE)];
        assert_eq!(merged(&apart), apart);
        assert_eq!(bpf::interpret(&assemble(&merged(&apart)), &opened), 0);
    }

    #[test]
    fn lines_of_v1() {
        let parse = |text: &str| serde_json::from_str::<LinuxDeviceCgroup>(text).unwrap();
        assert_eq!(
            v1_rule(&parse(r#"{"allow":false,"access":"rwm"}"#)).unwrap(),
            "a *:* rwm"
        );
        assert_eq!(
            v1_rule(&parse(
                r#"{"allow":true,"type":"c","major":1,"access":"rm"}"#
            ))
            .unwrap(),
            "c 1:* rm"
        );
        assert!(v1_rule(&parse(r#"{"allow":true,"type":"c","access":"rx"}"#)).is_err());
        assert!(
            v1_rule(&parse(
                r#"{"allow":true,"type":"c","major":-7,"access":"r"}"#
            ))
            .is_err()
        );
    }
}
