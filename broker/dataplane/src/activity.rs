//! When a connection was last used, so that unused ones can be closed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// One connection's use.
#[derive(Clone)]
pub struct Activity(Arc<Inner>);

struct Inner {
    busy: AtomicUsize,
    last: Mutex<Instant>,
    limit: Duration,
}

/// A request in progress.
pub struct Busy(Arc<Inner>);

impl Activity {
    /// Unused from now on; idle after `limit`.
    pub fn new(limit: Duration) -> Self {
        Self(Arc::new(Inner { busy: AtomicUsize::new(0), last: Mutex::new(Instant::now()), limit }))
    }

    /// In use until the guard is dropped.
    pub fn busy(&self) -> Busy {
        self.0.busy.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(&self.0))
    }

    /// Resolves once nothing was in progress for the limit.
    pub async fn unused(&self) {
        self.unused_for(self.0.limit).await;
    }

    /// Resolves once nothing was in progress for `limit`.
    pub async fn unused_for(&self, limit: Duration) {
        let asked = Instant::now();
        loop {
            let last = *self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            let due = last.max(asked) + limit;
            let is_busy = self.0.busy.load(Ordering::SeqCst) > 0;
            if !is_busy && Instant::now() >= due {
                return;
            }
            sleep_until(due.max(Instant::now() + limit / 4)).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_its_last_request_ended_long_ago() {
        let activity = Activity::new(LIMIT);
        let busy = activity.busy();
        assert!(tokio::time::timeout(LIMIT * 10, activity.unused()).await.is_err());
        drop(busy);
        let ended = Instant::now();
        activity.unused().await;
        assert!(ended.elapsed() >= LIMIT && ended.elapsed() <= LIMIT * 2);
    }
}
