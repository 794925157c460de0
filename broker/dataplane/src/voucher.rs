//! Our receipts: what we answered to a verified call, sealed and logged before the end of the answer
//! leaves.
//!
//! Owns: the receipt's claims, and that a key which may no longer seal means an error and never an
//! unsigned success. Does not own: where the receipt stands in the answer (see `vouched`).
//!
//! Source: custody-wire §5.5, §7.1.

use std::sync::Arc;
use std::time::Duration;

use hopseal_custody::binding::{BodySum, BodySummer, response_binding};
use hopseal_custody::compose::receipt_payload;
use hopseal_custody::error::{Code, Rejection};
use hopseal_custody::hash::{ClaimHash, RandomId, StatementHash};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::limits::MAX_DECISION_BYTES;
use hopseal_custody::outcome::{Fin, Kids, Outcome};
use hopseal_custody::receipt::Receipt;
use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use crate::body::BodyMemory;
use crate::broker::Broker;
use crate::clock;
use crate::gathered::Gathered;
use crate::grpc;
use crate::headers::lines;
use crate::instance::Leaf;
use crate::log::{About, Kind, LogError, SealRequest, Sealed};
use crate::opened::Ending;
use crate::problem::{Refusal, refusal_of};
use crate::relay;
use crate::settings::ms;

/// What every receipt for one request says; it exists once the request passed custody-wire §6.11.
pub struct Voucher {
    pub broker: Arc<Broker>,
    /// The leaf that answers on this connection: it seals.
    pub leaf: Arc<Leaf>,
    pub caller: SpiffeId,
    pub cid: RandomId,
    /// Statement hash of the request's record, and what makes that unique.
    pub rec: StatementHash,
    pub jti: RandomId,
    pub exp: i64,
    /// Whether this request is the one that its record was accepted for.
    pub is_accepted: bool,
    /// Receipts that the component obtained because of this call.
    pub receipts: Arc<Gathered>,
    /// Policies that decided.
    pub decision: String,
    /// How the request's body ended, if it streams.
    pub ending: Option<Arc<Ending>>,
    /// Whether it asks for a WebSocket: its answer says how that ended, or that there is none.
    pub is_upgrade: bool,
}

/// A voucher until it is spent: if the call is given up before, its record is not left without a receipt.
#[derive(Default)]
pub struct Pledge(Option<Voucher>);

impl std::ops::Deref for Pledge {
    type Target = Option<Voucher>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Pledge {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        if let Some(voucher) = self.0.take().filter(|voucher| voucher.is_accepted) {
            voucher.abandon();
        }
    }
}

/// The head of an answer as a receipt binds it.
pub struct Head {
    status: StatusCode,
    rsb: ClaimHash,
    /// Whether what it begins says itself how the call ended, also of a request that has not.
    may_end_early: bool,
    summer: BodySummer,
}

/// A voucher for an answer whose head is known.
pub struct HeadVoucher {
    voucher: Voucher,
    head: Head,
}

/// Binds the head of an answer, which must not change any more.
///
/// # Errors
/// `callee_unavailable`: the component answered with an interim status, or a header that cannot be bound.
pub fn bind_head(status: StatusCode, headers: &HeaderMap) -> Result<Head, Refusal> {
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::new("callee_unavailable", "no final status"));
    }
    let rsb = response_binding(status.as_u16(), &lines(headers));
    let rsb = rsb.map_err(|rejection| Refusal::new("callee_unavailable", rejection.detail))?;
    Ok(Head { status, rsb, may_end_early: grpc::is_grpc(headers), summer: grpc::summer_of(headers) })
}

impl Voucher {
    /// Whether a refusal may have a receipt: a record that is played again has one, or will have.
    pub fn may_vouch_refusal(&self) -> bool {
        let receiver = &self.broker.receiver;
        // A broker that goes does not know what the one that came has vouched for.
        let is_sole = self.broker.successor.get().is_none();
        self.is_accepted || is_sole && receiver.claim_refusal(&self.caller, self.jti, self.exp, clock::now_s())
    }

    /// Logs that the caller was gone before there was an answer; nobody waits for it.
    fn abandon(self) {
        let response = Refusal::new("call_abandoned", "").response();
        if let Ok(head) = bind_head(response.status(), response.headers()) {
            HeadVoucher::new(self, head).abort(BodySum::of(&[]));
        }
    }

    /// How an answer ends that is whole: without the end of the request there is no end of the exchange.
    fn fin(&self, head: &Head) -> Fin {
        match &self.ending {
            Some(ending) if ending.is_closed() => Fin::Eof,
            None => Fin::Eof,
            Some(ending) if (head.may_end_early || self.is_upgrade) && !ending.is_broken() => Fin::Early,
            Some(_) => Fin::Abort,
        }
    }

    /// How a refusal ends.
    fn denial(&self) -> Fin {
        if self.ending.as_ref().is_some_and(|ending| ending.is_broken() || ending.is_unread()) {
            Fin::Abort
        } else {
            Fin::Deny
        }
    }

    /// The decision's id and the names of the policies that made it, as far as they fit into a receipt.
    pub fn decided_by(&mut self, decision: Option<&str>, policies: &[String]) {
        self.decision = join_decision(decision, policies);
    }
}

impl HeadVoucher {
    pub fn new(voucher: Voucher, head: Head) -> Self {
        Self { voucher, head }
    }

    /// The voucher again, for another answer.
    pub fn into_voucher(self) -> Voucher {
        self.voucher
    }

    /// How long an answer that is held back may take.
    pub fn deadline(&self) -> Duration {
        ms(self.voucher.broker.settings.timeouts_ms.response_head)
    }

    /// The sum of what there is of an answer that is not whole.
    pub fn sum_of(&self, bytes: &[u8]) -> BodySum {
        let mut summer = self.head.summer.clone();
        summer.update(bytes);
        summer.finish()
    }

    /// Where an answer that is held back counts.
    pub fn memory(&self) -> BodyMemory {
        self.voucher.broker.memory.clone()
    }

    /// The sealed receipt of a whole answer, once it is durable in the log.
    ///
    /// # Errors
    /// `custody_receipt_unavailable` if the leaf may no longer seal, `custody_unavailable` if the log is away: the
    /// answer must not pass as complete.
    pub async fn seal(self, body: BodySum) -> Result<String, Refusal> {
        let fin = self.voucher.fin(&self.head);
        self.seal_as(body, fin).await
    }

    /// The sealed receipt of a refusal, once it is durable in the log.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub async fn seal_refusal(self, body: BodySum) -> Result<String, Refusal> {
        let fin = self.voucher.denial();
        self.seal_as(body, fin).await
    }

    async fn seal_as(self, body: BodySum, fin: Fin) -> Result<String, Refusal> {
        let unavailable = |why: String| refusal_of(Rejection::new(Code::Unavailable, format!("log: {why}")));
        let broker = Arc::clone(&self.voucher.broker);
        let started = broker.started.get().ok_or_else(|| unavailable("not started".into()))?;
        let receipts = Arc::clone(&self.voucher.receipts);
        relay::gather(&broker, &receipts).await;
        let queued =
            receipts.commit(|kids| self.request(body, fin, kids).map(|request| started.log.queue_seal(request)))?;
        match timeout(ms(broker.settings.timeouts_ms.log_write), queued.sealed()).await {
            Ok(Ok(sealed)) => Ok(sealed),
            Ok(Err(LogError::Unsealable(code))) => {
                Err(receipt_unavailable(&format!("the server leaf may not seal: {code}")))
            }
            Ok(Err(LogError::Unavailable(why))) => Err(unavailable(why)),
            Ok(Err(LogError::Unwitnessed)) => {
                Err(unavailable("no witness confirmed the receipt in time (log_unwitnessed)".into()))
            }
            Err(_elapsed) => Err(unavailable("too slow".into())),
        }
    }

    /// Logs that the answer was cut after `body`; nobody waits for it.
    pub fn abort(self, body: BodySum) {
        let (broker, receipts) = (Arc::clone(&self.voucher.broker), Arc::clone(&self.voucher.receipts));
        let Some(started) = broker.started.get() else { return };
        receipts.commit(|kids| {
            if let Ok(request) = self.request(body, Fin::Abort, kids) {
                let _the_call_is_lost_anyway = started.log.seal_nowait(request);
            }
        });
    }

    fn request(self, body: BodySum, fin: Fin, kids: Kids) -> Result<SealRequest, Refusal> {
        let Self { voucher, head: Head { status, rsb, .. } } = self;
        let about = About {
            iss: voucher.leaf.id.to_string(),
            aud: voucher.caller.to_string(),
            cid: voucher.cid.to_string(),
            rec: voucher.rec.to_string(),
            st: Some(status.as_u16()),
        };
        let receiver_trust_domain = voucher.caller.trust_domain().to_owned();
        let outcome = Outcome {
            iss: voucher.leaf.id.clone(),
            aud: voucher.caller,
            iat: clock::now_s(),
            jti: RandomId::generate().map_err(|_| Refusal::new("internal", "no randomness"))?,
            cid: voucher.cid,
            rec: voucher.rec,
            st: status.as_u16(),
            rsb,
            len: body.len,
            cd: ClaimHash(body.sha256),
            fin,
            kids,
            n: body.messages,
            tlb: body.trailers.map(ClaimHash),
            req: voucher.ending.as_ref().map(|ending| ending.taken()),
            dec: (!voucher.decision.is_empty()).then_some(voucher.decision),
        };
        let payload =
            receipt_payload(&Receipt { outcome }).map_err(|rejection| receipt_unavailable(&rejection.detail))?;
        let claims = Sealed::Other(Kind::Receipt, about);
        Ok(SealRequest { leaf: voucher.leaf, payload, receiver_trust_domain, claims })
    }
}

/// The caller wants a receipt and there will be none.
pub fn receipt_unavailable(why: &str) -> Refusal {
    refusal_of(Rejection::new(Code::ReceiptUnavailable, why))
}

/// A decision's id and the names of the policies that made it, as far as they fit into a statement.
pub fn join_decision(decision: Option<&str>, policies: &[String]) -> String {
    let mut joined = decision.unwrap_or_default().to_owned();
    for (index, id) in policies.iter().enumerate() {
        let separator = if index == 0 { " " } else { "," };
        if joined.len() + separator.len() + id.len() > MAX_DECISION_BYTES {
            break;
        }
        joined.push_str(separator);
        joined.push_str(id);
    }
    joined
}
