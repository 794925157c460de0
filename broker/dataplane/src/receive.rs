//! Requests of peers, from the connection to the component and back.
//!
//! Owns: reading a request and answering it with a receipt. Nothing reaches a component before its
//! record is durable in our own log, and no answer leaves whole before its receipt is. Does not own:
//! whether the request is accepted (see `admission`).

use std::sync::Arc;

use hopseal_custody::binding::Body;
use hopseal_custody::chain::Chain;
use hopseal_custody::fields::RECORD;
use http::{HeaderMap, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use crate::admission::{Received, accept, log_refused, says_stream};
use crate::body::{Buffered, drain};
use crate::broker::{Broker, Continues};
use crate::call::{CallRecord, Custody};
use crate::deliver::{Agreed, Content, Delivery, deliver, deliver_wish};
use crate::directory::{Component, ListenProtocol};
use crate::headers;
use crate::inbound::PeerConnection;
use crate::opened::{OpenedBody, Opening};
use crate::operation::{Operation, Protocol, operation_of};
use crate::outside;
use crate::path::verify_target;
use crate::problem::Refusal;
use crate::reply::{AnswerBody, Reply};
use crate::settings::Streams;
use crate::vouched::{Peer, vouch, vouch_refusal};
use crate::voucher::{Pledge, Voucher};
use crate::websocket;

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
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let peer = Peer::of(&parts.method, parts.version, &parts.headers, broker.settings.body_limit_bytes);
    let mut voucher = Pledge::default();
    let request = Request::from_parts(parts, ());
    let called = Box::pin(call(broker, connection, request, &mut body, &peer, &mut record, &mut voucher)).await;
    match called {
        Ok(response) => {
            record.answered(response.status());
            response.map(|reply| AnswerBody::new(reply, record))
        }
        Err(refusal) => {
            if let Some(body) = &mut body {
                drain(body).await;
            }
            // The chain has a name once it was proven; anybody with a certificate can make up the rest.
            let is_unrecorded = record.custody != Custody::Full;
            let logged = Box::pin(async {
                if is_unrecorded {
                    outside::log_refused(broker, connection, &refusal, &record).await;
                } else {
                    log_refused(broker, &refusal, claimed, record.cid.is_some()).await;
                }
            });
            let response = match voucher.take().filter(Voucher::may_vouch_refusal) {
                Some(voucher) => tokio::join!(logged, Box::pin(vouch_refusal(voucher, &peer, &refusal))).1,
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
    mut request: Request<()>,
    body: &mut Option<Incoming>,
    peer: &Peer,
    record: &mut CallRecord,
    voucher: &mut Option<Voucher>,
) -> Result<Response<Reply>, Refusal> {
    record.occupy(&broker.calls)?;
    record.occupy_part(&broker.calls, &broker.peer_calls, &connection.chain.id)?;
    let wish = websocket::take_wish(&mut request)?;
    headers::verify_form(&request)?;
    if wish.is_some() {
        websocket::bind_wish(request.headers_mut());
    }
    let callee = broker.directory.by_qualified(&connection.component);
    let callee = callee.ok_or_else(|| Refusal::new("callee_unavailable", "no document"))?;
    record.callee = Some(callee.id.to_string());
    let (parts, ()) = request.into_parts();
    let target = parts.uri.path_and_query().cloned();
    let target = target.ok_or_else(|| Refusal::new("path_invalid", "no path"))?;
    verify_target(target.path(), target.query()).map_err(|fault| Refusal::new("path_invalid", fault))?;
    let can_stream = peer.can_stream() || wish.is_some();
    let whole = read_whole(broker, connection, (can_stream, wish.is_some()), &parts.headers, body).await?;
    let body_bytes = whole.as_ref().map(|body| &body.bytes[..]);
    let operation = match wish {
        Some(_) => Operation::of(Protocol::WebSocket, format!("{} {}", parts.method, target.path())),
        None => operation_of(&parts.method, target.path(), &parts.headers, body_bytes),
    };
    record.asks(&operation);
    let whole = match whole {
        Some(body) if outside::is_unrecorded(broker, connection, &callee, &parts.headers) => {
            let accepted = outside::accept(broker, connection, &callee, (parts, target, body), &operation, record);
            return Box::pin(accepted).await;
        }
        other => other,
    };
    let received = Received {
        callee: &callee,
        method: parts.method.as_str(),
        path: target.path(),
        target_uri: format!("https://{}{target}", callee.host),
        headers: &parts.headers,
        body: whole.as_ref().map_or(Body::Stream, |body| Body::of(&body.bytes)),
        operation: &operation,
        is_upgrade: wish.is_some(),
    };
    if wish.is_some() && received.body != Body::Stream {
        return Err(Refusal::new("streams_refused", "a WebSocket needs streams: accept, and a record of a stream"));
    }
    let chain = accept(broker, connection, &received, record, voucher).await?;
    let Some(vouch_for) = voucher else { return Err(Refusal::new("internal", "an accepted call without voucher")) };
    let receipts = Arc::clone(&vouch_for.receipts);
    let content = match (whole, wish) {
        (Some(body), _) => Content::Whole(body),
        (None, None) => Content::Stream(open_stream(connection, &chain, &parts.headers, body, vouch_for, record)?),
        (None, Some(wish)) => {
            let opening = opening_of(connection, &chain, vouch_for)?;
            let asked = Asked { callee: &callee, opening, wish, is_h2: peer.can_stream() };
            let delivery = Delivery {
                callee: &callee,
                continues: Some(Continues::Call(chain)),
                method: parts.method,
                target,
                headers: parts.headers,
                receipts,
            };
            let watch = record.until_revoked();
            return tokio::select! {
                answered = upgrade(broker, &delivery, asked, peer, voucher, record) => answered,
                refusal = watch => Err(refusal),
            };
        }
    };
    let continues = Some(Continues::Call(chain));
    let (method, headers) = (parts.method, parts.headers);
    let delivery = Delivery { callee: &callee, continues, method, target, headers, receipts };
    let watch = record.until_revoked();
    let answered = async {
        let response = deliver(broker, &delivery, content).await?;
        vouch(voucher, peer, response).await
    };
    tokio::select! {
        answered = answered => answered,
        refusal = watch => Err(refusal),
    }
}

/// The request's body; None if it streams, and then nothing of it was read.
async fn read_whole(
    broker: &Broker,
    connection: &PeerConnection,
    (can_stream, is_upgrade): (bool, bool),
    list: &HeaderMap,
    body: &mut Option<Incoming>,
) -> Result<Option<Buffered>, Refusal> {
    let may_stream = can_stream && broker.settings.streams == Streams::Accept;
    // Looked at only if there is a body, or what comes in its place: what the record says costs reading it.
    if may_stream && (is_upgrade || body.as_ref().is_some_and(|body| !body.is_end_stream())) && says_stream(list) {
        return Ok(None);
    }
    let body = body.as_mut().ok_or_else(|| Refusal::new("internal", "the body was taken"))?;
    connection.memory.read(list, body).await.map(Some)
}

/// The body that follows the newest record of `chain`, whose end the receipt of `voucher` will tell of.
fn open_stream(
    connection: &PeerConnection,
    chain: &Chain,
    list: &HeaderMap,
    body: &mut Option<Incoming>,
    voucher: &mut Voucher,
    record: &mut CallRecord,
) -> Result<OpenedBody, Refusal> {
    let rest = body.take().ok_or_else(|| Refusal::new("internal", "the body was taken"))?;
    let holds_last = list.contains_key(header::CONTENT_LENGTH);
    Ok(OpenedBody::new(rest, opening_of(connection, chain, voucher)?, holds_last, record.over()))
}

/// The streamed request whose closing statement is to come.
fn opening_of(connection: &PeerConnection, chain: &Chain, voucher: &Voucher) -> Result<Opening, Refusal> {
    let ending = voucher.ending.clone().ok_or_else(|| Refusal::new("internal", "a stream that was not announced"))?;
    let (broker, record) = (Arc::clone(&voucher.broker), Arc::clone(chain.newest()));
    Ok(Opening { broker, peer: connection.peer.clone(), record, ending })
}

/// A WebSocket that a peer asks for.
struct Asked<'a> {
    callee: &'a Component,
    opening: Opening,
    wish: OnUpgrade,
    is_h2: bool,
}

/// Asks the component for it; its answer begins a tunnel, or is one like any other.
async fn upgrade(
    broker: &Broker,
    delivery: &Delivery<'_>,
    asked: Asked<'_>,
    peer: &Peer,
    voucher: &mut Option<Voucher>,
    record: &mut CallRecord,
) -> Result<Response<Reply>, Refusal> {
    let Asked { callee, opening, wish, is_h2 } = asked;
    if callee.listen_protocol == ListenProtocol::H2 {
        return Err(Refusal::new(
            "websocket_unsupported",
            "WebSockets need listenProtocol: h1 in the callee's document",
        ));
    }
    let (response, agreed) = deliver_wish(broker, delivery).await?;
    match agreed {
        Some(Agreed { near, listener }) => {
            websocket::accept(voucher, (opening, wish, is_h2), near, response, listener, record)
        }
        None => vouch(voucher, peer, response).await,
    }
}
