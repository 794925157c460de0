//! Segments: what passed of a WebSocket, sealed into our own log while it stays open.
//!
//! Owns: when one is due, and its claims. Does not own: the statements at its end (see `tunnel`).
//!
//! Source: custody-wire §7.3.

use std::sync::Arc;
use std::time::Duration;

use hopseal_custody::compose::segment_payload;
use hopseal_custody::hash::{RandomId, StatementHash};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::outcome::Taken;
use hopseal_custody::segment::Segment;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::clock;
use crate::instance::Leaf;
use crate::log::{About, Kind, SealRequest, Sealed};
use crate::passing::Passing;

/// After so many messages of one direction.
const MESSAGES: u64 = 1_000;
/// Or after this, if anything passed.
const INTERVAL: Duration = Duration::from_secs(60);

/// The segments of one WebSocket.
pub struct Segments {
    pub broker: Arc<Broker>,
    /// The leaf that seals: ours of its connection.
    pub leaf: Arc<Leaf>,
    pub other: SpiffeId,
    pub cid: RandomId,
    pub rec: StatementHash,
    pub up: Passing,
    pub down: Passing,
    due: Notify,
}

impl Segments {
    pub fn new(
        (broker, leaf): (Arc<Broker>, Arc<Leaf>),
        other: SpiffeId,
        (cid, rec): (RandomId, StatementHash),
        (up, down): (Passing, Passing),
    ) -> Self {
        Self { broker, leaf, other, cid, rec, up, down, due: Notify::new() }
    }

    /// A direction went on from `before` to `after` messages.
    pub fn went_on(&self, before: Option<u64>, after: Option<u64>) {
        if before.map(|count| count / MESSAGES) != after.map(|count| count / MESSAGES) {
            self.due.notify_one();
        }
    }

    /// Makes segments; never resolves.
    pub async fn run(&self) {
        let (mut seq, mut last) = (0, 0);
        loop {
            let _elapsed_or_due = timeout(INTERVAL, self.due.notified()).await;
            let (up, down) = (Taken::of(&self.up.so_far()), Taken::of(&self.down.so_far()));
            if up.len + down.len == last {
                continue;
            }
            last = up.len + down.len;
            if let (Some(started), Some(request)) = (self.broker.started.get(), self.request(seq, up, down)) {
                // What is lost here the next one says again, and the statements at the end.
                let _queue_is_full = started.log.seal_nowait(request);
            }
            seq += 1;
        }
    }

    fn request(&self, seq: u64, up: Taken, down: Taken) -> Option<SealRequest> {
        let about = About {
            iss: self.leaf.id.to_string(),
            aud: self.other.to_string(),
            cid: self.cid.to_string(),
            rec: self.rec.to_string(),
            st: None,
        };
        let segment = Segment {
            iss: self.leaf.id.clone(),
            aud: self.other.clone(),
            iat: clock::now_s(),
            jti: RandomId::generate().ok()?,
            cid: self.cid,
            rec: self.rec,
            seq,
            up,
            down,
        };
        Some(SealRequest {
            leaf: Arc::<Leaf>::clone(&self.leaf),
            payload: segment_payload(&segment).ok()?,
            // It stays here.
            receiver_trust_domain: self.leaf.id.trust_domain().to_owned(),
            claims: Sealed::Other(Kind::Segment, about),
        })
    }
}
