//! Admission of handshakes: each costs more than a call, and whoever can connect can ask for one.
//!
//! Owns: how many wait (a queue with an end), whose is next (turns, a part for each address), and how much
//! of the processor they get while calls are in progress. Does not own: the handshake (see `inbound`).
//!
//! A handshake is some bursts of computing with waits for the other side between them. While calls are in
//! progress, one burst runs at a time and is followed by a rest [`REST`] times as long, so that a flood
//! slows other handshakes down and calls but little.
//!
//! Source: threats.md section 4 (handshake flood on the broker).

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::places::{Place, Places, Turn, Turns};
use crate::stats::Stats;

/// Rest after a burst, in lengths of the burst.
const REST: u32 = 3;

/// All handshakes of the peer port.
pub struct Handshakes {
    queue: Places<IpAddr>,
    turns: Turns<IpAddr>,
    pace: Pace,
    stats: Arc<Stats>,
}

/// One handshake's turn.
pub struct Admitted {
    _turn: Turn,
}

impl Handshakes {
    /// At most `at_once` in progress and `waiting` in the queue.
    pub fn new(at_once: usize, waiting: usize, stats: Arc<Stats>) -> Self {
        Self { queue: Places::new(waiting, waiting), turns: Turns::new(at_once), pace: Pace::default(), stats }
    }

    /// Waits for a turn of `address`.
    ///
    /// # Errors
    /// `handshake_queue`: too many wait already, in all or of this address.
    pub async fn admit(&self, address: IpAddr) -> Result<Admitted, &'static str> {
        let place: Place<IpAddr> = self.queue.take(address).ok_or("handshake_queue")?;
        self.stats.handshakes_waiting.add(1);
        let waiting = Waiting { stats: &self.stats, _place: place };
        let turn = self.turns.take(address).await;
        drop(waiting);
        turn.map(|turn| Admitted { _turn: turn }).ok_or("stopped")
    }

    /// The outcome of `handshake`, which gives way to calls.
    pub async fn run<F: Future>(&self, _admitted: &Admitted, handshake: F) -> F::Output {
        self.pace.run(handshake, || self.stats.calls_in_progress.get() > 0).await
    }
}

/// Counts as waiting until dropped, however waiting ends.
struct Waiting<'a> {
    stats: &'a Stats,
    _place: Place<IpAddr>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.stats.handshakes_waiting.add(-1);
    }
}

/// Bursts of computing, one at a time with rests between them.
struct Pace {
    gate: Semaphore,
    rested: Mutex<Option<Instant>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { gate: Semaphore::new(1), rested: Mutex::default() }
    }
}

impl Pace {
    async fn run<F: Future>(&self, work: F, gives_way: impl Fn() -> bool) -> F::Output {
        let mut work = pin!(work);
        loop {
            let turn = if gives_way() { self.gate.acquire().await.ok() } else { None };
            if turn.is_some()
                && let Some(rested) = self.rested()
            {
                sleep_until(rested).await;
            }
            let began = Instant::now();
            let polled = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            if turn.is_some() {
                let rested = Instant::now() + began.elapsed() * REST;
                *self.rested.lock().unwrap_or_else(PoisonError::into_inner) = Some(rested);
            }
            drop(turn);
            match polled {
                Poll::Ready(output) => return output,
                Poll::Pending => woken().await,
            }
        }
    }

    fn rested(&self) -> Option<Instant> {
        *self.rested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when the task is woken next: by what its work waits for.
async fn woken() {
    let mut is_first = true;
    std::future::poll_fn(|_context| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[tokio::test]
    async fn the_queue_has_an_end_and_leaves_room_for_other_addresses() {
        let stats = Arc::<Stats>::default();
        let handshakes = Arc::new(Handshakes::new(4, 8, Arc::clone(&stats)));
        let _admitted = handshakes.admit(address(1)).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let handshakes = Arc::clone(&handshakes);
            waiting.push(tokio::spawn(async move { handshakes.admit(address(1)).await.err() }));
            tokio::task::yield_now().await;
        }
        assert_eq!(stats.handshakes_waiting.get(), 4);
        assert!(handshakes.admit(address(2)).await.is_ok());
        let refused = waiting.iter().filter(|each| each.is_finished()).count();
        assert_eq!(refused, 16);
        for each in waiting {
            each.abort();
            let _aborted = each.await;
        }
        assert_eq!(stats.handshakes_waiting.get(), 0);
    }

    /// Computes `bursts` times, with a wait for the other side after each.
    async fn handshake(bursts: u32, at_once: &AtomicUsize) -> u32 {
        for _ in 0..bursts {
            assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::sleep(Duration::from_millis(1));
            at_once.fetch_sub(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
        bursts
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn while_calls_are_in_progress_one_burst_runs_at_a_time() {
        let pace = Arc::new(Pace::default());
        let at_once = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (pace, at_once) = (Arc::clone(&pace), Arc::clone(&at_once));
                tokio::spawn(async move { pace.run(handshake(3, &at_once), || true).await })
            })
            .collect();
        let began = Instant::now();
        for task in tasks {
            assert_eq!(task.await.unwrap(), 3);
        }
        // 24 bursts of a millisecond, and as many rests but one.
        assert!(began.elapsed() >= Duration::from_millis(24 + 23 * u64::from(REST)));
    }

    #[tokio::test(start_paused = true)]
    async fn without_calls_nothing_rests() {
        let (pace, at_once) = (Pace::default(), AtomicUsize::new(0));
        assert_eq!(pace.run(handshake(3, &at_once), || false).await, 3);
        assert_eq!(pace.rested(), None);
    }
}
