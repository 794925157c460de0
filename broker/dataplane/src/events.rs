//! News for the control process: a bounded queue behind an eventfd.
//!
//! Owns: order, bounds and the wake-up. Does not own: what the control process does about them.
//! Rust threads never need the interpreter: they leave an event and go on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::Value;

/// Events about processes and the log must not be lost: the control process would not act. Their
/// number is bounded by the registries that raise them, so the queue takes them beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    Required,
    Droppable,
}

/// Droppable events wait for company: so many wake the control process, fewer are taken when it looks.
const WAKE_AFTER: usize = 256;

/// The queue; cheap to share.
pub struct Events {
    queue: Mutex<VecDeque<String>>,
    ready: OwnedFd,
    limit: usize,
    dropped: AtomicU64,
}

impl Events {
    /// An empty queue that drops [`Weight::Droppable`] events beyond `limit`.
    ///
    /// # Errors
    /// When no eventfd can be opened.
    pub fn new(limit: usize) -> io::Result<Self> {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { queue: Mutex::default(), ready, limit, dropped: AtomicU64::new(0) })
    }

    /// Queues one event. `event` is an object with the member `event`.
    pub fn push(&self, weight: Weight, event: &Value) {
        let text = event.to_string();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if weight == Weight::Droppable && queue.len() >= self.limit {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push_back(text);
        if weight == Weight::Required || queue.len() == WAKE_AFTER.min(self.limit) {
            // A full counter (EAGAIN) is readable already, which is all a wake-up has to achieve.
            let _readable_already = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        }
    }

    /// Everything queued, oldest first; resets the eventfd.
    pub fn take(&self) -> Vec<String> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let _empty_already = rustix::io::read(&self.ready, &mut [0u8; 8]);
        queue.drain(..).collect()
    }

    /// The eventfd, readable once the queue holds a required event or many droppable ones; stays ours.
    pub fn fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }

    /// How many droppable events were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn droppable_events_beyond_the_limit_are_counted_and_required_ones_kept() {
        let events = Events::new(2).unwrap();
        for n in 0..4 {
            events.push(Weight::Droppable, &json!({"event": "call", "n": n}));
        }
        events.push(Weight::Required, &json!({"event": "caller_seen"}));
        assert_eq!(events.dropped(), 2);
        assert_eq!(events.take().len(), 3);
        assert!(events.take().is_empty());
    }

    #[test]
    fn a_required_event_or_many_droppable_ones_make_the_eventfd_readable() {
        let events = Events::new(WAKE_AFTER).unwrap();
        let readable = |events: &Events| rustix::io::read(&events.ready, &mut [0u8; 8]).is_ok();
        for n in 1..WAKE_AFTER {
            events.push(Weight::Droppable, &json!({"event": "call", "n": n}));
            assert!(!readable(&events));
        }
        events.push(Weight::Droppable, &json!({"event": "call"}));
        assert!(readable(&events));
        events.take();
        assert!(!readable(&events));
        events.push(Weight::Required, &json!({"event": "caller_seen"}));
        assert!(readable(&events));
    }
}
