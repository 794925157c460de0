//! Receipts: what the callee says it answered (custody-wire §7.1).
//!
//! Owns: the claims of `t: rcp`. Does not own: whether a receipt is true of an answer
//! (see `receive`); a `Receipt` was parsed, not verified.

use crate::claims::Claims;
use crate::error::Result;
use crate::ids::SpiffeId;
use crate::json::Value;
use crate::outcome::Outcome;
use crate::statement::StatementClaims;

/// The claims of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub outcome: Outcome,
}

impl StatementClaims for Receipt {
    const TYPE: &'static str = "rcp";

    fn from_members(members: &[(String, Value)]) -> Result<Self> {
        Ok(Self { outcome: Outcome::parse(&Claims(members))? })
    }

    fn iss(&self) -> &SpiffeId {
        &self.outcome.iss
    }
}

impl Receipt {
    /// The claims in the order in which they are written.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        self.outcome.to_members(Self::TYPE).into_vec()
    }
}
