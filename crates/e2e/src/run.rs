//! Commands and what came of them.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// A finished command.
#[derive(Debug)]
pub struct Run {
    pub command: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Runs to the end, with `input` on stdin.
    pub fn new(command: &mut Command, input: &[u8]) -> Self {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let input = input.to_vec();
        // A command that ends without reading its input is no failure.
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child
            .wait_with_output()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        writer.join().expect("the writer does not panic");
        Self::from_output(shown, &output)
    }

    fn from_output(command: String, output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            command,
            code: output
                .status
                .code()
                .unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless the exit code is 0; returns the trimmed output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout.trim_end().to_owned()
    }

    /// Fails the test unless the exit code is `code` and stderr has `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(
            self.stderr.contains(words),
            "stderr lacks {words:?}: {self:#?}"
        );
        self
    }
}
