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
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;

use crate::body::{AnswerBody, Buffered, Reply, drain};
use crate::broker::{Broker, Continues};
use crate::call::CallRecord;
use crate::callers::Connected;
use crate::clock;
use crate::directory::Component;
use crate::gathered::Gathered;
use crate::headers;
use crate::instance::{InstanceKey, Leaf};
use crate::operation::Operation;
use crate::outgoing::Outgoing;
use crate::path::verify_target;
use crate::policy::{Question, Side};
use crate::problem::Refusal;
use crate::send::send;
use crate::task;

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
}

/// A component that calls, with the leaf that it calls with.
pub struct Caller {
    pub instance: InstanceKey,
    pub component: Arc<Component>,
    pub leaf: Arc<Leaf>,
}

/// Answers one request on `out.sock`; never fails, refusals are answers.
pub async fn answer(broker: &Arc<Broker>, connected: &Connected, request: Request<Incoming>) -> Response<AnswerBody> {
    let mut record = CallRecord::begin("out", &broker.events, &broker.stats);
    let (parts, mut body) = request.into_parts();
    match call(broker, connected, Request::from_parts(parts, ()), &mut body, &mut record).await {
        Ok(response) => {
            record.answered(response.status());
            response.map(|reply| AnswerBody::new(reply, record))
        }
        Err(refusal) => {
            drain(&mut body).await;
            record.refused(&refusal);
            refusal.response().map(|body| AnswerBody::new(Reply::whole(body), record))
        }
    }
}

async fn call(
    broker: &Arc<Broker>,
    connected: &Connected,
    request: Request<()>,
    body: &mut Incoming,
    record: &mut CallRecord,
) -> Result<Response<Reply>, Refusal> {
    record.occupy(&broker.calls)?;
    headers::verify_form(&request)?;
    let host = host_of(&request)?;
    let timeout = crate::settings::ms(broker.settings.timeouts_ms.caller_verdict);
    let instance = connected.instance(&broker.events, timeout).await?;
    let caller = identify(broker, instance)?;
    record.caller = Some(caller.leaf.id.to_string());
    let (mut parts, ()) = request.into_parts();
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    verify_target(target.path(), target.query()).map_err(|fault| Refusal::new("path_invalid", fault))?;
    let body = broker.memory.read(&parts.headers, body).await?;
    if host == BROKER_HOST {
        return task::answer(broker, &caller, &parts.method, &target, &body).map(|made| made.map(Reply::whole));
    }
    let callee = broker
        .directory
        .resolve(&host, &caller.component.agent)
        .ok_or_else(|| Refusal::new("unknown_peer", host.clone()))?;
    record.callee = Some(callee.id.to_string());
    if parts.headers.get_all(HANDLE).iter().count() > 1 {
        return Err(Refusal::new("handle_unknown", "several handles"));
    }
    let handle = parts.headers.remove(HANDLE);
    let (parent, receipts) = parent_of(broker, &caller, handle.as_ref())?;
    prepare(&mut parts.headers, &body);
    let operation = Operation::derive(&parts.method, target.path(), &parts.headers, &body.bytes);
    record.operation = Some(operation.name.clone());
    let outgoing = Outgoing {
        caller,
        callee,
        parent,
        receipts,
        method: parts.method,
        version: parts.version,
        target,
        headers: parts.headers,
        body,
        operation,
    };
    decide(broker, &outgoing, record)?;
    send(broker, outgoing, record).await
}

/// The one host that the request names; absolute form and `Host` must agree.
fn host_of(request: &Request<()>) -> Result<String, Refusal> {
    let invalid = |why: &str| Refusal::new("host_invalid", why);
    let host = request.headers().get(header::HOST).ok_or_else(|| invalid("no Host"))?;
    let host = plain_host(host.to_str().map_err(|_| invalid("Host is not ASCII"))?).ok_or_else(|| invalid("Host"))?;
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Err(invalid("asterisk form"));
    }
    if let Some(authority) = request.uri().authority() {
        if !matches!(request.uri().scheme_str(), Some("http" | "https")) {
            return Err(invalid("scheme"));
        }
        if plain_host(authority.as_str()).as_deref() != Some(host.as_str()) {
            return Err(invalid("Host and request target disagree"));
        }
    }
    Ok(host)
}

/// Lower-case name without the default port; None for user info, other ports or odd characters.
fn plain_host(authority: &str) -> Option<String> {
    let name = authority.strip_suffix(":80").or_else(|| authority.strip_suffix(":443")).unwrap_or(authority);
    let is_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (!name.is_empty() && name.bytes().all(is_label)).then(|| name.to_ascii_lowercase())
}

fn identify(broker: &Broker, instance: InstanceKey) -> Result<Caller, Refusal> {
    let leaf = broker.instances.current(&instance).ok_or_else(|| Refusal::new("identity_none", "no identity"))?;
    if !leaf.may_sign(clock::now_s()) {
        return Err(Refusal::new("svid_expired", "the SVID is about to end"));
    }
    let component = broker.directory.by_qualified(instance.component());
    let component = component.ok_or_else(|| Refusal::new("identity_none", "no document"))?;
    Ok(Caller { instance, component, leaf })
}

/// No handle: a new root, if the component may start one. A handle: what it continues, never else.
fn parent_of(
    broker: &Broker,
    caller: &Caller,
    handle: Option<&HeaderValue>,
) -> Result<(Parent, Arc<Gathered>), Refusal> {
    let now = clock::now_s();
    let Some(handle) = handle else {
        return task::new_root(caller, now).map(|root| (Parent::Root { root, is_new: true }, Arc::default()));
    };
    let found = handle.to_str().ok().and_then(|handle| broker.handles.find(handle, &caller.instance, now));
    let context = found.ok_or_else(|| Refusal::new("handle_unknown", "unknown, expired or another instance's"))?;
    if context.receipts.is_full() {
        return Err(Refusal::new("overloaded", "too many calls under one handle"));
    }
    let parent = match &context.continues {
        Continues::Call(chain) => Parent::Call(chain.clone()),
        Continues::Task(root) => Parent::Root { root: root.clone(), is_new: false },
    };
    Ok((parent, Arc::clone(&context.receipts)))
}

/// Makes the header list exactly what will be sent, but for the Custody fields.
fn prepare(list: &mut HeaderMap, body: &Buffered) {
    headers::strip(list);
    list.remove(header::HOST);
    list.remove(header::CONTENT_LENGTH);
    list.remove("content-digest");
    if !body.bytes.is_empty() {
        let digest = hopseal_custody::binding::content_digest(&hopseal_custody::hash::sha256(&body.bytes));
        list.extend(
            HeaderValue::from_str(&digest).ok().map(|value| (http::HeaderName::from_static("content-digest"), value)),
        );
    }
}

fn decide(broker: &Broker, outgoing: &Outgoing, record: &mut CallRecord) -> Result<(), Refusal> {
    let hop = match &outgoing.parent {
        Parent::Root { .. } => 0,
        Parent::Call(chain) => chain.hop() + 1,
    };
    record.hop = Some(hop);
    let policy = broker.policy().ok_or_else(|| Refusal::new("policy_denied", "no policy is loaded"))?;
    let decision = policy.decide(&Question {
        caller: outgoing.caller.leaf.id.as_str(),
        callee: outgoing.callee.id.as_str(),
        caller_documented: true,
        side: Side::Caller,
        operation: &outgoing.operation,
        method: outgoing.method.as_str(),
        path: outgoing.target.path(),
        hop: u32::try_from(hop).unwrap_or(u32::MAX),
    });
    record.policy.clone_from(&decision.policies);
    if decision.allowed { Ok(()) } else { Err(Refusal::new("policy_denied", decision.errors.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_plain_names_with_at_most_a_default_port() {
        for (text, expected) in [("a.b", "a.b"), ("A.b:80", "a.b"), ("a:443", "a"), ("hopseal.local", "hopseal.local")]
        {
            assert_eq!(plain_host(text).as_deref(), Some(expected));
        }
        for text in ["", ":80", "a:81", "u@a", "a b", "a/b", "[::1]", "a_b", "a:80:80", "é"] {
            assert_eq!(plain_host(text), None, "{text}");
        }
    }
}
