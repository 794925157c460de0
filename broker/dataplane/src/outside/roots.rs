//! TLS towards external services: verified by name, under the host's own roots or a file of them.
//!
//! Owns: loading roots and the client configuration made of them. Does not own: connections.
//!
//! No certificate of ours is shown: the service knows the component by the credentials that it sends itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;

use crate::tls::{ALPN_H1, ALPN_H2};

/// How long roots that were read are used: an update of the host's needs no restart.
const FRESH: Duration = Duration::from_secs(3600);

/// The roots, read when first needed and again from time to time.
pub struct Roots {
    file: Option<PathBuf>,
    provider: Arc<CryptoProvider>,
    made: Mutex<Option<(Instant, Arc<ClientConfig>)>>,
}

impl Roots {
    /// The roots in `file` (PEM), or without one those that the host trusts.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()), made: Mutex::default() }
    }

    /// Configuration for connections to services; reads files off the event loop.
    ///
    /// # Errors
    /// Why there are no roots.
    pub async fn client(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(fresh) = self.fresh() {
            return Ok(fresh);
        }
        let (file, provider) = (self.file.clone(), Arc::clone(&self.provider));
        let read = tokio::task::spawn_blocking(move || build(file.as_deref(), provider)).await;
        let config = Arc::new(read.map_err(|error| error.to_string())??);
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(&config)));
        Ok(config)
    }

    fn fresh(&self) -> Option<Arc<ClientConfig>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.as_ref().filter(|(at, _)| at.elapsed() < FRESH).map(|(_, config)| Arc::clone(config))
    }
}

fn build(file: Option<&Path>, provider: Arc<CryptoProvider>) -> Result<ClientConfig, String> {
    let mut store = RootCertStore::empty();
    let (added, _ignored) = store.add_parsable_certificates(read(file)?);
    if added == 0 {
        return Err("no usable root certificate".to_owned());
    }
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
    let mut config = builder.map_err(|error| error.to_string())?.with_root_certificates(store).with_no_client_auth();
    // Each connection shows the server's certificate: an observation names its key.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_H1.to_vec()];
    Ok(config)
}

fn read(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    if let Some(path) = file {
        let named = |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display());
        return CertificateDer::pem_file_iter(path).map_err(named)?.map(|found| found.map_err(named)).collect();
    }
    let found = rustls_native_certs::load_native_certs();
    match found.errors.first() {
        Some(error) if found.certs.is_empty() => Err(error.to_string()),
        _ => Ok(found.certs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_without_roots_makes_no_configuration() {
        let missing = Roots::new(Some("/nonexistent/roots.pem".into())).client().await;
        assert!(missing.unwrap_err().contains("/nonexistent/roots.pem"));
        assert_eq!(Roots::new(Some("/dev/null".into())).client().await.unwrap_err(), "no usable root certificate");
    }
}
