//! The shared vectors: every case must give exactly the answer that the Python implementation gives.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use hopseal_custody::error::Code;
use hopseal_custody::hash::{decode_base64, decode_base64url, encode_base64, encode_base64url};
use hopseal_custody::interop::{custody_sign, custody_verify};
use serde_json::{Map, Value, json};
use support::World;

struct Case {
    name: String,
    kind: String,
    input: Map<String, Value>,
    expect: Value,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../tests/vectors")
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder()).expect("the vectors' folder").map(|entry| entry.expect("entry").path()) {
        if entry.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let file: Value = serde_json::from_slice(&std::fs::read(&entry).expect("a file")).expect("JSON");
        for case in file["cases"].as_array().expect("cases") {
            let mut input = file["defaults"].as_object().cloned().unwrap_or_default();
            input.extend(case["input"].as_object().expect("input").clone());
            cases.push(Case {
                name: format!("{}: {}", entry.file_name().unwrap_or_default().to_string_lossy(), case["name"]),
                kind: file["kind"].as_str().expect("kind").to_owned(),
                input,
                expect: case["expect"].clone(),
            });
        }
    }
    cases
}

fn answer(kind: &str, input: &Map<String, Value>) -> Value {
    serde_json::from_str(&custody_verify(&json!({"kind": kind, "input": input}).to_string())).expect("an answer")
}

#[test]
fn every_vector_gives_the_expected_answer() {
    let wrong: Vec<String> = cases()
        .iter()
        .filter_map(|case| {
            let got = answer(&case.kind, &case.input);
            (got != case.expect).then(|| format!("{}\n  expected {}\n  got      {got}", case.name, case.expect))
        })
        .collect();
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_kind_has_good_cases_and_every_reachable_code_has_a_bad_one() {
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for case in cases() {
        let result = case.expect.get("code").or(case.expect.get("result")).and_then(Value::as_str);
        seen.entry(case.kind).or_default().insert(result.expect("a result").to_owned());
    }
    for kind in [
        "base64url",
        "claims",
        "seal",
        "seal_batch",
        "binding",
        "folding",
        "receive",
        "errors",
        "statement",
        "kids",
        "response_binding",
        "sse",
        "receipt_verify",
        "closing_verify",
        "evidence",
        "jcs",
    ] {
        assert!(seen.get(kind).is_some_and(|results| results.contains("ok")), "no good case of kind {kind}");
    }
    let is_refused = |code: &str| seen["receive"].contains(code) || seen["receipt_verify"].contains(code);
    let missing: Vec<&str> = Code::ALL.into_iter().map(Code::as_str).filter(|code| !is_refused(code)).collect();
    assert!(missing.is_empty(), "no message is refused with {missing:?}");
}

#[test]
fn no_statement_of_a_batch_verifies_under_another_index() {
    let batches: Vec<Case> =
        cases().into_iter().filter(|case| case.kind == "seal_batch" && case.expect["result"] == "ok").collect();
    assert!(!batches.is_empty());
    for case in batches {
        let texts = |name: &str| case.input[name].as_array().expect(name).clone();
        let (payloads, paths) = (texts("payloads"), texts("paths"));
        // All of the small batches; of the large ones the edges of the tree and some in between.
        let stride = if payloads.len() > 40 { 51 } else { 1 };
        for (position, (payload, path)) in payloads.iter().zip(&paths).enumerate().step_by(stride) {
            let path = decode_base64url(path.as_str().expect("path")).expect("base64url");
            let Some((_, nodes)) = path.split_first() else { continue };
            for index in (0..=u8::MAX).filter(|index| usize::from(*index) != position) {
                let moved = encode_base64url(&[&[index], nodes].concat());
                let sealed = format!(
                    "{}.{moved}.{}",
                    payload.as_str().expect("payload"),
                    case.input["jws"].as_str().expect("jws")
                );
                let input = json!({"sealed": sealed, "leaf": case.input["leaf"]});
                let got = answer("seal", input.as_object().expect("object"));
                assert_eq!(got["result"], "error", "{}: statement {position} verifies as {index}", case.name);
            }
        }
    }
}

#[test]
fn what_is_signed_here_verifies_here() {
    let world = World::new();
    let a = world.broker("a");
    let good = cases().into_iter().filter(|case| case.kind == "claims" && case.expect["result"] == "ok");
    let claims: Vec<Value> = good
        .map(|case| decode_base64(case.input["payload"].as_str().expect("payload")).expect("base64"))
        .map(|payload| serde_json::from_slice(&payload).expect("JSON"))
        .take(32)
        .collect();
    assert!(claims.len() > 8);
    let leaf = encode_base64(a.peer.leaf().der());
    let request = json!({"claims": claims, "key_pkcs8": encode_base64(a.key.serialized_der()), "leaf": leaf});
    let signed: Value = serde_json::from_str(&custody_sign(&request.to_string())).expect("an answer");
    for (sealed, claims) in signed["sealed"].as_array().expect("sealed").iter().zip(&claims) {
        let input = json!({"sealed": sealed, "leaf": leaf});
        assert_eq!(answer("seal", input.as_object().expect("object"))["result"], "ok");
        let payload = sealed.as_str().and_then(|text| text.split('.').next()).expect("a payload");
        let read: Value = serde_json::from_slice(&decode_base64url(payload).expect("base64url")).expect("JSON");
        assert_eq!(read, *claims);
    }
}

#[test]
fn what_cannot_be_signed_is_refused() {
    for request in
        ["", "{}", r#"{"claims":[],"key_pkcs8":"","leaf":""}"#, r#"{"claims":[{}],"key_pkcs8":"AAAA","leaf":"AAAA"}"#]
    {
        let refused: Value = serde_json::from_str(&custody_sign(request)).expect("an answer");
        assert_eq!(refused["result"], "error", "{request}");
    }
    let unknown: Value = serde_json::from_str(&custody_verify(r#"{"kind":"other","input":{}}"#)).expect("an answer");
    assert_eq!(unknown["result"], "error");
}
