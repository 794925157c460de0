//! Connections that we opened, shared by the calls of one instance to one server.
//!
//! Owns: speaking HTTP on a TLS connection, and keeping it: one of HTTP/2 is shared, those of HTTP/1.1 come back when
//! their answer was read. Does not own: opening the TLS connection, whom it leads to, and when it must close (`pool`,
//! `outside::connections`).

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::executor::ConnectionTasks;
use crate::instance::Leaf;
use crate::problem::Refusal;
use crate::tls::ALPN_H2;
use crate::upload::RequestBody;
use crate::windows::Windows;

/// A server that answers no ping for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Header list of a response.
const RESPONSE_HEADER_BYTES: u32 = 32 << 10;

/// Something a request can be sent on.
pub enum Sender {
    H2(http2::SendRequest<RequestBody>),
    H1(http1::SendRequest<RequestBody>),
}

/// Runs a connection; dropping it closes the socket.
pub type Connection = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What speaks HTTP on `stream`, and the connection to run. `extends` is kept true as long as the server takes extended
/// CONNECT (RFC 8441), which it says once the connection is open.
///
/// # Errors
/// The connection ended.
pub async fn speak(
    stream: TlsStream<TcpStream>,
    windows: &Windows,
    extends: Arc<AtomicBool>,
) -> hyper::Result<(Sender, Connection)> {
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
        let (sender, connection) = begin_h1(stream).await?;
        return Ok((Sender::H1(sender), Box::pin(async move { drop(connection.await) })));
    }
    let (tasks, end_tasks) = ConnectionTasks::new();
    let window = windows.open();
    extends.store(false, Ordering::Release);
    let (sender, mut connection) = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(window.stream_bytes)
        .initial_connection_window_size(window.connection_bytes)
        .max_header_list_size(RESPONSE_HEADER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await?;
    let served = async move {
        // After a goodbye of the server, responses may still stream in hyper's own tasks.
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
    Ok((Sender::H2(sender), Box::pin(served)))
}

/// The same for HTTP/1.1, whatever the two ends agreed on.
///
/// # Errors
/// The connection ended.
pub async fn begin_h1(
    stream: TlsStream<TcpStream>,
) -> hyper::Result<(http1::SendRequest<RequestBody>, http1::Connection<TokioIo<TlsStream<TcpStream>>, RequestBody>)> {
    http1::Builder::new().max_header_size(RESPONSE_HEADER_BYTES as usize).handshake(TokioIo::new(stream)).await
}

/// The connections of one leaf to one server, of which `S` is known.
pub struct Slot<S> {
    leaf: Arc<Leaf>,
    state: tokio::sync::Mutex<State<S>>,
    idle_h1: Mutex<Vec<(http1::SendRequest<RequestBody>, S)>>,
    idle_limit: usize,
    /// Whether the server takes extended CONNECT.
    pub extends: Arc<AtomicBool>,
}

struct State<S> {
    shared: Option<(http2::SendRequest<RequestBody>, S)>,
    /// Those who queued behind a failed attempt share its outcome.
    failed: Option<(Instant, Refusal)>,
    used: Option<Instant>,
    is_h1: bool,
}

/// What becomes of calls that find no connection while one is being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// They wait for it.
    OneByOne,
    /// Once the server is known to speak HTTP/1.1 only, where none can be shared, each opens its own.
    BesideEachOther,
}

impl<S: Clone> Slot<S> {
    /// A connection that is here, or the one that `open` gives.
    ///
    /// # Errors
    /// Those of `open`, also of one that was waited for.
    pub async fn lease<F>(&self, opening: Opening, open: impl FnOnce() -> F) -> Result<(Sender, S), Refusal>
    where
        F: Future<Output = Result<(Sender, S), Refusal>>,
    {
        let arrived = Instant::now();
        let mut state = self.state.lock().await;
        state.used = Some(Instant::now());
        if let Some((sender, server)) = state.shared.as_ref().filter(|(sender, _)| !sender.is_closed()) {
            return Ok((Sender::H2(sender.clone()), server.clone()));
        }
        if let Some((sender, server)) = self.take_idle() {
            return Ok((Sender::H1(sender), server));
        }
        if let Some((_, refusal)) = state.failed.as_ref().filter(|(at, _)| *at >= arrived) {
            return Err(refusal.clone());
        }
        if state.is_h1 && opening == Opening::BesideEachOther {
            drop(state);
            return Box::pin(open()).await;
        }
        // Boxed because it is rare and large: its caller is part of every call.
        let opened = Box::pin(open()).await;
        match &opened {
            Ok((Sender::H2(sender), server)) => state.shared = Some((sender.clone(), server.clone())),
            Ok((Sender::H1(_), _)) => state.is_h1 = true,
            Err(refusal) => state.failed = Some((Instant::now(), refusal.clone())),
        }
        opened
    }

    /// The shared connection, if there is one.
    pub async fn shared(&self) -> Option<(http2::SendRequest<RequestBody>, S)> {
        self.state.lock().await.shared.clone().filter(|(sender, _)| !sender.is_closed())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(http1::SendRequest<RequestBody>, S)>> {
        self.idle_h1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<(http1::SendRequest<RequestBody>, S)> {
        let mut idle = self.idle();
        while let Some((sender, server)) = idle.pop() {
            if sender.is_ready() {
                return Some((sender, server));
            }
        }
        None
    }

    /// Drops what is closed; whether the rest is still of use.
    fn sweep(&self, idle: Duration) -> bool {
        let Ok(mut state) = self.state.try_lock() else { return true };
        self.idle().retain(|(sender, _)| !sender.is_closed());
        state.shared = state.shared.take().filter(|(sender, _)| !sender.is_closed());
        let used_lately = state.used.is_some_and(|used| used.elapsed() < idle);
        used_lately && !self.leaf.retired.is_cancelled()
    }
}

/// Where an HTTP/1.1 connection goes back to.
pub struct ReturnTo<S> {
    slot: Arc<Slot<S>>,
    server: S,
}

impl<S: Clone + Send + 'static> ReturnTo<S> {
    pub fn new(slot: Arc<Slot<S>>, server: S) -> Self {
        Self { slot, server }
    }

    /// Gives the connection back once its response has been read to the end.
    pub fn reuse(self, mut sender: http1::SendRequest<RequestBody>) {
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = self.slot.idle();
                if idle.len() < self.slot.idle_limit {
                    idle.push((sender, self.server));
                }
            }
        });
    }
}

/// All slots, by who calls whom.
pub struct Slots<K, S> {
    slots: Mutex<HashMap<K, Arc<Slot<S>>>>,
    idle: Duration,
    idle_connections: usize,
}

impl<K: Eq + Hash, S: Clone> Slots<K, S> {
    /// Unused slots are kept for `idle`, each with so many unused connections.
    pub fn new(idle: Duration, idle_connections: usize) -> Self {
        Self { slots: Mutex::default(), idle, idle_connections }
    }

    /// The slot of `key`, whose connections are `leaf`'s.
    pub fn of(&self, key: K, leaf: &Arc<Leaf>) -> Arc<Slot<S>> {
        let new = || Slot {
            leaf: Arc::clone(leaf),
            state: tokio::sync::Mutex::new(State { shared: None, failed: None, used: None, is_h1: false }),
            idle_h1: Mutex::default(),
            idle_limit: self.idle_connections,
            extends: Arc::default(),
        };
        Arc::clone(self.lock().entry(key).or_insert_with(|| Arc::new(new())))
    }

    /// Drops what is closed, unused or retired; calls in progress on them finish.
    pub fn sweep(&self) {
        self.lock().retain(|_, slot| slot.sweep(self.idle) || Arc::strong_count(slot) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Slot<S>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
