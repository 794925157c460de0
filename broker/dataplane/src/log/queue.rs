//! What waits for the writer: a bounded queue with one reader.
//!
//! Owns: order, the bound, and how long entries gather before the reader takes them. Does not own: what becomes of
//! them (`writer`).
//!
//! Gathering: a batch is taken once the calls' threads have nothing else to do, when [`ENOUGH`] entries wait, or after
//! [`LINGER`]. So a lone call waits for nobody, and a busy broker, whose threads never rest, still spreads each write
//! and each signature over many calls. An entry that no call waits for is taken along by the next batch, or after
//! [`UNAWAITED_LINGER`].
//!
//! Wakes: a sleeping reader is woken for the first entry and when its batch is complete, not for each entry.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::handle::Job;
use super::sealing::MAX_SEAL_STATEMENTS;

/// So many entries that calls wait for make a batch: as many as one seal takes. More would let the calls' threads run
/// out of work while the batch is written.
const ENOUGH: usize = MAX_SEAL_STATEMENTS;
/// Longest time in which entries gather that calls wait for.
const LINGER: Duration = Duration::from_millis(2);
/// Longest time in which entries gather that nobody waits for.
const UNAWAITED_LINGER: Duration = Duration::from_millis(2);

/// Why a job was not queued.
pub enum Refused {
    /// The job again, boxed because that is rare.
    Full(Box<Job>),
    Ended,
}

/// What the reader finds.
pub enum Next {
    Batch(Vec<Job>),
    /// Nothing came in the given time.
    Nothing,
    /// Nothing will come any more.
    Ended,
}

/// The way in; clones share it, and the queue ends with the last of them.
#[derive(Clone)]
pub struct Entrance(Arc<Last>);

/// The reader's end.
pub struct Exit(Arc<Shared>);

struct Last(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// How many of them a call waits for.
    awaited: usize,
    sleeper: Sleeper,
    /// Whether somebody says when the calls' threads rest, and that they do.
    rest: Rest,
    /// No more jobs are taken in.
    has_ended: bool,
}

/// What the reader sleeps for.
#[derive(Clone, Copy, Default)]
enum Sleeper {
    #[default]
    Awake,
    /// Any job.
    Anything,
    /// So many jobs that calls wait for.
    Awaited(usize),
}

/// What is known of the threads that calls run in.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Rest {
    /// Nobody tells: entries gather only while the reader is busy.
    #[default]
    Unknown,
    Busy,
    /// They will bring nothing more before something else happens.
    Resting,
}

/// A queue of at most `capacity` jobs.
pub fn queue(capacity: usize) -> (Entrance, Exit) {
    let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), capacity });
    (Entrance(Arc::new(Last(Arc::clone(&shared)))), Exit(shared))
}

impl Entrance {
    /// Queues a job.
    ///
    /// # Errors
    /// There is no room, or the queue has ended.
    pub fn offer(&self, job: Job) -> Result<(), Refused> {
        let shared = &self.0.0;
        let mut state = shared.lock();
        if state.has_ended {
            return Err(Refused::Ended);
        }
        if state.jobs.len() >= shared.capacity {
            return Err(Refused::Full(Box::new(job)));
        }
        state.awaited += usize::from(job.is_awaited());
        state.jobs.push_back(job);
        if state.rest == Rest::Resting {
            state.rest = Rest::Busy;
        }
        if state.is_woken() {
            state.sleeper = Sleeper::Awake;
            drop(state);
            shared.changed.notify_one();
        }
        Ok(())
    }

    /// The calls' threads say from now on when they rest.
    pub fn expect_rests(&self) {
        self.0.0.lock().rest = Rest::Busy;
    }

    /// All of the calls' threads have nothing to do.
    pub fn rest(&self) {
        let mut state = self.0.0.lock();
        state.rest = Rest::Resting;
        if state.awaited > 0 && matches!(state.sleeper, Sleeper::Awaited(_)) {
            state.sleeper = Sleeper::Awake;
            drop(state);
            self.0.0.changed.notify_one();
        }
    }

    /// Takes no more jobs; the reader ends once it has taken those that wait.
    pub fn end(&self) {
        self.0.0.end();
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Exit {
    /// The next jobs in order, at most `limit`; gives up after `patience`.
    pub fn next(&self, limit: usize, patience: Duration) -> Next {
        let mut state = self.0.lock();
        let until = Instant::now() + patience;
        while state.jobs.is_empty() {
            if state.has_ended {
                return Next::Ended;
            }
            if Instant::now() >= until {
                return Next::Nothing;
            }
            state = self.0.sleep(state, Sleeper::Anything, until);
        }
        state = self.gather(state, 1, UNAWAITED_LINGER);
        if state.awaited > 0 {
            state = self.gather(state, ENOUGH.min(limit), LINGER);
        }
        let end = state.jobs.len().min(limit);
        let batch: Vec<Job> = state.jobs.drain(..end).collect();
        state.awaited -= batch.iter().filter(|job| job.is_awaited()).count();
        Next::Batch(batch)
    }

    /// Waits until calls wait for so many jobs or none can be expected, at most for `linger`.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State>, count: usize, linger: Duration) -> MutexGuard<'a, State> {
        let until = Instant::now() + linger;
        while state.awaited < count && state.may_bring_more(self.0.capacity) && Instant::now() < until {
            state = self.0.sleep(state, Sleeper::Awaited(count), until);
        }
        state
    }
}

impl Drop for Exit {
    /// Whoever waits for what is left learns that nobody will write it.
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.has_ended = true;
        state.jobs.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        sleeper: Sleeper,
        until: Instant,
    ) -> MutexGuard<'a, State> {
        state.sleeper = sleeper;
        let left = until.saturating_duration_since(Instant::now());
        let (mut state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        state.sleeper = Sleeper::Awake;
        state
    }

    fn end(&self) {
        self.lock().has_ended = true;
        self.changed.notify_one();
    }
}

impl State {
    /// Whether waiting makes the batch larger.
    fn may_bring_more(&self, capacity: usize) -> bool {
        let is_full = self.has_ended || self.jobs.len() >= capacity;
        !is_full && (self.awaited == 0 || self.rest == Rest::Busy)
    }

    fn is_woken(&self) -> bool {
        match self.sleeper {
            Sleeper::Awake => false,
            Sleeper::Anything => true,
            Sleeper::Awaited(count) => self.awaited >= count,
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
