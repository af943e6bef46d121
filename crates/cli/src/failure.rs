//! Why a command did not succeed, and the exit status that says so.

/// What is printed on stderr before the program ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Whole text, without the final newline; empty = nothing more to say.
    pub(crate) message: String,
    pub(crate) status: i32,
    /// HTTP status of the engine's reply, if it was one.
    pub(crate) http: Option<u16>,
}

impl Failure {
    /// A failure with exit status 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::with_status(message, 1)
    }

    pub(crate) fn with_status(message: impl Into<String>, status: i32) -> Self {
        Self {
            message: message.into(),
            status,
            http: None,
        }
    }

    /// An error reply of the engine.
    pub(crate) fn from_engine(http: u16, message: &str) -> Self {
        Self {
            message: format!("Error response from daemon: {message}"),
            status: 1,
            http: Some(http),
        }
    }

    /// Ends with `status` and says nothing: all was said.
    pub(crate) fn silent(status: i32) -> Self {
        Self::with_status("", status)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.http == Some(404)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// `error` in Go's words: without Rust's "(os error 2)".
pub(crate) fn os_words(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => {
            let text = rustix::io::Errno::from_raw_os_error(code).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            let mut letters = text.chars();
            match letters.next() {
                Some(first) => first.to_lowercase().collect::<String>() + letters.as_str(),
                None => String::new(),
            }
        }
        None => error.to_string(),
    }
}

/// "open /x: no such file or directory"
pub(crate) fn path_error(verb: &str, path: &str, error: &std::io::Error) -> String {
    format!("{verb} {path}: {}", os_words(error))
}
