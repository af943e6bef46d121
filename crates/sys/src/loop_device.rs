//! Loop devices: a file as a block device, for file systems that a kernel
//! cannot mount from a file (loop(4); `LOOP_CONFIGURE`, Linux 5.8).

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

const LOOP_CTL_GET_FREE: u32 = 0x4C82;
const LOOP_CONFIGURE: u32 = 0x4C0A;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// Another process may take the free device first.
const ATTEMPTS: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 304);

/// A device that lasts as long as it is open or mounted.
#[derive(Debug)]
pub struct LoopDevice {
    /// Its path in /dev.
    pub path: PathBuf,
    /// Keeps it until it is mounted.
    pub file: File,
}

/// Makes `file` a read-only block device. Its data is read past the file's page
/// cache where the file's own file system allows it. `block_size` in bytes: a
/// power of two from 512 up to the page size; what is left of the file behind
/// its last whole block cannot be read. `name` (cut to 63 bytes) is only shown.
pub fn attach(file: BorrowedFd<'_>, block_size: u32, name: &[u8]) -> io::Result<LoopDevice> {
    let control = File::options()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let mut config = Config {
        fd,
        block_size,
        info: Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    for (place, byte) in config.info.file_name[..63].iter_mut().zip(name) {
        *place = *byte;
    }
    for _ in 0..ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::open(&path)?;
        // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config`
        // is, of the size checked above.
        let result =
            unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
        if result == 0 {
            return Ok(LoopDevice { path, file: device });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
    }
    Err(io::Error::other(
        "all free loop devices were taken by others",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_is_read_as_a_device() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root for loop devices");
            return;
        }
        let path = std::env::temp_dir().join(format!("berth-loop-{}", std::process::id()));
        std::fs::write(&path, [7; 8192]).unwrap();
        let file = File::open(&path).unwrap();
        let mut device = attach(file.as_fd(), 4096, b"test").unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(file);
        let mut bytes = Vec::new();
        device.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 8192]);
        assert!(device.path.starts_with("/dev"));
    }
}
