//! Whether a peer's request is accepted: verified, decided, logged.
//!
//! Owns: the order in which the codec's stages, policy, replay store and log stand (custody-wire
//! §6), and from which step on a refusal carries a receipt (§7.1).

use std::sync::Arc;
use std::time::Instant;

use hopseal_custody::behalf::Behalf;
use hopseal_custody::binding::Body;
use hopseal_custody::cert::Certificate;
use hopseal_custody::chain::Chain;
use hopseal_custody::error::{Code, Rejection};
use hopseal_custody::fields::RECORD;
use hopseal_custody::receive::{Examined, Request as CustodyRequest, Verified, peek_unverified};
use hopseal_custody::record::Record;
use http::{HeaderMap, HeaderValue};
use tokio::time::timeout;

use crate::broker::Broker;
use crate::call::CallRecord;
use crate::clock;
use crate::directory::Component;
use crate::headers;
use crate::inbound::PeerConnection;
use crate::instance::log_certificate;
use crate::judge::{Requested, judge_incoming};
use crate::log::{Claims, Direction, Entry, LogError};
use crate::opened::Ending;
use crate::operation::Operation;
use crate::passing::Passing;
use crate::problem::{Refusal, refusal_of};
use crate::relay;
use crate::settings::ms;
use crate::users;
use crate::voucher::{Voucher, receipt_unavailable};

/// A request as it came, beside what it was read as.
pub struct Received<'a> {
    pub callee: &'a Component,
    pub method: &'a str,
    pub path: &'a str,
    pub target_uri: String,
    pub headers: &'a HeaderMap,
    pub body: Body,
    pub operation: &'a Operation,
    /// Whether it asks for a WebSocket.
    pub is_upgrade: bool,
}

/// Steps 1 to 16 of custody-wire §6; leaves a voucher as soon as a refusal, too, has a receipt.
///
/// # Errors
/// The code of the first check that fails.
pub async fn accept(
    broker: &Arc<Broker>,
    connection: &PeerConnection,
    received: &Received<'_>,
    record: &mut CallRecord,
    voucher: &mut Option<Voucher>,
) -> Result<Chain, Refusal> {
    let verified = verify(broker, connection, received, record, voucher)?;
    if broker.successor.get().is_some() {
        Box::pin(relay::claim(broker, &verified)).await?;
    }
    let chain = commit(broker, verified, voucher)?;
    log_accepted(broker, &chain, received.operation).await?;
    Ok(chain)
}

/// Steps 1 to 14: nothing waits, and nothing was logged.
fn verify(
    broker: &Arc<Broker>,
    connection: &PeerConnection,
    received: &Received<'_>,
    record: &mut CallRecord,
    voucher: &mut Option<Voucher>,
) -> Result<Verified, Refusal> {
    let policy = broker.receive_policy();
    let now = clock::now_s();
    let lines = headers::lines(received.headers);
    let mut own_leaves = broker.instances.thumbprints(&connection.component, now);
    own_leaves.push(connection.leaf.thumbprint());
    let request = CustodyRequest {
        method: received.method,
        target_uri: &received.target_uri,
        headers: &lines,
        body: received.body,
        peer: Some(&connection.peer),
        own_id: &received.callee.id,
        own_leaves: &own_leaves,
    };
    let operations = [received.operation.name.as_str(), received.operation.http.as_str()];
    let examined = broker.receiver.examine(&request, &policy, now).map_err(refusal_of)?;
    if examined.newest().1.streams && received.body != Body::Stream {
        return Err(refusal_of(Rejection::new(
            Code::Forbidden,
            "the body streams where no closing statement can follow",
        )));
    }
    let vouch_for = voucher_of(broker, connection, received, &examined, record);
    let bundles = broker.trust.current();
    let authenticated = broker.receiver.authenticate(examined, &bundles, &policy, &operations, clock::now_s());
    if authenticated.as_ref().map_or_else(|rejection| is_after_proof(rejection.code), |_| true) {
        *voucher = Some(vouch_for);
    }
    users::report_unknown_keys(broker, &policy.issuers);
    let verified = authenticated.map_err(refusal_of)?;
    record.cid = Some(verified.chain().cid().to_string());
    record.hop = Some(verified.chain().hop());
    verify_root(broker, &verified)?;
    let decided = decide(broker, received, &verified, record);
    voucher.iter_mut().for_each(|voucher| voucher.decided_by(record.decision.as_deref(), &record.policy));
    decided?;
    verify_age(broker, &verified)?;
    if !connection.leaf.may_sign(clock::now_s()) {
        return Err(receipt_unavailable("the server leaf may not seal: svid_expired"));
    }
    Ok(verified)
}

/// Step 15: from here on the record is used.
fn commit(broker: &Arc<Broker>, verified: Verified, voucher: &mut Option<Voucher>) -> Result<Chain, Refusal> {
    let chain = broker.receiver.commit(verified, clock::now_s()).map_err(refusal_of)?;
    voucher.iter_mut().for_each(|voucher| voucher.is_accepted = true);
    if let Some(token) = chain.behalf().and_then(Behalf::token) {
        users::log_token(broker, token);
    }
    Ok(chain)
}

fn voucher_of(
    broker: &Arc<Broker>,
    connection: &PeerConnection,
    received: &Received<'_>,
    examined: &Examined,
    call: &mut CallRecord,
) -> Voucher {
    let (rec, record) = examined.newest();
    let mut passing = || match received.is_upgrade {
        true => Passing::frames(true, call.pulse()),
        false => Passing::behind(received.headers, call.pulse()),
    };
    Voucher {
        broker: Arc::clone(broker),
        leaf: Arc::clone(&connection.leaf),
        caller: record.iss.clone(),
        cid: record.cid,
        rec,
        jti: record.jti,
        exp: record.exp,
        is_accepted: false,
        receipts: Arc::default(),
        decision: String::new(),
        ending: record.streams.then(|| Arc::new(Ending::of(passing()))),
        is_upgrade: received.is_upgrade,
    }
}

/// Whether authentication got beyond custody-wire §6.5, the last step whose failure has no receipt.
fn is_after_proof(code: Code) -> bool {
    matches!(code, Code::Authority | Code::Chain | Code::Forbidden)
}

/// A documented component starts chains only if its document says so; for any other the documents'
/// `acceptFrom`, compiled to Cedar, decides (custody-wire §6.12).
fn verify_root(broker: &Broker, verified: &Verified) -> Result<(), Refusal> {
    let root = verified.chain().path().next();
    let documented = root.and_then(|root| broker.directory.by_id(root));
    if documented.is_some_and(|component| !component.may_start) {
        let rejection = Rejection::new(Code::Authority, "the root's component may not start chains");
        return Err(refusal_of(rejection));
    }
    Ok(())
}

fn decide(
    broker: &Broker,
    received: &Received<'_>,
    verified: &Verified,
    record: &mut CallRecord,
) -> Result<(), Refusal> {
    let requested = Requested { operation: received.operation, method: received.method, path: received.path };
    judge_incoming(broker, received.callee, verified, requested, record)
}

/// After a start from a log that could not be read, older records may be replays.
fn verify_age(broker: &Broker, verified: &Verified) -> Result<(), Refusal> {
    let trusted_from = broker.started.get().map_or(i64::MAX, |started| started.trusted_from);
    if verified.chain().newest().record().iat <= trusted_from {
        return Err(refusal_of(Rejection::new(Code::Unavailable, "the log cannot tell whether this is a replay")));
    }
    Ok(())
}

async fn log_accepted(broker: &Broker, chain: &Chain, operation: &Operation) -> Result<(), Refusal> {
    let mut certificates: Vec<(String, String)> = Vec::new();
    for statement in chain.statements() {
        certificates
            .extend(statement.certificates().map(|certificate: &Arc<Certificate>| log_certificate(certificate)));
    }
    let entry = Entry::Record {
        direction: Direction::Received,
        refused: None,
        detail: None,
        sealed: Some(chain.newest().sealed().to_owned()),
        ancestors: chain.ancestors().iter().map(|statement| statement.sealed().to_owned()).collect(),
        claims: Some(Claims {
            args_hash: operation.args_hash.map(|hash| hash.to_string()),
            ..claims_of(chain.newest().record())
        }),
    };
    let logged = if !broker.settings.log.strict && broker.own_records.holds(&chain.hash()) {
        append_nowait(broker, entry, certificates)
    } else {
        append(broker, entry, certificates).await
    };
    logged.map_err(|error| {
        let why = match error {
            LogError::Unavailable(why) => why,
            LogError::Unsealable(code) => code.to_owned(),
            LogError::Unwitnessed => "no witness confirmed the entry in time (log_unwitnessed)".to_owned(),
        };
        refusal_of(Rejection::new(Code::Unavailable, format!("log: {why}")))
    })
}

/// Whether the request says that its body streams; nothing of it is proven.
pub fn says_stream(headers: &HeaderMap) -> bool {
    let record = headers.get(RECORD).filter(|_| !headers.contains_key("content-digest"));
    let peeked = record.and_then(|record| peek_unverified(&[(RECORD, record.as_bytes())]));
    peeked.is_some_and(|(_, record)| record.streams)
}

/// A refused message is logged before it is answered; if the log is away the refusal stands anyway.
pub async fn log_refused(broker: &Broker, refusal: &Refusal, claimed: Option<HeaderValue>, is_proven: bool) {
    if !is_proven && !broker.unproven.admits(Instant::now()) {
        return;
    }
    let readable = claimed.and_then(|claimed| peek_unverified(&[(RECORD, claimed.as_bytes())]));
    let (sealed, claims) = readable.map(|(sealed, record)| (sealed, claims_of(&record))).unzip();
    let entry = Entry::Record {
        direction: Direction::Received,
        refused: Some(refusal.code.clone().into_owned()),
        detail: Some(refusal.detail.clone()),
        sealed,
        ancestors: Vec::new(),
        claims,
    };
    let _counted_by_the_writer = append(broker, entry, Vec::new()).await;
}

/// Appends an entry and waits, for as long as a call may, until it is durable.
///
/// # Errors
/// It is not in the log.
pub async fn append(broker: &Broker, entry: Entry, certificates: Vec<(String, String)>) -> Result<(), LogError> {
    let unavailable = |why: &str| LogError::Unavailable(why.to_owned());
    let started = broker.started.get().ok_or_else(|| unavailable("not started"))?;
    let deadline = ms(broker.settings.timeouts_ms.log_write);
    timeout(deadline, started.log.queue_append(entry, certificates).logged())
        .await
        .unwrap_or_else(|_| Err(unavailable("too slow")))
}

/// Logs the copy of a record that is durable already: the receipt, which is waited for, is queued behind it.
fn append_nowait(broker: &Broker, entry: Entry, certificates: Vec<(String, String)>) -> Result<(), LogError> {
    let started = broker.started.get().ok_or_else(|| LogError::Unavailable("not started".to_owned()))?;
    started.log.append_nowait(entry, certificates)
}

fn claims_of(record: &Record) -> Claims {
    Claims {
        iss: record.iss.to_string(),
        aud: record.aud.clone(),
        jti: record.jti.to_string(),
        exp: record.exp,
        cid: record.cid.to_string(),
        hop: u32::try_from(record.hop).unwrap_or(u32::MAX),
        op: record.op.clone(),
        args_hash: None,
    }
}
