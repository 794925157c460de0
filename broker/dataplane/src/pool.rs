//! mTLS connections to peers, one set per (calling instance, its leaf, peer, endpoint).
//!
//! Owns: opening them, and whom they lead to. A connection signs with the leaf it was opened with;
//! after a rotation new calls find no connection under the new leaf and open one. Does not own:
//! keeping them (see `kept_connections`), records, retries.
//!
//! Source: architecture.md "Brokering a call"; runtime.md "When something goes away".

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hopseal_custody::hash::Thumbprint;
use hopseal_custody::ids::SpiffeId;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock;
use crate::directory::Component;
use crate::instance::{InstanceKey, Leaf};
use crate::kept_connections::{Opening, ReturnTo, Sender, Slot, Slots, begin_h1, speak};
use crate::lifetime::{Lifetime, Shutdown};
use crate::problem::Refusal;
use crate::stats::Stats;
use crate::tls::{ALPN_H1, SNI_SUFFIX, Tls};
use crate::trust::{PeerChain, Trust};
use crate::windows::Windows;

/// A connection ready for one request.
pub struct Lease {
    pub sender: Sender,
    /// The leaf that it was opened with: records on it are sealed by this one.
    pub leaf: Arc<Leaf>,
    pub peer: PeerChain,
    slot: Arc<Slot<PeerChain>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Instances on one node may share an SVID, and the end of one closes its connections.
    owner: InstanceKey,
    leaf: Thumbprint,
    peer: SpiffeId,
    endpoint: String,
}

/// Deadlines of opening a connection, and how long an unused one is kept.
pub struct PoolSettings {
    pub connect: Duration,
    pub handshake: Duration,
    pub idle: Duration,
    pub idle_connections: usize,
    pub windows: Windows,
}

/// The connections.
pub struct Pool {
    slots: Slots<Key, PeerChain>,
    settings: PoolSettings,
    tls: Tls,
    trust: Arc<Trust>,
    shutdown: Shutdown,
    stats: Arc<Stats>,
}

impl Pool {
    pub fn new(settings: PoolSettings, tls: Tls, trust: Arc<Trust>, shutdown: Shutdown, stats: Arc<Stats>) -> Self {
        let slots = Slots::new(settings.idle, settings.idle_connections);
        Self { slots, settings, tls, trust, shutdown, stats }
    }

    /// A connection from `leaf` to `component` at `endpoint`, shared or new.
    ///
    /// # Errors
    /// `peer_unreachable`, `peer_untrusted`, `peer_connect_timeout` or `peer_handshake_timeout`.
    pub async fn lease(&self, leaf: &Arc<Leaf>, component: &Component, endpoint: &str) -> Result<Lease, Refusal> {
        let slot = self.slot(leaf, component, endpoint);
        let open = || self.open(leaf, component, endpoint, &slot);
        let (sender, peer) = slot.lease(Opening::OneByOne, open).await?;
        Ok(Lease { sender, leaf: Arc::clone(leaf), peer, slot })
    }

    /// A connection on which a WebSocket can begin: a shared one if the peer has extended CONNECT (RFC 8441), else one of
    /// its own that speaks HTTP/1.1, and what ends that.
    ///
    /// # Errors
    /// As [`Self::lease`].
    pub async fn lease_upgrade(
        &self,
        leaf: &Arc<Leaf>,
        component: &Component,
        endpoint: &str,
    ) -> Result<(Lease, Option<Lifetime>), Refusal> {
        let slot = self.slot(leaf, component, endpoint);
        if let Some((sender, peer)) = slot.shared().await
            && slot.extends.load(Ordering::Acquire)
        {
            return Ok((Lease { sender: Sender::H2(sender), leaf: Arc::clone(leaf), peer, slot }, None));
        }
        let (stream, peer) = self.connect(leaf, component, endpoint, true).await?;
        let lifetime = || Lifetime::new(Arc::clone(leaf), peer.clone(), &self.trust, self.shutdown.clone());
        let (sender, connection) = begin_h1(stream).await.map_err(|error| unreachable(endpoint, &error))?;
        self.drive(connection.with_upgrades(), lifetime());
        let ends = lifetime();
        Ok((Lease { sender: Sender::H1(sender), leaf: Arc::clone(leaf), peer, slot }, Some(ends)))
    }

    /// Drops what is closed, unused or retired; in-flight calls on them finish.
    pub fn sweep(&self) {
        self.slots.sweep();
    }

    fn slot(&self, leaf: &Arc<Leaf>, component: &Component, endpoint: &str) -> Arc<Slot<PeerChain>> {
        let key = Key {
            owner: leaf.owner.clone(),
            leaf: leaf.thumbprint(),
            peer: component.id.clone(),
            endpoint: endpoint.to_owned(),
        };
        self.slots.of(key, leaf)
    }

    async fn open(
        &self,
        leaf: &Arc<Leaf>,
        component: &Component,
        endpoint: &str,
        slot: &Slot<PeerChain>,
    ) -> Result<(Sender, PeerChain), Refusal> {
        let (stream, peer) = self.connect(leaf, component, endpoint, false).await?;
        let lifetime = Lifetime::new(Arc::clone(leaf), peer.clone(), &self.trust, self.shutdown.clone());
        let spoken = speak(stream, &self.settings.windows, Arc::clone(&slot.extends)).await;
        let (sender, connection) = spoken.map_err(|error| unreachable(endpoint, &error))?;
        self.drive(connection, lifetime);
        Ok((sender, peer))
    }

    /// A TLS connection to the peer; `is_h1` asks for HTTP/1.1.
    async fn connect(
        &self,
        leaf: &Leaf,
        component: &Component,
        endpoint: &str,
        is_h1: bool,
    ) -> Result<(TlsStream<TcpStream>, PeerChain), Refusal> {
        let unreachable = |why: String| Refusal::new("peer_unreachable", format!("{endpoint}: {why}"));
        let tcp = timeout(self.settings.connect, TcpStream::connect(endpoint))
            .await
            .map_err(|_| Refusal::new("peer_connect_timeout", endpoint))?
            .map_err(|error| unreachable(error.to_string()))?;
        tcp.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
        let mut config = self.tls.client(leaf, &component.id).map_err(|error| unreachable(error.to_string()))?;
        if is_h1 {
            config.alpn_protocols = vec![ALPN_H1.to_vec()];
        }
        let name = server_name(component, endpoint)
            .ok_or_else(|| unreachable("the component's name is no server name".into()))?;
        let stream = timeout(self.settings.handshake, TlsConnector::from(Arc::new(config)).connect(name, tcp))
            .await
            .map_err(|_| Refusal::new("peer_handshake_timeout", endpoint))?
            .map_err(|error| handshake_refusal(endpoint, &error))?;
        let peer = self.peer_of(&stream).map_err(|why| Refusal::new("peer_untrusted", format!("{endpoint}: {why}")))?;
        Ok((stream, peer))
    }

    fn peer_of(&self, stream: &TlsStream<TcpStream>) -> Result<PeerChain, String> {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        self.trust.verify(certificates.iter().map(AsRef::as_ref), clock::now_s())
    }

    /// Runs a connection until it ends or must close; dropping it closes the socket.
    fn drive<C: Future + Send + 'static>(&self, connection: C, mut lifetime: Lifetime) {
        let stats = Arc::clone(&self.stats);
        tokio::spawn(async move {
            stats.pool_connections.add(1);
            tokio::select! {
                _ended = connection => {}
                _why = lifetime.must_close() => {}
            }
            stats.pool_connections.add(-1);
        });
    }
}

impl Lease {
    /// Where the connection goes back to, if it can carry only one request at a time.
    pub fn return_to(&self) -> ReturnTo<PeerChain> {
        ReturnTo::new(Arc::clone(&self.slot), self.peer.clone())
    }
}

fn unreachable(endpoint: &str, error: &hyper::Error) -> Refusal {
    Refusal::new("peer_unreachable", format!("{endpoint}: {error}"))
}

/// The name that is asked for: a broker's peer port tells components apart by it, any other server knows its own.
fn server_name(component: &Component, endpoint: &str) -> Option<ServerName<'static>> {
    if component.brokered {
        return ServerName::try_from(format!("{}{SNI_SUFFIX}", component.host)).ok();
    }
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).ok()
}

/// A peer that shows the wrong certificate is untrusted; one that hangs up is unreachable.
fn handshake_refusal(endpoint: &str, error: &std::io::Error) -> Refusal {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let code = match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => "peer_untrusted",
        _ => "peer_unreachable",
    };
    Refusal::new(code, format!("{endpoint}: {error}"))
}
