//! Authorities, brokers and requests for tests: everything is real but the network and the clock.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test may fail loudly")]

use std::sync::Arc;
use std::time::Duration;

use hopseal_custody::authority::{AudiencePattern, Authority, Narrowing};
use hopseal_custody::binding::{Body, HeaderLine, content_digest, request_binding};
use hopseal_custody::cache::CacheSizes;
use hopseal_custody::cert::Certificate;
use hopseal_custody::chain::Chain;
use hopseal_custody::compose::{Call, Payload, Root, child_payload, root_payload};
use hopseal_custody::error::{Rejection, Result};
use hopseal_custody::forward::ForwardedFields;
use hopseal_custody::hash::{RandomId, Thumbprint, sha256};
use hopseal_custody::ids::{SpiffeId, TrustDomain};
use hopseal_custody::limits::DEFAULT_HOPS;
use hopseal_custody::receive::{Peer, Policy, Receiver, Request};
use hopseal_custody::record::Task;
use hopseal_custody::replay::ReplayStore;
use hopseal_custody::sealer::Sealer;
use hopseal_custody::trust::Bundles;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SignatureAlgorithm,
};

/// The time of every test, `NumericDate` seconds.
pub const NOW: i64 = 1_795_348_800;
pub const DOMAIN: &str = "prod.example.org";
pub const PARTNER: &str = "partner.example.net";
pub const METHOD: &str = "POST";
pub const URI: &str = "https://crm.sales/mcp?x=1";
pub const BODY: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm.lookup"}}"#;
pub const OPERATION: &str = "tools/call crm.lookup";

pub fn id(component: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{DOMAIN}/{component}")).expect("an id")
}

/// An authority that issues certificates, self-signed or below another.
pub struct Ca {
    pub der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

pub fn validity(params: &mut CertificateParams, from: i64, until: i64) {
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).expect("after 1970"))
    };
    params.not_before = at(from);
    params.not_after = at(until);
}

impl Ca {
    pub fn root(name: &str) -> Self {
        Self::root_valid(name, &rcgen::PKCS_ECDSA_P256_SHA256, NOW - 86_400, NOW + 86_400)
    }

    pub fn root_valid(name: &str, algorithm: &'static SignatureAlgorithm, from: i64, until: i64) -> Self {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let params = Self::params(name, from, until);
        let der = params.self_signed(&key).expect("a certificate").der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = Self::params(name, NOW - 3_600, NOW + 3_600);
        let der = params.signed_by(&key, &self.issuer).expect("a certificate").der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    fn params(name: &str, from: i64, until: i64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, from, until);
        params
    }

    /// What SPIRE issues: one URI name, both usages, an hour.
    pub fn leaf_params(uri: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "US");
        params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, NOW - 600, NOW + 3_000);
        params
    }

    pub fn issue(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.signed_by(key, &self.issuer).expect("a certificate").der().to_vec()
    }
}

/// One component with its SVID, as sender and as receiver.
pub struct Broker {
    pub id: SpiffeId,
    pub key: KeyPair,
    pub sealer: Sealer,
    pub peer: Peer,
    pub receiver: Receiver,
}

impl Broker {
    pub fn new(ca: &Ca, id: &SpiffeId) -> Self {
        Self::with_intermediates(ca, id, &[])
    }

    pub fn with_intermediates(ca: &Ca, id: &SpiffeId, intermediates: &[&Ca]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let der = ca.issue(&Ca::leaf_params(id.as_str()), &key);
        Self::with_leaf(id, key, &der, intermediates)
    }

    pub fn with_leaf(id: &SpiffeId, key: KeyPair, der: &[u8], intermediates: &[&Ca]) -> Self {
        let leaf = Arc::new(Certificate::parse(der).expect("a certificate"));
        let above = intermediates.iter().map(|ca| Arc::new(Certificate::read(&ca.der))).collect();
        Self {
            id: id.clone(),
            sealer: Sealer::new(key.serialized_der(), Arc::clone(&leaf)).expect("a sealer"),
            key,
            peer: Peer::new(leaf, above),
            receiver: Receiver::new(&CacheSizes::default(), ReplayStore::new(1_000, 1_000)),
        }
    }

    pub fn x5t(&self) -> Thumbprint {
        self.sealer.x5t()
    }
}

/// A message on its way: everything that the receiver sees.
#[derive(Clone)]
pub struct Message {
    pub method: String,
    pub uri: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn plain() -> Self {
        Self {
            method: METHOD.into(),
            uri: URI.into(),
            headers: vec![
                ("content-type".into(), b"application/json".to_vec()),
                ("content-digest".into(), content_digest(&sha256(BODY)).into_bytes()),
            ],
            body: BODY.to_vec(),
        }
    }

    pub fn lines(&self) -> Vec<HeaderLine<'_>> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
    }

    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.to_vec()));
    }

    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.value(name).expect("the field").to_vec()).expect("ASCII")
    }
}

/// One trust domain with an authority, and what everybody in it knows.
pub struct World {
    pub ca: Ca,
    pub bundles: Bundles,
    pub policy: Policy,
}

impl World {
    pub fn new() -> Self {
        let ca = Ca::root("prod root");
        let bundles = bundles(&[(DOMAIN, &[&ca])]);
        let policy = Policy {
            autonomous_roots: vec![AudiencePattern::parse(&format!("spiffe://{DOMAIN}/*")).expect("a pattern")],
            ..Policy::default()
        };
        Self { ca, bundles, policy }
    }

    pub fn broker(&self, component: &str) -> Broker {
        Broker::new(&self.ca, &id(component))
    }

    /// `to` judges what came from `from`, up to the accepted chain.
    pub fn deliver(&self, from: &Broker, to: &Broker, message: &Message) -> Result<Chain> {
        self.deliver_at(from, to, message, NOW)
    }

    pub fn deliver_at(&self, from: &Broker, to: &Broker, message: &Message, now: i64) -> Result<Chain> {
        deliver(to, Some(&from.peer), message, &self.bundles, &self.policy, now)
    }
}

pub fn deliver(
    to: &Broker,
    peer: Option<&Peer>,
    message: &Message,
    bundles: &Bundles,
    policy: &Policy,
    now: i64,
) -> Result<Chain> {
    let lines = message.lines();
    let own_leaves = [to.x5t()];
    let request = Request {
        method: &message.method,
        target_uri: &message.uri,
        headers: &lines,
        body: Body::of(&message.body),
        peer,
        own_id: &to.id,
        own_leaves: &own_leaves,
    };
    let examined = to.receiver.examine(&request, policy, now)?;
    let verified = to.receiver.authenticate(examined, bundles, policy, &[OPERATION, "POST /mcp"], now)?;
    to.receiver.commit(verified, now)
}

pub fn bundles(domains: &[(&str, &[&Ca])]) -> Bundles {
    let listed: Vec<(TrustDomain, Vec<Vec<u8>>)> = domains
        .iter()
        .map(|(name, cas)| (TrustDomain::parse(name).expect("a domain"), cas.iter().map(|ca| ca.der.clone()).collect()))
        .collect();
    Bundles::build(&listed).expect("bundles")
}

pub fn authority() -> Authority {
    Authority { scope: None, exp: NOW + 1_800, hops: 15, aud: None, ops: None }
}

pub fn root() -> Root {
    Root {
        cid: RandomId::generate().expect("randomness"),
        task: Task::named("task-1").expect("a task"),
        auth: authority(),
        user: None,
        cont: None,
    }
}

pub fn call<'a>(from: &'a Broker, to: &'a Broker, message: &Message) -> Call<'a> {
    Call {
        iss: &from.id,
        aud: to.id.as_str(),
        iat: NOW,
        exp: NOW + 30,
        jti: RandomId::generate().expect("randomness"),
        rqb: request_binding(&message.method, &message.uri, &message.lines()).expect("a binding"),
        streams: false,
        operations: &[OPERATION],
        srv: Some(to.x5t()),
        by: None,
        op: Some(OPERATION),
        inputs: &[],
        approvals: &[],
        rr: false,
        tid: None,
    }
}

/// `message` with these payloads' first sealed by `from`, and the fields that go with it.
pub fn seal_into(mut message: Message, from: &Broker, payload: Payload, fields: &ForwardedFields) -> Message {
    let sealed = from.sealer.seal(&[payload]).expect("a seal").remove(0);
    message.set("custody-record", sealed.text.as_bytes());
    for (name, value) in [("custody-chain", &fields.chain), ("custody-certs", &fields.certs)] {
        if let Some(value) = value {
            message.set(name, value.as_bytes());
        }
    }
    message
}

pub fn root_message(from: &Broker, to: &Broker, root: &Root) -> Message {
    let message = Message::plain();
    let payload = root_payload(&call(from, to, &message), root).expect("a payload");
    seal_into(message, from, payload, &ForwardedFields::default())
}

pub fn child_message(from: &Broker, to: &Broker, parent: &Chain, att: Option<&Narrowing>) -> Message {
    let message = Message::plain();
    let payload = child_payload(&call(from, to, &message), parent, att).expect("a payload");
    let fields = ForwardedFields::build(parent, DEFAULT_HOPS).expect("fields");
    seal_into(message, from, payload, &fields)
}

/// The code of a refusal; panics if the message was accepted.
pub fn code(result: Result<Chain>) -> &'static str {
    refusal(result).code.as_str()
}

pub fn refusal(result: Result<Chain>) -> Rejection {
    result.expect_err("the message should have been refused")
}
