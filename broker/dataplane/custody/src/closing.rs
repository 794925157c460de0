//! Closing statements: what a caller says it sent after a record without body digest (custody-wire §7.3).
//!
//! Owns: the claims of `t: cls`. Does not own: whether it is true of a body (see `receive`).

use crate::binding::BodySum;
use crate::claims::{Claims, Members, count, integer, required, text};
use crate::error::Result;
use crate::hash::{ClaimHash, RandomId, StatementHash};
use crate::ids::SpiffeId;
use crate::json::Value;
use crate::outcome::Fin;
use crate::statement::StatementClaims;

/// The claims of a closing statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The caller.
    pub iss: SpiffeId,
    /// The callee.
    pub aud: SpiffeId,
    /// `NumericDate` seconds.
    pub iat: i64,
    pub jti: RandomId,
    pub cid: RandomId,
    /// Statement hash of the opening record.
    pub rec: StatementHash,
    /// SHA-256 of all body bytes.
    pub cd: ClaimHash,
    /// Bytes of the body.
    pub len: u64,
    /// `Eof`, or `Abort` if the caller stopped early.
    pub fin: Fin,
    /// Messages in the body, if it is a sequence of them.
    pub n: Option<u64>,
    /// Binding of the other trailers beside this statement.
    pub tlb: Option<ClaimHash>,
}

impl StatementClaims for Closing {
    const TYPE: &'static str = "cls";

    fn from_members(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        let end = |text: &str| Fin::parse(text).filter(|fin| matches!(fin, Fin::Eof | Fin::Abort));
        Ok(Self {
            iss: required("iss", claims.parsed("iss", SpiffeId::parse)?)?,
            aud: required("aud", claims.parsed("aud", SpiffeId::parse)?)?,
            iat: required("iat", claims.integer("iat")?)?,
            jti: required("jti", claims.parsed("jti", RandomId::parse)?)?,
            cid: required("cid", claims.parsed("cid", RandomId::parse)?)?,
            rec: required("rec", claims.parsed("rec", StatementHash::parse)?)?,
            cd: required("cd", claims.parsed("cd", ClaimHash::parse)?)?,
            len: claims.length("len")?,
            fin: required("fin", claims.parsed("fin", end)?)?,
            n: claims.count("n")?,
            tlb: claims.parsed("tlb", ClaimHash::parse)?,
        })
    }

    fn iss(&self) -> &SpiffeId {
        &self.iss
    }
}

impl Closing {
    /// What the body came to.
    #[must_use]
    pub fn sum(&self) -> BodySum {
        let trailers = self.tlb.map(|tlb| tlb.0);
        BodySum { len: self.len, sha256: self.cd.0, messages: self.n, trailers }
    }

    /// The claims in the order in which they are written.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        let mut members = Members::default();
        members.add("v", integer(1)).add("t", text(Self::TYPE)).add("iss", text(&self.iss)).add("aud", text(&self.aud));
        members.add("iat", integer(self.iat)).add("jti", text(&self.jti)).add("cid", text(&self.cid));
        members.add("rec", text(&self.rec)).add("cd", text(&self.cd));
        members.add("len", count(self.len)).add("fin", text(self.fin.as_str()));
        members.maybe("n", self.n.map(count)).maybe("tlb", self.tlb.as_ref().map(text));
        members.into_vec()
    }
}
