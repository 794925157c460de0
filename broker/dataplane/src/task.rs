//! Tasks: the roots that a component may start, and those that go on where a chain ends.
//!
//! Owns: a new root's task, user and authority. Does not own: reading what components ask for (see `requests`),
//! verifying users' tokens (see `users`), roots behind a boundary (see `boundary`).
//!
//! Source: runtime.md "Tasks"; custody-wire §8.2 to §8.4.

use std::sync::Arc;

use hopseal_custody::authority::{Authority, Narrowing};
use hopseal_custody::chain::Chain;
use hopseal_custody::compose::Root;
use hopseal_custody::hash::RandomId;
use hopseal_custody::limits::{DEFAULT_HOPS, MAX_CHAIN_AGE_S};
use hopseal_custody::record::{Continuation, Task, User};
use hopseal_custody::usertoken::UserToken;

use crate::broker::{Broker, Context, Continues};
use crate::clock;
use crate::gathered::Gathered;
use crate::outbound::Caller;
use crate::problem::Refusal;
use crate::terms::Terms;
use crate::users;

/// Why a root continues an earlier chain, as far as a component may say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The component's own task goes on beyond the age limit of chains.
    Resume,
    /// What the component was called with is processed later.
    Queue,
}

impl Why {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Resume, Self::Queue].into_iter().find(|why| why.as_str() == text)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Queue => "queue",
        }
    }
}

/// A fresh root of `caller` on behalf of `user`, with a random task and the default authority.
///
/// # Errors
/// `may_not_start`.
pub fn new_root(caller: &Caller, now: i64, user: Option<Arc<UserToken>>) -> Result<Root, Refusal> {
    open(caller, now, None, &Narrowing::default(), user)
}

/// A root of `caller` for `task`, at most with the default authority.
///
/// # Errors
/// `may_not_start`; `request_invalid` if `limits` ask for more.
pub fn open(
    caller: &Caller,
    now: i64,
    task: Option<Task>,
    limits: &Narrowing,
    user: Option<Arc<UserToken>>,
) -> Result<Root, Refusal> {
    let task = match task {
        Some(task) => task,
        None => Task::named(&random()?.to_string()).ok_or_else(|| Refusal::new("internal", "task id"))?,
    };
    let ceiling = Authority { scope: None, exp: i64::MAX, hops: most_hops(), aud: None, ops: None };
    start(caller, now, (task, None), &ceiling, limits, user)
}

/// A root of `caller` that continues what `context` stands for.
///
/// # Errors
/// `may_not_start`; `nothing_to_continue`; `user_token_mismatch`; `request_invalid` if `limits` ask for more.
pub fn renew(
    broker: &Broker,
    caller: &Caller,
    context: &Context,
    why: Why,
    limits: &Narrowing,
    brought: Option<Arc<UserToken>>,
) -> Result<Root, Refusal> {
    let now = clock::now_s();
    match (&context.continues, why) {
        (Continues::Task(root), Why::Resume) => resume(broker, caller, (root, context), limits, brought, now),
        (Continues::Call(chain), Why::Queue) => dequeue(caller, (chain, &context.terms), limits, brought, now),
        (Continues::Call(_), Why::Resume) => Err(Refusal::new("request_invalid", "only its root resumes a chain")),
        (Continues::Task(_), Why::Queue) => Err(Refusal::new("request_invalid", "a task came from no queue")),
    }
}

/// The same task and user under a new name; the authority lasts longer and is otherwise the same.
fn resume(
    broker: &Broker,
    caller: &Caller,
    (root, context): (&Root, &Context),
    limits: &Narrowing,
    brought: Option<Arc<UserToken>>,
    now: i64,
) -> Result<Root, Refusal> {
    let rec = context.receipts.newest_record();
    let rec = rec.ok_or_else(|| Refusal::new("nothing_to_continue", "no call was made with this handle"))?;
    let user = match (&root.user, brought) {
        (None, None) => None,
        (Some(own), None) => Some(users::still_valid(broker, caller, own)?),
        (Some(own), Some(new)) if own.user().iss == new.user().iss && own.user().sub == new.user().sub => Some(new),
        (_, Some(_)) => return Err(Refusal::new("user_token_mismatch", "a chain is resumed for its own user")),
    };
    let scope = root.auth.scope.as_ref().map(|scope| match &user {
        Some(token) => scope.intersection(token.scope()).cloned().collect(),
        None => scope.clone(),
    });
    let ceiling = Authority { exp: i64::MAX, scope, ..root.auth.clone() };
    let cont = Continuation { rec, cid: root.cid, why: Why::Resume.as_str().to_owned() };
    start(caller, now, (root.task.clone(), Some(cont)), &ceiling, limits, user)
}

/// The chain's task with what is left of its authority; for its own user only, with a token that was issued to the
/// component.
fn dequeue(
    caller: &Caller,
    (chain, terms): (&Chain, &Terms),
    limits: &Narrowing,
    brought: Option<Arc<UserToken>>,
    now: i64,
) -> Result<Root, Refusal> {
    let name = |user: &User| (user.iss.clone(), user.sub.clone());
    let delivered_for = chain.behalf().map(|behalf| name(behalf.user()));
    if brought.as_ref().is_some_and(|token| delivered_for != Some(name(token.user()))) {
        return Err(Refusal::new("user_token_mismatch", "what was delivered is processed for its own user"));
    }
    let left = terms.apply(chain.authority()).map_err(|rejection| Refusal::new("request_invalid", rejection.detail))?;
    let hops = left.hops - chain.hop() - 1;
    if hops < 0 {
        return Err(Refusal::new("nothing_to_continue", "the chain may not reach another hop"));
    }
    let cont = Continuation { rec: chain.hash(), cid: chain.cid(), why: Why::Queue.as_str().to_owned() };
    let ceiling = Authority { hops: hops.min(most_hops()), ..left };
    start(caller, now, (chain.task().clone(), Some(cont)), &ceiling, limits, brought)
}

/// A handle for the siblings of `root`, with what happened under it so far.
///
/// # Errors
/// `overloaded`: too many handles are in use.
pub fn issue(broker: &Broker, caller: &Caller, root: Root, receipts: Arc<Gathered>) -> Result<String, Refusal> {
    let until = root.auth.exp;
    let context = Context { continues: Continues::Task(root), receipts, terms: Terms::default() };
    let handle = broker.handles.issue(&caller.instance, Arc::new(context), until);
    handle.ok_or_else(|| Refusal::new("overloaded", "too many handles"))
}

fn start(
    caller: &Caller,
    now: i64,
    (task, cont): (Task, Option<Continuation>),
    ceiling: &Authority,
    limits: &Narrowing,
    user: Option<Arc<UserToken>>,
) -> Result<Root, Refusal> {
    if !caller.component.may_start {
        return Err(Refusal::new("may_not_start", caller.component.qualified.clone()));
    }
    let mut ceiling = ceiling.clone();
    // No verifier may depend on an SVID that ended long ago: a chain is not longer than its age limit.
    ceiling.exp = ceiling.exp.min(now + MAX_CHAIN_AGE_S);
    if let Some(token) = &user {
        ceiling.exp = ceiling.exp.min(token.user().exp);
        // A scope that is absent would be every scope; a user's chain has at most that of the token.
        ceiling.scope = Some(match ceiling.scope {
            Some(scope) => scope.intersection(token.scope()).cloned().collect(),
            None => token.scope().clone(),
        });
    }
    let auth = ceiling.narrow(limits).map_err(|rejection| Refusal::new("request_invalid", rejection.detail))?;
    Ok(Root { cid: random()?, task, auth, cont, user })
}

fn random() -> Result<RandomId, Refusal> {
    RandomId::generate().map_err(|_| Refusal::new("internal", "no randomness"))
}

fn most_hops() -> i64 {
    i64::try_from(DEFAULT_HOPS - 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_may_resume_and_dequeue_and_nothing_else() {
        assert_eq!(Why::parse("resume"), Some(Why::Resume));
        assert_eq!(Why::parse("queue"), Some(Why::Queue));
        assert_eq!(Why::parse("boundary"), None);
    }
}
