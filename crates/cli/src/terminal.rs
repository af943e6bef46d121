//! The user's terminal: raw mode, and its size as the container's.

use std::convert::Infallible;
use std::future::Future;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{
    LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::context::Context;
use crate::failure::Failure;
use crate::transport::Request;

/// With `-t` and `-i`, stdin must be a terminal.
pub(crate) fn check_input(attach_stdin: bool, tty: bool) -> Result<(), Failure> {
    if attach_stdin && tty && !isatty(stdin()) {
        return Err(Failure::new("the input device is not a TTY"));
    }
    Ok(())
}

/// Rows and columns.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout())
        .or_else(|_| tcgetwinsize(stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The terminal in raw mode, or without echo, until dropped. Signals that would end the program
/// meanwhile end it only after the terminal is as it was.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Option<Termios>,
    watch: Option<tokio::task::JoinHandle<()>>,
}

impl Raw {
    /// Does nothing unless `wanted` and stdin is a terminal.
    pub(crate) fn enter(wanted: bool) -> Result<Self, Failure> {
        Self::change(wanted, Termios::make_raw)
    }

    /// The terminal as it is, but what is typed stays unseen.
    pub(crate) fn unseen() -> Result<Self, Failure> {
        Self::change(true, |mode| mode.local_modes.remove(LocalModes::ECHO))
    }

    fn change(wanted: bool, edit: impl FnOnce(&mut Termios)) -> Result<Self, Failure> {
        if !wanted || !isatty(stdin()) {
            return Ok(Self {
                before: None,
                watch: None,
            });
        }
        let failed = |error| Failure::new(format!("cannot set the terminal's mode: {error}"));
        let before = tcgetattr(stdin()).map_err(failed)?;
        // Caught from here on, before there is anything to restore: a task only
        // begins at the next await.
        let caught = ENDING
            .into_iter()
            .filter_map(|kind| Some((kind, signal(kind).ok()?)))
            .collect();
        let watch = tokio::spawn(restore_on_signal(before.clone(), caught));
        let mut raw = before.clone();
        edit(&mut raw);
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self {
            before: Some(before),
            watch: Some(watch),
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Signals that end the program.
const ENDING: [SignalKind; 4] = [
    SignalKind::terminate(),
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
];

async fn restore_on_signal(before: Termios, caught: Vec<(SignalKind, Signal)>) {
    let waits = caught.into_iter().map(|(kind, mut stream)| {
        Box::pin(async move {
            stream.recv().await;
            kind.as_raw_value()
        })
    });
    let (number, _, _) = futures_util::future::select_all(waits).await;
    let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    std::process::exit(128 + number);
}

/// Does `work`; with a terminal the engine is told its size meanwhile.
pub(crate) async fn alongside<T>(
    context: &Context,
    tty: bool,
    path: String,
    work: impl Future<Output = T>,
) -> T {
    if !tty {
        return work.await;
    }
    tokio::select! {
        result = work => result,
        never = follow_size(context, path) => match never {},
    }
}

/// Tells the engine the terminal's size now and whenever it changes.
async fn follow_size(context: &Context, path: String) -> Infallible {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return std::future::pending().await;
    };
    loop {
        if let Some((rows, columns)) = size() {
            let request = Request::post(path.clone())
                .query("h", rows.to_string())
                .query("w", columns.to_string());
            // The process may be gone by now, which is no concern of this.
            let _ = context.done(request).await;
        }
        if changes.recv().await.is_none() {
            return std::future::pending().await;
        }
    }
}
