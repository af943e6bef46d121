//! STOPSIGNAL.

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];
/// How far real-time signals go from either end.
const REAL_TIME: u32 = 15;

/// A number, or a name with or without SIG.
pub(super) fn check(text: &str) -> Result<(), String> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let is_real_time = || {
        let distance = name
            .strip_prefix("RTMIN+")
            .or_else(|| name.strip_prefix("RTMAX-"));
        let distance = distance.and_then(|text| text.parse::<u32>().ok());
        distance.is_some_and(|distance| (1..=REAL_TIME).contains(&distance))
    };
    let is_number = || text.parse::<i32>().is_ok_and(|number| number != 0);
    match NAMES.contains(&name) || is_number() || is_real_time() {
        true => Ok(()),
        false => Err(format!("invalid signal: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_and_numbers() {
        for text in ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-1", "RTMIN"] {
            check(text).unwrap();
        }
        for text in ["0", "SIGNONE", "", "RTMIN+16"] {
            assert_eq!(check(text).unwrap_err(), format!("invalid signal: {text}"));
        }
    }
}
