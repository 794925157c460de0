//! TLS 1.3 between brokers: who is at the other end, and nothing resumed.
//!
//! Owns: both sides' rustls configuration and the SPIFFE verifiers. Does not own: trust (see
//! `trust`). One crypto provider, no tickets, no resumption, no early data: a resumed session would
//! skip the check of the peer's chain (threats.md, SPIRE #6715).

use std::fmt;
use std::sync::Arc;

use hopseal_custody::ids::SpiffeId;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
};

use crate::instance::Leaf;
use crate::trust::Trust;

/// What brokers speak, best first.
pub const ALPN_H2: &[u8] = b"h2";
pub const ALPN_H1: &[u8] = b"http/1.1";

/// Suffix of the server name that a peer asks for; never resolved (runtime.md "Between nodes").
pub const SNI_SUFFIX: &str = ".hopseal.invalid";

/// Builds both sides' configurations.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    trust: Arc<Trust>,
}

impl Tls {
    pub fn new(trust: Arc<Trust>) -> Self {
        Self { provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()), trust }
    }

    /// Configuration to call `peer` with `leaf`.
    ///
    /// # Errors
    /// The provider cannot do TLS 1.3: a build fault.
    pub fn client(&self, leaf: &Leaf, peer: &SpiffeId) -> Result<ClientConfig, Error> {
        let verifier = self.verifier(Some(peer.clone()));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&leaf.tls))));
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_H1.to_vec()];
        Ok(config)
    }

    /// Configuration to answer with `leaf`; every client must show an SVID.
    ///
    /// # Errors
    /// The provider cannot do TLS 1.3: a build fault.
    pub fn server(&self, leaf: &Leaf) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(self.verifier(None)))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&leaf.tls))));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_H1.to_vec()];
        Ok(config)
    }

    fn verifier(&self, expected: Option<SpiffeId>) -> SpiffeVerifier {
        SpiffeVerifier { expected, trust: Arc::clone(&self.trust), provider: Arc::clone(&self.provider) }
    }
}

/// Accepts X509-SVIDs of trust domains that we hold a bundle of, and, towards a server, exactly the
/// one that was asked for.
struct SpiffeVerifier {
    expected: Option<SpiffeId>,
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SpiffeVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl SpiffeVerifier {
    fn verify_chain(&self, leaf: &[u8], intermediates: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let chain = std::iter::once(leaf).chain(intermediates.iter().map(AsRef::as_ref));
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let peer = self
            .trust
            .verify(chain, now)
            .map_err(|_| Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        if self.expected.as_ref().is_some_and(|expected| *expected != peer.id) {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(())
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }
}

/// TLS 1.2 is not offered; this only satisfies the traits.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
