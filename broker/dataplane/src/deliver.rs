//! The last step: an accepted request to the component's own socket, and its answer back.
//!
//! Owns: what the component gets to see. It gets the request without Custody fields and one handle,
//! with which its own calls continue the chain.

use std::sync::Arc;

use hopseal_custody::fields::HANDLE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::body::Buffered;
use crate::broker::{Broker, Context, Continues};
use crate::component::Reached;
use crate::directory::Component;
use crate::gathered::Gathered;
use crate::headers;
use crate::opened::OpenedBody;
use crate::problem::{DECISION, Refusal};
use crate::relay;
use crate::settings::ms;
use crate::terms::{Terms, expires_at};
use crate::upload::RequestBody;

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
    let body = match body {
        Content::Whole(body) => body,
        // Sent once, and so on a connection that nobody can have closed for being idle.
        Content::Stream(body) => {
            let reached = broker.sockets.reach(delivery.callee, true).await?;
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
            let reached = broker.sockets.reach(delivery.callee, true).await?;
            attempt(broker, delivery, reached, whole()).await.map_err(Undelivered::into_refusal)
        }
        other => other.map_err(Undelivered::into_refusal),
    }
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
    let sent = timeout(deadline, reached.sender.try_send_request(request)).await;
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
    let host = HeaderValue::from_str(&delivery.callee.listen_host);
    list.insert(header::HOST, host.map_err(|error| Refusal::new("callee_unavailable", error.to_string()))?);
    if let Some(continues) = delivery.continues.clone() {
        let handle = issue(broker, delivery, reached, continues)?;
        list.extend(headers::custody_value(&handle).map(|value| (HeaderName::from_static(HANDLE), value)));
    }
    let mut request = Request::new(body);
    *request.method_mut() = delivery.method.clone();
    *request.uri_mut() = Uri::from(delivery.target.clone());
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
