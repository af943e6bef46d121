//! Builds that can be cancelled by the ID their client gave them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builds(Arc<Mutex<HashMap<String, watch::Sender<bool>>>>);

/// A build at work; dropping it makes its ID free again.
#[derive(Debug)]
pub(crate) struct Running {
    builds: Builds,
    id: String,
    cancel: watch::Receiver<bool>,
}

impl Builds {
    /// An empty ID names no build. Of two builds of one ID the newer has it.
    pub(crate) fn enter(&self, id: &str) -> Running {
        let (sender, cancel) = watch::channel(false);
        if !id.is_empty() {
            self.lock().insert(id.to_owned(), sender);
        }
        Running {
            builds: self.clone(),
            id: id.to_owned(),
            cancel,
        }
    }

    /// An ID that is none is no error: the build may be done already.
    pub(crate) fn cancel(&self, id: &str) {
        if let Some(build) = self.lock().remove(id) {
            build.send_replace(true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Ends when the build is to be cancelled.
    pub(crate) async fn cancelled(&mut self) {
        if self.cancel.wait_for(|cancelled| *cancelled).await.is_err() {
            // Nobody can cancel it any more.
            std::future::pending().await
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut builds = self.builds.lock();
        let is_own = |sender: &watch::Sender<bool>| sender.subscribe().same_channel(&self.cancel);
        if builds.get(&self.id).is_some_and(is_own) {
            builds.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn builds_are_cancelled_by_their_id() {
        let builds = Builds::default();
        let mut first = builds.enter("a");
        let mut second = builds.enter("a");
        let unnamed = builds.enter("");
        builds.cancel("b");
        builds.cancel("");
        drop(unnamed);
        drop(builds.enter("c"));
        assert_eq!(builds.lock().len(), 1);
        builds.cancel("a");
        second.cancelled().await;
        let never = std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::pin!(first.cancelled()).poll(context))
        });
        assert!(never.await.is_pending());
    }

    #[test]
    fn an_older_build_of_the_same_id_leaves_the_newer_alone() {
        let builds = Builds::default();
        let first = builds.enter("a");
        let _second = builds.enter("a");
        drop(first);
        assert_eq!(builds.lock().len(), 1);
    }
}
