//! Classic BPF as seccomp uses it (linux/filter.h, linux/seccomp.h).

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u16,
    /// Instructions to skip when the comparison holds, and when it does not.
    pub(crate) yes: u8,
    pub(crate) no: u8,
    value: u32,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Half of a 64-bit argument.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Half {
    Low,
    High,
}

impl Instruction {
    const fn new(code: u16, yes: u8, no: u8, value: u32) -> Self {
        Self {
            code,
            yes,
            no,
            value,
        }
    }
    pub(crate) const fn load_number() -> Self {
        Self::new(LOAD, 0, 0, NUMBER)
    }
    pub(crate) const fn load_architecture() -> Self {
        Self::new(LOAD, 0, 0, ARCHITECTURE)
    }
    /// `index` is 0–5.
    pub(crate) const fn load_argument(index: u32, half: Half) -> Self {
        let second = match half {
            Half::Low => cfg!(target_endian = "big"),
            Half::High => cfg!(target_endian = "little"),
        };
        Self::new(
            LOAD,
            0,
            0,
            ARGUMENTS + index * 8 + if second { 4 } else { 0 },
        )
    }
    pub(crate) const fn and(mask: u32) -> Self {
        Self::new(AND, 0, 0, mask)
    }
    /// Skips any distance.
    pub(crate) const fn jump(distance: u32) -> Self {
        Self::new(JUMP, 0, 0, distance)
    }
    pub(crate) const fn equal(value: u32, yes: u8, no: u8) -> Self {
        Self::new(EQUAL, yes, no, value)
    }
    pub(crate) const fn greater(value: u32, yes: u8, no: u8) -> Self {
        Self::new(GREATER, yes, no, value)
    }
    pub(crate) const fn at_least(value: u32, yes: u8, no: u8) -> Self {
        Self::new(AT_LEAST, yes, no, value)
    }
    pub(crate) const fn ret(action: u32) -> Self {
        Self::new(RETURN, 0, 0, action)
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let [a, b] = self.code.to_ne_bytes();
        let [e, f, g, h] = self.value.to_ne_bytes();
        [a, b, self.yes, self.no, e, f, g, h]
    }
}

/// What a system call looks like to a filter.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub number: u32,
    pub architecture: u32,
    pub arguments: [u64; 6],
}

/// Runs a program as the kernel would; `None` when it leaves its bounds. Also
/// counts the instructions.
#[cfg(test)]
pub(crate) fn run(filter: &[u8], call: &Call) -> Option<(u32, usize)> {
    let word = |offset: u32| match offset {
        NUMBER => call.number,
        ARCHITECTURE => call.architecture,
        _ => {
            let argument = call.arguments[((offset - ARGUMENTS) / 8) as usize];
            let second = (offset - ARGUMENTS) % 8 == 4;
            if second == cfg!(target_endian = "little") {
                (argument >> 32) as u32
            } else {
                argument as u32
            }
        }
    };
    let (mut accumulator, mut at) = (0u32, 0usize);
    for count in 1.. {
        let bytes = filter.get(at * 8..at * 8 + 8)?;
        let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let value = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        at += 1;
        let branch = |holds: bool| usize::from(if holds { bytes[2] } else { bytes[3] });
        match code {
            LOAD => accumulator = word(value),
            AND => accumulator &= value,
            JUMP => at += value as usize,
            EQUAL => at += branch(accumulator == value),
            GREATER => at += branch(accumulator > value),
            AT_LEAST => at += branch(accumulator >= value),
            RETURN => return Some((value, count)),
            _ => return None,
        }
    }
    None
}
