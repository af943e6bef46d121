//! Waiting for an end.

use berth_api::Error;
use berth_api::container::{WaitCondition, WaitResponse};
use tokio::sync::oneshot;

use crate::engine::Engine;

impl Engine {
    /// The outer result is known at once (no such container); the reply is sent
    /// when the condition holds.
    pub async fn container_wait(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<WaitResponse>, Error> {
        let container = self.find(name)?;
        let (reply, receiver) = oneshot::channel();
        // Under the record's lock, so that no end slips through between.
        let record = container.record();
        let mut live = container.live();
        // One that was removed since it was found will not end any more.
        if live.removed || (condition == WaitCondition::NotRunning && !record.state.running) {
            let _ = reply.send(WaitResponse {
                error: None,
                status_code: record.state.exit_code,
            });
        } else {
            live.waiters.retain(|(_, waiter)| !waiter.is_closed());
            live.waiters.push((condition, reply));
        }
        Ok(receiver)
    }
}
