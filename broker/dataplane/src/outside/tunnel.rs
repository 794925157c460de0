//! Tunnels: `CONNECT host:port` where a document says that a service is opaque.
//!
//! Owns: opening one, its end for whatever reason, and the log's line about what passed. Does not own: what passes:
//! nothing of it is read, not even the name that its TLS asks for.
//!
//! A tunnel lives as long as it would be opened again: identity, documents and policies are looked at whenever they
//! change, and limits end one that does not end itself.

use std::sync::Arc;
use std::time::Duration;

use hopseal_custody::fields::HANDLE;
use hopseal_custody::hash::{RandomId, StatementHash};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::call::Remote;
use super::compose::{Told, compose_record};
use super::names::{read_name, read_port};
use super::traffic::{Counted, Traffic, Way};
use crate::broker::Broker;
use crate::call::{CallRecord, Custody};
use crate::callers::Connected;
use crate::headers;
use crate::instance::Leaf;
use crate::judge::{Requested, judge_outgoing};
use crate::log::{Direction, Ended, Entry, SealRequest, Sealed, Unrecorded};
use crate::operation::{Operation, Protocol};
use crate::outbound::{Caller, Parent, identify, parent_of};
use crate::outgoing::seal;
use crate::problem::Refusal;
use crate::reply::{AnswerBody, BodyFailed, Reply};
use crate::settings::ms;
use crate::task;
use crate::voucher::join_decision;

const IDLE: Duration = Duration::from_secs(300);
const LIFE: Duration = Duration::from_secs(3600);
/// How often the identity is looked at beside every change: it ends by the clock, too.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is remembered of a tunnel while it is open.
struct Tunnel {
    caller: Caller,
    remote: Remote,
    operation: Operation,
    cid: RandomId,
    rec: StatementHash,
    tcp: TcpStream,
}

/// Answers `CONNECT`; never fails, refusals are answers.
pub async fn open(
    broker: &Arc<Broker>,
    connected: &Arc<Connected>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let mut record = CallRecord::begin("out", &broker.events, &broker.stats);
    record.custody = Custody::Tunnel;
    match prepare(broker, connected, &request, &mut record).await {
        Ok((tunnel, handle)) => {
            record.answered(StatusCode::OK);
            let run = run(Arc::clone(broker), Arc::clone(connected), on(request), tunnel, record);
            tokio::spawn(run);
            let mut response = Response::new(AnswerBody::opening());
            let value = handle.as_deref().and_then(headers::custody_value);
            response.headers_mut().extend(value.map(|value| (HeaderName::from_static(HANDLE), value)));
            response
        }
        Err(refusal) => {
            record.refused(&refusal);
            refusal.response().map(|body| AnswerBody::new(Reply::whole(body), record))
        }
    }
}

async fn prepare(
    broker: &Arc<Broker>,
    connected: &Connected,
    request: &Request<Incoming>,
    record: &mut CallRecord,
) -> Result<(Tunnel, Option<String>), Refusal> {
    record.occupy(&broker.calls)?;
    let (host, port) = target_of(request)?;
    let instance = connected.instance(&broker.events, ms(broker.settings.timeouts_ms.caller_verdict)).await?;
    let caller = identify(broker, instance)?;
    record.caller = Some(caller.leaf.id.to_string());
    record.occupy_part(&broker.calls, &broker.component_calls, &caller.leaf.id)?;
    let remote = Remote::External { host: host.clone(), port };
    record.callee = Some(remote.audience());
    if !caller.component.outside.allows(&host, port, true) {
        return Err(Refusal::new("egress_denied", format!("{host}:{port} is not listed as opaque")));
    }
    let (parent, context) = parent_of(broker, &caller, request.headers())?;
    let (receipts, terms) =
        context.map_or_else(Default::default, |found| (Arc::clone(&found.receipts), found.terms.clone()));
    let operation = Operation::of(Protocol::Connect, format!("CONNECT {host}:{port}"));
    record.asks(&operation);
    let requested = Requested { operation: &operation, method: "CONNECT", path: "" };
    judge_outgoing(broker, (&caller, remote.resource()), (&parent, &terms), requested, record)?;
    let tcp = broker.web.dial(&host, port).await?;
    let (audience, bound) = (remote.audience(), HeaderMap::new());
    let told = Told {
        caller: &caller,
        parent: &parent,
        terms: &terms,
        inputs: &receipts.newest(),
        audience: &audience,
        method: "CONNECT",
        target_uri: &audience,
        bound: &bound,
        operation: &operation,
        srv: None,
        streams: false,
    };
    let (payload, claims, cid) = compose_record(&told)?;
    record.cid = Some(claims.cid.clone());
    let rec = payload.statement_hash(&caller.leaf.thumbprint());
    let leaf = Arc::<Leaf>::clone(&caller.leaf);
    let receiver_trust_domain = leaf.id.trust_domain().to_owned();
    let _kept_here =
        seal(broker, SealRequest { leaf, payload, receiver_trust_domain, claims: Sealed::Record(claims) }).await?;
    receipts.sent(rec);
    let handle = match &parent {
        Parent::Root { root, is_new: true } => Some(task::issue(broker, &caller, root.clone(), receipts)?),
        _ => None,
    };
    Ok((Tunnel { caller, remote, operation, cid, rec, tcp }, handle))
}

/// Host and port that are asked for; a `Host`, if there is one, agrees.
fn target_of(request: &Request<Incoming>) -> Result<(String, u16), Refusal> {
    let invalid = |why: &str| Refusal::new("host_invalid", why);
    let asked = request.uri().authority().ok_or_else(|| invalid("CONNECT names no host"))?.as_str();
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let name = asked.rsplit_once(':').map_or(asked, |(name, _)| name);
    let agrees = hosts
        .next()
        .is_none_or(|host| [asked, name].iter().any(|either| host.as_bytes().eq_ignore_ascii_case(either.as_bytes())));
    if !agrees || hosts.next().is_some() {
        return Err(invalid("Host and request target disagree"));
    }
    read_target(asked).ok_or_else(|| invalid("CONNECT needs a name and a port"))
}

fn read_target(authority: &str) -> Option<(String, u16)> {
    let (host, digits) = authority.split_once(':')?;
    Some((read_name(host)?, read_port(digits)?))
}

/// Moves bytes until one side ends, a limit is reached, or the tunnel would not be opened any more.
async fn run(
    broker: Arc<Broker>,
    connected: Arc<Connected>,
    upgrade: OnUpgrade,
    tunnel: Tunnel,
    mut record: CallRecord,
) {
    let traffic = Traffic::new();
    let address = tunnel.tcp.peer_addr().map(|address| address.to_string()).ok();
    let (egress, stop) = (&broker.settings.egress, broker.shutdown.stop.clone());
    let (idle, life) = (egress.tunnel_idle_ms.map_or(IDLE, ms), egress.tunnel_life_ms.map_or(LIFE, ms));
    let Tunnel { caller, remote, operation, cid, rec, tcp } = tunnel;
    broker.stats.tunnels.add(1);
    let copied = async {
        let Ok(upgraded) = upgrade.await else { return "never_opened" };
        let mut near = Counted::new(TokioIo::new(upgraded), Way::In, &traffic);
        let mut far = Counted::new(tcp, Way::Back, &traffic);
        copy_bidirectional(&mut near, &mut far).await.map_or("broke_off", |_| "closed")
    };
    let mut why = tokio::select! {
        why = copied => why.to_owned(),
        () = traffic.idle(idle) => "idle".to_owned(),
        () = sleep(life) => "lifetime".to_owned(),
        () = caller.leaf.closed.cancelled() => "withdrawn".to_owned(),
        () = connected.caller.closed.cancelled() => "caller_gone".to_owned(),
        () = stop.cancelled() => "stopped".to_owned(),
        refusal = record.until_revoked() => refusal.code.into_owned(),
        code = disallowed(&broker, &caller, &remote) => code,
    };
    broker.stats.tunnels.add(-1);
    // The component may have gone because its identity did: that is the reason that counts.
    if caller.leaf.closed.is_cancelled() {
        "withdrawn".clone_into(&mut why);
    }
    let (sent, received) = traffic.totals();
    let fin = if why == "closed" { "eof" } else { "abort" };
    if fin == "eof" {
        record.complete();
    } else {
        record.broke_off(&BodyFailed::new("tunnel_closed", why.clone()));
    }
    let line = Unrecorded {
        dir: Direction::Sent,
        verdict: "accepted",
        code: None,
        detail: None,
        custody: "none",
        kind: "tunnel",
        phase: "end",
        id: rec.to_string(),
        iss: caller.leaf.id.to_string(),
        aud: remote.audience(),
        op: Some(operation.name),
        dec: Some(join_decision(record.decision.as_deref(), &record.policy)),
        x5t: Some(caller.leaf.thumbprint().to_string()),
        cid: Some(cid.to_string()),
        rec: Some(rec.to_string()),
        ended: Some(Ended { st: StatusCode::OK.as_u16(), fin, why, received, sent: Some(sent), address }),
    };
    if let Some(started) = broker.started.get() {
        // Its opening is in the log; the writer counts what it loses.
        let _counted_by_the_writer = started.log.append_nowait(Entry::Call(Box::new(line)), Vec::new());
    }
}

/// Resolves with a code when identity or documents would not let the tunnel be opened any more.
async fn disallowed(broker: &Broker, caller: &Caller, remote: &Remote) -> String {
    let mut changes = broker.changes.subscribe();
    loop {
        if let Err(refusal) = still_allowed(broker, caller, remote) {
            return refusal.code.into_owned();
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return "stopped".to_owned() },
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

fn still_allowed(broker: &Broker, caller: &Caller, remote: &Remote) -> Result<(), Refusal> {
    let now = identify(broker, caller.instance.clone())?;
    match remote {
        Remote::External { host, port } if !now.component.outside.allows(host, *port, true) => {
            Err(Refusal::new("egress_denied", "the document does not list it any more"))
        }
        Remote::External { .. } | Remote::Peer(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_needs_a_name_and_a_port() {
        assert_eq!(read_target("DB.example.com:5432"), Some(("db.example.com".into(), 5432)));
        for text in ["db.example.com", ":5432", "db:0", "db:", "db:65536", "u@db:1", "[::1]:5432", "db:1:2", "a b:1"] {
            assert_eq!(read_target(text), None, "{text}");
        }
    }
}
