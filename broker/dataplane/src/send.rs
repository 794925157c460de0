//! From a decision to the answer: connection, request, retry.
//!
//! Owns: the sender's steps 3, 6 and 7 of custody-wire §5. Every attempt that reaches a peer has its
//! own record; only a request that provably was not processed is sent again. Does not own: the
//! request and its record (see `outgoing`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use hopseal_custody::acknowledged::can_supply;
use hopseal_custody::error::Code;
use hopseal_custody::fields::HANDLE;
use hopseal_custody::hash::{Thumbprint, encode_base64};
use http::{HeaderName, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::breaker::{Passage, Route};
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::clock;
use crate::directory::Component;
use crate::headers;
use crate::instance::Leaf;
use crate::kept_connections::Sender;
use crate::outbound::Parent;
use crate::outgoing::{Content, Outgoing, compose_request};
use crate::pool::Lease;
use crate::problem::{PeerRefusal, Refusal};
use crate::reply::Reply;
use crate::settings::ms;
use crate::task;
use crate::upload::RequestBody;
use crate::verified::{Taken, take};

/// A request that was not processed is sent this often in all.
pub const ATTEMPTS: usize = 3;

/// Why an attempt ended without a response.
pub enum Failed {
    /// The peer cannot have processed it.
    Unprocessed(String),
    Lost(String),
    /// Its time is over.
    Silent(String),
}

impl Failed {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Unprocessed(why) | Self::Lost(why) => Refusal::new("peer_unreachable", why),
            Self::Silent(why) => Refusal::new("peer_timeout", why),
        }
    }
}

/// Sends the call and gives the peer's answer.
///
/// # Errors
/// The call did not happen, or its answer was lost.
pub async fn send(
    broker: &Arc<Broker>,
    mut outgoing: Outgoing,
    record: &mut CallRecord,
) -> Result<Response<Reply>, Refusal> {
    let mut again: Option<Vec<String>> = None;
    let mut last = String::new();
    broker.retries.count_call(outgoing.callee.id.as_str(), Instant::now());
    for attempt in 0..ATTEMPTS {
        if attempt > 0 && again.is_none() && !broker.retries.admits(outgoing.callee.id.as_str(), Instant::now()) {
            return Err(Refusal::new("retry_budget_spent", last));
        }
        let (lease, passage) = connect(broker, &outgoing).await?;
        let streams = matches!(outgoing.body, Content::Stream(_));
        if streams && matches!(lease.sender, Sender::H1(_)) {
            return Err(Refusal::new("body_too_large", "the peer takes no streams: it speaks HTTP/1.1 only"));
        }
        let peer = lease.peer.leaf().thumbprint();
        let (request, sent) = compose_request(broker, &mut outgoing, &lease, again.as_deref(), record).await?;
        let response = match transmit(broker, lease, request).await {
            Ok(response) => response,
            // An endpoint that says goodbye is sound: its calls go elsewhere, or to its successor.
            Err(Failed::Unprocessed(why)) if !streams => {
                last = why;
                continue;
            }
            Err(failed) => {
                passage.failed(Instant::now());
                return Err(failed.into_refusal());
            }
        };
        passage.answered();
        let is_head = outgoing.method == Method::HEAD;
        match take(sent, response, is_head, outgoing.version).await? {
            Taken::Answer(response) => {
                acknowledge(broker, &outgoing, &peer, response.status());
                return finish(broker, outgoing, response);
            }
            Taken::Refused(PeerRefusal { refusal })
                if again.is_none() && !streams && lacks_what_we_have(&outgoing, &refusal) =>
            {
                broker.acknowledged.forget(&peer, clock::now_s());
                again = Some(wanted_certificates(&outgoing.caller.leaf, &refusal));
            }
            Taken::Refused(PeerRefusal { refusal }) => {
                return finish(broker, outgoing, refusal.response().map(Reply::whole));
            }
        }
    }
    Err(Refusal::new("peer_unreachable", last))
}

/// Each endpoint that is not left alone is tried until one connects.
async fn connect(broker: &Broker, outgoing: &Outgoing) -> Result<(Lease, Passage), Refusal> {
    let (caller, callee) = (&outgoing.caller.leaf.id, &outgoing.callee);
    let mut last = Refusal::new("endpoints_failing", "every endpoint failed lately");
    for endpoint in endpoints_of(broker, callee)? {
        let route = Route { caller: caller.clone(), callee: callee.id.to_string(), endpoint };
        let Some(passage) = broker.breakers.pass(route, Instant::now()) else { continue };
        match broker.pool.lease(&outgoing.caller.leaf, callee, passage.endpoint()).await {
            Ok(lease) => return Ok((lease, passage)),
            Err(refusal) => {
                passage.failed(Instant::now());
                last = refusal;
            }
        }
    }
    Err(last)
}

/// A listener that is admitted here wins, through our own peer port; else the routes. Every node has
/// every document, so a `listen` path alone says nothing about this node.
pub fn endpoints_of(broker: &Broker, callee: &Component) -> Result<Vec<String>, Refusal> {
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

async fn transmit(broker: &Broker, lease: Lease, request: Request<RequestBody>) -> Result<Response<Incoming>, Failed> {
    let deadline = ms(broker.settings.timeouts_ms.response_head);
    let return_to = lease.return_to();
    match lease.sender {
        Sender::H2(mut sender) => {
            sender.ready().await.map_err(|error| Failed::Unprocessed(error.to_string()))?;
            let stalled = request.body().stalled(ms(broker.settings.timeouts_ms.body_read));
            let sent = tokio::select! {
                sent = timeout(deadline, sender.try_send_request(request)) => sent.map_err(|_| lost_in_time(deadline))?,
                () = stalled => return Err(Failed::Silent("the peer takes no more of the body".to_owned())),
            };
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

pub fn lost_in_time(deadline: Duration) -> Failed {
    Failed::Silent(format!("no answer within {} s", deadline.as_secs()))
}

/// A request that never left us, or that the peer's HTTP/2 layer says it did not look at, may be
/// sent again; anything else may have been acted on.
pub fn failed(unsent: bool, error: &hyper::Error) -> Failed {
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
pub fn finish(broker: &Broker, outgoing: Outgoing, mut response: Response<Reply>) -> Result<Response<Reply>, Refusal> {
    if let Parent::Root { root, is_new: true } = outgoing.parent {
        let handle = task::issue(broker, &outgoing.caller, root, outgoing.receipts)?;
        let value = headers::custody_value(&handle);
        response.headers_mut().extend(value.map(|value| (HeaderName::from_static(HANDLE), value)));
    }
    Ok(response)
}

/// A peer that acted on the request holds what came with it (custody-wire §5.6).
fn acknowledge(broker: &Broker, outgoing: &Outgoing, peer: &Thumbprint, status: StatusCode) {
    if let Parent::Call(chain) = &outgoing.parent
        && status.is_success()
    {
        broker.acknowledged.acknowledge(peer, chain, clock::now_s());
    }
}

/// True if the peer refused for want of items and we have one of them: once more is worth it (custody-wire §5.7).
fn lacks_what_we_have(outgoing: &Outgoing, refusal: &Refusal) -> bool {
    let in_chain = |item: &String| match &outgoing.parent {
        Parent::Call(chain) => can_supply(chain, item),
        Parent::Root { .. } | Parent::Sealed { .. } => false,
    };
    refusal.code == Code::Unresolved.as_str()
        && (refusal.missing.iter().any(in_chain) || !wanted_certificates(&outgoing.caller.leaf, refusal).is_empty())
}

/// Those of our own certificates that the peer asks for; the next attempt brings all of the ancestors'.
fn wanted_certificates(leaf: &Leaf, refusal: &Refusal) -> Vec<String> {
    let own = std::iter::once(&leaf.certificate).chain(&leaf.intermediates);
    own.filter(|certificate| refusal.missing.contains(&format!("cert:{}", certificate.thumbprint())))
        .map(|certificate| format!(":{}:", encode_base64(certificate.der())))
        .collect()
}
