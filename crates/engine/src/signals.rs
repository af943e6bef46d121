//! Signals by name or number, as people write them.

use berth_api::Error;

const NAMES: &[(&str, i32)] = &[
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("IOT", libc::SIGIOT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("POLL", libc::SIGPOLL),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
];

const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// "KILL", "SIGKILL", "9", "RTMIN+3".
pub(crate) fn parse(text: &str) -> Result<i32, Error> {
    let invalid = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RT_MAX).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(RT_MIN),
        (_, Some("")) => Some(RT_MAX),
        (Some(offset), _) => offset
            .strip_prefix('+')
            .and_then(|n| n.parse::<i32>().ok())
            .and_then(|n| RT_MIN.checked_add(n)),
        (_, Some(offset)) => offset
            .strip_prefix('-')
            .and_then(|n| n.parse::<i32>().ok())
            .and_then(|n| RT_MAX.checked_sub(n)),
        _ => None,
    };
    number
        .filter(|number| (RT_MIN..=RT_MAX).contains(number))
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_nonsense() {
        for (text, number) in [
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("9", 9),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(parse(text).unwrap(), number);
        }
        for text in ["", "0", "-1", "65", "SIGFOO", "RTMIN+99", "RTMIN-1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
