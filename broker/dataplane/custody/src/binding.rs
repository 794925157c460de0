//! What a record binds of its request, and a receipt of its response (custody-wire §4.4, §7.1).
//!
//! Owns: the covered components and their order. Does not own: reading bodies.

use aws_lc_rs::digest::{Context, SHA256};

use crate::error::{Code, Rejection, Result};
use crate::fields::is_custody;
use crate::hash::{ClaimHash, decode_base64, encode_base64, sha256};
use crate::messages::{MessageCounter, is_grpc};

/// Covered fields, in the order of their lines.
const COVERED: [&str; 16] = [
    "content-type",
    "content-encoding",
    "content-digest",
    "authorization",
    "txn-token",
    "workload-identity-token",
    "idempotency-key",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "a2a-version",
    "a2a-extensions",
    "upgrade",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "grpc-encoding",
];

/// True if `name` is a covered field's but for underscores: what reads both as one variable, as CGI does, would take
/// the one that no binding covers.
#[must_use]
pub fn is_twin_of_covered(name: &str) -> bool {
    name.contains('_') && COVERED.contains(&name.to_ascii_lowercase().replace('_', "-").as_str())
}

/// Covered fields of responses, likewise.
const COVERED_IN_RESPONSES: [&str; 10] = [
    "content-type",
    "content-encoding",
    "content-digest",
    "upgrade",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "grpc-encoding",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
];

/// One field line as received or about to be sent: name and value, not merged with others.
pub type HeaderLine<'a> = (&'a str, &'a [u8]);

/// The body of a message as bytes on the wire, after content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// No bytes.
    Empty,
    /// At least one byte; their SHA-256.
    Digest([u8; 32]),
    /// Not read yet: what the record says of it at the start, the closing statement says at its end (§7.3).
    Stream,
}

impl Body {
    /// The body with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Digest(sha256(bytes)) }
    }
}

/// What a body came to: `len` and `cd`, of messages also `n`, and `tlb` if trailers followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodySum {
    pub len: u64,
    pub sha256: [u8; 32],
    /// Messages, if the body is a sequence of them (§7.3).
    pub messages: Option<u64>,
    /// [`trailer_binding`] of what followed.
    pub trailers: Option<[u8; 32]>,
}

impl BodySum {
    /// The sum of a whole body.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut summer = BodySummer::default();
        summer.update(bytes);
        summer.finish()
    }

    /// The sum of this body with the trailers of that binding.
    #[must_use]
    pub fn followed_by(self, trailers: Option<[u8; 32]>) -> Self {
        Self { trailers, ..self }
    }
}

/// Sums a body up while it streams.
#[derive(Clone)]
pub struct BodySummer {
    len: u64,
    digest: Context,
    messages: Option<MessageCounter>,
}

impl Default for BodySummer {
    fn default() -> Self {
        Self { len: 0, digest: Context::new(&SHA256), messages: None }
    }
}

impl BodySummer {
    /// For the body of a message with this head: one of gRPC is a sequence of messages.
    #[must_use]
    pub fn for_head(headers: &[HeaderLine<'_>]) -> Self {
        Self { messages: is_grpc(headers).then(MessageCounter::default), ..Self::default() }
    }

    /// Takes the next bytes on the wire.
    pub fn update(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len() as u64);
        self.digest.update(bytes);
        if let Some(messages) = &mut self.messages {
            messages.update(bytes);
        }
    }

    /// Whether what was taken cannot be the sequence of messages that the head announced.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.messages.as_ref().is_some_and(MessageCounter::is_malformed)
    }

    /// The sum of everything taken so far; the summer may go on.
    #[must_use]
    pub fn so_far(&self) -> BodySum {
        self.clone().finish()
    }

    #[must_use]
    pub fn finish(self) -> BodySum {
        let mut sha256 = [0_u8; 32];
        sha256.copy_from_slice(self.digest.finish().as_ref());
        let messages = self.messages.map(|messages| messages.count());
        BodySum { len: self.len, sha256, messages, trailers: None }
    }
}

/// The `Content-Digest` value of a body with this SHA-256 (RFC 9530).
#[must_use]
pub fn content_digest(digest: &[u8; 32]) -> String {
    format!("sha-256=:{}:", encode_base64(digest))
}

/// Nothing if `Content-Digest` in `headers` is there exactly when there is a body, and is its digest.
///
/// # Errors
/// `binding`.
pub fn verify_content_digest(headers: &[HeaderLine<'_>], body: &Body) -> Result<()> {
    let refuse = |detail: &str| Err(Rejection::new(Code::Binding, detail));
    let value = joined_value(headers, "content-digest");
    let stated = match (&value, body) {
        (_, Body::Stream) => return refuse("a body that is not read yet has no digest"),
        (None, Body::Empty) => return Ok(()),
        (None, Body::Digest(_)) => return refuse("a body without Content-Digest"),
        (Some(_), Body::Empty) => return refuse("a Content-Digest without body"),
        (Some(value), Body::Digest(digest)) => (parse_content_digest(value), digest),
    };
    match stated {
        (None, _) => refuse("Content-Digest is not exactly one sha-256"),
        (Some(claimed), digest) if claimed != *digest => refuse("Content-Digest is not the digest of the body"),
        _ => Ok(()),
    }
}

fn parse_content_digest(value: &[u8]) -> Option<[u8; 32]> {
    let encoded = value.strip_prefix(b"sha-256=:")?.strip_suffix(b":")?;
    decode_base64(std::str::from_utf8(encoded).ok()?)?.try_into().ok()
}

/// The text whose SHA-256 is `rqb`: component lines of RFC 9421 §2.5, joined by line feeds.
///
/// `target_uri` is the absolute URI out of the receiver's own configuration, with query.
///
/// # Errors
/// `binding` if a covered value holds a byte other than HTAB and space to `~`.
pub fn binding_base(method: &str, target_uri: &str, headers: &[HeaderLine<'_>]) -> Result<String> {
    with_fields(format!("\"@method\": {method}\n\"@target-uri\": {target_uri}"), &COVERED, headers)
}

/// The text whose SHA-256 is `rsb` (custody-wire §7.1).
///
/// # Errors
/// As [`binding_base`].
pub fn response_base(status: u16, headers: &[HeaderLine<'_>]) -> Result<String> {
    with_fields(format!("\"@status\": {status}"), &COVERED_IN_RESPONSES, headers)
}

/// `base` with a line for each covered field that is present.
fn with_fields(mut base: String, covered: &[&str], headers: &[HeaderLine<'_>]) -> Result<String> {
    for name in covered {
        let Some(value) = joined_value(headers, name) else { continue };
        if !value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            return Err(Rejection::new(Code::Binding, format!("{name} holds a byte that cannot be bound")));
        }
        base.push_str("\n\"");
        base.push_str(name);
        base.push_str("\": ");
        base.extend(value.iter().map(|byte| char::from(*byte)));
    }
    Ok(base)
}

/// The request binding `rqb`.
///
/// # Errors
/// As [`binding_base`].
pub fn request_binding(method: &str, target_uri: &str, headers: &[HeaderLine<'_>]) -> Result<ClaimHash> {
    binding_base(method, target_uri, headers).map(|base| ClaimHash(sha256(base.as_bytes())))
}

/// The response binding `rsb` over the head of a final response.
///
/// # Errors
/// As [`binding_base`].
pub fn response_binding(status: u16, headers: &[HeaderLine<'_>]) -> Result<ClaimHash> {
    response_base(status, headers).map(|base| ClaimHash(sha256(base.as_bytes())))
}

/// What `tlb` says of these trailers: SHA-256 over a line for each field but those of custody, by name; None if there is
/// none.
///
/// # Errors
/// As [`binding_base`].
pub fn trailer_binding(trailers: &[HeaderLine<'_>]) -> Result<Option<[u8; 32]>> {
    let mut names: Vec<String> = trailers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.retain(|name| !is_custody(name));
    names.sort_unstable();
    names.dedup();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let base = with_fields(String::new(), &names, trailers)?;
    Ok((!names.is_empty()).then(|| sha256(base.trim_start_matches('\n').as_bytes())))
}

/// `value` without SP and HTAB at its ends.
pub(crate) fn trim(value: &[u8]) -> &[u8] {
    let mut rest = value;
    while let [b' ' | b'\t', inner @ ..] | [inner @ .., b' ' | b'\t'] = rest {
        rest = inner;
    }
    rest
}

/// All lines of field `name`, trimmed and joined (RFC 9421 §2.1); None if there is none.
fn joined_value(headers: &[HeaderLine<'_>], name: &str) -> Option<Vec<u8>> {
    let mut joined: Option<Vec<u8>> = None;
    for (_, value) in headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)) {
        match &mut joined {
            None => joined = Some(trim(value).to_vec()),
            Some(text) => {
                text.extend_from_slice(b", ");
                text.extend_from_slice(trim(value));
            }
        }
    }
    joined
}
