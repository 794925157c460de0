//! Calls of local components: from `out.sock` to a decision.
//!
//! Owns: reading the request, naming the peer, choosing what the call continues, asking policy.
//! Does not own: the record and the wire (see `send`), opening tasks (see `task`).
//!
//! Source: runtime.md "Calls inside a node"; custody-wire §5.

use std::sync::Arc;

use hopseal_custody::chain::Chain;
use hopseal_custody::compose::Root;
use hopseal_custody::fields::HANDLE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;

use crate::body::{Intake, drain};
use crate::boundary;
use crate::broker::{Broker, Context, Continues};
use crate::call::CallRecord;
use crate::callers::Connected;
use crate::clock;
use crate::directory::Component;
use crate::grpc;
use crate::headers;
use crate::instance::{InstanceKey, Leaf};
use crate::judge::{Requested, judge_outgoing};
use crate::operation::{Operation, Protocol as Spoken, operation_of};
use crate::outgoing::{Content, Outgoing};
use crate::outside::{self, Destination, Named};
use crate::path::verify_target;
use crate::policy::Resource;
use crate::problem::Refusal;
use crate::reply::{AnswerBody, Reply};
use crate::requests;
use crate::send::send;
use crate::settings::Streams;
use crate::task;
use crate::users;
use crate::websocket;

/// The host under which the broker itself answers.
const BROKER_HOST: &str = "hopseal.local";

/// What the next record hangs on.
pub enum Parent {
    Call(Chain),
    /// A root; a new one gets its own handle.
    Root {
        root: Root,
        is_new: bool,
    },
    /// A root that hides what it continues; `hop` is the call's place in that.
    Sealed {
        root: Root,
        hop: i64,
    },
}

impl Parent {
    /// The root that the call makes, if it makes one.
    pub fn root(&self) -> Option<&Root> {
        match self {
            Self::Call(_) => None,
            Self::Root { root, .. } | Self::Sealed { root, .. } => Some(root),
        }
    }
}

/// A component that calls, with the leaf that it calls with.
pub struct Caller {
    pub instance: InstanceKey,
    pub component: Arc<Component>,
    pub leaf: Arc<Leaf>,
}

/// Answers one request on `out.sock`; never fails, refusals are answers.
pub async fn answer(
    broker: &Arc<Broker>,
    connected: &Arc<Connected>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    if request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none() {
        return Box::pin(outside::open_tunnel(broker, connected, request)).await;
    }
    let mut record = CallRecord::begin("out", &broker.events, &broker.stats);
    let (mut parts, body) = request.into_parts();
    headers::adopt_authority(&mut parts);
    let is_grpc = grpc::is_grpc(&parts.headers);
    let mut body = Some(body);
    let deadline = crate::settings::ms(broker.settings.timeouts_ms.call);
    let called = call(broker, connected, Request::from_parts(parts, ()), &mut body, &mut record);
    // Boxed, as other large parts of a call are: what holds it is moved about.
    let called = tokio::time::timeout(deadline, Box::pin(called)).await;
    let called = called.unwrap_or_else(|_| Err(Refusal::new("call_timeout", "the call has no answer in time")));
    let answered = match called {
        Ok(response) => {
            record.answered(response.status());
            let mut response = if is_grpc { grpc::translate(response).await } else { response };
            if let Reply::Upgraded(tunnel) = response.body_mut() {
                tunnel.end_with(connected.caller.closed.clone());
            }
            response.map(|reply| AnswerBody::new(reply, record))
        }
        Err(refusal) => {
            if let Some(body) = &mut body {
                drain(body).await;
            }
            record.refused(&refusal);
            let response = if is_grpc { grpc::refuse(&refusal) } else { refusal.response() };
            response.map(|body| AnswerBody::new(Reply::whole(body), record))
        }
    };
    if is_grpc { answered.map(AnswerBody::in_grpc) } else { answered }
}

async fn call(
    broker: &Arc<Broker>,
    connected: &Connected,
    mut request: Request<()>,
    body: &mut Option<Incoming>,
    record: &mut CallRecord,
) -> Result<Response<Reply>, Refusal> {
    record.occupy(&broker.calls)?;
    let wish = websocket::take_wish(&mut request)?;
    if wish.is_some() && broker.settings.streams == Streams::Reject {
        return Err(Refusal::new("streams_refused", "a WebSocket needs streams: accept"));
    }
    headers::verify_form(&request)?;
    let named = host_of(&request)?;
    if grpc::is_grpc(request.headers()) && request.version() < Version::HTTP_2 {
        return Err(Refusal::new("grpc_unsupported", "gRPC needs HTTP/2"));
    }
    let timeout = crate::settings::ms(broker.settings.timeouts_ms.caller_verdict);
    let instance = connected.instance(&broker.events, timeout).await?;
    let caller = identify(broker, instance)?;
    record.caller = Some(caller.leaf.id.to_string());
    record.occupy_part(&broker.calls, &broker.component_calls, &caller.leaf.id)?;
    let (mut parts, ()) = request.into_parts();
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    verify_target(target.path(), target.query()).map_err(|fault| Refusal::new("path_invalid", fault))?;
    let is_for_broker = named.host == BROKER_HOST && named.port.is_none();
    let body = take_in(broker, &caller, (parts.version, &parts.headers), body, is_for_broker).await?;
    if wish.is_some() && is_for_broker {
        return Err(Refusal::new("upgrade_unsupported", "the broker itself serves no WebSocket"));
    }
    if is_for_broker {
        let Content::Whole(body) = body else { return Err(Refusal::new("body_too_large", "a request to the broker")) };
        return requests::answer(broker, &caller, (&parts.method, &target), &parts.headers, &body)
            .map(|made| made.map(Reply::whole));
    }
    let callee = match outside::destination(broker, &caller.component, &named)? {
        Destination::Component(callee) => callee,
        Destination::Outside(_) if wish.is_some() => {
            return Err(Refusal::new("upgrade_unsupported", "WebSockets go to components with custody only"));
        }
        Destination::Outside(remote) => {
            return Box::pin(outside::call(broker, caller, remote, (parts, target, body), record)).await;
        }
    };
    record.callee = Some(callee.id.to_string());
    let (mut parent, context) = parent_of(broker, &caller, &parts.headers)?;
    let (receipts, terms) =
        context.map_or_else(Default::default, |found| (Arc::clone(&found.receipts), found.terms.clone()));
    prepare(&mut parts.headers, &body);
    let body = match (&wish, body) {
        (Some(_), Content::Whole(body)) if body.bytes.is_empty() => {
            websocket::bind_wish(&mut parts.headers);
            Content::Upgrade
        }
        (Some(_), _) => return Err(Refusal::new("request_invalid", "a WebSocket begins without a body")),
        (None, body) => body,
    };
    let body_bytes = match &body {
        Content::Whole(body) => Some(&body.bytes[..]),
        Content::Stream(_) | Content::Upgrade => None,
    };
    let operation = match wish {
        Some(_) => Operation::of(Spoken::WebSocket, format!("{} {}", parts.method, target.path())),
        None => operation_of(&parts.method, target.path(), &parts.headers, body_bytes),
    };
    record.asks(&operation);
    if boundary::is_sealed(broker, &callee, &parent) {
        parent = boundary::seal(broker, (&caller, &callee), (parent, &terms), &operation, &mut parts.headers)?;
    } else {
        users::carry(broker, &parent, &mut parts.headers)?;
    }
    let outgoing = Outgoing {
        caller,
        callee,
        parent,
        receipts,
        terms,
        method: parts.method,
        version: parts.version,
        target,
        headers: parts.headers,
        body,
        operation,
    };
    decide(broker, &outgoing, record)?;
    let watch = record.until_revoked();
    let sent = async {
        match wish {
            Some(wish) => websocket::send(broker, outgoing, wish, record).await,
            None => send(broker, outgoing, record).await,
        }
    };
    tokio::select! {
        sent = sent => sent,
        refusal = watch => Err(refusal),
    }
}

/// The one host that the request names; absolute form and `Host` must agree. `http` names the local leg only: no
/// request leaves this node but over TLS.
fn host_of(request: &Request<()>) -> Result<Named, Refusal> {
    let invalid = |why: &str| Refusal::new("host_invalid", why);
    let host = request.headers().get(header::HOST).ok_or_else(|| invalid("no Host"))?;
    let host = Named::parse(host.to_str().map_err(|_| invalid("Host is not ASCII"))?).ok_or_else(|| invalid("Host"))?;
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Err(invalid("asterisk form"));
    }
    if let Some(authority) = request.uri().authority() {
        if !matches!(request.uri().scheme_str(), Some("http" | "https")) {
            return Err(invalid("scheme"));
        }
        if Named::parse(authority.as_str()).as_ref() != Some(&host) {
            return Err(invalid("Host and request target disagree"));
        }
    }
    Ok(host)
}

/// The component that a process is, with the leaf that it calls with.
///
/// # Errors
/// `identity_none`, `svid_expired`.
pub fn identify(broker: &Broker, instance: InstanceKey) -> Result<Caller, Refusal> {
    let leaf = broker.instances.current(&instance).ok_or_else(|| Refusal::new("identity_none", "no identity"))?;
    if !leaf.may_sign(clock::now_s()) {
        return Err(Refusal::new("svid_expired", "the SVID is about to end"));
    }
    let component = broker.directory.by_qualified(instance.component());
    let component = component.ok_or_else(|| Refusal::new("identity_none", "no document"))?;
    Ok(Caller { instance, component, leaf })
}

/// No handle: a new root, if the component may start one. A handle: what it continues, never else.
///
/// # Errors
/// `handle_unknown`, `may_not_start`, `overloaded`, or what is wrong with the token of a new root's user.
pub fn parent_of(
    broker: &Broker,
    caller: &Caller,
    list: &HeaderMap,
) -> Result<(Parent, Option<Arc<Context>>), Refusal> {
    if !list.contains_key(HANDLE) {
        let user = users::opening(broker, caller, list)?;
        let root = task::new_root(caller, clock::now_s(), user)?;
        return Ok((Parent::Root { root, is_new: true }, None));
    }
    let context = context_of(broker, caller, list)?;
    if context.receipts.is_full() {
        return Err(Refusal::new("overloaded", "too many calls under one handle"));
    }
    let parent = match &context.continues {
        Continues::Call(chain) => Parent::Call(chain.clone()),
        Continues::Task(root) => Parent::Root { root: root.clone(), is_new: false },
    };
    Ok((parent, Some(context)))
}

/// What the request's one handle stands for.
///
/// # Errors
/// `handle_unknown`.
pub fn context_of(broker: &Broker, caller: &Caller, list: &HeaderMap) -> Result<Arc<Context>, Refusal> {
    let mut handles = list.get_all(HANDLE).iter();
    let (Some(handle), None) = (handles.next(), handles.next()) else {
        return Err(Refusal::new("handle_unknown", "not exactly one handle"));
    };
    let found = handle.to_str().ok().and_then(|handle| broker.handles.find(handle, &caller.instance, clock::now_s()));
    found.ok_or_else(|| Refusal::new("handle_unknown", "unknown, expired or another instance's"))
}

async fn take_in(
    broker: &Broker,
    caller: &Caller,
    (version, list): (Version, &HeaderMap),
    body: &mut Option<Incoming>,
    is_for_broker: bool,
) -> Result<Content, Refusal> {
    let memory = broker.memory.within(broker.component_memory.of(caller.leaf.id.clone()));
    if is_for_broker || broker.settings.streams == Streams::Reject {
        let body = body.as_mut().ok_or_else(|| Refusal::new("internal", "the body was taken"))?;
        return memory.read(list, body).await.map(Content::Whole).map_err(|refusal| match &*refusal.code {
            "body_timeout" if grpc::is_grpc(list) => {
                Refusal::new("streams_refused", "a gRPC stream needs streams: accept")
            }
            _ => refusal,
        });
    }
    let memory = if grpc::is_grpc(list) { memory.patient(grpc::END_WAIT) } else { memory };
    Ok(match memory.read_or_stream((version, list), body).await? {
        Intake::Whole(body) => Content::Whole(body),
        Intake::Stream(body) => Content::Stream(Some(body)),
    })
}

/// Makes the header list exactly what will be sent, but for the Custody fields. A stream keeps the length that it
/// announces and has no digest: its closing statement does.
fn prepare(list: &mut HeaderMap, body: &Content) {
    headers::strip(list);
    list.remove(header::HOST);
    list.remove("content-digest");
    let Content::Whole(body) = body else { return };
    list.remove(header::CONTENT_LENGTH);
    if !body.bytes.is_empty() {
        let digest = hopseal_custody::binding::content_digest(&hopseal_custody::hash::sha256(&body.bytes));
        list.extend(
            HeaderValue::from_str(&digest).ok().map(|value| (http::HeaderName::from_static("content-digest"), value)),
        );
    }
}

fn decide(broker: &Broker, outgoing: &Outgoing, record: &mut CallRecord) -> Result<(), Refusal> {
    let requested =
        Requested { operation: &outgoing.operation, method: outgoing.method.as_str(), path: outgoing.target.path() };
    let resource = Resource::Component(outgoing.callee.id.to_string());
    judge_outgoing(broker, (&outgoing.caller, resource), (&outgoing.parent, &outgoing.terms), requested, record)
}
