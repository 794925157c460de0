//! Record claims (custody-wire §4.3).
//!
//! Owns: which claims a record has and their types. Does not own: how records follow
//! each other (see `receive`); a `Record` was parsed, not verified.

use crate::authority::{Authority, Narrowing};
use crate::claims::{Claims, bounded, parse_hashes, required};
use crate::error::{Result, malformed};
use crate::hash::{ClaimHash, RandomId, StatementHash, Thumbprint};
use crate::ids::{SpiffeId, is_audience};
use crate::json::Value;
use crate::limits::{MAX_APPROVALS, MAX_INPUTS, MAX_OP_BYTES, MAX_PURPOSE_BYTES};
use crate::statement::StatementClaims;

mod write;

pub(crate) use write::{approval_value, authority_value, continuation_value, narrowing_value};

/// Bytes of `task.id`.
const MAX_TASK_ID_BYTES: usize = 128;
const APPROVAL_TYPES: [&str; 5] = ["ciba", "mcp-elicit", "webauthn", "mission", "ticket"];

/// The claims of a record (`t: rec`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub iss: SpiffeId,
    /// A SPIFFE ID, or at egress an origin.
    pub aud: String,
    pub iat: i64,
    pub exp: i64,
    pub jti: RandomId,
    pub cid: RandomId,
    pub hop: i64,
    pub prev: Option<StatementHash>,
    pub rqb: ClaimHash,
    /// True for `bm: "stream"`.
    pub streams: bool,
    pub srv: Option<Thumbprint>,
    pub by: Option<SpiffeId>,
    pub op: Option<String>,
    pub inputs: Vec<StatementHash>,
    pub att: Option<Narrowing>,
    pub approvals: Vec<Approval>,
    /// True if the caller requires a signed response.
    pub rr: bool,
    pub tid: Option<String>,
    pub obo: Option<Obo>,
    pub task: Option<Task>,
    pub auth: Option<Authority>,
    pub cont: Option<Continuation>,
}

/// On whose behalf a root acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obo {
    /// `null`: on nobody's; stated explicitly.
    Autonomous,
    User(User),
}

/// The user and token of `obo` (custody-wire §8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub iss: String,
    pub sub: String,
    pub typ: String,
    pub th: ClaimHash,
    pub txn: Option<String>,
    pub exp: i64,
}

/// The task that a chain belongs to (custody-wire §8.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub id: String,
    pub iss: Option<String>,
    pub ih: Option<ClaimHash>,
    pub ah: Option<ClaimHash>,
    pub pc: Option<String>,
}

/// One piece of approval evidence; it never widens authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub typ: String,
    pub id: String,
    pub h: ClaimHash,
    pub by: String,
    pub at: i64,
}

/// A root that goes on where another chain ended (custody-wire §8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    pub rec: StatementHash,
    pub cid: RandomId,
    pub why: String,
}

impl StatementClaims for Record {
    const TYPE: &'static str = "rec";

    fn from_members(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        Ok(Self {
            iss: required("iss", claims.parsed("iss", SpiffeId::parse)?)?,
            aud: required("aud", claims.parsed("aud", parse_audience)?)?,
            iat: required("iat", claims.integer("iat")?)?,
            exp: required("exp", claims.integer("exp")?)?,
            jti: required("jti", claims.parsed("jti", RandomId::parse)?)?,
            cid: required("cid", claims.parsed("cid", RandomId::parse)?)?,
            hop: required("hop", claims.integer("hop")?)?,
            prev: claims.parsed("prev", StatementHash::parse)?,
            rqb: required("rqb", claims.parsed("rqb", ClaimHash::parse)?)?,
            streams: claims.parsed("bm", |text| (text == "stream").then_some(()))?.is_some(),
            srv: claims.parsed("srv", Thumbprint::parse)?,
            by: claims.parsed("by", SpiffeId::parse)?,
            op: claims.parsed("op", |text| bounded(text, 0, MAX_OP_BYTES))?,
            inputs: parse_hashes(&claims, "in", MAX_INPUTS)?,
            att: claims.object("att")?.map(Narrowing::parse).transpose()?,
            approvals: parse_approvals(&claims)?,
            rr: claims.boolean("rr")?.unwrap_or(false),
            tid: claims.parsed("tid", parse_trace_id)?,
            obo: parse_obo(&claims)?,
            task: claims.object("task")?.map(Task::parse).transpose()?,
            auth: claims.object("auth")?.map(Authority::parse).transpose()?,
            cont: claims.object("cont")?.map(Continuation::parse).transpose()?,
        })
    }

    fn iss(&self) -> &SpiffeId {
        &self.iss
    }
}

impl Record {
    /// True if a claim is present that only a root may have.
    #[must_use]
    pub fn has_root_claims(&self) -> bool {
        self.obo.is_some() || self.task.is_some() || self.auth.is_some() || self.cont.is_some()
    }
}

impl Task {
    /// A task that has nothing but an id of 1 to 128 bytes; None for another length.
    #[must_use]
    pub fn named(id: &str) -> Option<Self> {
        Self::parse(&[("id".to_owned(), Value::Text(id.to_owned()))]).ok()
    }

    /// The task in the members of a `task` object.
    ///
    /// # Errors
    /// `malformed`.
    pub fn parse(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        Ok(Self {
            id: required("task.id", claims.parsed("id", |text| bounded(text, 1, MAX_TASK_ID_BYTES))?)?,
            iss: claims.text("iss")?.map(str::to_owned),
            ih: claims.parsed("ih", ClaimHash::parse)?,
            ah: claims.parsed("ah", ClaimHash::parse)?,
            pc: claims.parsed("pc", |text| bounded(text, 0, MAX_PURPOSE_BYTES))?,
        })
    }
}

impl Task {
    /// The members of the `task` object that says the same.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        let hash = |hash: Option<ClaimHash>| hash.map(|hash| hash.to_string());
        let optional =
            [("iss", self.iss.clone()), ("ih", hash(self.ih)), ("ah", hash(self.ah)), ("pc", self.pc.clone())];
        let present = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        std::iter::once(("id", self.id.clone()))
            .chain(present)
            .map(|(name, value)| (name.to_owned(), Value::Text(value)))
            .collect()
    }
}

impl Continuation {
    pub(crate) fn parse(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        claims.only(&["rec", "cid", "why"])?;
        let known = |text: &str| matches!(text, "boundary" | "resume" | "queue").then(|| text.to_owned());
        Ok(Self {
            rec: required("cont.rec", claims.parsed("rec", StatementHash::parse)?)?,
            cid: required("cont.cid", claims.parsed("cid", RandomId::parse)?)?,
            why: required("cont.why", claims.parsed("why", known)?)?,
        })
    }
}

impl Approval {
    /// The approval in the members of one object of `apv`.
    ///
    /// # Errors
    /// `malformed`.
    pub fn parse(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        let known = |text: &str| APPROVAL_TYPES.contains(&text).then(|| text.to_owned());
        Ok(Self {
            typ: required("apv.typ", claims.parsed("typ", known)?)?,
            id: required("apv.id", claims.text("id")?)?.to_owned(),
            h: required("apv.h", claims.parsed("h", ClaimHash::parse)?)?,
            by: required("apv.by", claims.text("by")?)?.to_owned(),
            at: required("apv.at", claims.integer("at")?)?,
        })
    }
}

impl User {
    fn parse(members: &[(String, Value)]) -> Result<Self> {
        let claims = Claims(members);
        claims.only(&["iss", "sub", "typ", "th", "txn", "exp"])?;
        let known = |text: &str| matches!(text, "txn" | "at" | "idjag").then(|| text.to_owned());
        Ok(Self {
            iss: required("obo.iss", claims.text("iss")?)?.to_owned(),
            sub: required("obo.sub", claims.text("sub")?)?.to_owned(),
            typ: required("obo.typ", claims.parsed("typ", known)?)?,
            th: required("obo.th", claims.parsed("th", ClaimHash::parse)?)?,
            txn: claims.text("txn")?.map(str::to_owned),
            exp: required("obo.exp", claims.integer("exp")?)?,
        })
    }
}

fn parse_audience(text: &str) -> Option<String> {
    is_audience(text).then(|| text.to_owned())
}

fn parse_trace_id(text: &str) -> Option<String> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (text.len() == 32 && is_hex).then(|| text.to_owned())
}

fn parse_approvals(claims: &Claims<'_>) -> Result<Vec<Approval>> {
    let parse = |item: &Value| match item {
        Value::Object(members) => Approval::parse(members),
        _ => Err(malformed("apv holds something else than objects")),
    };
    claims.array("apv", MAX_APPROVALS)?.iter().map(parse).collect()
}

fn parse_obo(claims: &Claims<'_>) -> Result<Option<Obo>> {
    match claims.get("obo") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(Obo::Autonomous)),
        Some(Value::Object(members)) => User::parse(members).map(|user| Some(Obo::User(user))),
        Some(_) => Err(malformed("obo is neither null nor an object")),
    }
}
