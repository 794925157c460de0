//! Certificates as this protocol sees them: who is named, which key, which role.
//!
//! Owns: X509-SVID §5.2 checks on a leaf. Does not own: the path to an authority (see `trust`).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::hash::{ClaimHash, Thumbprint, sha256};
use crate::ids::SpiffeId;

/// One parsed DER certificate, leaf or authority.
pub struct Certificate {
    der: Arc<[u8]>,
    thumbprint: Thumbprint,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    not_before: i64,
    not_after: i64,
    may_sign_certificates: bool,
    identity: Result<SpiffeId, &'static str>,
    key: Option<ParsedPublicKey>,
}

impl Certificate {
    /// What a message calls a certificate; bytes that are none have a thumbprint and nothing else.
    ///
    /// Whether it can be a leaf shows in [`Certificate::identity`]; nothing about it is trusted yet.
    #[must_use]
    pub fn read(der: &[u8]) -> Self {
        Self::parse(der).unwrap_or_else(|| Self {
            der: der.into(),
            thumbprint: Thumbprint::of(der),
            subject: Vec::new(),
            issuer: Vec::new(),
            not_before: 0,
            not_after: 0,
            may_sign_certificates: false,
            identity: Err("the leaf is not a certificate"),
            key: None,
        })
    }

    /// The certificate in `der`, or None if it is not exactly one DER certificate.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        Some(Self {
            der: der.into(),
            thumbprint: Thumbprint::of(der),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            may_sign_certificates: may_sign_certificates(&parsed),
            identity: leaf_identity(&parsed),
            key: seal_key(parsed.public_key()),
        })
    }

    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    #[must_use]
    pub fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// `NumericDate` seconds.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// `NumericDate` seconds, inclusive.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The SPIFFE ID of an X509-SVID leaf.
    ///
    /// # Errors
    /// Why the certificate is no leaf: custody-wire §6.5 (a).
    pub fn identity(&self) -> Result<&SpiffeId, &'static str> {
        self.identity.as_ref().map_err(|reason| *reason)
    }

    /// The leaf's P-256 point; None for another kind of key, which cannot make seals.
    #[must_use]
    pub fn public_key(&self) -> Option<&[u8]> {
        self.key.as_ref().map(AsRef::as_ref)
    }

    /// True if `signature` (ES256 in JWS form) over `message` is by this certificate's key.
    #[must_use]
    pub fn verify_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.as_ref().is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }

    pub(crate) fn subject(&self) -> &[u8] {
        &self.subject
    }

    pub(crate) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// True for a certificate that may stand between leaf and bundle.
    pub(crate) fn may_sign_certificates(&self) -> bool {
        self.may_sign_certificates
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Certificate({}, {:?})", self.thumbprint, self.identity)
    }
}

/// SHA-256 of the public key (`SubjectPublicKeyInfo`) in one DER certificate, or None if `der` is none.
#[must_use]
pub fn hash_public_key(der: &[u8]) -> Option<ClaimHash> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(ClaimHash(sha256(parsed.public_key().raw)))
}

fn may_sign_certificates(parsed: &X509Certificate<'_>) -> bool {
    let is_ca = matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    // webpki ignores the key usage of authorities; RFC 5280 §4.2.1.3 does not.
    let usage_allows = match parsed.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    is_ca && usage_allows
}

/// custody-wire §6.5 (a), X509-SVID §5.2.
fn leaf_identity(parsed: &X509Certificate<'_>) -> Result<SpiffeId, &'static str> {
    match parsed.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => return Err("the leaf is a certificate authority"),
        Ok(_) => {}
        Err(_) => return Err("the basic constraints cannot be read"),
    }
    match parsed.key_usage() {
        Ok(Some(usage)) => {
            if !usage.value.digital_signature() {
                return Err("the leaf may not make signatures");
            }
            if usage.value.key_cert_sign() || usage.value.crl_sign() {
                return Err("the leaf may sign certificates or revocations");
            }
        }
        Ok(None) => return Err("the leaf has no key usage"),
        Err(_) => return Err("the key usage cannot be read"),
    }
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Err("the leaf has no readable subject alternative name");
    };
    // A name that cannot be read may be a second URI to another reader.
    if names.value.general_names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err("a subject alternative name cannot be read");
    }
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => SpiffeId::parse(uri).ok_or("the URI name is not a canonical SPIFFE ID with a path"),
        _ => Err("the leaf does not have exactly one URI name"),
    }
}

/// The key if it is P-256, the one kind that makes seals.
fn seal_key(info: &SubjectPublicKeyInfo<'_>) -> Option<ParsedPublicKey> {
    let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
    if info.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != OID_EC_P256 {
        return None;
    }
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, info.subject_public_key.data.as_ref()).ok()
}
