//! How calls learn what became of their entries: all of one write at once.
//!
//! Owns: that one write wakes the calls' threads once. Does not own: what the outcome is (`batch`).
//!
//! Waking a task of another thread costs a system call. So the writer hands all outcomes of a write to one task of the
//! calls' runtime, which wakes the others from within.

use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::handle::{LogError, SealOutcome};

/// What one call learns.
#[derive(Debug)]
pub enum Outcome {
    Sealed(SealOutcome, Result<(String, u64), LogError>),
    Appended(oneshot::Sender<Result<u64, LogError>>, Result<u64, LogError>),
}

impl Outcome {
    /// Wakes the call, if it still waits.
    fn tell(self) {
        match self {
            Self::Sealed(done, outcome) => drop(done.send(outcome)),
            Self::Appended(done, outcome) => drop(done.send(outcome)),
        }
    }
}

/// Where outcomes go; clones share it. Before it has a runtime, calls are told from where the outcome is known.
#[derive(Debug, Clone, Default)]
pub struct Outcomes(Arc<OnceLock<UnboundedSender<Vec<Outcome>>>>);

impl Outcomes {
    /// From now on calls are told by a task of `runtime`.
    pub fn deliver_in(&self, runtime: &Handle) {
        let (to_calls, mut written) = unbounded_channel::<Vec<Outcome>>();
        if self.0.set(to_calls).is_ok() {
            runtime.spawn(async move {
                while let Some(outcomes) = written.recv().await {
                    outcomes.into_iter().for_each(Outcome::tell);
                }
            });
        }
    }

    /// Tells each its outcome.
    pub fn tell(&self, outcomes: Vec<Outcome>) {
        let untold = match self.0.get() {
            // A runtime that has ended takes nothing more, and then hardly anybody waits.
            Some(to_calls) => to_calls.send(outcomes).err().map(|unsent| unsent.0),
            None => Some(outcomes),
        };
        untold.into_iter().flatten().for_each(Outcome::tell);
    }
}
