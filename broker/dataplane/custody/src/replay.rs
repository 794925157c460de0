//! Which statements were accepted already (custody-wire §6.15).
//!
//! Owns: atomic insertion, expiry, refusal when full. Does not own: rebuilding from the log.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Code, Rejection, Result};
use crate::hash::RandomId;
use crate::ids::SpiffeId;

/// Used `(iss, jti)` until they can no longer be accepted; unexpired entries are never evicted.
pub struct ReplayStore {
    capacity: usize,
    quota: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// For each issuer its used ids with the second from which they no longer count.
    used: HashMap<Arc<str>, HashMap<RandomId, i64>>,
    by_expiry: BTreeMap<i64, Vec<(Arc<str>, RandomId)>>,
    held: usize,
    /// The latest time seen: what expired by then may have been forgotten.
    latest: i64,
}

impl ReplayStore {
    /// A store for `capacity` entries; one issuer may hold `quota` of them.
    #[must_use]
    pub fn new(capacity: usize, quota: usize) -> Self {
        Self { capacity, quota, state: Mutex::default() }
    }

    /// Marks `(iss, jti)` as used until `expires_at`: the check and the insertion are one step.
    ///
    /// # Errors
    /// `replayed` if it is used, `unavailable` if the store or the issuer's share is full,
    /// `expired` if it ended before the latest time seen: after a step back of the clock
    /// nothing is accepted that may have been used and forgotten.
    pub fn insert(&self, iss: &SpiffeId, jti: RandomId, expires_at: i64, now: i64) -> Result<()> {
        let mut state = self.lock();
        state.expire(now);
        if expires_at <= state.latest {
            return Err(Rejection::new(Code::Expired, "the statement expired before the latest time seen"));
        }
        let of_issuer = state.used.get(iss.as_str());
        if of_issuer.is_some_and(|used| used.contains_key(&jti)) {
            return Err(Rejection::new(Code::Replayed, "the statement was used before"));
        }
        if state.held >= self.capacity || of_issuer.is_some_and(|used| used.len() >= self.quota) {
            return Err(Rejection::new(Code::Unavailable, "the replay store is full"));
        }
        state.add(iss.as_str(), jti, expires_at);
        Ok(())
    }

    /// Entries held; some may have expired since the last insertion.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().held
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole entries only: each change is finished before the next.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, iss: &str, jti: RandomId, expires_at: i64) {
        let iss: Arc<str> = match self.used.get_key_value(iss) {
            Some((known, _)) => Arc::clone(known),
            None => iss.into(),
        };
        self.by_expiry.entry(expires_at).or_default().push((Arc::clone(&iss), jti));
        self.used.entry(iss).or_default().insert(jti, expires_at);
        self.held += 1;
    }

    fn expire(&mut self, now: i64) {
        self.latest = self.latest.max(now);
        while let Some(entry) = self.by_expiry.first_entry() {
            if *entry.key() > now {
                return;
            }
            for (iss, jti) in entry.remove() {
                if let Some(used) = self.used.get_mut(&iss) {
                    if used.remove(&jti).is_some() {
                        self.held -= 1;
                    }
                    if used.is_empty() {
                        self.used.remove(&iss);
                    }
                }
            }
        }
    }
}
