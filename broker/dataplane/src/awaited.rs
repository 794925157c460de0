//! Receipts of peers: what an answer must bring before it counts.
//!
//! Owns: verifying a receipt against the request it answers and the leaf that TLS showed, logging it,
//! and what a failure means for the call. Does not own: reading the answer (see `verified`).
//!
//! Source: custody-wire §5.8, §7.1 "Caller checks".

use std::sync::Arc;

use hopseal_custody::binding::{BodySum, HeaderLine, trailer_binding};
use hopseal_custody::error::Rejection;
use hopseal_custody::fields::{RECEIPT, ReceiptFields};
use hopseal_custody::hash::{RandomId, StatementHash};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::outcome::Fin;
use hopseal_custody::receive::{Exchange, Peer};
use http::{HeaderMap, StatusCode};

use crate::broker::Broker;
use crate::clock;
use crate::gathered::Gathered;
use crate::grpc;
use crate::headers;
use crate::instance::log_certificate;
use crate::log::{About, Direction, Entry, Kind};
use crate::own_records::OwnRecord;
use crate::passing::Passing;
use crate::problem::Refusal;
use crate::trust::PeerChain;

/// One request that was sent, as far as its receipt has to fit it.
pub struct Sent {
    pub broker: Arc<Broker>,
    pub caller: SpiffeId,
    pub callee: SpiffeId,
    pub cid: RandomId,
    /// Statement hash and `iat` of its record.
    pub rec: StatementHash,
    pub iat: i64,
    /// The server of the connection that it was sent on.
    pub server: PeerChain,
    /// Receipts under the handle of this call.
    pub receipts: Arc<Gathered>,
    /// What passes of a request that streams.
    pub request: Option<Passing>,
    /// Whether it asks for a WebSocket.
    pub is_upgrade: bool,
    /// Its record is durable, and the call under way.
    pub _own: OwnRecord,
}

/// A request whose answer has begun.
pub struct Awaited {
    pub sent: Sent,
    pub status: StatusCode,
    /// As it came from the wire.
    pub head: HeaderMap,
}

/// Why an answer does not count.
pub enum Unverified {
    /// It brought no receipt.
    Missing,
    Failed(Refusal),
}

impl Unverified {
    /// The refusal that the component gets, or why its stream breaks off.
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Missing => Refusal::new("receipt_missing", "the answer brought no receipt"),
            Self::Failed(refusal) => refusal,
        }
    }
}

impl Awaited {
    /// Nothing if the answer, which has ended with these trailers or this comment, has a receipt that is true of it.
    ///
    /// # Errors
    /// The answer must not pass as good.
    pub fn settle(&self, trailers: &HeaderMap, comment: Option<&str>, body: BodySum) -> Result<(), Unverified> {
        let (head, tail) = (headers::lines(&self.head), headers::lines(trailers));
        let fields = match ReceiptFields::read(&head, &tail, comment, false) {
            Ok(Some(fields)) => fields,
            Ok(None) => return Err(Unverified::Missing),
            Err(rejection) => return Err(self.refuse(rejection, first_text(&head, &tail, comment))),
        };
        let body = match trailer_binding(&tail) {
            Ok(binding) => body.followed_by(binding),
            Err(rejection) => return Err(self.refuse(rejection, first_text(&head, &tail, comment))),
        };
        let (broker, now) = (&self.sent.broker, clock::now_s());
        let peer = Peer::new(Arc::clone(self.sent.server.leaf()), self.sent.server.certificates[1..].to_vec());
        let exchange = Exchange {
            own_id: &self.sent.caller,
            callee: self.sent.callee.as_str(),
            record: self.sent.rec,
            record_iat: self.sent.iat,
            cid: self.sent.cid,
            peer: Some(&peer),
            status: self.status.as_u16(),
            headers: &head,
            body,
            request: self.sent.request.as_ref().map(Passing::so_far),
        };
        let verified = broker.receiver.verify_receipt(&fields, &exchange, &broker.trust.current(), now);
        let receipt = verified.map_err(|rejection| self.refuse(rejection, Some(fields.receipt.to_owned())))?;
        self.sent.receipts.add(receipt.hash(), || {
            let certificates = receipt.certificates().map(log_certificate).collect();
            self.log(None, Some(receipt.sealed().to_owned()), certificates);
        });
        self.judge(receipt.claims().outcome.fin)
    }

    /// Logs that no receipt came; for answers that should have had one.
    pub fn log_missing(&self, detail: &str) {
        self.log(Some(("receipt_missing", detail)), None, Vec::new());
    }

    /// What a true receipt says about the answer.
    fn judge(&self, fin: Fin) -> Result<(), Unverified> {
        let is_error = self.status.is_client_error() || self.status.is_server_error();
        match fin {
            Fin::Eof => Ok(()),
            // A gRPC call has a status and a WebSocket a Close frame, whatever was still to come of the request.
            Fin::Early if self.sent.is_upgrade || grpc::is_grpc(&self.head) => Ok(()),
            Fin::Early => Err(failed("answer_aborted", "the callee answered before the request had ended")),
            Fin::Deny if is_error => Ok(()),
            Fin::Deny => Err(failed("receipt_invalid", "a refusal with the status of a success")),
            Fin::Abort => Err(failed("answer_aborted", "the callee says that the exchange broke off")),
        }
    }

    fn refuse(&self, rejection: Rejection, sealed: Option<String>) -> Unverified {
        self.log(Some((rejection.code.as_str(), &rejection.detail)), sealed, Vec::new());
        failed("receipt_invalid", rejection.to_string())
    }

    fn log(&self, refused: Option<(&str, &str)>, sealed: Option<String>, certificates: Vec<(String, String)>) {
        let Some(started) = self.sent.broker.started.get() else { return };
        let entry = Entry::Statement {
            kind: Kind::Receipt,
            direction: Direction::Received,
            refused: refused.map(|(code, _)| code.to_owned()),
            detail: refused.map(|(_, detail)| detail.to_owned()),
            sealed,
            about: About {
                iss: self.sent.callee.to_string(),
                aud: self.sent.caller.to_string(),
                cid: self.sent.cid.to_string(),
                rec: self.sent.rec.to_string(),
                st: Some(self.status.as_u16()),
            },
        };
        // The call does not wait for its receipt; a queue that is full refuses the next record anyway.
        let _counted_by_the_writer = started.log.append_nowait(entry, certificates);
    }
}

fn failed(code: &'static str, detail: impl Into<String>) -> Unverified {
    Unverified::Failed(Refusal::new(code, detail))
}

/// Something that was said to be the receipt, for the log.
fn first_text(head: &[HeaderLine<'_>], tail: &[HeaderLine<'_>], comment: Option<&str>) -> Option<String> {
    let mut lines = head.iter().chain(tail).filter(|(name, _)| *name == RECEIPT);
    let in_field = lines.next().and_then(|(_, value)| std::str::from_utf8(value).ok());
    in_field.or(comment).map(ToOwned::to_owned)
}
