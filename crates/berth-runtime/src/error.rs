//! Errors of the command line: one sentence each.

use std::fmt;

/// What was tried, on what, and why it failed.
#[derive(Debug)]
pub(crate) struct Error {
    text: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Failure,
    /// The command line is not understood.
    Usage,
    /// There is no such command.
    Unknown,
    /// Not a failure: `--help` was among the options.
    Help,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            text: message.into(),
            kind: Kind::Failure,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Usage,
            ..Self::new(message)
        }
    }

    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Unknown,
            ..Self::new(message)
        }
    }

    pub(crate) fn help() -> Self {
        Self {
            kind: Kind::Help,
            ..Self::new("help was asked for")
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The same, with `prefix` before its text.
    pub(crate) fn prefixed(self, prefix: &str) -> Self {
        Self {
            text: format!("{prefix}{}", self.text),
            ..self
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<berth_runtime_core::Error> for Error {
    /// With runc's words before it, which clients look for.
    fn from(error: berth_runtime_core::Error) -> Self {
        let text = error.to_string();
        Self::new(match error {
            berth_runtime_core::Error::Invalid(_) => text,
            _ => format!("unable to start container process: {text}"),
        })
    }
}

/// An answer of the kernel as the other parts of this program tell it: without
/// Rust's "(os error 2)", in lower case.
fn reason(text: &str) -> String {
    let Some((text, _)) = text.split_once(" (os error ") else {
        return text.to_owned();
    };
    match text.rsplit_once(": ") {
        Some((before, last)) => format!("{before}: {}", last.to_lowercase()),
        None => text.to_lowercase(),
    }
}

/// Says what was tried when it failed.
pub(crate) trait Context<T> {
    fn context(self, tried: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, tried: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(format!("{}: {}", tried(), reason(&error.to_string()))))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers_of_the_kernel_are_in_its_usual_words() {
        for (text, told) in [
            (
                "No such file or directory (os error 2)",
                "no such file or directory",
            ),
            (
                "open /X: Permission denied (os error 13)",
                "open /X: permission denied",
            ),
            ("Some other Words", "Some other Words"),
        ] {
            assert_eq!(super::reason(text), told);
        }
    }
}
