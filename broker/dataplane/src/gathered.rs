//! What happened under one handle: the receipts obtained, which the next call is based on and the own receipt
//! commits to, and the newest record, which a root that resumes the chain names.
//!
//! Source: custody-wire §7.1 `kids`, §7.2 `in`, §8.4 `cont`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hopseal_custody::hash::StatementHash;
use hopseal_custody::limits::MAX_INPUTS;
use hopseal_custody::outcome::Kids;

/// Receipts under one handle; a handle that has so many continues nothing more.
const MAX_RECEIPTS: usize = 4_096;

/// Statement hashes in the order in which the receipts were verified.
#[derive(Default)]
pub struct Gathered(Mutex<Vec<StatementHash>>, Mutex<Option<StatementHash>>);

impl Gathered {
    /// Adds a receipt that `log` puts into the log: here and there they stand in one order.
    pub fn add(&self, receipt: StatementHash, log: impl FnOnce()) {
        let mut receipts = self.lock();
        log();
        receipts.push(receipt);
    }

    /// Notes that a record was sent.
    pub fn sent(&self, record: StatementHash) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
    }

    /// The record that was sent last.
    pub fn newest_record(&self) -> Option<StatementHash> {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub fn all(&self) -> Vec<StatementHash> {
        self.lock().clone()
    }

    /// Adds those of `others` that are not there: another process obtained them under the same handle.
    pub fn merge(&self, others: &[StatementHash]) {
        let mut receipts = self.lock();
        for other in others {
            if !receipts.contains(other) {
                receipts.push(*other);
            }
        }
    }

    /// Whether no further call may be made under this handle.
    pub fn is_full(&self) -> bool {
        self.lock().len() >= MAX_RECEIPTS
    }

    /// The newest ones, for the `in` claim, oldest of them first.
    pub fn newest(&self) -> Vec<StatementHash> {
        let receipts = self.lock();
        receipts[receipts.len().saturating_sub(MAX_INPUTS)..].to_vec()
    }

    /// Seals a receipt with all of them as its `kids`; none can come between `seal`, which only queues, and that.
    pub fn commit<T>(&self, seal: impl FnOnce(Kids) -> T) -> T {
        let receipts = self.lock();
        seal(Kids::of(&receipts))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StatementHash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_eight_are_inputs_and_all_are_kids() {
        let gathered = Gathered::default();
        let kids = || gathered.commit(|kids| kids);
        assert_eq!((gathered.newest().len(), kids()), (0, Kids::Listed(Vec::new())));
        for n in 0..10 {
            gathered.add(StatementHash([n; 32]), || {});
        }
        assert_eq!(gathered.newest(), (2..10).map(|n| StatementHash([n; 32])).collect::<Vec<_>>());
        assert!(matches!(kids(), Kids::Tree { n: 10, .. }));
        assert!(!gathered.is_full());
    }
}
