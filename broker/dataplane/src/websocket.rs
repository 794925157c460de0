//! WebSockets: from a request for one to the tunnel that carries it, on both sides.
//!
//! Owns: what such a request and its answer look like on each leg: an Upgrade over HTTP/1.1 (RFC 6455 §4), extended
//! CONNECT over HTTP/2 between brokers (RFC 8441). A record binds the first form, whichever the leg has. Does not own:
//! what passes then (see `tunnel`).
//!
//! Source: custody-wire §7.3.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, on};
use tokio::time::timeout;

use crate::awaited::Awaited;
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::headers;
use crate::kept_connections::Sender;
use crate::opened::Opening;
use crate::outgoing::{Outgoing, closer_of, compose_request};
use crate::passing::Passing;
use crate::pool::Lease;
use crate::problem::{PeerRefusal, Refusal};
use crate::reply::Reply;
use crate::segments::Segments;
use crate::send::{endpoints_of, finish};
use crate::settings::ms;
use crate::tunnel::{Own, Parts, Theirs, Tunnel};
use crate::upload::RequestBody;
use crate::verified::{Taken, take};
use crate::voucher::{HeadVoucher, Voucher, bind_head, receipt_unavailable};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
const KEY_BYTES: usize = 16;

/// Takes the wish for a WebSocket out of a request, which is a plain GET then; None if it has none.
///
/// # Errors
/// `request_invalid` or `upgrade_unsupported`: it is not the wish that RFC 6455 §4.1 describes.
pub fn take_wish<B>(request: &mut Request<B>) -> Result<Option<OnUpgrade>, Refusal> {
    if request.method() == Method::CONNECT && request.version() == Version::HTTP_2 {
        let protocol = request.extensions_mut().remove::<Protocol>();
        if protocol.is_none_or(|protocol| protocol.as_str() != "websocket") {
            return Ok(None);
        }
        *request.method_mut() = Method::GET;
    } else if request.headers().contains_key(header::UPGRADE) {
        check_upgrade(request)?;
    } else {
        return Ok(None);
    }
    let invalid = |why: &str| Err(Refusal::new("request_invalid", why));
    let list = request.headers();
    if only(list, "sec-websocket-version").is_none_or(|version| version != "13") {
        return invalid("not Sec-WebSocket-Version: 13");
    }
    let key = only(list, "sec-websocket-key").and_then(|key| BASE64_STANDARD.decode(key.as_bytes()).ok());
    if key.is_none_or(|key| key.len() != KEY_BYTES) {
        return invalid("not exactly one Sec-WebSocket-Key of 16 bytes");
    }
    let says_length = list.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if says_length || list.contains_key(header::TRANSFER_ENCODING) {
        return invalid("a WebSocket begins without a body");
    }
    let upgrade = on(&mut *request);
    request.headers_mut().remove(header::UPGRADE);
    Ok(Some(upgrade))
}

fn check_upgrade<B>(request: &Request<B>) -> Result<(), Refusal> {
    let unsupported = |why: &str| Err(Refusal::new("upgrade_unsupported", why));
    let list = request.headers();
    if only(list, header::UPGRADE.as_str()).is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return unsupported("an Upgrade to something else than a WebSocket");
    }
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return unsupported("an Upgrade that is no GET of HTTP/1.1");
    }
    let mut named = list.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    if named.any(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade"))) {
        Ok(())
    } else {
        unsupported("an Upgrade that Connection does not name")
    }
}

/// The value of a field that has one line.
fn only<'a>(list: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut lines = list.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// Names in `list` what the record binds.
pub fn bind_wish(list: &mut HeaderMap) {
    list.insert(header::UPGRADE, WEBSOCKET);
}

/// Puts what an HTTP/1.1 leg needs into the head of a request or an agreeing answer.
fn for_h1(list: &mut HeaderMap) {
    list.insert(header::UPGRADE, WEBSOCKET);
    list.insert(header::CONNECTION, UPGRADE);
}

/// Sends the request to the peer; its answer begins a tunnel, or is one like any other.
///
/// # Errors
/// The call did not happen, or its answer has no receipt.
pub async fn send(
    broker: &Arc<Broker>,
    mut outgoing: Outgoing,
    wish: OnUpgrade,
    record: &mut CallRecord,
) -> Result<Response<Reply>, Refusal> {
    let mut last = Refusal::new("peer_unreachable", "no endpoint");
    let mut found = None;
    for endpoint in endpoints_of(broker, &outgoing.callee)? {
        match broker.pool.lease_upgrade(&outgoing.caller.leaf, &outgoing.callee, &endpoint).await {
            Ok(lease) => {
                found = Some(lease);
                break;
            }
            Err(refusal) => last = refusal,
        }
    }
    let Some((lease, lifetime)) = found else { return Err(last) };
    let (mut request, sent) = compose_request(broker, &mut outgoing, &lease, None, record).await?;
    let is_h2 = matches!(lease.sender, Sender::H2(_));
    if is_h2 {
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().remove(header::UPGRADE);
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    } else {
        for_h1(request.headers_mut());
    }
    let (leaf, closer) = (Arc::clone(&lease.leaf), closer_of(&sent, &lease.leaf));
    let mut response = transmit(lease, request, ms(broker.settings.timeouts_ms.response_head)).await?;
    if !agrees(&response, is_h2) {
        return match take(sent, response, false, outgoing.version).await? {
            Taken::Answer(response) => finish(broker, outgoing, response),
            Taken::Refused(PeerRefusal { refusal }) => finish(broker, outgoing, refusal.response().map(Reply::whole)),
        };
    }
    let far = on(&mut response);
    let up = sent.request.clone().unwrap_or_else(|| Passing::frames(true, record.pulse()));
    let down = Passing::frames(false, record.pulse());
    let (cid, rec, callee) = (sent.cid, sent.rec, sent.callee.clone());
    let awaited = Awaited { sent, status: response.status(), head: response.headers().clone() };
    let segments = Segments::new((Arc::clone(broker), leaf), callee, (cid, rec), (up, down));
    let tunnel = Tunnel::new(Parts {
        near: wish,
        far,
        own: Own::Closer(closer),
        theirs: Theirs::Receipt(Box::new(awaited)),
        segments,
        lifetime,
        listener: None,
    });
    let (mut parts, _none) = response.into_parts();
    headers::strip(&mut parts.headers);
    for_h1(&mut parts.headers);
    (parts.status, parts.version) = (StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_11);
    finish(broker, outgoing, Response::from_parts(parts, Reply::Upgraded(Box::new(tunnel))))
}

async fn transmit(
    lease: Lease,
    request: Request<RequestBody>,
    deadline: Duration,
) -> Result<Response<Incoming>, Refusal> {
    let unreachable = |why: String| Refusal::new("peer_unreachable", why);
    let sent = async {
        match lease.sender {
            Sender::H1(mut sender) => sender.send_request(request).await,
            Sender::H2(mut sender) => sender.send_request(request).await,
        }
    };
    let sent = timeout(deadline, sent).await.map_err(|_| unreachable("no answer in time".to_owned()))?;
    sent.map_err(|error| unreachable(error.to_string()))
}

fn agrees(response: &Response<Incoming>, is_h2: bool) -> bool {
    let is_named = only(response.headers(), "upgrade").is_some_and(|value| value == WEBSOCKET);
    if is_h2 {
        response.status().is_success()
    } else {
        response.status() == StatusCode::SWITCHING_PROTOCOLS && is_named
    }
}

/// The headers of a request for a WebSocket to a component.
pub fn ask_component(list: &mut HeaderMap) {
    for_h1(list);
}

/// Makes the component's agreement the peer's, and the tunnel between them.
///
/// # Errors
/// It agreed to something else.
pub fn accept(
    voucher: &mut Option<Voucher>,
    (opening, wish, is_h2): (Opening, OnUpgrade, bool),
    near: OnUpgrade,
    response: Response<Incoming>,
    listener: tokio_util::sync::CancellationToken,
    record: &mut CallRecord,
) -> Result<Response<Reply>, Refusal> {
    let (mut parts, _none) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    if is_h2 {
        (parts.status, parts.version) = (StatusCode::OK, Version::HTTP_2);
    } else {
        parts.headers.insert(header::UPGRADE, WEBSOCKET);
    }
    let head = bind_head(parts.status, &parts.headers)?;
    let voucher = voucher.take().ok_or_else(|| receipt_unavailable("the call was vouched for"))?;
    let up = opening.ending.passing().clone();
    let down = Passing::frames(false, record.pulse());
    let about = (voucher.cid, voucher.rec);
    let made_by = (Arc::clone(&voucher.broker), Arc::clone(&voucher.leaf));
    let segments = Segments::new(made_by, voucher.caller.clone(), about, (up, down));
    let tunnel = Tunnel::new(Parts {
        near,
        far: wish,
        own: Own::Voucher(Box::new(HeadVoucher::new(voucher, head))),
        theirs: Theirs::Closing(Box::new(opening)),
        segments,
        lifetime: None,
        listener: Some(listener),
    });
    if !is_h2 {
        for_h1(&mut parts.headers);
    }
    Ok(Response::from_parts(parts, Reply::Upgraded(Box::new(tunnel))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("upgrade", "WebSocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn wish(lines: &[(&'static str, &'static str)]) -> Result<bool, String> {
        let mut request = Request::new(());
        for (name, value) in lines {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        take_wish(&mut request).map(|wish| wish.is_some()).map_err(|refusal| refusal.code.into_owned())
    }

    fn without(name: &str) -> Vec<(&'static str, &'static str)> {
        GOOD.into_iter().filter(|(other, _)| *other != name).collect()
    }

    #[test]
    fn only_a_whole_wish_for_a_websocket_is_one() {
        assert_eq!(wish(&GOOD), Ok(true));
        assert_eq!(wish(&without("upgrade")), Ok(false));
        for name in ["connection", "sec-websocket-version", "sec-websocket-key"] {
            assert!(wish(&without(name)).is_err(), "{name}");
        }
        for line in [
            ("upgrade", "h2c"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
        ] {
            assert!(wish(&[&GOOD[..], &[line]].concat()).is_err(), "{line:?}");
        }
        let other = |name: &'static str, value| [without(name), vec![(name, value)]].concat();
        for (name, value) in [("upgrade", "h2c"), ("sec-websocket-version", "8"), ("sec-websocket-key", "c2hvcnQ=")] {
            assert!(wish(&other(name, value)).is_err(), "{name}: {value}");
        }
    }
}
