//! User tokens of configured issuers: Transaction Tokens and RFC 9068 access tokens, verified strictly.
//!
//! Owns: what a token must show before anybody acts on its user's behalf; the tokens verified with the keys in force.
//! Does not own: key sets (see `jwks`), how a chain binds a token (see `behalf`).
//!
//! A token is accepted only if all of this holds, in this order:
//! 1. its text is a compact JWS of bounded size with strict base64url and JSON without duplicate members,
//! 2. its issuer is configured for this type of token,
//! 3. its header has the right `typ`, no `crit`, and names a key of that issuer (or the issuer has only one),
//! 4. the signature holds with an algorithm that the key allows,
//! 5. `exp`, `nbf` and `iat` hold now, `aud` names us,
//! 6. it says who the user is and which workload it was issued to.
//!
//! Source: custody-wire §6.12, §8.1 and §9.1; RFC 7515, RFC 7519, RFC 8725 §3, RFC 9068 §4;
//! draft-ietf-oauth-transaction-tokens-08.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::Value as Json;

use crate::bounded::BoundedMap;
use crate::error::{Code, Rejection, Result};
use crate::hash::{ClaimHash, decode_base64url, sha256};
use crate::jwks::{IssuerKey, choose_key, parse_key_set};
use crate::limits::{MAX_KEY_ID_BYTES, MAX_TOKEN_BYTES, PEER_SHARE, TOKEN_CACHE_ENTRIES};
use crate::tokenjson::parse_token_object;

mod read;
mod token;

pub use token::{Holder, UserToken};

use read::{Claims, read_token, refused, split, text_of};

/// Types of token that can be verified, as `obo.typ` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TokenType {
    #[serde(rename = "txn")]
    Transaction,
    #[serde(rename = "at")]
    Access,
}

impl TokenType {
    /// The type as `obo.typ` names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "txn",
            Self::Access => "at",
        }
    }

    /// The type that `obo.typ` names; None for types that cannot be presented here.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Transaction, Self::Access].into_iter().find(|known| known.as_str() == text)
    }

    const fn jwt_type(self) -> &'static str {
        match self {
            Self::Transaction => "txntoken+jwt",
            Self::Access => "at+jwt",
        }
    }
}

/// States of `Issuer::misses_key`; 0 is that no key was missed.
const MISSED: u8 = 1;
const TOLD: u8 = 2;

/// Who issues tokens that count here.
#[derive(Debug)]
struct Issuer {
    name: String,
    typ: TokenType,
    audiences: Vec<String>,
    /// None while none are known: then nothing of it can be verified.
    keys: Option<Vec<IssuerKey>>,
    /// SPIFFE ID by client ID, for an issuer that names workloads otherwise.
    clients: HashMap<String, String>,
    /// A token named a key that is not among `keys`.
    misses_key: AtomicU8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerText {
    issuer: String,
    r#type: TokenType,
    audience: Vec<String>,
    jwks: Option<Json>,
    #[serde(default)]
    clients: HashMap<String, String>,
}

/// The configured issuers with the keys in force, and the tokens that these verified.
///
/// A change of any key is a new value: nothing that an older key vouched for is remembered.
pub struct Issuers {
    list: Vec<Issuer>,
    verified: Mutex<BoundedMap<ClaimHash, Arc<UserToken>>>,
}

impl Default for Issuers {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl fmt::Debug for Issuers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(&self.list).finish()
    }
}

impl Issuers {
    /// The issuers in a JSON array of `{"issuer", "type", "audience", "jwks": {…} or null, "clients"?}`.
    ///
    /// # Errors
    /// One sentence: not of this form, a key set that cannot be used, or one issuer twice for one type.
    pub fn parse(json: &str) -> std::result::Result<Self, String> {
        let texts: Vec<IssuerText> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let mut list: Vec<Issuer> = Vec::with_capacity(texts.len());
        for text in texts {
            let keys = text.jwks.as_ref().map(parse_key_set).transpose();
            let keys = keys.map_err(|why| format!("{}: {why}", text.issuer))?;
            if list.iter().any(|known| known.name == text.issuer && known.typ == text.r#type) {
                return Err(format!("{} is listed twice", text.issuer));
            }
            let (name, typ, audiences) = (text.issuer, text.r#type, text.audience);
            list.push(Issuer { name, typ, audiences, keys, clients: text.clients, misses_key: AtomicU8::new(0) });
        }
        Ok(Self::of(list))
    }

    fn of(list: Vec<Issuer>) -> Self {
        let verified = BoundedMap::new(TOKEN_CACHE_ENTRIES, TOKEN_CACHE_ENTRIES / PEER_SHARE);
        Self { list, verified: Mutex::new(verified) }
    }

    /// True if tokens of `issuer` with this `obo.typ` can be verified, now or once its keys are known.
    #[must_use]
    pub fn contains(&self, issuer: &str, typ: &str) -> bool {
        self.find(issuer, typ).is_some()
    }

    /// True if no issuer is configured: no token can be verified.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True if any issuer of tokens of this type is configured.
    #[must_use]
    pub fn has(&self, typ: TokenType) -> bool {
        self.list.iter().any(|known| known.typ == typ)
    }

    /// Issuers of which a token named a key that they do not have, each once for these keys.
    pub fn take_unknown_keys(&self) -> Vec<(&str, TokenType)> {
        let missing = self.list.iter().filter(|issuer| {
            issuer.misses_key.compare_exchange(MISSED, TOLD, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        missing.map(|issuer| (issuer.name.as_str(), issuer.typ)).collect()
    }

    /// True if `text` looks like a token of a configured issuer; nothing about it is verified.
    #[must_use]
    pub fn claims_unverified(&self, text: &str, typ: TokenType) -> bool {
        let payload = text.split('.').nth(1).filter(|_| self.has(typ) && text.len() <= MAX_TOKEN_BYTES);
        let claims = payload.and_then(decode_base64url).and_then(|bytes| parse_token_object(&bytes).ok());
        let issuer = claims.as_ref().and_then(|claims| claims.get("iss")).and_then(Json::as_str);
        issuer.is_some_and(|issuer| self.contains(issuer, typ.as_str()))
    }

    /// The token in `text`; what `peer` brings may fill a share of what is remembered.
    ///
    /// # Errors
    /// `authority` for the first rule that does not hold; `unavailable` while the issuer has no known keys.
    pub fn verify(&self, text: &str, typ: TokenType, peer: &str, now: i64) -> Result<Arc<UserToken>> {
        let th = token_hash(text);
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&th).cloned();
        if let Some(known) = known.filter(|known| known.typ == typ) {
            return if known.is_valid_at(now) { Ok(known) } else { Err(refused("it is not valid now")) };
        }
        let token = Arc::new(self.verify_new(text, th, typ, now)?);
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(th, Arc::clone(&token), peer);
        Ok(token)
    }

    fn find(&self, issuer: &str, typ: &str) -> Option<&Issuer> {
        self.list.iter().find(|known| known.name == issuer && known.typ.as_str() == typ)
    }

    fn verify_new(&self, text: &str, th: ClaimHash, typ: TokenType, now: i64) -> Result<UserToken> {
        // 1
        if text.len() > MAX_TOKEN_BYTES {
            return Err(refused("it is not a compact JWS of bounded size"));
        }
        let (header, claims, signature) = split(text).ok_or_else(|| refused("it is not a strict compact JWS"))?;
        let header = Claims(&header);
        // 2
        let issuer = self.find(Claims(&claims).name("iss")?, typ.as_str());
        let issuer = issuer.ok_or_else(|| refused("its issuer is not configured"))?;
        // 3
        let kid = header.optional("kid").map(|value| text_of(value, MAX_KEY_ID_BYTES)).transpose()?;
        let jwt_type = header.name("typ")?.to_ascii_lowercase();
        let jwt_type = jwt_type.strip_prefix("application/").unwrap_or(&jwt_type);
        if header.optional("crit").is_some() || jwt_type != typ.jwt_type() {
            return Err(refused("its header is that of another kind of token"));
        }
        let algorithm = header.name("alg")?;
        let Some(keys) = &issuer.keys else {
            return Err(Rejection::new(Code::Unavailable, "the keys of the token's issuer are not known"));
        };
        let key = choose_key(keys, kid).ok_or_else(|| {
            let _told_already = issuer.misses_key.compare_exchange(0, MISSED, Ordering::Relaxed, Ordering::Relaxed);
            refused("its key is not one of the issuer's")
        })?;
        // 4
        let (signing_input, _) = text.rsplit_once('.').unwrap_or_default();
        if !key.verifies(algorithm, signing_input.as_bytes(), &signature) {
            return Err(refused("its signature does not hold"));
        }
        // 5, 6
        let token = read_token(text, th, issuer, kid.map(str::to_owned), claims)?;
        if token.is_valid_at(now) { Ok(token) } else { Err(refused("it is not valid now")) }
    }
}

/// `th`: the hash that a root names a token by (custody-wire §8.1).
#[must_use]
pub fn token_hash(text: &str) -> ClaimHash {
    ClaimHash(sha256(text.as_bytes()))
}
