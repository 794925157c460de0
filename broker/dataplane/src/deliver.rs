//! The last step: an accepted request to the component's own socket, and its answer back.
//!
//! Owns: what the component gets to see. It gets the request without Custody fields and one handle,
//! with which its own calls continue the chain.

use std::sync::Arc;

use hopseal_custody::fields::HANDLE;
use http::uri::{InvalidUri, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, on};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::body::Buffered;
use crate::broker::{Broker, Context, Continues};
use crate::component::{Reached, Sender};
use crate::directory::{Component, ListenProtocol};
use crate::gathered::Gathered;
use crate::grpc;
use crate::headers;
use crate::opened::OpenedBody;
use crate::problem::{DECISION, Refusal};
use crate::relay;
use crate::settings::ms;
use crate::terms::{Terms, expires_at};
use crate::upload::RequestBody;
use crate::websocket;

/// An accepted request, but for its body.
pub struct Delivery<'a> {
    pub callee: &'a Component,
    /// What the component's own calls continue; None if it gets no handle.
    pub continues: Option<Continues>,
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    /// Receipts that the component will obtain because of this call.
    pub receipts: Arc<Gathered>,
}

/// The body of an accepted request.
pub enum Content {
    Whole(Buffered),
    Stream(OpenedBody),
}

/// Gives the request to the component and its answer back, streaming.
///
/// # Errors
/// `callee_unavailable`, `callee_timeout`.
pub async fn deliver(broker: &Broker, delivery: &Delivery<'_>, body: Content) -> Result<Response<Incoming>, Refusal> {
    if delivery.callee.listen_protocol == ListenProtocol::H1 && grpc::is_grpc(&delivery.headers) {
        return Err(Refusal::new("grpc_unsupported", "gRPC needs listenProtocol: h2 in the callee's document"));
    }
    let body = match body {
        Content::Whole(body) => body,
        // Sent once, and so on a connection that nobody can have closed for being idle.
        Content::Stream(body) => {
            let reached = reach_open(broker, delivery.callee).await?;
            let body = RequestBody::Opened(Box::new(body));
            return attempt(broker, delivery, reached, body).await.map_err(Undelivered::into_refusal);
        }
    };
    let whole = || RequestBody::Whole(Full::new(body.bytes.clone()));
    let reached = broker.sockets.reach(delivery.callee, false).await?;
    let was_fresh = reached.fresh;
    match attempt(broker, delivery, reached, whole()).await {
        // An idle connection that the component closed meanwhile: nothing of the request was read.
        Err(Undelivered::Unsent(_)) if !was_fresh => {
            broker.sockets.forget_shared(&delivery.callee.qualified);
            let reached = broker.sockets.reach(delivery.callee, true).await?;
            attempt(broker, delivery, reached, whole()).await.map_err(Undelivered::into_refusal)
        }
        other => other.map_err(Undelivered::into_refusal),
    }
}

/// What a component agreed to: its end of a WebSocket.
pub struct Agreed {
    pub near: OnUpgrade,
    /// Cancelled when it is withdrawn.
    pub listener: CancellationToken,
}

/// Asks the component for a WebSocket; with its answer, whether it agrees.
///
/// # Errors
/// As [`deliver`].
pub async fn deliver_wish(
    broker: &Broker,
    delivery: &Delivery<'_>,
) -> Result<(Response<Incoming>, Option<Agreed>), Refusal> {
    let mut reached = broker.sockets.reach(delivery.callee, true).await?;
    let mut request = build(broker, delivery, &reached, RequestBody::Whole(Full::default()))?;
    websocket::ask_component(request.headers_mut());
    let deadline = ms(broker.settings.timeouts_ms.response_head);
    let sent = timeout(deadline, reached.sender.send(request)).await;
    let sent = sent.map_err(|_| Refusal::new("callee_timeout", "no answer in time"))?;
    let mut response = sent.map_err(|error| Refusal::new("callee_unavailable", error.into_error().to_string()))?;
    let agrees = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if agrees && response.headers().get(header::UPGRADE).is_none_or(|value| !is_websocket(value)) {
        return Err(Refusal::new("callee_unavailable", "the component agreed to something else"));
    }
    let agreed = agrees.then(|| Agreed { near: on(&mut response), listener: reached.closed.clone() });
    headers::strip(response.headers_mut());
    response.headers_mut().remove(DECISION);
    Ok((response, agreed))
}

fn is_websocket(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// A connection for a request that is sent once: a shared one is open now, any other was never used.
async fn reach_open(broker: &Broker, callee: &Component) -> Result<Reached, Refusal> {
    let mut reached = broker.sockets.reach(callee, true).await?;
    let is_open = match &mut reached.sender {
        Sender::H2(sender) => sender.ready().await.is_ok(),
        Sender::H1(_) => true,
    };
    if is_open {
        return Ok(reached);
    }
    broker.sockets.forget_shared(&callee.qualified);
    broker.sockets.reach(callee, true).await
}

enum Undelivered {
    Unsent(String),
    Refused(Refusal),
}

impl Undelivered {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Unsent(why) => Refusal::new("callee_unavailable", why),
            Self::Refused(refusal) => refusal,
        }
    }
}

async fn attempt(
    broker: &Broker,
    delivery: &Delivery<'_>,
    mut reached: Reached,
    body: RequestBody,
) -> Result<Response<Incoming>, Undelivered> {
    let request = build(broker, delivery, &reached, body).map_err(Undelivered::Refused)?;
    relay::hand_on(broker, request.headers(), &reached.instance).await;
    let deadline = ms(broker.settings.timeouts_ms.response_head);
    let sent = timeout(deadline, reached.sender.send(request)).await;
    let sent = sent.map_err(|_| Undelivered::Refused(Refusal::new("callee_timeout", "no answer in time")))?;
    let mut response = sent.map_err(|mut error| {
        let why = error.error().to_string();
        match error.take_message() {
            Some(_unsent) => Undelivered::Unsent(why),
            None => Undelivered::Refused(Refusal::new("callee_unavailable", why)),
        }
    })?;
    broker.sockets.keep(&delivery.callee.qualified, reached);
    headers::strip(response.headers_mut());
    // Only brokers decide.
    response.headers_mut().remove(DECISION);
    Ok(response)
}

fn build(
    broker: &Broker,
    delivery: &Delivery<'_>,
    reached: &Reached,
    body: RequestBody,
) -> Result<Request<RequestBody>, Refusal> {
    let mut list = delivery.headers.clone();
    headers::strip(&mut list);
    if matches!(body, RequestBody::Whole(_)) {
        list.remove(header::CONTENT_LENGTH);
    }
    let unusable = |why: String| Refusal::new("callee_unavailable", why);
    let host = &delivery.callee.listen_host;
    let uri = if reached.sender.is_h2() {
        list.insert(header::TE, HeaderValue::from_static("trailers"));
        format!("http://{host}{}", delivery.target).parse().map_err(|error: InvalidUri| unusable(error.to_string()))?
    } else {
        list.insert(header::HOST, HeaderValue::from_str(host).map_err(|error| unusable(error.to_string()))?);
        Uri::from(delivery.target.clone())
    };
    if let Some(continues) = delivery.continues.clone() {
        let handle = issue(broker, delivery, reached, continues)?;
        list.extend(headers::custody_value(&handle).map(|value| (HeaderName::from_static(HANDLE), value)));
    }
    let mut request = Request::new(body);
    *request.method_mut() = delivery.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = list;
    Ok(request)
}

fn issue(broker: &Broker, delivery: &Delivery<'_>, reached: &Reached, continues: Continues) -> Result<String, Refusal> {
    let terms = Terms::default();
    let until = expires_at(&continues, &terms);
    let context = Context { continues, receipts: Arc::clone(&delivery.receipts), terms };
    let handle = broker.handles.issue(&reached.instance, Arc::new(context), until);
    handle.ok_or_else(|| Refusal::new("overloaded", "too many handles"))
}
