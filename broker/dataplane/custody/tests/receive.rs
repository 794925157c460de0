//! Chains over real certificates: what is accepted, and each attack of custody-wire §14 that a verifier sees.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use hopseal_custody::authority::{AudiencePattern, Narrowing, OperationPattern};
use hopseal_custody::binding::{Body, content_digest};
use hopseal_custody::compose::{Payload, child_payload, root_payload};
use hopseal_custody::error::Code;
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::hash::{encode_base64url, sha256};
use hopseal_custody::receive::{Request, peek_unverified};
use support::*;

#[test]
fn a_root_is_accepted_and_says_who_asked_for_what() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let root = root();
    let chain = world.deliver(&a, &b, &root_message(&a, &b, &root)).expect("accepted");
    assert_eq!(chain.hop(), 0);
    assert_eq!(chain.cid(), root.cid);
    assert_eq!(chain.path().collect::<Vec<_>>(), [&a.id]);
    assert_eq!(*chain.authority(), authority());
    assert_eq!(chain.task().id, "task-1");
}

#[test]
fn a_chain_of_three_is_accepted_by_a_receiver_that_knows_nothing() {
    let world = World::new();
    let (a, b, c, d) = (world.broker("a"), world.broker("b"), world.broker("c"), world.broker("d"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let second = world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    let third = world.deliver(&c, &d, &child_message(&c, &d, &second, None)).expect("accepted");
    assert_eq!(third.hop(), 2);
    assert_eq!(third.path().collect::<Vec<_>>(), [&a.id, &b.id, &c.id]);
    assert_eq!(third.ancestors()[0].hash(), first.hash());
    assert_eq!(third.ancestors()[1].sealed(), second.newest().sealed());
}

#[test]
fn ancestors_that_were_accepted_before_may_be_left_out() {
    let world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    let mut short = child_message(&b, &c, &first, None);
    short.headers.retain(|(name, _)| name != "custody-chain" && name != "custody-certs");
    let chain = world.deliver(&b, &c, &short).expect("accepted");
    assert_eq!(chain.path().collect::<Vec<_>>(), [&a.id, &b.id]);
}

#[test]
fn an_unknown_ancestor_is_asked_for_by_its_hash() {
    let world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let mut short = child_message(&b, &c, &first, None);
    short.headers.retain(|(name, _)| name != "custody-chain");
    let refused = refusal(world.deliver(&b, &c, &short));
    assert_eq!(refused.code, Code::Unresolved);
    assert_eq!(refused.missing[0].to_string(), format!("rec:{}", first.hash()));
}

#[test]
fn an_unknown_certificate_is_asked_for_by_its_thumbprint_and_remembered() {
    let world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let full = child_message(&b, &c, &first, None);
    let mut bare = full.clone();
    bare.headers.retain(|(name, _)| name != "custody-certs");
    let refused = refusal(world.deliver(&b, &c, &bare));
    assert_eq!(refused.code, Code::Unresolved);
    assert_eq!(refused.missing[0].to_string(), format!("cert:{}", a.x5t()));
    world.deliver(&b, &c, &full).expect("accepted");
    world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
}

#[test]
fn the_same_record_is_accepted_once_however_often_it_comes_at_once() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let message = root_message(&a, &b, &root());
    let barrier = Barrier::new(8);
    let codes: Vec<Option<Code>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    world.deliver(&a, &b, &message).err().map(|rejection| rejection.code)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 1);
    assert_eq!(codes.iter().filter(|code| **code == Some(Code::Replayed)).count(), 7);
}

#[test]
fn a_replay_is_refused_until_the_record_is_too_old_anyway() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let message = root_message(&a, &b, &root());
    world.deliver(&a, &b, &message).expect("accepted");
    for now in [NOW, NOW + 30, NOW + 39] {
        assert_eq!(code(world.deliver_at(&a, &b, &message, now)), "custody_replayed");
    }
    assert_eq!(code(world.deliver_at(&a, &b, &message, NOW + 40)), "custody_expired");
}

#[test]
fn a_clock_that_steps_back_does_not_let_a_forgotten_record_in_again() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let message = root_message(&a, &b, &root());
    world.deliver(&a, &b, &message).expect("accepted");
    let mut later = root_message(&a, &b, &root());
    // Something accepted much later makes the store forget the first record.
    let plain = Message::plain();
    let mut call = call(&a, &b, &plain);
    (call.iat, call.exp) = (NOW + 500, NOW + 530);
    later = seal_into(later, &a, root_payload(&call, &root()).unwrap(), &ForwardedFields::default());
    world.deliver_at(&a, &b, &later, NOW + 500).expect("accepted");
    assert_eq!(code(world.deliver_at(&a, &b, &message, NOW)), "custody_expired");
}

#[test]
fn a_record_that_expires_while_policy_decides_is_not_accepted() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let message = root_message(&a, &b, &root());
    let (lines, own_leaves) = (message.lines(), [b.x5t()]);
    let request = Request {
        method: METHOD,
        target_uri: URI,
        headers: &lines,
        body: Body::of(BODY),
        peer: Some(&a.peer),
        own_id: &b.id,
        own_leaves: &own_leaves,
    };
    for (now, accepted) in [(NOW + 39, true), (NOW + 40, false)] {
        let examined = b.receiver.examine(&request, &world.policy, NOW).expect("examined");
        let verified =
            b.receiver.authenticate(examined, &world.bundles, &world.policy, &[OPERATION], NOW).expect("verified");
        assert_eq!(b.receiver.commit(verified, now).is_ok(), accepted, "{now}");
    }
}

#[test]
fn another_component_cannot_continue_a_stolen_chain() {
    let world = World::new();
    let (a, b, thief, d) = (world.broker("a"), world.broker("b"), world.broker("thief"), world.broker("d"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let message = Message::plain();
    let own = call(&thief, &d, &message);
    assert_eq!(child_payload(&own, &first, None).expect_err("refused").code, Code::Chain);
    // Made by hand, past the own check.
    let record = |hop: i64| {
        format!(
            r#"{{"v":1,"t":"rec","iss":"{}","aud":"{}","iat":{NOW},"exp":{},"jti":"{}","cid":"{}","hop":{hop},"prev":"{}","rqb":"{}"}}"#,
            thief.id,
            d.id,
            NOW + 30,
            own.jti,
            first.cid(),
            first.hash(),
            own.rqb
        )
    };
    let fields = ForwardedFields::build(&first, 8).expect("fields");
    let stolen = seal_into(message, &thief, payload(&record(1)), &fields);
    assert_eq!(code(world.deliver(&thief, &d, &stolen)), "custody_chain");
}

fn payload(json: &str) -> Payload {
    Payload::from_claims(hopseal_custody::json::parse_object(json.as_bytes()).expect("JSON")).expect("a payload")
}

#[test]
fn a_hop_cannot_be_cut_out_or_put_in_another_order() {
    let world = World::new();
    let (a, b, c, d) = (world.broker("a"), world.broker("b"), world.broker("c"), world.broker("d"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let second = world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    let whole = child_message(&c, &d, &second, None);
    let chain = whole.text("custody-chain");
    let (root, middle) = chain.split_once(", ").expect("two ancestors");
    let with_chain = |chain: &str| {
        let mut message = whole.clone();
        message.set("custody-chain", chain.as_bytes());
        code(world.deliver(&c, &d, &message))
    };
    for tampered in [root, &format!("{root}, {root}"), &format!("{root}, {middle}, {middle}")] {
        assert_eq!(with_chain(tampered), "custody_chain", "{tampered}");
    }
    // What begins in the middle is taken for a chain whose front was left out.
    assert_eq!(with_chain(&format!("{middle}, {root}")), "custody_unresolved");
}

#[test]
fn another_root_cannot_be_spliced_in() {
    let world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let shared = root();
    let first = world.deliver(&a, &b, &root_message(&a, &b, &shared)).expect("accepted");
    let other = world.deliver(&a, &b, &root_message(&a, &b, &shared)).expect("accepted");
    let mut message = child_message(&b, &c, &first, None);
    message.set("custody-chain", other.newest().sealed().as_bytes());
    assert_eq!(code(world.deliver(&b, &c, &message)), "custody_chain");
}

#[test]
fn several_roots_of_one_chain_count_only_from_one_component() {
    let world = World::new();
    let (a, mallory, b) = (world.broker("a"), world.broker("mallory"), world.broker("b"));
    let shared = root();
    world.deliver(&a, &b, &root_message(&a, &b, &shared)).expect("the first root");
    world.deliver(&a, &b, &root_message(&a, &b, &shared)).expect("a sibling root");
    assert_eq!(code(world.deliver(&mallory, &b, &root_message(&mallory, &b, &shared))), "custody_chain");
}

#[test]
fn a_captured_record_is_worth_nothing_on_another_connection() {
    let world = World::new();
    let (a, mallory, b) = (world.broker("a"), world.broker("mallory"), world.broker("b"));
    let message = root_message(&a, &b, &root());
    let mut with_cert = message.clone();
    with_cert
        .set("custody-certs", format!(":{}:", hopseal_custody::hash::encode_base64(a.peer.leaf().der())).as_bytes());
    assert_eq!(code(world.deliver(&mallory, &b, &with_cert)), "custody_identity");
    let refused = deliver(&b, None, &with_cert, &world.bundles, &world.policy, NOW);
    assert_eq!(code(refused), "custody_identity");
}

#[test]
fn a_record_for_somebody_else_or_another_server_leaf_is_refused() {
    let world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let message = root_message(&a, &b, &root());
    assert_eq!(code(world.deliver(&a, &c, &message)), "custody_audience");
    let replica = world.broker("b");
    assert_eq!(code(world.deliver(&a, &replica, &message)), "custody_audience");
}

#[test]
fn every_part_of_the_request_is_bound() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let message = root_message(&a, &b, &root());
    let change = |change: &dyn Fn(&mut Message)| {
        let mut changed = message.clone();
        change(&mut changed);
        code(world.deliver(&a, &b, &changed))
    };
    assert_eq!(change(&|message| message.method = "PUT".into()), "custody_binding");
    assert_eq!(change(&|message| message.uri = "https://crm.sales/mcp?x=2".into()), "custody_binding");
    assert_eq!(change(&|message| message.body.push(b' ')), "custody_binding");
    assert_eq!(change(&|message| message.body.clear()), "custody_binding");
    assert_eq!(change(&|message| message.headers.retain(|(name, _)| name != "content-digest")), "custody_binding");
    assert_eq!(change(&|message| message.headers.retain(|(name, _)| name != "content-type")), "custody_binding");
    assert_eq!(change(&|message| message.set("content-type", b"text/plain")), "custody_binding");
    for covered in ["authorization", "txn-token", "idempotency-key", "mcp-name", "upgrade", "a2a-version"] {
        assert_eq!(change(&|message| message.set(covered, b"injected")), "custody_binding", "{covered}");
    }
    let swapped = |message: &mut Message| {
        message.body = b"{}".to_vec();
        message.set("content-digest", content_digest(&sha256(b"{}")).as_bytes());
    };
    assert_eq!(change(&swapped), "custody_binding");
    let mut harmless = message.clone();
    harmless.set("traceparent", b"00-1-2-01");
    world.deliver(&a, &b, &harmless).expect("trace context is not covered");
}

#[test]
fn authority_only_narrows_and_ends_where_it_says() {
    let world = World::new();
    let (a, b, c, d) = (world.broker("a"), world.broker("b"), world.broker("c"), world.broker("d"));
    let mut limited = root();
    limited.auth.scope = Some(BTreeSet::from(["crm:read".into(), "crm:write".into()]));
    limited.auth.ops = Some(vec![OperationPattern::parse("tools/call crm.*").unwrap()]);
    limited.auth.hops = 1;
    let first = world.deliver(&a, &b, &root_message(&a, &b, &limited)).expect("accepted");
    let narrow = Narrowing {
        scope: Some(BTreeSet::from(["crm:read".into()])),
        aud: Some(vec![AudiencePattern::parse(c.id.as_str()).unwrap()]),
        ops: Some(vec![OperationPattern::parse(OPERATION).unwrap()]),
        ..Narrowing::default()
    };
    let second = world.deliver(&b, &c, &child_message(&b, &c, &first, Some(&narrow))).expect("accepted");
    assert_eq!(second.authority().scope, Some(BTreeSet::from(["crm:read".into()])));
    let message = Message::plain();
    assert_eq!(child_payload(&call(&c, &d, &message), &second, None).expect_err("refused").code, Code::Authority);

    let wide = Narrowing { ops: Some(vec![OperationPattern::parse("*").unwrap()]), ..Narrowing::default() };
    assert_eq!(child_payload(&call(&b, &c, &message), &first, Some(&wide)).expect_err("refused").code, Code::Authority);
}

#[test]
fn a_root_needs_the_receivers_leave_and_a_component_on_the_path_can_be_unwanted() {
    let mut world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    world.policy.forbidden_on_path = vec![a.id.clone()];
    assert_eq!(code(world.deliver(&a, &b, &root_message(&a, &b, &root()))), "custody_forbidden");
    world.policy.forbidden_on_path.clear();
    world.policy.autonomous_roots = vec![AudiencePattern::parse(b.id.as_str()).unwrap()];
    assert_eq!(code(world.deliver(&a, &b, &root_message(&a, &b, &root()))), "custody_authority");
    world.policy.autonomous_roots.clear();
    assert_eq!(code(world.deliver(&a, &b, &root_message(&a, &b, &root()))), "custody_authority");
}

#[test]
fn a_statement_cannot_be_moved_under_anothers_seal() {
    let world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let plain = Message::plain();
    let of_a = root_payload(&call(&a, &b, &plain), &root()).unwrap();
    let of_b = root_payload(&call(&b, &c, &plain), &root()).unwrap();
    // B seals what A would have said to B, and sends it on its own connection: the leaf's name decides.
    let glued = seal_into(plain.clone(), &b, of_a.clone(), &ForwardedFields::default());
    assert_eq!(code(world.deliver(&b, &b, &glued)), "custody_identity");
    // Somebody's payload in front of a seal that covers another one.
    let sealed = b.sealer.seal(std::slice::from_ref(&of_b)).unwrap().remove(0).text;
    let (_, rest) = sealed.split_once('.').unwrap();
    let other = root_payload(&call(&b, &c, &plain), &root()).unwrap();
    let mut message = plain;
    message.set("custody-record", format!("{}.{rest}", other.text()).as_bytes());
    assert_eq!(code(world.deliver(&b, &c, &message)), "custody_signature");
}

#[test]
fn a_junk_seal_on_a_known_ancestor_is_not_taken_from_the_cache() {
    let world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    let mut junk = child_message(&b, &c, &first, None);
    let (text, _) =
        junk.text("custody-chain").rsplit_once('.').map(|(text, tail)| (text.to_owned(), tail.to_owned())).unwrap();
    junk.set("custody-chain", format!("{text}.{}", encode_base64url(&[7; 64])).as_bytes());
    assert_eq!(code(world.deliver(&b, &c, &junk)), "custody_signature");
}

#[test]
fn sealed_batches_verify_whatever_their_size() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    for count in [1, 2, 3, 31, 32] {
        let plain = Message::plain();
        let payloads: Vec<Payload> =
            (0..count).map(|_| root_payload(&call(&a, &b, &plain), &root()).unwrap()).collect();
        let sealed = a.sealer.seal(&payloads).expect("sealed");
        assert_eq!(sealed.len(), count);
        for (payload, statement) in payloads.iter().zip(&sealed) {
            assert_eq!(statement.hash, payload.statement_hash(&a.x5t()));
            let mut message = plain.clone();
            message.set("custody-record", statement.text.as_bytes());
            let chain = world.deliver(&a, &b, &message).expect("accepted");
            assert_eq!(chain.hash(), statement.hash);
        }
    }
    assert!(a.sealer.seal(&[]).is_err());
    let plain = Message::plain();
    let many: Vec<Payload> = (0..33).map(|_| root_payload(&call(&a, &b, &plain), &root()).unwrap()).collect();
    assert!(a.sealer.seal(&many).is_err());
}

#[test]
fn header_names_are_judged_on_the_raw_list() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let message = root_message(&a, &b, &root());
    let with = |name: &str, value: &[u8]| {
        let mut changed = message.clone();
        changed.headers.push((name.into(), value.to_vec()));
        code(world.deliver(&a, &b, &changed))
    };
    assert_eq!(with("custody_record", b"x"), "custody_malformed");
    assert_eq!(with("Custody_Chain", b"x"), "custody_malformed");
    assert_eq!(with("custody-record", b"x"), "custody_duplicate");
    assert_eq!(with("CUSTODY-RECORD", b"x"), "custody_duplicate");
    assert_eq!(with("early-data", b" 1 "), "custody_early_data");
    let mut without = message.clone();
    without.headers.retain(|(name, _)| name != "custody-record");
    assert_eq!(code(world.deliver(&a, &b, &without)), "custody_missing");
}

#[test]
fn a_refused_message_can_be_described_for_the_log() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let message = root_message(&a, &b, &root());
    let (sealed, record) = peek_unverified(&message.lines()).expect("readable");
    assert_eq!(sealed, message.text("custody-record"));
    assert_eq!(record.iss, a.id);
    assert!(peek_unverified(&Message::plain().lines()).is_none());
}

#[test]
fn a_full_replay_store_refuses_and_forgets_nothing() {
    let world = World::new();
    let (a, mut b) = (world.broker("a"), world.broker("b"));
    let sizes = hopseal_custody::cache::CacheSizes::default();
    b.receiver = hopseal_custody::receive::Receiver::new(&sizes, hopseal_custody::replay::ReplayStore::new(2, 2));
    let messages: Vec<Message> = (0..3).map(|_| root_message(&a, &b, &root())).collect();
    world.deliver(&a, &b, &messages[0]).expect("accepted");
    world.deliver(&a, &b, &messages[1]).expect("accepted");
    assert_eq!(code(world.deliver(&a, &b, &messages[2])), "custody_unavailable");
    assert_eq!(code(world.deliver(&a, &b, &messages[0])), "custody_replayed");
}

#[test]
fn the_verifier_is_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<hopseal_custody::receive::Receiver>();
    shareable::<hopseal_custody::sealer::Sealer>();
    shareable::<Arc<hopseal_custody::trust::Bundles>>();
    shareable::<hopseal_custody::chain::Chain>();
}

#[test]
fn fields_that_only_brokers_set_are_recognised_in_every_spelling() {
    use hopseal_custody::fields::is_reserved;
    let reserved = [
        "custody-record",
        "Custody-Handle",
        "CUSTODY_CHAIN",
        "custody_",
        "Client-Cert",
        "client_cert_chain",
        "X-Forwarded-Client-Cert",
        "x_forwarded_client_cert",
        "custody-anything-later",
    ];
    for name in reserved {
        assert!(is_reserved(name), "{name}");
    }
    for name in ["custody", "x-custody-record", "cert", "x-forwarded-for", "content-type", "clientcert", ""] {
        assert!(!is_reserved(name), "{name}");
    }
}

#[test]
fn what_the_log_holds_can_be_remembered_after_a_restart() {
    let world = World::new();
    let (a, b, mallory, mut c) = (world.broker("a"), world.broker("b"), world.broker("mallory"), world.broker("c"));
    let known = root();
    let first = world.deliver(&a, &b, &root_message(&a, &b, &known)).expect("accepted");
    let second = child_message(&b, &c, &first, None);
    let accepted = world.deliver(&b, &c, &second).expect("accepted");
    let mut short = child_message(&b, &c, &first, None);
    short.headers.retain(|(name, _)| name != "custody-chain" && name != "custody-certs");

    c.receiver = World::new().broker("c").receiver;
    let newest = accepted.newest();
    c.receiver.restore_used(&b.id, newest.record().jti, newest.record().exp, NOW).expect("restored");
    c.receiver.restore_root(accepted.cid(), &a.id, NOW).expect("restored");
    let certificates: Vec<_> = first.newest().certificates().cloned().collect();
    assert_eq!(
        c.receiver.restore_statement(first.newest().sealed(), &[], &world.bundles).expect_err("no leaf").code,
        Code::Unresolved
    );
    c.receiver.restore_statement(first.newest().sealed(), &certificates, &world.bundles).expect("restored");

    assert_eq!(code(world.deliver(&b, &c, &second)), "custody_replayed");
    world.deliver(&b, &c, &short).expect("the ancestor is known");
    assert_eq!(code(world.deliver(&mallory, &c, &root_message(&mallory, &c, &known))), "custody_chain");
    c.receiver.restore_used(&b.id, newest.record().jti, NOW - 11, NOW).expect("what is over is skipped");
}
