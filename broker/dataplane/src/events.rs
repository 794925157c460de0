//! News for the control process: a bounded queue behind an eventfd.
//!
//! Owns: order, bounds and the wake-up. Does not own: what the control process does about them.
//! Rust threads never need the interpreter: they leave an event and go on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;
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
    queue: Mutex<Queue>,
    ready: OwnedFd,
    limit: usize,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    news: VecDeque<String>,
    /// Droppable ones about calls, apart because there are thousands a second.
    calls: VecDeque<String>,
}

impl Queue {
    fn len(&self) -> usize {
        self.news.len() + self.calls.len()
    }
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
        self.add(weight, event.to_string(), |queue| &mut queue.news);
    }

    /// Queues the end of a call, which is droppable. `event` is an object with the member `event`.
    pub fn push_call(&self, event: &impl Serialize) {
        // Text and numbers: there is nothing that cannot be written.
        if let Ok(text) = serde_json::to_string(event) {
            self.add(Weight::Droppable, text, |queue| &mut queue.calls);
        }
    }

    fn add(&self, weight: Weight, text: String, place: impl FnOnce(&mut Queue) -> &mut VecDeque<String>) {
        let mut queue = self.lock();
        if weight == Weight::Droppable && queue.len() >= self.limit {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        place(&mut queue).push_back(text);
        if weight == Weight::Required || queue.len() == WAKE_AFTER.min(self.limit) {
            // A full counter (EAGAIN) is readable already, which is all a wake-up has to achieve.
            let _readable_already = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        }
    }

    /// Everything queued, oldest first, calls last; resets the eventfd.
    pub fn take(&self) -> Vec<String> {
        let mut queue = self.lock();
        let _empty_already = rustix::io::read(&self.ready, &mut [0u8; 8]);
        let Queue { news, calls } = &mut *queue;
        news.drain(..).chain(calls.drain(..)).collect()
    }

    /// The calls queued, at most `most`: those in printable ASCII as lines that end with `end` in the place of the last
    /// brace, the others as they are.
    pub fn take_calls(&self, end: &str, most: usize) -> (String, Vec<String>) {
        let calls: Vec<String> = {
            let mut queue = self.lock();
            let count = queue.calls.len().min(most);
            queue.calls.drain(..count).collect()
        };
        let (mut lines, mut others) = (String::new(), Vec::new());
        for text in calls {
            match text.strip_suffix('}').filter(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
                Some(text) => {
                    lines.push_str(text);
                    lines.push_str(end);
                    lines.push('\n');
                }
                None => others.push(text),
            }
        }
        (lines, others)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn calls_are_lines_of_their_own_unless_a_reader_would_not_see_what_they_say() {
        let events = Events::new(9).unwrap();
        for operation in ["GET /a", "GET /\u{202e}", "DEL \u{7f}", "GET /b\n"] {
            events.push_call(&json!({"event": "call", "operation": operation}));
        }
        events.push(Weight::Required, &json!({"event": "caller_seen"}));
        assert_eq!(events.take_calls("!", 1), ("{\"event\":\"call\",\"operation\":\"GET /a\"!\n".into(), Vec::new()));
        let (lines, others) = events.take_calls(",\"level\":\"info\"}", 9);
        assert_eq!(lines, "{\"event\":\"call\",\"operation\":\"GET /b\\n\",\"level\":\"info\"}\n");
        assert_eq!(others.len(), 2);
        assert_eq!(events.take(), ["{\"event\":\"caller_seen\"}"]);
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
