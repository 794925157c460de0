//! Requests of peers, from the connection to the component and back.
//!
//! Owns: reading a request and answering it with a receipt. Nothing reaches a component before its
//! record is durable in our own log, and no answer leaves whole before its receipt is. Does not own:
//! whether the request is accepted (see `admission`).

use std::sync::Arc;

use hopseal_custody::fields::RECORD;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::admission::{Received, accept, log_refused};
use crate::body::{AnswerBody, Reply, drain};
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::deliver::{Delivery, deliver};
use crate::headers;
use crate::inbound::PeerConnection;
use crate::operation::Operation;
use crate::path::verify_target;
use crate::problem::Refusal;
use crate::vouched::{Peer, vouch, vouch_refusal};
use crate::voucher::Voucher;

/// Answers one request of a peer; never fails, refusals are answers.
pub async fn answer(
    broker: &Arc<Broker>,
    connection: &PeerConnection,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let mut record = CallRecord::begin("in", &broker.events, &broker.stats);
    record.caller = Some(connection.chain.id.to_string());
    record.busy = Some(connection.activity.busy());
    let claimed = request.headers().get(RECORD).cloned();
    let (parts, mut body) = request.into_parts();
    let peer = Peer::of(&parts.method, parts.version, &parts.headers, broker.settings.body_limit_bytes);
    let mut voucher = None;
    let called =
        call(broker, connection, Request::from_parts(parts, ()), &mut body, &peer, &mut record, &mut voucher).await;
    match called {
        Ok(response) => {
            record.answered(response.status());
            response.map(|reply| AnswerBody::new(reply, record))
        }
        Err(refusal) => {
            drain(&mut body).await;
            // The chain has a name once it was proven; anybody with a certificate can make up the rest.
            let logged = log_refused(broker, &refusal, claimed, record.cid.is_some());
            let response = match voucher {
                Some(voucher) => tokio::join!(logged, vouch_refusal(voucher, &peer, &refusal)).1,
                None => {
                    logged.await;
                    refusal.response().map(Reply::whole)
                }
            };
            record.refused(&refusal);
            response.map(|reply| AnswerBody::new(reply, record))
        }
    }
}

async fn call(
    broker: &Arc<Broker>,
    connection: &PeerConnection,
    request: Request<()>,
    body: &mut Incoming,
    peer: &Peer,
    record: &mut CallRecord,
    voucher: &mut Option<Voucher>,
) -> Result<Response<Reply>, Refusal> {
    record.occupy(&broker.calls)?;
    headers::verify_form(&request)?;
    let callee = broker.directory.by_qualified(&connection.component);
    let callee = callee.ok_or_else(|| Refusal::new("callee_unavailable", "no document"))?;
    record.callee = Some(callee.id.to_string());
    let (parts, ()) = request.into_parts();
    let target = parts.uri.path_and_query().cloned();
    let target = target.ok_or_else(|| Refusal::new("path_invalid", "no path"))?;
    verify_target(target.path(), target.query()).map_err(|fault| Refusal::new("path_invalid", fault))?;
    let body = broker.memory.read(&parts.headers, body).await?;
    let operation = Operation::derive(&parts.method, target.path(), &parts.headers, &body.bytes);
    record.operation = Some(operation.name.clone());
    let received = Received {
        callee: &callee,
        method: parts.method.as_str(),
        path: target.path(),
        target_uri: format!("https://{}{target}", callee.host),
        headers: &parts.headers,
        body: &body,
        operation: &operation,
    };
    let chain = accept(broker, connection, &received, record, voucher).await?;
    let receipts = voucher.as_ref().map(|voucher| Arc::clone(&voucher.receipts)).unwrap_or_default();
    let delivery =
        Delivery { callee: &callee, chain, method: parts.method, target, headers: parts.headers, body, receipts };
    let response = deliver(broker, delivery).await?;
    vouch(voucher, peer, response).await
}
