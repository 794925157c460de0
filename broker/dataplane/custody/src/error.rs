//! Why a message is refused: the codes of custody-wire §13.
//!
//! Owns: the codes, their HTTP and gRPC status and what a peer may be told.
//! Does not own: which check gives which code (see `receive`).

use std::fmt;

use crate::hash::{StatementHash, Thumbprint};

/// A stable reason; the text is part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    Missing,
    Unresolved,
    Malformed,
    Duplicate,
    Signature,
    Untrusted,
    Identity,
    Chain,
    Binding,
    Audience,
    Expired,
    Replayed,
    Authority,
    Forbidden,
    TooLarge,
    TooLong,
    EarlyData,
    ReceiptUnavailable,
    Unavailable,
}

impl Code {
    /// Every code, in the order of the table in custody-wire §13.
    pub const ALL: [Self; 19] = [
        Self::Missing,
        Self::Unresolved,
        Self::Malformed,
        Self::Duplicate,
        Self::Signature,
        Self::Untrusted,
        Self::Identity,
        Self::Chain,
        Self::Binding,
        Self::Audience,
        Self::Expired,
        Self::Replayed,
        Self::Authority,
        Self::Forbidden,
        Self::TooLarge,
        Self::TooLong,
        Self::EarlyData,
        Self::ReceiptUnavailable,
        Self::Unavailable,
    ];

    /// The code's text, `custody_…`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "custody_missing",
            Self::Unresolved => "custody_unresolved",
            Self::Malformed => "custody_malformed",
            Self::Duplicate => "custody_duplicate",
            Self::Signature => "custody_signature",
            Self::Untrusted => "custody_untrusted",
            Self::Identity => "custody_identity",
            Self::Chain => "custody_chain",
            Self::Binding => "custody_binding",
            Self::Audience => "custody_audience",
            Self::Expired => "custody_expired",
            Self::Replayed => "custody_replayed",
            Self::Authority => "custody_authority",
            Self::Forbidden => "custody_forbidden",
            Self::TooLarge => "custody_too_large",
            Self::TooLong => "custody_too_long",
            Self::EarlyData => "custody_early_data",
            Self::ReceiptUnavailable => "custody_receipt_unavailable",
            Self::Unavailable => "custody_unavailable",
        }
    }

    /// The code with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// The HTTP status of the problem document.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Missing | Self::Unresolved => 428,
            Self::Malformed
            | Self::Duplicate
            | Self::Signature
            | Self::Untrusted
            | Self::Identity
            | Self::Chain
            | Self::Binding
            | Self::Audience
            | Self::Expired
            | Self::Replayed => 400,
            Self::Authority | Self::Forbidden => 403,
            Self::TooLarge | Self::TooLong => 431,
            Self::EarlyData => 425,
            Self::ReceiptUnavailable => 501,
            Self::Unavailable => 503,
        }
    }

    /// What a caller may do about it; everything but `yes` at most once.
    #[must_use]
    pub const fn retry(self) -> &'static str {
        match self {
            Self::Missing => "with_record",
            Self::Unresolved => "with_items",
            Self::Expired => "new_record",
            Self::EarlyData | Self::Unavailable => "yes",
            _ => "no",
        }
    }

    /// The name of the gRPC status.
    #[must_use]
    pub const fn grpc_status(self) -> &'static str {
        match self {
            Self::Missing | Self::Unresolved => "FAILED_PRECONDITION",
            Self::Malformed | Self::Duplicate => "INVALID_ARGUMENT",
            Self::Signature
            | Self::Untrusted
            | Self::Identity
            | Self::Chain
            | Self::Binding
            | Self::Audience
            | Self::Expired => "UNAUTHENTICATED",
            Self::Replayed => "ALREADY_EXISTS",
            Self::Authority | Self::Forbidden => "PERMISSION_DENIED",
            Self::TooLarge | Self::TooLong => "RESOURCE_EXHAUSTED",
            Self::EarlyData | Self::Unavailable => "UNAVAILABLE",
            Self::ReceiptUnavailable => "UNIMPLEMENTED",
        }
    }
}

/// Something that the sender has and the receiver lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A certificate, by its thumbprint.
    Certificate(Thumbprint),
    /// An omitted ancestor, by its statement hash.
    Record(StatementHash),
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(thumbprint) => write!(out, "cert:{thumbprint}"),
            Self::Record(hash) => write!(out, "rec:{hash}"),
        }
    }
}

/// A refused message: the code and `missing` may be told to the peer, `detail` only to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub code: Code,
    pub missing: Vec<Missing>,
    pub detail: String,
}

impl Rejection {
    /// A refusal with `code`; `detail` is for the log.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, missing: Vec::new(), detail: detail.into() }
    }

    /// The refusal that lists what to send again (`custody_unresolved`).
    #[must_use]
    pub fn unresolved(missing: Vec<Missing>) -> Self {
        let detail = format!("{} items are not known here", missing.len());
        Self { code: Code::Unresolved, missing, detail }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Rejection {}

/// Shorthand of this crate: a value or a refusal.
pub type Result<T> = std::result::Result<T, Rejection>;

pub(crate) fn malformed(detail: impl Into<String>) -> Rejection {
    Rejection::new(Code::Malformed, detail)
}
