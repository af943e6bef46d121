//! Errors of the runtime, and how a failed system call becomes one.

use std::io;

/// What went wrong, and whose fault it is; the words are runc's where Docker's
/// clients match on them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program does not exist (exit code 127): `exec: "x": executable file
    /// not found in $PATH`, `stat /x: no such file or directory`.
    #[error("{0}")]
    NotFound(String),
    /// The program may not be executed (exit code 126).
    #[error("{0}")]
    NotExecutable(String),
    /// The configuration is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A step failed; says which and why.
    #[error("{step}: {}", reason(source))]
    Step { step: String, source: io::Error },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    pub(crate) fn step(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Step {
            step: step.into(),
            source: source.into(),
        }
    }
}

/// Adds what was tried to the kernel's answer.
pub(crate) trait Context<T> {
    fn step<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn step<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::step(step(), source))
    }
}

/// The kernel's text without Rust's "(os error 2)", in lower case as Go writes
/// it: Docker's clients look for "no such file or directory".
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    // Only a first word that is not an abbreviation ("RPC failed") is lowered.
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_as_one_sentence_in_gos_words() {
        let error = Error::step("open /x", io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.to_string(), "open /x: no such file or directory");
        let error = Error::step("mount", rustix::io::Errno::PERM);
        assert_eq!(error.to_string(), "mount: operation not permitted");
    }
}
