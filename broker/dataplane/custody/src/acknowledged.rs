//! What each peer is known to hold, so that it need not be sent again (custody-wire §5.6).
//!
//! Owns: remembering, bounded and apart for each peer leaf: a peer with a new certificate is a new peer.
//! Does not own: when something counts as acknowledged; leaving out too much costs one retry, never a check.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bounded::BoundedMap;
use crate::cache::{CacheSize, VerifiedStatement};
use crate::cert::Certificate;
use crate::chain::Chain;
use crate::error::Missing;
use crate::hash::{StatementHash, Thumbprint};
use crate::limits::{ACKNOWLEDGED_ENTRIES, ACKNOWLEDGED_PER_PEER, FORGETFUL_ENTRIES, FORGETFUL_S};
use crate::seal::SealHash;

/// One element of `Custody-Chain` or `Custody-Certs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Element {
    /// With its seal: another seal of the same statement is another text.
    Statement(StatementHash, SealHash),
    Certificate(Thumbprint),
}

/// Elements that peers have acknowledged.
pub struct Acknowledged {
    state: Mutex<State>,
}

struct State {
    held: BoundedMap<(Thumbprint, Element), ()>,
    /// Peers that lacked what they had acknowledged, and until when they get everything.
    forgetful: BoundedMap<Thumbprint, i64>,
}

impl Default for Acknowledged {
    fn default() -> Self {
        Self::new(CacheSize { entries: ACKNOWLEDGED_ENTRIES, per_peer: ACKNOWLEDGED_PER_PEER })
    }
}

impl Acknowledged {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(size: CacheSize) -> Self {
        let held = BoundedMap::new(size.entries, size.per_peer);
        let forgetful = BoundedMap::new(FORGETFUL_ENTRIES, FORGETFUL_ENTRIES);
        Self { state: Mutex::new(State { held, forgetful }) }
    }

    /// The peer with this leaf has accepted a request that continues `parent`.
    pub fn acknowledge(&self, peer: &Thumbprint, parent: &Chain, now: i64) {
        let name = peer.to_string();
        let mut state = self.lock();
        if state.forgetful.get(peer).is_some_and(|until| now < *until) {
            return;
        }
        for statement in parent.statements() {
            state.held.insert((*peer, element_of(statement)), (), &name);
            for certificate in statement.certificates() {
                state.held.insert((*peer, Element::Certificate(certificate.thumbprint())), (), &name);
            }
        }
    }

    /// The peer with this leaf lacks something: it is sent everything, for a minute.
    ///
    /// Without that minute a peer whose memory is too small for its load would refuse call after call, and each
    /// refusal would double its load.
    pub fn forget(&self, peer: &Thumbprint, now: i64) {
        let name = peer.to_string();
        let mut state = self.lock();
        state.held.remove_all_of(&name);
        state.forgetful.insert(*peer, now + FORGETFUL_S, "");
    }

    pub(crate) fn holds_statement(&self, peer: &Thumbprint, statement: &VerifiedStatement) -> bool {
        self.lock().held.get(&(*peer, element_of(statement))).is_some()
    }

    pub(crate) fn holds_certificate(&self, peer: &Thumbprint, certificate: &Certificate) -> bool {
        self.lock().held.get(&(*peer, Element::Certificate(certificate.thumbprint()))).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Entries are whole at every moment, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn element_of(statement: &VerifiedStatement) -> Element {
    Element::Statement(statement.hash(), statement.seal_hash())
}

/// True if what the peer lacks is among what continues `parent` can bring: one more try is worth it (§5.7).
#[must_use]
pub fn can_supply(parent: &Chain, missing: &str) -> bool {
    parent.statements().any(|statement| {
        Missing::Record(statement.hash()).to_string() == missing
            || statement
                .certificates()
                .any(|certificate| Missing::Certificate(certificate.thumbprint()).to_string() == missing)
    })
}
