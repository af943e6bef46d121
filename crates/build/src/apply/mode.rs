//! `--chmod`: as chmod(1) has it.

use std::io;

use crate::draft::invalid;
use crate::graph::ModeChange;

impl ModeChange {
    /// The mode after the change.
    ///
    /// # Errors
    /// If a symbolic one cannot be read.
    pub(crate) fn apply(&self, mode: u32, is_directory: bool) -> io::Result<u32> {
        match self {
            ModeChange::Octal(mode) => Ok(mode & 0o7777),
            ModeChange::Symbolic(text) => symbolic(text, mode, is_directory)
                .ok_or_else(|| invalid(format!("invalid chmod parameter: '{text}'"))),
        }
    }
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+|[-+=][0-7]+`, separated by commas. No
/// umask: it is 0 in a build.
fn symbolic(text: &str, mut mode: u32, is_directory: bool) -> Option<u32> {
    for clause in text.split(',') {
        let at = clause.find(['+', '-', '='])?;
        let (who, mut actions) = clause.split_at(at);
        let mut classes = 0;
        for letter in who.chars() {
            classes |= match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        if classes == 0 {
            classes = 0o7777;
        }
        while !actions.is_empty() {
            let operator = actions.chars().next()?;
            let rest = &actions[1..];
            let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
            let (permissions, after) = rest.split_at(end);
            let bits = bits(permissions, mode, is_directory)? & classes;
            // What of a directory's set-ID bits is not named stays, as chmod(1).
            let cleared = match is_directory {
                true => classes & !0o6000,
                false => classes,
            };
            mode = match operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                '=' => mode & !cleared | bits,
                _ => return None,
            };
            actions = after;
        }
    }
    Some(mode)
}

fn bits(permissions: &str, mode: u32, is_directory: bool) -> Option<u32> {
    // Copied from a class.
    let copied = match permissions {
        "u" => Some(mode >> 6 & 7),
        "g" => Some(mode >> 3 & 7),
        "o" => Some(mode & 7),
        _ => None,
    };
    if let Some(bits) = copied {
        return Some(bits * 0o111);
    }
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 0o444,
            'w' => 0o222,
            'x' => 0o111,
            'X' if is_directory || mode & 0o111 != 0 => 0o111,
            'X' => 0,
            's' => 0o6000,
            't' => 0o1000,
            _ => return None,
        };
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_modes() {
        for (text, mode, directory, wanted) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("g+s,o+t", 0o755, true, 0o3755),
            ("=", 0o777, false, 0),
            ("go-rwx", 0o777, true, 0o700),
            ("u+x-w", 0o600, false, 0o500),
            ("a=rx", 0o2755, true, 0o2555),
        ] {
            assert_eq!(symbolic(text, mode, directory), Some(wanted), "{text}");
        }
        for bad in ["", "u", "z+x", "u+z", "u=rw,", "755"] {
            assert_eq!(symbolic(bad, 0o644, false), None, "{bad}");
        }
    }
}
