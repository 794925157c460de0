//! Step 5 of custody-wire §6: who sealed a statement, with which key, and that the seal covers it.
//!
//! Owns: the order of (a) to (d) and the use of the caches. Does not own: which statements a message needs.

use std::sync::Arc;

use super::{Ancestor, Inline};
use crate::cache::{Caches, VerifiedSeal, VerifiedStatement};
use crate::cert::Certificate;
use crate::error::{Code, Rejection, Result};
use crate::limits::MAX_PATH_CANDIDATES;
use crate::seal::UnverifiedStatement;
use crate::statement::StatementClaims;
use crate::trust::{Bundles, TrustBundle, ValidPath};

/// Looks authorities up by their subject.
type Source<'a> = &'a dyn Fn(&[u8]) -> Vec<Arc<Certificate>>;

/// Step 5 for the statements of one message.
pub(super) struct Prover<'a> {
    pub(super) caches: &'a Caches,
    pub(super) bundles: &'a Bundles,
    pub(super) certificates: &'a [Arc<Certificate>],
    /// Whom cache entries are charged to.
    pub(super) peer: &'a str,
}

impl Prover<'_> {
    /// The proven ancestor; nothing is done again for a text that was proven with this bundle.
    pub(super) fn prove(&self, ancestor: Ancestor) -> Result<Arc<VerifiedStatement>> {
        match ancestor {
            Ancestor::Known(known) if self.is_current(&known) => Ok(known),
            Ancestor::Known(known) => self.check_again(&known),
            Ancestor::Inline(inline) => {
                let cached = self.caches.statement(&inline.statement.hash());
                match cached.filter(|known| known.sealed() == inline.statement.text()) {
                    Some(known) if self.is_current(&known) => Ok(known),
                    _ => {
                        let at = inline.claims.iat;
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
        self.check(Inline { statement, claims: record, leaf }, at)
    }

    /// True while the bundle is still the one that `known` was proven with.
    fn is_current(&self, known: &VerifiedStatement) -> bool {
        let bundle = self.bundles.get(known.record().iss.trust_domain());
        bundle.is_some_and(|bundle| bundle.version() == known.bundle)
    }

    /// The statement of any type, proven at the time `at`.
    pub(super) fn check<C: StatementClaims>(&self, element: Inline<C>, at: i64) -> Result<Arc<VerifiedStatement<C>>> {
        let Inline { statement, claims, leaf } = element;
        // (a)
        let id = leaf.identity().map_err(|reason| Rejection::new(Code::Untrusted, reason))?;
        // (b)
        let Some(bundle) = self.bundles.get(id.trust_domain()) else {
            return Err(Rejection::new(Code::Untrusted, "the trust domain is not known"));
        };
        let path = self.path(&leaf, bundle, at)?;
        // (c)
        if claims.iss() != id {
            return Err(Rejection::new(Code::Identity, "the statement names another issuer than its leaf"));
        }
        // (d)
        if !statement.path_holds() || !self.signature_holds(&statement, &leaf) {
            return Err(Rejection::new(Code::Signature, "the seal does not cover the statement"));
        }
        Ok(Arc::new(VerifiedStatement {
            sealed: statement.text().to_owned(),
            hash: statement.hash(),
            seal_hash: statement.seal_hash(),
            claims,
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
        self.caches.count_signature_check();
        let holds = statement.signature_holds(leaf);
        if holds {
            self.caches.remember_seal(hash, claimed, self.peer);
        }
        holds
    }
}
