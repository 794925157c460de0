//! Closing statements: what a caller says it sent after a record without body digest (custody-wire §7.3).
//!
//! Owns: the claims of `t: cls`. Does not own: whether it is true of a body (see `receive`).

use crate::claims::{Claims, required};
use crate::error::Result;
use crate::hash::{ClaimHash, RandomId, StatementHash};
use crate::ids::SpiffeId;
use crate::json::Value;
use crate::outcome::{Fin, length_value};
use crate::statement::{StatementClaims, read_members};

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
}

impl StatementClaims for Closing {
    const TYPE: &'static str = "cls";

    fn parse(payload: &[u8]) -> Result<Self> {
        let members = read_members(payload, Self::TYPE)?;
        let claims = Claims(&members);
        let end = |text: &str| Fin::parse(text).filter(|fin| *fin != Fin::Deny);
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
        })
    }

    fn iss(&self) -> &SpiffeId {
        &self.iss
    }
}

impl Closing {
    /// The claims in the order in which they are written.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        let text = |value: &dyn ToString| Value::Text(value.to_string());
        let members = [
            ("v", Value::Integer(1)),
            ("t", Value::Text(Self::TYPE.to_owned())),
            ("iss", text(&self.iss)),
            ("aud", text(&self.aud)),
            ("iat", Value::Integer(self.iat)),
            ("jti", text(&self.jti)),
            ("cid", text(&self.cid)),
            ("rec", text(&self.rec)),
            ("cd", text(&self.cd)),
            ("len", length_value(self.len)),
            ("fin", Value::Text(self.fin.as_str().to_owned())),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
