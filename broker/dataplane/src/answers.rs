//! The answers under way on one connection.
//!
//! Owns: telling whether there are any, and whether one stands still because its reader takes nothing of
//! it: such an answer would hold a call's place and memory for as long as its reader likes. Does not own:
//! closing the connection.
//!
//! Source: threats.md section 4 (slow readers; CVE-2019-9511 "data dribble", -9517 "internal data buffering").

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep};

use crate::reply::{AnswerBody, BodyFailed};

/// Longest sleep between looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The answers of one connection; clones share them.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    under_way: Vec<Slot>,
    count: usize,
    /// Nothing was under way when the connection was flushed last.
    is_flushed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    /// A request that is being worked on, or a body that has nothing to give now.
    Busy,
    /// The reader is to take what it was given at that time.
    Offered(Instant),
}

/// A request and its answer, from the head of the one to the end of the other.
pub struct Answering {
    answers: Answers,
    index: usize,
}

impl Answers {
    /// Of a connection that has said nothing yet.
    pub fn new() -> Self {
        let answers = Self::default();
        answers.lock().is_flushed = true;
        answers
    }

    /// A request has arrived.
    pub fn begin(&self) -> Answering {
        let mut inner = self.lock();
        inner.is_flushed = false;
        inner.count += 1;
        let index = inner.under_way.iter().position(|slot| *slot == Slot::Free).unwrap_or(inner.under_way.len());
        if index == inner.under_way.len() {
            inner.under_way.push(Slot::Busy);
        } else {
            inner.under_way[index] = Slot::Busy;
        }
        Answering { answers: self.clone(), index }
    }

    /// Everything that was to be written has been written.
    pub fn flushed(&self) {
        let mut inner = self.lock();
        inner.is_flushed = inner.count == 0;
    }

    /// Whether nothing is under way and nothing of an answer is left to be written.
    pub fn is_quiet(&self) -> bool {
        self.lock().is_flushed
    }

    /// Resolves once an answer's reader has taken nothing for `patience`.
    pub async fn stalled(&self, patience: Duration) {
        loop {
            let longest = self.longest_wait(Instant::now());
            if longest >= patience {
                return;
            }
            sleep((patience - longest).min(LOOK_AGAIN)).await;
        }
    }

    fn longest_wait(&self, now: Instant) -> Duration {
        let waits = |slot: &Slot| match slot {
            Slot::Offered(since) => now.saturating_duration_since(*since),
            Slot::Free | Slot::Busy => Duration::ZERO,
        };
        self.lock().under_way.iter().map(waits).max().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answering {
    /// The answer, watched; on what was upgraded, HTTP is over and a request under way for ever.
    pub fn watch(self, answer: Response<AnswerBody>) -> Response<WatchedBody> {
        let is_upgrade = answer.body().is_upgrade();
        answer.map(|body| {
            if is_upgrade {
                self.answers.lock().count += 1;
            }
            WatchedBody::new(body, self)
        })
    }

    fn set(&self, slot: Slot) {
        self.answers.lock().under_way[self.index] = slot;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut inner = self.answers.lock();
        inner.under_way[self.index] = Slot::Free;
        inner.count -= 1;
    }
}

/// The body of an answer that is watched.
pub struct WatchedBody {
    body: AnswerBody,
    answering: Answering,
}

impl WatchedBody {
    pub fn new(body: AnswerBody, answering: Answering) -> Self {
        answering.set(Slot::Offered(Instant::now()));
        Self { body, answering }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        this.answering.set(Slot::Busy);
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        this.answering.set(Slot::Offered(Instant::now()));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_connection_is_quiet_once_the_last_answer_was_written() {
        let answers = Answers::new();
        assert!(answers.is_quiet());
        let (one, two) = (answers.begin(), answers.begin());
        drop(one);
        answers.flushed();
        assert!(!answers.is_quiet());
        drop(two);
        assert!(!answers.is_quiet());
        answers.flushed();
        assert!(answers.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_answer_that_its_reader_does_not_take_stalls() {
        let answers = Answers::new();
        let (working, read) = (answers.begin(), answers.begin());
        assert!(tokio::time::timeout(PATIENCE * 10, answers.stalled(PATIENCE)).await.is_err());
        read.set(Slot::Offered(Instant::now()));
        let began = Instant::now();
        answers.stalled(PATIENCE).await;
        assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE * 2);
        drop(read);
        assert!(tokio::time::timeout(PATIENCE * 10, answers.stalled(PATIENCE)).await.is_err());
        drop(working);
    }

    #[test]
    fn places_of_ended_answers_are_used_again() {
        let answers = Answers::new();
        for _ in 0..1000 {
            let _one = answers.begin();
        }
        assert_eq!(answers.lock().under_way.len(), 1);
    }
}
