//! Refusals and how they look on the wire (RFC 9457), in one place.
//!
//! Owns: the reason codes of the data plane's own answers and their HTTP status. Does not own:
//! the custody codes (crate `hopseal_custody`, custody-wire §13), which pass through here.

use std::borrow::Cow;

use bytes::Bytes;
use hopseal_custody::error::Rejection;
use http::{HeaderValue, Response, StatusCode, header};

/// Prefix of the `type` member.
const TYPE_PREFIX: &str = "https://hopseal.dev/errors/";

/// A call that does not go on: the code for the caller, the detail for the operator only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Cow<'static, str>,
    pub status: StatusCode,
    pub detail: String,
    /// Items that would let the message pass (`custody_unresolved` only).
    pub missing: Vec<String>,
}

impl Refusal {
    /// A refusal with one of the data plane's own codes.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self::with_status(code, status_of(code), detail)
    }

    /// A refusal whose code was decided elsewhere: by the codec, the control process or the peer.
    pub fn with_status(code: impl Into<Cow<'static, str>>, status: StatusCode, detail: impl Into<String>) -> Self {
        Self { code: code.into(), status, detail: detail.into(), missing: Vec::new() }
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
        let mut response = Response::new(Bytes::from(problem.to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// HTTP status of the data plane's own codes; unknown ones are ours to answer for.
fn status_of(code: &str) -> StatusCode {
    match code {
        "host_invalid" | "path_invalid" | "request_invalid" => StatusCode::BAD_REQUEST,
        "identity_none" | "identity_ambiguous" | "caller_gone" | "policy_denied" | "may_not_start" => {
            StatusCode::FORBIDDEN
        }
        "unknown_peer" | "not_found" => StatusCode::NOT_FOUND,
        "handle_unknown" => StatusCode::CONFLICT,
        "body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "upgrade_unsupported" => StatusCode::NOT_IMPLEMENTED,
        "peer_unreachable" | "peer_untrusted" => StatusCode::BAD_GATEWAY,
        "callee_timeout" | "peer_timeout" => StatusCode::GATEWAY_TIMEOUT,
        "attestor_unavailable"
        | "callee_unavailable"
        | "log_unavailable"
        | "log_unwitnessed"
        | "svid_expired"
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
}
