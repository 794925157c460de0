//! Connections to the components' own Unix sockets.
//!
//! Owns: connecting, checking that the listener is the component, keeping idle connections. Does
//! not own: what is sent. An idle connection is used again only while its listener is still the one
//! that was admitted.
//!
//! Source: runtime.md "Listener check".

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::connector;
use crate::directory::{Component, ListenProtocol};
use crate::executor::ConnectionTasks;
use crate::instance::InstanceKey;
use crate::lifetime::Shutdown;
use crate::listeners::{Listener, Listeners, socket_at};
use crate::pidfd::{PinError, PinnedPeer, pin_peer};
use crate::problem::Refusal;
use crate::settings::{Settings, buffer_bytes, ms};
use crate::upload::RequestBody;
use crate::windows::Windows;

/// To a component that listens on a Unix socket, or on TCP.
type Stream = Either<UnixStream, TcpStream>;

/// What a request to a component is sent on.
pub enum Sender {
    H1(http1::SendRequest<RequestBody>),
    /// One of those that share a connection.
    H2(http2::SendRequest<RequestBody>),
}

impl Sender {
    /// The answer's head.
    ///
    /// # Errors
    /// With the request, if nothing of it was sent.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<http::Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::H1(sender) => sender.try_send_request(request).await,
            Self::H2(sender) => sender.try_send_request(request).await,
        }
    }

    pub fn is_h2(&self) -> bool {
        matches!(self, Self::H2(_))
    }
}

/// An HTTP/2 connection that calls share; dropping it lets the calls on it finish.
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    listener: Arc<Listener>,
    used: Instant,
}

/// A connection to a component's socket whose listener is admitted.
pub struct Reached {
    pub sender: Sender,
    /// Cancelled when the listener is withdrawn.
    pub closed: CancellationToken,
    pub instance: InstanceKey,
    /// True if it was never used: a request that fails on it was not lost to an idle close.
    pub fresh: bool,
    listener: Arc<Listener>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    listener: Arc<Listener>,
    since: Instant,
}

/// The idle connections of all components.
pub struct ComponentSockets {
    idle: Arc<Mutex<HashMap<String, Vec<Idle>>>>,
    shared: Mutex<HashMap<String, Shared>>,
    windows: Windows,
    listeners: Arc<Listeners>,
    shutdown: Shutdown,
    connect_timeout: Duration,
    verdict_timeout: Duration,
    idle_timeout: Duration,
    idle_limit: usize,
    header_bytes: usize,
    connect_socket: Option<PathBuf>,
}

impl ComponentSockets {
    pub fn new(listeners: Arc<Listeners>, settings: &Settings, shutdown: Shutdown, windows: Windows) -> Self {
        let (limits, timeouts) = (&settings.limits, &settings.timeouts_ms);
        Self {
            idle: Arc::default(),
            shared: Mutex::default(),
            windows,
            listeners,
            shutdown,
            connect_timeout: ms(timeouts.connect),
            verdict_timeout: ms(timeouts.listener_verdict),
            idle_timeout: ms(timeouts.idle),
            idle_limit: limits.idle_connections,
            header_bytes: limits.component_header_bytes,
            connect_socket: settings.connect_socket.clone(),
        }
    }

    /// A connection to `component`; with `fresh`, one that was never used.
    ///
    /// # Errors
    /// `callee_unavailable`: nothing listens, or not the component.
    pub async fn reach(&self, component: &Component, fresh: bool) -> Result<Reached, Refusal> {
        let known = match component.listen_protocol {
            // A stream goes on a connection that others use: what is closed there says so before it is sent.
            ListenProtocol::H2 => self.take_shared(&component.qualified),
            ListenProtocol::H1 if fresh => None,
            ListenProtocol::H1 => self.take_idle(&component.qualified),
        };
        if let Some(reached) = known {
            return Ok(reached);
        }
        let path = component.listen.as_deref().ok_or_else(|| Refusal::new("callee_unavailable", "no listen socket"))?;
        let (stream, listener) = if connector::is_tcp(path) {
            let (stream, peer) = self.connect_tcp(&component.qualified).await?;
            (Either::Right(stream), self.listeners.find(&component.qualified, peer.inode, peer.pidfd))
        } else {
            let before = socket_at(path);
            let stream = self.connect(path).await?;
            let listener = match pin(&stream)? {
                Some(peer) => self.listeners.find(&component.qualified, peer.inode, peer.pidfd),
                None => {
                    let replaced = || Refusal::new("callee_unavailable", "the socket was replaced meanwhile");
                    let socket = before.filter(|before| socket_at(path) == Some(*before)).ok_or_else(replaced)?;
                    self.listeners.find_dead(&component.qualified, socket)
                }
            };
            (Either::Left(stream), listener)
        };
        let listener = listener.ok_or_else(|| Refusal::new("callee_unavailable", "too many listeners are known"))?;
        let instance = self.listeners.instance(&listener, path, self.verdict_timeout).await?;
        let spoken = match component.listen_protocol {
            ListenProtocol::H1 => self.speak_h1(stream, &listener).await,
            ListenProtocol::H2 => self.speak_h2(stream, &listener).await,
        };
        let sender = spoken.map_err(|error| Refusal::new("callee_unavailable", error.to_string()))?;
        if let Sender::H2(sender) = &sender {
            let shared = Shared { sender: sender.clone(), listener: Arc::clone(&listener), used: Instant::now() };
            self.lock_shared().insert(component.qualified.clone(), shared);
        }
        Ok(Reached { sender, closed: listener.closed.clone(), instance, fresh: true, listener })
    }

    async fn speak_h1(&self, stream: Stream, listener: &Listener) -> hyper::Result<Sender> {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(self.header_bytes)
            .max_buf_size(buffer_bytes(self.header_bytes))
            .handshake(TokioIo::new(stream))
            .await?;
        self.drive(connection.with_upgrades(), listener);
        Ok(Sender::H1(sender))
    }

    async fn speak_h2(&self, stream: Stream, listener: &Listener) -> hyper::Result<Sender> {
        let (tasks, end_tasks) = ConnectionTasks::new();
        let window = self.windows.open();
        let (sender, connection) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(window.stream_bytes)
            .initial_connection_window_size(window.connection_bytes)
            .max_header_list_size(u32::try_from(self.header_bytes).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream))
            .await?;
        let served = async move {
            let _takes_no_more_requests = connection.await;
            tasks.wait().await;
            drop((end_tasks, window));
        };
        self.drive(served, listener);
        Ok(Sender::H2(sender))
    }

    /// Runs a connection until it ends or its listener is withdrawn; dropping it closes the socket.
    fn drive<C: Future + Send + 'static>(&self, connection: C, listener: &Listener) {
        let (closed, stop) = (listener.closed.clone(), self.shutdown.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ended = connection => {}
                () = closed.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
    }

    fn take_shared(&self, component: &str) -> Option<Reached> {
        let mut all = self.lock_shared();
        let shared = all.get_mut(component)?;
        let Some(instance) = shared.listener.admitted().filter(|_| !shared.sender.is_closed()) else {
            all.remove(component);
            return None;
        };
        shared.used = Instant::now();
        let (sender, listener) = (Sender::H2(shared.sender.clone()), Arc::clone(&shared.listener));
        Some(Reached { sender, closed: listener.closed.clone(), instance, fresh: false, listener })
    }

    fn lock_shared(&self) -> std::sync::MutexGuard<'_, HashMap<String, Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a connection on which a request could not be sent.
    pub fn forget_shared(&self, component: &str) {
        self.lock_shared().remove(component);
    }

    /// Keeps a connection for the next call once its response has been read to the end.
    pub fn keep(&self, component: &str, reached: Reached) {
        let Reached { sender: Sender::H1(mut sender), listener, .. } = reached else { return };
        let (idle, limit, component) = (Arc::clone(&self.idle), self.idle_limit, component.to_owned());
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = idle.entry(component).or_default();
            if idle.len() < limit {
                idle.push(Idle { sender, listener, since: Instant::now() });
            }
        });
    }

    /// Closes connections that were idle for long or whose listener is no longer admitted.
    pub fn sweep(&self) {
        self.lock_shared().retain(|_, shared| {
            shared.used.elapsed() < self.idle_timeout
                && !shared.sender.is_closed()
                && shared.listener.admitted().is_some()
        });
        let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, idle| {
            idle.retain(|idle| {
                idle.since.elapsed() < self.idle_timeout
                    && !idle.sender.is_closed()
                    && idle.listener.admitted().is_some()
            });
            !idle.is_empty()
        });
    }

    fn take_idle(&self, component: &str) -> Option<Reached> {
        let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = all.get_mut(component)?;
        while let Some(Idle { sender, listener, since }) = idle.pop() {
            if let Some(instance) = listener.admitted()
                && sender.is_ready()
                && since.elapsed() < self.idle_timeout
            {
                let closed = listener.closed.clone();
                return Some(Reached { sender: Sender::H1(sender), closed, instance, fresh: false, listener });
            }
        }
        None
    }

    /// The connect timeout, and that of the looks before and after: the attestor takes as long as it may.
    async fn connect_tcp(&self, component: &str) -> Result<(TcpStream, PinnedPeer), Refusal> {
        let connecting = connector::connect(self.connect_socket.as_deref(), component);
        let made = timeout(self.connect_timeout + self.verdict_timeout, connecting).await;
        made.unwrap_or_else(|_| Err("the attestor did not connect in time".to_owned()))
            .map_err(|why| Refusal::new("callee_unavailable", why))
    }

    async fn connect(&self, path: &Path) -> Result<UnixStream, Refusal> {
        let unavailable = |why: String| Refusal::new("callee_unavailable", format!("{}: {why}", path.display()));
        timeout(self.connect_timeout, UnixStream::connect(path))
            .await
            .map_err(|_| unavailable("connect timed out".into()))?
            .map_err(|error| unavailable(error.to_string()))
    }
}

/// The listener's process, or None if the one that called `listen()` last is dead.
fn pin(stream: &UnixStream) -> Result<Option<PinnedPeer>, Refusal> {
    match pin_peer(stream.as_fd()) {
        Ok(peer) => Ok(Some(peer)),
        Err(PinError::Gone) => Ok(None),
        Err(error) => Err(Refusal::new("callee_unavailable", format!("listener cannot be pinned: {error}"))),
    }
}
