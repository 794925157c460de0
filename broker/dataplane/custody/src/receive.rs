//! The receiver's algorithm (custody-wire §6), split where a broker has to wait.
//!
//! [`Receiver::examine`] does steps 1 to 4 and 6 to 11: nothing in it costs a signature.
//! [`Receiver::authenticate`] does step 5, then 12 and 13, with a fresh time.
//! The broker decides its own policy (14) on the [`Verified`] chain, then
//! [`Receiver::commit`] does 15 and 16: only then is the message accepted.
//!
//! Owns: the order of checks and their codes. Does not own: policy, log, connection.
//! Security: each stage is a type that only the stage before it can make.

use std::sync::Arc;

use crate::behalf::Presented;
use crate::binding::{Body, HeaderLine};
use crate::cache::{CacheSizes, Caches, VerifiedStatement};
use crate::cert::Certificate;
use crate::chain::Chain;
use crate::error::{Code, Rejection, Result};
use crate::hash::{RandomId, StatementHash, Thumbprint};
use crate::ids::SpiffeId;
use crate::limits::MAX_SKEW_S;
use crate::record::Record;
use crate::replay::ReplayStore;
use crate::seal::UnverifiedStatement;
use crate::trust::Bundles;

mod authenticate;
mod closing;
mod examine;
mod policy;
mod prove;
mod receipt;
mod restore;
mod signer;

pub(crate) use authenticate::fold;
pub use closing::ExpectedClosing;
pub use examine::peek_unverified;
pub use policy::Policy;
pub use receipt::Exchange;
pub use restore::KeptChain;

/// The TLS peer of a connection: its certificates, parsed once.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) leaf: Arc<Certificate>,
    pub(crate) intermediates: Vec<Arc<Certificate>>,
}

impl Peer {
    /// The peer with this chain, DER, leaf first; None for an empty chain.
    #[must_use]
    pub fn read(chain: &[&[u8]]) -> Option<Self> {
        let (leaf, rest) = chain.split_first()?;
        Some(Self {
            leaf: Arc::new(Certificate::read(leaf)),
            intermediates: rest.iter().map(|der| Arc::new(Certificate::read(der))).collect(),
        })
    }

    /// The peer with certificates that were read before.
    #[must_use]
    pub fn new(leaf: Arc<Certificate>, intermediates: Vec<Arc<Certificate>>) -> Self {
        Self { leaf, intermediates }
    }

    #[must_use]
    pub fn leaf(&self) -> &Arc<Certificate> {
        &self.leaf
    }
}

/// One request as it came from the wire, and the connection it came on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// The absolute URI with query, built from configuration and never from `Host`.
    pub target_uri: &'a str,
    /// Every field line in wire order, not merged.
    pub headers: &'a [HeaderLine<'a>],
    pub body: Body,
    /// The TLS peer; None only where a configured proxy ends TLS.
    pub peer: Option<&'a Peer>,
    /// The SPIFFE ID that the request was sent to.
    pub own_id: &'a SpiffeId,
    /// Thumbprints of `own_id`'s server leaves in use now or before.
    pub own_leaves: &'a [Thumbprint],
}

/// A statement that came with the message, not yet authenticated.
#[derive(Debug)]
struct Inline<C = Record> {
    statement: UnverifiedStatement,
    claims: C,
    leaf: Arc<Certificate>,
}

/// An ancestor: inline, or left out by the sender and known from before.
#[derive(Debug)]
enum Ancestor {
    Inline(Box<Inline>),
    Known(Arc<VerifiedStatement>),
}

impl Ancestor {
    fn record(&self) -> &Record {
        match self {
            Self::Inline(inline) => &inline.claims,
            Self::Known(statement) => statement.record(),
        }
    }

    fn hash(&self) -> StatementHash {
        match self {
            Self::Inline(inline) => inline.statement.hash(),
            Self::Known(statement) => statement.hash(),
        }
    }
}

/// A request that passed every check that costs no signature; nothing in it is proven.
#[derive(Debug)]
pub struct Examined {
    /// Oldest first.
    ancestors: Vec<Ancestor>,
    newest: Box<Inline>,
    /// Certificates that came with the message or its connection.
    certificates: Vec<Arc<Certificate>>,
    own_id: SpiffeId,
    peer: Arc<str>,
    /// User tokens that came with the message.
    presented: Presented,
}

impl Examined {
    /// Statement hash and claims of the newest record, for a receipt: nothing in them is proven.
    #[must_use]
    pub fn newest(&self) -> (StatementHash, &Record) {
        (self.newest.statement.hash(), &self.newest.claims)
    }
}

/// A chain that was proven, before the broker's own policy and the replay check.
#[derive(Debug)]
pub struct Verified {
    chain: Chain,
    root: SpiffeId,
    cid: RandomId,
    peer: Arc<str>,
}

impl Verified {
    /// The proven chain, for policy decisions.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }
}

/// Everything that a receiver remembers between requests; share it.
pub struct Receiver {
    caches: Caches,
    replay: ReplayStore,
}

impl Receiver {
    /// A receiver that remembers nothing yet.
    #[must_use]
    pub fn new(sizes: &CacheSizes, replay: ReplayStore) -> Self {
        Self { caches: Caches::new(sizes), replay }
    }

    /// The request after steps 1 to 4 and 6 to 11 of custody-wire §6.
    ///
    /// # Errors
    /// The code of the first check that fails.
    pub fn examine(&self, request: &Request<'_>, policy: &Policy, now: i64) -> Result<Examined> {
        examine::examine(&self.caches, request, policy, now)
    }

    /// The proven chain after steps 5, 12 and 13; one of `operations` must be within its authority.
    ///
    /// `now` is read after any wait since [`Receiver::examine`].
    ///
    /// # Errors
    /// The code of the first check that fails.
    pub fn authenticate(
        &self,
        examined: Examined,
        bundles: &Bundles,
        policy: &Policy,
        operations: &[&str],
        now: i64,
    ) -> Result<Verified> {
        authenticate::authenticate(&self.caches, examined, bundles, policy, operations, now)
    }

    /// The accepted chain after steps 15 and 16: call it once the own policy has allowed the request.
    ///
    /// # Errors
    /// `replayed`; `unavailable` if the replay store is full; `expired` if record or authority ended
    /// while the caller decided; `chain` if another root took the chain's name meanwhile.
    pub fn commit(&self, verified: Verified, now: i64) -> Result<Chain> {
        let Verified { chain, root, cid, peer } = verified;
        let record = chain.newest().record();
        // The replay store forgets at `exp + 10`: later than that it cannot vouch for anything.
        if now >= record.exp + MAX_SKEW_S || now >= chain.authority().exp {
            return Err(Rejection::new(Code::Expired, "the record or its authority expired before it was accepted"));
        }
        self.caches.claim_root(cid, &root, &peer, now, || {
            self.replay.insert(&record.iss, record.jti, record.exp + MAX_SKEW_S, now)
        })?;
        for statement in chain.statements() {
            self.caches.remember_statement(statement, &peer);
        }
        Ok(chain)
    }

    /// Whether a refusal of this statement may be vouched for: true once, and never after a [`Receiver::commit`] of it.
    ///
    /// Two receipts for one record would accuse whoever made them, and a record can be played again by its sender.
    pub fn claim_refusal(&self, iss: &SpiffeId, jti: RandomId, exp: i64, now: i64) -> bool {
        self.replay.insert(iss, jti, exp + MAX_SKEW_S, now).is_ok()
    }

    /// Marks a statement as used that the log shows as accepted (after a restart); one past its end is skipped.
    ///
    /// # Errors
    /// As [`ReplayStore::insert`].
    pub fn restore_used(&self, iss: &SpiffeId, jti: RandomId, exp: i64, now: i64) -> Result<()> {
        if exp + MAX_SKEW_S <= now {
            return Ok(());
        }
        self.replay.insert(iss, jti, exp + MAX_SKEW_S, now)
    }

    /// Remembers who began a chain that the log shows as accepted.
    ///
    /// # Errors
    /// `chain` if somebody else is remembered.
    pub fn restore_root(&self, cid: RandomId, iss: &SpiffeId, now: i64) -> Result<()> {
        self.caches.claim_root(cid, iss, iss.as_str(), now, || Ok(()))
    }

    /// Remembers a certificate that the log holds; being known proves nothing about it.
    pub fn restore_certificate(&self, certificate: &Arc<Certificate>) {
        self.caches.remember_certificate(certificate, "");
    }

    /// Remembers a statement that the log shows as accepted, after verifying it again at its `iat`.
    ///
    /// `certificates` hold its leaf and what may stand between that and the bundle.
    ///
    /// # Errors
    /// The code of the first check that fails; `unresolved` if its leaf is not among `certificates`.
    pub fn restore_statement(&self, sealed: &str, certificates: &[Arc<Certificate>], bundles: &Bundles) -> Result<()> {
        let statement = authenticate::reverify(&self.caches, sealed, certificates, bundles)?;
        self.caches.remember_statement(&statement, statement.record().iss.as_str());
        Ok(())
    }

    /// Entries held: certificates, verified seals, statements, used ids.
    #[must_use]
    pub fn sizes(&self) -> [usize; 4] {
        let (certificates, seals, statements) = self.caches.sizes();
        [certificates, seals, statements, self.replay.len()]
    }

    /// How many signatures of seals were checked; those of remembered seals are not checked again.
    #[must_use]
    pub fn signature_checks(&self) -> u64 {
        self.caches.signature_checks()
    }
}
