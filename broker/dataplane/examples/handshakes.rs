//! Fresh mutual TLS 1.3 connections, one after the other on each of some tasks: nothing is resumed, nothing is asked.
//!
//! Usage: `handshakes HOST:PORT NAME CERT.pem KEY.pem ALPN TASKS COUNT`; one JSON line of figures.
//! A connection ends when the peer has read our end of it, so its checks of our certificate are done by then.
#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, name, certificate, key, alpn, tasks, count] = arguments.as_slice() else {
        return Err("usage: handshakes HOST:PORT NAME CERT.pem KEY.pem ALPN TASKS COUNT".into());
    };
    let connector = TlsConnector::from(Arc::new(config(certificate, key, alpn)?));
    let (tasks, count): (usize, usize) = (tasks.parse()?, count.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    let failed = runtime.block_on(run(address, name, &connector, tasks, count))?;
    let made = tasks * (count / tasks);
    println!("{}", serde_json::json!({"made": made, "failed": failed, "took_s": began.elapsed().as_secs_f64()}));
    Ok(())
}

fn config(certificate: &str, key: &str, alpn: &str) -> Result<ClientConfig, Failure> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

async fn run(
    address: &str,
    name: &str,
    connector: &TlsConnector,
    tasks: usize,
    count: usize,
) -> Result<usize, Failure> {
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let (address, name, connector) = (address.to_owned(), name.to_owned(), connector.clone());
        set.spawn(async move {
            let mut failed = 0;
            for _ in 0..count / tasks {
                failed += usize::from(one(&address, &name, &connector).await.is_err());
            }
            failed
        });
    }
    let mut failed = 0;
    while let Some(each) = set.join_next().await {
        failed += each?;
    }
    Ok(failed)
}

async fn one(address: &str, name: &str, connector: &TlsConnector) -> Result<(), Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(ServerName::try_from(name.to_owned())?, stream).await?;
    stream.shutdown().await?;
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        // A server may close without a word once it has read our end; one that refuses us says so in an alert.
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(error.into()),
        _ => Ok(()),
    }
}

/// The server's certificate is not what is measured, and each peer names itself in another way.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
