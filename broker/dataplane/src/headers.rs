//! Header hygiene at every edge: what a component may not say, and what no hop passes on.
//!
//! Owns: the lists and the framing checks that hyper leaves to us. Does not own: the Custody fields'
//! syntax (crate `hopseal_custody`).
//!
//! Source: custody-wire §5.2; RFC 9110 §7.6.1; threats.md section 4.

use hopseal_custody::binding::{HeaderLine, is_twin_of_covered};
use hopseal_custody::fields::is_reserved;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version, request};

use crate::problem::Refusal;

/// Fields that belong to one connection only.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Most field lines of a request; on `out.sock` hyper takes a hundred, so that what brokers add has room.
pub const MAX_FIELDS: usize = 128;
/// What a CGI-like server reads as a field that frames the message.
const TWINS_OF_FRAMING: [&str; 2] = ["content_length", "transfer_encoding"];
/// Longest method; the longest registered one has 17 letters.
const MAX_METHOD_BYTES: usize = 32;

/// Checks of a request's framing and form that must hold before anything is read from it.
///
/// # Errors
/// `upgrade_unsupported`, `method_unsupported`, `headers_too_large`, `request_invalid` or `host_invalid`.
pub fn verify_form<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    verify_method(request.method())?;
    if headers.len() > MAX_FIELDS {
        return Err(Refusal::new("headers_too_large", format!("{} fields", headers.len())));
    }
    if TWINS_OF_FRAMING.iter().any(|name| headers.contains_key(*name)) {
        return Err(Refusal::new("request_invalid", "a field that some servers read as Content-Length or its like"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Refusal::new("request_invalid", "a transfer coding beside chunked"));
    }
    if request.method() == Method::CONNECT || headers.contains_key(header::UPGRADE) {
        return Err(Refusal::new("upgrade_unsupported", "CONNECT or Upgrade"));
    }
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    if lengths > 1 || (lengths == 1 && headers.contains_key(header::TRANSFER_ENCODING)) {
        return Err(Refusal::new("request_invalid", "ambiguous body length"));
    }
    if headers.get_all(header::TRANSFER_ENCODING).iter().count() > 1 {
        return Err(Refusal::new("request_invalid", "repeated Transfer-Encoding"));
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() < Version::HTTP_2) {
        return Err(Refusal::new("host_invalid", "not exactly one Host"));
    }
    Ok(())
}

/// Names the peer in `Host` also where HTTP/2 names it in `:authority` only.
pub fn adopt_authority(parts: &mut request::Parts) {
    if parts.version == Version::HTTP_2
        && !parts.headers.contains_key(header::HOST)
        && let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
}

/// Policies and components have to read a method alike, and some fold its letters; TRACE shows a component's headers.
fn verify_method(method: &Method) -> Result<(), Refusal> {
    let name = method.as_str();
    if matches!(name, "TRACE" | "TRACK") {
        return Err(Refusal::new("method_unsupported", name));
    }
    let is_plain = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if !is_plain || name.len() > MAX_METHOD_BYTES {
        return Err(Refusal::new("request_invalid", "a method that is no word in capitals"));
    }
    Ok(())
}

/// Removes hop-by-hop fields, those that `Connection` names, everything that only brokers may say, and twins of what a
/// record binds.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    let is_unwanted = |name: &&HeaderName| is_reserved(name.as_str()) || is_twin_of_covered(name.as_str());
    let reserved: Vec<HeaderName> = headers.keys().filter(is_unwanted).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}

/// Leaves of trailers what may stand there (RFC 9110 §6.5.1): nothing that frames or routes a message, or that says what
/// it is, and nothing that only brokers may say.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    const OF_HEADS: [HeaderName; 8] = [
        header::AUTHORIZATION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::HOST,
        header::SET_COOKIE,
        header::WWW_AUTHENTICATE,
    ];
    strip(trailers);
    for name in &OF_HEADS {
        trailers.remove(name);
    }
}

/// The field lines as the codec reads them: in order, not merged.
pub fn lines(headers: &HeaderMap) -> Vec<HeaderLine<'_>> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

/// A Custody field's value, never put into HPACK's table: each is unique and would only pollute it.
pub fn custody_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in lines {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn requests_with_two_framings_or_hosts_are_refused() {
        let code = |lines: &[(&'static str, &'static str)]| {
            verify_form(&request(lines)).err().map(|refusal| refusal.code.into_owned())
        };
        assert_eq!(code(&[("host", "a")]), None);
        assert_eq!(code(&[("host", "a"), ("content-length", "1")]), None);
        assert_eq!(code(&[]).as_deref(), Some("host_invalid"));
        assert_eq!(code(&[("host", "a"), ("host", "a")]).as_deref(), Some("host_invalid"));
        assert_eq!(code(&[("host", "a"), ("upgrade", "h2c")]).as_deref(), Some("upgrade_unsupported"));
        let both = [("host", "a"), ("content-length", "1"), ("transfer-encoding", "chunked")];
        assert_eq!(code(&both).as_deref(), Some("request_invalid"));
        let two = [("host", "a"), ("content-length", "1"), ("content-length", "1")];
        assert_eq!(code(&two).as_deref(), Some("request_invalid"));
    }

    #[test]
    fn a_request_is_framed_in_one_way() {
        let code = |lines: &[(&'static str, &'static str)]| {
            let lines = [&[("host", "a")], lines].concat();
            verify_form(&request(&lines)).err().map(|refusal| refusal.code.into_owned())
        };
        assert_eq!(code(&[("transfer-encoding", "Chunked")]), None);
        for coding in ["gzip, chunked", "chunked, chunked", "identity", ""] {
            assert_eq!(code(&[("transfer-encoding", coding)]).as_deref(), Some("request_invalid"), "{coding}");
        }
        for twin in ["content_length", "transfer_encoding"] {
            assert_eq!(code(&[(twin, "5")]).as_deref(), Some("request_invalid"), "{twin}");
        }
        assert_eq!(code(&[("x", "a"); MAX_FIELDS - 1]), None);
        assert_eq!(code(&[("x", "a"); MAX_FIELDS]).as_deref(), Some("headers_too_large"));
    }

    #[test]
    fn a_method_is_a_word_in_capitals_and_shows_no_headers() {
        let code = |method: &str| verify_method(&method.parse().unwrap()).err().map(|refusal| refusal.code);
        for good in ["GET", "M-SEARCH", "PROPFIND", &"A".repeat(MAX_METHOD_BYTES)] {
            assert_eq!(code(good), None, "{good}");
        }
        for bad in ["get", "Get", "G_T", "G1", &"A".repeat(MAX_METHOD_BYTES + 1)] {
            assert_eq!(code(bad).as_deref(), Some("request_invalid"), "{bad}");
        }
        for reflecting in ["TRACE", "TRACK"] {
            assert_eq!(code(reflecting).as_deref(), Some("method_unsupported"));
        }
    }

    #[test]
    fn what_only_brokers_may_say_is_removed_under_every_spelling() {
        let mut headers = request(&[
            ("custody-record", "x"),
            ("custody_record", "x"),
            ("custody-handle", "x"),
            ("custody-future", "x"),
            ("x-forwarded-client-cert", "x"),
            ("x_forwarded_client_cert", "x"),
            ("client-cert", "x"),
            ("client-cert-chain", "x"),
            ("connection", "close, x-named"),
            ("x-named", "x"),
            ("te", "trailers"),
            ("keep-alive", "timeout=5"),
            ("txn_token", "x"),
            ("idempotency_key", "x"),
            ("x_other", "kept"),
            ("authorization", "kept"),
            ("x-custody", "kept"),
        ])
        .headers()
        .clone();
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-custody", "x_other"]);
    }

    #[test]
    fn custody_values_are_never_indexed() {
        assert!(custody_value("abc").unwrap().is_sensitive());
        assert!(custody_value("a\nb").is_none());
    }
}
