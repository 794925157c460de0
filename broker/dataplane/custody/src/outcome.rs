//! How a call ended, as receipts and observations say it (custody-wire §7.1).
//!
//! Owns: the claims that both have. Does not own: who says it (see `receipt`, `observation`).

use crate::binding::BodySum;
use crate::claims::{Claims, Members, bounded, count, integer, parse_hashes, required, text};
use crate::error::{Result, malformed};
use crate::hash::{ClaimHash, RandomId, StatementHash};
use crate::ids::SpiffeId;
use crate::json::Value;
use crate::limits::{MAX_DECISION_BYTES, MAX_KIDS};
use crate::merkle::build;

/// Statuses of three digits.
const STATUSES: std::ops::RangeInclusive<i64> = 100..=999;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fin {
    /// Complete.
    Eof,
    /// Cut: `len` and `cd` are of what was sent until then.
    Abort,
    /// The call was refused; the body is the refusal.
    Deny,
    /// Complete, but the request that it answers had not ended: `req` says how much of it was taken.
    Early,
}

impl Fin {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Abort => "abort",
            Self::Deny => "deny",
            Self::Early => "early",
        }
    }

    /// The end with this text, or None.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Eof, Self::Abort, Self::Deny, Self::Early].into_iter().find(|fin| fin.as_str() == text)
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

    /// The claim as it is written.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Listed(hashes) => Value::Array(hashes.iter().map(text).collect()),
            Self::Tree { n, root } => {
                let mut members = Members::default();
                members.add("n", count(*n)).add("root", text(root));
                Value::Object(members.into_vec())
            }
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
    /// Messages in the body, if it is a sequence of them.
    pub n: Option<u64>,
    /// Binding of the trailers that followed the body.
    pub tlb: Option<ClaimHash>,
    /// What was taken of a request that streamed.
    pub req: Option<Taken>,
}

/// What a callee took of a streamed request (custody-wire §7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub len: u64,
    pub cd: ClaimHash,
    /// Messages, if it is a sequence of them.
    pub n: Option<u64>,
}

impl Taken {
    /// What was taken, if the request came to this so far.
    #[must_use]
    pub fn of(sum: &BodySum) -> Self {
        Self { len: sum.len, cd: ClaimHash(sum.sha256), n: sum.messages }
    }

    pub(crate) fn parse(claims: &Claims<'_>, name: &str) -> Result<Option<Self>> {
        let Some(members) = claims.object(name)? else { return Ok(None) };
        let taken = Claims(members);
        taken.only(&["len", "cd", "n"])?;
        let cd = required("cd", taken.parsed("cd", ClaimHash::parse)?)?;
        Ok(Some(Self { len: taken.length("len")?, cd, n: taken.count("n")? }))
    }

    pub(crate) fn to_value(self) -> Value {
        let mut members = Members::default();
        members.add("len", count(self.len)).add("cd", text(&self.cd)).maybe("n", self.n.map(count));
        Value::Object(members.into_vec())
    }
}

impl Outcome {
    pub(crate) fn parse(claims: &Claims<'_>) -> Result<Self> {
        let status = claims.integer("st")?.filter(|status| STATUSES.contains(status));
        let fin = required("fin", claims.parsed("fin", Fin::parse)?)?;
        let req = Taken::parse(claims, "req")?;
        if fin == Fin::Early && req.is_none() {
            return Err(malformed("an early end says nothing of the request"));
        }
        Ok(Self {
            iss: required("iss", claims.parsed("iss", SpiffeId::parse)?)?,
            aud: required("aud", claims.parsed("aud", SpiffeId::parse)?)?,
            iat: required("iat", claims.integer("iat")?)?,
            jti: required("jti", claims.parsed("jti", RandomId::parse)?)?,
            cid: required("cid", claims.parsed("cid", RandomId::parse)?)?,
            rec: required("rec", claims.parsed("rec", StatementHash::parse)?)?,
            st: status.and_then(|st| u16::try_from(st).ok()).ok_or_else(|| malformed("st is not a status"))?,
            rsb: required("rsb", claims.parsed("rsb", ClaimHash::parse)?)?,
            len: claims.length("len")?,
            cd: required("cd", claims.parsed("cd", ClaimHash::parse)?)?,
            fin,
            kids: Kids::parse(claims)?,
            dec: claims.parsed("dec", |text| bounded(text, 0, MAX_DECISION_BYTES))?,
            n: claims.count("n")?,
            tlb: claims.parsed("tlb", ClaimHash::parse)?,
            req,
        })
    }

    /// What the body of the answer came to.
    #[must_use]
    pub fn sum(&self) -> BodySum {
        let trailers = self.tlb.map(|tlb| tlb.0);
        BodySum { len: self.len, sha256: self.cd.0, messages: self.n, trailers }
    }

    /// The claims that say this, as a statement of type `kind`.
    pub(crate) fn to_members(&self, kind: &str) -> Members {
        let mut members = Members::default();
        members.add("v", integer(1)).add("t", text(kind)).add("iss", text(&self.iss)).add("aud", text(&self.aud));
        members.add("iat", integer(self.iat)).add("jti", text(&self.jti)).add("cid", text(&self.cid));
        members.add("rec", text(&self.rec)).add("st", integer(self.st.into())).add("rsb", text(&self.rsb));
        members.add("len", count(self.len)).add("cd", text(&self.cd)).add("fin", text(self.fin.as_str()));
        members.add("kids", self.kids.to_value()).maybe("dec", self.dec.as_ref().map(text));
        members.maybe("n", self.n.map(count)).maybe("tlb", self.tlb.as_ref().map(text));
        members.maybe("req", self.req.map(Taken::to_value));
        members
    }
}
