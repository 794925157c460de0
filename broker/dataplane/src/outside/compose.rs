//! The request that leaves for a party without custody, with the record of it that stays here.
//!
//! Owns: the sender's steps 4 and 5 of custody-wire §5 where nothing of them is sent. Does not own: connections.

use std::sync::Arc;

use hopseal_custody::binding::{self, content_digest};
use hopseal_custody::compose::{self, Payload};
use hopseal_custody::hash::{RandomId, StatementHash, Thumbprint, sha256};
use hopseal_custody::limits::{DEFAULT_LIFETIME_S, MAX_OP_BYTES};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::Full;

use super::call::Call;
use super::observed::Asked;
use super::send::Line;
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::clock;
use crate::grpc;
use crate::headers;
use crate::instance::Leaf;
use crate::kept_connections::Sender;
use crate::log::{Claims, SealRequest, Sealed};
use crate::operation::Operation;
use crate::outbound::{Caller, Parent};
use crate::outgoing::{Content, seal};
use crate::passing::Passing;
use crate::problem::{Refusal, refusal_of};
use crate::terms::Terms;
use crate::upload::{Closer, ClosingBody, RequestBody};
use crate::users;
use crate::voucher::join_decision;

/// The request for one attempt, its record sealed and durable in the log, and what its observation will tell of.
///
/// # Errors
/// The record may not be made, or the log cannot be written: the request must not be sent.
pub async fn compose(
    broker: &Arc<Broker>,
    call: &mut Call,
    line: &Line,
    record: &mut CallRecord,
) -> Result<(Request<RequestBody>, Asked), Refusal> {
    let target_uri = format!("https://{}{}", call.remote.authority(), call.target);
    let (audience, bound) = (call.remote.audience(), bound_fields(call));
    let told = Told {
        caller: &call.caller,
        parent: &call.parent,
        terms: &call.terms,
        inputs: &call.receipts.newest(),
        audience: &audience,
        method: call.method.as_str(),
        target_uri: &target_uri,
        bound: &bound,
        operation: &call.operation,
        srv: Some(line.x5t),
        streams: matches!(call.body, Content::Stream(_)),
    };
    let (payload, claims, cid) = compose_record(&told)?;
    record.cid = Some(claims.cid.clone());
    let leaf = Arc::clone(&call.caller.leaf);
    let rec = payload.statement_hash(&leaf.thumbprint());
    if let Some(token) = call.parent.root().and_then(|root| root.user.as_ref()) {
        users::log_token(broker, token);
    }
    let receiver_trust_domain = leaf.id.trust_domain().to_owned();
    let own = Arc::<Leaf>::clone(&leaf);
    let request = SealRequest { leaf: own, payload, receiver_trust_domain, claims: Sealed::Record(claims) };
    // The record never leaves: its sealed text is evidence for this log only.
    let _kept_here = seal(broker, request).await?;
    call.receipts.sent(rec);
    let asked = Asked {
        broker: Arc::clone(broker),
        leaf,
        cid,
        rec,
        host: line.host.clone(),
        spki: line.spki,
        receipts: Arc::clone(&call.receipts),
        decision: Some(join_decision(record.decision.as_deref(), &record.policy)),
    };
    let body = body_of(call, &asked, record)?;
    Ok((build(call, line, &target_uri, body)?, asked))
}

/// What is sent after the head; the closing statement of a stream is the caller's own, and stays here.
fn body_of(call: &mut Call, asked: &Asked, record: &mut CallRecord) -> Result<RequestBody, Refusal> {
    let body = match &mut call.body {
        Content::Whole(body) => return Ok(RequestBody::Whole(Full::new(body.bytes.clone()))),
        Content::Upgrade => return Err(Refusal::new("upgrade_unsupported", "no WebSocket without custody")),
        Content::Stream(body) => body.take().ok_or_else(|| Refusal::new("internal", "a stream is sent once"))?,
    };
    let sum = Passing::behind(&call.headers, record.pulse());
    let closer = Closer {
        broker: Arc::clone(&asked.broker),
        leaf: Arc::clone(&asked.leaf),
        callee: asked.leaf.id.clone(),
        cid: asked.cid,
        rec: asked.rec,
    };
    Ok(RequestBody::Closing(Box::new(ClosingBody::new(body, closer, sum).kept())))
}

/// The component's own message as its record binds it, and beside it the digest of the body, which does not leave.
fn bound_fields(call: &Call) -> HeaderMap {
    let mut bound = call.headers.clone();
    bound.remove("content-digest");
    if let Content::Whole(body) = &call.body
        && !body.bytes.is_empty()
    {
        let digest = HeaderValue::from_str(&content_digest(&sha256(&body.bytes)));
        bound.extend(digest.ok().map(|value| (HeaderName::from_static("content-digest"), value)));
    }
    bound
}

/// What the record of a call tells.
pub struct Told<'a> {
    pub caller: &'a Caller,
    pub parent: &'a Parent,
    pub terms: &'a Terms,
    /// Answers that it is based on.
    pub inputs: &'a [StatementHash],
    pub audience: &'a str,
    pub method: &'a str,
    pub target_uri: &'a str,
    pub bound: &'a HeaderMap,
    pub operation: &'a Operation,
    /// The leaf that the server showed.
    pub srv: Option<Thumbprint>,
    /// The body is closed by a statement of its own.
    pub streams: bool,
}

/// The record of a call to somebody who is not asked for a receipt.
///
/// # Errors
/// The authority does not cover the call, or a value cannot be bound.
pub fn compose_record(told: &Told<'_>) -> Result<(Payload, Claims, RandomId), Refusal> {
    let now = clock::now_s();
    let operation = told.operation;
    let op = (operation.name.len() <= MAX_OP_BYTES && operation.name.is_ascii()).then_some(operation.name.as_str());
    let jti = RandomId::generate().map_err(|_| Refusal::new("internal", "no randomness"))?;
    let lines = headers::lines(told.bound);
    let own = compose::Call {
        iss: &told.caller.leaf.id,
        aud: told.audience,
        iat: now,
        exp: now + DEFAULT_LIFETIME_S,
        jti,
        rqb: binding::request_binding(told.method, told.target_uri, &lines).map_err(refusal_of)?,
        streams: told.streams,
        operations: &[&operation.name, &operation.http],
        srv: told.srv,
        by: None,
        op,
        inputs: told.inputs,
        approvals: &told.terms.approvals,
        // An auditor expects an observation instead.
        rr: false,
        tid: None,
    };
    let (payload, cid, hop) = match told.parent {
        Parent::Root { root, .. } | Parent::Sealed { root, .. } => (compose::root_payload(&own, root), root.cid, 0),
        Parent::Call(chain) => {
            (compose::child_payload(&own, chain, told.terms.narrowing.as_ref()), chain.cid(), chain.hop() + 1)
        }
    };
    let claims = Claims {
        iss: own.iss.to_string(),
        aud: told.audience.to_owned(),
        jti: jti.to_string(),
        exp: own.exp,
        cid: cid.to_string(),
        hop: u32::try_from(hop).unwrap_or(u32::MAX),
        op: op.map(ToOwned::to_owned),
        args_hash: operation.args_hash.map(|hash| hash.to_string()),
    };
    Ok((payload.map_err(refusal_of)?, claims, cid))
}

fn build(call: &Call, line: &Line, target_uri: &str, body: RequestBody) -> Result<Request<RequestBody>, Refusal> {
    let malformed = |why: String| Refusal::new("request_invalid", why);
    let mut list = call.headers.clone();
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = match line.sender {
        Sender::H2(_) => {
            if grpc::is_grpc(&list) {
                list.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            target_uri.parse::<Uri>().map_err(|error| malformed(error.to_string()))?
        }
        Sender::H1(_) => {
            let host = HeaderValue::from_str(&call.remote.authority()).map_err(|error| malformed(error.to_string()))?;
            list.insert(header::HOST, host);
            Uri::from(call.target.clone())
        }
    };
    *request.headers_mut() = list;
    Ok(request)
}
