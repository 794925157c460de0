//! What is sealed, by whom, and what shares a seal.
//!
//! Owns: the form of a request for a seal, and its grouping. Does not own: when it is sealed (`writer`) or the key (a
//! [`Sealer`] has it).

use std::sync::Arc;

use hopseal_custody::compose::Payload;

use super::entry::{About, Claims, Direction, Entry, Kind};
use super::handle::SealOutcome;

/// Most statements under one seal (custody-wire §12, sealers).
pub const MAX_SEAL_STATEMENTS: usize = 32;

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

/// A request and who waits for it.
pub type Queued = (SealRequest, SealOutcome);

/// One group for each leaf and receiving trust domain, of at most [`MAX_SEAL_STATEMENTS`].
pub fn group_by_seal(requests: Vec<Queued>) -> Vec<Vec<Queued>> {
    let mut groups: Vec<Vec<Queued>> = Vec::new();
    for (request, done) in requests {
        let takes = |group: &&mut Vec<Queued>| {
            let is_same = group.first().is_some_and(|(first, _)| {
                first.leaf.x5t() == request.leaf.x5t() && first.receiver_trust_domain == request.receiver_trust_domain
            });
            is_same && group.len() < MAX_SEAL_STATEMENTS
        };
        match groups.iter_mut().rev().find(takes) {
            Some(group) => group.push((request, done)),
            None => groups.push(vec![(request, done)]),
        }
    }
    groups
}

impl Sealed {
    /// The entry of the statement with this sealed text.
    pub fn into_entry(self, sealed: String) -> Entry {
        let (direction, refused, detail, sealed) = (Direction::Sent, None, None, Some(sealed));
        match self {
            Self::Record(claims) => {
                Entry::Record { direction, refused, detail, sealed, ancestors: Vec::new(), claims: Some(claims) }
            }
            Self::Other(kind, about) => Entry::Statement { kind, direction, refused, detail, sealed, about },
        }
    }
}
