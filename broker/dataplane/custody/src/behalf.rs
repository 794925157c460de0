//! On whose behalf a chain acts: the user token of the message against the claims of the chain's root.
//!
//! Owns: step 12 of the receiver for roots with a user: which header field brings the token, and that token, user,
//! workload and scope are those of the root. Does not own: the token itself (see `usertoken`).
//!
//! Source: custody-wire §6.12, §8.1 and §8.4.

use std::sync::Arc;

use crate::authority::Authority;
use crate::binding::HeaderLine;
use crate::cache::VerifiedStatement;
use crate::error::{Code, Rejection, Result};
use crate::ids::SpiffeId;
use crate::limits::MAX_TOKEN_BYTES;
use crate::record::{Obo, User};
use crate::usertoken::{Issuers, TokenType, UserToken, token_hash};

/// Header field of a token of each type.
pub const TXN_TOKEN: &str = "txn-token";
pub const AUTHORIZATION: &str = "authorization";

/// The user that a chain acts for.
#[derive(Clone)]
pub struct Behalf {
    user: User,
    token: Option<Arc<UserToken>>,
    /// What the message brought for the root's `th` where that is not verified here: the next hop may be able to.
    unverified: Option<Arc<str>>,
}

impl std::fmt::Debug for Behalf {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is carried is a credential.
        write!(out, "Behalf({:?}, verified: {})", self.user, self.token.is_some())
    }
}

impl Behalf {
    /// As the root claims it.
    #[must_use]
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The verified token; None if only the root's signer asserts the user (`obo_verified` is false).
    #[must_use]
    pub fn token(&self) -> Option<&Arc<UserToken>> {
        self.token.as_ref()
    }

    /// The token's type; None for types that no message brings.
    #[must_use]
    pub fn typ(&self) -> Option<TokenType> {
        TokenType::parse(&self.user.typ)
    }

    /// The token as the message brought it, for the next hop; None if it did not.
    #[must_use]
    pub fn carried(&self) -> Option<&str> {
        // One text for all calls with a token: handles hold it for as long as their chains last.
        self.token.as_ref().map(|token| token.text()).or(self.unverified.as_deref())
    }
}

/// The field line of a token: name and value.
#[must_use]
pub fn token_field(typ: TokenType, text: &str) -> (&'static str, String) {
    match typ {
        TokenType::Transaction => (TXN_TOKEN, text.to_owned()),
        TokenType::Access => (AUTHORIZATION, format!("Bearer {text}")),
    }
}

/// The tokens that a message brings, one for each type, as text.
#[derive(Clone, Default)]
pub struct Presented {
    transaction: Option<String>,
    access: Option<String>,
}

impl std::fmt::Debug for Presented {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Presented({}, {})", self.transaction.is_some(), self.access.is_some())
    }
}

impl Presented {
    /// One token, or none.
    #[must_use]
    pub fn one(token: Option<(TokenType, String)>) -> Self {
        match token {
            Some((TokenType::Transaction, text)) => Self { transaction: Some(text), access: None },
            Some((TokenType::Access, text)) => Self { transaction: None, access: Some(text) },
            None => Self::default(),
        }
    }

    /// The token in the one field line for each type; None without such a line, with several, or another scheme.
    #[must_use]
    pub fn read(headers: &[HeaderLine<'_>]) -> Self {
        let credentials = only_value(headers, AUTHORIZATION).and_then(|value| {
            let (scheme, credentials) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| credentials.to_owned())
        });
        Self { transaction: only_value(headers, TXN_TOKEN).map(ToOwned::to_owned), access: credentials }
    }

    /// The token of a type.
    #[must_use]
    pub fn of(&self, typ: TokenType) -> Option<&str> {
        match typ {
            TokenType::Transaction => self.transaction.as_deref(),
            TokenType::Access => self.access.as_deref(),
        }
    }
}

fn only_value<'a>(headers: &[HeaderLine<'a>], name: &str) -> Option<&'a str> {
    let mut values = headers.iter().filter(|(line, _)| line.eq_ignore_ascii_case(name));
    match (values.next(), values.next()) {
        (Some((_, value)), None) => std::str::from_utf8(value).ok().map(|text| text.trim_matches([' ', '\t'])),
        _ => None,
    }
}

/// The user of the chain that `root` begins; None if it acts on nobody's behalf.
///
/// The issuer's keys may be missing only for a root of another trust domain than `own_id`'s: then the user is as the
/// root's signer says, and local policy decides whether that is enough.
///
/// # Errors
/// `authority`, `unavailable`.
pub(crate) fn verify_behalf(
    root: &VerifiedStatement,
    authority: &Authority,
    presented: &Presented,
    issuers: &Issuers,
    own_id: &SpiffeId,
    (peer, now): (&str, i64),
) -> Result<Option<Behalf>> {
    let record = root.record();
    let Some(Obo::User(user)) = &record.obo else { return Ok(None) };
    let typ = TokenType::parse(&user.typ);
    let text = typ.and_then(|typ| presented.of(typ));
    let brings_it = text.is_some_and(|text| token_hash(text) == user.th);
    let Some(typ) = typ.filter(|_| issuers.contains(&user.iss, &user.typ)) else {
        if record.iss.trust_domain() == own_id.trust_domain() {
            return Err(refused("the issuer of the root's token is not configured"));
        }
        let unverified = text.filter(|text| brings_it && text.len() <= MAX_TOKEN_BYTES).map(Arc::from);
        return Ok(Some(Behalf { user: user.clone(), token: None, unverified }));
    };
    let text = text.ok_or_else(|| refused("the message does not bring the root's token"))?;
    if !brings_it {
        return Err(refused("the message brings another token than the root's"));
    }
    let token = issuers.verify(text, typ, peer, now)?;
    if token.user() != user {
        return Err(refused("the root says something else about the user than the token"));
    }
    if !token.is_for(&record.iss, &root.leaf().thumbprint()) {
        return Err(refused("the token was issued to another workload than the root's"));
    }
    check_scope(authority, &token)?;
    Ok(Some(Behalf { user: user.clone(), token: Some(token), unverified: None }))
}

/// Nothing if `authority` has a scope and it is within the token's; none at all would be every scope.
///
/// # Errors
/// `authority`.
pub(crate) fn check_scope(authority: &Authority, token: &UserToken) -> Result<()> {
    match &authority.scope {
        Some(scope) if scope.is_subset(token.scope()) => Ok(()),
        _ => Err(refused("the root's scope is not within the token's")),
    }
}

fn refused(detail: &str) -> Rejection {
    Rejection::new(Code::Authority, detail)
}
