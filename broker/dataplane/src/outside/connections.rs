//! TLS connections to external services, one set per (calling instance, its leaf, host and port).
//!
//! Owns: resolving names off the event loop, refusing addresses that are not public, opening, sharing and dropping
//! connections. Does not own: what is sent. A connection goes to the address that was looked at: there is no second
//! lookup that could answer something else.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use hopseal_custody::cert::hash_public_key;
use hopseal_custody::hash::{ClaimHash, Thumbprint};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::is_public;
use super::roots::Roots;
use crate::instance::{InstanceKey, Leaf};
use crate::kept_connections::{Connection, Opening, ReturnTo, Sender, Slot, Slots, speak};
use crate::lifetime::Shutdown;
use crate::pool::PoolSettings;
use crate::problem::Refusal;
use crate::stats::Stats;

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

/// A connection ready for one request.
pub struct WebLease {
    pub sender: Sender,
    pub server: WebServer,
    slot: Arc<Slot<WebServer>>,
}

/// The connections.
pub struct WebConnections {
    slots: Slots<Key, WebServer>,
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
        let slots = Slots::new(settings.idle, settings.idle_connections);
        Self { slots, settings, roots, allow_private, lookups, shutdown, stats }
    }

    /// A connection for calls of `leaf`'s instance to `host`, shared or new.
    ///
    /// # Errors
    /// `egress_unresolvable`, `egress_address`, `egress_unreachable`, `egress_tls`.
    pub async fn lease(&self, leaf: &Arc<Leaf>, host: &str, port: u16) -> Result<WebLease, Refusal> {
        let key = Key { owner: leaf.owner.clone(), leaf: leaf.thumbprint(), host: host.to_owned(), port };
        let slot = self.slots.of(key, leaf);
        let open = || self.open(leaf, host, port, &slot);
        let (sender, server) = slot.lease(Opening::BesideEachOther, open).await?;
        Ok(WebLease { sender, server, slot })
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
        self.slots.sweep();
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

    async fn open(
        &self,
        leaf: &Arc<Leaf>,
        host: &str,
        port: u16,
        slot: &Slot<WebServer>,
    ) -> Result<(Sender, WebServer), Refusal> {
        let untrusted = |why: String| Refusal::new("egress_tls", format!("{host}:{port}: {why}"));
        let config = self.roots.client().await.map_err(untrusted)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| untrusted(error.to_string()))?;
        let tcp = self.dial(host, port).await?;
        let stream = timeout(self.settings.handshake, TlsConnector::from(config).connect(name, tcp))
            .await
            .map_err(|_| Refusal::new("egress_unreachable", format!("{host}:{port}: handshake timed out")))?
            .map_err(|error| handshake_refusal(host, port, &error))?;
        let server = server_of(&stream).ok_or_else(|| untrusted("the certificate cannot be read".to_owned()))?;
        let spoken = speak(stream, &self.settings.windows, Arc::clone(&slot.extends)).await;
        let unreachable = |error| Refusal::new("egress_unreachable", format!("{host}:{port}: {error}"));
        let (sender, connection) = spoken.map_err(unreachable)?;
        self.drive(connection, Arc::clone(leaf));
        Ok((sender, server))
    }

    /// Runs a connection until it ends, its instance is withdrawn or the broker stops.
    fn drive(&self, connection: Connection, leaf: Arc<Leaf>) {
        let (stats, stop) = (Arc::clone(&self.stats), self.shutdown.stop.clone());
        tokio::spawn(async move {
            stats.web_connections.add(1);
            tokio::select! {
                () = connection => {}
                () = leaf.closed.cancelled() => {}
                () = stop.cancelled() => {}
            }
            stats.web_connections.add(-1);
        });
    }
}

impl WebLease {
    /// What to send on, to whom, and where an HTTP/1.1 connection goes back to.
    pub fn into_parts(self) -> (Sender, WebServer, ReturnTo<WebServer>) {
        let place = ReturnTo::new(self.slot, self.server.clone());
        (self.sender, self.server, place)
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
