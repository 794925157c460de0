//! A planned hand-over: the broker that goes and the one that comes, on one Unix socket pair.
//!
//! Owns: what the two tell each other. Does not own: who may do so (the control processes: one user, one node), the
//! order of the hand-over (`server`).
//!
//! The coming process has the listening sockets and the log from the switch on. Until it has finished what it began,
//! the going process
//! 1. appends to the log through the other one, which numbers its entries (`remote_log`, `predecessor`),
//! 2. asks the other one before it accepts a record, which so has one replay store for both (`claim`),
//! 3. hands on every handle, those that it makes now as well, with what they continue (`kept`),
//! 4. asks what was obtained under a handle since, before it seals the receipt of the call that the handle was for,
//! 5. passes on the requests of components that are still connected to it, and closes those connections (`forward`).
//!
//! Source: runtime.md "Broker restart"; docs/adr/0017.

mod forward;
mod frames;
mod kept;
mod predecessor;
mod remote_log;
mod successor;

pub use forward::{accept_forwarded, answer};
pub use frames::Ask;
pub use kept::Kept;
pub use predecessor::Predecessor;
pub use remote_log::{RemoteLog, SharedStore};
pub use successor::Successor;

use std::sync::Arc;

use hopseal_custody::error::{Code, Rejection};
use hopseal_custody::fields::HANDLE;
use hopseal_custody::receive::Verified;
use http::HeaderMap;

use crate::broker::Broker;
use crate::callers::Connected;
use crate::gathered::Gathered;
use crate::instance::InstanceKey;
use crate::problem::{Refusal, refusal_of};

/// Has the successor, if there is one, remember that this record is accepted here.
///
/// # Errors
/// `custody_replayed`, `custody_unavailable`.
pub async fn claim(broker: &Broker, verified: &Verified) -> Result<(), Refusal> {
    let Some(successor) = broker.successor.get() else { return Ok(()) };
    let chain = verified.chain();
    let record = chain.newest().record();
    let root = chain.path().next().map_or_else(String::new, ToString::to_string);
    let (iss, jti, cid) = (record.iss.to_string(), record.jti.to_string(), record.cid.to_string());
    let unavailable = || Rejection::new(Code::Unavailable, "the broker that takes over does not answer");
    match successor.ask(Ask::Claim { iss, jti, exp: record.exp, cid, root }).await {
        Some(Ok(_)) => Ok(()),
        Some(Err(code)) if code == Code::Replayed.as_str() => {
            Err(refusal_of(Rejection::new(Code::Replayed, "the statement was used before")))
        }
        Some(Err(_)) | None => Err(refusal_of(unavailable())),
    }
}

/// Hands the handle in `list`, which is `owner`'s, on to the successor, if there is one.
pub async fn hand_on(broker: &Broker, list: &HeaderMap, owner: &InstanceKey) {
    let Some(successor) = broker.successor.get() else { return };
    let handle = list.get(HANDLE).and_then(|value| value.to_str().ok());
    let kept = handle.and_then(|handle| broker.handles.kept(handle, owner));
    if let Some(kept) = kept.map(|held| Kept::new(&held)) {
        let _the_handle_is_good_here = successor.ask(Ask::Keep(Box::new(kept))).await;
    }
}

/// The same for a handle in an answer to a component.
async fn hand_on_of_caller(broker: &Broker, connected: &Connected, list: &HeaderMap) {
    if broker.successor.get().is_some()
        && let Some(owner) = connected.admitted()
    {
        hand_on(broker, list, &owner).await;
    }
}

/// Adds to `receipts` what the successor obtained under the same handle.
pub async fn gather(broker: &Broker, receipts: &Arc<Gathered>) {
    let Some(successor) = broker.successor.get() else { return };
    if let Some(Ok(found)) = successor.ask(Ask::Kids { gathered: kept::key_of(receipts) }).await {
        receipts.merge(&kept::hashes(&found.receipts));
    }
}
