//! Steps 1 to 4 and 6 to 11 of custody-wire §6: everything that costs no signature.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Ancestor, Examined, Inline, Peer, Policy, Request};
use crate::behalf::Presented;
use crate::binding::{Body, HeaderLine, request_binding, verify_content_digest};
use crate::cache::Caches;
use crate::cert::Certificate;
use crate::error::{Code, Missing, Rejection, Result};
use crate::fields::CustodyFields;
use crate::hash::{StatementHash, Thumbprint};
use crate::limits::{MAX_CHAIN_AGE_S, MAX_HOPS, MAX_LIFETIME_S, MAX_SKEW_S};
use crate::record::Record;
use crate::seal::UnverifiedStatement;
use crate::statement::StatementClaims as _;

pub(super) type Known = HashMap<Thumbprint, Arc<Certificate>>;

pub(super) fn examine(caches: &Caches, request: &Request<'_>, policy: &Policy, now: i64) -> Result<Examined> {
    // 1, 2
    let fields = CustodyFields::read(request.headers, policy.hops())?;
    // 3
    let parsed = fields.chain.iter().map(|text| parse_statement(text)).collect::<Result<Vec<_>>>()?;
    let newest = parse_statement(fields.record)?;
    let ders = fields.certificates()?;
    // 4
    let peer_name = peer_name(request.peer);
    let known = collect_certificates(caches, request.peer, &ders, &peer_name);
    let (mut ancestors, newest) = resolve(caches, &known, parsed, newest)?;
    // 6, 7
    check_peer(request, policy, &newest)?;
    check_audience(request, &newest.claims)?;
    // 8
    check_times(&ancestors, &newest.claims, now)?;
    // 9
    check_binding(request, policy, &newest.claims)?;
    // 10
    prepend(caches, &mut ancestors, &newest.claims, policy, now)?;
    // 11
    check_sequence(&ancestors, &newest)?;
    let certificates = known.into_values().collect();
    let presented = Presented::read(request.headers);
    Ok(Examined { ancestors, newest, certificates, own_id: request.own_id.clone(), peer: peer_name, presented })
}

type Parsed = (UnverifiedStatement, Record);

fn parse_statement(text: &str) -> Result<Parsed> {
    let statement = UnverifiedStatement::parse(text)?;
    let record = Record::parse(statement.claims())?;
    Ok((statement, record))
}

/// Whom cache entries are charged to.
pub(super) fn peer_name(peer: Option<&Peer>) -> Arc<str> {
    match peer.map(|peer| (peer.leaf.identity(), peer.leaf.thumbprint())) {
        Some((Ok(id), _)) => id.as_str().into(),
        Some((Err(_), thumbprint)) => thumbprint.to_string().into(),
        None => "".into(),
    }
}

pub(super) fn collect_certificates(caches: &Caches, peer: Option<&Peer>, ders: &[Vec<u8>], name: &str) -> Known {
    let mut known = Known::new();
    for der in ders {
        let thumbprint = Thumbprint::of(der);
        let certificate = caches.certificate(&thumbprint).unwrap_or_else(|| {
            let certificate = Arc::new(Certificate::read(der));
            caches.remember_certificate(&certificate, name);
            certificate
        });
        known.insert(thumbprint, certificate);
    }
    for certificate in peer.iter().flat_map(|peer| std::iter::once(&peer.leaf).chain(&peer.intermediates)) {
        known.insert(certificate.thumbprint(), Arc::clone(certificate));
        caches.remember_certificate(certificate, name);
    }
    known
}

fn resolve(
    caches: &Caches,
    known: &Known,
    ancestors: Vec<Parsed>,
    newest: Parsed,
) -> Result<(Vec<Ancestor>, Box<Inline>)> {
    let mut missing: Vec<Missing> = Vec::new();
    let mut resolve_one = |(statement, record): Parsed| {
        let x5t = statement.seal().x5t;
        let leaf = known.get(&x5t).cloned().or_else(|| caches.certificate(&x5t));
        if leaf.is_none() && !missing.contains(&Missing::Certificate(x5t)) {
            missing.push(Missing::Certificate(x5t));
        }
        leaf.map(|leaf| Box::new(Inline { statement, claims: record, leaf }))
    };
    let resolved: Vec<Option<Box<Inline>>> = ancestors.into_iter().map(&mut resolve_one).collect();
    let newest = resolve_one(newest);
    match (resolved.into_iter().collect::<Option<Vec<_>>>(), newest) {
        (Some(ancestors), Some(newest)) => Ok((ancestors.into_iter().map(Ancestor::Inline).collect(), newest)),
        _ => Err(Rejection::unresolved(missing)),
    }
}

fn check_peer(request: &Request<'_>, policy: &Policy, newest: &Inline) -> Result<()> {
    let refuse = |detail: &str| Err(Rejection::new(Code::Identity, detail));
    match request.peer {
        Some(peer) if peer.leaf.thumbprint() == newest.statement.seal().x5t => Ok(()),
        Some(_) => refuse("the record is sealed by another leaf than the connection's"),
        None if policy.unsafe_allow_no_peer => Ok(()),
        None => refuse("the connection has no visible peer certificate"),
    }
}

fn check_audience(request: &Request<'_>, newest: &Record) -> Result<()> {
    if newest.srv.is_some_and(|srv| !request.own_leaves.contains(&srv)) {
        return Err(Rejection::new(Code::Audience, "the record was made for another server leaf"));
    }
    if newest.aud != request.own_id.as_str() {
        return Err(Rejection::new(Code::Audience, "the record is for another component"));
    }
    Ok(())
}

fn expired(detail: &str) -> Rejection {
    Rejection::new(Code::Expired, detail)
}

fn check_times(ancestors: &[Ancestor], newest: &Record, now: i64) -> Result<()> {
    if newest.iat - MAX_SKEW_S > now || now >= newest.exp + MAX_SKEW_S {
        return Err(expired("the record is not valid now"));
    }
    for record in ancestors.iter().map(Ancestor::record).chain([newest]) {
        if record.exp - record.iat > MAX_LIFETIME_S {
            return Err(expired("a record lives too long"));
        }
        check_issue_time(record, now)?;
    }
    check_age(ancestors.first().map_or(newest, Ancestor::record), now)
}

fn check_issue_time(record: &Record, now: i64) -> Result<()> {
    if record.iat > now + MAX_SKEW_S {
        return Err(expired("a record was issued in the future"));
    }
    Ok(())
}

fn check_age(record: &Record, now: i64) -> Result<()> {
    if record.hop == 0 && record.iat < now - MAX_CHAIN_AGE_S - MAX_SKEW_S {
        return Err(expired("the chain is too old to go on without its root"));
    }
    Ok(())
}

fn check_binding(request: &Request<'_>, policy: &Policy, newest: &Record) -> Result<()> {
    if newest.streams && !policy.accept_streams {
        return Err(Rejection::new(Code::Forbidden, "requests whose body is not bound are not accepted"));
    }
    // What a stream held is said by its closing statement.
    let body = if newest.streams { Body::Empty } else { request.body };
    verify_content_digest(request.headers, &body)?;
    if request_binding(request.method, request.target_uri, request.headers)? != newest.rqb {
        return Err(Rejection::new(Code::Binding, "the record was made for another request"));
    }
    Ok(())
}

/// Puts known ancestors in front that the sender left out.
fn prepend(caches: &Caches, ancestors: &mut Vec<Ancestor>, newest: &Record, policy: &Policy, now: i64) -> Result<()> {
    let mut front: Vec<Ancestor> = Vec::new();
    loop {
        let first = front.last().or_else(|| ancestors.first()).map_or(newest, Ancestor::record);
        if first.hop == 0 {
            break;
        }
        let Some(prev) = first.prev else {
            return Err(Rejection::new(Code::Chain, "a record that is not a root has no parent"));
        };
        let Some(known) = caches.statement(&prev) else {
            return Err(Rejection::unresolved(vec![Missing::Record(prev)]));
        };
        front.push(Ancestor::Known(known));
        if front.len() + ancestors.len() + 1 > policy.hops() {
            return Err(Rejection::new(Code::TooLong, "the chain has too many records"));
        }
    }
    for known in front.iter().map(Ancestor::record) {
        check_issue_time(known, now)?;
        check_age(known, now)?;
    }
    ancestors.splice(0..0, front.into_iter().rev());
    Ok(())
}

fn check_sequence(ancestors: &[Ancestor], newest: &Inline) -> Result<()> {
    let tail = (&newest.claims, newest.statement.hash());
    let elements = ancestors.iter().map(|ancestor| (ancestor.record(), ancestor.hash())).chain([tail]);
    let mut parent: Option<(&Record, StatementHash)> = None;
    for (position, (record, hash)) in elements.enumerate() {
        if usize::try_from(record.hop) != Ok(position) {
            return Err(broken("a hop number is not the record's position"));
        }
        match parent.replace((record, hash)) {
            Some((before, before_hash)) => check_link(before, before_hash, record)?,
            None if record.prev.is_some() || record.att.is_some() => {
                return Err(broken("a root has a parent or narrows what it grants itself"));
            }
            None => {}
        }
    }
    Ok(())
}

/// Nothing if `after` continues exactly `before`.
fn check_link(before: &Record, before_hash: StatementHash, after: &Record) -> Result<()> {
    if after.prev != Some(before_hash) {
        return Err(broken("a record does not continue the one before it"));
    }
    if after.cid != before.cid {
        return Err(broken("a record belongs to another chain"));
    }
    if before.aud != after.iss.as_str() {
        return Err(broken("a record is continued by somebody it was not handed to"));
    }
    if after.iat < before.iat - MAX_SKEW_S {
        return Err(broken("a record is older than its parent"));
    }
    if after.has_root_claims() {
        return Err(broken("a claim of a root stands in a later record"));
    }
    Ok(())
}

fn broken(detail: &str) -> Rejection {
    Rejection::new(Code::Chain, detail)
}

/// The newest record's sealed text and claims as sent, for the log of a refused request; None if unreadable.
#[must_use]
pub fn peek_unverified(headers: &[HeaderLine<'_>]) -> Option<(String, Record)> {
    let fields = CustodyFields::read(headers, MAX_HOPS).ok()?;
    let statement = UnverifiedStatement::parse(fields.record).ok()?;
    let record = Record::parse(statement.claims()).ok()?;
    Some((statement.text().to_owned(), record))
}
