//! What sealing and verifying cost on this machine, in microseconds: `cargo run --release --example cost`.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a program to be read by a person")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use hopseal_custody::binding::Body;
use hopseal_custody::cache::CacheSizes;
use hopseal_custody::compose::{Payload, root_payload};
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::receive::{Receiver, Request};
use hopseal_custody::replay::ReplayStore;
use support::{BODY, Broker, METHOD, Message, NOW, URI, World, call, child_message, deliver, root, root_message};

const ROUNDS: u32 = 400;

fn report(name: &str, calls: usize, started: Instant) {
    let calls = f64::from(u32::try_from(calls).expect("few calls"));
    println!("{name:<58} {:8.1}", started.elapsed().as_secs_f64() * 1e6 / calls);
}

fn payloads(from: &Broker, to: &Broker, count: usize) -> Vec<Payload> {
    let plain = Message::plain();
    (0..count).map(|_| root_payload(&call(from, to, &plain), &root()).expect("a payload")).collect()
}

/// Messages of `from`, sealed in batches of `size`.
fn messages(from: &Broker, to: &Broker, size: usize, count: usize) -> Vec<Message> {
    let batches = (0..count / size).flat_map(|_| from.sealer.seal(&payloads(from, to, size)).expect("a seal"));
    batches
        .map(|statement| {
            let mut message = Message::plain();
            message.set("custody-record", statement.text.as_bytes());
            message
        })
        .collect()
}

fn measure_receiving(world: &World, from: &Broker, name: &str, list: &[Message], to: &Broker) {
    let started = Instant::now();
    for message in list {
        black_box(deliver(to, Some(&from.peer), message, &world.bundles, &world.policy, NOW)).expect("accepted");
    }
    report(name, list.len(), started);
}

fn main() {
    let world = World::new();
    let (a, mut b, mut c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    for broker in [&mut b, &mut c] {
        broker.receiver = Receiver::new(&CacheSizes::default(), ReplayStore::new(100_000, 100_000));
    }

    let started = Instant::now();
    for _ in 0..ROUNDS {
        black_box(payloads(&a, &b, 1));
    }
    report("compose a root, with its binding", ROUNDS as usize, started);
    for size in [1, 8, 32] {
        let batch = payloads(&a, &b, size);
        let started = Instant::now();
        for _ in 0..ROUNDS {
            black_box(a.sealer.seal(&batch)).expect("a seal");
        }
        report(&format!("seal a batch of {size}, each statement"), ROUNDS as usize * size, started);
    }
    for size in [1, 8, 32] {
        let list = messages(&a, &b, size, 640);
        measure_receiving(&world, &a, &format!("receive a root sealed in a batch of {size}"), &list, &b);
    }
    let list = messages(&a, &b, 32, 640);
    let (own_leaves, body) = ([b.x5t()], Body::of(BODY));
    let started = Instant::now();
    for message in &list {
        let headers = message.lines();
        let request = Request {
            method: METHOD,
            target_uri: URI,
            headers: &headers,
            body,
            peer: Some(&a.peer),
            own_id: &b.id,
            own_leaves: &own_leaves,
        };
        drop(black_box(b.receiver.examine(&request, &world.policy, NOW)).expect("examined"));
    }
    report("examine a root: all checks without a signature", list.len(), started);
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let list: Vec<Message> = (0..ROUNDS).map(|_| child_message(&b, &c, &first, None)).collect();
    measure_receiving(&world, &b, "receive hop 1, its parent known", &list, &c);
    let started = Instant::now();
    for _ in 0..ROUNDS {
        black_box(ForwardedFields::build(&first, 8)).expect("fields");
    }
    report("make the forwarded fields of one ancestor", ROUNDS as usize, started);
}
