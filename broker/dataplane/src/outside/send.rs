//! From a decision to the answer, where the other side knows nothing of custody.
//!
//! Owns: connections to try, and sending again what provably was not processed. Does not own: the record and the
//! request (see `compose`), the answer (see `observed`).

use std::sync::Arc;

use hopseal_custody::cert::hash_public_key;
use hopseal_custody::hash::{ClaimHash, Thumbprint};
use http::{HeaderName, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::timeout;

use super::call::{Call, Remote};
use super::compose::compose;
use super::observed::take;
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::directory::Component;
use crate::headers;
use crate::outbound::Parent;
use crate::pool::Sender;
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
pub async fn send(broker: &Arc<Broker>, call: Call, record: &mut CallRecord) -> Result<Response<Reply>, Refusal> {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let line = connect(broker, &call).await?;
        let (request, asked) = compose(broker, &call, &line, record).await?;
        let response = match transmit(broker, line, request).await {
            Ok(response) => response,
            Err(Failed::Unprocessed(why)) => {
                last = why;
                continue;
            }
            Err(Failed::Lost(why)) => return Err(unreachable(&call, why)),
        };
        let is_head = call.method == Method::HEAD;
        let answer = take(asked, response, is_head, call.version >= Version::HTTP_11).await?;
        return finish(broker, call, answer);
    }
    Err(unreachable(&call, last))
}

fn unreachable(call: &Call, why: String) -> Refusal {
    let code = match call.remote {
        Remote::Peer(_) => "peer_unreachable",
        Remote::External { .. } => "egress_unreachable",
    };
    Refusal::new(code, why)
}

async fn connect(broker: &Broker, call: &Call) -> Result<Line, Refusal> {
    match &call.remote {
        Remote::Peer(peer) => connect_peer(broker, call, peer).await,
        Remote::External { host, port } => {
            let lease = broker.web.lease(&call.caller.leaf, host, *port).await?;
            let (sender, server, place) = lease.into_parts();
            let reuse: Reuse = Box::new(|sender| place.reuse(sender));
            Ok(Line { sender, host: call.remote.authority(), spki: server.spki, x5t: server.x5t, reuse })
        }
    }
}

/// Each endpoint of the routes is tried until one connects; it must prove the SPIFFE ID that was asked for.
async fn connect_peer(broker: &Broker, call: &Call, peer: &Component) -> Result<Line, Refusal> {
    let mut last = Refusal::new("callee_unavailable", format!("{} has no route", peer.qualified));
    for endpoint in broker.directory.endpoints(&peer.qualified) {
        match broker.pool.lease(&call.caller.leaf, peer, &endpoint).await {
            Ok(lease) => {
                let leaf = lease.peer.leaf();
                let spki = hash_public_key(leaf.der());
                let spki = spki.ok_or_else(|| Refusal::new("peer_untrusted", "the peer's key cannot be read"))?;
                let (x5t, return_to) = (leaf.thumbprint(), lease.return_to());
                let reuse: Reuse = Box::new(|sender| return_to.reuse(sender));
                return Ok(Line { sender: lease.sender, host: endpoint.to_ascii_lowercase(), spki, x5t, reuse });
            }
            Err(refusal) => last = refusal,
        }
    }
    Err(last)
}

async fn transmit(broker: &Broker, line: Line, request: Request<RequestBody>) -> Result<Response<Incoming>, Failed> {
    let deadline = ms(broker.settings.timeouts_ms.response_head);
    match line.sender {
        Sender::H2(mut sender) => {
            sender.ready().await.map_err(|error| Failed::Unprocessed(error.to_string()))?;
            let sent = timeout(deadline, sender.try_send_request(request)).await.map_err(|_| lost_in_time(deadline))?;
            sent.map_err(|mut error| failed(error.take_message().is_some(), error.error()))
        }
        Sender::H1(mut sender) => {
            let sent = timeout(deadline, sender.try_send_request(request)).await.map_err(|_| lost_in_time(deadline))?;
            let response = sent.map_err(|mut error| failed(error.take_message().is_some(), error.error()))?;
            (line.reuse)(sender);
            Ok(response)
        }
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
