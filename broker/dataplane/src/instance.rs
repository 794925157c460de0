//! Component instances and the leaf keys they call with.
//!
//! Owns: rotation and withdrawal of keys, and the tokens that close connections with them. Does not
//! own: when an identity is given or taken (the control process says). Keys live in memory only.
//!
//! Source: runtime.md "Who is a component", "When something goes away".

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hopseal_custody::cert::Certificate;
use hopseal_custody::compose::Payload;
use hopseal_custody::hash::Thumbprint;
use hopseal_custody::ids::SpiffeId;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use crate::log::Sealer;

/// How long after its end a retired leaf may still be named by `srv` (custody-wire §17).
const RETIRED_S: i64 = 10;

/// A component instance: opaque name and `agent/component`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct InstanceKey(Arc<(String, String)>);

impl InstanceKey {
    pub fn new(instance: &str, component: &str) -> Self {
        Self(Arc::new((instance.to_owned(), component.to_owned())))
    }

    pub fn instance(&self) -> &str {
        &self.0.0
    }

    pub fn component(&self) -> &str {
        &self.0.1
    }
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.0.1, self.0.0)
    }
}

/// One SVID with its key.
pub struct Leaf {
    pub owner: InstanceKey,
    pub id: SpiffeId,
    pub certificate: Arc<Certificate>,
    pub intermediates: Vec<Arc<Certificate>>,
    pub tls: Arc<CertifiedKey>,
    /// Cancelled when the instance is withdrawn: everything that uses the key closes.
    pub closed: CancellationToken,
    /// Cancelled when a newer leaf has taken over: connections finish what they do.
    pub retired: CancellationToken,
    /// NumericDate seconds: the certificate's end, or earlier if the issuer of the identity said so.
    pub ends_at: i64,
    sealer: hopseal_custody::sealer::Sealer,
    x5t: String,
    for_log: Vec<(String, String)>,
}

/// Why an identity was not taken.
#[derive(Debug)]
pub struct IdentityError(pub String);

impl Leaf {
    fn build(
        owner: InstanceKey,
        id: &str,
        chain_der: &[Vec<u8>],
        key_pkcs8: &[u8],
        expires_at: i64,
        closed: CancellationToken,
    ) -> Result<Self, IdentityError> {
        let refuse = |why: &str| IdentityError(format!("{owner:?}: {why}"));
        let mut chain = Vec::with_capacity(chain_der.len());
        for der in chain_der {
            chain.push(Arc::new(Certificate::parse(der).ok_or_else(|| refuse("a certificate is not DER"))?));
        }
        let certificate = Arc::clone(chain.first().ok_or_else(|| refuse("no certificate"))?);
        let named = certificate.identity().map_err(refuse)?.clone();
        if named.as_str() != id {
            return Err(refuse("the certificate names another SPIFFE ID"));
        }
        let sealer = hopseal_custody::sealer::Sealer::new(key_pkcs8, Arc::clone(&certificate))
            .map_err(|error| refuse(&error.to_string()))?;
        let private = PrivatePkcs8KeyDer::from(key_pkcs8.to_vec()).into();
        let signing =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&private).map_err(|_| refuse("key unusable"))?;
        let wire: Vec<CertificateDer<'static>> =
            chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
        Ok(Self {
            tls: Arc::new(CertifiedKey::new(wire, signing)),
            x5t: certificate.thumbprint().to_string(),
            for_log: chain.iter().map(log_certificate).collect(),
            intermediates: chain.split_off(1),
            id: named,
            ends_at: expires_at.min(certificate.not_after()),
            certificate,
            owner,
            closed,
            retired: CancellationToken::new(),
            sealer,
        })
    }

    pub fn thumbprint(&self) -> Thumbprint {
        self.certificate.thumbprint()
    }

    /// Whether the key may still sign at `now` (custody-wire §17).
    pub fn may_sign(&self, now: i64) -> bool {
        !self.closed.is_cancelled() && now < self.ends_at && self.sealer.may_seal_at(now)
    }
}

impl Sealer for Leaf {
    fn x5t(&self) -> &str {
        &self.x5t
    }

    fn seal(&self, payloads: &[Payload], now_s: i64) -> Result<Vec<String>, &'static str> {
        if self.closed.is_cancelled() {
            return Err("identity_none");
        }
        if !self.may_sign(now_s) {
            return Err("svid_expired");
        }
        let sealed = self.sealer.seal(payloads).map_err(|_| "internal")?;
        Ok(sealed.into_iter().map(|statement| statement.text).collect())
    }

    fn certificates(&self) -> &[(String, String)] {
        &self.for_log
    }
}

/// A certificate as the log keeps it: thumbprint and base64 DER.
pub fn log_certificate(certificate: &Arc<Certificate>) -> (String, String) {
    (certificate.thumbprint().to_string(), STANDARD.encode(certificate.der()))
}

struct Instance {
    current: Arc<Leaf>,
    /// Earlier leaves that `srv` may still name, with the second until which it may.
    retired: Vec<(Thumbprint, i64)>,
}

/// All instances that have an identity here.
#[derive(Default)]
pub struct Instances(RwLock<HashMap<InstanceKey, Instance>>);

impl Instances {
    /// Gives `owner` its first or a newer leaf.
    ///
    /// # Errors
    /// Certificate and key do not fit each other or the SPIFFE ID; the leaf in use stays.
    pub fn set(
        &self,
        owner: &InstanceKey,
        id: &str,
        chain_der: &[Vec<u8>],
        key_pkcs8: &[u8],
        expires_at: i64,
        now: i64,
    ) -> Result<(), IdentityError> {
        let closed = self.current(owner).map_or_else(CancellationToken::new, |leaf| leaf.closed.clone());
        let leaf = Arc::new(Leaf::build(owner.clone(), id, chain_der, key_pkcs8, expires_at, closed)?);
        let mut instances = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let previous = instances.remove(owner);
        let mut retired = Vec::new();
        if let Some(previous) = previous {
            if previous.current.thumbprint() == leaf.thumbprint() {
                instances.insert(owner.clone(), previous);
                return Ok(());
            }
            previous.current.retired.cancel();
            retired = previous.retired;
            retired.retain(|(_, until)| now <= *until);
            retired.push((previous.current.thumbprint(), previous.current.certificate.not_after() + RETIRED_S));
        }
        instances.insert(owner.clone(), Instance { current: leaf, retired });
        Ok(())
    }

    /// Drops the key of `owner` and closes everything that uses it; true if it had one.
    pub fn withdraw(&self, owner: &InstanceKey) -> bool {
        let removed = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(owner);
        removed.inspect(|instance| instance.current.closed.cancel()).is_some()
    }

    /// The leaf that `owner` calls with now.
    pub fn current(&self, owner: &InstanceKey) -> Option<Arc<Leaf>> {
        let instances = self.0.read().unwrap_or_else(PoisonError::into_inner);
        instances.get(owner).map(|instance| Arc::clone(&instance.current))
    }

    /// A leaf to answer for `component` with: `preferred`'s if it has one, else the newest.
    pub fn serving(&self, component: &str, preferred: Option<&InstanceKey>) -> Option<Arc<Leaf>> {
        if let Some(leaf) = preferred.and_then(|owner| self.current(owner)) {
            return Some(leaf);
        }
        let instances = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let of_component = instances.values().filter(|instance| instance.current.owner.component() == component);
        of_component
            .max_by_key(|instance| instance.current.certificate.not_before())
            .map(|instance| Arc::clone(&instance.current))
    }

    /// Every leaf that a caller of `component` may rightly have seen: current and retired ones.
    pub fn thumbprints(&self, component: &str, now: i64) -> Vec<Thumbprint> {
        let instances = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut thumbprints = Vec::new();
        for instance in instances.values().filter(|instance| instance.current.owner.component() == component) {
            thumbprints.push(instance.current.thumbprint());
            thumbprints.extend(instance.retired.iter().filter(|(_, until)| now <= *until).map(|(print, _)| *print));
        }
        thumbprints
    }

    /// Instances with an identity.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
