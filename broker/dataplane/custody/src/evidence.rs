//! Evidence statements: what an attestor says of a component, or a broker of its log (custody-wire §4.2, §10).
//!
//! Owns: the claims of `t: att`. Does not own: who may say it; measurements beside these claims are not read.

use crate::claims::{Claims, Members, bounded, integer, required, text};
use crate::error::Result;
use crate::hash::{RandomId, Thumbprint};
use crate::ids::SpiffeId;
use crate::json::Value;
use crate::limits::{MAX_ORIGIN_BYTES, MAX_VKEY_BYTES};
use crate::statement::StatementClaims;

/// What an attestor found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    Attested,
    Withdrawn,
}

impl Finding {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attested => "attested",
            Self::Withdrawn => "withdrawn",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Attested, Self::Withdrawn].into_iter().find(|finding| finding.as_str() == text)
    }
}

/// The key of a log, announced by the broker that writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    pub origin: String,
    pub vkey: String,
}

/// The claims of an evidence statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub iss: SpiffeId,
    /// `NumericDate` seconds.
    pub iat: i64,
    pub exp: i64,
    pub jti: RandomId,
    /// Whom it is about.
    pub sub: SpiffeId,
    /// Thumbprint of the subject's leaf.
    pub sx: Thumbprint,
    pub verdict: Finding,
    pub log: Option<LogKey>,
}

impl LogKey {
    fn parse(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        claims.only(&["origin", "vkey"])?;
        let origin = claims.parsed("origin", |text| bounded(text, 1, MAX_ORIGIN_BYTES))?;
        let origin = required("log.origin", origin)?;
        let of_origin = |text: &str| text.strip_prefix(&origin).is_some_and(|rest| rest.starts_with('+'));
        let vkey = claims.parsed("vkey", |text| bounded(text, 1, MAX_VKEY_BYTES).filter(|vkey| of_origin(vkey)))?;
        Ok(Self { vkey: required("log.vkey", vkey)?, origin })
    }

    fn to_value(&self) -> Value {
        let mut members = Members::default();
        members.add("origin", text(&self.origin)).add("vkey", text(&self.vkey));
        Value::Object(members.into_vec())
    }
}

impl StatementClaims for Evidence {
    const TYPE: &'static str = "att";

    fn from_members(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        Ok(Self {
            iss: required("iss", claims.parsed("iss", SpiffeId::parse)?)?,
            iat: required("iat", claims.integer("iat")?)?,
            exp: required("exp", claims.integer("exp")?)?,
            jti: required("jti", claims.parsed("jti", RandomId::parse)?)?,
            sub: required("sub", claims.parsed("sub", SpiffeId::parse)?)?,
            sx: required("sx", claims.parsed("sx", Thumbprint::parse)?)?,
            verdict: required("verdict", claims.parsed("verdict", Finding::parse)?)?,
            log: claims.object("log")?.map(LogKey::parse).transpose()?,
        })
    }

    fn iss(&self) -> &SpiffeId {
        &self.iss
    }
}

impl Evidence {
    /// The claims in the order in which they are written.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        let mut members = Members::default();
        members.add("v", integer(1)).add("t", text(Self::TYPE)).add("iss", text(&self.iss));
        members.add("iat", integer(self.iat)).add("exp", integer(self.exp)).add("jti", text(&self.jti));
        members.add("sub", text(&self.sub)).add("sx", text(&self.sx)).add("verdict", text(self.verdict.as_str()));
        members.maybe("log", self.log.as_ref().map(LogKey::to_value));
        members.into_vec()
    }

    /// True if this shows that `sub` runs with the leaf `sx` at `now` (custody-wire §4.2); `attestors` are those of
    /// the trust domain of `sub`.
    #[must_use]
    pub fn counts_for(&self, sub: &SpiffeId, sx: &Thumbprint, attestors: &[SpiffeId], now: i64) -> bool {
        attestors.contains(&self.iss)
            && self.iss.trust_domain() == sub.trust_domain()
            && self.sub == *sub
            && self.sx == *sx
            && self.verdict == Finding::Attested
            && now < self.exp
    }
}
