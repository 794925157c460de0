//! Calls that are under way, with the question each was allowed on: judged again whenever the answer may differ.
//!
//! Owns: that no call outlives the decision that allowed it. A call is entered before it is decided, so that a change
//! in between finds it; whoever carries its bytes ends it when told. Does not own: deciding (see `judge`).
//!
//! Source: docs/architecture.md: policy, posture or suspension closes what is open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::policy::Question;

/// Locks that calls are spread over.
const SHARDS: usize = 16;

/// One call that was or will be decided.
pub struct Open {
    pub question: Question,
    /// Cancelled when it is no longer allowed.
    pub revoked: CancellationToken,
    /// Why, for the operator, and the new decision's id.
    pub why: OnceLock<(String, String)>,
}

impl Open {
    /// Ends the call: `detail` says why, `decision` names the decision.
    pub fn revoke(&self, detail: String, decision: String) {
        if self.why.set((detail, decision)).is_ok() {
            self.revoked.cancel();
        }
    }
}

/// All of them.
#[derive(Default)]
pub struct OpenCalls {
    shards: [Mutex<HashMap<u64, Arc<Open>>>; SHARDS],
    next: AtomicU64,
}

impl OpenCalls {
    /// Enters a call; it leaves when the entry is dropped.
    pub fn enter(self: &Arc<Self>, question: Question) -> Entered {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Arc::new(Open { question, revoked: CancellationToken::new(), why: OnceLock::new() });
        self.shard(number).insert(number, Arc::clone(&open));
        Entered { calls: Arc::clone(self), number, open }
    }

    /// Every call that is open now and was not ended.
    pub fn current(&self) -> Vec<Arc<Open>> {
        let shards = self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        let found: Vec<Arc<Open>> = shards.flat_map(|shard| shard.values().cloned().collect::<Vec<_>>()).collect();
        found.into_iter().filter(|open| !open.revoked.is_cancelled()).collect()
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<Open>>> {
        let place = usize::try_from(number % SHARDS as u64).unwrap_or_default();
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place among the open ones.
pub struct Entered {
    calls: Arc<OpenCalls>,
    number: u64,
    pub open: Arc<Open>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.calls.shard(self.number).remove(&self.number);
    }
}
