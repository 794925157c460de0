//! Whatever bytes arrive, the verifier answers: a refusal or a success, never a panic.
//!
//! The mutations are deterministic, so a failure can be repeated.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod support;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use hopseal_custody::binding::{Body, request_binding};
use hopseal_custody::cache::CacheSizes;
use hopseal_custody::cert::Certificate;
use hopseal_custody::compose::root_payload;
use hopseal_custody::error::Code;
use hopseal_custody::hash::{decode_base64, decode_base64url, encode_base64url};
use hopseal_custody::interop::{custody_sign, custody_verify};
use hopseal_custody::json::parse_object;
use hopseal_custody::merkle::statement_hash;
use hopseal_custody::receive::{Receiver, Request};
use hopseal_custody::replay::ReplayStore;
use hopseal_custody::seal::{UnverifiedStatement, seal_body, seal_header};
use support::*;

const FIELDS: [&str; 3] = ["custody-record", "custody-chain", "custody-certs"];

/// A small generator with a fixed seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let scrambled = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16;
        usize::try_from(scrambled).expect("64 bits") % bound
    }

    /// `bytes` after one to four random edits.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        const INTERESTING: &[u8] = b".,:;=\" \t{}[]-_0159azAZ\\/\0\x7f\xff\n";
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = INTERESTING[self.below(INTERESTING.len())],
                2 => bytes.insert(at, INTERESTING[self.below(INTERESTING.len())]),
                3 => bytes.truncate(at),
                4 if at < bytes.len() => drop(bytes.remove(at)),
                _ => {
                    let end = (at + self.below(64)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    let into = self.below(bytes.len() + 1);
                    bytes.splice(into..into, copy);
                }
            }
        }
        bytes
    }
}

/// A chain of three records on its way, and everybody concerned.
struct Scene {
    world: World,
    from: Broker,
    to: Broker,
    message: Message,
}

fn scene() -> Scene {
    let world = World::new();
    let (a, b, c, d) = (world.broker("a"), world.broker("b"), world.broker("c"), world.broker("d"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let second = world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    let message = child_message(&c, &d, &second, None);
    Scene { world, from: c, to: d, message }
}

/// Everything but the replay check, so that one message can be tried often; the receiver remembers.
fn verifies(scene: &Scene, message: &Message) -> Result<(), Code> {
    verifies_with(&scene.to.receiver, scene, message)
}

/// The same by a receiver that knows nothing yet.
fn verifies_cold(scene: &Scene, message: &Message) -> Result<(), Code> {
    let cold = Receiver::new(&CacheSizes::default(), ReplayStore::new(10, 10));
    verifies_with(&cold, scene, message)
}

fn verifies_with(receiver: &Receiver, scene: &Scene, message: &Message) -> Result<(), Code> {
    let (lines, own_leaves) = (message.lines(), [scene.to.x5t()]);
    let request = Request {
        method: &message.method,
        target_uri: &message.uri,
        headers: &lines,
        body: Body::of(&message.body),
        peer: Some(&scene.from.peer),
        own_id: &scene.to.id,
        own_leaves: &own_leaves,
    };
    let world = &scene.world;
    receiver
        .examine(&request, &world.policy, NOW)
        .and_then(|examined| receiver.authenticate(examined, &world.bundles, &world.policy, &[OPERATION], NOW))
        .map(drop)
        .map_err(|rejection| rejection.code)
}

/// A receiver that saw the message before keeps its certificates, so that field is judged by one that did not.
fn refuses(scene: &Scene, name: &str, message: &Message) -> bool {
    let judge = if name == "custody-certs" { verifies_cold } else { verifies };
    judge(scene, message).is_err()
}

#[test]
fn no_byte_of_a_custody_field_can_be_changed() {
    let scene = scene();
    verifies(&scene, &scene.message).expect("the message itself verifies");
    for name in FIELDS {
        let value = scene.message.value(name).expect(name).to_vec();
        let mut message = scene.message.clone();
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= if at % 2 == 0 { 0x01 } else { 0x20 };
            message.set(name, &changed);
            let harmless = value[at] == b' ' && changed[at] == b'\t';
            assert!(harmless || refuses(&scene, name, &message), "{name}, byte {at} changed");
        }
    }
}

#[test]
fn no_byte_of_a_custody_field_can_be_left_out_or_put_in() {
    let scene = scene();
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t');
    for name in FIELDS {
        let value = scene.message.value(name).expect(name).to_vec();
        let mut message = scene.message.clone();
        for at in (0..value.len()).step_by(3) {
            let mut shorter = value.clone();
            let removed = shorter.remove(at);
            message.set(name, &shorter);
            assert!(is_space(removed) || refuses(&scene, name, &message), "{name}, byte {at} left out");
            for inserted in *b"A.,=:\0" {
                let mut longer = value.clone();
                longer.insert(at, inserted);
                message.set(name, &longer);
                assert!(refuses(&scene, name, &message), "{name}, {inserted} put in at {at}");
            }
        }
    }
}

#[test]
fn every_truncation_of_a_custody_field_is_refused() {
    let scene = scene();
    for name in FIELDS {
        let value = scene.message.value(name).expect(name).to_vec();
        let mut message = scene.message.clone();
        for end in 0..value.len() {
            message.set(name, &value[..end]);
            // A list may end after a whole element: then something is missing.
            assert!(refuses(&scene, name, &message), "{name} cut at {end}");
        }
    }
}

#[test]
fn random_edits_of_all_fields_end_in_a_refusal() {
    let scene = scene();
    let mut random = Random(0x5EED_0001);
    for round in 0..4_000 {
        let mut message = scene.message.clone();
        let name = FIELDS[random.below(FIELDS.len())];
        let value = random.mutate(message.value(name).expect(name));
        let unchanged =
            String::from_utf8_lossy(&value).split(',').map(str::trim).eq(message.text(name).split(',').map(str::trim));
        message.set(name, &value);
        assert!(unchanged || refuses(&scene, name, &message), "round {round}: {name}");
    }
}

/// A lone statement with a valid seal of `broker` over any payload text.
fn seal_raw(broker: &Broker, payload: &str) -> String {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, broker.key.serialized_der()).unwrap();
    let header = encode_base64url(seal_header(&broker.x5t()).as_bytes());
    let body = encode_base64url(seal_body(1, &statement_hash(&broker.x5t(), payload).0).as_bytes());
    let input = format!("{header}.{body}");
    let signature = key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    format!("{payload}..{input}.{}", encode_base64url(signature.as_ref()))
}

#[test]
fn whatever_a_trusted_component_seals_is_judged_without_panic() {
    let world = World::new();
    let (a, b) = (world.broker("a"), world.broker("b"));
    let plain = Message::plain();
    let good = root_payload(&call(&a, &b, &plain), &root()).unwrap();
    let claims = decode_base64url(good.text()).unwrap();
    let scene = Scene { world, from: a, to: b, message: plain };
    let mut random = Random(0x5EED_0002);
    let mut accepted = 0;
    for _ in 0..1_500 {
        let mutated = random.mutate(&claims);
        let mut message = scene.message.clone();
        message.set("custody-record", seal_raw(&scene.from, &encode_base64url(&mutated)).as_bytes());
        accepted += usize::from(verifies(&scene, &message).is_ok());
    }
    // Some edits change only an id or an ignored name; most break a rule.
    assert!(accepted < 500, "{accepted}");
}

#[test]
fn parsers_take_any_bytes_without_panic() {
    let world = World::new();
    let a = world.broker("a");
    let leaf = a.peer.leaf().der().to_vec();
    let seeds: [&[u8]; 4] = [br#"{"v":1,"a":[{"b":{"c":0}}],"t":"rec"}"#, b"a.b.c.d.e", b":AAAA:", &leaf];
    let mut random = Random(0x5EED_0003);
    for round in 0..20_000 {
        let bytes = random.mutate(seeds[round % seeds.len()]);
        let text = String::from_utf8_lossy(&bytes);
        drop(parse_object(&bytes));
        drop(UnverifiedStatement::parse(&text));
        drop(Certificate::read(&bytes));
        drop(decode_base64(&text));
        drop(decode_base64url(&text));
        drop(request_binding("POST", URI, &[("content-type", &bytes)]));
        drop(custody_verify(&text));
        drop(custody_sign(&text));
    }
}
