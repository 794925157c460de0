//! Who may seal what comes later on a connection: receipts, closing statements (custody-wire §7.1, §7.3).

use std::sync::Arc;

use super::Peer;
use super::examine::Known;
use crate::cache::Caches;
use crate::cert::Certificate;
use crate::error::{Code, Missing, Rejection, Result};
use crate::hash::Thumbprint;

/// The certificate `x5t`: the connection's own leaf or, if that was rotated since, a leaf of the same id.
///
/// # Errors
/// `unresolved` if it is not known; `identity` if it has another name.
pub(super) fn signer_of(
    caches: &Caches,
    x5t: Thumbprint,
    peer: Option<&Peer>,
    known: &Known,
) -> Result<Arc<Certificate>> {
    let Some(leaf) = known.get(&x5t).cloned().or_else(|| caches.certificate(&x5t)) else {
        return Err(Rejection::unresolved(vec![Missing::Certificate(x5t)]));
    };
    let is_connected = |peer: &Peer| peer.leaf.thumbprint() == x5t || is_same_component(&leaf, &peer.leaf);
    if peer.is_some_and(is_connected) {
        return Ok(leaf);
    }
    Err(Rejection::new(Code::Identity, "the statement is sealed by another component than the connection's"))
}

fn is_same_component(one: &Certificate, other: &Certificate) -> bool {
    matches!((one.identity(), other.identity()), (Ok(one), Ok(other)) if one == other)
}
