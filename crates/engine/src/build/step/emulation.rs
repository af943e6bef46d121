//! Whether this machine runs programs of another architecture.

use std::path::Path;

use berth_build::solve::Error;
use berth_store::Platform;

/// Where the kernel lists who runs what.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// # Errors
/// `Invalid` if nothing here runs programs of that platform.
pub(super) fn check(platform: &Platform, args: &[String]) -> Result<(), Error> {
    let architecture = platform.architecture.as_str();
    if architecture.is_empty() || is_native(architecture) {
        return Ok(());
    }
    let known =
        machine(architecture).is_some_and(|machine| has_emulator(Path::new(BINFMT), machine));
    if known {
        return Ok(());
    }
    let program = args.first().map_or("", String::as_str);
    Err(Error::Invalid(format!(
        "exec {program}: exec format error: this machine does not run programs for {}/{architecture}; register an emulator (qemu-user-static, binfmt-support) or build for the machine's own platform",
        platform.os
    )))
}

fn is_native(architecture: &str) -> bool {
    match Platform::host().architecture.as_str() {
        "amd64" => matches!(architecture, "amd64" | "386"),
        // Most run 32-bit programs, and those that do not say so themselves.
        "arm64" => matches!(architecture, "arm64" | "arm"),
        host => host == architecture,
    }
}

/// `e_machine` of an ELF file, and whether it is big-endian.
fn machine(architecture: &str) -> Option<(u16, bool)> {
    Some(match architecture {
        "386" => (3, false),
        "amd64" => (62, false),
        "arm" => (40, false),
        "arm64" => (183, false),
        "loong64" => (258, false),
        "mips" | "mips64" => (8, true),
        "mipsle" | "mips64le" => (8, false),
        "ppc64le" => (21, false),
        "riscv64" => (243, false),
        "s390x" => (22, true),
        _ => return None,
    })
}

fn has_emulator(dir: &Path, (machine, big): (u16, bool)) -> bool {
    let bytes = if big {
        machine.to_be_bytes()
    } else {
        machine.to_le_bytes()
    };
    let wanted = crate::files::hex(&bytes);
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|text| {
            let mut lines = text.lines();
            let enabled = lines.next() == Some("enabled");
            // Magic of an ELF file, in hexadecimal: bytes 18 and 19.
            let magic = lines.find_map(|line| line.strip_prefix("magic "));
            enabled
                && magic.is_some_and(|magic| {
                    magic.starts_with("7f454c46") && magic.get(36..40) == Some(wanted.as_str())
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulators_are_found_by_what_they_run() {
        let dir = tempfile::tempdir().unwrap();
        let entry = "enabled\ninterpreter /usr/bin/qemu\nflags: OCF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffff\n";
        std::fs::write(dir.path().join("any"), entry).unwrap();
        std::fs::write(dir.path().join("status"), "enabled\n").unwrap();
        assert!(has_emulator(dir.path(), machine("arm64").unwrap()));
        assert!(!has_emulator(dir.path(), machine("riscv64").unwrap()));
        let off = entry.replace("enabled", "disabled");
        std::fs::write(dir.path().join("any"), off).unwrap();
        assert!(!has_emulator(dir.path(), machine("arm64").unwrap()));
    }
}
