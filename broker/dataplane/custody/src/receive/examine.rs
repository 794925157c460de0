//! Steps 1 to 4 and 6 to 11 of custody-wire §6: everything that costs no signature.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Element, Examined, InlineElement, Peer, Policy, Request};
use crate::binding::{request_binding, verify_content_digest};
use crate::cache::Caches;
use crate::cert::Certificate;
use crate::error::{Code, Missing, Rejection, Result};
use crate::fields::CustodyFields;
use crate::hash::Thumbprint;
use crate::limits::{MAX_CHAIN_AGE_S, MAX_LIFETIME_S, MAX_SKEW_S};
use crate::record::Record;
use crate::seal::UnverifiedStatement;

type Known = HashMap<Thumbprint, Arc<Certificate>>;

pub(super) fn examine(caches: &Caches, request: &Request<'_>, policy: &Policy, now: i64) -> Result<Examined> {
    // 1, 2
    let fields = CustodyFields::read(request.headers, policy.hops())?;
    // 3
    let texts: Vec<&str> = fields.chain.iter().copied().chain(std::iter::once(fields.record)).collect();
    let statements = texts.into_iter().map(parse_statement).collect::<Result<Vec<_>>>()?;
    let ders = fields.certificates()?;
    // 4
    let peer_name = peer_name(request.peer);
    let known = collect_certificates(caches, request.peer, &ders, &peer_name);
    let mut elements = resolve(caches, &known, statements)?;
    let Some(newest) = elements.last() else {
        return Err(Rejection::new(Code::Missing, "the request has no record"));
    };
    // 6, 7
    check_peer(request, policy, newest)?;
    check_audience(request, newest.record())?;
    // 8
    check_times(&elements, now)?;
    // 9
    check_binding(request, newest.record())?;
    // 10
    prepend(caches, &mut elements, policy, now)?;
    // 11
    check_sequence(&elements)?;
    Ok(Examined {
        elements,
        certificates: known.into_values().collect(),
        own_id: request.own_id.clone(),
        peer: peer_name,
    })
}

fn parse_statement(text: &str) -> Result<(UnverifiedStatement, Record)> {
    let statement = UnverifiedStatement::parse(text)?;
    let record = Record::parse(&statement.claims()?)?;
    Ok((statement, record))
}

/// Whom cache entries are charged to.
fn peer_name(peer: Option<&Peer>) -> Arc<str> {
    match peer.map(|peer| (peer.leaf.identity(), peer.leaf.thumbprint())) {
        Some((Ok(id), _)) => id.as_str().into(),
        Some((Err(_), thumbprint)) => thumbprint.to_string().into(),
        None => "".into(),
    }
}

fn collect_certificates(caches: &Caches, peer: Option<&Peer>, ders: &[Vec<u8>], name: &str) -> Known {
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

fn resolve(caches: &Caches, known: &Known, statements: Vec<(UnverifiedStatement, Record)>) -> Result<Vec<Element>> {
    let mut missing: Vec<Missing> = Vec::new();
    let mut elements = Vec::with_capacity(statements.len());
    for (statement, record) in statements {
        let x5t = statement.seal().x5t;
        match known.get(&x5t).cloned().or_else(|| caches.certificate(&x5t)) {
            Some(leaf) => elements.push(Element::Inline(Box::new(InlineElement { statement, record, leaf }))),
            None if missing.contains(&Missing::Certificate(x5t)) => {}
            None => missing.push(Missing::Certificate(x5t)),
        }
    }
    if missing.is_empty() { Ok(elements) } else { Err(Rejection::unresolved(missing)) }
}

fn check_peer(request: &Request<'_>, policy: &Policy, newest: &Element) -> Result<()> {
    let refuse = |detail: &str| Err(Rejection::new(Code::Identity, detail));
    let Element::Inline(newest) = newest else {
        return refuse("the newest record is not in the message");
    };
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

fn check_times(elements: &[Element], now: i64) -> Result<()> {
    if let Some(newest) = elements.last().map(Element::record) {
        if newest.iat - MAX_SKEW_S > now || now >= newest.exp + MAX_SKEW_S {
            return Err(expired("the record is not valid now"));
        }
    }
    for record in elements.iter().map(Element::record) {
        if record.exp - record.iat > MAX_LIFETIME_S {
            return Err(expired("a record lives too long"));
        }
        check_issue_time(record, now)?;
    }
    elements.first().map_or(Ok(()), |first| check_age(first.record(), now))
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

fn check_binding(request: &Request<'_>, newest: &Record) -> Result<()> {
    if newest.streams {
        return Err(Rejection::new(Code::Forbidden, "requests whose body is not bound are not accepted"));
    }
    verify_content_digest(request.headers, &request.body)?;
    if request_binding(request.method, request.target_uri, request.headers)? != newest.rqb {
        return Err(Rejection::new(Code::Binding, "the record was made for another request"));
    }
    Ok(())
}

/// Puts known ancestors in front that the sender left out.
fn prepend(caches: &Caches, elements: &mut Vec<Element>, policy: &Policy, now: i64) -> Result<()> {
    let mut front: Vec<Element> = Vec::new();
    loop {
        let Some(first) = front.last().or_else(|| elements.first()).map(Element::record) else { return Ok(()) };
        if first.hop == 0 {
            break;
        }
        let Some(prev) = first.prev else {
            return Err(Rejection::new(Code::Chain, "a record that is not a root has no parent"));
        };
        let Some(known) = caches.statement(&prev) else {
            return Err(Rejection::unresolved(vec![Missing::Record(prev)]));
        };
        if front.len() + elements.len() + 1 > policy.hops() {
            return Err(Rejection::new(Code::TooLong, "the chain has too many records"));
        }
        front.push(Element::Known(known));
    }
    for known in front.iter().map(Element::record) {
        check_issue_time(known, now)?;
        check_age(known, now)?;
    }
    elements.splice(0..0, front.into_iter().rev());
    Ok(())
}

fn check_sequence(elements: &[Element]) -> Result<()> {
    let refuse = |detail: &str| Err(Rejection::new(Code::Chain, detail));
    let mut parent: Option<&Element> = None;
    for (position, element) in elements.iter().enumerate() {
        let record = element.record();
        if usize::try_from(record.hop) != Ok(position) {
            return refuse("a hop number is not the record's position");
        }
        let Some(before) = parent.replace(element) else {
            if record.prev.is_some() || record.att.is_some() {
                return refuse("a root has a parent or narrows nothing");
            }
            continue;
        };
        if record.prev != Some(before.hash()) {
            return refuse("a record does not continue the one before it");
        }
        if record.cid != before.record().cid {
            return refuse("a record belongs to another chain");
        }
        if before.record().aud != record.iss.as_str() {
            return refuse("a record is continued by somebody it was not handed to");
        }
        if record.iat < before.record().iat - MAX_SKEW_S {
            return refuse("a record is older than its parent");
        }
        if record.has_root_claims() {
            return refuse("a claim of a root stands in a later record");
        }
    }
    Ok(())
}
