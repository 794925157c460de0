//! mTLS connections to peers, one set per (calling instance, its leaf, peer, endpoint).
//!
//! Owns: opening, sharing and dropping them. A connection signs with the leaf it was opened with;
//! after a rotation new calls find no connection under the new leaf and open one. Does not own:
//! records, retries.
//!
//! Source: architecture.md "Brokering a call"; runtime.md "When something goes away".

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hopseal_custody::hash::Thumbprint;
use hopseal_custody::ids::SpiffeId;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock;
use crate::directory::Component;
use crate::executor::ConnectionTasks;
use crate::instance::{InstanceKey, Leaf};
use crate::lifetime::{Lifetime, Shutdown};
use crate::problem::Refusal;
use crate::stats::Stats;
use crate::tls::{ALPN_H1, ALPN_H2, SNI_SUFFIX, Tls};
use crate::trust::{PeerChain, Trust};
use crate::upload::RequestBody;
use crate::windows::Windows;

/// A peer that answers no ping for this long is gone.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Header list of a response.
pub const RESPONSE_HEADER_BYTES: u32 = 32 << 10;

/// Something a request can be sent on.
pub enum Sender {
    H2(http2::SendRequest<RequestBody>),
    H1(http1::SendRequest<RequestBody>),
}

/// A connection ready for one request.
pub struct Lease {
    pub sender: Sender,
    /// The leaf that it was opened with: records on it are sealed by this one.
    pub leaf: Arc<Leaf>,
    pub peer: PeerChain,
    slot: Arc<Slot>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Instances on one node may share an SVID, and the end of one closes its connections.
    owner: InstanceKey,
    leaf: Thumbprint,
    peer: SpiffeId,
    endpoint: String,
}

struct Slot {
    leaf: Arc<Leaf>,
    state: tokio::sync::Mutex<SlotState>,
    idle_h1: Mutex<Vec<(http1::SendRequest<RequestBody>, PeerChain)>>,
    idle_limit: usize,
    /// Whether the peer takes extended CONNECT (RFC 8441): it says so once the connection is open.
    extends: Arc<AtomicBool>,
}

#[derive(Default)]
struct SlotState {
    shared: Option<(http2::SendRequest<RequestBody>, PeerChain)>,
    /// Those who queued behind a failed attempt share its outcome.
    failed: Option<(Instant, Refusal)>,
    used: Option<Instant>,
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
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    settings: PoolSettings,
    tls: Tls,
    trust: Arc<Trust>,
    shutdown: Shutdown,
    stats: Arc<Stats>,
}

impl Pool {
    pub fn new(settings: PoolSettings, tls: Tls, trust: Arc<Trust>, shutdown: Shutdown, stats: Arc<Stats>) -> Self {
        Self { slots: Mutex::default(), settings, tls, trust, shutdown, stats }
    }

    /// A connection from `leaf` to `component` at `endpoint`, shared or new.
    ///
    /// # Errors
    /// `peer_unreachable`, `peer_untrusted`, `peer_connect_timeout` or `peer_handshake_timeout`.
    pub async fn lease(&self, leaf: &Arc<Leaf>, component: &Component, endpoint: &str) -> Result<Lease, Refusal> {
        let arrived = Instant::now();
        let slot = self.slot(leaf, component, endpoint);
        let lease = |sender, peer| Lease { sender, leaf: Arc::clone(leaf), peer, slot: Arc::clone(&slot) };
        let mut state = slot.state.lock().await;
        state.used = Some(Instant::now());
        if let Some((sender, peer)) = state.shared.as_ref().filter(|(sender, _)| !sender.is_closed()) {
            return Ok(lease(Sender::H2(sender.clone()), peer.clone()));
        }
        if let Some((sender, peer)) = slot.take_idle() {
            return Ok(lease(Sender::H1(sender), peer));
        }
        if let Some((_, refusal)) = state.failed.as_ref().filter(|(at, _)| *at >= arrived) {
            return Err(refusal.clone());
        }
        // Boxed because it is rare and large: its caller is part of every call.
        match Box::pin(self.open(leaf, component, endpoint, Arc::clone(&slot.extends))).await {
            Ok((Sender::H2(sender), peer)) => {
                state.shared = Some((sender.clone(), peer.clone()));
                Ok(lease(Sender::H2(sender), peer))
            }
            Ok((sender, peer)) => Ok(lease(sender, peer)),
            Err(refusal) => {
                state.failed = Some((Instant::now(), refusal.clone()));
                Err(refusal)
            }
        }
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
        let shared = slot.state.lock().await.shared.clone();
        if let Some((sender, peer)) = shared
            && !sender.is_closed()
            && slot.extends.load(Ordering::Acquire)
        {
            return Ok((Lease { sender: Sender::H2(sender), leaf: Arc::clone(leaf), peer, slot }, None));
        }
        let (stream, peer) = self.connect(leaf, component, endpoint, true).await?;
        let lifetime = || Lifetime::new(Arc::clone(leaf), peer.clone(), &self.trust, self.shutdown.clone());
        let (sender, connection) = http1::Builder::new()
            .max_header_size(RESPONSE_HEADER_BYTES as usize)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Refusal::new("peer_unreachable", format!("{endpoint}: {error}")))?;
        self.drive(connection.with_upgrades(), lifetime());
        let ends = lifetime();
        Ok((Lease { sender: Sender::H1(sender), leaf: Arc::clone(leaf), peer, slot }, Some(ends)))
    }

    /// Drops what is closed, unused or retired; in-flight calls on them finish.
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

    fn slot(&self, leaf: &Arc<Leaf>, component: &Component, endpoint: &str) -> Arc<Slot> {
        let key = Key {
            owner: leaf.owner.clone(),
            leaf: leaf.thumbprint(),
            peer: component.id.clone(),
            endpoint: endpoint.to_owned(),
        };
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(key).or_insert_with(|| {
            Arc::new(Slot {
                leaf: Arc::clone(leaf),
                state: tokio::sync::Mutex::default(),
                idle_h1: Mutex::default(),
                idle_limit: self.settings.idle_connections,
                extends: Arc::default(),
            })
        });
        Arc::clone(slot)
    }

    async fn open(
        &self,
        leaf: &Arc<Leaf>,
        component: &Component,
        endpoint: &str,
        extends: Arc<AtomicBool>,
    ) -> Result<(Sender, PeerChain), Refusal> {
        let (stream, peer) = self.connect(leaf, component, endpoint, false).await?;
        let lifetime = Lifetime::new(Arc::clone(leaf), peer.clone(), &self.trust, self.shutdown.clone());
        let unreachable = |error: hyper::Error| Refusal::new("peer_unreachable", format!("{endpoint}: {error}"));
        Ok((self.speak(stream, lifetime, extends).await.map_err(unreachable)?, peer))
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

    async fn speak(
        &self,
        stream: TlsStream<TcpStream>,
        lifetime: Lifetime,
        extends: Arc<AtomicBool>,
    ) -> hyper::Result<Sender> {
        let h2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        let io = TokioIo::new(stream);
        if h2 {
            let (tasks, end_tasks) = ConnectionTasks::new();
            let window = self.settings.windows.open();
            extends.store(false, Ordering::Release);
            let (sender, mut connection) = http2::Builder::new(tasks.clone())
                .timer(TokioTimer::new())
                .initial_stream_window_size(window.stream_bytes)
                .initial_connection_window_size(window.connection_bytes)
                .max_header_list_size(RESPONSE_HEADER_BYTES)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .handshake(io)
                .await?;
            let served = async move {
                // After a goodbye of the peer, responses may still stream in hyper's own tasks.
                let _takes_no_more_requests = poll_fn(|context| {
                    let polled = Pin::new(&mut connection).poll(context);
                    extends.store(connection.is_extended_connect_protocol_enabled(), Ordering::Release);
                    polled
                })
                .await;
                drop(connection);
                tasks.wait().await;
                drop((end_tasks, window));
            };
            self.drive(served, lifetime);
            return Ok(Sender::H2(sender));
        }
        let (sender, connection) =
            http1::Builder::new().max_header_size(RESPONSE_HEADER_BYTES as usize).handshake(io).await?;
        self.drive(connection, lifetime);
        Ok(Sender::H1(sender))
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

/// The place of an HTTP/1.1 connection in the pool.
pub struct ReturnTo {
    slot: Arc<Slot>,
    peer: PeerChain,
}

impl Lease {
    /// Where the connection goes back to, if it can carry only one request at a time.
    pub fn return_to(&self) -> ReturnTo {
        ReturnTo { slot: Arc::clone(&self.slot), peer: self.peer.clone() }
    }
}

impl ReturnTo {
    /// Gives the connection back once its response has been read to the end.
    pub fn reuse(self, mut sender: http1::SendRequest<RequestBody>) {
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = self.slot.idle();
                if idle.len() < self.slot.idle_limit {
                    idle.push((sender, self.peer));
                }
            }
        });
    }
}

impl Slot {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(http1::SendRequest<RequestBody>, PeerChain)>> {
        self.idle_h1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<(http1::SendRequest<RequestBody>, PeerChain)> {
        let mut idle = self.idle();
        while let Some((sender, peer)) = idle.pop() {
            if sender.is_ready() {
                return Some((sender, peer));
            }
        }
        None
    }
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
