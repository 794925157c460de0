//! From a decision to the answer, where the other side knows nothing of custody.
//!
//! Owns: connections to try, and sending again what provably was not processed. Does not own: the record and the
//! request (see `compose`), the answer (see `observed`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use hopseal_custody::cert::hash_public_key;
use hopseal_custody::hash::{ClaimHash, Thumbprint};
use http::{HeaderName, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::timeout;

use super::call::{Call, Remote};
use super::compose::compose;
use super::observed::take;
use crate::breaker::{Passage, Route};
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::directory::Component;
use crate::headers;
use crate::kept_connections::Sender;
use crate::outbound::Parent;
use crate::outgoing::Content;
use crate::problem::Refusal;
use crate::reply::Reply;
use crate::send::{ATTEMPTS, Failed, failed, lost_in_time};
use crate::settings::ms;
use crate::task;
use crate::upload::RequestBody;

/// A connection ready for one request, and what is known of its server.
pub struct Line {
    pub sender: Sender,
    /// As in an origin.
    pub host: String,
    pub spki: ClaimHash,
    pub x5t: Thumbprint,
    reuse: Reuse,
}

type Reuse = Box<dyn FnOnce(SendRequest<RequestBody>) + Send + Sync>;

/// Sends the call and gives the answer, observed.
///
/// # Errors
/// The call did not happen, or its answer was lost.
pub async fn send(broker: &Arc<Broker>, mut call: Call, record: &mut CallRecord) -> Result<Response<Reply>, Refusal> {
    let streams = matches!(call.body, Content::Stream(_));
    let (mut last, callee) = (String::new(), call.remote.authority());
    broker.retries.count_call(&callee, Instant::now());
    for attempt in 0..ATTEMPTS {
        if attempt > 0 && !broker.retries.admits(&callee, Instant::now()) {
            return Err(Refusal::new("retry_budget_spent", last));
        }
        let (line, passage) = connect(broker, &call).await?;
        let (request, asked) = compose(broker, &mut call, &line, record).await?;
        let response = match transmit(broker, line, request).await {
            Ok(response) => response,
            Err(Failed::Unprocessed(why)) if !streams => {
                last = why;
                continue;
            }
            Err(failed) => {
                passage.failed(Instant::now());
                return Err(match failed {
                    Failed::Silent(why) => silent(&call, why),
                    Failed::Lost(why) | Failed::Unprocessed(why) => unreachable(&call, why),
                });
            }
        };
        passage.answered();
        let is_head = call.method == Method::HEAD;
        let answer = take(asked, response, is_head, call.version >= Version::HTTP_11).await?;
        return finish(broker, call, answer);
    }
    Err(unreachable(&call, last))
}

fn silent(call: &Call, why: String) -> Refusal {
    let code = match call.remote {
        Remote::Peer(_) => "peer_timeout",
        Remote::External { .. } => "egress_timeout",
    };
    Refusal::new(code, why)
}

fn unreachable(call: &Call, why: String) -> Refusal {
    let code = match call.remote {
        Remote::Peer(_) => "peer_unreachable",
        Remote::External { .. } => "egress_unreachable",
    };
    Refusal::new(code, why)
}

async fn connect(broker: &Broker, call: &Call) -> Result<(Line, Passage), Refusal> {
    match &call.remote {
        Remote::Peer(peer) => connect_peer(broker, call, peer).await,
        Remote::External { host, port } => {
            let passage = pass(broker, call, &call.remote.authority());
            let passage = passage.ok_or_else(|| Refusal::new("endpoints_failing", "it failed lately"))?;
            let lease = match broker.web.lease(&call.caller.leaf, host, *port).await {
                Ok(lease) => lease,
                Err(refusal) => {
                    passage.failed(Instant::now());
                    return Err(refusal);
                }
            };
            let (sender, server, place) = lease.into_parts();
            let reuse: Reuse = Box::new(|sender| place.reuse(sender));
            let host = call.remote.authority();
            Ok((Line { sender, host, spki: server.spki, x5t: server.x5t, reuse }, passage))
        }
    }
}

/// None while the endpoint is left alone.
fn pass(broker: &Broker, call: &Call, endpoint: &str) -> Option<Passage> {
    let (caller, callee) = (call.caller.leaf.id.clone(), call.remote.authority());
    broker.breakers.pass(Route { caller, callee, endpoint: endpoint.to_owned() }, Instant::now())
}

/// Each endpoint of the routes is tried until one connects; it must prove the SPIFFE ID that was asked for.
async fn connect_peer(broker: &Broker, call: &Call, peer: &Component) -> Result<(Line, Passage), Refusal> {
    let mut last = Refusal::new("callee_unavailable", format!("{} has no route", peer.qualified));
    for endpoint in broker.directory.endpoints(&peer.qualified) {
        let Some(passage) = pass(broker, call, &endpoint) else {
            last = Refusal::new("endpoints_failing", "every endpoint failed lately");
            continue;
        };
        match broker.pool.lease(&call.caller.leaf, peer, &endpoint).await {
            Ok(lease) => {
                let leaf = lease.peer.leaf();
                let spki = hash_public_key(leaf.der());
                let spki = spki.ok_or_else(|| Refusal::new("peer_untrusted", "the peer's key cannot be read"))?;
                let (x5t, return_to) = (leaf.thumbprint(), lease.return_to());
                let reuse: Reuse = Box::new(|sender| return_to.reuse(sender));
                let host = endpoint.to_ascii_lowercase();
                return Ok((Line { sender: lease.sender, host, spki, x5t, reuse }, passage));
            }
            Err(refusal) => {
                passage.failed(Instant::now());
                last = refusal;
            }
        }
    }
    Err(last)
}

async fn transmit(broker: &Broker, line: Line, request: Request<RequestBody>) -> Result<Response<Incoming>, Failed> {
    let deadline = ms(broker.settings.timeouts_ms.response_head);
    let stalled = request.body().stalled(ms(broker.settings.timeouts_ms.body_read));
    match line.sender {
        Sender::H2(mut sender) => {
            sender.ready().await.map_err(|error| Failed::Unprocessed(error.to_string()))?;
            let sent = in_time(deadline, stalled, sender.try_send_request(request)).await?;
            sent.map_err(|mut error| failed(error.take_message().is_some(), error.error()))
        }
        Sender::H1(mut sender) => {
            let sent = in_time(deadline, stalled, sender.try_send_request(request)).await?;
            let response = sent.map_err(|mut error| failed(error.take_message().is_some(), error.error()))?;
            (line.reuse)(sender);
            Ok(response)
        }
    }
}

/// What `sending` gives, unless the peer takes too long to answer, or takes nothing of a stream.
async fn in_time<T>(
    deadline: Duration,
    stalled: impl Future<Output = ()>,
    sending: impl Future<Output = T>,
) -> Result<T, Failed> {
    tokio::select! {
        sent = timeout(deadline, sending) => sent.map_err(|_| lost_in_time(deadline)),
        () = stalled => Err(Failed::Lost("the peer takes no more of the body".to_owned())),
    }
}

/// The answer as the component gets it; a new root comes with the handle of its siblings.
fn finish(broker: &Broker, call: Call, mut response: Response<Reply>) -> Result<Response<Reply>, Refusal> {
    if let Parent::Root { root, is_new: true } = call.parent {
        let handle = task::issue(broker, &call.caller, root, call.receipts)?;
        let value = headers::custody_value(&handle);
        let name = HeaderName::from_static(hopseal_custody::fields::HANDLE);
        response.headers_mut().extend(value.map(|value| (name, value)));
    }
    Ok(response)
}
