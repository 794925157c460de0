//! An accepted chain: what the component is told, what policy sees, what the next hop gets.
//!
//! Owns: reading a proven chain. Does not own: proving it (see `receive`).

use std::sync::Arc;

use crate::authority::Authority;
use crate::behalf::Behalf;
use crate::cache::VerifiedStatement;
use crate::hash::{RandomId, StatementHash};
use crate::ids::SpiffeId;
use crate::record::Task;

/// Verified statements from the root to the newest record, and what they still allow.
#[derive(Clone, Debug)]
pub struct Chain {
    newest: Arc<VerifiedStatement>,
    ancestors: Vec<Arc<VerifiedStatement>>,
    task: Task,
    authority: Authority,
    behalf: Option<Behalf>,
}

impl Chain {
    pub(crate) fn new(
        ancestors: Vec<Arc<VerifiedStatement>>,
        newest: Arc<VerifiedStatement>,
        task: Task,
        authority: Authority,
        behalf: Option<Behalf>,
    ) -> Self {
        Self { newest, ancestors, task, authority, behalf }
    }

    /// The statement that this request brought.
    #[must_use]
    pub fn newest(&self) -> &Arc<VerifiedStatement> {
        &self.newest
    }

    /// Every statement, the root first.
    pub fn statements(&self) -> impl Iterator<Item = &Arc<VerifiedStatement>> {
        self.ancestors.iter().chain(std::iter::once(&self.newest))
    }

    /// The statements before the newest, the root first.
    #[must_use]
    pub fn ancestors(&self) -> &[Arc<VerifiedStatement>] {
        &self.ancestors
    }

    #[must_use]
    pub fn cid(&self) -> RandomId {
        self.newest.record().cid
    }

    #[must_use]
    pub fn hop(&self) -> i64 {
        self.newest.record().hop
    }

    /// Statement hash of the newest record: the `prev` of what continues it.
    #[must_use]
    pub fn hash(&self) -> StatementHash {
        self.newest.hash()
    }

    /// Who called whom, the root first, without this receiver.
    pub fn path(&self) -> impl Iterator<Item = &SpiffeId> {
        self.statements().map(|statement| &statement.record().iss)
    }

    /// The root's task.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The user that the chain acts for; None if it acts on nobody's behalf.
    #[must_use]
    pub fn behalf(&self) -> Option<&Behalf> {
        self.behalf.as_ref()
    }

    /// What may still be done: the root's authority, narrowed by every hop.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}
