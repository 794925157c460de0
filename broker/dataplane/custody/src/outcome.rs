//! How a call ended, as receipts and observations say it (custody-wire §7.1).
//!
//! Owns: the claims that both have. Does not own: who says it (see `receipt`, `observation`).

use crate::claims::{Claims, bounded, parse_hashes, required};
use crate::error::{Result, malformed};
use crate::hash::{ClaimHash, RandomId, StatementHash};
use crate::ids::SpiffeId;
use crate::json::Value;
use crate::limits::{MAX_DECISION_BYTES, MAX_KIDS};
use crate::merkle::build;

/// Statuses that an answer can have; interim ones (1xx) answer nothing.
const STATUSES: std::ops::RangeInclusive<i64> = 200..=599;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fin {
    /// Complete.
    Eof,
    /// Cut: `len` and `cd` are of what was sent until then.
    Abort,
    /// The call was refused; the body is the refusal.
    Deny,
}

impl Fin {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Abort => "abort",
            Self::Deny => "deny",
        }
    }

    /// The end with this text, or None.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Eof, Self::Abort, Self::Deny].into_iter().find(|fin| fin.as_str() == text)
    }
}

/// Receipts that the callee obtained while it handled the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kids {
    /// At most eight, in the order obtained.
    Listed(Vec<StatementHash>),
    /// More than eight: how many, and the root of the RFC 6962 tree whose leaf hashes they are.
    Tree { n: u64, root: StatementHash },
}

impl Kids {
    /// What `kids` says of these receipts.
    #[must_use]
    pub fn of(receipts: &[StatementHash]) -> Self {
        match build(receipts) {
            Some((root, _)) if receipts.len() > MAX_KIDS => {
                Self::Tree { n: u64::try_from(receipts.len()).unwrap_or(u64::MAX), root: StatementHash(root) }
            }
            _ => Self::Listed(receipts.to_vec()),
        }
    }

    fn parse(claims: &Claims<'_>) -> Result<Self> {
        match claims.get("kids") {
            Some(Value::Array(_)) => parse_hashes(claims, "kids", MAX_KIDS).map(Self::Listed),
            Some(Value::Object(members)) => {
                let tree = Claims(members);
                tree.only(&["n", "root"])?;
                let n = tree.integer("n")?.and_then(|n| u64::try_from(n).ok());
                let n = n.filter(|n| *n > MAX_KIDS as u64).ok_or_else(|| malformed("kids.n is not above 8"))?;
                Ok(Self::Tree { n, root: required("kids.root", tree.parsed("root", StatementHash::parse)?)? })
            }
            _ => Err(malformed("kids is neither a list nor a tree")),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Listed(hashes) => Value::Array(hashes.iter().map(|hash| Value::Text(hash.to_string())).collect()),
            Self::Tree { n, root } => Value::Object(vec![
                ("n".into(), Value::Integer(i64::try_from(*n).unwrap_or(i64::MAX))),
                ("root".into(), Value::Text(root.to_string())),
            ]),
        }
    }
}

/// What came back for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Who says it: the id of the leaf that seals.
    pub iss: SpiffeId,
    /// For whom: the `iss` of the request's record.
    pub aud: SpiffeId,
    /// `NumericDate` seconds.
    pub iat: i64,
    pub jti: RandomId,
    /// The chain of the request.
    pub cid: RandomId,
    /// Statement hash of the request's record.
    pub rec: StatementHash,
    /// HTTP status.
    pub st: u16,
    /// Binding of the response head ([`crate::binding::response_binding`]).
    pub rsb: ClaimHash,
    /// Bytes of the body on the wire.
    pub len: u64,
    /// SHA-256 of those bytes, also if there are none.
    pub cd: ClaimHash,
    pub fin: Fin,
    pub kids: Kids,
    /// Decision id, at most 128 bytes.
    pub dec: Option<String>,
}

impl Outcome {
    pub(crate) fn parse(claims: &Claims<'_>) -> Result<Self> {
        let status = claims.integer("st")?.filter(|status| STATUSES.contains(status));
        Ok(Self {
            iss: required("iss", claims.parsed("iss", SpiffeId::parse)?)?,
            aud: required("aud", claims.parsed("aud", SpiffeId::parse)?)?,
            iat: required("iat", claims.integer("iat")?)?,
            jti: required("jti", claims.parsed("jti", RandomId::parse)?)?,
            cid: required("cid", claims.parsed("cid", RandomId::parse)?)?,
            rec: required("rec", claims.parsed("rec", StatementHash::parse)?)?,
            st: status.and_then(|st| u16::try_from(st).ok()).ok_or_else(|| malformed("st is not a final status"))?,
            rsb: required("rsb", claims.parsed("rsb", ClaimHash::parse)?)?,
            len: claims.length("len")?,
            cd: required("cd", claims.parsed("cd", ClaimHash::parse)?)?,
            fin: required("fin", claims.parsed("fin", Fin::parse)?)?,
            kids: Kids::parse(claims)?,
            dec: claims.parsed("dec", |text| bounded(text, 0, MAX_DECISION_BYTES))?,
        })
    }

    /// The claims that say this, as a statement of type `kind`.
    pub(crate) fn to_members(&self, kind: &str) -> Vec<(String, Value)> {
        let text = |value: &dyn ToString| Value::Text(value.to_string());
        let members = [
            ("v", Value::Integer(1)),
            ("t", Value::Text(kind.to_owned())),
            ("iss", text(&self.iss)),
            ("aud", text(&self.aud)),
            ("iat", Value::Integer(self.iat)),
            ("jti", text(&self.jti)),
            ("cid", text(&self.cid)),
            ("rec", text(&self.rec)),
            ("st", Value::Integer(self.st.into())),
            ("rsb", text(&self.rsb)),
            ("len", length_value(self.len)),
            ("cd", text(&self.cd)),
            ("fin", Value::Text(self.fin.as_str().to_owned())),
            ("kids", self.kids.to_value()),
        ];
        let dec = self.dec.clone().map(|dec| ("dec", Value::Text(dec)));
        members.into_iter().chain(dec).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A length as a claim; one that no claim can hold is refused when the payload is made.
pub(crate) fn length_value(length: u64) -> Value {
    Value::Integer(i64::try_from(length).unwrap_or(i64::MAX))
}
