//! Whether the log can be written, and who is told when that changes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the writer tells of itself.
pub trait LogObserver: Send + Sync {
    fn failed(&self, detail: &str);
    fn recovered(&self);
    fn wrote(&self, entries: usize, seals: usize, bytes: usize, took: Duration);
    /// A full file could not be closed and goes on.
    fn roll_failed(&self, detail: &str);
}

/// Whether the last write held.
pub struct Health {
    good: Arc<AtomicBool>,
    observer: Arc<dyn LogObserver>,
}

impl Health {
    /// Health that `good` shows to others.
    pub fn new(good: Arc<AtomicBool>, observer: Arc<dyn LogObserver>) -> Self {
        Self { good, observer }
    }

    pub fn observer(&self) -> &dyn LogObserver {
        self.observer.as_ref()
    }

    pub fn is_good(&self) -> bool {
        self.good.load(Ordering::Relaxed)
    }

    /// Tells the observer if this is a change.
    pub fn set(&self, outcome: Result<(), &io::Error>) {
        let was_good = self.good.swap(outcome.is_ok(), Ordering::Relaxed);
        match outcome {
            Ok(()) if !was_good => self.observer.recovered(),
            Err(error) if was_good => self.observer.failed(&error.to_string()),
            _ => {}
        }
    }
}
