//! Refusals and how they look on the wire (RFC 9457), in one place.
//!
//! Owns: the reason codes of the data plane's own answers and their HTTP status. Does not own:
//! the custody codes (crate `hopseal_custody`, custody-wire §13), which pass through here.

use std::borrow::Cow;

use bytes::Bytes;
use hopseal_custody::error::Rejection;
use hopseal_custody::hash::ClaimHash;
use http::{HeaderName, HeaderValue, Response, StatusCode, header, response};

/// Prefix of the `type` member.
const TYPE_PREFIX: &str = "https://hopseal.dev/errors/";
const PROBLEM_TYPE: &str = "application/problem+json";
/// The field with the id of the policy decision behind a refusal.
pub const DECISION: &str = "hopseal-decision";
/// Longest code of a peer that is passed on.
const MAX_CODE_BYTES: usize = 64;
/// Most items that a peer may ask for: those of a longest chain, each once.
const MAX_MISSING: usize = 64;

/// A call that does not go on: the code for the caller, the detail for the operator only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Cow<'static, str>,
    pub status: StatusCode,
    pub detail: String,
    /// Items that would let the message pass (`custody_unresolved` only).
    pub missing: Vec<String>,
    /// Id of the policy decision that it stands for.
    pub decision: Option<String>,
}

impl Refusal {
    /// A refusal with one of the data plane's own codes.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self::with_status(code, status_of(code), detail)
    }

    /// A refusal whose code was decided elsewhere: by the codec, the control process or the peer.
    pub fn with_status(code: impl Into<Cow<'static, str>>, status: StatusCode, detail: impl Into<String>) -> Self {
        Self { code: code.into(), status, detail: detail.into(), missing: Vec::new(), decision: None }
    }

    /// The refusal with the id of the policy decision that made it.
    pub fn decided(self, id: String) -> Self {
        Self { decision: Some(id), ..self }
    }

    /// The answer that the caller gets; says the code and nothing about the inside.
    pub fn response(&self) -> Response<Bytes> {
        let mut problem = serde_json::json!({
            "type": format!("{TYPE_PREFIX}{}", self.code),
            "title": self.code.replace('_', " "),
            "status": self.status.as_u16(),
            "code": self.code,
        });
        if !self.missing.is_empty() {
            problem["missing"] = self.missing.clone().into();
        }
        if let Some(decision) = &self.decision {
            problem["decision"] = decision.clone().into();
        }
        let mut response = Response::new(Bytes::from(problem.to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        let decision = self.decision.as_ref().and_then(|id| HeaderValue::from_str(id).ok());
        response.headers_mut().extend(decision.map(|id| (HeaderName::from_static(DECISION), id)));
        response
    }
}

/// A refusal by the peer's broker, which had no reason to give a receipt (custody-wire §7.1).
#[derive(Debug, PartialEq, Eq)]
pub struct PeerRefusal {
    pub refusal: Refusal,
}

impl PeerRefusal {
    /// The refusal in an answer; None if it is anything else. Only code and `missing` are taken from it: the rest is
    /// not vouched for.
    pub fn read(parts: &response::Parts, body: &[u8]) -> Option<Self> {
        let is_problem = parts.headers.get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_TYPE);
        if !is_problem || !(parts.status.is_client_error() || parts.status.is_server_error()) {
            return None;
        }
        let document: serde_json::Value = serde_json::from_slice(body).ok()?;
        let code = document["code"].as_str().filter(|code| is_code(code))?;
        let missing = document["missing"].as_array().map_or(&[][..], Vec::as_slice);
        let missing = missing.iter().filter_map(|item| item.as_str()).filter(|item| is_missing_item(item));
        let mut refusal = Refusal::with_status(code.to_owned(), parts.status, "the peer refused");
        refusal.missing = missing.take(MAX_MISSING).map(ToOwned::to_owned).collect();
        Some(Self { refusal })
    }
}

fn is_code(text: &str) -> bool {
    (1..=MAX_CODE_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// `cert:` or `rec:` and a hash.
fn is_missing_item(text: &str) -> bool {
    let hash = text.strip_prefix("cert:").or_else(|| text.strip_prefix("rec:"));
    hash.is_some_and(|hash| ClaimHash::parse(hash).is_some())
}

/// HTTP status of the data plane's own codes; unknown ones are ours to answer for.
pub fn status_of(code: &str) -> StatusCode {
    match code {
        "host_invalid" | "path_invalid" | "request_invalid" | "request_malformed" => StatusCode::BAD_REQUEST,
        "request_head_timeout" | "body_timeout" => StatusCode::REQUEST_TIMEOUT,
        // It is seen in receipts only: 499 is what nginx writes down for it.
        "call_abandoned" => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        "target_too_long" => StatusCode::URI_TOO_LONG,
        "headers_too_large" => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "identity_none"
        | "identity_ambiguous"
        | "caller_gone"
        | "policy_denied"
        | "operation_unreadable"
        | "may_not_start"
        | "egress_denied"
        | "egress_address"
        | "egress_user_token"
        | "user_token_invalid"
        | "user_token_mismatch" => StatusCode::FORBIDDEN,
        "unknown_peer" | "not_found" => StatusCode::NOT_FOUND,
        "handle_unknown" | "nothing_to_continue" => StatusCode::CONFLICT,
        "body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "upgrade_unsupported"
        | "method_unsupported"
        | "grpc_unsupported"
        | "websocket_unsupported"
        | "streams_refused" => StatusCode::NOT_IMPLEMENTED,
        "egress_unresolvable"
        | "egress_unreachable"
        | "egress_tls"
        | "egress_answer"
        | "peer_unreachable"
        | "peer_untrusted"
        | "receipt_missing"
        | "receipt_invalid"
        | "answer_aborted"
        | "answer_too_long"
        | "handover_failed" => StatusCode::BAD_GATEWAY,
        "callee_timeout"
        | "peer_timeout"
        | "peer_connect_timeout"
        | "peer_handshake_timeout"
        | "call_timeout"
        | "stream_idle"
        | "stream_lifetime"
        | "egress_timeout" => StatusCode::GATEWAY_TIMEOUT,
        "attestor_unavailable"
        | "issuer_unavailable"
        | "callee_unavailable"
        | "log_unavailable"
        | "log_unwitnessed"
        | "svid_expired"
        | "endpoints_failing"
        | "retry_budget_spent"
        | "overloaded" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The codec's refusal as an answer.
pub fn refusal_of(rejection: Rejection) -> Refusal {
    let status = StatusCode::from_u16(rejection.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut refusal = Refusal::with_status(rejection.code.as_str(), status, rejection.detail);
    refusal.missing = rejection.missing.iter().map(ToString::to_string).collect();
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_the_code_and_not_the_detail() {
        let response = Refusal::new("policy_denied", "secret inside").response();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let body = std::str::from_utf8(response.body()).unwrap();
        assert!(body.contains("\"code\":\"policy_denied\""));
        assert!(!body.contains("secret"));
        assert!(!body.contains("missing"));
    }

    #[test]
    fn of_a_peers_refusal_only_the_code_and_what_it_misses_pass() {
        let read = |refusal: &Refusal, edit: fn(&str) -> String| {
            let (parts, body) = refusal.response().into_parts();
            let body = edit(std::str::from_utf8(&body).unwrap());
            PeerRefusal::read(&parts, body.as_bytes()).map(|read| read.refusal)
        };
        let mut refusal = Refusal::with_status("custody_unresolved", StatusCode::PRECONDITION_REQUIRED, "");
        refusal.missing = vec![format!("cert:{}", "A".repeat(43)), "rec:short".into(), "x".into()];
        let passed = read(&refusal, ToOwned::to_owned).unwrap();
        assert_eq!((passed.code.as_ref(), passed.missing), ("custody_unresolved", vec![refusal.missing[0].clone()]));
        assert_eq!(read(&refusal, |body| body.replace("custody_unresolved", "Not a code")), None);
        assert_eq!(read(&refusal, |_| "[]".into()), None);
        assert_eq!(read(&Refusal::with_status("policy_denied", StatusCode::OK, ""), ToOwned::to_owned), None);
    }
}
