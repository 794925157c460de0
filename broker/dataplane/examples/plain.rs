//! A pair that only forwards, for the benchmarks: what mutual TLS and HTTP alone cost with the libraries of the data plane.
//!
//! Usage: `plain send SOCKET HOST:PORT CERT.pem KEY.pem CA.pem h1|h2` and `plain receive HOST:PORT SOCKET CERT.pem KEY.pem
//! CA.pem`. It shares the libraries, the allocator and the settings of the data plane, none of its code: there, no call goes
//! on without a record, a decision and a log entry, and there is no way to leave them out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::server::conn::{http1 as server1, http2 as server2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PEER: &str = "b.example.org";

/// Where requests go on to.
enum Next {
    Socket(String, Pool),
    Peer1(String, TlsConnector, Pool),
    Peer2(String, TlsConnector, tokio::sync::Mutex<Option<http2::SendRequest<Incoming>>>),
}

#[derive(Default)]
struct Pool(Mutex<VecDeque<http1::SendRequest<Incoming>>>);

impl Pool {
    fn take(&self) -> Option<http1::SendRequest<Incoming>> {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..senders.len() {
            match senders.pop_front() {
                Some(sender) if sender.is_ready() => return Some(sender),
                Some(sender) if !sender.is_closed() => senders.push_back(sender),
                _ => {}
            }
        }
        None
    }

    fn give(&self, sender: http1::SendRequest<Incoming>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(sender);
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments.as_slice() {
        ["send", socket, address, certificate, key, ca, protocol] => {
            let connector = TlsConnector::from(Arc::new(client(certificate, key, ca, protocol)?));
            let next = if *protocol == "h2" {
                Next::Peer2((*address).to_owned(), connector, tokio::sync::Mutex::new(None))
            } else {
                Next::Peer1((*address).to_owned(), connector, Pool::default())
            };
            runtime.block_on(send(socket, Arc::new(next)))
        }
        ["receive", address, socket, certificate, key, ca] => {
            let acceptor = TlsAcceptor::from(Arc::new(server(certificate, key, ca)?));
            runtime.block_on(receive(address, acceptor, Arc::new(Next::Socket((*socket).to_owned(), Pool::default()))))
        }
        _ => Err("usage: plain send SOCKET HOST:PORT CERT KEY CA h1|h2, or plain receive HOST:PORT SOCKET CERT KEY CA"
            .into()),
    }
}

async fn send(socket: &str, next: Arc<Next>) -> Result<(), Failure> {
    let listener = UnixListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let next = Arc::clone(&next);
        tokio::spawn(async move {
            let service = service_fn(move |request| forward(Arc::clone(&next), request));
            server1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
    }
}

async fn receive(address: &str, acceptor: TlsAcceptor, next: Arc<Next>) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, next) = (acceptor.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| forward(Arc::clone(&next), request));
            if is_http2 {
                let builder = server2::Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(stream), service).await?;
            } else {
                server1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
            }
            Ok::<(), Failure>(())
        });
    }
}

async fn forward(next: Arc<Next>, mut request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
    match next.as_ref() {
        Next::Socket(path, pool) => {
            origin_form(&mut request)?;
            let sender = match pool.take() {
                Some(sender) => sender,
                None => connected(UnixStream::connect(path).await?).await?,
            };
            exchange(sender, pool, request).await
        }
        Next::Peer1(address, connector, pool) => {
            let sender = match pool.take() {
                Some(sender) => sender,
                None => connected(secured(address, connector).await?).await?,
            };
            exchange(sender, pool, request).await
        }
        Next::Peer2(address, connector, shared) => {
            let mut sender = multiplexed(address, connector, shared).await?;
            let mut parts = request.uri().clone().into_parts();
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(Authority::from_static(PEER));
            *request.uri_mut() = Uri::from_parts(parts)?;
            request.headers_mut().remove("host");
            *request.version_mut() = Version::HTTP_2;
            Ok(sender.send_request(request).await?)
        }
    }
}

fn origin_form(request: &mut Request<Incoming>) -> Result<(), Failure> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
    *request.uri_mut() = path;
    request.headers_mut().insert("host", HeaderValue::from_static(PEER));
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

async fn exchange(
    mut sender: http1::SendRequest<Incoming>,
    pool: &Pool,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, Failure> {
    let answer = sender.send_request(request).await?;
    pool.give(sender);
    Ok(answer)
}

async fn connected<S>(stream: S) -> Result<http1::SendRequest<Incoming>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    Ok(sender)
}

async fn multiplexed(
    address: &str,
    connector: &TlsConnector,
    shared: &tokio::sync::Mutex<Option<http2::SendRequest<Incoming>>>,
) -> Result<http2::SendRequest<Incoming>, Failure> {
    let mut sender = shared.lock().await;
    match sender.as_ref() {
        Some(sender) if !sender.is_closed() => Ok(sender.clone()),
        _ => {
            let stream = TokioIo::new(secured(address, connector).await?);
            let (made, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(driver);
            *sender = Some(made.clone());
            Ok(made)
        }
    }
}

async fn secured(
    address: &str,
    connector: &TlsConnector,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(connector.connect(ServerName::try_from(PEER)?, stream).await?)
}

fn client(certificate: &str, key: &str, ca: &str, protocol: &str) -> Result<ClientConfig, Failure> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain(certificate)?, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![if protocol == "h2" { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(config)
}

fn server(certificate: &str, key: &str, ca: &str) -> Result<ServerConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(certificate)?, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca: &str) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for each in CertificateDer::pem_file_iter(ca)? {
        roots.add(each?)?;
    }
    Ok(roots)
}

fn chain(certificate: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    Ok(CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?)
}
