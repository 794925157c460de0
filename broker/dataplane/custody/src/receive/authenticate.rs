//! Steps 5, 12 and 13 of custody-wire §6: signatures, paths, authority.

use std::sync::Arc;

use super::prove::Prover;
use super::{Examined, Inline, Policy, Verified};
use crate::authority::{AudiencePattern, Authority, Narrowing};
use crate::behalf::{Behalf, verify_behalf};
use crate::cache::{Caches, VerifiedStatement};
use crate::cert::Certificate;
use crate::chain::Chain;
use crate::error::{Code, Missing, Rejection, Result};
use crate::record::{Record, Task};
use crate::seal::UnverifiedStatement;
use crate::statement::StatementClaims as _;
use crate::trust::Bundles;

pub(super) fn authenticate(
    caches: &Caches,
    examined: Examined,
    bundles: &Bundles,
    policy: &Policy,
    operations: &[&str],
    now: i64,
) -> Result<Verified> {
    let Examined { ancestors, newest, certificates, own_id, peer, presented } = examined;
    if bundles.is_empty() {
        return Err(Rejection::new(Code::Unavailable, "no bundle is known"));
    }
    // 5
    let prover = Prover { caches, bundles, certificates: &certificates, peer: &peer };
    let ancestors = ancestors.into_iter().map(|ancestor| prover.prove(ancestor)).collect::<Result<Vec<_>>>()?;
    let newest = prover.check(*newest, now)?;
    let root = Arc::clone(ancestors.first().unwrap_or(&newest));
    // 12
    let (task, ceiling) = check_root(caches, root.record(), policy, now)?;
    let behalf = verify_behalf(&root, &ceiling, &presented, &policy.issuers, &own_id, (&peer, now))?;
    check_starter(root.record(), behalf.as_ref(), policy)?;
    // 13
    let atts = ancestors.iter().chain([&newest]).map(|statement| statement.record().att.as_ref());
    let authority = fold(&ceiling, atts)?;
    authority.allow(newest.record().hop, now, own_id.as_str(), operations)?;
    // 14, the part that is the same for every broker
    let chain = Chain::new(ancestors, newest, task, authority, behalf);
    if chain.path().any(|id| policy.forbidden_on_path.contains(id)) {
        return Err(Rejection::new(Code::Forbidden, "a component on the path is not wanted"));
    }
    Ok(Verified { root: root.record().iss.clone(), cid: chain.cid(), chain, peer })
}

/// The statement in `sealed`, proven at its `iat` with one of `certificates` as its leaf.
///
/// # Errors
/// The code of the first check that fails.
pub(super) fn reverify(
    caches: &Caches,
    sealed: &str,
    certificates: &[Arc<Certificate>],
    bundles: &Bundles,
) -> Result<Arc<VerifiedStatement>> {
    let statement = UnverifiedStatement::parse(sealed)?;
    let record = Record::parse(statement.claims())?;
    let x5t = statement.seal().x5t;
    let Some(leaf) = certificates.iter().find(|known| known.thumbprint() == x5t).cloned() else {
        return Err(Rejection::unresolved(vec![Missing::Certificate(x5t)]));
    };
    let peer = record.iss.clone();
    let prover = Prover { caches, bundles, certificates, peer: peer.as_str() };
    let at = record.iat;
    prover.check(Inline { statement, claims: record, leaf }, at)
}

/// The authority left after each hop's `att`, oldest first.
///
/// # Errors
/// `authority` if any widens.
pub(crate) fn fold<'a>(ceiling: &Authority, atts: impl Iterator<Item = Option<&'a Narrowing>>) -> Result<Authority> {
    let mut authority = ceiling.clone();
    for att in atts.flatten() {
        authority = authority.narrow(att)?;
    }
    Ok(authority)
}

fn check_root(caches: &Caches, root: &Record, policy: &Policy, now: i64) -> Result<(Task, Authority)> {
    caches.check_root(&root.cid, &root.iss, now)?;
    let refuse = |detail: &str| Err(Rejection::new(Code::Authority, detail));
    let (Some(_), Some(auth), Some(task)) = (&root.obo, &root.auth, &root.task) else {
        return refuse("the root does not say for whom, for what or how far");
    };
    if auth.exp - root.iat > policy.authority_s() {
        return refuse("the root's authority lasts too long");
    }
    Ok((task.clone(), auth.clone()))
}

/// Who may begin what: chains on nobody's behalf, for a user that only they vouch for, and sealed ones.
fn check_starter(root: &Record, behalf: Option<&Behalf>, policy: &Policy) -> Result<()> {
    let refuse = |detail: &str| Err(Rejection::new(Code::Authority, detail));
    let is_among = |patterns: &[AudiencePattern]| patterns.iter().any(|pattern| pattern.matches(root.iss.as_str()));
    match behalf {
        None if !is_among(&policy.autonomous_roots) => return refuse("the root may not act on nobody's behalf"),
        Some(behalf) if behalf.token().is_none() && !is_among(&policy.unverified_users) => {
            return refuse("the root may not assert a user whose token cannot be verified here");
        }
        _ => {}
    }
    let is_sealing = root.cont.as_ref().is_some_and(|cont| cont.why == "boundary");
    if is_sealing && !is_among(&policy.sealing_gateways) {
        return refuse("the root may not seal a boundary");
    }
    Ok(())
}
