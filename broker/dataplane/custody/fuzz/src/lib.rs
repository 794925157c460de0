//! What must hold for any bytes: one function for each parser of the custody codec.
//!
//! Each panics when it found something, and says whether the bytes came through every check that it has.
//! `fuzz_targets/` gives them to libFuzzer; the test below replays the corpus.

use std::sync::Arc;

use hopseal_custody::binding::{Body, BodySum, HeaderLine, request_binding, response_binding};
use hopseal_custody::cache::CacheSizes;
use hopseal_custody::cert::Certificate;
use hopseal_custody::compose::Payload;
use hopseal_custody::error::Code;
use hopseal_custody::fields::{ClosingFields, CustodyFields, ReceiptFields, receipt_comment, split_comment};
use hopseal_custody::frames::FrameReader;
use hopseal_custody::hash::{RandomId, StatementHash, Thumbprint, decode_base64, encode_base64};
use hopseal_custody::ids::{SpiffeId, TrustDomain};
use hopseal_custody::jcs::canonicalize;
use hopseal_custody::json::{parse_object, write_object};
use hopseal_custody::limits::{MAX_CERTS, MAX_HOPS, MAX_SEALED_BYTES};
use hopseal_custody::messages::MessageCounter;
use hopseal_custody::receive::{Exchange, ExpectedClosing, Peer, Policy, Receiver, Request, peek_unverified};
use hopseal_custody::record::Record;
use hopseal_custody::replay::ReplayStore;
use hopseal_custody::seal::{UnverifiedStatement, path_text, seal_body, seal_header};
use hopseal_custody::statement::{Statement, StatementClaims as _};
use hopseal_custody::trust::Bundles;
use hopseal_custody::usertoken::{Issuers, TokenType, token_hash};

/// The time of the vectors that the corpus is made from.
const NOW: i64 = 1_795_348_800;
const METHOD: &str = "POST";
const TARGET_URI: &str = "https://crm-connector.crm-assistant/mcp?tenant=7";

/// Whatever is read writes out to something that reads the same.
pub fn json(data: &[u8]) -> bool {
    let Ok(members) = parse_object(data) else { return false };
    let mut written = String::new();
    write_object(&members, &mut written);
    assert_eq!(parse_object(written.as_bytes()), Ok(members));
    true
}

/// A sealed statement has one text, and its parts are those of that text.
pub fn statement(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(statement) = UnverifiedStatement::parse(text) else { return false };
    assert!(text.len() <= MAX_SEALED_BYTES && text.is_ascii());
    assert_eq!(statement.text(), text);
    let seal = statement.seal();
    assert!(statement.index() < seal.count);
    assert!(seal_header(&seal.x5t).len() + seal_body(seal.count, &seal.root).len() < text.len());
    assert!(seal.count > 1 || path_text(0, &[]).is_empty());
    let holds = statement.path_holds();
    assert!(seal.count > 1 || holds == (statement.hash().0 == seal.root));
    let _no_panic = statement.signature_holds(&Certificate::read(data));
    holds
}

/// Claims of any type write out to claims that say the same.
pub fn claims(data: &[u8]) -> bool {
    let Ok(statement) = Statement::parse(data) else { return false };
    let mut written = String::new();
    write_object(&statement.to_members(), &mut written);
    assert_eq!(Statement::parse(written.as_bytes()), Ok(statement.clone()));
    match Payload::from_claims(statement.to_members()) {
        Ok(payload) => {
            let x5t = Thumbprint([0; 32]);
            assert_eq!(payload.statement_hash(&x5t), payload.statement_hash(&x5t));
        }
        Err(refused) => assert_eq!(refused.code, Code::TooLarge),
    }
    true
}

/// A certificate is read whole or not at all, as leaf, as authority and as link between them.
pub fn certificate(data: &[u8]) -> bool {
    let Some(parsed) = Certificate::parse(data) else {
        assert!(Certificate::read(data).identity().is_err());
        return false;
    };
    assert_eq!(parsed.der(), data);
    assert_eq!(parsed.thumbprint(), Thumbprint::of(data));
    let Some(domain) = TrustDomain::parse("prod.example.org") else { return false };
    let Ok(bundles) = Bundles::build(&[(domain, vec![data.to_vec()])]) else { return false };
    let Some(bundle) = bundles.get("prod.example.org") else { return false };
    let parsed = Arc::new(parsed);
    if let Ok(path) = bundle.verify_path(&parsed, &[Arc::clone(&parsed)], NOW) {
        assert!(path.holds_at(NOW));
    }
    true
}

/// A certificate list holds no more than its limit, each element in its one form.
pub fn certificates(data: &[u8]) -> bool {
    let headers: [HeaderLine<'_>; 2] = [("custody-record", b"r"), ("custody-certs", data)];
    let Ok(fields) = CustodyFields::read(&headers, 1) else { return false };
    let Ok(ders) = fields.certificates() else { return false };
    assert!((1..=MAX_CERTS).contains(&ders.len()));
    for der in ders {
        assert_eq!(decode_base64(&encode_base64(&der)), Some(der));
    }
    true
}

/// A request of which nothing is known beforehand passes no check that needs a signature.
pub fn receive(data: &[u8]) -> bool {
    let (headers, body) = split_message(data);
    let record = peek_unverified(&headers).map(|(_, record)| record);
    let own_id = record.as_ref().and_then(|record| SpiffeId::parse(&record.aud));
    let Some(own_id) = own_id.or_else(|| SpiffeId::parse("spiffe://prod.example.org/nobody")) else { return false };
    let peer = peer_in(&headers);
    let own_leaves: Vec<Thumbprint> = record.iter().filter_map(|record| record.srv).collect();
    let request = Request {
        method: METHOD,
        target_uri: TARGET_URI,
        headers: &headers,
        body: Body::of(body),
        peer: peer.as_ref(),
        own_id: &own_id,
        own_leaves: &own_leaves,
    };
    let policy = Policy { hops: MAX_HOPS, accept_streams: true, unsafe_allow_no_peer: true, ..Policy::default() };
    let receiver = receiver();
    let Ok(examined) = receiver.examine(&request, &policy, NOW) else { return false };
    let record = record.expect("an examined request has a record");
    assert_eq!(request_binding(METHOD, TARGET_URI, &headers), Ok(record.rqb));
    let refused = receiver.authenticate(examined, &Bundles::default(), &policy, &[], NOW);
    assert_eq!(refused.expect_err("nothing is proven without a bundle").code, Code::Unavailable);
    true
}

/// A receipt of which nothing is known beforehand is never verified.
pub fn receipt(data: &[u8]) -> bool {
    let (headers, body) = split_message(data);
    let (body, comment) = split_comment(body);
    let Ok(Some(fields)) = ReceiptFields::read(&headers, &[], comment, true) else { return false };
    let outcome =
        UnverifiedStatement::parse(fields.receipt).ok().and_then(|sealed| match Statement::parse(sealed.claims()) {
            Ok(Statement::Receipt(receipt)) => Some(receipt.outcome),
            _ => None,
        });
    let peer = peer_in(&headers);
    let other = SpiffeId::parse("spiffe://prod.example.org/nobody").expect("an id");
    let exchange = Exchange {
        own_id: outcome.as_ref().map_or(&other, |outcome| &outcome.aud),
        callee: outcome.as_ref().map_or("", |outcome| outcome.iss.as_str()),
        record: outcome.as_ref().map_or(StatementHash([0; 32]), |outcome| outcome.rec),
        record_iat: NOW,
        cid: outcome.as_ref().map_or(RandomId([0; 16]), |outcome| outcome.cid),
        peer: peer.as_ref(),
        status: outcome.as_ref().map_or(200, |outcome| outcome.st),
        headers: &headers,
        body: BodySum::of(body),
        request: None,
    };
    let refused = receiver().verify_receipt(&fields, &exchange, &Bundles::default(), NOW).expect_err("no bundle");
    if refused.code == Code::Unavailable {
        let outcome = outcome.as_ref().expect("a receipt that got so far is one");
        assert_eq!(response_binding(outcome.st, &headers), Ok(outcome.rsb));
        assert_eq!((outcome.len, outcome.cd.0), (exchange.body.len, exchange.body.sha256));
    }
    refused.code == Code::Unavailable
}

/// A closing statement of which nothing is known beforehand is never verified.
pub fn closing(data: &[u8]) -> bool {
    let (trailers, body) = split_message(data);
    let Ok(fields) = ClosingFields::read(&trailers) else { return false };
    let record = record_of_vectors();
    let peer = peer_in(&trailers);
    let claimed =
        UnverifiedStatement::parse(fields.closing).ok().and_then(|sealed| match Statement::parse(sealed.claims()) {
            Ok(Statement::Closing(closing)) => Some(closing),
            _ => None,
        });
    let hash = claimed.as_ref().map_or(StatementHash([0; 32]), |closing| closing.rec);
    let expected = ExpectedClosing { record: &record, hash, peer: peer.as_ref(), body: BodySum::of(body) };
    let refused = receiver().verify_closing(&fields, &expected, &Bundles::default(), NOW).expect_err("no bundle");
    if refused.code == Code::Unavailable {
        assert!(claimed.is_some_and(|closing| closing.len == body.len() as u64));
    }
    refused.code == Code::Unavailable
}

/// What is taken off the end of an event stream is exactly one comment, and the rest is untouched.
pub fn event_stream(data: &[u8]) -> bool {
    match split_comment(data) {
        (before, None) => {
            assert_eq!(before, data);
            false
        }
        (before, Some(sealed)) => {
            assert_eq!([before, receipt_comment(sealed).as_bytes()].concat(), data);
            assert!(before.is_empty() || before.ends_with(b"\n"));
            true
        }
    }
}

/// Frames are the same however their bytes are cut into pieces; the first byte tells whose they are.
pub fn frames(data: &[u8]) -> bool {
    let Some((masked, bytes)) = data.split_first() else { return false };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut reader = FrameReader::new(masked & 1 == 1);
        let mut passed = 0;
        for piece in pieces {
            let taken = reader.take(piece)?;
            assert!(taken.frames + taken.close <= piece.len());
            passed += taken.frames + taken.close;
        }
        Ok::<_, &str>((passed, reader.is_closed(), reader.messages(), reader.sum()))
    };
    let whole = read(&mut std::iter::once(bytes));
    for size in [1, 2, 7] {
        assert_eq!(read(&mut bytes.chunks(size)), whole);
    }
    whole.is_ok_and(|(passed, is_closed, ..)| is_closed || passed == bytes.len())
}

/// Messages are as many however their bytes are cut into pieces.
pub fn messages(data: &[u8]) -> bool {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut counter = MessageCounter::default();
        pieces.for_each(|piece| counter.update(piece));
        (counter.count(), counter.is_malformed(), counter.is_between())
    };
    let whole = read(&mut std::iter::once(data));
    for size in [1, 2, 7] {
        assert_eq!(read(&mut data.chunks(size)), whole);
    }
    whole.2
}

/// The canonical form of the canonical form is itself.
pub fn canonical(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(written) = canonicalize(text) else { return false };
    assert_eq!(canonicalize(&written).as_deref(), Ok(written.as_str()));
    true
}

/// Issuers are read whole or not at all.
pub fn issuers(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    Issuers::parse(text).is_ok()
}

/// A token that is verified is verified again, says who issued it, and has the hash of its text.
pub fn user_token(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let issuers = Issuers::parse(include_str!("../issuers.json")).expect("the issuers of the vectors");
    let verify = |typ| match issuers.verify(text, typ, "peer", NOW) {
        Ok(token) => {
            assert_eq!(token.text(), text);
            assert_eq!(token.user().th, token_hash(text));
            assert!(issuers.contains(&token.user().iss, typ.as_str()) && issuers.claims_unverified(text, typ));
            issuers.verify(text, typ, "peer", NOW).is_ok_and(|again| again.user() == token.user())
        }
        Err(refused) => {
            assert!(matches!(refused.code, Code::Authority | Code::Unavailable), "{refused}");
            false
        }
    };
    let verified = [TokenType::Transaction, TokenType::Access].map(verify);
    assert_ne!(verified, [true, true], "one token of two types");
    verified != [false, false]
}

/// Field lines `name: value` up to an empty line, then a body.
fn split_message(data: &[u8]) -> (Vec<HeaderLine<'_>>, &[u8]) {
    let mut headers = Vec::new();
    let mut rest = data;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        if let Ok(name) = std::str::from_utf8(&line[..colon]) {
            headers.push((name, &line[colon + 1..]));
        }
    }
    (headers, rest)
}

/// The connection is as the message would have it: its first certificate is the peer.
fn peer_in(headers: &[HeaderLine<'_>]) -> Option<Peer> {
    let value = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("custody-certs"))?.1;
    let first = std::str::from_utf8(value).ok()?.split(',').next()?.trim();
    let der = decode_base64(first.strip_prefix(':')?.strip_suffix(':')?)?;
    Peer::read(&[&der])
}

fn receiver() -> Receiver {
    Receiver::new(&CacheSizes::default(), ReplayStore::new(1, 1))
}

fn record_of_vectors() -> Record {
    let claims = include_bytes!("../opening-record.json");
    Record::parse(claims).expect("the record of the closing vectors")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = (&'static str, fn(&[u8]) -> bool);

    const TARGETS: [Target; 14] = [
        ("json", json),
        ("statement", statement),
        ("claims", claims),
        ("certificate", certificate),
        ("certificates", certificates),
        ("receive", receive),
        ("receipt", receipt),
        ("closing", closing),
        ("event_stream", event_stream),
        ("frames", frames),
        ("messages", messages),
        ("canonical", canonical),
        ("issuers", issuers),
        ("user_token", user_token),
    ];

    #[test]
    fn the_corpus_holds_and_so_do_its_small_changes() {
        for (name, target) in TARGETS {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
            let mut went_through = 0;
            for entry in std::fs::read_dir(folder).expect("a corpus") {
                let seed = std::fs::read(entry.expect("an entry").path()).expect("a seed");
                went_through += usize::from(target(&seed));
                for at in (0..seed.len()).step_by(7) {
                    let mut changed = seed.clone();
                    changed[at] ^= 1;
                    target(&changed);
                    target(&seed[..at]);
                }
            }
            assert!(went_through > 0, "no seed of {name} comes through");
        }
    }
}
