//! What comes back and what comes later: receipts, closing statements, observations, evidence.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod support;

use std::sync::Arc;

use hopseal_custody::binding::{Body, BodySum, BodySummer, HeaderLine, response_binding};
use hopseal_custody::cache::VerifiedStatement;
use hopseal_custody::cert::Certificate;
use hopseal_custody::chain::Chain;
use hopseal_custody::closing::Closing;
use hopseal_custody::compose::{
    Payload, closing_payload, evidence_payload, observation_payload, receipt_payload, root_payload,
};
use hopseal_custody::error::{Code, Result};
use hopseal_custody::evidence::{Evidence, Finding, LogKey};
use hopseal_custody::fields::{ClosingFields, ReceiptFields, receipt_comment, split_comment};
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::hash::{ClaimHash, RandomId, StatementHash, encode_base64, sha256};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::merkle::build;
use hopseal_custody::observation::Observation;
use hopseal_custody::outcome::{Fin, Kids, Outcome};
use hopseal_custody::receipt::Receipt;
use hopseal_custody::receive::{Exchange, ExpectedClosing, Policy, Request};
use hopseal_custody::seal::UnverifiedStatement;
use hopseal_custody::sealer::Sealer;
use hopseal_custody::statement::Statement;
use rcgen::KeyPair;
use support::*;

const ANSWER: &[u8] = b"data: {}\n\n";
const HEAD: [HeaderLine<'static>; 2] = [("content-type", b"text/event-stream"), ("x-other", b"1")];

fn random_id() -> RandomId {
    RandomId::generate().expect("randomness")
}

fn outcome(chain: &Chain) -> Outcome {
    let record = chain.newest().record();
    Outcome {
        iss: SpiffeId::parse(&record.aud).expect("an id"),
        aud: record.iss.clone(),
        iat: NOW,
        jti: random_id(),
        cid: chain.cid(),
        rec: chain.hash(),
        st: 200,
        rsb: response_binding(200, &HEAD).expect("a binding"),
        len: ANSWER.len() as u64,
        cd: ClaimHash(sha256(ANSWER)),
        fin: Fin::Eof,
        kids: Kids::of(&[]),
        dec: Some("d-1".into()),
        n: None,
        tlb: None,
        req: None,
    }
}

fn seal_one(sealer: &Sealer, payload: Payload) -> String {
    sealer.seal(&[payload]).expect("a seal").remove(0).text
}

fn receipt_of(sealer: &Sealer, outcome: Outcome) -> String {
    seal_one(sealer, receipt_payload(&Receipt { outcome }).expect("a payload"))
}

/// A call from a to b that was accepted, and what its caller knows.
struct Accepted {
    world: World,
    a: Broker,
    b: Broker,
    chain: Chain,
}

impl Accepted {
    fn new() -> Self {
        let world = World::new();
        let (a, b) = (world.broker("a"), world.broker("b"));
        let chain = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
        Self { world, a, b, chain }
    }

    fn exchange(&self) -> Exchange<'_> {
        let record = self.chain.newest().record();
        Exchange {
            own_id: &self.a.id,
            callee: &record.aud,
            record: self.chain.hash(),
            record_iat: record.iat,
            cid: self.chain.cid(),
            peer: Some(&self.b.peer),
            status: 200,
            headers: &HEAD,
            body: BodySum::of(ANSWER),
            request: None,
        }
    }

    fn verify(&self, sealed: &str) -> Result<Arc<VerifiedStatement<Receipt>>> {
        self.verify_with(sealed, &[])
    }

    fn verify_with(&self, sealed: &str, more: &[HeaderLine<'_>]) -> Result<Arc<VerifiedStatement<Receipt>>> {
        let trailers: Vec<HeaderLine<'_>> =
            more.iter().copied().chain([("custody-receipt", sealed.as_bytes())]).collect();
        let fields = ReceiptFields::read(&HEAD, &trailers, None, true)?.expect("a receipt");
        self.a.receiver.verify_receipt(&fields, &self.exchange(), &self.world.bundles, NOW)
    }

    fn refused(&self, change: impl Fn(&mut Outcome)) -> Code {
        let mut changed = outcome(&self.chain);
        change(&mut changed);
        self.verify(&receipt_of(&self.b.sealer, changed)).expect_err("refused").code
    }
}

#[test]
fn a_receipt_of_the_callee_is_accepted_and_names_its_statement() {
    let call = Accepted::new();
    let sealed = receipt_of(&call.b.sealer, outcome(&call.chain));
    let verified = call.verify(&sealed).expect("verified");
    assert_eq!(verified.sealed(), sealed);
    assert_eq!(verified.claims().outcome.rec, call.chain.hash());
    let read = UnverifiedStatement::parse(&sealed).expect("a statement");
    assert_eq!((verified.hash(), verified.seal_hash()), (read.hash(), read.seal_hash()));
}

#[test]
fn a_receipt_for_anything_else_is_refused_by_what_differs() {
    let call = Accepted::new();
    let other = id("other");
    assert_eq!(call.refused(|outcome| outcome.iss = other.clone()), Code::Identity);
    assert_eq!(call.refused(|outcome| outcome.aud = other.clone()), Code::Audience);
    assert_eq!(call.refused(|outcome| outcome.iat = NOW - 11), Code::Expired);
    assert_eq!(call.refused(|outcome| outcome.iat = NOW + 11), Code::Expired);
    assert_eq!(call.refused(|outcome| outcome.st = 201), Code::Binding);
    assert_eq!(call.refused(|outcome| outcome.len += 1), Code::Binding);
    assert_eq!(call.refused(|outcome| outcome.cd = ClaimHash([0; 32])), Code::Binding);
    assert_eq!(call.refused(|outcome| outcome.rsb = ClaimHash([0; 32])), Code::Binding);
    assert_eq!(call.refused(|outcome| outcome.rec = StatementHash([0; 32])), Code::Chain);
    assert_eq!(call.refused(|outcome| outcome.cid = random_id()), Code::Chain);
}

#[test]
fn no_character_of_a_receipt_can_be_changed_left_out_or_put_in() {
    let call = Accepted::new();
    let batch: Vec<Payload> =
        (0..2).map(|_| receipt_payload(&Receipt { outcome: outcome(&call.chain) }).expect("a payload")).collect();
    let sealed = call.b.sealer.seal(&batch).expect("a seal").remove(1).text;
    // Verified once, so that nothing but the exact text profits from what is remembered.
    call.verify(&sealed).expect("verified");
    for at in 0..sealed.len() {
        let mut spoiled = [sealed.clone(), sealed.clone(), sealed.clone()];
        let other = if sealed.as_bytes()[at] == b'A' { "B" } else { "A" };
        spoiled[0].replace_range(at..=at, other);
        spoiled[1].remove(at);
        spoiled[2].insert(at, 'A');
        for text in spoiled.iter().map(String::as_str).chain([sealed.get(..at).expect("ASCII")]) {
            assert!(call.verify(text).is_err(), "accepted at {at}: {text}");
        }
    }
}

#[test]
fn a_bundle_that_is_gone_vouches_for_no_receipt() {
    let call = Accepted::new();
    let sealed = receipt_of(&call.b.sealer, outcome(&call.chain));
    call.verify(&sealed).expect("verified");
    let trailers: [HeaderLine<'_>; 1] = [("custody-receipt", sealed.as_bytes())];
    let fields = ReceiptFields::read(&HEAD, &trailers, None, true).expect("read").expect("a receipt");
    let other = Ca::root("another root");
    for (bundles, expected) in [
        (bundles(&[]), Code::Unavailable),
        (bundles(&[(PARTNER, &[&other])]), Code::Untrusted),
        (bundles(&[(DOMAIN, &[&other])]), Code::Untrusted),
    ] {
        let refused = call.a.receiver.verify_receipt(&fields, &call.exchange(), &bundles, NOW);
        assert_eq!(refused.expect_err("refused").code, expected);
    }
}

#[test]
fn receipts_of_one_batch_share_one_signature_check() {
    let call = Accepted::new();
    let payloads: Vec<Payload> =
        (0..3).map(|_| receipt_payload(&Receipt { outcome: outcome(&call.chain) }).expect("a payload")).collect();
    let before = call.a.receiver.sizes()[1];
    for statement in call.b.sealer.seal(&payloads).expect("a seal") {
        call.verify(&statement.text).expect("verified");
    }
    assert_eq!(call.a.receiver.sizes()[1], before + 1);
}

#[test]
fn a_receipt_by_a_rotated_leaf_needs_that_leaf_and_the_same_name() {
    let call = Accepted::new();
    for (name, expected) in [("b", None), ("c", Some(Code::Identity))] {
        let key = KeyPair::generate().expect("a key");
        let der = call.world.ca.issue(&Ca::leaf_params(id(name).as_str()), &key);
        let leaf = Arc::new(Certificate::parse(&der).expect("a certificate"));
        let sealer = Sealer::new(key.serialized_der(), leaf).expect("a sealer");
        let receipt = receipt_of(&sealer, outcome(&call.chain));
        assert_eq!(call.verify(&receipt).expect_err("refused").code, Code::Unresolved, "{name}");
        let certs = format!(":{}:", encode_base64(&der));
        let result = call.verify_with(&receipt, &[("custody-certs", certs.as_bytes())]);
        assert_eq!(result.err().map(|refused| refused.code), expected, "{name}");
    }
}

#[test]
fn a_record_is_no_receipt_and_a_receipt_no_record() {
    let call = Accepted::new();
    assert_eq!(call.verify(call.chain.newest().sealed()).expect_err("refused").code, Code::Malformed);
    let mut message = Message::plain();
    message.set("custody-record", receipt_of(&call.a.sealer, outcome(&call.chain)).as_bytes());
    assert_eq!(code(call.world.deliver(&call.a, &call.b, &message)), "custody_malformed");
}

#[test]
fn a_receipt_stands_in_exactly_one_place() {
    let receipt: [HeaderLine<'_>; 1] = [("Custody-Receipt", b"r")];
    let code = |result: Result<Option<ReceiptFields<'_>>>| result.expect_err("refused").code;
    assert_eq!(code(ReceiptFields::read(&receipt, &receipt, None, false)), Code::Duplicate);
    assert_eq!(code(ReceiptFields::read(&receipt, &[], Some("r"), false)), Code::Duplicate);
    assert_eq!(code(ReceiptFields::read(&[], &[], None, true)), Code::ReceiptUnavailable);
    assert!(ReceiptFields::read(&[], &[], None, false).expect("read").is_none());
    for fields in [
        ReceiptFields::read(&receipt, &[], None, true),
        ReceiptFields::read(&[], &receipt, None, true),
        ReceiptFields::read(&[], &[], Some("r"), true),
    ] {
        assert_eq!(fields.expect("read").expect("a receipt").receipt, "r");
    }
}

#[test]
fn the_final_comment_of_a_stream_is_taken_off_and_nothing_else() {
    let stream = [ANSWER, receipt_comment("a.b").as_bytes()].concat();
    assert_eq!(split_comment(&stream), (ANSWER, Some("a.b")));
    let later = [stream.as_slice(), b"data: 1\n\n"].concat();
    assert_eq!(split_comment(&later), (later.as_slice(), None));
}

#[test]
fn up_to_eight_kids_are_listed_and_more_are_a_tree() {
    let hashes: Vec<StatementHash> = (0..9).map(|number| StatementHash([number; 32])).collect();
    assert_eq!(Kids::of(&hashes[..8]), Kids::Listed(hashes[..8].to_vec()));
    let (root, _) = build(&hashes).expect("a tree");
    assert_eq!(Kids::of(&hashes), Kids::Tree { n: 9, root: StatementHash(root) });
}

#[test]
fn a_body_sums_up_the_same_in_pieces() {
    let mut summer = BodySummer::default();
    assert_eq!(summer.so_far(), BodySum::of(b""));
    for piece in ANSWER.chunks(3) {
        summer.update(piece);
    }
    assert_eq!(summer.finish(), BodySum::of(ANSWER));
}

/// A streamed request of a to b, without its body.
fn streamed(a: &Broker, b: &Broker) -> Message {
    let mut message = Message::plain();
    message.headers.retain(|(name, _)| name != "content-digest");
    message.body.clear();
    let mut call = call(a, b, &message);
    call.streams = true;
    let payload = root_payload(&call, &root()).expect("a payload");
    seal_into(message, a, payload, &ForwardedFields::default())
}

fn deliver_streamed(world: &World, a: &Broker, b: &Broker, message: &Message) -> Result<Chain> {
    let (lines, own_leaves) = (message.lines(), [b.x5t()]);
    let policy = Policy { accept_streams: true, ..world.policy.clone() };
    let request = Request {
        method: METHOD,
        target_uri: URI,
        headers: &lines,
        body: Body::Stream,
        peer: Some(&a.peer),
        own_id: &b.id,
        own_leaves: &own_leaves,
    };
    let examined = b.receiver.examine(&request, &policy, NOW)?;
    let verified = b.receiver.authenticate(examined, &world.bundles, &policy, &[OPERATION], NOW)?;
    b.receiver.commit(verified, NOW)
}

#[test]
fn a_streamed_request_is_accepted_by_policy_only() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let message = streamed(&a, &b);
    assert_eq!(code(world.deliver(&a, &b, &message)), "custody_forbidden");
    assert!(deliver_streamed(&world, &a, &b, &message).expect("accepted").newest().record().streams);
}

#[test]
fn a_record_that_binds_its_body_does_not_begin_a_stream() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    for with_digest in [true, false] {
        let mut message = Message::plain();
        if !with_digest {
            message.headers.retain(|(name, _)| name != "content-digest");
        }
        let payload = root_payload(&call(&a, &b, &message), &root()).expect("a payload");
        let message = seal_into(message, &a, payload, &ForwardedFields::default());
        assert_eq!(code(deliver_streamed(&world, &a, &b, &message)), "custody_binding");
    }
}

fn closing_of(chain: &Chain) -> Closing {
    let record = chain.newest().record();
    Closing {
        iss: record.iss.clone(),
        aud: SpiffeId::parse(&record.aud).expect("an id"),
        iat: NOW,
        jti: random_id(),
        cid: record.cid,
        rec: chain.hash(),
        cd: ClaimHash(sha256(BODY)),
        len: BODY.len() as u64,
        fin: Fin::Eof,
        n: None,
        tlb: None,
    }
}

#[test]
fn a_closing_statement_must_fit_record_and_body() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let chain = deliver_streamed(&world, &a, &b, &streamed(&a, &b)).expect("accepted");
    let verify = |change: &dyn Fn(&mut Closing)| {
        let mut closing = closing_of(&chain);
        change(&mut closing);
        let sealed = seal_one(&a.sealer, closing_payload(&closing).expect("a payload"));
        let trailers: [HeaderLine<'_>; 1] = [("custody-close", sealed.as_bytes())];
        let fields = ClosingFields::read(&trailers).expect("read");
        let record = chain.newest().record();
        let expected = ExpectedClosing { record, hash: chain.hash(), peer: Some(&a.peer), body: BodySum::of(BODY) };
        let result = b.receiver.verify_closing(&fields, &expected, &world.bundles, NOW);
        result.map(|verified| verified.claims().fin).map_err(|refused| refused.code)
    };
    assert_eq!(verify(&|_| {}), Ok(Fin::Eof));
    assert_eq!(verify(&|closing| closing.fin = Fin::Abort), Ok(Fin::Abort));
    assert_eq!(verify(&|closing| closing.iss = id("c")), Err(Code::Identity));
    assert_eq!(verify(&|closing| closing.aud = id("c")), Err(Code::Audience));
    assert_eq!(verify(&|closing| closing.iat = NOW + 11), Err(Code::Expired));
    assert_eq!(verify(&|closing| closing.len -= 1), Err(Code::Binding));
    assert_eq!(verify(&|closing| closing.cd = ClaimHash([1; 32])), Err(Code::Binding));
    assert_eq!(verify(&|closing| closing.rec = StatementHash([1; 32])), Err(Code::Chain));
}

#[test]
fn a_stream_without_its_closing_statement_is_missing_one() {
    assert_eq!(ClosingFields::read(&[]).expect_err("refused").code, Code::Missing);
    let call = Accepted::new();
    assert!(closing_payload(&Closing { fin: Fin::Deny, ..closing_of(&call.chain) }).is_err());
}

#[test]
fn what_is_written_reads_back_as_its_own_type_and_no_other() {
    let call = Accepted::new();
    let own = outcome(&call.chain);
    let observation = Observation {
        outcome: Outcome { aud: own.iss.clone(), ..own.clone() },
        host: "api.example.com:8443".into(),
        spki: ClaimHash([3; 32]),
    };
    let evidence = Evidence {
        iss: id("broker"),
        iat: NOW,
        exp: NOW + 60,
        jti: random_id(),
        sub: id("broker"),
        sx: call.b.x5t(),
        verdict: Finding::Attested,
        log: Some(LogKey { origin: "custody.x/n".into(), vkey: "custody.x/n+01234567+AQ".into() }),
    };
    let cases = [
        (receipt_payload(&Receipt { outcome: own.clone() }), Statement::Receipt(Receipt { outcome: own.clone() })),
        (observation_payload(&observation), Statement::Observation(observation)),
        (evidence_payload(&evidence), Statement::Evidence(evidence)),
        (closing_payload(&closing_of(&call.chain)), Statement::Closing(closing_of(&call.chain))),
    ];
    for (payload, statement) in cases {
        let sealed = seal_one(&call.b.sealer, payload.expect("a payload"));
        let read = UnverifiedStatement::parse(&sealed).expect("a statement");
        let read = Statement::parse(read.claims()).expect("claims");
        assert_eq!(read.kind(), statement.kind());
        if !matches!(statement, Statement::Closing(_)) {
            assert_eq!(read, statement);
        }
    }
    assert!(observation_payload(&Observation { outcome: own, host: "h".into(), spki: ClaimHash([3; 32]) }).is_err());
}
