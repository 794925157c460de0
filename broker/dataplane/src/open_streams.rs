//! Answers that stream: cut when nothing passes either way, when they last too long, or when their reader does not even
//! notice that they were cut.
//!
//! Owns: looking at all of them from time to time. Does not own: what passes (see `passing`), ending one (its
//! `AnswerBody` does, or the task that writes it).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::lifetime::Shutdown;
use crate::reply::BodyFailed;

/// Longest pause between looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When something last passed of one exchange, in either direction.
pub struct Pulse {
    opened: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { opened: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Something passes.
    pub fn touch(&self) {
        let age = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(age, Ordering::Relaxed);
    }

    /// Since when nothing passed.
    pub fn silence(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    /// Resolves when nothing has passed for `patience`.
    pub async fn idle(&self, patience: Duration) {
        loop {
            let left = patience.saturating_sub(self.silence());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }

    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }
}

/// One streaming answer.
pub struct Stream {
    pulse: Arc<Pulse>,
    /// Cancelled when it is to break off; `why` says the code.
    pub cut: CancellationToken,
    why: OnceLock<&'static str>,
    /// Cancelled when policy no longer allows it: who writes it may not look.
    revoked: Option<CancellationToken>,
    /// Ends whoever writes it.
    writer: CancellationToken,
}

impl Stream {
    /// Why it was cut.
    pub fn failure(&self) -> BodyFailed {
        BodyFailed::new(self.why.get().copied().unwrap_or("stream_idle"), "the stream was cut")
    }

    fn is_ended(&self) -> bool {
        self.cut.is_cancelled() || self.revoked.as_ref().is_some_and(CancellationToken::is_cancelled)
    }
}

/// All of them.
pub struct OpenStreams {
    all: Mutex<Vec<Weak<Stream>>>,
    idle: Duration,
    lifetime: Duration,
}

impl OpenStreams {
    pub fn new(idle: Duration, lifetime: Duration) -> Self {
        Self { all: Mutex::default(), idle, lifetime }
    }

    /// Watches one more; `writer` ends the task or connection that writes it.
    pub fn enter(
        &self,
        pulse: Arc<Pulse>,
        revoked: Option<CancellationToken>,
        writer: CancellationToken,
    ) -> Arc<Stream> {
        let stream = Arc::new(Stream { pulse, cut: CancellationToken::new(), why: OnceLock::new(), revoked, writer });
        self.lock().push(Arc::downgrade(&stream));
        stream
    }

    /// Looks at all of them until the data plane stops.
    pub async fn watch(&self, shutdown: &Shutdown) {
        let pause = (self.idle.min(self.lifetime) / 4).clamp(Duration::from_millis(10), LOOK_AGAIN);
        loop {
            tokio::select! {
                () = sleep(pause) => self.look(),
                () = shutdown.stop.cancelled() => return,
            }
        }
    }

    fn look(&self) {
        self.lock().retain(|stream| {
            let Some(stream) = stream.upgrade() else { return false };
            if stream.is_ended() {
                // Since the last look nobody asked for its next bytes, or for its end.
                stream.writer.cancel();
            } else if let Some(code) = self.judge(&stream.pulse) {
                let _first = stream.why.set(code);
                stream.cut.cancel();
            }
            true
        });
    }

    fn judge(&self, pulse: &Pulse) -> Option<&'static str> {
        if pulse.age() >= self.lifetime {
            Some("stream_lifetime")
        } else {
            (pulse.silence() >= self.idle).then_some("stream_idle")
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Stream>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idleness_ends_at_once_where_nothing_passed_for_long_and_is_put_off_by_what_passes() {
        let (pulse, patience) = (Pulse::default(), Duration::from_secs(5));
        for waited in [Duration::from_secs(5), Duration::from_secs(9)] {
            pulse.touch();
            sleep(waited).await;
            let asked = Instant::now();
            pulse.idle(patience).await;
            assert_eq!(asked.elapsed(), Duration::ZERO, "{waited:?}");
        }
        pulse.touch();
        let began = Instant::now();
        let passing = async {
            sleep(Duration::from_secs(4)).await;
            pulse.touch();
        };
        tokio::join!(pulse.idle(patience), passing);
        assert_eq!(began.elapsed().as_secs(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_cut_and_then_its_writer() {
        let streams = Arc::new(OpenStreams::new(Duration::from_secs(8), Duration::from_secs(60)));
        let (pulse, writer) = (Arc::<Pulse>::default(), CancellationToken::new());
        let stream = streams.enter(Arc::clone(&pulse), None, writer.clone());
        let shutdown = Shutdown::default();
        let (watched, watching) = (Arc::clone(&streams), shutdown.clone());
        let task = tokio::spawn(async move { watched.watch(&watching).await });
        for _ in 0..4 {
            sleep(Duration::from_secs(5)).await;
            pulse.touch();
            assert!(!stream.cut.is_cancelled());
        }
        let silent = Instant::now();
        stream.cut.cancelled().await;
        assert!((8..=9).contains(&silent.elapsed().as_secs()));
        assert_eq!(stream.failure().code, "stream_idle");
        writer.cancelled().await;
        shutdown.stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_lasts_too_long_is_cut_whatever_passes() {
        let streams = OpenStreams::new(Duration::from_secs(8), Duration::from_secs(60));
        let pulse = Arc::<Pulse>::default();
        let stream = streams.enter(Arc::clone(&pulse), None, CancellationToken::new());
        sleep(Duration::from_secs(60)).await;
        pulse.touch();
        streams.look();
        assert_eq!((stream.cut.is_cancelled(), &*stream.failure().code), (true, "stream_lifetime"));
        drop(stream);
        streams.look();
        assert!(streams.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_stream_that_nobody_reads_loses_its_writer() {
        let streams = OpenStreams::new(Duration::from_secs(8), Duration::from_secs(60));
        let (revoked, writer) = (CancellationToken::new(), CancellationToken::new());
        let _stream = streams.enter(Arc::default(), Some(revoked.clone()), writer.clone());
        streams.look();
        assert!(!writer.is_cancelled());
        revoked.cancel();
        streams.look();
        assert!(writer.is_cancelled());
    }
}
