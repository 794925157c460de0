//! The log's one writer thread.
//!
//! Owns: batching, sealing at the start of each write, what each file begins with, failure and recovery. Does not own:
//! what shares a seal (`sealing`), the files (a [`Store`] keeps), or what calls wait for (`handle`).
//!
//! Pacing: while one write is under way the next batch gathers, so a lone call costs one plain
//! signature and a busy broker spreads one over many calls.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hopseal_custody::compose::Payload;

use super::batch::Batch;
use super::entry::Entry;
use super::handle::{Job, LogError};
use super::health::Health;
use super::leaf::Leaves;
use super::outcomes::Outcomes;
use super::queue::{Exit, Next};
use super::sealing::{Queued, group_by_seal};
use super::store::Store;
use crate::clock;

/// Most entries in one write: bounds the memory and the time of a write.
const MAX_BATCH: usize = 256;
/// A larger buffer for lines is given back.
const MAX_BUFFER: usize = 1 << 20;
/// Entries without a waiting call that outlive a failed write, beside accepted records; the newest count.
const MAX_UNWRITTEN: usize = 1024;
/// A log that failed is probed this often while nothing is written.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// How long a write that failed waits before it is tried again, where calls wait for space.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// A full file that cannot be closed goes on; this long after, closing is tried again.
const ROLL_AGAIN: Duration = Duration::from_secs(10);

/// What a writer begins with.
#[derive(Debug, Default)]
pub struct Beginning {
    pub node: String,
    /// Number of the next entry.
    pub next_n: u64,
    /// Thumbprints of the certificates that the current file holds.
    pub certificates: HashSet<String>,
    /// Latest `exp` of any accepted record in the log.
    pub latest_exp: i64,
}

/// What the writer tells others through.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    /// How many entries are durable.
    pub durable: Arc<AtomicU64>,
    pub outcomes: Outcomes,
    pub leaves: Arc<Leaves>,
}

/// An entry and the certificates that it needs.
type Unawaited = (Entry, Vec<(String, String)>);

pub struct Writer {
    store: Box<dyn Store>,
    next_n: u64,
    certificates: HashSet<String>,
    latest_exp: i64,
    node: String,
    /// The bundle in force of each trust domain: every file begins with them, so that it can be read alone.
    bundles: BTreeMap<String, Entry>,
    /// The current file still lacks its first lines.
    is_headless: bool,
    /// When closing a full file is tried again after it failed.
    roll_from: Option<Instant>,
    /// How long a write that fails is tried again.
    full: Duration,
    health: Health,
    shared: Shared,
    /// For lines; kept between writes, since much memory is dear to get.
    buffer: Vec<u8>,
    /// Entries without a waiting call (bundles, starts, receipts of peers) and their certificates, kept until a
    /// write holds.
    unwritten: Vec<Unawaited>,
}

impl Writer {
    /// A writer that tells calls what became of their entries, and how many are durable.
    pub fn new(store: Box<dyn Store>, beginning: Beginning, full: Duration, health: Health, shared: Shared) -> Self {
        let Beginning { node, next_n, certificates, latest_exp } = beginning;
        Self {
            store,
            next_n,
            certificates,
            latest_exp,
            node,
            bundles: BTreeMap::new(),
            is_headless: false,
            roll_from: None,
            full,
            health,
            shared,
            buffer: Vec::new(),
            unwritten: Vec::new(),
        }
    }

    /// Writes until told to end or no handle is left.
    pub fn run(mut self, waiting: &Exit) {
        loop {
            match waiting.next(MAX_BATCH, PROBE_INTERVAL) {
                Next::Batch(jobs) => self.write(jobs),
                Next::Nothing if !self.unwritten.is_empty() => self.write(Vec::new()),
                Next::Nothing => self.probe(),
                Next::Ended => return,
            }
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let started = Instant::now();
        self.roll_if_full(started);
        let first_n = self.next_n;
        let mut batch = Batch::new(std::mem::take(&mut self.buffer), self.shared.leaves.is_wanted());
        self.add_head(&mut batch);
        let kept = self.add_jobs(jobs, &mut batch);
        if batch.lines.is_empty() {
            return;
        }
        let written = self.append(&batch.lines, started);
        let bytes = batch.lines.len();
        self.keep_buffer(std::mem::take(&mut batch.lines));
        match written {
            Ok(()) => self.succeed(batch, kept, first_n, (bytes, started)),
            Err(error) => {
                self.next_n = first_n;
                self.fail(batch, kept, &error);
            }
        }
    }

    /// Adds what an earlier write left over, then `jobs`; what nobody waits for comes back.
    fn add_jobs(&mut self, jobs: Vec<Job>, batch: &mut Batch) -> Vec<Unawaited> {
        let mut kept = std::mem::take(&mut self.unwritten);
        for unawaited in &kept {
            self.add_entry(unawaited, batch);
        }
        let mut seals: Vec<Queued> = Vec::new();
        let mut after_seals: Vec<Unawaited> = Vec::new();
        for job in jobs {
            match job {
                Job::Append { entry, certificates, done: None } if entry.is_receipt_of_peer() => {
                    after_seals.push((entry, certificates));
                }
                Job::Seal(request, done) => seals.push((request, done)),
                Job::Append { entry, certificates, done } => {
                    let appended = (entry, certificates);
                    self.add_entry(&appended, batch);
                    match done {
                        Some(done) => batch.appended.push(done),
                        None => kept.push(appended),
                    }
                }
            }
        }
        self.seal(seals, batch);
        for unawaited in &after_seals {
            self.add_entry(unawaited, batch);
        }
        kept.extend(after_seals);
        kept
    }

    fn keep_buffer(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= MAX_BUFFER {
            self.buffer = buffer;
        }
    }

    fn succeed(&mut self, mut batch: Batch, kept: Vec<Unawaited>, first_n: u64, (bytes, started): (usize, Instant)) {
        self.remember_bundles(kept);
        self.is_headless = false;
        self.latest_exp = self.latest_exp.max(batch.latest_exp);
        if let Some(leaves) = batch.leaves.take() {
            self.shared.leaves.add(first_n, leaves);
        }
        self.shared.durable.store(self.next_n, Ordering::Release);
        self.health.observer().wrote(batch.entries, batch.seals, bytes, started.elapsed());
        self.health.set(Ok(()));
        self.certificates.extend(std::mem::take(&mut batch.new_certificates));
        self.shared.outcomes.tell(batch.into_outcomes(Ok(self.next_n)));
    }

    fn fail(&mut self, batch: Batch, mut kept: Vec<Unawaited>, error: &std::io::Error) {
        // What an accepted record left is never dropped: its call goes on, and calls in progress bound their number.
        let mut excess = kept.len().saturating_sub(MAX_UNWRITTEN);
        kept.retain(|(entry, _)| {
            let is_dropped = excess > 0 && entry.replayable_until().is_none();
            excess -= usize::from(is_dropped);
            !is_dropped
        });
        self.unwritten = kept;
        self.health.set(Err(error));
        self.shared.outcomes.tell(batch.into_outcomes(Err(&LogError::Unavailable(error.to_string()))));
    }

    /// Appends durably; where calls wait for space, the same lines are tried again for that long.
    fn append(&mut self, lines: &[u8], started: Instant) -> std::io::Result<()> {
        loop {
            match self.store.append(lines) {
                Err(error) if started.elapsed() + RETRY_INTERVAL < self.full => {
                    self.health.set(Err(&error));
                    std::thread::sleep(RETRY_INTERVAL);
                }
                outcome => return outcome,
            }
        }
    }

    fn roll_if_full(&mut self, now: Instant) {
        if !self.store.is_full() || self.roll_from.is_some_and(|from| now < from) {
            return;
        }
        match self.store.roll(self.next_n) {
            Ok(()) => {
                self.roll_from = None;
                self.is_headless = true;
                self.certificates.clear();
            }
            Err(error) => {
                self.roll_from = Some(now + ROLL_AGAIN);
                self.health.observer().roll_failed(&error.to_string());
            }
        }
    }

    /// The first lines of a file: who writes it, and the bundles in force.
    fn add_head(&mut self, batch: &mut Batch) {
        if self.is_headless {
            batch.add(&Entry::Continue { node: self.node.clone(), latest_exp: self.latest_exp }, &mut self.next_n);
            for bundle in self.bundles.values() {
                batch.add(bundle, &mut self.next_n);
            }
        }
    }

    /// What every later file begins with, out of what was just written.
    fn remember_bundles(&mut self, kept: Vec<Unawaited>) {
        for (entry, _) in kept {
            if let Entry::Bundle { trust_domain, .. } = &entry {
                self.bundles.insert(trust_domain.clone(), entry);
            }
        }
    }

    fn probe(&mut self) {
        if !self.health.is_good() && self.store.probe().is_ok() {
            self.health.set(Ok(()));
        }
    }

    fn add_entry(&mut self, (entry, certificates): &Unawaited, batch: &mut Batch) {
        self.add_certificates(certificates, batch);
        batch.add(entry, &mut self.next_n);
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

    fn seal(&mut self, requests: Vec<Queued>, batch: &mut Batch) {
        let now_s = clock::now_s();
        for group in group_by_seal(requests) {
            self.seal_group(group, now_s, batch);
        }
    }

    fn seal_group(&mut self, group: Vec<Queued>, now_s: i64, batch: &mut Batch) {
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

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
