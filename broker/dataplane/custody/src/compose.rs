//! Making payloads: of roots, further roots of one task and continuations, and of every other statement.
//!
//! Owns: the claims and their order as custody-wire lists them. Does not own:
//! randomness and time, which are arguments; sealing (see `sealer`).

use std::sync::Arc;

use crate::authority::{Authority, Narrowing};
use crate::behalf::check_scope;
use crate::chain::Chain;
use crate::claims::Claims;
use crate::closing::Closing;
use crate::error::{Code, Rejection, Result};
use crate::evidence::Evidence;
use crate::hash::{ClaimHash, RandomId, StatementHash, Thumbprint, encode_base64url};
use crate::ids::SpiffeId;
use crate::json::{Value, write_object};
use crate::limits::{DEFAULT_AUTHORITY_S, MAX_SEALED_BYTES};
use crate::merkle::statement_hash;
use crate::observation::Observation;
use crate::receipt::Receipt;
use crate::record::{Approval, Continuation, Obo, Record, Task};
use crate::segment::Segment;
use crate::statement::{Statement, StatementClaims as _};
use crate::usertoken::{Holder, UserToken};

/// Claims of a record in the order of custody-wire §4.3.
const RECORD_ORDER: &[&str] = &[
    "v", "t", "iss", "aud", "iat", "exp", "jti", "cid", "hop", "prev", "rqb", "bm", "srv", "by", "op", "in", "att",
    "apv", "rr", "tid", "obo", "task", "auth", "cont",
];
/// Claims of receipts and observations in the order of §7.1.
const OUTCOME_ORDER: &[&str] = &[
    "v", "t", "iss", "aud", "iat", "jti", "cid", "rec", "st", "rsb", "len", "cd", "fin", "kids", "dec", "n", "tlb",
    "req", "host", "spki",
];
/// Claims of a closing statement in the order of §7.3.
const CLOSING_ORDER: &[&str] = &["v", "t", "iss", "aud", "iat", "jti", "cid", "rec", "cd", "len", "fin", "n", "tlb"];
/// Claims of a segment in the order of §7.3.
const SEGMENT_ORDER: &[&str] = &["v", "t", "iss", "aud", "iat", "jti", "cid", "rec", "seq", "up", "down"];
/// Claims of an evidence statement in the order of §4.2.
const EVIDENCE_ORDER: &[&str] = &["v", "t", "iss", "iat", "exp", "jti", "sub", "sx", "verdict", "log"];

/// The claims of one statement as base64url text, ready to be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    text: String,
}

impl Payload {
    /// The payload with these members, written in the order of their type, unknown names last.
    ///
    /// # Errors
    /// `malformed` if they are not the claims of one statement; `too_large` if it could not be sealed within its limit.
    pub fn from_claims(mut members: Vec<(String, Value)>) -> Result<Self> {
        let order = order_of(&members);
        let place = |name: &str| order.iter().position(|known| *known == name).unwrap_or(order.len());
        members.sort_by_key(|(name, _)| place(name));
        let mut json = String::with_capacity(1_024);
        write_object(&members, &mut json);
        // What we send is what we would accept: one parser decides both.
        Statement::parse(json.as_bytes())?;
        let text = encode_base64url(json.as_bytes());
        if text.len() + MAX_SEAL_TEXT_BYTES > MAX_SEALED_BYTES {
            return Err(Rejection::new(Code::TooLarge, "the claims are too large to be sealed"));
        }
        Ok(Self { text })
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The hash that names the statement once it is sealed by the leaf `x5t`.
    #[must_use]
    pub fn statement_hash(&self, x5t: &Thumbprint) -> StatementHash {
        statement_hash(x5t, &self.text)
    }
}

fn order_of(members: &[(String, Value)]) -> &'static [&'static str] {
    match Claims(members).text("t") {
        Ok(Some(Receipt::TYPE | Observation::TYPE)) => OUTCOME_ORDER,
        Ok(Some(Closing::TYPE)) => CLOSING_ORDER,
        Ok(Some(Evidence::TYPE)) => EVIDENCE_ORDER,
        Ok(Some(Segment::TYPE)) => SEGMENT_ORDER,
        _ => RECORD_ORDER,
    }
}

/// Path and seal of a statement in the largest batch that our sealers make, with the dots.
const MAX_SEAL_TEXT_BYTES: usize = 560;

/// What every record of ours says about its call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The caller: the id of the leaf that will seal.
    pub iss: &'a SpiffeId,
    /// A SPIFFE ID or an origin.
    pub aud: &'a str,
    /// `NumericDate` seconds.
    pub iat: i64,
    pub exp: i64,
    pub jti: RandomId,
    pub rqb: ClaimHash,
    /// The body is not bound: a closing statement follows it.
    pub streams: bool,
    /// Names of the operation that the callee will derive; the authority must cover one.
    pub operations: &'a [&'a str],
    /// Thumbprint of the server leaf that TLS authenticated.
    pub srv: Option<Thumbprint>,
    pub by: Option<&'a SpiffeId>,
    /// At most 128 bytes; informative.
    pub op: Option<&'a str>,
    /// Receipts that this call is based on.
    pub inputs: &'a [StatementHash],
    /// Evidence of approvals.
    pub approvals: &'a [Approval],
    pub rr: bool,
    /// W3C trace-id, 32 hexadecimal characters.
    pub tid: Option<&'a str>,
}

/// What the roots of one task have in common; keep it to make further (sibling) roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub cid: RandomId,
    pub task: Task,
    pub auth: Authority,
    pub cont: Option<Continuation>,
    /// The token of the user that it acts for; None acts on nobody's behalf.
    pub user: Option<Arc<UserToken>>,
}

/// The payload of a root; with the same `root` and a new `jti`, a sibling root.
///
/// # Errors
/// `authority` if the authority does not cover the call, lasts over an hour or has not a scope within the token's, or
/// if the token was issued to another workload (a token that is bound to a certificate is checked by the receiver, who
/// sees which leaf sealed); `malformed` or `too_large` if a
/// value does not fit the wire format.
pub fn root_payload(call: &Call<'_>, root: &Root) -> Result<Payload> {
    if root.auth.exp - call.iat > DEFAULT_AUTHORITY_S {
        return Err(Rejection::new(Code::Authority, "the authority lasts too long"));
    }
    root.auth.allow(0, call.iat, call.aud, call.operations)?;
    let mut record = record_of(call, root.cid, 0);
    record.obo = Some(obo_of(call.iss, root)?);
    record.task = Some(root.task.clone());
    record.auth = Some(root.auth.clone());
    record.cont.clone_from(&root.cont);
    Payload::from_claims(record.to_members())
}

fn obo_of(iss: &SpiffeId, root: &Root) -> Result<Obo> {
    let Some(token) = &root.user else { return Ok(Obo::Autonomous) };
    if matches!(token.holder(), Holder::Named(name) if name != iss.as_str()) {
        return Err(Rejection::new(Code::Authority, "the token was issued to another workload"));
    }
    check_scope(&root.auth, token)?;
    Ok(Obo::User(token.user().clone()))
}

/// The payload of the record that continues `parent`, with less authority if `att` says so.
///
/// # Errors
/// `chain` if `parent` was not handed to the caller; `authority` if `att` widens or what is left does not cover
/// the call; `malformed` or `too_large` if a value does not fit the wire format.
pub fn child_payload(call: &Call<'_>, parent: &Chain, att: Option<&Narrowing>) -> Result<Payload> {
    if parent.newest().record().aud != call.iss.as_str() {
        return Err(Rejection::new(Code::Chain, "the parent was handed to another component"));
    }
    let left = att.map_or_else(|| Ok(parent.authority().clone()), |att| parent.authority().narrow(att))?;
    let hop = parent.hop() + 1;
    left.allow(hop, call.iat, call.aud, call.operations)?;
    let mut record = record_of(call, parent.cid(), hop);
    record.prev = Some(parent.hash());
    record.att = att.cloned();
    Payload::from_claims(record.to_members())
}

/// The payload of a receipt.
///
/// # Errors
/// `malformed` or `too_large` if a value does not fit the wire format.
pub fn receipt_payload(receipt: &Receipt) -> Result<Payload> {
    Payload::from_claims(receipt.to_members())
}

/// The payload of an observation.
///
/// # Errors
/// As [`receipt_payload`]; `malformed` also if issuer and receiver differ.
pub fn observation_payload(observation: &Observation) -> Result<Payload> {
    Payload::from_claims(observation.to_members())
}

/// The payload of a closing statement.
///
/// # Errors
/// As [`receipt_payload`]; `malformed` also with `fin: deny`.
pub fn closing_payload(closing: &Closing) -> Result<Payload> {
    Payload::from_claims(closing.to_members())
}

/// The payload of a segment.
///
/// # Errors
/// As [`receipt_payload`].
pub fn segment_payload(segment: &Segment) -> Result<Payload> {
    Payload::from_claims(segment.to_members())
}

/// The payload of an evidence statement.
///
/// # Errors
/// As [`receipt_payload`].
pub fn evidence_payload(evidence: &Evidence) -> Result<Payload> {
    Payload::from_claims(evidence.to_members())
}

/// The record of `call`, without what only a root or only a continuation has.
fn record_of(call: &Call<'_>, cid: RandomId, hop: i64) -> Record {
    Record {
        iss: call.iss.clone(),
        aud: call.aud.to_owned(),
        iat: call.iat,
        exp: call.exp,
        jti: call.jti,
        cid,
        hop,
        prev: None,
        rqb: call.rqb,
        streams: call.streams,
        srv: call.srv,
        by: call.by.cloned(),
        op: call.op.map(str::to_owned),
        inputs: call.inputs.to_vec(),
        att: None,
        approvals: call.approvals.to_vec(),
        rr: call.rr,
        tid: call.tid.map(str::to_owned),
        obo: None,
        task: None,
        auth: None,
        cont: None,
    }
}
