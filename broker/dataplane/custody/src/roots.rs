//! Who began each chain: several roots of one `cid` count only from one `iss` (custody-wire §5.1).
//!
//! Owns: remembering that for as long as a root could be accepted; refusal when full.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{Code, Rejection, Result};
use crate::hash::RandomId;
use crate::ids::SpiffeId;
use crate::limits::{MAX_CHAIN_AGE_S, MAX_SKEW_S};

/// Seconds after which a chain's name is free again, counted from its last use.
const HELD_S: i64 = MAX_CHAIN_AGE_S + 2 * MAX_SKEW_S;
/// Seconds by which the end of an entry must move before it is written again.
const REFRESH_S: i64 = 60;

struct Held {
    iss: SpiffeId,
    expires_at: i64,
    peer: Arc<str>,
}

/// Root issuer by chain; entries in use are never evicted.
pub(crate) struct RootIssuers {
    capacity: usize,
    quota: usize,
    held: HashMap<RandomId, Held>,
    by_expiry: BTreeMap<i64, Vec<RandomId>>,
    by_peer: HashMap<Arc<str>, usize>,
}

impl RootIssuers {
    /// At most `capacity` chains, `quota` of them brought in by one peer.
    pub(crate) fn new(capacity: usize, quota: usize) -> Self {
        Self { capacity, quota, held: HashMap::new(), by_expiry: BTreeMap::new(), by_peer: HashMap::new() }
    }

    /// Nothing if `cid` is new at `now`, or was begun by `iss`.
    ///
    /// # Errors
    /// `chain`.
    pub(crate) fn check(&self, cid: &RandomId, iss: &SpiffeId, now: i64) -> Result<()> {
        let other = self.held.get(cid).filter(|held| held.expires_at > now && held.iss != *iss);
        if other.is_some() {
            return Err(Rejection::new(Code::Chain, "the chain was begun by another component"));
        }
        Ok(())
    }

    /// Nothing if there is room for what [`RootIssuers::remember`] would add for `peer`.
    ///
    /// # Errors
    /// `unavailable`.
    pub(crate) fn check_room(&mut self, cid: &RandomId, peer: &str, now: i64) -> Result<()> {
        self.expire(now);
        let of_peer = self.by_peer.get(peer).copied().unwrap_or(0);
        if !self.held.contains_key(cid) && (self.held.len() >= self.capacity || of_peer >= self.quota) {
            return Err(Rejection::new(Code::Unavailable, "too many chains are in progress"));
        }
        Ok(())
    }

    pub(crate) fn remember(&mut self, cid: RandomId, iss: &SpiffeId, peer: &Arc<str>, now: i64) {
        let expires_at = now + HELD_S;
        if let Some(held) = self.held.get_mut(&cid) {
            if expires_at - held.expires_at < REFRESH_S {
                return;
            }
            held.expires_at = expires_at;
        } else {
            *self.by_peer.entry(Arc::clone(peer)).or_default() += 1;
            self.held.insert(cid, Held { iss: iss.clone(), expires_at, peer: Arc::clone(peer) });
        }
        self.by_expiry.entry(expires_at).or_default().push(cid);
    }

    fn expire(&mut self, now: i64) {
        while let Some(bucket) = self.by_expiry.first_entry() {
            if *bucket.key() > now {
                return;
            }
            for cid in bucket.remove() {
                // A refreshed entry stands in a later bucket too and stays.
                if self.held.get(&cid).is_some_and(|held| held.expires_at <= now) {
                    self.forget(&cid);
                }
            }
        }
    }

    fn forget(&mut self, cid: &RandomId) {
        let Some(held) = self.held.remove(cid) else { return };
        if let Some(count) = self.by_peer.get_mut(&held.peer) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&held.peer);
            }
        }
    }
}
