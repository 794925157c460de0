//! The request that goes to the peer, with its record.
//!
//! Owns: the sender's steps 4 and 5 of custody-wire §5: binding, record, seal, durable log, fields.
//! Does not own: connections and retries (see `send`).

use std::sync::Arc;

use bytes::Bytes;
use hopseal_custody::binding;
use hopseal_custody::compose::{self, Call, Payload};
use hopseal_custody::fields::{CERTS, CHAIN, RECORD};
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::hash::RandomId;
use hopseal_custody::limits::{DEFAULT_LIFETIME_S, MAX_OP_BYTES};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::Full;
use tokio::time::timeout;

use crate::awaited::Sent;
use crate::body::Buffered;
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::clock;
use crate::directory::Component;
use crate::gathered::Gathered;
use crate::headers;
use crate::instance::Leaf;
use crate::log::{Claims, LogError, SealRequest, Sealed};
use crate::operation::Operation;
use crate::outbound::{Caller, Parent};
use crate::pool::{Lease, Sender};
use crate::problem::{Refusal, refusal_of};
use crate::settings::ms;

/// A call that policy has allowed.
pub struct Outgoing {
    pub caller: Caller,
    pub callee: Arc<Component>,
    pub parent: Parent,
    /// Receipts obtained under the same handle.
    pub receipts: Arc<Gathered>,
    pub method: Method,
    /// That of the component's request.
    pub version: Version,
    pub target: PathAndQuery,
    /// As it will be sent, but for the Custody fields.
    pub headers: HeaderMap,
    pub body: Buffered,
    pub operation: Operation,
}

/// The request for one attempt, its record sealed and durable in the log, and what its receipt must fit.
///
/// # Errors
/// The record may not be made, or the log cannot be written: the request must not be sent.
pub async fn compose_request(
    broker: &Arc<Broker>,
    outgoing: &Outgoing,
    lease: &Lease,
    extra_certificates: &[String],
    record: &mut CallRecord,
) -> Result<(Request<Full<Bytes>>, Sent), Refusal> {
    let fields = match &outgoing.parent {
        Parent::Root { .. } => ForwardedFields::default(),
        Parent::Call(chain) => ForwardedFields::build(chain, broker.receive_policy().hops).map_err(refusal_of)?,
    };
    let target_uri = format!("https://{}{}", outgoing.callee.host, outgoing.target);
    let Composed { payload, claims, cid, iat } = compose_record(outgoing, lease, &target_uri)?;
    record.cid = Some(claims.cid.clone());
    let sent = Sent {
        broker: Arc::clone(broker),
        caller: lease.leaf.id.clone(),
        callee: outgoing.callee.id.clone(),
        cid,
        rec: payload.statement_hash(&lease.leaf.thumbprint()),
        iat,
        server: lease.peer.clone(),
        receipts: Arc::clone(&outgoing.receipts),
    };
    let request = SealRequest {
        leaf: Arc::<Leaf>::clone(&lease.leaf),
        payload,
        receiver_trust_domain: outgoing.callee.id.trust_domain().to_owned(),
        claims: Sealed::Record(claims),
    };
    let sealed = seal(broker, request).await?;
    fields.check_with_record(&sealed).map_err(refusal_of)?;
    let certs = join(fields.certs, extra_certificates);
    let mut list = outgoing.headers.clone();
    for (name, value) in [(RECORD, Some(sealed)), (CHAIN, fields.chain), (CERTS, certs)] {
        let value = value.as_deref().and_then(headers::custody_value);
        list.extend(value.map(|value| (HeaderName::from_static(name), value)));
    }
    Ok((build_request(outgoing, lease, &target_uri, list)?, sent))
}

fn build_request(
    outgoing: &Outgoing,
    lease: &Lease,
    target_uri: &str,
    mut list: HeaderMap,
) -> Result<Request<Full<Bytes>>, Refusal> {
    let malformed = |why: String| Refusal::new("request_invalid", why);
    let mut request = Request::new(Full::new(outgoing.body.bytes.clone()));
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
    let op = (operation.name.len() <= MAX_OP_BYTES && operation.name.is_ascii()).then_some(operation.name.as_str());
    let call = Call {
        iss: &lease.leaf.id,
        aud: outgoing.callee.id.as_str(),
        iat: now,
        exp: now + DEFAULT_LIFETIME_S,
        jti,
        rqb: binding::request_binding(method, target_uri, &lines).map_err(refusal_of)?,
        streams: false,
        operations: &[&operation.name, &operation.http],
        srv: Some(lease.peer.leaf().thumbprint()),
        by: None,
        op,
        inputs: &outgoing.receipts.newest(),
        rr: true,
        tid: None,
    };
    let (payload, cid, hop) = match &outgoing.parent {
        Parent::Root { root, .. } => (compose::root_payload(&call, root), root.cid, 0),
        Parent::Call(chain) => (compose::child_payload(&call, chain, None), chain.cid(), chain.hop() + 1),
    };
    let claims = Claims {
        iss: call.iss.to_string(),
        aud: call.aud.to_owned(),
        jti: jti.to_string(),
        exp: call.exp,
        cid: cid.to_string(),
        hop: u32::try_from(hop).unwrap_or(u32::MAX),
        op: op.map(ToOwned::to_owned),
    };
    Ok(Composed { payload: payload.map_err(refusal_of)?, claims, cid, iat: now })
}

async fn seal(broker: &Broker, request: SealRequest) -> Result<String, Refusal> {
    let started = broker.started.get().ok_or_else(|| Refusal::new("log_unavailable", "not started"))?;
    match timeout(ms(broker.settings.timeouts_ms.log_write), started.log.seal(request)).await {
        Ok(Ok(sealed)) => Ok(sealed),
        Ok(Err(LogError::Unavailable(why))) => Err(Refusal::new("log_unavailable", why)),
        Ok(Err(LogError::Unsealable(code))) => Err(Refusal::new(code, "the key may not sign")),
        Ok(Err(LogError::Unwitnessed)) => {
            Err(Refusal::new("log_unwitnessed", "no witness confirmed the record in time"))
        }
        Err(_elapsed) => Err(Refusal::new("log_unavailable", "the log did not write in time")),
    }
}

fn join(certs: Option<String>, extra: &[String]) -> Option<String> {
    let all: Vec<&str> = certs.iter().map(String::as_str).chain(extra.iter().map(String::as_str)).collect();
    (!all.is_empty()).then(|| all.join(", "))
}
