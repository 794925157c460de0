//! What the log remembers.
//!
//! Owns: the kinds of entries. Does not own: their lines (`line`).

use serde::{Deserialize, Serialize};

use super::artifact::Artifact;
use super::relayed::Relayed;

/// Who made the record that an entry tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Sent,
    Received,
}

/// The claims that are repeated beside the sealed text: what a restarted broker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub jti: String,
    pub exp: i64,
    pub cid: String,
    pub hop: u32,
    pub op: Option<String>,
    /// Hash of a tool call's arguments as this broker read them; no claim, and in no leaf of the tree.
    pub args_hash: Option<String>,
}

/// What is repeated beside the sealed text of a statement about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub iss: String,
    pub aud: String,
    pub cid: String,
    /// Statement hash of the record.
    pub rec: String,
    /// Status of the answer; None for a closing statement.
    pub st: Option<u16>,
}

/// The statements about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Receipt,
    /// Of the answer of a party without custody.
    Observation,
    Closing,
    Segment,
}

impl Kind {
    /// The statement type `t`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receipt => "rcp",
            Self::Observation => "obs",
            Self::Closing => "cls",
            Self::Segment => "seg",
        }
    }
}

/// One thing to remember.
#[derive(Debug, Clone)]
pub enum Entry {
    Record {
        direction: Direction,
        /// None if accepted, else the code of the refusal.
        refused: Option<String>,
        /// For the operator; never secret.
        detail: Option<String>,
        /// Sealed text of a readable record, else None.
        sealed: Option<String>,
        /// Oldest first; received records only.
        ancestors: Vec<String>,
        claims: Option<Claims>,
    },
    /// A receipt or closing statement.
    Statement {
        kind: Kind,
        direction: Direction,
        /// None if it holds, else the code.
        refused: Option<String>,
        /// For the operator; never secret.
        detail: Option<String>,
        /// None if none came.
        sealed: Option<String>,
        about: About,
    },
    Certificate {
        x5t: String,
        der: String,
    },
    Bundle {
        trust_domain: String,
        sequence: u64,
        x509: Vec<String>,
    },
    /// What a user's token says, once for each; never its signature.
    Token {
        th: String,
        kid: Option<String>,
        /// What the configuration makes of its client ID.
        workload: Option<String>,
        claims: serde_json::Map<String, serde_json::Value>,
    },
    Start {
        node: String,
    },
    /// The first line of every file but the first: what a reader of this file alone needs of those before.
    Continue {
        node: String,
        /// Latest `exp` of any accepted record before: where a start may stop reading back.
        latest_exp: i64,
    },
    Artifact(Artifact),
    /// A line of the broker that this one took over from.
    Relayed(Relayed),
    /// A call of which there is no statement.
    Call(Box<Unrecorded>),
}

/// A call that no record tells of: that of a peer without custody, or what passed through a tunnel.
#[derive(Debug, Clone, Serialize)]
pub struct Unrecorded {
    pub dir: Direction,
    pub verdict: &'static str,
    pub code: Option<String>,
    /// For the operator; never secret.
    pub detail: Option<String>,
    /// Always `none`.
    pub custody: &'static str,
    /// `caller` or `tunnel`.
    pub kind: &'static str,
    /// `begin` or `end`.
    pub phase: &'static str,
    /// The same at begin and end.
    pub id: String,
    pub iss: String,
    pub aud: String,
    pub op: Option<String>,
    /// The policies that decided.
    pub dec: Option<String>,
    /// Thumbprint of the caller's leaf.
    pub x5t: Option<String>,
    /// The chain that the call is made in, or that the callee may begin because of it.
    pub cid: Option<String>,
    /// Statement hash of the record that opened the tunnel.
    pub rec: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// How such a call ended.
#[derive(Debug, Clone, Serialize)]
pub struct Ended {
    pub st: u16,
    /// `eof` or `abort`.
    pub fin: &'static str,
    pub why: String,
    /// Body bytes of the answer; in a tunnel, those that came back.
    pub received: u64,
    /// Bytes that went into a tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Where the tunnel led.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Entry {
    /// Whether a call waits until witnesses have confirmed it, where calls do.
    pub fn awaits_witnesses(&self) -> bool {
        self.replayable_until().is_some() || matches!(self, Self::Call(call) if call.phase == "begin")
    }

    /// Whether this is a receipt that came in. In one write those stand after the receipts made here: one that came
    /// later must not look as if its receiver had left it out of its own (`kids`).
    pub fn is_receipt_of_peer(&self) -> bool {
        matches!(self, Self::Statement { kind: Kind::Receipt, direction: Direction::Received, .. })
    }

    /// Until when this entry must be remembered to refuse a replay.
    pub fn replayable_until(&self) -> Option<i64> {
        match self {
            Self::Record { direction: Direction::Received, refused: None, claims, .. } => {
                claims.as_ref().map(|claims| claims.exp)
            }
            Self::Relayed(relayed) => relayed.accepted().map(|accepted| accepted.exp),
            _ => None,
        }
    }
}
