//! Every call's policy decision, in one place: asked, noted in the call's record, answered.
//!
//! Owns: which facts a question has, and what a refusal looks like on either side. Does not own: the policies
//! (see `policy`).

use hopseal_custody::error::{Code, Rejection};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::receive::Verified;

use crate::broker::Broker;
use crate::call::CallRecord;
use crate::directory::Component;
use crate::operation::Operation;
use crate::outbound::{Caller, Parent};
use crate::policy::{Question, Resource, Side};
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
    (caller, resource): (&Caller, Resource<'_>),
    (parent, terms): (&Parent, &Terms),
    requested: Requested<'_>,
    record: &mut CallRecord,
) -> Result<(), Refusal> {
    let own = caller.leaf.id.as_str();
    let (hop, mut chain, task) = match parent {
        Parent::Root { root, .. } => (0, Vec::new(), &root.task),
        Parent::Sealed { root, hop } => (*hop, Vec::new(), &root.task),
        Parent::Call(before) => {
            (before.hop() + 1, before.path().map(SpiffeId::as_str).collect::<Vec<_>>(), before.task())
        }
    };
    chain.push(own);
    record.hop = Some(hop);
    let question = Question {
        caller: own,
        resource,
        caller_documented: true,
        side: Side::Caller,
        requested,
        hop: u32::try_from(hop).unwrap_or(u32::MAX),
        chain: &chain,
        is_verified: true,
        task: Some(&task.id),
        approvals: &terms.approvals,
        user: users::user_of(parent),
    };
    decide(broker, &question, record).map_err(|why| Refusal::new("policy_denied", why))
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
    let path: Vec<&str> = chain.path().map(SpiffeId::as_str).collect();
    let question = Question {
        caller: newest.iss.as_str(),
        resource: Resource::Component(callee.id.as_str()),
        caller_documented: broker.directory.by_id(&newest.iss).is_some(),
        side: Side::Callee,
        requested,
        hop: u32::try_from(chain.hop()).unwrap_or(u32::MAX),
        chain: &path,
        is_verified: true,
        task: Some(&chain.task().id),
        approvals: &newest.approvals,
        user: chain.behalf().map(users::on_behalf),
    };
    decide(broker, &question, record).map_err(|why| refusal_of(Rejection::new(Code::Forbidden, why)))
}

/// Decides a call of an mTLS peer that sends no custody record: its SVID is all that is known of it.
///
/// # Errors
/// `policy_denied`.
#[allow(dead_code, reason = "called where peers without custody are accepted")]
pub fn judge_unrecorded(
    broker: &Broker,
    caller: &SpiffeId,
    callee: &Component,
    requested: Requested<'_>,
    record: &mut CallRecord,
) -> Result<(), Refusal> {
    let question = Question {
        caller: caller.as_str(),
        resource: Resource::Component(callee.id.as_str()),
        caller_documented: broker.directory.by_id(caller).is_some(),
        side: Side::Callee,
        requested,
        hop: 0,
        chain: &[caller.as_str()],
        is_verified: false,
        task: None,
        approvals: &[],
        user: None,
    };
    decide(broker, &question, record).map_err(|why| Refusal::new("policy_denied", why))
}

fn decide(broker: &Broker, question: &Question<'_>, record: &mut CallRecord) -> Result<(), String> {
    let policy = broker.policy().ok_or_else(|| "no policy is loaded".to_owned())?;
    let decision = policy.decide(question);
    record.policy.clone_from(&decision.policies);
    if decision.allowed { Ok(()) } else { Err(decision.errors.join("; ")) }
}
