//! The handle that calls append through.
//!
//! Owns: queueing, and what a call waits for: space in the queue, the write, witnesses. Does not own: the write itself
//! (`writer`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::entry::Entry;
use super::health::{Health, LogObserver};
use super::queue::{Entrance, Refused, queue};
use super::sealing::SealRequest;
use super::store::Store;
use super::witnessed::Witnessed;
use super::writer::{Beginning, RETRY_INTERVAL, Shared, Writer};
use crate::runtime::{AtRest, Running};

/// Why an entry does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// The file could not be written, or the queue is full; asking again may help.
    Unavailable(String),
    /// The key may no longer sign; the code says why.
    Unsealable(&'static str),
    /// It is in the log, and no quorum of witnesses has confirmed it in time.
    Unwitnessed,
}

/// How calls meet a log that cannot be written, or that nobody witnesses.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Entries that wait for the writer.
    pub queue: usize,
    /// How long calls wait for a log that cannot be written; zero fails them at once.
    pub full: Duration,
    /// How long calls wait for witnesses; None does not ask for any.
    pub witness: Option<Duration>,
}

/// Gets the sealed text, and how many entries the log has with it.
pub type SealOutcome = oneshot::Sender<Result<(String, u64), LogError>>;

pub enum Job {
    Seal(SealRequest, SealOutcome),
    Append {
        entry: Entry,
        certificates: Vec<(String, String)>,
        /// Gets how many entries the log has with this one.
        done: Option<oneshot::Sender<Result<u64, LogError>>>,
    },
}

impl Job {
    /// Whether a call waits for it.
    pub fn is_awaited(&self) -> bool {
        !matches!(self, Self::Append { done: None, .. })
    }
}

/// Handle of the log; clones share one writer.
#[derive(Clone)]
pub struct Log {
    jobs: Entrance,
    shared: Shared,
    healthy: Arc<AtomicBool>,
    witnessed: Option<Arc<Witnessed>>,
    full: Duration,
}

impl fmt::Debug for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Log").field("healthy", &self.healthy).finish_non_exhaustive()
    }
}

impl Log {
    /// Starts the writer; it ends when every handle is dropped.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        store: Box<dyn Store>,
        beginning: Beginning,
        patience: Patience,
        observer: Arc<dyn LogObserver>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = queue(patience.queue);
        let log = Self {
            jobs,
            shared: Shared { durable: Arc::new(AtomicU64::new(beginning.next_n)), ..Shared::default() },
            healthy: Arc::new(AtomicBool::new(true)),
            witnessed: patience.witness.map(|patience| Arc::new(Witnessed::new(patience))),
            full: patience.full,
        };
        let health = Health::new(Arc::clone(&log.healthy), observer);
        let writer = Writer::new(store, beginning, patience.full, health, log.shared.clone());
        let thread = std::thread::Builder::new().name("custody-log".into()).spawn(move || writer.run(&waiting))?;
        Ok((log, thread))
    }

    /// Calls run in the runtime that `start` gives, which runs the function that it is given whenever all of its threads
    /// have nothing to do: then no batch can be expected to become larger. One wake for each write tells all calls.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn serve<E>(&self, start: impl FnOnce(AtRest) -> Result<Running, E>) -> Result<Running, E> {
        let jobs = self.jobs.clone();
        let running = start(Box::new(move || jobs.rest()))?;
        self.jobs.expect_rests();
        self.shared.outcomes.deliver_in(&running.handle);
        Ok(running)
    }

    /// Seals and logs a statement that is about to be sent; gives the sealed text once it is durable, and witnessed
    /// if that is asked for.
    ///
    /// # Errors
    /// The statement must not be sent.
    pub async fn seal(&self, request: SealRequest) -> Result<String, LogError> {
        self.queue_seal(request).sealed().await
    }

    /// Queues a statement now and lets it be waited for later: for callers to whom the order in the log matters.
    pub fn queue_seal(&self, request: SealRequest) -> QueuedSeal {
        let (done, outcome) = oneshot::channel();
        let late = self.offer(Job::Seal(request, done));
        QueuedSeal { log: self.clone(), late, outcome }
    }

    /// Logs an entry and waits until it is durable; one that was accepted also until it is witnessed, if that is
    /// asked for.
    ///
    /// # Errors
    /// It is not in the log, or nobody else knows of it.
    pub async fn append(&self, entry: Entry, certificates: Vec<(String, String)>) -> Result<(), LogError> {
        self.queue_append(entry, certificates).logged().await
    }

    /// Queues an entry now and lets it be waited for later, as by [`Log::append`].
    pub fn queue_append(&self, entry: Entry, certificates: Vec<(String, String)>) -> QueuedAppend {
        let must_be_witnessed = entry.awaits_witnesses();
        let (done, outcome) = oneshot::channel();
        let late = self.offer(Job::Append { entry, certificates, done: Some(done) });
        QueuedAppend { log: self.clone(), late, outcome, must_be_witnessed }
    }

    /// Seals and logs a statement that nobody waits for and that is lost if this write fails.
    ///
    /// # Errors
    /// The queue is full.
    pub fn seal_nowait(&self, request: SealRequest) -> Result<(), LogError> {
        let (done, _nobody) = oneshot::channel();
        self.enqueue(Job::Seal(request, done))
    }

    /// Logs an entry that nobody waits for; the writer keeps it until it can be written.
    ///
    /// # Errors
    /// The queue is full.
    pub fn append_nowait(&self, entry: Entry, certificates: Vec<(String, String)>) -> Result<(), LogError> {
        self.enqueue(Job::Append { entry, certificates, done: None })
    }

    /// Tells the writer to end once everything queued so far is written.
    pub fn close(&self) {
        self.jobs.end();
    }

    /// Whether the last write held.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// How many entries are durable: all whose number is smaller.
    pub fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// The leaves of the durable entries `start` to `end`, which is not included, each given once; None if they are
    /// only in the files.
    pub fn take_leaves(&self, start: u64, end: u64) -> Option<Vec<String>> {
        self.shared.leaves.take(start, end)
    }

    /// Tells calls that wait for witnesses that the first `count` entries have them.
    pub fn set_witnessed(&self, count: u64) {
        if let Some(witnessed) = &self.witnessed {
            witnessed.advance(count);
        }
    }

    /// Waits until the first `count` entries are witnessed, if that is asked for.
    ///
    /// # Errors
    /// No quorum has confirmed them in time.
    pub async fn wait_witnessed(&self, count: u64) -> Result<(), LogError> {
        match &self.witnessed {
            Some(witnessed) if !Box::pin(witnessed.covers(count)).await => Err(LogError::Unwitnessed),
            _ => Ok(()),
        }
    }

    /// The job again if there was no space; one that an ended writer gets is dropped.
    fn offer(&self, job: Job) -> Option<Box<Job>> {
        match self.jobs.offer(job) {
            Err(Refused::Full(job)) => Some(job),
            Ok(()) | Err(Refused::Ended) => None,
        }
    }

    async fn enqueue_patiently(&self, job: Job) -> Result<(), LogError> {
        let deadline = Instant::now() + self.full;
        let mut offered = job;
        loop {
            match self.jobs.offer(offered) {
                Err(Refused::Full(job)) if Instant::now() < deadline => offered = *job,
                outcome => return outcome.map_err(|error| refused(&error)),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    fn enqueue(&self, job: Job) -> Result<(), LogError> {
        self.jobs.offer(job).map_err(|error| refused(&error))
    }
}

/// A statement on its way into the log.
pub struct QueuedSeal {
    log: Log,
    /// Not queued yet: there was no space.
    late: Option<Box<Job>>,
    outcome: oneshot::Receiver<Result<(String, u64), LogError>>,
}

impl QueuedSeal {
    /// The sealed text, as by [`Log::seal`].
    ///
    /// # Errors
    /// The statement must not be sent.
    pub async fn sealed(self) -> Result<String, LogError> {
        if let Some(job) = self.late {
            Box::pin(self.log.enqueue_patiently(*job)).await?;
        }
        let (sealed, count) = self.outcome.await.unwrap_or_else(|_| Err(ended()))?;
        self.log.wait_witnessed(count).await?;
        Ok(sealed)
    }
}

/// An entry on its way into the log.
pub struct QueuedAppend {
    log: Log,
    /// Not queued yet: there was no space.
    late: Option<Box<Job>>,
    outcome: oneshot::Receiver<Result<u64, LogError>>,
    must_be_witnessed: bool,
}

impl QueuedAppend {
    /// Resolves once the entry is durable, as by [`Log::append`].
    ///
    /// # Errors
    /// It is not in the log, or nobody else knows of it.
    pub async fn logged(self) -> Result<(), LogError> {
        if let Some(job) = self.late {
            Box::pin(self.log.enqueue_patiently(*job)).await?;
        }
        let count = self.outcome.await.unwrap_or_else(|_| Err(ended()))?;
        if self.must_be_witnessed { self.log.wait_witnessed(count).await } else { Ok(()) }
    }
}

fn refused(error: &Refused) -> LogError {
    match error {
        Refused::Full(_) => LogError::Unavailable("too many entries wait for the log".into()),
        Refused::Ended => ended(),
    }
}

fn ended() -> LogError {
    LogError::Unavailable("the log writer has ended".into())
}
