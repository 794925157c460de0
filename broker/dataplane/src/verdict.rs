//! A question to the control process and everybody who waits for its answer.
//!
//! Owns: asking once however many wait, bounded waiting, and what is remembered. Does not own: what
//! the question is about (callers, listeners).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::instance::InstanceKey;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nobody asked, or the answer was forgotten.
    Unknown,
    Asked,
    Admitted(InstanceKey),
    /// Remembered until forgotten.
    Refused(String),
    /// For those who wait now; the next one asks again.
    TryAgain(String),
}

/// The answer that was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Admitted(InstanceKey),
    Refused(String),
    TryAgain(String),
    /// The control process did not answer in time.
    Silent,
}

/// One question.
#[derive(Debug)]
pub struct Verdict(watch::Sender<State>);

impl Verdict {
    pub fn new() -> Self {
        Self(watch::Sender::new(State::Unknown))
    }

    pub fn admit(&self, instance: InstanceKey) {
        self.0.send_replace(State::Admitted(instance));
    }

    pub fn refuse(&self, code: &str, try_again: bool) {
        let code = code.to_owned();
        self.0.send_replace(if try_again { State::TryAgain(code) } else { State::Refused(code) });
    }

    pub fn forget(&self) {
        self.0.send_replace(State::Unknown);
    }

    /// The instance, if admitted now.
    pub fn admitted(&self) -> Option<InstanceKey> {
        match &*self.0.borrow() {
            State::Admitted(instance) => Some(instance.clone()),
            _ => None,
        }
    }

    /// Whether nothing would be lost by dropping this question.
    pub fn is_unanswered(&self) -> bool {
        !matches!(&*self.0.borrow(), State::Admitted(_) | State::Refused(_))
    }

    /// The answer; calls `ask` if nobody has asked yet.
    pub async fn wait(&self, timeout: Duration, ask: impl Fn()) -> Answer {
        let deadline = Instant::now() + timeout;
        let mut states = self.0.subscribe();
        let mut waited = false;
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Admitted(instance) => return Answer::Admitted(instance),
                State::Refused(code) => return Answer::Refused(code),
                State::TryAgain(code) if waited => return Answer::TryAgain(code),
                State::Unknown | State::TryAgain(_) => self.ask(&ask),
                State::Asked => {}
            }
            if timeout_at(deadline, states.changed()).await.is_err() {
                self.0.send_if_modified(|state| {
                    let silent = *state == State::Asked;
                    if silent {
                        *state = State::Unknown;
                    }
                    false
                });
                return Answer::Silent;
            }
            waited = true;
        }
    }

    fn ask(&self, ask: impl Fn()) {
        let asked_now = self.0.send_if_modified(|state| {
            let unasked = matches!(state, State::Unknown | State::TryAgain(_));
            if unasked {
                *state = State::Asked;
            }
            unasked
        });
        if asked_now {
            ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LONG: Duration = Duration::from_secs(10);

    fn instance() -> InstanceKey {
        InstanceKey::new("i", "a/c")
    }

    #[tokio::test]
    async fn many_waiters_ask_once_and_share_the_answer() {
        let verdict = Arc::new(Verdict::new());
        let asked = Arc::new(AtomicUsize::new(0));
        let waiters: Vec<_> = (0..5)
            .map(|_| {
                let (verdict, asked) = (Arc::clone(&verdict), Arc::clone(&asked));
                let ask = move || {
                    asked.fetch_add(1, Ordering::SeqCst);
                };
                tokio::spawn(async move { verdict.wait(LONG, ask).await })
            })
            .collect();
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        verdict.admit(instance());
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Answer::Admitted(instance()));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn try_again_answers_those_who_wait_and_the_next_asks_anew() {
        let verdict = Arc::new(Verdict::new());
        let answer = verdict.wait(LONG, || verdict.refuse("attestor_unavailable", true)).await;
        assert_eq!(answer, Answer::TryAgain("attestor_unavailable".into()));
        let answer = verdict.wait(LONG, || verdict.refuse("identity_none", false)).await;
        assert_eq!(answer, Answer::Refused("identity_none".into()));
        let answer = verdict.wait(LONG, || panic!("a refusal is remembered")).await;
        assert_eq!(answer, Answer::Refused("identity_none".into()));
        verdict.forget();
        assert_eq!(verdict.wait(LONG, || verdict.admit(instance())).await, Answer::Admitted(instance()));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_the_wait_and_the_next_asks_anew() {
        let verdict = Verdict::new();
        assert_eq!(verdict.wait(LONG, || {}).await, Answer::Silent);
        assert_eq!(verdict.wait(LONG, || verdict.admit(instance())).await, Answer::Admitted(instance()));
    }
}
