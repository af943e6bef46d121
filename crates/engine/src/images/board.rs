//! Progress of many parallel transfers on its way to one client.
//!
//! Workers note what happens and never wait; whoever runs the operation sends
//! it on. A client that reads slowly gets fewer figures, not a slow transfer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_api::Error;
use berth_api::progress::{Detail, Progress};
use tokio::sync::mpsc;

use super::number;

/// Between two updates of one bar.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Waiting>);

/// Lines that were not sent yet.
#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Progress>,
    /// How many were taken before those.
    sent: usize,
    /// The last line of each bar, by its number in all.
    bars: HashMap<String, usize>,
}

impl Board {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn line(&self, line: Progress) {
        let mut waiting = self.waiting();
        waiting.bars.remove(&line.id);
        waiting.lines.push_back(line);
    }

    pub(crate) fn message(&self, text: impl Into<String>) {
        self.status("", text);
    }

    /// A state of a transfer that every client is to see.
    pub(crate) fn status(&self, id: &str, text: impl Into<String>) {
        self.line(Progress {
            status: text.into(),
            detail: (!id.is_empty()).then(Detail::default),
            id: id.to_owned(),
            ..Progress::default()
        });
    }

    /// How far a transfer is; replaces an earlier figure that still waits.
    pub(crate) fn bar(&self, id: &str, text: &str, current: u64, total: u64) {
        let detail = Some(Detail {
            current: number(current),
            total: number(total),
        });
        let mut waiting = self.waiting();
        let waiting = &mut *waiting;
        let last = waiting
            .bars
            .get(id)
            .and_then(|at| waiting.lines.get_mut(at.checked_sub(waiting.sent)?))
            .filter(|line| line.status == text);
        if let Some(line) = last {
            line.detail = detail;
            return;
        }
        let at = waiting.sent + waiting.lines.len();
        waiting.bars.insert(id.to_owned(), at);
        waiting.lines.push_back(Progress {
            status: text.to_owned(),
            detail,
            id: id.to_owned(),
            ..Progress::default()
        });
    }

    fn take(&self) -> VecDeque<Progress> {
        let mut waiting = self.waiting();
        waiting.sent += waiting.lines.len();
        waiting.bars.clear();
        std::mem::take(&mut waiting.lines)
    }

    /// Runs `work` and sends what it notes to `client`, all of it before this
    /// returns. A client that is gone is no failure: who waits for the work
    /// drops it then.
    pub(crate) async fn show<T>(
        &self,
        client: &mpsc::Sender<Progress>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = ticks.tick() => self.flush(client).await,
            }
        };
        self.flush(client).await;
        result
    }

    async fn flush(&self, client: &mpsc::Sender<Progress>) {
        for line in self.take() {
            if client.send(line).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn figures_are_merged_and_states_are_kept() {
        let board = Board::default();
        let (sender, mut receiver) = mpsc::channel(64);
        board
            .show(&sender, async {
                board.status("a", "Pulling fs layer");
                for done in 1..1000 {
                    board.bar("a", "Downloading", done, 1000);
                    board.bar("b", "Downloading", done, 2000);
                }
                board.status("a", "Download complete");
                board.bar("a", "Extracting", 1, 1000);
                board.message("Status: done");
                Ok(())
            })
            .await
            .unwrap();
        drop(sender);
        let mut seen = Vec::new();
        while let Some(line) = receiver.recv().await {
            let current = line.detail.map_or(0, |detail| detail.current);
            seen.push(format!("{}:{}:{current}", line.id, line.status));
        }
        assert_eq!(
            seen,
            [
                "a:Pulling fs layer:0",
                "a:Downloading:999",
                "b:Downloading:999",
                "a:Download complete:0",
                "a:Extracting:1",
                ":Status: done:0"
            ]
        );
    }
}
