//! Paths to authorities as SPIRE makes them, and what happens when bundles change.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may fail loudly")]

mod support;

use std::sync::Arc;

use hopseal_custody::authority::AudiencePattern;
use hopseal_custody::cert::Certificate;
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::hash::encode_base64;
use hopseal_custody::ids::TrustDomain;
use hopseal_custody::sealer::{SealError, Sealer};
use hopseal_custody::trust::Bundles;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use support::*;

#[test]
fn intermediates_come_along_and_are_forwarded() {
    let world = World::new();
    let upstream = world.ca.below("intermediate");
    let a = Broker::with_intermediates(&upstream, &id("a"), &[&upstream]);
    let (b, c) = (world.broker("b"), world.broker("c"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let fields = ForwardedFields::build(&first, 8).expect("fields");
    assert_eq!(fields.certs.as_ref().map(|certs| certs.split(", ").count()), Some(2));
    world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");

    let alone = Broker::with_intermediates(&upstream, &id("a"), &[]);
    let stranger = world.broker("b");
    let refused = world.deliver(&alone, &stranger, &root_message(&alone, &stranger, &root()));
    assert_eq!(code(refused), "custody_untrusted");
}

#[test]
fn authorities_may_have_other_keys_than_leaves() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
        let ca = Ca::root_valid("other", algorithm, NOW - 100, NOW + 100);
        let mut world = World::new();
        world.bundles = bundles(&[(DOMAIN, &[&ca])]);
        let (a, b) = (Broker::new(&ca, &id("a")), Broker::new(&ca, &id("b")));
        world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    }
}

#[test]
fn a_partners_authority_vouches_for_the_partner_only() {
    let mut world = World::new();
    let partner = Ca::root("partner root");
    world.bundles = bundles(&[(DOMAIN, &[&world.ca]), (PARTNER, &[&partner])]);
    world.policy.autonomous_roots.push(AudiencePattern::parse(&format!("spiffe://{PARTNER}/*")).unwrap());
    let b = world.broker("b");
    let forged = Broker::new(&partner, &id("a"));
    assert_eq!(code(world.deliver(&forged, &b, &root_message(&forged, &b, &root()))), "custody_untrusted");
    let theirs = hopseal_custody::ids::SpiffeId::parse(&format!("spiffe://{PARTNER}/a")).unwrap();
    let honest = Broker::new(&partner, &theirs);
    world.deliver(&honest, &b, &root_message(&honest, &b, &root())).expect("accepted");
}

#[test]
fn a_withdrawn_authority_ends_what_was_remembered() {
    let mut world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    let mut short = child_message(&b, &c, &first, None);
    short.headers.retain(|(name, _)| name != "custody-chain" && name != "custody-certs");

    // One more authority: everything holds still, although it is proven again.
    let next = Ca::root("next root");
    let old = std::mem::replace(&mut world.bundles, bundles(&[(DOMAIN, &[&world.ca, &next])]));
    assert_ne!(old.get(DOMAIN).unwrap().version(), world.bundles.get(DOMAIN).unwrap().version());
    world.deliver(&b, &c, &short).expect("accepted");

    // The first authority is gone: B renewed its leaf, but A's old statement has nobody left to vouch for it.
    world.bundles = bundles(&[(DOMAIN, &[&next])]);
    let renewed = Broker::new(&next, &b.id);
    let again = {
        let plain = Message::plain();
        let payload = hopseal_custody::compose::child_payload(&call(&renewed, &c, &plain), &first, None).unwrap();
        seal_into(plain, &renewed, payload, &ForwardedFields::default())
    };
    assert_eq!(code(world.deliver(&renewed, &c, &again)), "custody_untrusted");
}

#[test]
fn a_cached_path_counts_only_while_every_certificate_on_it_is_valid() {
    let mut world = World::new();
    let short = Ca::root_valid("short", &rcgen::PKCS_ECDSA_P256_SHA256, NOW - 10, NOW + 20);
    world.bundles = bundles(&[(DOMAIN, &[&short])]);
    let (a, b) = (Broker::new(&short, &id("a")), Broker::new(&short, &id("b")));
    world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    world.deliver_at(&a, &b, &root_message(&a, &b, &root()), NOW + 20).expect("the authority's last second");
    let refused = world.deliver_at(&a, &b, &root_message(&a, &b, &root()), NOW + 21);
    assert_eq!(code(refused), "custody_untrusted");
}

#[test]
fn a_rotated_leaf_signs_on_and_its_old_statements_still_count() {
    let world = World::new();
    let (a, b, c) = (world.broker("a"), world.broker("b"), world.broker("c"));
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    let rotated = world.broker("b");
    world.deliver(&rotated, &c, &child_message(&rotated, &c, &first, None)).expect("accepted");
}

#[test]
fn bundles_that_cannot_be_read_are_refused_as_a_whole() {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    let good = Ca::root("good").der;
    assert!(Bundles::build(&[(domain.clone(), vec![good.clone(), b"junk".to_vec()])]).is_err());
    assert!(Bundles::build(&[(domain.clone(), vec![good.clone()]), (domain.clone(), vec![good.clone()])]).is_err());
    let mut trailing = good.clone();
    trailing.push(0);
    assert!(Bundles::build(&[(domain.clone(), vec![trailing])]).is_err());
    assert!(Bundles::build(&[(domain, vec![good])]).is_ok());
}

#[test]
fn a_sealer_takes_only_a_p256_key_and_its_own_leaf() {
    let world = World::new();
    let a = world.broker("a");
    let leaf = Arc::clone(a.peer.leaf());
    let other = KeyPair::generate().unwrap();
    assert_eq!(Sealer::new(other.serialized_der(), Arc::clone(&leaf)).err(), Some(SealError::Leaf));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(Sealer::new(p384.serialized_der(), Arc::clone(&leaf)).err(), Some(SealError::Key));
    assert_eq!(Sealer::new(b"junk", leaf).err(), Some(SealError::Key));
    let authority = Arc::new(Certificate::read(&world.ca.der));
    assert_eq!(Sealer::new(a.key.serialized_der(), authority).err(), Some(SealError::Leaf));
}

#[test]
fn nothing_is_sealed_near_a_leafs_end() {
    let world = World::new();
    let hour = world.broker("a");
    // An hour's leaf ends at NOW + 3,000: thirty seconds before that it stops.
    assert!(hour.sealer.may_seal_at(NOW - 600) && !hour.sealer.may_seal_at(NOW - 601));
    assert!(hour.sealer.may_seal_at(NOW + 2_969) && !hour.sealer.may_seal_at(NOW + 2_970));
    let mut params = Ca::leaf_params(id("b").as_str());
    validity(&mut params, NOW, NOW + 60);
    let key = KeyPair::generate().unwrap();
    let der = world.ca.issue(&params, &key);
    let minute = Broker::with_leaf(&id("b"), key, &der, &[]);
    assert!(minute.sealer.may_seal_at(NOW + 49) && !minute.sealer.may_seal_at(NOW + 50));
}

#[test]
fn a_leaf_with_a_name_that_cannot_be_read_is_nobody() {
    let world = World::new();
    let b = world.broker("b");
    let uri = id("a");
    // The second name is a URI whose bytes are not text: another reader could see two URIs.
    for (second, accepted) in
        [(&[0x82, 1, b'a'][..], true), (&[0x86, 1, 0xFF][..], false), (&[0x86, 1, b'a'][..], false)]
    {
        let name = [&[0x86, u8::try_from(uri.as_str().len()).unwrap()], uri.as_str().as_bytes(), second].concat();
        let names = [&[0x30, u8::try_from(name.len()).unwrap()], name.as_slice()].concat();
        let mut params = Ca::leaf_params(uri.as_str());
        params.subject_alt_names.clear();
        params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
        let key = KeyPair::generate().unwrap();
        let der = world.ca.issue(&params, &key);
        assert_eq!(Certificate::parse(&der).unwrap().identity().is_ok(), accepted, "{second:?}");
        if accepted {
            let a = Broker::with_leaf(&uri, key, &der, &[]);
            world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
        }
    }
}

#[test]
fn namesakes_of_an_authority_displace_nobodys() {
    let world = World::new();
    let (mallory, b, c) = (world.broker("mallory"), world.broker("b"), world.broker("c"));
    let upper = world.ca.below("upper");
    let lower = upper.below("lower");
    let a = Broker::with_intermediates(&lower, &id("a"), &[&lower, &upper]);
    let flood = |to: &Broker| {
        for name in ["lower", "upper"] {
            for _ in 0..3 {
                let fakes: Vec<String> = (0..9).map(|_| format!(":{}:", encode_base64(&Ca::root(name).der))).collect();
                let mut message = root_message(&mallory, to, &root());
                message.set("custody-certs", fakes.join(",").as_bytes());
                world.deliver(&mallory, to, &message).expect("accepted: nothing says what else may come along");
            }
        }
    };
    flood(&b);
    let first = world.deliver(&a, &b, &root_message(&a, &b, &root())).expect("accepted");
    world.deliver(&b, &c, &child_message(&b, &c, &first, None)).expect("accepted");
    flood(&c);
    // The authorities stood on a proven path, so another leaf below them needs to bring none.
    let bare = Broker::with_intermediates(&lower, &id("bare"), &[]);
    world.deliver(&bare, &c, &root_message(&bare, &c, &root())).expect("accepted");
}
