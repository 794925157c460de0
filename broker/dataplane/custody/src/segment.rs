//! Segments: what passed on a connection that stays open, said from time to time (custody-wire §7.3).
//!
//! Owns: the claims of `t: seg`. Each broker says it for its own log; it never travels.

use crate::claims::{Claims, Members, count, integer, required, text};
use crate::error::Result;
use crate::hash::{RandomId, StatementHash};
use crate::ids::SpiffeId;
use crate::json::Value;
use crate::outcome::Taken;
use crate::statement::StatementClaims;

/// The claims of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Caller or callee, whose broker saw it.
    pub iss: SpiffeId,
    /// The other one.
    pub aud: SpiffeId,
    /// `NumericDate` seconds.
    pub iat: i64,
    pub jti: RandomId,
    pub cid: RandomId,
    /// Statement hash of the opening record.
    pub rec: StatementHash,
    /// How many there were before.
    pub seq: u64,
    /// What passed from caller to callee since the beginning.
    pub up: Taken,
    /// What passed back.
    pub down: Taken,
}

impl StatementClaims for Segment {
    const TYPE: &'static str = "seg";

    fn from_members(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        Ok(Self {
            iss: required("iss", claims.parsed("iss", SpiffeId::parse)?)?,
            aud: required("aud", claims.parsed("aud", SpiffeId::parse)?)?,
            iat: required("iat", claims.integer("iat")?)?,
            jti: required("jti", claims.parsed("jti", RandomId::parse)?)?,
            cid: required("cid", claims.parsed("cid", RandomId::parse)?)?,
            rec: required("rec", claims.parsed("rec", StatementHash::parse)?)?,
            seq: claims.length("seq")?,
            up: required("up", Taken::parse(&claims, "up")?)?,
            down: required("down", Taken::parse(&claims, "down")?)?,
        })
    }

    fn iss(&self) -> &SpiffeId {
        &self.iss
    }
}

impl Segment {
    /// The claims in the order in which they are written.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        let mut members = Members::default();
        members.add("v", integer(1)).add("t", text(Self::TYPE)).add("iss", text(&self.iss)).add("aud", text(&self.aud));
        members.add("iat", integer(self.iat)).add("jti", text(&self.jti)).add("cid", text(&self.cid));
        members.add("rec", text(&self.rec)).add("seq", count(self.seq));
        members.add("up", self.up.to_value()).add("down", self.down.to_value());
        members.into_vec()
    }
}
