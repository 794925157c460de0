//! What earlier messages left behind: certificates, verified seals, paths and statements.
//!
//! Owns: bounded storage with a quota for each peer. Does not own: deciding that something
//! is verified; only `receive` inserts, and only after the check in question succeeded.
//!
//! A lock is held for a look-up or an insertion, never while a signature is checked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bounded::BoundedMap;
use crate::cert::Certificate;
use crate::error::{Code, Rejection, Result};
use crate::hash::{RandomId, StatementHash, Thumbprint};
use crate::ids::SpiffeId;
use crate::limits::{
    AUTHORITY_CACHE_ENTRIES, CERT_CACHE_ENTRIES, CHAIN_ENTRIES, MAX_CHAIN_AGE_S, MAX_SKEW_S, PEER_SHARE,
    PREFIX_CACHE_ENTRIES, SEAL_CACHE_ENTRIES,
};
use crate::merkle::Node;
use crate::record::Record;
use crate::seal::SealHash;
use crate::trust::{BundleVersion, ValidPath};

/// How many entries each cache holds, and of these how many one peer may have caused.
#[derive(Clone, Copy, Debug)]
pub struct CacheSize {
    pub entries: usize,
    pub per_peer: usize,
}

impl CacheSize {
    /// `entries`, a quarter of them for one peer.
    #[must_use]
    pub const fn shared(entries: usize) -> Self {
        Self { entries, per_peer: entries / PEER_SHARE }
    }
}

/// The bounds of all caches.
#[derive(Clone, Copy, Debug)]
pub struct CacheSizes {
    pub certificates: CacheSize,
    pub seals: CacheSize,
    pub prefixes: CacheSize,
    /// Chains whose root issuer is remembered.
    pub chains: CacheSize,
}

impl Default for CacheSizes {
    fn default() -> Self {
        Self {
            certificates: CacheSize::shared(CERT_CACHE_ENTRIES),
            seals: CacheSize::shared(SEAL_CACHE_ENTRIES),
            prefixes: CacheSize::shared(PREFIX_CACHE_ENTRIES),
            chains: CacheSize::shared(CHAIN_ENTRIES),
        }
    }
}

/// One verified statement: text, claims and certificates; of an accepted chain unless it is no record.
#[derive(Debug)]
pub struct VerifiedStatement<C = Record> {
    pub(crate) sealed: String,
    pub(crate) hash: StatementHash,
    pub(crate) seal_hash: SealHash,
    pub(crate) claims: C,
    pub(crate) leaf: Arc<Certificate>,
    pub(crate) path: Arc<ValidPath>,
    /// The state of the bundle that it was verified with.
    pub(crate) bundle: BundleVersion,
}

impl<C> VerifiedStatement<C> {
    /// The sealed text, exactly as it was verified.
    #[must_use]
    pub fn sealed(&self) -> &str {
        &self.sealed
    }

    #[must_use]
    pub fn hash(&self) -> StatementHash {
        self.hash
    }

    /// SHA-256 of its seal's ASCII.
    #[must_use]
    pub fn seal_hash(&self) -> SealHash {
        self.seal_hash
    }

    #[must_use]
    pub fn claims(&self) -> &C {
        &self.claims
    }

    #[must_use]
    pub fn leaf(&self) -> &Arc<Certificate> {
        &self.leaf
    }

    /// The leaf and the intermediates that its path used.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        std::iter::once(&self.leaf).chain(self.path.intermediates())
    }
}

impl VerifiedStatement {
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.claims
    }
}

/// What a signature check proved about a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedSeal {
    pub(crate) x5t: Thumbprint,
    pub(crate) count: u32,
    pub(crate) root: Node,
}

/// Who began a chain, and until when a root of that name counts only from there (custody-wire §5.1).
struct Root {
    iss: SpiffeId,
    expires_at: i64,
}

/// Seconds after the last use of a chain's name in which a root of it can still be accepted.
const ROOT_HELD_S: i64 = MAX_CHAIN_AGE_S + 2 * MAX_SKEW_S;

/// All caches of one receiver.
pub(crate) struct Caches {
    certificates: Mutex<BoundedMap<Thumbprint, Arc<Certificate>>>,
    /// Those of `certificates` that may stand between a leaf and its bundle.
    authorities: Mutex<BoundedMap<Thumbprint, Arc<Certificate>>>,
    proven_authorities: Mutex<BoundedMap<Thumbprint, Arc<Certificate>>>,
    seals: Mutex<BoundedMap<SealHash, VerifiedSeal>>,
    prefixes: Mutex<BoundedMap<StatementHash, Arc<VerifiedStatement>>>,
    paths: Mutex<BoundedMap<(Thumbprint, BundleVersion), Arc<ValidPath>>>,
    roots: Mutex<BoundedMap<RandomId, Root>>,
    signature_checks: AtomicU64,
}

impl Caches {
    pub(crate) fn new(sizes: &CacheSizes) -> Self {
        Self {
            certificates: bounded(sizes.certificates),
            authorities: bounded(CacheSize::shared(AUTHORITY_CACHE_ENTRIES)),
            proven_authorities: bounded(CacheSize::shared(AUTHORITY_CACHE_ENTRIES)),
            seals: bounded(sizes.seals),
            prefixes: bounded(sizes.prefixes),
            paths: bounded(sizes.certificates),
            roots: bounded(sizes.chains),
            signature_checks: AtomicU64::new(0),
        }
    }

    /// Notes that a seal's signature was checked, whatever came of it.
    pub(crate) fn count_signature_check(&self) {
        self.signature_checks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn signature_checks(&self) -> u64 {
        self.signature_checks.load(Ordering::Relaxed)
    }

    pub(crate) fn certificate(&self, thumbprint: &Thumbprint) -> Option<Arc<Certificate>> {
        lock(&self.certificates).get(thumbprint).cloned()
    }

    /// Remembers a certificate that may be anything; being here means nothing but being known.
    pub(crate) fn remember_certificate(&self, certificate: &Arc<Certificate>, peer: &str) {
        let thumbprint = certificate.thumbprint();
        lock(&self.certificates).insert(thumbprint, Arc::clone(certificate), peer);
        if certificate.may_sign_certificates() {
            lock(&self.authorities).insert(thumbprint, Arc::clone(certificate), peer);
        }
    }

    /// Known certificates with this subject that may stand between a leaf and its bundle.
    pub(crate) fn authorities(&self, subject: &[u8]) -> Vec<Arc<Certificate>> {
        named(&self.authorities, subject)
    }

    /// Those that stood on a proven path once.
    pub(crate) fn proven_authorities(&self, subject: &[u8]) -> Vec<Arc<Certificate>> {
        named(&self.proven_authorities, subject)
    }

    pub(crate) fn seal(&self, hash: &SealHash) -> Option<VerifiedSeal> {
        lock(&self.seals).get(hash).copied()
    }

    pub(crate) fn remember_seal(&self, hash: SealHash, seal: VerifiedSeal, peer: &str) {
        lock(&self.seals).insert(hash, seal, peer);
    }

    pub(crate) fn statement(&self, hash: &StatementHash) -> Option<Arc<VerifiedStatement>> {
        lock(&self.prefixes).get(hash).cloned()
    }

    pub(crate) fn remember_statement(&self, statement: &Arc<VerifiedStatement>, peer: &str) {
        lock(&self.prefixes).insert(statement.hash, Arc::clone(statement), peer);
    }

    pub(crate) fn path(&self, leaf: &Thumbprint, bundle: &BundleVersion) -> Option<Arc<ValidPath>> {
        lock(&self.paths).get(&(*leaf, *bundle)).cloned()
    }

    pub(crate) fn remember_path(&self, leaf: Thumbprint, bundle: BundleVersion, path: &Arc<ValidPath>, peer: &str) {
        lock(&self.paths).insert((leaf, bundle), Arc::clone(path), peer);
        for authority in path.intermediates() {
            lock(&self.proven_authorities).insert(authority.thumbprint(), Arc::clone(authority), peer);
        }
    }

    /// Nothing if no chain `cid` is known, or it was begun by `iss`.
    ///
    /// # Errors
    /// `chain`.
    pub(crate) fn check_root(&self, cid: &RandomId, iss: &SpiffeId, now: i64) -> Result<()> {
        check_root(&lock(&self.roots), cid, iss, now)
    }

    /// Remembers who began `cid` if `commit` succeeds; check, `commit` and insertion are one step.
    ///
    /// Old names go when room is needed. A root is signed by its issuer whatever stands here, so what is lost
    /// with a name is only that two components' chains of that name are told apart; refusing new chains
    /// instead would let load stop all calls.
    ///
    /// # Errors
    /// `chain`, or the error of `commit`.
    pub(crate) fn claim_root(
        &self,
        cid: RandomId,
        iss: &SpiffeId,
        peer: &str,
        now: i64,
        commit: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut roots = lock(&self.roots);
        check_root(&roots, &cid, iss, now)?;
        commit()?;
        roots.insert(cid, Root { iss: iss.clone(), expires_at: now + ROOT_HELD_S }, peer);
        Ok(())
    }

    /// Entries held: certificates, seals, statements.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (lock(&self.certificates).len(), lock(&self.seals).len(), lock(&self.prefixes).len())
    }
}

fn check_root(roots: &BoundedMap<RandomId, Root>, cid: &RandomId, iss: &SpiffeId, now: i64) -> Result<()> {
    if roots.get(cid).is_some_and(|root| root.expires_at > now && root.iss != *iss) {
        return Err(Rejection::new(Code::Chain, "the chain was begun by another component"));
    }
    Ok(())
}

fn named(authorities: &Mutex<BoundedMap<Thumbprint, Arc<Certificate>>>, subject: &[u8]) -> Vec<Arc<Certificate>> {
    lock(authorities).values().filter(|authority| authority.subject() == subject).cloned().collect()
}

fn bounded<K: Clone + Eq + std::hash::Hash, V>(size: CacheSize) -> Mutex<BoundedMap<K, V>> {
    Mutex::new(BoundedMap::new(size.entries, size.per_peer))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Cached values are whole at every moment, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
