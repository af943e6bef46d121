//! Compiled seccomp filters, kept between commands: compiling Docker's profile
//! takes longer than loading the result.
//!
//! ```text
//! <root>/seccomp,filters/<hash>   no container can have that name
//!     length of the key (8 bytes), checksum of the program (8 bytes), key, program
//! ```
//!
//! The key is the section of the configuration as it is written, and what
//! compiled it; it is kept whole and compared, so a file is right or of no use,
//! whatever its name. Only who runs containers could write one: the directory and
//! the file must be ours alone. Nothing here is needed: what fails is as if there
//! were no cache.

use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use berth_seccomp::{Error, Program, compile};
use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat, renameat};

const DIRECTORY: &str = "seccomp,filters";

/// What made the programs: other sources may make others.
const COMPILER: &str = env!("BERTH_SECCOMP_SOURCES");

/// Hosts have a handful of profiles. When there are more, all begin anew.
const MAX_FILES: usize = 64;

/// Docker's profile has 10 kB, the longest program 32.
const MAX_SIZE: u64 = 256 * 1024;

/// The program for a section whose text is `text`.
///
/// # Errors
/// The section cannot be compiled.
pub(crate) fn program(root: &Path, text: &str, section: &LinuxSeccomp) -> Result<Program, Error> {
    let key = format!("{COMPILER} {} {text}", std::env::consts::ARCH);
    let name = format!("{:016x}", hash(key.as_bytes()));
    let directory = directory(root);
    if let Some(found) = (directory.as_ref()).and_then(|dir| read(dir.as_fd(), &name, &key)) {
        return Ok(found);
    }
    let program = compile(section)?;
    if (key.len() as u64) < MAX_SIZE / 2 {
        // It is compiled again the next time.
        let _ = write(root, &name, &key, &program);
    }
    Ok(program)
}

fn directory(root: &Path) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
    let directory = open(root.join(DIRECTORY), flags, Mode::empty()).ok()?;
    is_ours(directory.as_fd(), FileType::Directory)?;
    Some(directory)
}

/// The size of what nobody else may write; `None` of anything else.
fn is_ours(file: BorrowedFd<'_>, kind: FileType) -> Option<u64> {
    let stat = fstat(file).ok()?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_mode & 0o022 == 0
        && FileType::from_raw_mode(stat.st_mode) == kind;
    ours.then_some(stat.st_size as u64)
}

fn read(directory: BorrowedFd<'_>, name: &str, key: &str) -> Option<Program> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).ok()?;
    let size = is_ours(file.as_fd(), FileType::RegularFile)?;
    if size > MAX_SIZE {
        return None;
    }
    let mut bytes = vec![0; size as usize];
    File::from(file).read_exact(&mut bytes).ok()?;
    decode(&bytes, key)
}

fn decode(bytes: &[u8], key: &str) -> Option<Program> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u64::from_ne_bytes(*length)).ok()?;
    let (found, program) = rest.split_at_checked(length)?;
    (found == key.as_bytes() && u64::from_ne_bytes(*checksum) == hash(program))
        .then(|| Program::from_bytes(program).ok())
        .flatten()
}

fn encode(key: &str, program: &Program) -> Vec<u8> {
    let program = program.to_bytes();
    [
        &(key.len() as u64).to_ne_bytes()[..],
        &hash(&program).to_ne_bytes(),
        key.as_bytes(),
        &program,
    ]
    .concat()
}

fn write(root: &Path, name: &str, key: &str, program: &Program) -> std::io::Result<()> {
    let path = root.join(DIRECTORY);
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let Some(directory) = directory(root) else {
        return Ok(());
    };
    let others: Vec<_> = std::fs::read_dir(&path)?.flatten().collect();
    if others.len() >= MAX_FILES {
        for other in others {
            let _ = std::fs::remove_file(other.path());
        }
    }
    let temporary = format!("{name}.{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(&directory, temporary.as_str(), flags, Mode::from(0o600))?;
    File::from(file).write_all(&encode(key, program))?;
    Ok(renameat(&directory, temporary.as_str(), &directory, name)?)
}

/// FNV-1a on words of eight bytes. Against accidents, not attacks.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, word: u64| {
        let mixed = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        mixed ^ (mixed >> 32)
    };
    let words = bytes.chunks_exact(8);
    let rest = words.remainder().iter().map(|byte| u64::from(*byte));
    let words = words.filter_map(|word| Some(u64::from_ne_bytes(*word.first_chunk()?)));
    words.chain(rest).fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn section(errno: u32) -> (String, LinuxSeccomp) {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":{errno},
                "syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW"}}]}}"#
        );
        let section = serde_json::from_str(&text).unwrap();
        (text, section)
    }

    fn files(root: &Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(root.join(DIRECTORY)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_is_found_is_what_was_compiled() {
        let root = tempfile::tempdir().unwrap();
        let (text, section) = section(1);
        let compiled = compile(&section).unwrap();
        for _ in 0..2 {
            assert_eq!(program(root.path(), &text, &section).unwrap(), compiled);
        }
        let [file] = files(root.path()).try_into().unwrap();
        // It is that file which is read: with another program in it, that comes.
        let other = Program {
            filter: vec![7; 8],
            flags: 0,
        };
        let key = format!("{COMPILER} {} {text}", std::env::consts::ARCH);
        std::fs::write(&file, encode(&key, &other)).unwrap();
        assert_eq!(program(root.path(), &text, &section).unwrap(), other);

        // Anything wrong with it, and the section is compiled.
        let good = encode(&key, &compiled);
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let elsewhere = encode("another key", &other);
        for bad in [
            &[][..],
            &good[..20],
            &good[..good.len() - 8],
            &flipped,
            &elsewhere,
        ] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(program(root.path(), &text, &section).unwrap(), compiled);
        }
        // What others may write is not believed; nor in a directory of theirs.
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        std::fs::write(&file, encode(&key, &other)).unwrap();
        mode(&file, 0o622);
        assert_eq!(program(root.path(), &text, &section).unwrap(), compiled);
        std::fs::write(&file, encode(&key, &other)).unwrap();
        mode(&root.path().join(DIRECTORY), 0o777);
        assert_eq!(program(root.path(), &text, &section).unwrap(), compiled);
    }

    #[test]
    fn their_number_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        for errno in 0..200 {
            let (text, section) = section(errno);
            program(root.path(), &text, &section).unwrap();
            assert!(files(root.path()).len() <= MAX_FILES);
        }
    }
}
