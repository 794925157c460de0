//! Users' tokens on this node: which one opens a root, that each call carries its chain's own, the log's line.
//!
//! Owns: what a component may say about users. Does not own: verifying tokens (crate `hopseal_custody`), or where a
//! chain keeps its token (its handle's context).
//!
//! A component that calls with a handle need not repeat the token, and cannot exchange it: the broker puts the chain's
//! own token into the request and refuses any other. Only what looks like a token of a configured issuer counts as
//! one; other credentials in `Authorization` are the component's own business.
//!
//! Source: custody-wire §8.1, §6.12, §10 "User tokens".

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use hopseal_custody::behalf::{AUTHORIZATION, Behalf, Presented, TXN_TOKEN, token_field};
use hopseal_custody::error::{Code, Rejection};
use hopseal_custody::hash::ClaimHash;
use hopseal_custody::usertoken::{Holder, Issuers, TokenType, UserToken};
use http::{HeaderMap, HeaderName};
use serde_json::json;

use crate::broker::Broker;
use crate::clock;
use crate::events::Weight;
use crate::headers;
use crate::log::Entry;
use crate::outbound::{Caller, Parent};
use crate::policy::OnBehalf;
use crate::problem::Refusal;

/// Tokens whose line is known to be in the log.
const LOGGED_TOKENS: usize = 1 << 16;

/// The token that a request brings for a root of `caller`, verified; None if it brings none.
///
/// # Errors
/// `user_token_invalid`, `issuer_unavailable`.
pub fn opening(broker: &Broker, caller: &Caller, list: &HeaderMap) -> Result<Option<Arc<UserToken>>, Refusal> {
    let found = brought(list, &broker.receive_policy().issuers, false)?;
    found.map(|(typ, text)| verify(broker, caller, typ, &text)).transpose()
}

/// The token that a gateway brings for a partner, verified; the chain's own token is taken out of `list`.
///
/// # Errors
/// As [`opening`]; `user_token_mismatch` if the chain's own token stands anywhere else in `list`.
pub fn exchanged(
    broker: &Broker,
    caller: &Caller,
    parent: &Parent,
    list: &mut HeaderMap,
) -> Result<Option<Arc<UserToken>>, Refusal> {
    let own = own_token(parent);
    let mut found = brought(list, &broker.receive_policy().issuers, own.is_some())?;
    if let Some((typ, text)) = &own {
        if found == own {
            list.remove(token_field(*typ, text).0);
            found = None;
        }
        if list.values().any(|value| contains(value.as_bytes(), text.as_bytes())) {
            return Err(mismatch("the chain's own token in another field"));
        }
    }
    found.map(|(typ, text)| verify(broker, caller, typ, &text)).transpose()
}

/// Keeps the chain's user token here: a request to a party without custody that holds it is refused, and transaction
/// tokens, which are of this trust domain only, are taken out.
///
/// # Errors
/// `egress_user_token`.
pub fn keep(parent: &Parent, list: &mut HeaderMap, target: &str) -> Result<(), Refusal> {
    if let Some((_, text)) = own_token(parent) {
        let is_in = |value: &[u8]| contains(value, text.as_bytes()) || contains(&unescaped(value), text.as_bytes());
        if list.values().any(|value| is_in(value.as_bytes())) || is_in(target.as_bytes()) {
            return Err(Refusal::new("egress_user_token", "the request holds the token of the chain's user"));
        }
    }
    list.remove(TXN_TOKEN);
    Ok(())
}

fn contains(value: &[u8], part: &[u8]) -> bool {
    value.windows(part.len().max(1)).any(|window| window == part)
}

/// `value` without percent-encoding: whoever reads a path, a query or a cookie takes it off.
fn unescaped(value: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut plain, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some((byte, behind)) = rest.split_first() {
        let escaped = match (byte, behind) {
            (b'%', [high, low, ..]) => digit(high).zip(digit(low)).map(|(high, low)| (high << 4) | low),
            _ => None,
        };
        plain.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
    }
    plain
}

/// `token` again, as long as it holds.
///
/// # Errors
/// As [`opening`].
pub fn still_valid(broker: &Broker, caller: &Caller, token: &UserToken) -> Result<Arc<UserToken>, Refusal> {
    verify(broker, caller, token.typ(), token.text())
}

fn verify(broker: &Broker, caller: &Caller, typ: TokenType, text: &str) -> Result<Arc<UserToken>, Refusal> {
    let policy = broker.receive_policy();
    let id = &caller.leaf.id;
    let token = policy.issuers.verify(text, typ, id.as_str(), clock::now_s());
    report_unknown_keys(broker, &policy.issuers);
    let token = token.map_err(unusable)?;
    if !token.is_for(id, &caller.leaf.thumbprint()) {
        return Err(Refusal::new("user_token_invalid", "the token was issued to another workload"));
    }
    Ok(token)
}

/// The token of the chain that `parent` continues or begins.
fn own_token(parent: &Parent) -> Option<(TokenType, String)> {
    match parent {
        Parent::Call(chain) => chain.behalf().and_then(|behalf| Some((behalf.typ()?, behalf.carried()?.to_owned()))),
        Parent::Root { root, .. } | Parent::Sealed { root, .. } => {
            root.user.as_ref().map(|token| (token.typ(), token.text().to_owned()))
        }
    }
}

/// Makes `list` carry the token of the chain that `parent` continues, and no other.
///
/// # Errors
/// `user_token_mismatch`.
pub fn carry(broker: &Broker, parent: &Parent, list: &mut HeaderMap) -> Result<(), Refusal> {
    let issuers = &broker.receive_policy().issuers;
    let own = own_token(parent);
    if let Some((typ, text)) = brought(list, issuers, own.is_some())?
        && own.as_ref() != Some(&(typ, text))
    {
        return Err(mismatch("another token than the chain's"));
    }
    let Some((typ, text)) = own else { return Ok(()) };
    let (name, value) = token_field(typ, &text);
    if list.contains_key(name) && Presented::read(&headers::lines(list)).of(typ) != Some(&text) {
        return Err(mismatch("the chain's token needs this field"));
    }
    let value = headers::custody_value(&value).ok_or_else(|| mismatch("a token that is no field value"))?;
    list.insert(HeaderName::from_static(name), value);
    Ok(())
}

/// The user of a call that is about to be made, for policies.
pub fn user_of(parent: &Parent) -> Option<OnBehalf> {
    match parent {
        Parent::Call(chain) => chain.behalf().map(on_behalf),
        Parent::Root { root, .. } | Parent::Sealed { root, .. } => root.user.as_deref().map(|token| {
            let user = token.user();
            OnBehalf { issuer: user.iss.clone(), subject: user.sub.clone(), verified: true }
        }),
    }
}

/// The user of an accepted chain, for policies.
pub fn on_behalf(behalf: &Behalf) -> OnBehalf {
    let user = behalf.user();
    OnBehalf { issuer: user.iss.clone(), subject: user.sub.clone(), verified: behalf.token().is_some() }
}

/// Puts a verified token's claims into the log, once; before the record that names it, by the order of the queue.
pub fn log_token(broker: &Broker, token: &UserToken) {
    let th = token.user().th;
    let Some(started) = broker.started.get() else { return };
    if !broker.logged_tokens.is_new(th) {
        return;
    }
    let workload = match token.holder() {
        Holder::Named(name) => Some(name.clone()),
        Holder::Certificate(_) => None,
    };
    let kid = token.kid().map(ToOwned::to_owned);
    let entry = Entry::Token { th: th.to_string(), kid, workload, claims: token.claims_for_log() };
    if started.log.append_nowait(entry, Vec::new()).is_err() {
        broker.logged_tokens.forget(th);
    }
}

/// Asks the control process to look for newer keys, once for each set of keys.
pub fn report_unknown_keys(broker: &Broker, issuers: &Issuers) {
    for (issuer, typ) in issuers.take_unknown_keys() {
        let event = json!({"event": "issuer_key_unknown", "issuer": issuer, "type": typ.as_str()});
        broker.events.push(Weight::Droppable, &event);
    }
}

/// The one token of a user that a request brings; `strictly` counts every `Txn-Token` as one.
fn brought(list: &HeaderMap, issuers: &Issuers, strictly: bool) -> Result<Option<(TokenType, String)>, Refusal> {
    if !strictly && issuers.is_empty() {
        return Ok(None);
    }
    if list.get_all(TXN_TOKEN).iter().count() > 1 || list.get_all(AUTHORIZATION).iter().count() > 1 {
        return Err(Refusal::new("request_invalid", "a credential field occurs twice"));
    }
    let presented = Presented::read(&headers::lines(list));
    let counts = strictly || issuers.has(TokenType::Transaction);
    let transaction = presented.of(TokenType::Transaction).filter(|_| counts);
    let claims = |text: &&str| issuers.claims_unverified(text, TokenType::Access);
    let access = presented.of(TokenType::Access).filter(claims);
    if access.is_none() && has_hidden(list, &claims) {
        return Err(mismatch("a user's token that is not the one Bearer credential"));
    }
    match (transaction, access) {
        (Some(_), Some(_)) => Err(mismatch("tokens of two users")),
        (Some(text), None) => Ok(Some((TokenType::Transaction, text.to_owned()))),
        (None, Some(text)) => Ok(Some((TokenType::Access, text.to_owned()))),
        (None, None) => Ok(None),
    }
}

/// Whether `Authorization` has a user's token in a form that only some readers take for one.
fn has_hidden(list: &HeaderMap, claims: &impl Fn(&&str) -> bool) -> bool {
    let text = list.get(AUTHORIZATION).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
    let is_between = |each: char| !(each.is_ascii_alphanumeric() || matches!(each, '-' | '_' | '.'));
    text.split(is_between).any(|part| claims(&part))
}

fn mismatch(detail: &str) -> Refusal {
    Refusal::new("user_token_mismatch", detail)
}

fn unusable(rejection: Rejection) -> Refusal {
    let code = if rejection.code == Code::Unavailable { "issuer_unavailable" } else { "user_token_invalid" };
    Refusal::new(code, rejection.detail)
}

/// Tokens whose line was written, bounded; one that was forgotten is written again.
#[derive(Default)]
pub struct LoggedTokens(Mutex<(HashSet<ClaimHash>, VecDeque<ClaimHash>)>);

impl LoggedTokens {
    /// True once for each token, and from then on false while it is remembered.
    fn is_new(&self, th: ClaimHash) -> bool {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *guard;
        if !known.insert(th) {
            return false;
        }
        order.push_back(th);
        if order.len() > LOGGED_TOKENS
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        true
    }

    fn forget(&self, th: ClaimHash) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0.remove(&th);
        guard.1.retain(|known| *known != th);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_new_once_until_it_is_forgotten() {
        let logged = LoggedTokens::default();
        let th = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            ClaimHash(bytes)
        };
        assert!(logged.is_new(th(0)));
        assert!(!logged.is_new(th(0)));
        logged.forget(th(0));
        assert!(logged.is_new(th(0)));
        for n in 1..=LOGGED_TOKENS as u64 {
            assert!(logged.is_new(th(n)));
        }
        assert!(logged.is_new(th(0)), "the oldest was forgotten");
        assert_eq!(logged.0.lock().unwrap().0.len(), LOGGED_TOKENS);
    }
}
