//! The binary: picks the role from its name and first word.
//!
//! `berthd` and `dockerd` (by link), or `berth daemon`: the engine. Everything
//! else: the command line, which must start fast and so sets nothing up here.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

mod daemon;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let status = match daemon_words(&args) {
        Some((name, words)) => daemon::main(&name, words),
        None => {
            if args.windows(2).any(|two| two == ["registry", "serve"]) {
                daemon::start_log();
            }
            berth_cli::main(args)
        }
    };
    // A status is one byte to the kernel.
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// The daemon's name and its own words, if that is what was called.
fn daemon_words(args: &[OsString]) -> Option<(String, &[OsString])> {
    let (program, words) = args.split_first()?;
    let name = Path::new(program).file_name()?.to_string_lossy();
    match (&*name, words.split_first()) {
        ("berthd" | "dockerd", _) => Some((name.into_owned(), words)),
        (_, Some((first, rest))) if first == "daemon" => Some((format!("{name} daemon"), rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles() {
        let role = |line: &str| {
            let args: Vec<OsString> = line.split(' ').map(Into::into).collect();
            daemon_words(&args).map(|(name, words)| (name, words.len()))
        };
        assert_eq!(role("/usr/bin/dockerd -D"), Some(("dockerd".to_owned(), 1)));
        assert_eq!(
            role("berth daemon -D"),
            Some(("berth daemon".to_owned(), 1))
        );
        assert_eq!(role("berth run daemon"), None);
        assert_eq!(role("docker"), None);
    }
}
