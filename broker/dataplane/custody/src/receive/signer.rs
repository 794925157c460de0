//! Who may seal what comes later on a connection: receipts, closing statements (custody-wire §7.1, §7.3).

use std::sync::Arc;

use super::examine::Known;
use crate::cert::Certificate;
use crate::error::{Code, Missing, Rejection, Result};
use crate::hash::Thumbprint;

/// The certificate `x5t`: the connection's own leaf or, if that was rotated since, one of the same id that came along.
///
/// # Errors
/// `unresolved` if it is neither the connection's nor in `known`; `identity` if it has another name.
pub(super) fn signer_of(x5t: Thumbprint, connected: &Arc<Certificate>, known: &Known) -> Result<Arc<Certificate>> {
    if connected.thumbprint() == x5t {
        return Ok(Arc::clone(connected));
    }
    let Some(leaf) = known.get(&x5t) else {
        return Err(Rejection::unresolved(vec![Missing::Certificate(x5t)]));
    };
    match (leaf.identity(), connected.identity()) {
        (Ok(rotated), Ok(before)) if rotated == before => Ok(Arc::clone(leaf)),
        _ => Err(Rejection::new(Code::Identity, "the statement is sealed by another component than the connection's")),
    }
}
