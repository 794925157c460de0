//! The log's one writer thread and the handle that calls append through.
//!
//! Owns: batching, sealing at the start of each write, failure and recovery. Does not own: keys
//! (a [`Sealer`] seals) or the file (a [`Store`] keeps).
//!
//! Pacing: while one write is under way the next batch gathers, so a lone call costs one plain
//! signature and a busy broker spreads one over many calls.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use hopseal_custody::compose::Payload;
use tokio::sync::oneshot;

use super::batch::Batch;
use super::entry::{About, Claims, Direction, Entry, Kind};
use super::store::Store;
use crate::clock;

/// Most statements under one seal (custody-wire §12, sealers).
pub const MAX_SEAL_STATEMENTS: usize = 32;
/// Most entries in one write: bounds the memory and the time of a write.
const MAX_BATCH: usize = 256;
/// Entries without a waiting call that outlive a failed write; the newest count.
const MAX_UNWRITTEN: usize = 1024;
/// A log that failed is probed this often while nothing is written.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Why an entry is not in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// The file could not be written, or the queue is full; asking again may help.
    Unavailable(String),
    /// The key may no longer sign; the code says why.
    Unsealable(&'static str),
}

/// A leaf key as the writer sees it.
pub trait Sealer: Send + Sync {
    /// Thumbprint of the leaf: statements of one leaf share a seal.
    fn x5t(&self) -> &str;

    /// Seals `payloads` under one seal, or says why the key may not sign now (`now_s` is NumericDate).
    ///
    /// # Errors
    /// The code: `svid_expired`, or that of a withdrawal.
    fn seal(&self, payloads: &[Payload], now_s: i64) -> Result<Vec<String>, &'static str>;

    /// `(x5t, base64 DER)` of the leaf and its intermediates.
    fn certificates(&self) -> &[(String, String)];
}

/// A statement to seal, log and hand back. Records, receipts and closing statements of one leaf share seals.
pub struct SealRequest {
    pub leaf: Arc<dyn Sealer>,
    pub payload: Payload,
    /// Seals never mix receivers of different trust domains (custody-wire §4.2).
    pub receiver_trust_domain: String,
    pub claims: Sealed,
}

/// What the line of a statement repeats beside the sealed text.
pub enum Sealed {
    Record(Claims),
    Other(Kind, About),
}

enum Job {
    Seal(SealRequest, oneshot::Sender<Result<String, LogError>>),
    Append {
        entry: Entry,
        certificates: Vec<(String, String)>,
        done: Option<oneshot::Sender<Result<(), LogError>>>,
    },
    /// Write what came before this, then end.
    End,
}

/// What the writer tells of itself.
pub trait LogObserver: Send + Sync {
    fn failed(&self, detail: &str);
    fn recovered(&self);
    fn wrote(&self, entries: usize, seals: usize, bytes: usize, took: Duration);
}

/// Handle of the log; clones share one writer.
#[derive(Clone)]
pub struct Log {
    jobs: SyncSender<Job>,
    healthy: Arc<AtomicBool>,
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
        next_n: u64,
        certificates: HashSet<String>,
        queue: usize,
        observer: Arc<dyn LogObserver>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = sync_channel(queue);
        let healthy = Arc::new(AtomicBool::new(true));
        let writer =
            Writer { store, next_n, certificates, observer, healthy: Arc::clone(&healthy), unwritten: Vec::new() };
        let thread = std::thread::Builder::new().name("custody-log".into()).spawn(move || writer.run(&waiting))?;
        Ok((Self { jobs, healthy }, thread))
    }

    /// Seals and logs a statement that is about to be sent; gives the sealed text once it is durable.
    ///
    /// # Errors
    /// The statement must not be sent.
    pub async fn seal(&self, request: SealRequest) -> Result<String, LogError> {
        let (done, outcome) = oneshot::channel();
        self.enqueue(Job::Seal(request, done))?;
        outcome.await.unwrap_or_else(|_| Err(LogError::Unavailable("the log writer has ended".into())))
    }

    /// Logs an entry and waits until it is durable.
    ///
    /// # Errors
    /// The entry is not in the log.
    pub async fn append(&self, entry: Entry, certificates: Vec<(String, String)>) -> Result<(), LogError> {
        let (done, outcome) = oneshot::channel();
        self.enqueue(Job::Append { entry, certificates, done: Some(done) })?;
        outcome.await.unwrap_or_else(|_| Err(LogError::Unavailable("the log writer has ended".into())))
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
        // Blocks at most for one write while the queue is full; an ended writer needs no telling.
        let _ended_already = self.jobs.send(Job::End);
    }

    /// Whether the last write held.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    fn enqueue(&self, job: Job) -> Result<(), LogError> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => LogError::Unavailable("too many entries wait for the log".into()),
            TrySendError::Disconnected(_) => LogError::Unavailable("the log writer has ended".into()),
        })
    }
}

type Unawaited = (Entry, Vec<(String, String)>);

struct Writer {
    store: Box<dyn Store>,
    next_n: u64,
    certificates: HashSet<String>,
    observer: Arc<dyn LogObserver>,
    healthy: Arc<AtomicBool>,
    /// Entries without a waiting call (bundles, starts, receipts of peers) and their certificates, kept until a
    /// write holds.
    unwritten: Vec<Unawaited>,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Job>) {
        loop {
            match waiting.recv_timeout(PROBE_INTERVAL) {
                Ok(first) => {
                    let mut jobs = vec![first];
                    jobs.extend(waiting.try_iter().take(MAX_BATCH - 1));
                    let before_end = jobs.iter().position(|job| matches!(job, Job::End));
                    jobs.truncate(before_end.unwrap_or(jobs.len()));
                    self.write(jobs);
                    if before_end.is_some() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) if !self.unwritten.is_empty() => self.write(Vec::new()),
                Err(RecvTimeoutError::Timeout) => self.probe(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let started = std::time::Instant::now();
        let first_n = self.next_n;
        let mut batch = Batch::default();
        let mut kept = std::mem::take(&mut self.unwritten);
        for (entry, certificates) in &kept {
            self.add_certificates(certificates, &mut batch);
            batch.add(entry, &mut self.next_n);
        }
        let mut seals: Vec<(SealRequest, oneshot::Sender<Result<String, LogError>>)> = Vec::new();
        for job in jobs {
            match job {
                Job::Seal(request, done) => seals.push((request, done)),
                Job::Append { entry, certificates, done } => {
                    self.add_certificates(&certificates, &mut batch);
                    batch.add(&entry, &mut self.next_n);
                    match done {
                        Some(done) => batch.appended.push(done),
                        None => kept.push((entry, certificates)),
                    }
                }
                Job::End => {}
            }
        }
        self.seal(seals, &mut batch);
        if batch.lines.is_empty() {
            return;
        }
        match self.store.append(&batch.lines) {
            Ok(()) => {
                self.observer.wrote(batch.entries, batch.seals, batch.lines.len(), started.elapsed());
                self.set_healthy(Ok(()));
                self.certificates.extend(std::mem::take(&mut batch.new_certificates));
                batch.succeed();
            }
            Err(error) => {
                self.next_n = first_n;
                kept.drain(..kept.len().saturating_sub(MAX_UNWRITTEN));
                self.unwritten = kept;
                self.set_healthy(Err(&error));
                batch.fail(&LogError::Unavailable(error.to_string()));
            }
        }
    }

    fn probe(&mut self) {
        if !self.healthy.load(Ordering::Relaxed) && self.store.probe().is_ok() {
            self.set_healthy(Ok(()));
        }
    }

    fn set_healthy(&self, outcome: Result<(), &std::io::Error>) {
        let was_healthy = self.healthy.swap(outcome.is_ok(), Ordering::Relaxed);
        match outcome {
            Ok(()) if !was_healthy => self.observer.recovered(),
            Err(error) if was_healthy => self.observer.failed(&error.to_string()),
            _ => {}
        }
    }

    /// Certificates go into the same write, before the first statement that they verify.
    fn add_certificates(&mut self, certificates: &[(String, String)], batch: &mut Batch) {
        for (x5t, der) in certificates {
            if !self.certificates.contains(x5t) && !batch.new_certificates.contains(x5t) {
                batch.new_certificates.push(x5t.clone());
                batch.add(&Entry::Certificate { x5t: x5t.clone(), der: der.clone() }, &mut self.next_n);
            }
        }
    }

    /// One seal per leaf and receiving trust domain, over at most [`MAX_SEAL_STATEMENTS`].
    fn seal(&mut self, mut requests: Vec<(SealRequest, oneshot::Sender<Result<String, LogError>>)>, batch: &mut Batch) {
        let now_s = clock::now_s();
        while let Some((first, _)) = requests.first() {
            let key = (first.leaf.x5t().to_owned(), first.receiver_trust_domain.clone());
            let mut group = Vec::new();
            let mut rest = Vec::new();
            for (request, done) in requests {
                let fits = group.len() < MAX_SEAL_STATEMENTS
                    && request.leaf.x5t() == key.0
                    && request.receiver_trust_domain == key.1;
                if fits { group.push((request, done)) } else { rest.push((request, done)) }
            }
            requests = rest;
            self.seal_group(group, now_s, batch);
        }
    }

    fn seal_group(
        &mut self,
        group: Vec<(SealRequest, oneshot::Sender<Result<String, LogError>>)>,
        now_s: i64,
        batch: &mut Batch,
    ) {
        let Some(leaf) = group.first().map(|(request, _)| Arc::clone(&request.leaf)) else { return };
        let payloads: Vec<Payload> = group.iter().map(|(request, _)| request.payload.clone()).collect();
        match leaf.seal(&payloads, now_s) {
            Ok(sealed) => {
                self.add_certificates(leaf.certificates(), batch);
                batch.seals += 1;
                for ((request, done), text) in group.into_iter().zip(sealed) {
                    batch.add(&request.claims.into_entry(text.clone()), &mut self.next_n);
                    batch.sealed.push((done, text));
                }
            }
            Err(code) => {
                for (_, done) in group {
                    let _caller_gone = done.send(Err(LogError::Unsealable(code)));
                }
            }
        }
    }
}

impl Sealed {
    fn into_entry(self, sealed: String) -> Entry {
        let (direction, refused, detail, sealed) = (Direction::Sent, None, None, Some(sealed));
        match self {
            Self::Record(claims) => {
                Entry::Record { direction, refused, detail, sealed, ancestors: Vec::new(), claims: Some(claims) }
            }
            Self::Other(kind, about) => Entry::Statement { kind, direction, refused, detail, sealed, about },
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
