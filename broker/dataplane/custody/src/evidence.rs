//! Evidence statements: what an attestor says of a component, or a broker of its log (custody-wire §4.2, §10).
//!
//! Owns: the claims of `t: att`. Does not own: who may say it; measurements beside these claims are not read.

use crate::claims::{Claims, bounded, required};
use crate::error::Result;
use crate::hash::{RandomId, Thumbprint};
use crate::ids::SpiffeId;
use crate::json::Value;
use crate::limits::MAX_LOG_NAME_BYTES;
use crate::statement::{StatementClaims, read_members};

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
        let name = |text: &str| bounded(text, 1, MAX_LOG_NAME_BYTES);
        Ok(Self {
            origin: required("log.origin", claims.parsed("origin", name)?)?,
            vkey: required("log.vkey", claims.parsed("vkey", name)?)?,
        })
    }
}

impl StatementClaims for Evidence {
    const TYPE: &'static str = "att";

    fn parse(payload: &[u8]) -> Result<Self> {
        let members = read_members(payload, Self::TYPE)?;
        let claims = Claims(&members);
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
        let text = |value: &dyn ToString| Value::Text(value.to_string());
        let mut members = vec![
            ("v", Value::Integer(1)),
            ("t", Value::Text(Self::TYPE.to_owned())),
            ("iss", text(&self.iss)),
            ("iat", Value::Integer(self.iat)),
            ("exp", Value::Integer(self.exp)),
            ("jti", text(&self.jti)),
            ("sub", text(&self.sub)),
            ("sx", text(&self.sx)),
            ("verdict", Value::Text(self.verdict.as_str().to_owned())),
        ];
        if let Some(log) = &self.log {
            let key = vec![("origin".into(), text(&log.origin)), ("vkey".into(), text(&log.vkey))];
            members.push(("log", Value::Object(key)));
        }
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
