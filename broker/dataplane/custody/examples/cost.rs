//! What sealing and verifying cost on this machine, in microseconds: `cargo run --release --example cost`.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a program to be read by a person")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use hopseal_custody::acknowledged::Acknowledged;
use hopseal_custody::binding::{Body, BodySum, HeaderLine, response_binding};
use hopseal_custody::cache::CacheSizes;
use hopseal_custody::chain::Chain;
use hopseal_custody::compose::{Payload, receipt_payload, root_payload};
use hopseal_custody::fields::ReceiptFields;
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::hash::{ClaimHash, RandomId, Thumbprint, sha256};
use hopseal_custody::outcome::{Fin, Kids, Outcome};
use hopseal_custody::receipt::Receipt;
use hopseal_custody::receive::{Exchange, Receiver, Request};
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

/// Receipts of `b` for one call of `a`, sealed in batches of 1 and 32: what each side pays for an answer.
fn measure_receipts(world: &World, a: &Broker, b: &Broker) {
    let chain = world.deliver(a, b, &root_message(a, b, &root())).expect("accepted");
    let record = chain.newest().record();
    let head: [HeaderLine<'_>; 1] = [("content-type", b"application/json")];
    let outcome = || Outcome {
        iss: b.id.clone(),
        aud: a.id.clone(),
        iat: NOW,
        jti: RandomId::generate().expect("randomness"),
        cid: chain.cid(),
        rec: chain.hash(),
        st: 200,
        rsb: response_binding(200, &head).expect("a binding"),
        len: BODY.len() as u64,
        cd: ClaimHash(sha256(BODY)),
        fin: Fin::Eof,
        kids: Kids::of(&[]),
        dec: None,
        n: None,
        tlb: None,
        req: None,
    };
    let payload = || receipt_payload(&Receipt { outcome: outcome() }).expect("a payload");
    let started = Instant::now();
    for _ in 0..ROUNDS {
        black_box(payload());
    }
    report("compose a receipt, with its binding", ROUNDS as usize, started);
    let exchange = Exchange {
        own_id: &a.id,
        callee: &record.aud,
        record: chain.hash(),
        record_iat: record.iat,
        cid: chain.cid(),
        peer: Some(&b.peer),
        status: 200,
        headers: &head,
        body: BodySum::of(BODY),
        request: None,
    };
    for size in [1, 32] {
        let batches: Vec<Vec<Payload>> = (0..640 / size).map(|_| (0..size).map(|_| payload()).collect()).collect();
        let started = Instant::now();
        let sealed: Vec<String> = batches
            .iter()
            .flat_map(|batch| b.sealer.seal(batch).expect("a seal"))
            .map(|statement| statement.text)
            .collect();
        report(&format!("seal a receipt in a batch of {size}"), sealed.len(), started);
        let started = Instant::now();
        for text in &sealed {
            let trailers: [HeaderLine<'_>; 1] = [("custody-receipt", text.as_bytes())];
            let fields = ReceiptFields::read(&head, &trailers, None, true).expect("read").expect("a receipt");
            black_box(a.receiver.verify_receipt(&fields, &exchange, &world.bundles, NOW)).expect("verified");
        }
        report(&format!("verify a receipt sealed in a batch of {size}"), sealed.len(), started);
        let bytes = sealed.first().map_or(0, String::len);
        println!("{:<58} {bytes:8}", format!("bytes of a receipt sealed in a batch of {size}"));
    }
}

/// What the sender saves and pays for a peer that holds the ancestors.
fn measure_omission(parent: &Chain, peer: &Thumbprint) {
    let known = Acknowledged::default();
    let started = Instant::now();
    for _ in 0..ROUNDS {
        known.acknowledge(peer, parent, NOW);
    }
    report("remember what a peer acknowledged, one ancestor", ROUNDS as usize, started);
    let started = Instant::now();
    for _ in 0..ROUNDS {
        black_box(ForwardedFields::build_for(peer, &known, parent, 8)).expect("fields");
    }
    report("make the forwarded fields when all is acknowledged", ROUNDS as usize, started);
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
    measure_omission(&first, &c.x5t());
    measure_receipts(&world, &a, &b);
}
