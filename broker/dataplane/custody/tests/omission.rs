//! What a peer has acknowledged is not sent again, and what it lost is (custody-wire §5.6, §5.7, §6.10).

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod support;

use hopseal_custody::acknowledged::{Acknowledged, can_supply};
use hopseal_custody::cache::{CacheSize, CacheSizes};
use hopseal_custody::chain::Chain;
use hopseal_custody::compose::child_payload;
use hopseal_custody::error::Code;
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::limits::DEFAULT_HOPS;
use hopseal_custody::receive::Receiver;
use hopseal_custody::replay::ReplayStore;
use support::*;

fn fields_for(to: &Broker, known: &Acknowledged, parent: &Chain) -> ForwardedFields {
    ForwardedFields::build_for(&to.x5t(), known, parent, DEFAULT_HOPS).expect("fields")
}

fn message_for(from: &Broker, to: &Broker, known: &Acknowledged, parent: &Chain) -> Message {
    let message = Message::plain();
    let payload = child_payload(&call(from, to, &message), parent, None).expect("a payload");
    seal_into(message, from, payload, &fields_for(to, known, parent))
}

/// A chain of two records that c holds: a called b, b called c.
fn chain_at_c(world: &World) -> (Broker, Broker, Chain) {
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let second = world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    (b, c, second)
}

#[test]
fn the_second_call_under_one_chain_brings_nothing_that_the_peer_holds() {
    let world = World::new();
    let (_, c, parent) = chain_at_c(&world);
    let (d, known) = (world.broker("d"), Acknowledged::default());
    let first = message_for(&c, &d, &known, &parent);
    assert!(first.value("custody-chain").is_some() && first.value("custody-certs").is_some());
    world.deliver(&c, &d, &first).expect("accepted");
    known.acknowledge(&d.x5t(), &parent, NOW);
    let second = message_for(&c, &d, &known, &parent);
    assert!(second.value("custody-chain").is_none() && second.value("custody-certs").is_none());
    let chain = world.deliver(&c, &d, &second).expect("accepted");
    assert_eq!(chain.ancestors().len(), 2);
}

#[test]
fn only_the_oldest_are_left_out() {
    let world = World::new();
    let (a, b, c, d) = (world.broker("a"), world.broker("b"), world.broker("c"), world.broker("d"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let at_c = world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    let known = Acknowledged::default();
    // d met the root in another branch: b called it too.
    world.deliver(&b, &d, &child_message(&b, &d, &first, None)).expect("accepted");
    known.acknowledge(&d.x5t(), &first, NOW);
    let message = message_for(&c, &d, &known, &at_c);
    assert_eq!(message.text("custody-chain"), at_c.newest().sealed());
    assert_eq!(world.deliver(&c, &d, &message).expect("accepted").ancestors().len(), 2);
}

#[test]
fn another_leaf_of_the_peer_has_acknowledged_nothing() {
    let world = World::new();
    let (_, _, parent) = chain_at_c(&world);
    let (d, rotated, known) = (world.broker("d"), world.broker("d"), Acknowledged::default());
    known.acknowledge(&d.x5t(), &parent, NOW);
    assert_eq!(fields_for(&rotated, &known, &parent), ForwardedFields::build(&parent, DEFAULT_HOPS).expect("fields"));
    assert_eq!(fields_for(&d, &known, &parent), ForwardedFields::default());
}

#[test]
fn a_peer_that_lost_its_memory_gets_everything_on_the_retry() {
    let world = World::new();
    let (_, c, parent) = chain_at_c(&world);
    let (mut d, known) = (world.broker("d"), Acknowledged::default());
    world.deliver(&c, &d, &message_for(&c, &d, &known, &parent)).expect("accepted");
    known.acknowledge(&d.x5t(), &parent, NOW);
    d.receiver = Receiver::new(&CacheSizes::default(), ReplayStore::new(9, 9));
    let refused = refusal(world.deliver(&c, &d, &message_for(&c, &d, &known, &parent)));
    assert_eq!(refused.code, Code::Unresolved);
    let missing: Vec<String> = refused.missing.iter().map(ToString::to_string).collect();
    assert_eq!(missing, [format!("rec:{}", parent.hash())]);
    assert!(can_supply(&parent, &missing[0]));
    known.forget(&d.x5t(), NOW);
    world.deliver(&c, &d, &message_for(&c, &d, &known, &parent)).expect("accepted");
}

#[test]
fn a_peer_that_lacked_something_is_sent_everything_for_a_minute() {
    let world = World::new();
    let (_, _, parent) = chain_at_c(&world);
    let (d, e, known) = (world.broker("d"), world.broker("e"), Acknowledged::default());
    let full = ForwardedFields::build(&parent, DEFAULT_HOPS).expect("fields");
    known.forget(&d.x5t(), NOW);
    known.acknowledge(&e.x5t(), &parent, NOW);
    assert_eq!(fields_for(&e, &known, &parent), ForwardedFields::default());
    known.acknowledge(&d.x5t(), &parent, NOW + 59);
    assert_eq!(fields_for(&d, &known, &parent), full);
    known.acknowledge(&d.x5t(), &parent, NOW + 60);
    assert_eq!(fields_for(&d, &known, &parent), ForwardedFields::default());
}

#[test]
fn what_no_ancestor_is_cannot_be_supplied() {
    let world = World::new();
    let (b, c, parent) = chain_at_c(&world);
    assert!(can_supply(&parent, &format!("cert:{}", b.x5t())));
    for item in [format!("cert:{}", c.x5t()), format!("rec:{}", c.x5t()), String::new()] {
        assert!(!can_supply(&parent, &item), "{item}");
    }
}

#[test]
fn a_new_peer_gets_a_share_of_a_full_memory() {
    let world = World::new();
    let (_, _, parent) = chain_at_c(&world);
    // Each peer holds four elements: two statements and their two leaves.
    let known = Acknowledged::new(CacheSize { entries: 8, per_peer: 8 });
    let peers: Vec<Broker> = ["d", "e", "f"].map(|name| world.broker(name)).into();
    for peer in &peers {
        known.acknowledge(&peer.x5t(), &parent, NOW);
    }
    let full = ForwardedFields::build(&parent, DEFAULT_HOPS).expect("fields");
    let lengths: Vec<usize> = peers
        .iter()
        .map(|peer| fields_for(peer, &known, &parent))
        .map(|fields| fields.chain.map_or(0, |chain| chain.len()) + fields.certs.map_or(0, |certs| certs.len()))
        .collect();
    let of_full = full.chain.map_or(0, |chain| chain.len()) + full.certs.map_or(0, |certs| certs.len());
    assert!(lengths[2] < of_full, "the newcomer holds nothing: {lengths:?} of {of_full}");
}

#[test]
fn a_peer_at_its_quota_replaces_its_own_oldest_elements() {
    let world = World::new();
    let (_, _, parent) = chain_at_c(&world);
    let known = Acknowledged::new(CacheSize { entries: 100, per_peer: 4 });
    let (d, e) = (world.broker("d"), world.broker("e"));
    known.acknowledge(&e.x5t(), &parent, NOW);
    known.acknowledge(&d.x5t(), &parent, NOW);
    let (_, _, other) = chain_at_c(&world);
    known.acknowledge(&d.x5t(), &other, NOW);
    assert_eq!(fields_for(&d, &known, &other), ForwardedFields::default());
    assert_eq!(fields_for(&d, &known, &parent), ForwardedFields::build(&parent, DEFAULT_HOPS).expect("fields"));
    assert_eq!(fields_for(&e, &known, &parent), ForwardedFields::default());
}
