//! What stands in a token: its parts, and its claims as values.
//!
//! Owns: forms and bounds. Does not own: the order of the checks and the signature (see the parent module).

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::{Holder, Issuer, TokenType, UserToken};
use crate::authority::parse_scope_text;
use crate::error::{Code, Rejection, Result};
use crate::hash::{ClaimHash, Thumbprint, decode_base64url};
use crate::limits::{MAX_TOKEN_AUDIENCES, MAX_TOKEN_TEXT_BYTES};
use crate::record::User;
use crate::tokenjson::{exact_integer, parse_token_object};

type Parts = (Map<String, Json>, Map<String, Json>, Vec<u8>);

pub(super) fn split(text: &str) -> Option<Parts> {
    let mut parts = text.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let object = |part: &str| parse_token_object(&decode_base64url(part)?).ok();
    Some((object(header)?, object(claims)?, decode_base64url(signature)?))
}

pub(super) fn read_token(
    text: &str,
    th: ClaimHash,
    issuer: &Issuer,
    kid: Option<String>,
    members: Map<String, Json>,
) -> Result<UserToken> {
    let claims = Claims(&members);
    let (exp, iat) = (claims.integer("exp")?, claims.integer("iat")?);
    let nbf = if claims.optional("nbf").is_some() { claims.integer("nbf")? } else { 0 };
    check_audience(&claims, issuer)?;
    let is_transaction = issuer.typ == TokenType::Transaction;
    let is_present = |name: &str| members.contains_key(name);
    let txn = if is_transaction || is_present("txn") { Some(claims.name("txn")?.to_owned()) } else { None };
    let scope = if is_transaction || is_present("scope") { claims.scope()? } else { BTreeSet::new() };
    let user = User {
        iss: issuer.name.clone(),
        sub: claims.name("sub")?.to_owned(),
        typ: issuer.typ.as_str().to_owned(),
        th,
        txn,
        exp,
    };
    let holder = read_holder(&claims, issuer)?;
    let typ = issuer.typ;
    Ok(UserToken { typ, user, not_before: iat.max(nbf), scope, holder, kid, claims: members, text: text.to_owned() })
}

fn check_audience(claims: &Claims<'_>, issuer: &Issuer) -> Result<()> {
    let aud = claims.optional("aud").ok_or_else(|| refused("aud is absent"))?;
    let names: Vec<&Json> = match aud {
        Json::Array(names) if names.len() <= MAX_TOKEN_AUDIENCES => names.iter().collect(),
        single => vec![single],
    };
    let names = names.into_iter().map(|name| text_of(name, MAX_TOKEN_TEXT_BYTES)).collect::<Result<Vec<_>>>()?;
    if names.iter().any(|name| issuer.audiences.iter().any(|ours| ours == name)) {
        return Ok(());
    }
    Err(refused("it is meant for somebody else"))
}

/// `req_wl`, else `cnf.x5t#S256`, else `client_id`, else the outermost `act.sub`.
fn read_holder(claims: &Claims<'_>, issuer: &Issuer) -> Result<Holder> {
    if claims.optional("req_wl").is_some() {
        return Ok(Holder::Named(claims.name("req_wl")?.to_owned()));
    }
    if let Some(bound) = claims.optional("cnf") {
        let thumbprint = bound.get("x5t#S256").and_then(Json::as_str).and_then(Thumbprint::parse);
        return thumbprint.map(Holder::Certificate).ok_or_else(|| refused("it is bound to a key that is not ours"));
    }
    let client = if claims.optional("client_id").is_some() {
        claims.name("client_id")?
    } else {
        let actor = claims.optional("act").and_then(|actor| actor.get("sub"));
        text_of(actor.ok_or_else(|| refused("it names no workload"))?, MAX_TOKEN_TEXT_BYTES)?
    };
    Ok(Holder::Named(issuer.clients.get(client).map_or(client, String::as_str).to_owned()))
}

/// Members of a token's header or payload, read by name and type.
pub(super) struct Claims<'a>(pub(super) &'a Map<String, Json>);

impl<'a> Claims<'a> {
    pub(super) fn optional(&self, name: &str) -> Option<&'a Json> {
        self.0.get(name)
    }

    pub(super) fn name(&self, name: &str) -> Result<&'a str> {
        let value = self.0.get(name).ok_or_else(|| refused(&format!("{name} is absent")))?;
        text_of(value, MAX_TOKEN_TEXT_BYTES)
    }

    fn integer(&self, name: &str) -> Result<i64> {
        let value = self.0.get(name).and_then(exact_integer);
        value.ok_or_else(|| refused(&format!("{name} is not a whole number from 0")))
    }

    fn scope(&self) -> Result<BTreeSet<String>> {
        let text = self.0.get("scope").and_then(Json::as_str).ok_or_else(|| refused("scope is absent or no text"))?;
        parse_scope_text(text).map_err(|rejection| refused(&rejection.detail))
    }
}

pub(super) fn text_of(value: &Json, most: usize) -> Result<&str> {
    let text = value.as_str().filter(|text| (1..=most).contains(&text.len()));
    text.ok_or_else(|| refused("a claim is not text of its bounds"))
}

pub(super) fn refused(detail: &str) -> Rejection {
    Rejection::new(Code::Authority, format!("user token: {detail}"))
}
