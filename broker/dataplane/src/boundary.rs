//! Calls into another trust domain that must learn nothing of the chain: sealed boundaries.
//!
//! Owns: whether a boundary is sealed, and the root that begins anew behind it. Does not own: the partner's side,
//! which lists the gateways that may do that (crate `hopseal_custody`).
//!
//! The partner sees a root of the gateway with a name and task of its own, the user of the token that the gateway
//! exchanged for this partner or none, what is left of the authority as far as it reaches the partner, and one hash
//! that commits to the newest internal record.
//!
//! Source: custody-wire §8.4.

use hopseal_custody::authority::{AudiencePattern, Authority};
use hopseal_custody::compose::Root;
use hopseal_custody::hash::RandomId;
use hopseal_custody::limits::{DEFAULT_HOPS, MAX_CHAIN_AGE_S};
use hopseal_custody::record::{Continuation, Task};
use hopseal_custody::usertoken::UserToken;
use http::HeaderMap;

use crate::broker::Broker;
use crate::clock;
use crate::directory::Component;
use crate::operation::Operation;
use crate::outbound::{Caller, Parent};
use crate::problem::{Refusal, refusal_of};
use crate::terms::Terms;
use crate::users;

/// Whether a call to `callee` begins a chain of its own; a new root, which has no history, is one already.
pub fn is_sealed(broker: &Broker, callee: &Component, parent: &Parent) -> bool {
    let domain = callee.id.trust_domain();
    let is_other = domain != broker.settings.trust_domain;
    let is_new = matches!(parent, Parent::Root { is_new: true, .. });
    is_other && !is_new && broker.settings.boundaries.get(domain).is_some_and(|boundary| boundary.sealed)
}

/// The root behind the boundary; takes the chain's own token out of `list` and keeps one that was exchanged for it.
///
/// # Errors
/// The authority does not cover the call, or the exchanged token does not hold.
pub fn seal(
    broker: &Broker,
    (caller, callee): (&Caller, &Component),
    (parent, terms): (Parent, &Terms),
    operation: &Operation,
    list: &mut HeaderMap,
) -> Result<Parent, Refusal> {
    let (left, hop, cont) = match &parent {
        Parent::Call(chain) => {
            let left = terms.apply(chain.authority()).map_err(refusal_of)?;
            let cont = Continuation { rec: chain.hash(), cid: chain.cid(), why: "boundary".to_owned() };
            (left, chain.hop() + 1, Some(cont))
        }
        // A task of the gateway itself continues nothing, and has a name that its other calls share.
        Parent::Root { root, .. } | Parent::Sealed { root, .. } => (root.auth.clone(), 0, None),
    };
    let now = clock::now_s();
    left.allow(hop, now, callee.id.as_str(), &[&operation.name, &operation.http]).map_err(refusal_of)?;
    let user = users::exchanged(broker, caller, &parent, list)?;
    let no_randomness = |_| Refusal::new("internal", "no randomness");
    let id = RandomId::generate().map_err(no_randomness)?.to_string();
    let root = Root {
        cid: RandomId::generate().map_err(no_randomness)?,
        task: Task::named(&id).ok_or_else(|| Refusal::new("internal", "task id"))?,
        auth: reduce(&left, hop, callee.id.trust_domain(), user.as_deref(), now),
        cont,
        user,
    };
    Ok(Parent::Sealed { root, hop })
}

/// What `left` allows from `hop` on within `domain`. Scopes of an exchanged token are the partner's own words.
fn reduce(left: &Authority, hop: i64, domain: &str, user: Option<&UserToken>, now: i64) -> Authority {
    let below = format!("spiffe://{domain}/");
    let all = || AudiencePattern::parse(&format!("{below}*")).into_iter().collect();
    let within = |patterns: &Vec<AudiencePattern>| {
        patterns.iter().filter(|own| own.text().starts_with(&below)).cloned().collect()
    };
    let most = i64::try_from(DEFAULT_HOPS - 1).unwrap_or(0);
    Authority {
        scope: user.map_or_else(|| left.scope.clone(), |token| Some(token.scope().clone())),
        exp: user.map_or(i64::MAX, |token| token.user().exp).min(left.exp).min(now + MAX_CHAIN_AGE_S),
        hops: (left.hops - hop).min(most),
        aud: Some(left.aud.as_ref().map_or_else(all, within)),
        ops: left.ops.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_boundary_only_the_rest_and_only_the_partner_is_reached() {
        let pattern = |text: &str| AudiencePattern::parse(text).unwrap();
        let left = Authority { scope: None, exp: 2_000, hops: 3, aud: None, ops: None };
        let reduced = reduce(&left, 2, "b.example", None, 1_000);
        assert_eq!((reduced.exp, reduced.hops), (1_900, 1));
        assert_eq!(reduced.aud, Some(vec![pattern("spiffe://b.example/*")]));
        let listed = vec![pattern("spiffe://a.example/*"), pattern("spiffe://b.example/tool")];
        let left = Authority { exp: 1_010, aud: Some(listed), ..left };
        let reduced = reduce(&left, 0, "b.example", None, 1_000);
        assert_eq!((reduced.exp, reduced.hops), (1_010, 3));
        assert_eq!(reduced.aud, Some(vec![pattern("spiffe://b.example/tool")]));
    }
}
