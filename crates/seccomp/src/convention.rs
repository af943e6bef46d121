//! The calling conventions that a filter may see, and their call numbers.

use oci_spec::runtime::{Arch, LinuxSeccomp};

use crate::{Error, numbers};

pub(crate) const X32_BIT: u32 = 0x4000_0000;
/// Arm's private calls (__ARM_NR_BASE); their numbers say nothing of their age.
pub(crate) const ARM_PRIVATE: u32 = 0x000f_0000;

pub(crate) const AUDIT_X86_64: u32 = 0xc000_003e;
pub(crate) const AUDIT_X86: u32 = 0x4000_0003;
pub(crate) const AUDIT_AARCH64: u32 = 0xc000_00b7;
pub(crate) const AUDIT_ARM: u32 = 0x4000_0028;

/// A calling convention: its number in `seccomp_data`, names, and the bit that
/// all its numbers carry.
#[derive(Clone, Copy)]
pub(crate) struct Convention {
    pub(crate) audit: u32,
    pub(crate) names: &'static [(&'static str, u32)],
    pub(crate) bit: u32,
}

pub(crate) const X86_64: Convention = Convention {
    audit: AUDIT_X86_64,
    names: numbers::X86_64,
    bit: 0,
};
pub(crate) const X32: Convention = Convention {
    audit: AUDIT_X86_64,
    names: numbers::X32,
    bit: X32_BIT,
};
pub(crate) const X86: Convention = Convention {
    audit: AUDIT_X86,
    names: numbers::X86,
    bit: 0,
};
pub(crate) const AARCH64: Convention = Convention {
    audit: AUDIT_AARCH64,
    names: numbers::AARCH64,
    bit: 0,
};
pub(crate) const ARM: Convention = Convention {
    audit: AUDIT_ARM,
    names: numbers::ARM,
    bit: 0,
};

impl Convention {
    /// Without the bit.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        let at = self.names.binary_search_by_key(&name, |(name, _)| name);
        Some(self.names[at.ok()?].1)
    }

    /// On i386 socket and System V calls can also be made through `socketcall`
    /// and `ipc`: that call, and the first argument that stands for `name`
    /// (linux/net.h, linux/ipc.h).
    pub(crate) fn multiplexer(&self, name: &str) -> Option<(&'static str, u64)> {
        if self.audit != AUDIT_X86 {
            return None;
        }
        let found = MULTIPLEXED.iter().find(|(other, ..)| *other == name);
        found.map(|&(_, call, first)| (call, first))
    }
}

#[rustfmt::skip]
const MULTIPLEXED: &[(&str, &str, u64)] = &[
    ("socket", "socketcall", 1), ("bind", "socketcall", 2), ("connect", "socketcall", 3),
    ("listen", "socketcall", 4), ("accept", "socketcall", 5), ("getsockname", "socketcall", 6),
    ("getpeername", "socketcall", 7), ("socketpair", "socketcall", 8), ("send", "socketcall", 9),
    ("recv", "socketcall", 10), ("sendto", "socketcall", 11), ("recvfrom", "socketcall", 12),
    ("shutdown", "socketcall", 13), ("setsockopt", "socketcall", 14),
    ("getsockopt", "socketcall", 15), ("sendmsg", "socketcall", 16), ("recvmsg", "socketcall", 17),
    ("accept4", "socketcall", 18), ("recvmmsg", "socketcall", 19), ("sendmmsg", "socketcall", 20),
    ("semop", "ipc", 1), ("semget", "ipc", 2), ("semctl", "ipc", 3), ("semtimedop", "ipc", 4),
    ("msgsnd", "ipc", 11), ("msgrcv", "ipc", 12), ("msgget", "ipc", 13), ("msgctl", "ipc", 14),
    ("shmat", "ipc", 21), ("shmdt", "ipc", 22), ("shmget", "ipc", 23), ("shmctl", "ipc", 24),
];

pub(crate) fn native() -> Result<Convention, Error> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(X86_64),
        "aarch64" => Ok(AARCH64),
        other => Err(Error::Invalid(format!(
            "seccomp is not supported on {other}"
        ))),
    }
}

/// The native convention and those that the section lists beside it.
pub(crate) fn conventions(section: &LinuxSeccomp) -> Result<Vec<Convention>, Error> {
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

/// Grouped by their number in `seccomp_data`, in the order of their numbers.
pub(crate) fn by_audit(conventions: &[Convention]) -> Vec<(u32, Vec<Convention>)> {
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
