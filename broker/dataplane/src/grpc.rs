//! gRPC: what a call of it is, and how it is refused.
//!
//! Owns: the operation of a gRPC request, and refusals in gRPC's own words. Does not own: forwarding, which gRPC shares
//! with every other stream; counting messages (crate `hopseal_custody`).
//!
//! Source: custody-wire §7.3 and §13; gRPC over HTTP/2, "Responses".

use std::time::Duration;

use bytes::Bytes;
use hopseal_custody::binding::{BodySum, BodySummer, HeaderLine};
use hopseal_custody::fields::HANDLE;
use hopseal_custody::messages::{self, MessageCounter};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected, Full};

use crate::operation::{Operation, Protocol};
use crate::problem::{PeerRefusal, Refusal};
use crate::reply::Reply;

/// A call that has one request ends it at once; what has not ended after this streams. Long enough for a request that
/// leaves in several writes, and no stream waits longer for its head to leave.
pub const END_WAIT: Duration = Duration::from_millis(10);

const CONTENT_TYPE: &str = "application/grpc";
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// Whether a message with this head is one of gRPC.
pub fn is_grpc(list: &HeaderMap) -> bool {
    let mut types = list.get_all(header::CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(value), None) => messages::is_grpc(&[("content-type", value.as_bytes())]),
        _ => false,
    }
}

/// Sums up the body behind this head.
pub fn summer_of(list: &HeaderMap) -> BodySummer {
    const LINE: HeaderLine<'_> = ("content-type", CONTENT_TYPE.as_bytes());
    if is_grpc(list) { BodySummer::for_head(&[LINE]) } else { BodySummer::default() }
}

/// The sum of a whole body behind this head.
pub fn sum_of(list: &HeaderMap, bytes: &[u8]) -> BodySum {
    let mut summer = summer_of(list);
    summer.update(bytes);
    summer.finish()
}

/// The operation of a gRPC request, whose body may not be there yet; None if it is no gRPC request.
///
/// A body that is no sequence of messages is no gRPC whatever its head says: one that is here is read like any other, and
/// one that streams breaks off before a byte of it passes.
pub fn operation(method: &Method, path: &str, list: &HeaderMap, body: Option<&[u8]>) -> Option<Operation> {
    if method != Method::POST || !is_grpc(list) || list.contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    let mut counter = MessageCounter::default();
    counter.update(body.unwrap_or_default());
    let is_one = counter.is_between() && !body.is_some_and(is_wide_json);
    is_one.then(|| Operation::of(Protocol::Grpc, format!("{method} {path}")))
}

/// Bytes of a body that say whether it is [`is_wide_json`].
pub const START_BYTES: usize = 8;

/// Whether a body begins as JSON in two or four bytes a character: that can be a sequence of messages as well, and a
/// reader that detects encodings would see a call in it.
pub fn is_wide_json(start: &[u8]) -> bool {
    let opens = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' ' | b'{' | b'[');
    let goes_on = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    match start {
        [0, 0, 0xfe, 0xff, 0, 0, 0, first, ..] => opens(first),
        [0, 0, 0, first, 0, 0, 0, second, ..] | [0, first, 0, second, ..] => opens(first) && goes_on(second),
        _ => false,
    }
}

/// The refusal as a gRPC client reads it: a status in a head without body.
pub fn refuse(refusal: &Refusal) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = trailers(&refusal.code, refusal.status);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// The answer to a gRPC call: a refusal of the callee's broker in gRPC's words, and anything else as it is.
pub async fn translate(response: Response<Reply>) -> Response<Reply> {
    let (parts, reply) = response.into_parts();
    let Reply::Whole { data, trailers } = reply else { return Response::from_parts(parts, reply) };
    let Ok(bytes) = data.collect().await.map(Collected::to_bytes);
    let Some(PeerRefusal { refusal }) = PeerRefusal::read(&parts, &bytes) else {
        return Response::from_parts(parts, Reply::Whole { data: Full::new(bytes), trailers });
    };
    let mut refused = refuse(&refusal).map(Reply::whole);
    // The handle of a new task, for one.
    refused.headers_mut().extend(parts.headers.into_iter().filter(|(name, _)| name.as_ref().is_some_and(is_ours)));
    refused
}

fn is_ours(name: &HeaderName) -> bool {
    name == HANDLE
}

/// The end of an answer that broke off.
pub fn trailers(code: &str, status: StatusCode) -> HeaderMap {
    let mut list = HeaderMap::new();
    list.insert(STATUS, HeaderValue::from(status_of(code, status)));
    list.extend(HeaderValue::from_str(code).ok().map(|code| (HeaderName::from_static(MESSAGE), code)));
    list
}

/// The gRPC status of a refusal.
fn status_of(code: &str, status: StatusCode) -> u16 {
    match (code, status.as_u16()) {
        ("custody_replayed", _) => 6,
        ("policy_revoked", _) => 7,
        ("withdrawn", _) => 14,
        (
            "custody_signature" | "custody_untrusted" | "custody_identity" | "custody_chain" | "custody_binding"
            | "custody_audience" | "custody_expired",
            _,
        ) => 16,
        (_, 400) => 3,
        (_, 403) => 7,
        (_, 404) => 5,
        (_, 409 | 428) => 9,
        (_, 413 | 429 | 431) => 8,
        (_, 501) => 12,
        (_, 425 | 502 | 503) => 14,
        (_, 408 | 504) => 4,
        _ => 13,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    #[test]
    fn the_content_type_alone_does_not_make_a_body_grpc() {
        let of = |content_type, body: Option<&[u8]>| operation(&Method::POST, "/s/m", &head(content_type), body);
        let named = of("application/grpc+proto", Some(b"\0\0\0\0\x01x")).unwrap();
        assert_eq!((named.protocol, named.name.as_str()), (Protocol::Grpc, "POST /s/m"));
        assert!(of("application/grpc", None).is_some());
        assert!(of("Application/GRPC;x=1", Some(b"")).is_some());
        for body in [b"{\"jsonrpc\":\"2.0\"}".as_slice(), b"\0\0\0\0\x02x", b"\0", b"\0\0\0\0\0{"] {
            assert!(of("application/grpc", Some(body)).is_none(), "{body:?}");
        }
        for other in ["application/json", "application/grpc-web", "application/grpcx", "application/grp"] {
            assert!(of(other, Some(b"")).is_none(), "{other}");
        }
        let mut twice = head("application/grpc");
        twice.append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert!(!is_grpc(&twice));
        assert!(operation(&Method::GET, "/s/m", &head("application/grpc"), None).is_none());
    }

    /// JSON in four bytes a character that is a sequence of two messages as well.
    fn wide_call() -> Vec<u8> {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tasks/cancel","params":{"id":"t"},"x":""#;
        let text = format!("{call:x<7873}\u{10000}\u{e0100}\"}} ");
        text.chars().flat_map(|each| u32::from(each).to_be_bytes()).collect()
    }

    #[test]
    fn json_that_is_messages_as_well_is_no_grpc() {
        let body = wide_call();
        let mut counter = MessageCounter::default();
        counter.update(&body);
        assert!(counter.is_between() && counter.count() == 2);
        let list = head("application/grpc");
        let operation = crate::operation::operation_of(&Method::POST, "/a2a", &list, Some(&body));
        assert_eq!(operation.protocol, Protocol::Unreadable);
        for start in [b"\0\0\xfe\xff\0\0\0{".as_slice(), b"\0\0\0\n\0\0\0{", b"\0\0\0[\0\0\0{", b"\0\t\0{", b"\0{\0\""]
        {
            assert!(is_wide_json(start), "{start:?}");
        }
        for start in [b"\0\0\0 \0\x0a\x05{\"}".as_slice(), b"\0\0\0{\0\x08\x01\x10", b"\0\0\0\0\x02{}", b"\0\0\0"] {
            assert!(!is_wide_json(start), "{start:?}");
        }
    }

    #[test]
    fn json_that_is_messages_as_well_breaks_off_as_a_stream() {
        let body = wide_call();
        let passing = |content_type| crate::passing::Passing::behind(&head(content_type), std::sync::Arc::default());
        assert!(passing("application/octet-stream").update(&body).is_ok());
        assert!(passing("application/grpc").update(&body).is_err());
        let slow = passing("application/grpc");
        let passed = body.iter().take_while(|byte| slow.update(std::slice::from_ref(*byte)).is_ok()).count();
        assert!(passed < 8, "{passed}");
    }

    #[test]
    fn refusals_have_the_status_that_grpc_gives_them() {
        for (code, status, expected) in [
            ("policy_denied", 403, 7),
            ("policy_revoked", 500, 7),
            ("unknown_peer", 404, 5),
            ("body_too_large", 413, 8),
            ("custody_replayed", 400, 6),
            ("custody_signature", 400, 16),
            ("custody_malformed", 400, 3),
            ("custody_missing", 428, 9),
            ("grpc_unsupported", 501, 12),
            ("peer_unreachable", 502, 14),
            ("callee_timeout", 504, 4),
            ("internal", 500, 13),
        ] {
            assert_eq!(status_of(code, StatusCode::from_u16(status).unwrap()), expected, "{code}");
        }
        let refused = refuse(&Refusal::new("policy_denied", "why"));
        assert_eq!((refused.status(), refused.headers()["grpc-status"].to_str().unwrap()), (StatusCode::OK, "7"));
        assert_eq!(refused.headers()["grpc-message"], "policy_denied");
    }
}
