//! User tokens beside what the shared vectors say: what is remembered, what is asked for, what never shows.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::path::PathBuf;

use hopseal_custody::behalf::Presented;
use hopseal_custody::error::Code;
use hopseal_custody::usertoken::{Issuers, TokenType};
use serde_json::{Value, json};

/// `NumericDate` of the vectors.
const NOW: i64 = 1_795_348_800;
/// End of their tokens.
const END: i64 = NOW + 295;

struct Published {
    issuers: Value,
    token: String,
}

/// The issuers of the vectors, and the token of the first case.
fn published() -> Published {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../tests/vectors/receive_users.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON");
    let headers = file["cases"][0]["input"]["headers"].as_array().expect("headers");
    let line = headers.iter().find(|line| line[0] == "Txn-Token").expect("a token");
    Published { issuers: file["defaults"]["issuers"].clone(), token: line[1].as_str().expect("text").to_owned() }
}

fn issuers(value: &Value) -> Issuers {
    Issuers::parse(&value.to_string()).expect("issuers")
}

#[test]
fn a_token_that_was_verified_is_remembered_and_still_ends() {
    let Published { issuers: value, token } = published();
    let issuers = issuers(&value);
    let first = issuers.verify(&token, TokenType::Transaction, "peer", NOW).expect("a token");
    let again = issuers.verify(&token, TokenType::Transaction, "peer", END + 9).expect("a token");
    assert!(std::ptr::eq(&raw const *first, &raw const *again));
    let late = issuers.verify(&token, TokenType::Transaction, "peer", END + 10).expect_err("its end");
    assert_eq!(late.code, Code::Authority);
    let early = issuers.verify(&token, TokenType::Transaction, "peer", NOW - 16).expect_err("its begin");
    assert_eq!(early.code, Code::Authority);
}

#[test]
fn what_is_remembered_is_of_the_type_that_is_asked_for() {
    let Published { issuers: mut value, token } = published();
    value[1]["issuer"] = value[0]["issuer"].clone();
    let issuers = issuers(&value);
    assert!(issuers.verify(&token, TokenType::Transaction, "peer", NOW).is_ok());
    assert!(issuers.verify(&token, TokenType::Access, "peer", NOW).is_err());
}

#[test]
fn a_changed_token_is_not_the_remembered_one() {
    let Published { issuers: value, token } = published();
    let issuers = issuers(&value);
    assert!(issuers.verify(&token, TokenType::Transaction, "peer", NOW).is_ok());
    let (front, _) = token.rsplit_once('.').expect("three parts");
    let forged = format!("{front}.{}", "A".repeat(86));
    assert!(issuers.verify(&forged, TokenType::Transaction, "peer", NOW).is_err());
}

#[test]
fn an_unknown_key_is_asked_for_once() {
    let Published { issuers: mut value, token } = published();
    value[0]["jwks"]["keys"].as_array_mut().expect("keys").retain(|key| key["kid"] != "es");
    let issuers = issuers(&value);
    assert!(issuers.take_unknown_keys().is_empty());
    for _ in 0..2 {
        assert!(issuers.verify(&token, TokenType::Transaction, "peer", NOW).is_err());
    }
    let asked = issuers.take_unknown_keys();
    assert_eq!(asked, [("https://tts.prod.example.org", TokenType::Transaction)]);
    assert!(issuers.verify(&token, TokenType::Transaction, "peer", NOW).is_err());
    assert!(issuers.take_unknown_keys().is_empty());
}

#[test]
fn only_tokens_of_configured_issuers_look_like_users() {
    let Published { issuers: value, token } = published();
    let issuers = issuers(&value);
    assert!(issuers.claims_unverified(&token, TokenType::Transaction));
    assert!(!issuers.claims_unverified(&token, TokenType::Access));
    for text in ["", "an-api-key", "a.b.c", &"a.".repeat(9_000)] {
        assert!(!issuers.claims_unverified(text, TokenType::Transaction), "{text}");
    }
    assert!(!Issuers::default().claims_unverified(&token, TokenType::Transaction));
}

#[test]
fn nothing_that_is_printed_shows_a_token() {
    let Published { issuers: value, token } = published();
    let issuers = issuers(&value);
    let verified = issuers.verify(&token, TokenType::Transaction, "peer", NOW).expect("a token");
    let headers = [("txn-token", token.as_bytes())];
    let shown = format!("{verified:?} {issuers:?} {:?}", Presented::read(&headers));
    let (_, signature) = token.rsplit_once('.').expect("three parts");
    assert!(!shown.contains(signature), "{shown}");
    let logged = Value::Object(verified.claims_for_log()).to_string();
    assert!(!logged.contains(signature));
    assert!(logged.contains("u-4711"));
}

#[test]
fn issuers_are_read_strictly() {
    let good = json!({"issuer": "i", "type": "txn", "audience": ["a"], "jwks": null});
    assert!(Issuers::parse(&json!([good]).to_string()).is_ok());
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        changed
    };
    for refused in [
        json!({}),
        json!([{}]),
        json!([with("type", json!("jwt"))]),
        json!([with("jwks", json!({"keys": []}))]),
        json!([with("audience", json!("a"))]),
        json!([with("secret", json!("a"))]),
        json!([with("clients", json!({"c": 1}))]),
        json!([good, good]),
    ] {
        assert!(Issuers::parse(&refused.to_string()).is_err(), "{refused}");
    }
}
