//! Making record payloads: roots, further roots of one task, and continuations.
//!
//! Owns: the claims and their order as custody-wire §4.3 lists them. Does not own:
//! randomness and time, which are arguments; sealing (see `sealer`).

use std::sync::Arc;

use crate::authority::{Authority, Narrowing};
use crate::behalf::{check_scope, user_members};
use crate::chain::Chain;
use crate::error::{Code, Rejection, Result};
use crate::hash::{ClaimHash, RandomId, StatementHash, Thumbprint, encode_base64url};
use crate::ids::SpiffeId;
use crate::json::{Value, write_object};
use crate::limits::{DEFAULT_AUTHORITY_S, MAX_SEALED_BYTES};
use crate::merkle::statement_hash;
use crate::record::{Continuation, Record, Task};
use crate::usertoken::{Holder, UserToken};

/// Claims in the order of custody-wire §4.3.
const ORDER: [&str; 24] = [
    "v", "t", "iss", "aud", "iat", "exp", "jti", "cid", "hop", "prev", "rqb", "bm", "srv", "by", "op", "in", "att",
    "apv", "rr", "tid", "obo", "task", "auth", "cont",
];

/// The claims of one record as base64url text, ready to be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    text: String,
}

impl Payload {
    /// The payload with these members, written in the order of §4.3, unknown names last.
    ///
    /// # Errors
    /// `malformed` if they are not the claims of one record; `too_large` if it could not be sealed within its limit.
    pub fn from_claims(mut members: Vec<(String, Value)>) -> Result<Self> {
        let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
        members.sort_by_key(|(name, _)| place(name));
        let mut json = String::with_capacity(1_024);
        write_object(&members, &mut json);
        // What we send is what we would accept: one parser decides both.
        Record::parse(json.as_bytes())?;
        let text = encode_base64url(json.as_bytes());
        if text.len() + MAX_SEAL_TEXT_BYTES > MAX_SEALED_BYTES {
            return Err(Rejection::new(Code::TooLarge, "the record's claims are too large to be sealed"));
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
    /// Names of the operation that the callee will derive; the authority must cover one.
    pub operations: &'a [&'a str],
    /// Thumbprint of the server leaf that TLS authenticated.
    pub srv: Option<Thumbprint>,
    pub by: Option<&'a SpiffeId>,
    /// At most 128 bytes; informative.
    pub op: Option<&'a str>,
    /// Receipts that this call is based on.
    pub inputs: &'a [StatementHash],
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
    let mut members = call_members(call, root.cid, 0);
    members.push(member("obo", obo_value(call.iss, root)?));
    members.push(member("task", Value::Object(root.task.to_members())));
    members.push(member("auth", Value::Object(authority_members(&root.auth))));
    if let Some(cont) = &root.cont {
        members.push(member("cont", Value::Object(continuation_members(cont))));
    }
    Payload::from_claims(members)
}

fn obo_value(iss: &SpiffeId, root: &Root) -> Result<Value> {
    let Some(token) = &root.user else { return Ok(Value::Null) };
    if matches!(token.holder(), Holder::Named(name) if name != iss.as_str()) {
        return Err(Rejection::new(Code::Authority, "the token was issued to another workload"));
    }
    check_scope(&root.auth, token)?;
    Ok(Value::Object(user_members(token.user())))
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
    let mut members = call_members(call, parent.cid(), hop);
    members.push(member("prev", Value::Text(parent.hash().to_string())));
    if let Some(att) = att {
        members.push(member("att", Value::Object(narrowing_members(att))));
    }
    Payload::from_claims(members)
}

fn member(name: &str, value: Value) -> (String, Value) {
    (name.to_owned(), value)
}

fn text<T: ToString + ?Sized>(value: &T) -> Value {
    Value::Text(value.to_string())
}

fn call_members(call: &Call<'_>, cid: RandomId, hop: i64) -> Vec<(String, Value)> {
    let mut members = vec![
        member("v", Value::Integer(1)),
        member("t", text("rec")),
        member("iss", text(call.iss)),
        member("aud", text(call.aud)),
        member("iat", Value::Integer(call.iat)),
        member("exp", Value::Integer(call.exp)),
        member("jti", text(&call.jti)),
        member("cid", text(&cid)),
        member("hop", Value::Integer(hop)),
        member("rqb", text(&call.rqb)),
    ];
    members.extend(call.srv.map(|srv| member("srv", text(&srv))));
    members.extend(call.by.map(|by| member("by", text(by))));
    members.extend(call.op.map(|op| member("op", text(op))));
    members.extend(call.tid.map(|tid| member("tid", text(tid))));
    if !call.inputs.is_empty() {
        members.push(member("in", Value::Array(call.inputs.iter().map(text).collect())));
    }
    if call.rr {
        members.push(member("rr", Value::Bool(true)));
    }
    members
}

fn authority_members(auth: &Authority) -> Vec<(String, Value)> {
    narrowing_members(&Narrowing {
        scope: auth.scope.clone(),
        exp: Some(auth.exp),
        hops: Some(auth.hops),
        aud: auth.aud.clone(),
        ops: auth.ops.clone(),
    })
}

fn narrowing_members(limits: &Narrowing) -> Vec<(String, Value)> {
    let mut members = Vec::new();
    if let Some(scope) = &limits.scope {
        let tokens: Vec<&str> = scope.iter().map(String::as_str).collect();
        members.push(member("scope", text(&tokens.join(" "))));
    }
    members.extend(limits.exp.map(|exp| member("exp", Value::Integer(exp))));
    members.extend(limits.hops.map(|hops| member("hops", Value::Integer(hops))));
    if let Some(aud) = &limits.aud {
        members.push(member("aud", Value::Array(aud.iter().map(|pattern| text(&pattern.text())).collect())));
    }
    if let Some(ops) = &limits.ops {
        members.push(member("ops", Value::Array(ops.iter().map(|pattern| text(&pattern.text())).collect())));
    }
    members
}

fn continuation_members(cont: &Continuation) -> Vec<(String, Value)> {
    vec![member("rec", text(&cont.rec)), member("cid", text(&cont.cid)), member("why", text(&cont.why))]
}
