//! Limits that the shared vectors do not reach: configuration, forwarding, peers' shares, the tree.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod support;

use hopseal_custody::cache::{CacheSize, CacheSizes};
use hopseal_custody::chain::Chain;
use hopseal_custody::compose::child_payload;
use hopseal_custody::error::{Code, Rejection};
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::hash::{RandomId, StatementHash, encode_base64, sha256};
use hopseal_custody::limits::{MAX_FIELDS_BYTES, MAX_HOPS, MAX_SEALED_BYTES};
use hopseal_custody::merkle::{build, path_length, root_of};
use hopseal_custody::receive::Receiver;
use hopseal_custody::replay::ReplayStore;
use support::*;

/// A chain of `count` records that two brokers hand to each other; its last receiver comes back too.
fn ping_pong(world: &World, count: usize) -> (Chain, Broker, Broker) {
    let (mut from, mut to) = (world.broker("a"), world.broker("b"));
    let mut chain = world.deliver(&from, &to, &root_message(&from, &to, &root())).expect("accepted");
    for _ in 1..count {
        std::mem::swap(&mut from, &mut to);
        let message = forward(&chain, &from, &to).expect("fields");
        chain = world.deliver(&from, &to, &message).expect("accepted");
    }
    (chain, to, from)
}

fn forward(chain: &Chain, from: &Broker, to: &Broker) -> Result<Message, Rejection> {
    let message = Message::plain();
    let payload = child_payload(&call(from, to, &message), chain, None)?;
    let fields = ForwardedFields::build(chain, MAX_HOPS)?;
    Ok(seal_into(message, from, payload, &fields))
}

#[test]
fn eight_records_are_accepted_and_a_ninth_only_where_configured() {
    let mut world = World::new();
    let (eight, from, to) = ping_pong(&world, 8);
    assert_eq!(eight.hop(), 7);
    assert_eq!(ForwardedFields::build(&eight, 8).expect_err("refused").code, Code::TooLong);
    let ninth = forward(&eight, &from, &to).expect("fields");
    assert_eq!(code(world.deliver(&from, &to, &ninth)), "custody_too_long");
    world.policy.hops = 9;
    assert_eq!(world.deliver(&from, &to, &ninth).expect("accepted").hop(), 8);
}

#[test]
fn no_configuration_allows_more_than_sixteen_records() {
    let mut world = World::new();
    world.policy.hops = 1_000;
    let (mut from, mut to) = (world.broker("a"), world.broker("b"));
    let mut endless = root();
    endless.auth.hops = 1_000;
    let mut chain = world.deliver(&from, &to, &root_message(&from, &to, &endless)).expect("accepted");
    let certs = [&from, &to].map(|broker| format!(":{}:", encode_base64(broker.peer.leaf().der()))).join(", ");
    let refused = loop {
        std::mem::swap(&mut from, &mut to);
        let message = Message::plain();
        let payload = child_payload(&call(&from, &to, &message), &chain, None).expect("a payload");
        // The front is left out, the receiver has it: so no field grows too large.
        let newest = chain.newest().sealed().to_owned();
        let fields = ForwardedFields { chain: Some(newest), certs: Some(certs.clone()) };
        match world.deliver(&from, &to, &seal_into(message, &from, payload, &fields)) {
            Ok(next) => chain = next,
            Err(refused) => break refused,
        }
    };
    assert_eq!((chain.hop(), refused.code), (15, Code::TooLong));
}

#[test]
fn a_chain_too_large_for_its_fields_is_not_sent() {
    let world = World::new();
    let (chain, from, to) = ping_pong(&world, 7);
    let fields = ForwardedFields::build(&chain, MAX_HOPS).expect("fields");
    let used = fields.chain.as_ref().map_or(0, |text| text.len() + "custody-chain".len())
        + fields.certs.as_ref().map_or(0, |text| text.len() + "custody-certs".len());
    let room = MAX_FIELDS_BYTES - used - "custody-record".len();
    assert!(room > MAX_SEALED_BYTES, "one record always fits beside the largest usual chain");
    assert!(fields.check_with_record(&"x".repeat(MAX_SEALED_BYTES)).is_ok());
    assert_eq!(fields.check_with_record(&"x".repeat(MAX_SEALED_BYTES + 1)).expect_err("refused").code, Code::TooLarge);
    world.deliver(&from, &to, &forward(&chain, &from, &to).expect("fields")).expect("accepted");
    let full = ForwardedFields { chain: Some("x".repeat(12_288)), certs: Some("x".repeat(8_192)) };
    assert_eq!(full.check_with_record("x").expect_err("refused").code, Code::TooLarge);
}

#[test]
fn one_peer_cannot_fill_the_replay_store_of_another() {
    let store = ReplayStore::new(10, 4);
    let fresh = || RandomId::generate().unwrap();
    for _ in 0..4 {
        store.insert(&id("flood"), fresh(), NOW + 40, NOW).expect("room");
    }
    assert_eq!(store.insert(&id("flood"), fresh(), NOW + 40, NOW).expect_err("full").code, Code::Unavailable);
    store.insert(&id("honest"), fresh(), NOW + 40, NOW).expect("room");
    store.insert(&id("flood"), fresh(), NOW + 80, NOW + 40).expect("room after expiry");
    assert_eq!(store.len(), 1);
}

#[test]
fn a_used_statement_is_remembered_until_the_second_it_ends() {
    let store = ReplayStore::new(10, 10);
    let jti = RandomId::generate().unwrap();
    store.insert(&id("a"), jti, NOW + 40, NOW).expect("new");
    assert_eq!(store.insert(&id("a"), jti, NOW + 40, NOW + 39).expect_err("used").code, Code::Replayed);
    store.insert(&id("b"), jti, NOW + 40, NOW + 39).expect("another issuer");
    assert_eq!(store.insert(&id("a"), jti, NOW + 40, NOW + 40).expect_err("over").code, Code::Expired);
}

#[test]
fn caches_stay_within_their_bounds() {
    let world = World::new();
    let (a, mut b) = (world.broker("a"), world.broker("b"));
    let few = CacheSize { entries: 3, per_peer: 2 };
    let many = CacheSize { entries: 100, per_peer: 100 };
    let sizes = CacheSizes { certificates: few, seals: few, prefixes: few, chains: many };
    b.receiver = Receiver::new(&sizes, ReplayStore::new(100, 100));
    for _ in 0..10 {
        world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    }
    assert_eq!(b.receiver.sizes(), [1, 2, 2, 10]);
    let c = world.broker("c");
    for _ in 0..10 {
        world.deliver(&c, &b, &root_message(&c, &b, &root())).expect("accepted");
    }
    assert_eq!(b.receiver.sizes(), [2, 3, 3, 20]);
}

#[test]
fn a_peer_with_many_chains_displaces_only_its_own() {
    let world = World::new();
    let (a, c, mut b) = (world.broker("a"), world.broker("c"), world.broker("b"));
    let many = CacheSize { entries: 100, per_peer: 100 };
    let chains = CacheSize { entries: 3, per_peer: 2 };
    let sizes = CacheSizes { certificates: many, seals: many, prefixes: many, chains };
    b.receiver = Receiver::new(&sizes, ReplayStore::new(100, 100));
    let known = root();
    world.deliver(&a, &b, &root_message(&a, &b, &known)).expect("accepted");
    for _ in 0..10 {
        world.deliver(&c, &b, &root_message(&c, &b, &root())).expect("accepted");
    }
    assert_eq!(code(world.deliver(&c, &b, &root_message(&c, &b, &known))), "custody_chain");
}

#[test]
fn a_chains_name_is_free_again_when_no_root_of_it_can_be_accepted() {
    let world = World::new();
    let (a, c, b) = (world.broker("a"), world.broker("c"), world.broker("b"));
    let known = root();
    world.deliver(&a, &b, &root_message(&a, &b, &known)).expect("accepted");
    for (later, accepted) in [(919, false), (920, true)] {
        let plain = Message::plain();
        let mut own = call(&c, &b, &plain);
        (own.iat, own.exp) = (NOW + later, NOW + later + 30);
        let payload = hopseal_custody::compose::root_payload(&own, &known).expect("a payload");
        let message = seal_into(plain, &c, payload, &ForwardedFields::default());
        assert_eq!(world.deliver_at(&c, &b, &message, NOW + later).is_ok(), accepted, "{later} s later");
    }
}

fn leaves(count: usize) -> Vec<StatementHash> {
    (0..count).map(|number| StatementHash(sha256(&number.to_be_bytes()))).collect()
}

#[test]
fn every_leaf_of_every_tree_has_one_path() {
    for count in 1..=256_usize {
        let leaves = leaves(count);
        let (root, paths) = build(&leaves).expect("a tree");
        for (index, (leaf, path)) in leaves.iter().zip(&paths).enumerate() {
            let (index, count) = (u32::try_from(index).unwrap(), u32::try_from(count).unwrap());
            assert_eq!(path.len(), path_length(index, count));
            assert_eq!(root_of(leaf, index, count, path), Some(root));
        }
    }
}

#[test]
fn no_leaf_verifies_at_another_place_or_in_a_tree_of_another_size() {
    for count in [2_u32, 3, 5, 7, 8, 13] {
        let leaves = leaves(count as usize);
        let (root, paths) = build(&leaves).expect("a tree");
        for (place, (leaf, path)) in (0..count).zip(leaves.iter().zip(&paths)) {
            for index in (0..=count + 1).filter(|index| *index != place) {
                assert_ne!(root_of(leaf, index, count, path), Some(root), "{place} as {index} of {count}");
            }
            let mut longer = path.clone();
            longer.push([0; 32]);
            assert_eq!(root_of(leaf, place, count, &longer), None);
            assert_eq!(root_of(leaf, place, count, &path[..path.len() - 1]), None);
        }
    }
    assert!(build(&[]).is_none());
}
