//! Records of this node's own components whose call is under way.
//!
//! Owns: which they are. Each is durable in this node's log as sent. So where the callee is here too, nothing reaches it
//! before its record is durable, and the copy that says that it was accepted need not be waited for: it stands in the
//! write of the receipt at the latest. Nobody else can send such a record again, for it takes the caller's key and this
//! process has that; it makes a new record for each attempt.
//!
//! Source: custody-wire §5.5, §10.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hopseal_custody::hash::StatementHash;

/// All of them; calls in progress bound their number.
#[derive(Default)]
pub struct OwnRecords(Mutex<HashSet<StatementHash>>);

/// One of them, until dropped.
pub struct OwnRecord {
    records: Arc<OwnRecords>,
    hash: StatementHash,
}

impl OwnRecords {
    /// Takes in a record that is durable in the log.
    pub fn hold(self: &Arc<Self>, hash: StatementHash) -> OwnRecord {
        self.lock().insert(hash);
        OwnRecord { records: Arc::clone(self), hash }
    }

    /// Whether this record is durable in the log as one that was sent from here.
    pub fn holds(&self, hash: &StatementHash) -> bool {
        self.lock().contains(hash)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<StatementHash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnRecord {
    fn drop(&mut self) {
        self.records.lock().remove(&self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_as_long_as_its_call_is_under_way() {
        let records = Arc::new(OwnRecords::default());
        let (one, other) = (StatementHash([1; 32]), StatementHash([2; 32]));
        let held = records.hold(one);
        assert!(records.holds(&one) && !records.holds(&other));
        drop(held);
        assert!(!records.holds(&one));
    }
}
