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
pub fn group_by_seal(mut requests: Vec<Queued>) -> Vec<Vec<Queued>> {
    let mut groups = Vec::new();
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
        groups.push(group);
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
