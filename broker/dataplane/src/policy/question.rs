//! One question to the policies: may this component call that one, or that service, with this operation?
//!
//! Owns: the facts of one call that do not depend on the policies. Does not own: what documents and operators say of
//! the two (see `facts`).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Which broker asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Caller,
    Callee,
}

impl Side {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
        }
    }
}

/// Who or what is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Resource {
    /// Its SPIFFE ID.
    Component(String),
    /// A service outside, reached by TLS under this lower-case name.
    External { host: String, port: u16 },
}

impl Resource {
    /// A SPIFFE ID, or `host:port`.
    pub fn id(&self) -> Cow<'_, str> {
        match self {
            Self::Component(id) => Cow::Borrowed(id),
            Self::External { host, port } => Cow::Owned(format!("{host}:{port}")),
        }
    }
}

/// A user as policies see one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnBehalf {
    pub issuer: String,
    pub subject: String,
    /// Whether the issuer's token was verified here (custody-wire §8.4).
    pub verified: bool,
}

/// One question; kept as long as the call is open, because policies change meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// SPIFFE ID.
    pub caller: String,
    pub resource: Resource,
    /// Whether a local document names the caller.
    #[serde(default = "yes")]
    pub caller_documented: bool,
    pub side: Side,
    pub protocol: Cow<'static, str>,
    /// `<METHOD> <path>`.
    pub http: String,
    pub operation: String,
    pub method: String,
    pub path: String,
    #[serde(default)]
    pub mcp_session: bool,
    #[serde(default)]
    pub target: Option<String>,
    #[serde(default)]
    pub a2a_context: Option<String>,
    #[serde(default)]
    pub args_hash: Option<String>,
    #[serde(default)]
    pub hop: u32,
    /// SPIFFE IDs from the chain's root to the caller.
    #[serde(default)]
    pub chain: Vec<String>,
    /// Whether a custody record says so; false for a peer without custody.
    #[serde(default = "yes")]
    pub recorded: bool,
    #[serde(default)]
    pub task: Option<String>,
    #[serde(default)]
    pub approvals: Vec<String>,
    #[serde(default)]
    pub approved_by: Vec<String>,
    /// The user that the chain acts for.
    #[serde(default)]
    pub user: Option<OnBehalf>,
    /// Milliseconds since 1970 instead of now, for what was or would have been decided then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// The same for the age of the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_age_s: Option<i64>,
}

impl Question {
    /// About how many bytes it holds of what a caller can make long.
    pub fn size_bytes(&self) -> usize {
        let texts = [&self.http, &self.operation, &self.method, &self.path, &self.caller];
        let optional = [&self.target, &self.task, &self.args_hash].into_iter().flatten();
        let listed = [&self.chain, &self.approvals, &self.approved_by].into_iter().flatten();
        let user = self.user.iter().flat_map(|user| [&user.issuer, &user.subject]);
        texts.into_iter().chain(optional).chain(listed).chain(user).map(String::len).sum()
    }

    /// Whether nobody knows what the call asks for.
    pub fn is_unreadable(&self) -> bool {
        self.protocol == "unreadable"
    }
}

fn yes() -> bool {
    true
}
