//! From a decision to the answer: connection, request, retry.
//!
//! Owns: the sender's steps 3, 6 and 7 of custody-wire §5. Every attempt that reaches a peer has its
//! own record; only a request that provably was not processed is sent again. Does not own: the
//! request and its record (see `outgoing`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hopseal_custody::fields::HANDLE;
use hopseal_custody::hash::encode_base64;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::call::CallRecord;
use crate::directory::Component;
use crate::headers;
use crate::instance::Leaf;
use crate::outbound::{Answered, Parent};
use crate::outgoing::{Outgoing, compose_request};
use crate::pool::{Lease, Sender};
use crate::problem::Refusal;
use crate::settings::ms;
use crate::task;

/// A request that was not processed is sent this often in all.
const ATTEMPTS: usize = 3;
/// Longest problem document that is looked into.
const MAX_PROBLEM_BYTES: usize = 16 << 10;

/// Why an attempt ended without a response.
enum Failed {
    /// The peer cannot have processed it.
    Unprocessed(String),
    Lost(String),
}

/// Sends the call and gives the peer's answer.
///
/// # Errors
/// The call did not happen, or its answer was lost.
pub async fn send(broker: &Arc<Broker>, outgoing: Outgoing, record: &mut CallRecord) -> Result<Answered, Refusal> {
    let mut extra_certificates: Vec<String> = Vec::new();
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        let lease = connect(broker, &outgoing).await?;
        let request = compose_request(broker, &outgoing, &lease, &extra_certificates, record).await?;
        let response = match transmit(broker, lease, request).await {
            Ok(response) => response,
            Err(Failed::Unprocessed(why)) => {
                last = why;
                continue;
            }
            Err(Failed::Lost(why)) => return Err(Refusal::new("peer_unreachable", why)),
        };
        if response.status() != StatusCode::PRECONDITION_REQUIRED || !is_problem(response.headers()) {
            return finish(broker, outgoing, response.map(Ok));
        }
        let (response, missing) = read_missing(broker, response).await?;
        extra_certificates = own_certificates(&outgoing.caller.leaf, &missing);
        if attempt > 0 || extra_certificates.is_empty() {
            return finish(broker, outgoing, response.map(Err));
        }
    }
    Err(Refusal::new("peer_unreachable", last))
}

/// Each endpoint is tried until one connects.
async fn connect(broker: &Broker, outgoing: &Outgoing) -> Result<Lease, Refusal> {
    let callee = &outgoing.callee;
    let endpoints = endpoints_of(broker, callee)?;
    let mut last = Refusal::new("peer_unreachable", "no endpoint");
    for endpoint in endpoints {
        match broker.pool.lease(&outgoing.caller.leaf, callee, &endpoint).await {
            Ok(lease) => return Ok(lease),
            Err(refusal) => last = refusal,
        }
    }
    Err(last)
}

/// A listener that is admitted here wins, through our own peer port; else the routes. Every node has
/// every document, so a `listen` path alone says nothing about this node.
fn endpoints_of(broker: &Broker, callee: &Component) -> Result<Vec<String>, Refusal> {
    let own = || broker.started.get().map(|started| vec![started.peer_address.to_string()]);
    let has_identity = |owner| broker.instances.current(owner).is_some();
    if broker.listeners.serving(&callee.qualified).as_ref().is_some_and(has_identity)
        && let Some(own) = own()
    {
        return Ok(own);
    }
    let routes = broker.directory.endpoints(&callee.qualified);
    if !routes.is_empty() {
        return Ok(routes);
    }
    // A listener that no call has met yet is admitted by the first that does.
    let is_known_here = callee.listen.is_some() && broker.instances.serving(&callee.qualified, None).is_some();
    let nowhere = || Refusal::new("callee_unavailable", format!("{} is not here and has no route", callee.qualified));
    own().filter(|_| is_known_here).ok_or_else(nowhere)
}

async fn transmit(broker: &Broker, lease: Lease, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failed> {
    let deadline = ms(broker.settings.timeouts_ms.response_head);
    let return_to = lease.return_to();
    match lease.sender {
        Sender::H2(mut sender) => {
            sender.ready().await.map_err(|error| Failed::Unprocessed(error.to_string()))?;
            let sent = timeout(deadline, sender.try_send_request(request)).await.map_err(|_| lost_in_time(deadline))?;
            sent.map_err(|mut error| failed(error.take_message().is_some(), error.error()))
        }
        Sender::H1(mut sender) => {
            let sent = timeout(deadline, sender.try_send_request(request)).await.map_err(|_| lost_in_time(deadline))?;
            let response = sent.map_err(|mut error| failed(error.take_message().is_some(), error.error()))?;
            return_to.reuse(sender);
            Ok(response)
        }
    }
}

fn lost_in_time(deadline: Duration) -> Failed {
    Failed::Lost(format!("no answer within {} s", deadline.as_secs()))
}

/// A request that never left us, or that the peer's HTTP/2 layer says it did not look at, may be
/// sent again; anything else may have been acted on.
fn failed(unsent: bool, error: &hyper::Error) -> Failed {
    let mut why = error.to_string();
    let mut unprocessed = unsent;
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        why = format!("{why}: {inner}");
        unprocessed |= inner.downcast_ref::<h2::Error>().is_some_and(says_unprocessed);
        source = inner.source();
    }
    if unprocessed { Failed::Unprocessed(why) } else { Failed::Lost(why) }
}

/// RFC 9113 §8.7: a refused stream, or one above the last that a GOAWAY names; h2 reports the latter
/// to those streams only.
fn says_unprocessed(error: &h2::Error) -> bool {
    let said_goodbye = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (said_goodbye || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// The answer as the component gets it; a new root comes with the handle of its siblings.
fn finish(
    broker: &Broker,
    outgoing: Outgoing,
    response: Response<Result<Incoming, Bytes>>,
) -> Result<Answered, Refusal> {
    let (mut parts, body) = response.into_parts();
    headers::strip(&mut parts.headers);
    if let Parent::Root { root, is_new: true } = outgoing.parent {
        let handle = task::issue(broker, &outgoing.caller, root)?;
        let value = headers::custody_value(&handle);
        parts.headers.extend(value.map(|value| (HeaderName::from_static(HANDLE), value)));
    }
    parts.version = http::Version::HTTP_11;
    Ok(match body {
        Ok(stream) => Answered::Stream(Response::from_parts(parts, stream)),
        Err(whole) => Answered::Whole(Response::from_parts(parts, whole)),
    })
}

fn is_problem(list: &HeaderMap) -> bool {
    list.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/problem+json")
}

/// The items that the peer asks for (custody-wire §5.7), and the response with its body read.
async fn read_missing(
    broker: &Broker,
    response: Response<Incoming>,
) -> Result<(Response<Bytes>, Vec<String>), Refusal> {
    let (parts, body) = response.into_parts();
    let read = timeout(ms(broker.settings.timeouts_ms.body_read), Limited::new(body, MAX_PROBLEM_BYTES).collect());
    let body = read.await.map_err(|_| Refusal::new("peer_timeout", "a refusal did not end in time"))?;
    let body = body.map_err(|error| Refusal::new("peer_unreachable", error.to_string()))?.to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let missing = if problem["code"] == "custody_unresolved" { problem["missing"].as_array() } else { None };
    let missing = missing.into_iter().flatten().filter_map(|item| item.as_str().map(ToOwned::to_owned)).collect();
    Ok((Response::from_parts(parts, body), missing))
}

/// Those of our own certificates that the peer lacks; ancestors' were sent already.
fn own_certificates(leaf: &Leaf, missing: &[String]) -> Vec<String> {
    let own = std::iter::once(&leaf.certificate).chain(&leaf.intermediates);
    own.filter(|certificate| missing.contains(&format!("cert:{}", certificate.thumbprint())))
        .map(|certificate| format!(":{}:", encode_base64(certificate.der())))
        .collect()
}
