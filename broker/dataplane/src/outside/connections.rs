//! TLS connections to external services, one set per (calling instance, its leaf, host and port).
//!
//! Owns: resolving names off the event loop, refusing addresses that are not public, opening, sharing and dropping
//! connections. Does not own: what is sent. A connection goes to the address that was looked at: there is no second
//! lookup that could answer something else.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use hopseal_custody::cert::hash_public_key;
use hopseal_custody::hash::{ClaimHash, Thumbprint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::is_public;
use super::roots::Roots;
use crate::executor::ConnectionTasks;
use crate::instance::{InstanceKey, Leaf};
use crate::lifetime::Shutdown;
use crate::pool::{PING_INTERVAL, PING_TIMEOUT, PoolSettings, RESPONSE_HEADER_BYTES, Sender};
use crate::problem::Refusal;
use crate::stats::Stats;
use crate::tls::ALPN_H2;
use crate::upload::RequestBody;

/// Lookups under way at once: each holds a thread for as long as its resolver takes.
const LOOKUPS: usize = 32;
/// Addresses of one name that are tried.
const TRIES: usize = 4;

/// What the server of a connection showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebServer {
    /// SHA-256 of its public key.
    pub spki: ClaimHash,
    pub x5t: Thumbprint,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    owner: InstanceKey,
    leaf: Thumbprint,
    host: String,
    port: u16,
}

struct Slot {
    leaf: Arc<Leaf>,
    state: tokio::sync::Mutex<State>,
    idle_h1: Mutex<Vec<(http1::SendRequest<RequestBody>, WebServer)>>,
}

#[derive(Default)]
struct State {
    shared: Option<(http2::SendRequest<RequestBody>, WebServer)>,
    used: Option<Instant>,
    /// The service speaks HTTP/1.1 only: connections are opened beside each other, since none can be shared.
    is_h1: bool,
    /// Those who queued behind a failed attempt share its outcome.
    failed: Option<(Instant, Refusal)>,
}

/// A connection ready for one request.
pub struct WebLease {
    pub sender: Sender,
    pub server: WebServer,
    place: WebPlace,
}

/// Where an HTTP/1.1 connection goes back to.
pub struct WebPlace {
    slot: Arc<Slot>,
    server: WebServer,
    limit: usize,
}

/// The connections.
pub struct WebConnections {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    settings: PoolSettings,
    roots: Roots,
    allow_private: bool,
    lookups: Arc<Semaphore>,
    shutdown: Shutdown,
    stats: Arc<Stats>,
}

impl WebConnections {
    pub fn new(
        settings: PoolSettings,
        roots: Roots,
        allow_private: bool,
        shutdown: Shutdown,
        stats: Arc<Stats>,
    ) -> Self {
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        Self { slots: Mutex::default(), settings, roots, allow_private, lookups, shutdown, stats }
    }

    /// A connection for calls of `leaf`'s instance to `host`, shared or new.
    ///
    /// # Errors
    /// `egress_unresolvable`, `egress_address`, `egress_unreachable`, `egress_tls`.
    pub async fn lease(&self, leaf: &Arc<Leaf>, host: &str, port: u16) -> Result<WebLease, Refusal> {
        let arrived = Instant::now();
        let slot = self.slot(leaf, host, port);
        let lease = |sender, server: WebServer| WebLease {
            sender,
            place: WebPlace { slot: Arc::clone(&slot), server: server.clone(), limit: self.settings.idle_connections },
            server,
        };
        let mut state = slot.state.lock().await;
        state.used = Some(Instant::now());
        if let Some((sender, server)) = state.shared.as_ref().filter(|(sender, _)| !sender.is_closed()) {
            return Ok(lease(Sender::H2(sender.clone()), server.clone()));
        }
        if let Some((sender, server)) = slot.take_idle() {
            return Ok(lease(Sender::H1(sender), server));
        }
        if let Some((_, refusal)) = state.failed.as_ref().filter(|(at, _)| *at >= arrived) {
            return Err(refusal.clone());
        }
        if state.is_h1 {
            drop(state);
            return self.open(leaf, host, port).await.map(|(sender, server)| lease(sender, server));
        }
        match self.open(leaf, host, port).await {
            Ok((Sender::H2(sender), server)) => {
                state.shared = Some((sender.clone(), server.clone()));
                Ok(lease(Sender::H2(sender), server))
            }
            Ok((sender, server)) => {
                state.is_h1 = true;
                Ok(lease(sender, server))
            }
            Err(refusal) => {
                state.failed = Some((Instant::now(), refusal.clone()));
                Err(refusal)
            }
        }
    }

    /// A plain connection to `host`, of which nothing is known but its address.
    ///
    /// # Errors
    /// As [`Self::lease`], but for `egress_tls`.
    pub async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, Refusal> {
        let addresses = self.resolve(host, port).await?;
        let mut last = Refusal::new("egress_unreachable", format!("{host}: no address"));
        for address in addresses.into_iter().take(TRIES) {
            let unreachable = |why: String| Refusal::new("egress_unreachable", format!("{host} at {address}: {why}"));
            match timeout(self.settings.connect, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) if !self.allow_private && leads_here(&tcp) => {
                    last = Refusal::new("egress_address", format!("{host} is {}, which is this host", address.ip()));
                }
                Ok(Ok(tcp)) => match tcp.set_nodelay(true) {
                    Ok(()) => return Ok(tcp),
                    Err(error) => last = unreachable(error.to_string()),
                },
                Ok(Err(error)) => last = unreachable(error.to_string()),
                Err(_elapsed) => last = unreachable("connect timed out".to_owned()),
            }
        }
        Err(last)
    }

    /// Drops what is closed, unused or retired; calls in progress on them finish.
    pub fn sweep(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            let Ok(mut state) = slot.state.try_lock() else { return true };
            slot.idle().retain(|(sender, _)| !sender.is_closed());
            state.shared = state.shared.take().filter(|(sender, _)| !sender.is_closed());
            let used_lately = state.used.is_some_and(|used| used.elapsed() < self.settings.idle);
            (used_lately && !slot.leaf.retired.is_cancelled()) || Arc::strong_count(slot) > 1
        });
    }

    fn slot(&self, leaf: &Arc<Leaf>, host: &str, port: u16) -> Arc<Slot> {
        let key = Key { owner: leaf.owner.clone(), leaf: leaf.thumbprint(), host: host.to_owned(), port };
        let new = || Slot { leaf: Arc::clone(leaf), state: tokio::sync::Mutex::default(), idle_h1: Mutex::default() };
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(key).or_insert_with(|| Arc::new(new())))
    }

    /// The addresses of `host` that may be connected to.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let unresolvable = |why: String| Refusal::new("egress_unresolvable", format!("{host}: {why}"));
        let deadline = Instant::now() + self.settings.connect;
        let turn = Arc::clone(&self.lookups).acquire_owned();
        let turn = tokio::time::timeout_at(deadline, turn).await;
        let Ok(Ok(turn)) = turn else { return Err(unresolvable("too many lookups are under way".to_owned())) };
        let name = host.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
            // Kept until the resolver is done, also when nobody waits any more.
            drop(turn);
            found
        });
        let found = tokio::time::timeout_at(deadline, lookup).await;
        let found = found.map_err(|_| unresolvable("the lookup timed out".to_owned()))?;
        let found = found.map_err(|error| unresolvable(error.to_string()))?;
        permitted(host, found.map_err(|error| unresolvable(error.to_string()))?, self.allow_private)
    }

    async fn open(&self, leaf: &Arc<Leaf>, host: &str, port: u16) -> Result<(Sender, WebServer), Refusal> {
        let untrusted = |why: String| Refusal::new("egress_tls", format!("{host}:{port}: {why}"));
        let config = self.roots.client().await.map_err(untrusted)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| untrusted(error.to_string()))?;
        let tcp = self.dial(host, port).await?;
        let stream = timeout(self.settings.handshake, TlsConnector::from(config).connect(name, tcp))
            .await
            .map_err(|_| Refusal::new("egress_unreachable", format!("{host}:{port}: handshake timed out")))?
            .map_err(|error| handshake_refusal(host, port, &error))?;
        let server = server_of(&stream).ok_or_else(|| untrusted("the certificate cannot be read".to_owned()))?;
        let sender = self.speak(stream, Arc::clone(leaf)).await;
        Ok((sender.map_err(|error| Refusal::new("egress_unreachable", format!("{host}:{port}: {error}")))?, server))
    }

    async fn speak(&self, stream: TlsStream<TcpStream>, leaf: Arc<Leaf>) -> hyper::Result<Sender> {
        let h2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        let io = TokioIo::new(stream);
        if h2 {
            let (tasks, end_tasks) = ConnectionTasks::new();
            let window = self.settings.windows.open();
            let (sender, connection) = http2::Builder::new(tasks.clone())
                .timer(TokioTimer::new())
                .initial_stream_window_size(window.stream_bytes)
                .initial_connection_window_size(window.connection_bytes)
                .max_header_list_size(RESPONSE_HEADER_BYTES)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .handshake(io)
                .await?;
            self.drive(
                async move {
                    let _ended = connection.await;
                    tasks.wait().await;
                    drop((end_tasks, window));
                },
                leaf,
            );
            return Ok(Sender::H2(sender));
        }
        let (sender, connection) =
            http1::Builder::new().max_header_size(RESPONSE_HEADER_BYTES as usize).handshake(io).await?;
        self.drive(connection, leaf);
        Ok(Sender::H1(sender))
    }

    /// Runs a connection until it ends, its instance is withdrawn or the broker stops.
    fn drive<C: Future + Send + 'static>(&self, connection: C, leaf: Arc<Leaf>) {
        let (stats, stop) = (Arc::clone(&self.stats), self.shutdown.stop.clone());
        tokio::spawn(async move {
            stats.web_connections.add(1);
            tokio::select! {
                _ended = connection => {}
                () = leaf.closed.cancelled() => {}
                () = stop.cancelled() => {}
            }
            stats.web_connections.add(-1);
        });
    }
}

impl WebLease {
    pub fn into_parts(self) -> (Sender, WebServer, WebPlace) {
        (self.sender, self.server, self.place)
    }
}

impl WebPlace {
    /// Gives the connection back once its response has been read to the end.
    pub fn reuse(self, mut sender: http1::SendRequest<RequestBody>) {
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = self.slot.idle();
                if idle.len() < self.limit {
                    idle.push((sender, self.server));
                }
            }
        });
    }
}

impl Slot {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(http1::SendRequest<RequestBody>, WebServer)>> {
        self.idle_h1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<(http1::SendRequest<RequestBody>, WebServer)> {
        let mut idle = self.idle();
        while let Some((sender, server)) = idle.pop() {
            if sender.is_ready() {
                return Some((sender, server));
            }
        }
        None
    }
}

/// Whether a connection leads to this host: it then has one address at both ends, also where that is a public one.
fn leads_here(tcp: &TcpStream) -> bool {
    match (tcp.local_addr(), tcp.peer_addr()) {
        (Ok(local), Ok(peer)) => local.ip() == peer.ip(),
        _ => true,
    }
}

fn permitted(host: &str, found: Vec<SocketAddr>, allow_private: bool) -> Result<Vec<SocketAddr>, Refusal> {
    let Some(first) = found.first().copied() else {
        return Err(Refusal::new("egress_unresolvable", format!("{host} has no address")));
    };
    let allowed: Vec<SocketAddr> =
        found.into_iter().filter(|address| allow_private || is_public(address.ip())).collect();
    if allowed.is_empty() {
        return Err(Refusal::new("egress_address", format!("{host} is {}, which is not public", first.ip())));
    }
    Ok(allowed)
}

fn server_of(stream: &TlsStream<TcpStream>) -> Option<WebServer> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    Some(WebServer { spki: hash_public_key(leaf)?, x5t: Thumbprint::of(leaf) })
}

fn handshake_refusal(host: &str, port: u16, error: &std::io::Error) -> Refusal {
    let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    let code = if is_tls { "egress_tls" } else { "egress_unreachable" };
    Refusal::new(code, format!("{host}:{port}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_to_this_host_is_known_by_its_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(leads_here(&TcpStream::connect(address).await.unwrap()));
        let from_elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
        from_elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        assert!(!leads_here(&from_elsewhere.connect(address).await.unwrap()));
    }

    #[test]
    fn only_public_addresses_of_a_name_are_left() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = addresses(&["10.0.0.1:443", "1.1.1.1:443"]);
        assert_eq!(permitted("a", mixed.clone(), false).unwrap(), addresses(&["1.1.1.1:443"]));
        assert_eq!(permitted("a", mixed.clone(), true).unwrap(), mixed);
        let code = |found| permitted("a", found, false).unwrap_err().code.into_owned();
        assert_eq!(code(addresses(&["127.0.0.1:443", "[::1]:443"])), "egress_address");
        assert_eq!(code(Vec::new()), "egress_unresolvable");
    }
}
