//! Calls of SPIFFE peers that bring no custody, where the callee's document accepts them so.
//!
//! Owns: who may do that, the decision, and the log's line, which is durable before the component gets the request.
//! Does not own: delivering it. Such a call has no chain: the component gets a handle for a root of its own if it may
//! start one, else none, and whatever it then calls in its own name is refused. It gets no receipt.

use std::sync::Arc;
use std::time::Instant;

use hopseal_custody::fields::is_custody;
use hopseal_custody::hash::RandomId;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Response};

use super::plain::{Plain, PlainBody};
use crate::admission::append;
use crate::body::{Buffered, may_be_cut};
use crate::broker::{Broker, Continues};
use crate::call::{CallRecord, Custody};
use crate::clock;
use crate::deliver::{Content, Delivery, deliver};
use crate::directory::Component;
use crate::inbound::PeerConnection;
use crate::instance::log_certificate;
use crate::judge::{Requested, judge_unrecorded};
use crate::log::{Direction, Entry, Unrecorded};
use crate::operation::Operation;
use crate::outbound::Caller;
use crate::outgoing::unlogged;
use crate::problem::Refusal;
use crate::reply::Reply;
use crate::task;
use crate::voucher::join_decision;

/// Whether a request is to be taken without custody: it brings nothing of it, the callee's document accepts its sender
/// so, and no broker holds the sender's key, for then the record was left away.
pub fn is_unrecorded(broker: &Broker, connection: &PeerConnection, callee: &Component, list: &HeaderMap) -> bool {
    let peer = &connection.chain.id;
    let is_brokered = || broker.directory.by_id(peer).is_some_and(|component| component.brokered);
    !list.keys().any(|name| is_custody(name.as_str())) && callee.outside.accepts(peer) && !is_brokered()
}

/// Takes one such request to the component and its answer back.
///
/// # Errors
/// `policy_denied`, or it could not be logged or delivered.
pub async fn accept(
    broker: &Arc<Broker>,
    connection: &PeerConnection,
    callee: &Arc<Component>,
    (parts, target, body): (Parts, PathAndQuery, Buffered),
    operation: &Operation,
    record: &mut CallRecord,
) -> Result<Response<Reply>, Refusal> {
    record.custody = Custody::Caller;
    record.hop = Some(0);
    let requested = Requested { operation, method: parts.method.as_str(), path: target.path() };
    judge_unrecorded(broker, &connection.chain.id, callee, requested, record)?;
    let continues = root_of(connection, callee)?;
    let mut line = line_of(connection, record)?;
    line.cid = continues.as_ref().map(|(_, cid)| cid.to_string());
    record.cid.clone_from(&line.cid);
    let certificates = connection.chain.certificates.iter().map(log_certificate).collect();
    append(broker, Entry::Call(Box::new(line.clone())), certificates)
        .await
        .map_err(|error| unlogged(error, "the call"))?;
    let plain = Plain::new(Arc::clone(broker), line);
    let delivery = Delivery {
        callee,
        continues: continues.map(|(continues, _)| continues),
        method: parts.method,
        target,
        headers: parts.headers,
        receipts: Arc::default(),
    };
    let watch = record.until_revoked();
    let delivered = tokio::select! {
        delivered = deliver(broker, &delivery, Content::Whole(body)) => delivered,
        refusal = watch => Err(refusal),
    };
    match delivered {
        Ok(response) => {
            let status = response.status();
            let may_be_cut = may_be_cut(response.version(), response.headers());
            let body = |inner| PlainBody::new((inner, may_be_cut), plain.answered(status));
            Ok(response.map(|inner| Reply::Plain(Box::new(body(inner)))))
        }
        Err(refusal) => {
            plain.undelivered(&refusal);
            Err(refusal)
        }
    }
}

/// Logs that such a request was refused; bounded, since any documented peer can send them.
pub async fn log_refused(broker: &Broker, connection: &PeerConnection, refusal: &Refusal, record: &CallRecord) {
    if !broker.unproven.admits(Instant::now()) {
        return;
    }
    let Ok(mut line) = line_of(connection, record) else { return };
    line.verdict = "refused";
    line.code = Some(refusal.code.clone().into_owned());
    line.detail = Some(refusal.detail.clone());
    let _counted_by_the_writer = append(broker, Entry::Call(Box::new(line)), Vec::new()).await;
}

/// A root for what the component does because of the call, if it may start one.
fn root_of(connection: &PeerConnection, callee: &Arc<Component>) -> Result<Option<(Continues, RandomId)>, Refusal> {
    if !callee.may_start {
        return Ok(None);
    }
    let (instance, leaf) = (connection.leaf.owner.clone(), Arc::clone(&connection.leaf));
    let root = task::new_root(&Caller { instance, component: Arc::clone(callee), leaf }, clock::now_s(), None)?;
    let cid = root.cid;
    Ok(Some((Continues::Task(root), cid)))
}

fn line_of(connection: &PeerConnection, record: &CallRecord) -> Result<Unrecorded, Refusal> {
    Ok(Unrecorded {
        dir: Direction::Received,
        verdict: "accepted",
        code: None,
        detail: None,
        custody: "none",
        kind: "caller",
        phase: "begin",
        id: RandomId::generate().map_err(|_| Refusal::new("internal", "no randomness"))?.to_string(),
        iss: connection.chain.id.to_string(),
        aud: record.callee.clone().unwrap_or_default(),
        op: record.operation.clone(),
        dec: Some(join_decision(record.decision.as_deref(), &record.policy)),
        x5t: Some(connection.chain.leaf().thumbprint().to_string()),
        cid: None,
        rec: None,
        ended: None,
    })
}
