//! The bundles in force, published as one immutable value, and the checks that use them in TLS.
//!
//! Owns: which chain is acceptable now and telling connections when that changes. Does not own:
//! path validation itself (crate `hopseal_custody`), which picks the bundle by the trust domain in
//! the leaf's own name and never merges two.

use std::sync::Arc;

use hopseal_custody::cert::Certificate;
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::trust::Bundles;
use tokio::sync::watch;

/// The bundles of all trust domains, replaced as a whole.
pub struct Trust(watch::Sender<Arc<Bundles>>);

/// A peer whose chain was verified: leaf first.
#[derive(Debug, Clone)]
pub struct PeerChain {
    pub id: SpiffeId,
    pub certificates: Arc<[Arc<Certificate>]>,
}

impl Trust {
    /// Trusts nobody yet.
    pub fn empty() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }

    /// Takes a new set; connections see it at once.
    pub fn publish(&self, bundles: Bundles) {
        self.0.send_replace(Arc::new(bundles));
    }

    /// The set in force.
    pub fn current(&self) -> Arc<Bundles> {
        Arc::clone(&self.0.borrow())
    }

    /// The set in force and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Bundles>> {
        self.0.subscribe()
    }

    /// Verifies a TLS peer's DER chain at `now` (NumericDate seconds).
    ///
    /// # Errors
    /// Why it is no SVID of a trust domain that we hold a bundle of.
    pub fn verify<'a>(&self, chain: impl IntoIterator<Item = &'a [u8]>, now: i64) -> Result<PeerChain, String> {
        let certificates: Vec<Arc<Certificate>> = chain
            .into_iter()
            .map(|der| Certificate::parse(der).map(Arc::new).ok_or("a certificate is not DER"))
            .collect::<Result<_, _>>()?;
        let leaf = certificates.first().ok_or("no certificate")?;
        let id = leaf.identity().map_err(ToOwned::to_owned)?.clone();
        let peer = PeerChain { id, certificates: certificates.into() };
        peer.verify(&self.current(), now)?;
        Ok(peer)
    }
}

impl PeerChain {
    /// The peer's leaf certificate.
    pub fn leaf(&self) -> &Arc<Certificate> {
        &self.certificates[0]
    }

    /// Verifies the chain again, against the bundles now in force.
    ///
    /// # Errors
    /// It no longer holds.
    pub fn verify(&self, bundles: &Bundles, now: i64) -> Result<(), String> {
        let domain = self.id.trust_domain();
        let bundle = bundles.get(domain).ok_or_else(|| format!("no bundle of {domain}"))?;
        bundle.verify_path(self.leaf(), &self.certificates[1..], now).map(drop)
    }
}
