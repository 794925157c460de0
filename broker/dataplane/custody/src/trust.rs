//! Bundles, one per trust domain, and path validation against exactly one of them.
//!
//! Owns: which authorities count for which identity, and for how long a path holds.
//! Does not own: fetching bundles; caching of results (see `cache`).
//!
//! Security: bundles are never merged. The bundle is chosen by the trust domain in the
//! leaf's own name, so a partner's authority can only ever vouch for the partner's ids.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs as algorithms};

use crate::cert::Certificate;
use crate::hash::sha256_of;
use crate::ids::TrustDomain;

/// What may sign certificates; ECDSA and RSA as SPIRE issues them.
const CERTIFICATE_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
];

/// Tells two states of a trust domain's bundle apart: SHA-256 over its certificates.
pub type BundleVersion = [u8; 32];

/// Why a bundle is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleError(pub String);

impl std::fmt::Display for BundleError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for BundleError {}

struct Anchor {
    trusted: TrustAnchor<'static>,
    not_before: i64,
    not_after: i64,
}

/// The authorities of one trust domain at one moment.
pub struct TrustBundle {
    anchors: Vec<Anchor>,
    version: BundleVersion,
}

impl TrustBundle {
    fn build(domain: &TrustDomain, authorities: &[Vec<u8>]) -> Result<Self, BundleError> {
        let refused = || BundleError(format!("an authority of {} is not a certificate", domain.as_str()));
        let mut anchors = Vec::with_capacity(authorities.len());
        let mut parts: Vec<[u8; 32]> = Vec::with_capacity(authorities.len());
        for der in authorities {
            let certificate = Certificate::parse(der).ok_or_else(refused)?;
            let wrapped = CertificateDer::from(der.as_slice());
            let trusted = anchor_from_trusted_cert(&wrapped).map_err(|_| refused())?.to_owned();
            parts.push(certificate.thumbprint().0);
            anchors.push(Anchor { trusted, not_before: certificate.not_before(), not_after: certificate.not_after() });
        }
        parts.sort_unstable();
        let parts: Vec<&[u8]> = parts.iter().map(<[u8; 32]>::as_slice).collect();
        Ok(Self { anchors, version: sha256_of(&parts) })
    }

    #[must_use]
    pub fn version(&self) -> BundleVersion {
        self.version
    }

    /// The path from `leaf` to an authority of this bundle that holds at `at`, `NumericDate` seconds.
    ///
    /// `intermediates` are candidates only; those that the path used come back.
    ///
    /// # Errors
    /// No path holds at that time; the text is for the log.
    pub fn verify_path(
        &self,
        leaf: &Certificate,
        intermediates: &[Arc<Certificate>],
        at: i64,
    ) -> Result<ValidPath, String> {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(at).map_err(|_| "the time lies before 1970".to_owned())?,
        ));
        let current: Vec<&Anchor> =
            self.anchors.iter().filter(|anchor| anchor.not_before <= at && at <= anchor.not_after).collect();
        let anchors: Vec<TrustAnchor<'_>> = current.iter().map(|anchor| anchor.trusted.clone()).collect();
        let usable: Vec<&Arc<Certificate>> =
            intermediates.iter().filter(|certificate| certificate.may_sign_certificates()).collect();
        let candidates: Vec<CertificateDer<'_>> =
            usable.iter().map(|certificate| CertificateDer::from(certificate.der())).collect();
        let leaf_der = CertificateDer::from(leaf.der());
        let end_entity = EndEntityCert::try_from(&leaf_der).map_err(|error| error.to_string())?;
        let usage = KeyUsage::client_auth();
        let path = end_entity
            .verify_for_usage(CERTIFICATE_ALGORITHMS, &anchors, &candidates, time, usage, None, None)
            .map_err(|error| error.to_string())?;
        let mut valid = ValidPath { from: leaf.not_before(), until: leaf.not_after(), intermediates: Vec::new() };
        for used in path.intermediate_certificates() {
            if let Some(known) = usable.iter().find(|known| known.der() == used.der().as_ref()) {
                valid.narrow(known.not_before(), known.not_after());
                valid.intermediates.push(Arc::clone(known));
            }
        }
        for anchor in current.iter().filter(|anchor| anchor.trusted == *path.anchor()) {
            valid.narrow(anchor.not_before, anchor.not_after);
        }
        Ok(valid)
    }
}

/// A path that was verified, and the seconds (both inclusive) in which every certificate on it is valid.
#[derive(Clone, Debug)]
pub struct ValidPath {
    from: i64,
    until: i64,
    intermediates: Vec<Arc<Certificate>>,
}

impl ValidPath {
    fn narrow(&mut self, from: i64, until: i64) {
        self.from = self.from.max(from);
        self.until = self.until.min(until);
    }

    #[must_use]
    pub fn holds_at(&self, at: i64) -> bool {
        self.from <= at && at <= self.until
    }

    /// The certificates between leaf and authority, leaf's issuer first.
    #[must_use]
    pub fn intermediates(&self) -> &[Arc<Certificate>] {
        &self.intermediates
    }
}

/// The bundles of all trust domains that are trusted for their own ids: one immutable value.
#[derive(Default)]
pub struct Bundles {
    by_domain: HashMap<String, TrustBundle>,
}

impl Bundles {
    /// The set of bundles; each trust domain with the DER certificates of its authorities.
    ///
    /// # Errors
    /// A certificate cannot be read, or a trust domain is listed twice: keep the set in use.
    pub fn build(bundles: &[(TrustDomain, Vec<Vec<u8>>)]) -> Result<Self, BundleError> {
        let mut by_domain = HashMap::with_capacity(bundles.len());
        for (domain, authorities) in bundles {
            let bundle = TrustBundle::build(domain, authorities)?;
            if by_domain.insert(domain.as_str().to_owned(), bundle).is_some() {
                return Err(BundleError(format!("{} has two bundles", domain.as_str())));
            }
        }
        Ok(Self { by_domain })
    }

    /// The bundle of exactly this trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &str) -> Option<&TrustBundle> {
        self.by_domain.get(trust_domain)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }
}
