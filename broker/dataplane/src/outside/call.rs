//! Calls of local components that leave custody: from a name to a decision.
//!
//! Owns: which names lead outside, what may not leave, asking policy. Does not own: reading the request (see
//! `outbound`), sending it (see `send`).

use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, Version, header};

use super::names::Named;
use super::send::send;
use crate::broker::Broker;
use crate::call::{CallRecord, Custody};
use crate::directory::Component;
use crate::gathered::Gathered;
use crate::headers;
use crate::judge::{Requested, judge_outgoing};
use crate::operation::{Operation, operation_of};
use crate::outbound::{Caller, Parent, parent_of};
use crate::outgoing::Content;
use crate::policy::Resource;
use crate::problem::Refusal;
use crate::reply::Reply;
use crate::terms::Terms;
use crate::users;

/// The port of a service that a request names without one.
pub const HTTPS_PORT: u16 = 443;

/// Who answers a call without custody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A SPIFFE peer that is not Hopseal.
    Peer(Arc<Component>),
    /// A service known by the name in its certificate.
    External { host: String, port: u16 },
}

impl Remote {
    /// Host and port as in a URI.
    pub fn authority(&self) -> String {
        match self {
            Self::Peer(peer) => peer.host.clone(),
            Self::External { host, port: HTTPS_PORT } => host.clone(),
            Self::External { host, port } => format!("{host}:{port}"),
        }
    }

    /// The `aud` of its record.
    pub fn audience(&self) -> String {
        match self {
            Self::Peer(peer) => peer.id.to_string(),
            Self::External { .. } => format!("https://{}", self.authority()),
        }
    }

    pub fn resource(&self) -> Resource {
        match self {
            Self::Peer(peer) => Resource::Component(peer.id.to_string()),
            Self::External { host, port } => Resource::External { host: host.clone(), port: *port },
        }
    }

    fn custody(&self) -> Custody {
        match self {
            Self::Peer(_) => Custody::Peer,
            Self::External { .. } => Custody::External,
        }
    }
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    /// With custody.
    Component(Arc<Component>),
    Outside(Remote),
}

/// Whom `named` means for `caller`.
///
/// # Errors
/// `unknown_peer`; `egress_denied` for a host that is none of ours and that the document does not list.
pub fn destination(broker: &Broker, caller: &Component, named: &Named) -> Result<Destination, Refusal> {
    let outside = &caller.outside;
    if named.port.is_none() {
        if let Some(peer) = outside.peer(&named.host) {
            if broker.directory.by_id(&peer.id).is_some_and(|component| component.brokered) {
                return Err(Refusal::new("egress_denied", format!("{} is documented and speaks custody", peer.id)));
            }
            return Ok(Destination::Outside(Remote::Peer(Arc::clone(peer))));
        }
        if let Some(component) = broker.directory.resolve(&named.host, &caller.agent) {
            // Only whose key no broker holds is called so, whatever the caller's document says.
            let is_plain = outside.is_plain(&component.qualified) && !component.brokered;
            return Ok(if is_plain {
                Destination::Outside(Remote::Peer(component))
            } else {
                Destination::Component(component)
            });
        }
    }
    let port = named.port.unwrap_or(HTTPS_PORT);
    if outside.allows(&named.host, port, false) {
        return Ok(Destination::Outside(Remote::External { host: named.host.clone(), port }));
    }
    let is_ours = named.host.rsplit_once('.').is_none_or(|(_, agent)| broker.directory.has_agent(agent));
    if is_ours && named.port.is_none() {
        return Err(Refusal::new("unknown_peer", named.host.clone()));
    }
    let what =
        if outside.allows(&named.host, port, true) { "is opaque: only CONNECT leads there" } else { "is not listed" };
    Err(Refusal::new("egress_denied", format!("{}:{port} {what}", named.host)))
}

/// A call that policy has allowed.
pub struct Call {
    pub caller: Caller,
    pub remote: Remote,
    pub parent: Parent,
    /// What was obtained under the same handle.
    pub receipts: Arc<Gathered>,
    pub terms: Terms,
    pub method: Method,
    pub version: Version,
    pub target: PathAndQuery,
    /// As they will be sent, but for `Host`.
    pub headers: HeaderMap,
    pub body: Content,
    pub operation: Operation,
}

/// Makes one call.
///
/// # Errors
/// It may not be made, did not happen, or its answer was lost.
pub async fn call(
    broker: &Arc<Broker>,
    caller: Caller,
    remote: Remote,
    (parts, target, body): (Parts, PathAndQuery, Content),
    record: &mut CallRecord,
) -> Result<Response<Reply>, Refusal> {
    record.custody = remote.custody();
    record.callee = Some(remote.audience());
    let (parent, context) = parent_of(broker, &caller, &parts.headers)?;
    let (receipts, terms) =
        context.map_or_else(Default::default, |found| (Arc::clone(&found.receipts), found.terms.clone()));
    let mut list = parts.headers;
    headers::strip(&mut list);
    list.remove(header::HOST);
    if matches!(body, Content::Whole(_)) {
        list.remove(header::CONTENT_LENGTH);
    }
    users::keep(&parent, &mut list, target.as_str())?;
    let bytes = match &body {
        Content::Whole(body) => Some(&body.bytes[..]),
        Content::Stream(_) | Content::Upgrade => None,
    };
    let operation = operation_of(&parts.method, target.path(), &list, bytes);
    record.asks(&operation);
    let requested = Requested { operation: &operation, method: parts.method.as_str(), path: target.path() };
    judge_outgoing(broker, (&caller, remote.resource()), (&parent, &terms), requested, record)?;
    let (method, version) = (parts.method, parts.version);
    let call =
        Call { caller, remote, parent, receipts, terms, method, version, target, headers: list, body, operation };
    let watch = record.until_revoked();
    tokio::select! {
        sent = send(broker, call, record) => sent,
        refusal = watch => Err(refusal),
    }
}
