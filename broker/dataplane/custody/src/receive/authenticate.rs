//! Steps 5, 12 and 13 of custody-wire §6: signatures, paths, authority.

use std::sync::Arc;

use super::{Ancestor, Examined, Inline, Policy, Verified};
use crate::authority::{AudiencePattern, Authority, Narrowing};
use crate::behalf::{Behalf, verify_behalf};
use crate::cache::{Caches, VerifiedSeal, VerifiedStatement};
use crate::cert::Certificate;
use crate::chain::Chain;
use crate::error::{Code, Missing, Rejection, Result};
use crate::limits::MAX_PATH_CANDIDATES;
use crate::record::{Record, Task};
use crate::seal::UnverifiedStatement;
use crate::trust::{Bundles, TrustBundle, ValidPath};

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
    prover.check(Inline { statement, record, leaf }, at)
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

/// Looks authorities up by their subject.
type Source<'a> = &'a dyn Fn(&[u8]) -> Vec<Arc<Certificate>>;

/// Step 5 for the records of one message.
struct Prover<'a> {
    caches: &'a Caches,
    bundles: &'a Bundles,
    certificates: &'a [Arc<Certificate>],
    peer: &'a str,
}

impl Prover<'_> {
    /// The proven ancestor; nothing is done again for a text that was proven with this bundle.
    fn prove(&self, ancestor: Ancestor) -> Result<Arc<VerifiedStatement>> {
        match ancestor {
            Ancestor::Known(known) if self.is_current(&known) => Ok(known),
            Ancestor::Known(known) => self.check_again(&known),
            Ancestor::Inline(inline) => {
                let cached = self.caches.statement(&inline.statement.hash());
                match cached.filter(|known| known.sealed() == inline.statement.text()) {
                    Some(known) if self.is_current(&known) => Ok(known),
                    _ => {
                        let at = inline.record.iat;
                        self.check(*inline, at)
                    }
                }
            }
        }
    }

    /// `known` proven again, because the bundle of its trust domain has changed since.
    fn check_again(&self, known: &VerifiedStatement) -> Result<Arc<VerifiedStatement>> {
        let statement = UnverifiedStatement::parse(known.sealed())?;
        let (record, leaf) = (known.record().clone(), Arc::clone(known.leaf()));
        let at = record.iat;
        self.check(Inline { statement, record, leaf }, at)
    }

    /// True while the bundle is still the one that `known` was proven with.
    fn is_current(&self, known: &VerifiedStatement) -> bool {
        let bundle = self.bundles.get(known.record().iss.trust_domain());
        bundle.is_some_and(|bundle| bundle.version() == known.bundle)
    }

    fn check(&self, element: Inline, at: i64) -> Result<Arc<VerifiedStatement>> {
        let Inline { statement, record, leaf } = element;
        // (a)
        let id = leaf.identity().map_err(|reason| Rejection::new(Code::Untrusted, reason))?;
        // (b)
        let Some(bundle) = self.bundles.get(id.trust_domain()) else {
            return Err(Rejection::new(Code::Untrusted, "the trust domain is not known"));
        };
        let path = self.path(&leaf, bundle, at)?;
        // (c)
        if record.iss != *id {
            return Err(Rejection::new(Code::Identity, "the record names another issuer than its leaf"));
        }
        // (d)
        if !statement.path_holds() || !self.signature_holds(&statement, &leaf) {
            return Err(Rejection::new(Code::Signature, "the seal does not cover the record"));
        }
        Ok(Arc::new(VerifiedStatement {
            sealed: statement.text().to_owned(),
            hash: statement.hash(),
            record,
            leaf: Arc::clone(&leaf),
            path,
            bundle: bundle.version(),
        }))
    }

    fn path(&self, leaf: &Arc<Certificate>, bundle: &TrustBundle, at: i64) -> Result<Arc<ValidPath>> {
        let cached = self.caches.path(&leaf.thumbprint(), &bundle.version());
        if let Some(path) = cached.filter(|path| path.holds_at(at)) {
            return Ok(path);
        }
        let verified = bundle.verify_path(leaf, &self.candidates(leaf), at);
        let path = Arc::new(verified.map_err(|detail| Rejection::new(Code::Untrusted, detail))?);
        self.caches.remember_path(leaf.thumbprint(), bundle.version(), &path, self.peer);
        Ok(path)
    }

    /// Authorities whose names lead upwards from `leaf`.
    ///
    /// Those of the message come first, then those that stood on a proven path, then whatever else is known:
    /// a peer that floods the cache with namesakes of an authority displaces nobody's.
    fn candidates(&self, leaf: &Certificate) -> Vec<Arc<Certificate>> {
        let of_message = |subject: &[u8]| {
            let here = self.certificates.iter().filter(|known| known.may_sign_certificates());
            here.filter(|known| known.subject() == subject).cloned().collect()
        };
        let proven = |subject: &[u8]| self.caches.proven_authorities(subject);
        let known = |subject: &[u8]| self.caches.authorities(subject);
        let sources: [Source<'_>; 3] = [&of_message, &proven, &known];
        let mut found: Vec<Arc<Certificate>> = Vec::new();
        for source in sources {
            let mut wanted: Vec<Vec<u8>> = found.iter().map(|authority| authority.issuer().to_vec()).collect();
            wanted.push(leaf.issuer().to_vec());
            while let Some(subject) = wanted.pop() {
                for authority in source(&subject) {
                    let is_new = found.iter().all(|known| known.thumbprint() != authority.thumbprint());
                    if is_new && found.len() < MAX_PATH_CANDIDATES {
                        wanted.push(authority.issuer().to_vec());
                        found.push(authority);
                    }
                }
            }
        }
        found
    }

    /// A cached success replaces only the signature check itself.
    fn signature_holds(&self, statement: &UnverifiedStatement, leaf: &Certificate) -> bool {
        let (seal, hash) = (statement.seal(), statement.seal_hash());
        let claimed = VerifiedSeal { x5t: seal.x5t, count: seal.count, root: seal.root };
        if self.caches.seal(&hash) == Some(claimed) {
            return true;
        }
        let holds = statement.signature_holds(leaf);
        if holds {
            self.caches.remember_seal(hash, claimed, self.peer);
        }
        holds
    }
}
