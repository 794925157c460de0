//! The request that goes to the peer, with its record.
//!
//! Owns: the sender's steps 4 and 5 of custody-wire §5: binding, record, seal, durable log, fields.
//! Does not own: connections and retries (see `send`).

use std::sync::Arc;

use hopseal_custody::binding;
use hopseal_custody::compose::{self, Call, Payload, Root};
use hopseal_custody::fields::{CERTS, CHAIN, RECORD};
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::hash::RandomId;
use hopseal_custody::limits::DEFAULT_LIFETIME_S;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::Full;
use tokio::time::timeout;

use crate::awaited::Sent;
use crate::body::{Buffered, Streamed};
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::clock;
use crate::directory::Component;
use crate::gathered::Gathered;
use crate::headers;
use crate::instance::Leaf;
use crate::kept_connections::Sender;
use crate::log::{Claims, LogError, QueuedSeal, SealRequest, Sealed};
use crate::operation::Operation;
use crate::outbound::{Caller, Parent};
use crate::passing::Passing;
use crate::pool::Lease;
use crate::problem::{Refusal, refusal_of};
use crate::settings::ms;
use crate::terms::Terms;
use crate::upload::{Closer, ClosingBody, RequestBody};
use crate::users;

/// A call that policy has allowed.
pub struct Outgoing {
    pub caller: Caller,
    pub callee: Arc<Component>,
    pub parent: Parent,
    /// Receipts obtained under the same handle.
    pub receipts: Arc<Gathered>,
    /// What the handle adds to the record.
    pub terms: Terms,
    pub method: Method,
    /// That of the component's request.
    pub version: Version,
    pub target: PathAndQuery,
    /// As it will be sent, but for the Custody fields.
    pub headers: HeaderMap,
    pub body: Content,
    pub operation: Operation,
}

/// What is sent after the head.
pub enum Content {
    Whole(Buffered),
    /// None once it was begun: a stream is sent once.
    Stream(Option<Streamed>),
    /// Frames of a WebSocket, once the peer agrees.
    Upgrade,
}

impl Content {
    /// Whether the record does not bind it, and a closing statement follows.
    pub fn streams(&self) -> bool {
        !matches!(self, Self::Whole(_))
    }
}

/// The request for one attempt, its record sealed and durable in the log, and what its receipt must fit.
///
/// What the peer has acknowledged is left out, unless the body streams and cannot be sent again. `again` is what a
/// peer gets that lacked something: everything, and these certificates of our own.
///
/// # Errors
/// The record may not be made, or the log cannot be written: the request must not be sent.
pub async fn compose_request(
    broker: &Arc<Broker>,
    outgoing: &mut Outgoing,
    lease: &Lease,
    again: Option<&[String]>,
    record: &mut CallRecord,
) -> Result<(Request<RequestBody>, Sent), Refusal> {
    let fields = forwarded(broker, outgoing, lease, again.is_some())?;
    let target_uri = format!("https://{}{}", outgoing.callee.host, outgoing.target);
    let Composed { payload, claims, cid, iat } = compose_record(outgoing, lease, &target_uri)?;
    record.cid = Some(claims.cid.clone());
    let rec = payload.statement_hash(&lease.leaf.thumbprint());
    let request = SealRequest {
        leaf: Arc::<Leaf>::clone(&lease.leaf),
        payload,
        receiver_trust_domain: outgoing.callee.id.trust_domain().to_owned(),
        claims: Sealed::Record(claims),
    };
    if let Some(Root { user: Some(token), .. }) = outgoing.parent.root() {
        users::log_token(broker, token);
    }
    let sealed = seal(broker, request).await?;
    let sent = Sent {
        broker: Arc::clone(broker),
        caller: lease.leaf.id.clone(),
        callee: outgoing.callee.id.clone(),
        cid,
        rec,
        iat,
        server: lease.peer.clone(),
        receipts: Arc::clone(&outgoing.receipts),
        request: match outgoing.body {
            Content::Whole(_) => None,
            Content::Stream(_) => Some(Passing::behind(&outgoing.headers, record.pulse())),
            Content::Upgrade => Some(Passing::frames(true, record.pulse())),
        },
        is_upgrade: matches!(outgoing.body, Content::Upgrade),
        _own: broker.own_records.hold(rec),
    };
    outgoing.receipts.sent(sent.rec);
    fields.check_with_record(&sealed).map_err(refusal_of)?;
    let certs = join(fields.certs, again.unwrap_or_default());
    let mut list = outgoing.headers.clone();
    for (name, value) in [(RECORD, Some(sealed)), (CHAIN, fields.chain), (CERTS, certs)] {
        let value = value.as_deref().and_then(headers::custody_value);
        list.extend(value.map(|value| (HeaderName::from_static(name), value)));
    }
    let body = match &mut outgoing.body {
        Content::Whole(body) => RequestBody::Whole(Full::new(body.bytes.clone())),
        Content::Upgrade => RequestBody::Whole(Full::default()),
        Content::Stream(body) => {
            let body = body.take().ok_or_else(|| Refusal::new("internal", "a stream is sent once"))?;
            let sum = sent.request.clone().unwrap_or_else(|| Passing::behind(&outgoing.headers, record.pulse()));
            RequestBody::Closing(Box::new(ClosingBody::new(body, closer_of(&sent, &lease.leaf), sum)))
        }
    };
    Ok((build_request(outgoing, lease, &target_uri, list, body)?, sent))
}

pub fn closer_of(sent: &Sent, leaf: &Arc<Leaf>) -> Closer {
    Closer {
        broker: Arc::clone(&sent.broker),
        leaf: Arc::clone(leaf),
        callee: sent.callee.clone(),
        cid: sent.cid,
        rec: sent.rec,
    }
}

/// The ancestors and certificates that go along; `all` to a peer that lacked some.
fn forwarded(broker: &Broker, outgoing: &Outgoing, lease: &Lease, all: bool) -> Result<ForwardedFields, Refusal> {
    let Parent::Call(chain) = &outgoing.parent else { return Ok(ForwardedFields::default()) };
    let hops = broker.receive_policy().hops;
    let fields = if all || outgoing.body.streams() {
        ForwardedFields::build(chain, hops)
    } else {
        let peer = lease.peer.leaf().thumbprint();
        ForwardedFields::build_for(&peer, &broker.acknowledged, chain, hops)
    };
    fields.map_err(refusal_of)
}

fn build_request(
    outgoing: &Outgoing,
    lease: &Lease,
    target_uri: &str,
    mut list: HeaderMap,
    body: RequestBody,
) -> Result<Request<RequestBody>, Refusal> {
    let malformed = |why: String| Refusal::new("request_invalid", why);
    let mut request = Request::new(body);
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = match lease.sender {
        Sender::H2(_) => target_uri.parse::<Uri>().map_err(|error| malformed(error.to_string()))?,
        Sender::H1(_) => {
            let host = HeaderValue::from_str(&outgoing.callee.host).map_err(|error| malformed(error.to_string()))?;
            list.insert(header::HOST, host);
            list.insert(header::TE, HeaderValue::from_static("trailers"));
            Uri::from(outgoing.target.clone())
        }
    };
    *request.headers_mut() = list;
    Ok(request)
}

/// A record before it is sealed.
struct Composed {
    payload: Payload,
    claims: Claims,
    cid: RandomId,
    iat: i64,
}

fn compose_record(outgoing: &Outgoing, lease: &Lease, target_uri: &str) -> Result<Composed, Refusal> {
    let now = clock::now_s();
    let method = outgoing.method.as_str();
    let lines = headers::lines(&outgoing.headers);
    let operation = &outgoing.operation;
    let jti = RandomId::generate().map_err(|_| Refusal::new("internal", "no randomness"))?;
    let op = operation.claim();
    let is_sealed = matches!(outgoing.parent, Parent::Sealed { .. });
    let inputs = outgoing.receipts.newest();
    let call = Call {
        iss: &lease.leaf.id,
        aud: outgoing.callee.id.as_str(),
        iat: now,
        exp: now + DEFAULT_LIFETIME_S,
        jti,
        rqb: binding::request_binding(method, target_uri, &lines).map_err(refusal_of)?,
        streams: outgoing.body.streams(),
        operations: &[&operation.name, &operation.http],
        srv: Some(lease.peer.leaf().thumbprint()),
        by: None,
        op,
        // A partner behind a sealed boundary learns nothing of other calls and of approvals.
        inputs: if is_sealed { &[] } else { &inputs },
        approvals: if is_sealed { &[] } else { &outgoing.terms.approvals },
        rr: true,
        tid: None,
    };
    let (payload, cid, hop) = match &outgoing.parent {
        Parent::Root { root, .. } | Parent::Sealed { root, .. } => (compose::root_payload(&call, root), root.cid, 0),
        Parent::Call(chain) => {
            (compose::child_payload(&call, chain, outgoing.terms.narrowing.as_ref()), chain.cid(), chain.hop() + 1)
        }
    };
    let claims = Claims {
        iss: call.iss.to_string(),
        aud: call.aud.to_owned(),
        jti: jti.to_string(),
        exp: call.exp,
        cid: cid.to_string(),
        hop: u32::try_from(hop).unwrap_or(u32::MAX),
        op: op.map(ToOwned::to_owned),
        args_hash: operation.args_hash.map(|hash| hash.to_string()),
    };
    Ok(Composed { payload: payload.map_err(refusal_of)?, claims, cid, iat: now })
}

/// The sealed text of a record that is about to count, once it is durable.
///
/// # Errors
/// The log cannot be written, or the key may not sign.
pub async fn seal(broker: &Broker, request: SealRequest) -> Result<String, Refusal> {
    let started = broker.started.get().ok_or_else(|| Refusal::new("log_unavailable", "not started"))?;
    durable(broker, started.log.queue_seal(request), "the record").await
}

/// The sealed text of `what`, once it is durable.
///
/// # Errors
/// As [`seal`].
pub async fn durable(broker: &Broker, queued: QueuedSeal, what: &str) -> Result<String, Refusal> {
    let written = timeout(ms(broker.settings.timeouts_ms.log_write), queued.sealed()).await;
    let late = |_| Refusal::new("log_unavailable", "the log did not write in time");
    written.map_err(late)?.map_err(|error| unlogged(error, what))
}

/// The refusal of a call of which `what` is not in the log.
pub fn unlogged(error: LogError, what: &str) -> Refusal {
    match error {
        LogError::Unavailable(why) => Refusal::new("log_unavailable", why),
        LogError::Unsealable(code) => Refusal::new(code, "the key may not sign"),
        LogError::Unwitnessed => Refusal::new("log_unwitnessed", format!("no witness confirmed {what} in time")),
    }
}

fn join(certs: Option<String>, extra: &[String]) -> Option<String> {
    let all: Vec<&str> = certs.iter().map(String::as_str).chain(extra.iter().map(String::as_str)).collect();
    (!all.is_empty()).then(|| all.join(", "))
}
