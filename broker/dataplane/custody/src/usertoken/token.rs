//! A token that was verified, and what it says.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value as Json};

use super::TokenType;
use crate::hash::Thumbprint;
use crate::ids::SpiffeId;
use crate::limits::MAX_SKEW_S;
use crate::record::User;
use crate::tokenjson::exact;

/// The workload that a token was issued to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// By name; usually a SPIFFE ID.
    Named(String),
    /// By the thumbprint of its certificate.
    Certificate(Thumbprint),
}

/// A token that was verified.
pub struct UserToken {
    pub(super) typ: TokenType,
    pub(super) user: User,
    pub(super) not_before: i64,
    pub(super) scope: BTreeSet<String>,
    pub(super) holder: Holder,
    pub(super) kid: Option<String>,
    pub(super) claims: Map<String, Json>,
    pub(super) text: String,
}

impl fmt::Debug for UserToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text is a credential.
        write!(out, "UserToken({}, {})", self.user.th, self.user.iss)
    }
}

impl PartialEq for UserToken {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for UserToken {}

impl UserToken {
    /// What a root says about it.
    #[must_use]
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Its type.
    #[must_use]
    pub fn typ(&self) -> TokenType {
        self.typ
    }

    /// Empty if it grants none.
    #[must_use]
    pub fn scope(&self) -> &BTreeSet<String> {
        &self.scope
    }

    /// The workload that it was issued to.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The key that signed it; None if the issuer's only key has no name.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The decoded payload as a log line can hold it; never the signature.
    #[must_use]
    pub fn claims_for_log(&self) -> Map<String, Json> {
        exact(&self.claims)
    }

    /// The token itself, a credential: it goes into its header field and nowhere else.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if it was issued to `workload`, whose certificate has thumbprint `x5t`.
    #[must_use]
    pub fn is_for(&self, workload: &SpiffeId, x5t: &Thumbprint) -> bool {
        match &self.holder {
            Holder::Named(name) => name == workload.as_str(),
            Holder::Certificate(bound) => bound == x5t,
        }
    }

    pub(super) fn is_valid_at(&self, now: i64) -> bool {
        self.not_before - MAX_SKEW_S <= now && now < self.user.exp + MAX_SKEW_S
    }
}
