//! Observations: what a connector saw of a server that makes no receipts (custody-wire §7.1).
//!
//! Owns: the claims of `t: obs`. An observation is the connector's word, not the server's:
//! it has a type of its own so that it can never pass as a receipt.

use crate::claims::{Claims, required, text};
use crate::error::{Result, malformed};
use crate::hash::ClaimHash;
use crate::ids::{SpiffeId, is_authority};
use crate::json::Value;
use crate::outcome::Outcome;
use crate::statement::StatementClaims;

/// The claims of an observation; `iss` and `aud` are both the connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub outcome: Outcome,
    /// The server's host, with its port if that was named, as in an origin.
    pub host: String,
    /// SHA-256 of the server's public key (its `SubjectPublicKeyInfo`).
    pub spki: ClaimHash,
}

impl StatementClaims for Observation {
    const TYPE: &'static str = "obs";

    fn from_members(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        let outcome = Outcome::parse(&claims)?;
        if outcome.iss != outcome.aud {
            return Err(malformed("an observation is for somebody else than its issuer"));
        }
        Ok(Self {
            outcome,
            host: required("host", claims.parsed("host", |host| is_authority(host).then(|| host.to_owned()))?)?,
            spki: required("spki", claims.parsed("spki", ClaimHash::parse)?)?,
        })
    }

    fn iss(&self) -> &SpiffeId {
        &self.outcome.iss
    }
}

impl Observation {
    /// The claims in the order in which they are written.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        let mut members = self.outcome.to_members(Self::TYPE);
        members.add("host", text(&self.host)).add("spki", text(&self.spki));
        members.into_vec()
    }
}
