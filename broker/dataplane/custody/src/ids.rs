//! SPIFFE IDs, trust domains and audiences, parsed strictly.
//!
//! Owns: their grammar. Nothing is normalised: what is not canonical is refused,
//! so that equal identities are equal bytes (custody-wire §17).

use std::fmt;
use std::sync::Arc;

use crate::limits::{MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES};

const SCHEME: &str = "spiffe://";
const HTTPS: &str = "https://";

/// A trust domain name, without scheme.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain that `text` names, or None.
    ///
    /// Source: SPIFFE-ID §2.1.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_trust_domain(text).then(|| Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A workload's SPIFFE ID, with a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    path_at: usize,
}

impl SpiffeId {
    /// The canonical SPIFFE ID in `text`, or None.
    ///
    /// Source: SPIFFE-ID §2.1 to 2.3; at most 256 bytes (custody-wire §12).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let path_at = parse_spiffe(text)?;
        Some(Self { text: text.into(), path_at })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SpiffeId({})", self.text)
    }
}

/// True if `text` can stand in `aud`: a SPIFFE ID, or at egress an origin `https://host[:port]`.
#[must_use]
pub fn is_audience(text: &str) -> bool {
    parse_spiffe(text).is_some() || is_https_origin(text)
}

/// The offset of the path if `text` is a canonical SPIFFE ID with a path.
fn parse_spiffe(text: &str) -> Option<usize> {
    if text.len() > MAX_SPIFFE_ID_BYTES {
        return None;
    }
    let rest = text.strip_prefix(SCHEME)?;
    let (name, path) = rest.split_once('/')?;
    (is_trust_domain(name) && path.split('/').all(is_segment)).then(|| SCHEME.len() + name.len())
}

fn is_trust_domain(text: &str) -> bool {
    (1..=MAX_TRUST_DOMAIN_BYTES).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn is_https_origin(text: &str) -> bool {
    text.len() <= MAX_SPIFFE_ID_BYTES && text.strip_prefix(HTTPS).is_some_and(is_authority)
}

/// True if `text` can follow `https://` in an origin: a host, perhaps with a port; at most 256 bytes.
pub(crate) fn is_authority(text: &str) -> bool {
    // The port's colon is searched after a bracketed address, which has colons of its own.
    let host_end = match text.find(']') {
        Some(at) if text.starts_with('[') => at + 1,
        _ => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(host_end);
    text.len() <= MAX_SPIFFE_ID_BYTES && is_host(host) && (port.is_empty() || is_port(port))
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return !address.is_empty()
            && address.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':' | b'.'));
    }
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

/// `:` and one to five digits without leading zero.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| {
        (1..=5).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}
