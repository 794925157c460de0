//! Authority and its narrowing (custody-wire §8.3).
//!
//! Owns: `auth`, `att`, patterns, folding. Does not own: whose authority it is (see `receive`).

use std::collections::BTreeSet;

use crate::error::{Code, Rejection, Result, malformed};
use crate::ids::{SpiffeId, TrustDomain};
use crate::json::Value;
use crate::limits::MAX_SPIFFE_ID_BYTES;

/// Patterns in one `aud` or `ops`.
const MAX_PATTERNS: usize = 32;
/// Bytes of one `ops` pattern.
const MAX_OPERATION_BYTES: usize = 256;

/// A receiver pattern: one SPIFFE ID, or all ids below `prefix`, which ends in `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AudiencePattern {
    Exact(String),
    Below(String),
}

impl AudiencePattern {
    /// The pattern in `text`: a canonical SPIFFE ID, or such an id or `spiffe://<trust domain>` followed by `/*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return None;
        }
        let Some(prefix) = text.strip_suffix("/*") else {
            return SpiffeId::parse(text).map(|id| Self::Exact(id.as_str().to_owned()));
        };
        let is_domain = prefix.strip_prefix("spiffe://").and_then(TrustDomain::parse).is_some();
        (is_domain || SpiffeId::parse(prefix).is_some()).then(|| Self::Below(format!("{prefix}/")))
    }

    /// True if `aud` (a canonical SPIFFE ID or an origin) is meant; prefixes match on whole path segments.
    #[must_use]
    pub fn matches(&self, aud: &str) -> bool {
        match self {
            Self::Exact(text) => text == aud,
            Self::Below(prefix) => aud.starts_with(prefix),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(theirs)) => own == theirs,
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(prefix), Self::Exact(text) | Self::Below(text)) => text.starts_with(prefix),
        }
    }

    /// The pattern as it stands in `aud`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Exact(text) => text.clone(),
            Self::Below(prefix) => format!("{prefix}*"),
        }
    }
}

/// An operation pattern: one operation, or all that begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationPattern {
    Exact(String),
    Prefix(String),
}

impl OperationPattern {
    /// The pattern in `text`; only a `*` at the end is special.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let length_holds = (1..=MAX_OPERATION_BYTES).contains(&text.len());
        if !length_holds || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return None;
        }
        Some(match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        })
    }

    #[must_use]
    pub fn matches(&self, operation: &str) -> bool {
        match self {
            Self::Exact(text) => text == operation,
            Self::Prefix(prefix) => operation.starts_with(prefix),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(theirs)) => own == theirs,
            (Self::Exact(_), Self::Prefix(_)) => false,
            (Self::Prefix(prefix), Self::Exact(text) | Self::Prefix(text)) => text.starts_with(prefix),
        }
    }

    /// The pattern as it stands in `ops`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Exact(text) => text.clone(),
            Self::Prefix(prefix) => format!("{prefix}*"),
        }
    }
}

/// Limits as `auth` or `att` state them; None = not stated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    pub scope: Option<BTreeSet<String>>,
    pub exp: Option<i64>,
    pub hops: Option<i64>,
    pub aud: Option<Vec<AudiencePattern>>,
    pub ops: Option<Vec<OperationPattern>>,
}

/// What a chain may still do: the root's `auth`, narrowed by each hop; None = no limit set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub scope: Option<BTreeSet<String>>,
    /// `NumericDate` seconds; nothing is allowed from then on.
    pub exp: i64,
    /// The highest `hop` allowed.
    pub hops: i64,
    pub aud: Option<Vec<AudiencePattern>>,
    pub ops: Option<Vec<OperationPattern>>,
}

impl Narrowing {
    /// The limits in the members of `att` or `auth`.
    ///
    /// # Errors
    /// `malformed` for an unknown member (a limit that is not understood is not satisfied) or a wrong value.
    pub fn parse(members: &[(String, Value)]) -> Result<Self> {
        let mut limits = Self::default();
        for (name, value) in members {
            match name.as_str() {
                "scope" => limits.scope = Some(parse_scope(value)?),
                "exp" => limits.exp = Some(parse_number(value)?),
                "hops" => limits.hops = Some(parse_number(value)?),
                "aud" => limits.aud = Some(parse_patterns(value, AudiencePattern::parse)?),
                "ops" => limits.ops = Some(parse_patterns(value, OperationPattern::parse)?),
                _ => return Err(malformed("an authority has a member that is not understood")),
            }
        }
        Ok(limits)
    }
}

impl Authority {
    /// The ceiling in the members of `auth`.
    ///
    /// # Errors
    /// `malformed`, also without `exp` or `hops`.
    pub fn parse(members: &[(String, Value)]) -> Result<Self> {
        let limits = Narrowing::parse(members)?;
        match (limits.exp, limits.hops) {
            (Some(exp), Some(hops)) => Ok(Self { scope: limits.scope, exp, hops, aud: limits.aud, ops: limits.ops }),
            _ => Err(malformed("an authority lacks exp or hops")),
        }
    }

    /// This authority after one hop's `att`.
    ///
    /// # Errors
    /// `authority` if `att` would widen anything: widening is an error, never clipped.
    pub fn narrow(&self, att: &Narrowing) -> Result<Self> {
        let scope = narrow_with(self.scope.as_ref(), att.scope.as_ref(), |own, theirs| theirs.is_subset(own))?;
        let aud = narrow_with(self.aud.as_ref(), att.aud.as_ref(), |own, theirs| {
            theirs.iter().all(|pattern| own.iter().any(|parent| parent.covers(pattern)))
        })?;
        let ops = narrow_with(self.ops.as_ref(), att.ops.as_ref(), |own, theirs| {
            theirs.iter().all(|pattern| own.iter().any(|parent| parent.covers(pattern)))
        })?;
        let exp = att.exp.unwrap_or(self.exp);
        let hops = att.hops.unwrap_or(self.hops);
        if exp > self.exp || hops > self.hops {
            return Err(widened());
        }
        Ok(Self { scope, exp, hops, aud, ops })
    }

    /// Nothing if a record at `hop` may be used at `now` by receiver `aud` for one of `operations`.
    ///
    /// # Errors
    /// `authority`, checked in the order hop, time, receiver, operation (custody-wire §6.13).
    pub fn allow(&self, hop: i64, now: i64, aud: &str, operations: &[&str]) -> Result<()> {
        let refuse = |detail: &str| Err(Rejection::new(Code::Authority, detail));
        if hop > self.hops {
            return refuse("the chain has more hops than its authority allows");
        }
        if now >= self.exp {
            return refuse("the authority has expired");
        }
        if self.aud.as_ref().is_some_and(|allowed| !allowed.iter().any(|pattern| pattern.matches(aud))) {
            return refuse("the authority does not reach this receiver");
        }
        let matches_any = |pattern: &OperationPattern| operations.iter().any(|name| pattern.matches(name));
        if self.ops.as_ref().is_some_and(|ops| !ops.iter().any(matches_any)) {
            return refuse("the authority does not reach this operation");
        }
        Ok(())
    }
}

fn widened() -> Rejection {
    Rejection::new(Code::Authority, "a hop widens the authority")
}

fn narrow_with<T: Clone>(own: Option<&T>, theirs: Option<&T>, covers: impl Fn(&T, &T) -> bool) -> Result<Option<T>> {
    match (own, theirs) {
        (Some(own), Some(theirs)) if !covers(own, theirs) => Err(widened()),
        (_, Some(theirs)) => Ok(Some(theirs.clone())),
        (own, None) => Ok(own.cloned()),
    }
}

fn parse_number(value: &Value) -> Result<i64> {
    match value {
        Value::Integer(number) if *number >= 0 => Ok(*number),
        _ => Err(malformed("an authority's number is not an integer from 0")),
    }
}

/// Tokens of RFC 6749 §3.3 parted by one space, none twice; empty text is the empty set.
fn parse_scope(value: &Value) -> Result<BTreeSet<String>> {
    let refuse = || malformed("a scope is not a list of distinct tokens parted by single spaces");
    let Value::Text(text) = value else { return Err(refuse()) };
    parse_scope_text(text)
}

/// As [`parse_scope`], for a scope that is no claim of ours.
///
/// # Errors
/// `malformed`.
pub(crate) fn parse_scope_text(text: &str) -> Result<BTreeSet<String>> {
    let refuse = || malformed("a scope is not a list of distinct tokens parted by single spaces");
    let mut scope = BTreeSet::new();
    if text.is_empty() {
        return Ok(scope);
    }
    for token in text.split(' ') {
        let holds = !token.is_empty() && token.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'));
        if !holds || !scope.insert(token.to_owned()) {
            return Err(refuse());
        }
    }
    Ok(scope)
}

fn parse_patterns<T>(value: &Value, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let refuse = || malformed("an authority's patterns are not at most 32 readable texts");
    let Value::Array(items) = value else { return Err(refuse()) };
    if items.len() > MAX_PATTERNS {
        return Err(refuse());
    }
    items
        .iter()
        .map(|item| match item {
            Value::Text(text) => parse(text).ok_or_else(refuse),
            _ => Err(refuse()),
        })
        .collect()
}
