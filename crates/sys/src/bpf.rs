//! bpf(2): device programs of cgroup v2.

use std::ffi::c_long;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    value: i32,
}

/// The few instructions that device programs need (linux/bpf.h).
impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> Self {
        Self {
            code,
            registers: destination | source << 4,
            offset,
            value,
        }
    }
    /// dst = *(u32 *)(src + offset)
    pub const fn load_word(destination: u8, source: u8, offset: i16) -> Self {
        Self::new(0x61, destination, source, offset, 0)
    }
    /// dst = src, 32 bits
    pub const fn move_register(destination: u8, source: u8) -> Self {
        Self::new(0xbc, destination, source, 0, 0)
    }
    /// dst = value, 32 bits
    pub const fn move_value(destination: u8, value: i32) -> Self {
        Self::new(0xb4, destination, 0, 0, value)
    }
    /// dst &= value, 32 bits
    pub const fn and(destination: u8, value: i32) -> Self {
        Self::new(0x54, destination, 0, 0, value)
    }
    /// dst >>= value, 32 bits
    pub const fn shift_right(destination: u8, value: i32) -> Self {
        Self::new(0x74, destination, 0, 0, value)
    }
    /// if dst != value, skip `offset` instructions
    pub const fn jump_not_equal(destination: u8, value: i32, offset: i16) -> Self {
        Self::new(0x55, destination, 0, offset, value)
    }
    /// if dst == value, skip `offset` instructions
    pub const fn jump_equal(destination: u8, value: i32, offset: i16) -> Self {
        Self::new(0x15, destination, 0, offset, value)
    }
    /// return r0
    pub const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }
    /// The same jump with another distance.
    pub const fn with_offset(self, offset: i16) -> Self {
        Self { offset, ..self }
    }
}

const PROG_LOAD: c_long = 5;
const PROG_ATTACH: c_long = 8;
const PROG_DETACH: c_long = 9;
const PROG_GET_FD_BY_ID: c_long = 13;
const PROG_QUERY: c_long = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

fn bpf<T>(command: c_long, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: `attr` is a live `repr(C)` prefix of `union bpf_attr` of the size
    // given; pointers inside it are to data that outlives this call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor (close-on-exec, as all of
    // bpf's are) for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttr::default()
    };
    bpf(PROG_LOAD, &mut attr).map(owned)
}

/// Attaches it to a v2 group, beside programs of others.
pub fn attach_device_program(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Takes one off.
pub fn detach_device_program(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
    };
    bpf(PROG_DETACH, &mut attr).map(drop)
}

/// The device programs attached to this very group (at most 64).
pub fn device_programs(group: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 64];
    let mut attr = QueryAttr {
        target_fd: group.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    ids.iter()
        .take(attr.prog_cnt as usize)
        .map(|&id| {
            bpf(
                PROG_GET_FD_BY_ID,
                &mut IdAttr {
                    id,
                    ..IdAttr::default()
                },
            )
            .map(owned)
        })
        .collect()
}

/// Runs a program of the instructions above on a context of words, for tests.
/// Returns r0; a program that leaves its bounds gives `u32::MAX`.
pub fn interpret(program: &[Instruction], context: &[u32]) -> u32 {
    let mut registers = [0u32; 16];
    let mut at = 0usize;
    for _ in 0..10_000 {
        let Some(instruction) = program.get(at) else {
            return u32::MAX;
        };
        at += 1;
        let destination = (instruction.registers & 15) as usize;
        let source = (instruction.registers >> 4) as usize;
        let value = instruction.value as u32;
        let jump = |at: usize| at.wrapping_add_signed(instruction.offset as isize);
        match instruction.code {
            0x61 => {
                registers[destination] = context
                    .get(instruction.offset as usize / 4)
                    .copied()
                    .unwrap_or(u32::MAX)
            }
            0xbc => registers[destination] = registers[source],
            0xb4 => registers[destination] = value,
            0x54 => registers[destination] &= value,
            0x74 => registers[destination] >>= value,
            0x55 if registers[destination] != value => at = jump(at),
            0x15 if registers[destination] == value => at = jump(at),
            0x55 | 0x15 => {}
            0x95 => return registers[0],
            _ => return u32::MAX,
        }
    }
    u32::MAX
}
