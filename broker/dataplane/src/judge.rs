//! Every call's policy decision, in one place: asked, noted in the call's record, asked again while the call is open.
//!
//! Owns: which facts a question has, and what a refusal looks like on either side. Does not own: the policies
//! (see `policy`), ending a call (whoever carries its bytes watches its record).

use std::borrow::Cow;
use std::sync::Arc;

use hopseal_custody::error::{Code, Rejection};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::receive::Verified;
use hopseal_custody::record::Approval;

use crate::broker::Broker;
use crate::call::CallRecord;
use crate::clock;
use crate::decisions::Made;
use crate::directory::Component;
use crate::open_calls::Open;
use crate::operation::Operation;
use crate::outbound::{Caller, Parent};
use crate::policy::{Decision, Policy, Question, Resource, Side};
use crate::problem::{Refusal, refusal_of};
use crate::terms::Terms;
use crate::users;

/// What a request asks for, as policies see it.
#[derive(Debug, Clone, Copy)]
pub struct Requested<'a> {
    pub operation: &'a Operation,
    pub method: &'a str,
    pub path: &'a str,
}

/// Decides a call of a component of this node, to another one or to an external service.
///
/// # Errors
/// `policy_denied`.
pub fn judge_outgoing(
    broker: &Broker,
    (caller, resource): (&Caller, Resource),
    (parent, terms): (&Parent, &Terms),
    requested: Requested<'_>,
    record: &mut CallRecord,
) -> Result<(), Refusal> {
    let (hop, mut chain, task) = match parent {
        Parent::Root { root, .. } => (0, Vec::new(), &root.task),
        Parent::Sealed { root, hop } => (*hop, Vec::new(), &root.task),
        Parent::Call(before) => (before.hop() + 1, before.path().map(ToString::to_string).collect(), before.task()),
    };
    chain.push(caller.leaf.id.to_string());
    record.hop = Some(hop);
    let question = Question {
        hop: u32::try_from(hop).unwrap_or(u32::MAX),
        chain,
        task: Some(task.id.clone()),
        user: users::user_of(parent),
        ..question(Side::Caller, &caller.leaf.id, resource, requested)
    };
    decide(broker, with_approvals(question, &terms.approvals), requested.operation, record)
        .map_err(|denied| denied.refusal(|why| Refusal::new("policy_denied", why)))
}

/// Decides a peer's call whose chain is verified.
///
/// # Errors
/// `custody_forbidden`.
pub fn judge_incoming(
    broker: &Broker,
    callee: &Component,
    verified: &Verified,
    requested: Requested<'_>,
    record: &mut CallRecord,
) -> Result<(), Refusal> {
    let chain = verified.chain();
    let newest = chain.newest().record();
    let question = Question {
        caller_documented: broker.directory.by_id(&newest.iss).is_some(),
        hop: u32::try_from(chain.hop()).unwrap_or(u32::MAX),
        chain: chain.path().map(ToString::to_string).collect(),
        task: Some(chain.task().id.clone()),
        user: chain.behalf().map(users::on_behalf),
        ..question(Side::Callee, &newest.iss, Resource::Component(callee.id.to_string()), requested)
    };
    decide(broker, with_approvals(question, &newest.approvals), requested.operation, record)
        .map_err(|denied| denied.refusal(forbidden))
}

/// Decides a call of an mTLS peer that sends no custody record: its SVID is all that is known of it.
///
/// # Errors
/// `policy_denied`.
pub fn judge_unrecorded(
    broker: &Broker,
    caller: &SpiffeId,
    callee: &Component,
    requested: Requested<'_>,
    record: &mut CallRecord,
) -> Result<(), Refusal> {
    let question = Question {
        caller_documented: broker.directory.by_id(caller).is_some(),
        chain: vec![caller.to_string()],
        recorded: false,
        ..question(Side::Callee, caller, Resource::Component(callee.id.to_string()), requested)
    };
    decide(broker, question, requested.operation, record)
        .map_err(|denied| denied.refusal(|why| Refusal::new("policy_denied", why)))
}

/// The refusal of a call that was allowed when it came in and is not any more.
pub fn revoked(open: &Open) -> Refusal {
    let (why, id) = open.why.get().cloned().unwrap_or_default();
    let why = format!("no longer allowed: {why}");
    match open.question.side {
        Side::Callee if open.question.recorded => forbidden(why).decided(id),
        Side::Caller | Side::Callee => Refusal::new("policy_denied", why).decided(id),
    }
}

fn forbidden(why: String) -> Refusal {
    refusal_of(Rejection::new(Code::Forbidden, why))
}

fn question(side: Side, caller: &SpiffeId, resource: Resource, requested: Requested<'_>) -> Question {
    let Requested { operation, method, path } = requested;
    Question {
        caller: caller.to_string(),
        resource,
        caller_documented: true,
        side,
        protocol: Cow::Borrowed(operation.protocol.as_str()),
        http: operation.http.clone(),
        operation: operation.name.clone(),
        method: method.to_owned(),
        path: path.to_owned(),
        mcp_session: operation.mcp_session,
        target: operation.target.clone(),
        a2a_context: operation.context_id.clone(),
        args_hash: operation.args_hash.map(|hash| hash.to_string()),
        hop: 0,
        chain: Vec::new(),
        recorded: true,
        task: None,
        approvals: Vec::new(),
        approved_by: Vec::new(),
        user: None,
        at_ms: None,
        evidence_age_s: None,
    }
}

fn with_approvals(question: Question, approvals: &[Approval]) -> Question {
    let approved_by = approvals.iter().map(|approval| approval.by.clone()).collect();
    Question { approvals: approvals.iter().map(|approval| approval.id.clone()).collect(), approved_by, ..question }
}

/// A call that policy does not allow.
struct Denied {
    /// For the operator.
    why: String,
    /// Of the decision.
    id: String,
    /// Whether rules would have to read what nobody can.
    is_unreadable: bool,
}

impl Denied {
    fn refusal(self, denied: impl FnOnce(String) -> Refusal) -> Refusal {
        let refusal =
            if self.is_unreadable { Refusal::new("operation_unreadable", self.why) } else { denied(self.why) };
        refusal.decided(self.id)
    }
}

fn decide(broker: &Broker, question: Question, operation: &Operation, record: &mut CallRecord) -> Result<(), Denied> {
    // Entered before it is decided: a change of policy in between finds it among the open calls.
    let entered = broker.open_calls.enter(question);
    let id = broker.decisions.new_id();
    record.decision = Some(id.clone());
    let Some(policy) = broker.policy() else {
        return Err(Denied { why: "no policy is loaded".to_owned(), id, is_unreadable: false });
    };
    let decision = Arc::new(policy.decide(&entered.open.question));
    note(broker, &id, &entered.open, &decision, false);
    record.policy.clone_from(&decision.policies);
    record.would_deny.clone_from(&decision.would_deny);
    if decision.allowed {
        record.watch(entered);
        return Ok(());
    }
    record.question = Some(Arc::clone(&entered.open));
    let why = match operation.unreadable.filter(|_| decision.is_unreadable) {
        Some(reason) => format!("{}: {reason}", decision.detail),
        None => decision.detail.clone(),
    };
    Err(Denied { why, id, is_unreadable: decision.is_unreadable })
}

fn note(broker: &Broker, id: &str, open: &Arc<Open>, decision: &Arc<Decision>, revoked: bool) {
    let made =
        Made { id: id.to_owned(), at_ms: clock::signed_ms(), open: Arc::clone(open), decision: Arc::clone(decision) };
    broker.decisions.note(made, revoked);
}

/// Judges every open call again and ends those that are no longer allowed; `changing` only those whose answer can
/// change with time alone.
pub fn judge_again(broker: &Broker, policy: &Policy, changing: bool) {
    for open in broker.open_calls.current() {
        if changing && !policy.is_changing(&open.question) {
            continue;
        }
        let decision = Arc::new(policy.decide(&open.question));
        if !decision.allowed {
            let id = broker.decisions.new_id();
            note(broker, &id, &open, &decision, true);
            open.revoke(decision.detail.clone(), id);
        }
    }
}
