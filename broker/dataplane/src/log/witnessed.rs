//! How much of the log a quorum of witnesses has confirmed, and calls that wait for it.
//!
//! Owns: the count and the waiting. Does not own: asking witnesses, which the control process does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The count of witnessed entries; it never goes back.
#[derive(Debug)]
pub struct Witnessed {
    count: watch::Sender<u64>,
    patience: Duration,
}

impl Witnessed {
    /// None yet; a call waits at most `patience`.
    pub fn new(patience: Duration) -> Self {
        Self { count: watch::Sender::new(0), patience }
    }

    /// The first `count` entries are witnessed.
    pub fn advance(&self, count: u64) {
        self.count.send_if_modified(|known| {
            let is_news = count > *known;
            *known = count.max(*known);
            is_news
        });
    }

    /// Whether the first `count` entries are witnessed before patience ends.
    pub async fn covers(&self, count: u64) -> bool {
        let mut known = self.count.subscribe();
        timeout(self.patience, known.wait_for(|known| *known >= count)).await.is_ok_and(|covered| covered.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_entry_and_not_longer_than_patience() {
        let witnessed = Witnessed::new(Duration::from_secs(5));
        witnessed.advance(7);
        witnessed.advance(3);
        assert!(witnessed.covers(7).await);
        assert!(!witnessed.covers(8).await);
        let (covered, ()) = tokio::join!(witnessed.covers(8), async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            witnessed.advance(9);
        });
        assert!(covered);
    }
}
