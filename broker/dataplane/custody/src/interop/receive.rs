//! Vectors of kind `receive`: a whole receiver with the memory that the case gives it.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::{Answer, Failure, Input, authority_json, facts, lines};
use crate::authority::AudiencePattern;
use crate::behalf::Behalf;
use crate::binding::Body;
use crate::cache::CacheSizes;
use crate::cert::Certificate;
use crate::chain::Chain;
use crate::hash::{RandomId, Thumbprint};
use crate::ids::{SpiffeId, TrustDomain};
use crate::limits::MAX_SKEW_S;
use crate::receive::{Peer, Policy, Receiver, Request};
use crate::record::Task;
use crate::replay::ReplayStore;
use crate::trust::Bundles;
use crate::usertoken::Issuers;

pub(super) fn verify(input: &Input<'_>) -> Answer {
    let owned = input.headers()?;
    let headers = lines(&owned);
    let body = input.bytes("body")?;
    let peer = if input.get("tls_peer")?.is_null() { None } else { parse_peer(&input.many_bytes("tls_peer")?) };
    let own_leaves: Vec<Thumbprint> = input.many_bytes("own_leaves")?.iter().map(|der| Thumbprint::of(der)).collect();
    let own_id = spiffe_id(input.text("own_id")?)?;
    let bundles = parse_bundles(input.object("bundles")?)?;
    let mut policy = parse_policy(input)?;
    policy.issuers = parse_issuers(input)?.into();
    let now = input.integer("now")?;
    let receiver = parse_state(&Input(input.get("state")?), &bundles, now)?;
    let request = Request {
        method: input.text("method")?,
        target_uri: input.text("target_uri")?,
        headers: &headers,
        body: Body::of(&body),
        peer: peer.as_ref(),
        own_id: &own_id,
        own_leaves: &own_leaves,
    };
    let operations = input.texts("operations")?;
    let examined = receiver.examine(&request, &policy, now)?;
    let verified = receiver.authenticate(examined, &bundles, &policy, &operations, now)?;
    Ok(describe(&receiver.commit(verified, now)?))
}

fn describe(chain: &Chain) -> Map<String, Json> {
    let mut described = describe_chain(chain);
    described.extend(chain.behalf().map(|behalf| ("user".to_owned(), user_json(behalf))));
    described
}

fn user_json(behalf: &Behalf) -> Json {
    let user = behalf.user();
    json!({
        "iss": user.iss,
        "sub": user.sub,
        "typ": user.typ,
        "txn": user.txn,
        "exp": user.exp,
        "verified": behalf.token().is_some(),
    })
}

fn parse_issuers(input: &Input<'_>) -> Result<Issuers, Failure> {
    let issuers = input.get("issuers").map_or_else(|_| "[]".to_owned(), Json::to_string);
    Issuers::parse(&issuers).map_err(Failure::Shape)
}

fn describe_chain(chain: &Chain) -> Map<String, Json> {
    let path: Vec<&str> = chain.path().map(SpiffeId::as_str).collect();
    facts([
        ("cid", chain.cid().to_string().into()),
        ("hop", chain.hop().into()),
        ("path", path.into()),
        ("authority", authority_json(chain.authority())),
        ("record", chain.hash().to_string().into()),
        ("task", task_json(chain.task())),
    ])
}

fn task_json(task: &Task) -> Json {
    let text = |value| match value {
        crate::json::Value::Text(text) => Json::String(text),
        _ => Json::Null,
    };
    Json::Object(task.to_members().into_iter().map(|(name, value)| (name, text(value))).collect())
}

pub(super) fn spiffe_id(text: &str) -> Result<SpiffeId, Failure> {
    SpiffeId::parse(text).ok_or_else(|| Failure::Shape(format!("{text} is not a SPIFFE ID")))
}

fn random_id(text: &str) -> Result<RandomId, Failure> {
    RandomId::parse(text).ok_or_else(|| Failure::Shape(format!("{text} is not a random id")))
}

pub(super) fn parse_peer(ders: &[Vec<u8>]) -> Option<Peer> {
    let ders: Vec<&[u8]> = ders.iter().map(Vec::as_slice).collect();
    Peer::read(&ders)
}

pub(super) fn parse_bundles(object: &Map<String, Json>) -> Result<Bundles, Failure> {
    let mut listed = Vec::new();
    for name in object.keys() {
        let domain = TrustDomain::parse(name).ok_or_else(|| Failure::Shape("a trust domain is malformed".into()))?;
        listed.push((domain, Input(&Json::Object(object.clone())).many_bytes(name)?));
    }
    Bundles::build(&listed).map_err(|error| Failure::Shape(error.to_string()))
}

fn parse_policy(input: &Input<'_>) -> Result<Policy, Failure> {
    let policy = Input(input.get("policy")?);
    let pattern =
        |text: &str| AudiencePattern::parse(text).ok_or_else(|| Failure::Shape(format!("{text} is not a pattern")));
    Ok(Policy {
        autonomous_roots: policy.texts("autonomous_roots")?.into_iter().map(pattern).collect::<Result<_, _>>()?,
        forbidden_on_path: policy.texts("forbidden_on_path")?.into_iter().map(spiffe_id).collect::<Result<_, _>>()?,
        unverified_users: policy
            .optional_texts("unverified_users")?
            .into_iter()
            .map(pattern)
            .collect::<Result<_, _>>()?,
        sealing_gateways: policy
            .optional_texts("sealing_gateways")?
            .into_iter()
            .map(pattern)
            .collect::<Result<_, _>>()?,
        accept_streams: policy.0.get("streams").and_then(Json::as_bool).unwrap_or(false),
        unsafe_allow_no_peer: input.boolean("allow_no_peer")?,
        ..Policy::default()
    })
}

/// A receiver that remembers what the case says earlier messages left behind.
fn parse_state(state: &Input<'_>, bundles: &Bundles, now: i64) -> Result<Receiver, Failure> {
    let capacity = usize::try_from(state.integer("replay_capacity")?)
        .map_err(|_| Failure::Shape("replay_capacity is negative".into()))?;
    let receiver = Receiver::new(&CacheSizes::default(), ReplayStore::new(capacity, capacity));
    for der in state.many_bytes("certs")? {
        receiver.restore_certificate(&Arc::new(Certificate::read(&der)));
    }
    let of_prefix = state.many_bytes("prefix_certs")?;
    let of_prefix: Vec<Arc<Certificate>> = of_prefix.iter().map(|der| Arc::new(Certificate::read(der))).collect();
    for sealed in state.texts("prefix")? {
        receiver.restore_statement(sealed, &of_prefix, bundles)?;
    }
    for used in state.array("replay")? {
        let shape = || Failure::Shape("a used statement is not [iss, jti, expires_at]".into());
        let text = |at: usize| used.get(at).and_then(Json::as_str).ok_or_else(shape);
        let expires_at =
            used.get(2).and_then(Json::as_u64).and_then(|end| i64::try_from(end).ok()).ok_or_else(shape)?;
        receiver.restore_used(&spiffe_id(text(0)?)?, random_id(text(1)?)?, expires_at - MAX_SKEW_S, now)?;
    }
    for (cid, iss) in state.object("roots")? {
        let iss = iss.as_str().ok_or_else(|| Failure::Shape("a root's issuer is not text".into()))?;
        receiver.restore_root(random_id(cid)?, &spiffe_id(iss)?, now)?;
    }
    Ok(receiver)
}
