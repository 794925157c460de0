//! Starting and stopping: sockets, threads, the log and what it remembers.
//!
//! Owns: the order of start-up (lock and bind, read the log, then accept) and of shutdown (stop
//! accepting, drain, close, flush the log). Does not own: what connections do.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hopseal_custody::error::Code;
use hopseal_custody::hash::RandomId;
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::limits::MAX_SKEW_S;
use hopseal_custody::record::Record;
use hopseal_custody::seal::UnverifiedStatement;
use hopseal_custody::statement::StatementClaims as _;
use serde_json::json;

use crate::broker::{Broker, Started};
use crate::clock;
use crate::descriptors;
use crate::events::{Events, Weight};
use crate::handshakes::Handshakes;
use crate::inbound;
use crate::log::LogObserver;
use crate::log::scan::Accepted;
use crate::log::store::LogFiles;
use crate::log::{Beginning, Entry, Log};
use crate::pidfd;
use crate::places::Places;
use crate::relay::{self, Ask, Kept, Predecessor, RemoteLog, SharedStore, Successor};
use crate::runtime::Running;
use crate::socket::{self, BoundSocket};
use crate::stats::{Gauge, Stats};
use crate::unix_server;

/// How often what is unused is dropped.
const JUDGE_INTERVAL: Duration = Duration::from_millis(500);
const SWEEP_INTERVAL: Duration = Duration::from_secs(3);
/// Pause after accept fails, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Largest time that one drain poll sleeps.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How long a start waits for the handles of a broker that goes; what comes later is good all the same.
const HANDLES_TIMEOUT: Duration = Duration::from_secs(5);

/// A code and a message for the control process.
pub type StartError = (&'static str, String);

/// A running data plane.
pub struct Server {
    pub peer_port: u16,
    broker: Arc<Broker>,
    runtime: Running,
    log_thread: JoinHandle<()>,
    socket: Option<BoundSocket>,
    /// For the process that takes over.
    peer: TcpListener,
    store: SharedStore,
}

/// What a going broker passed on.
pub struct Inherited {
    pub out: UnixListener,
    pub out_lock: File,
    pub peer: TcpListener,
    /// Where it asks.
    pub relay: UnixStream,
    /// Where it passes connections.
    pub forward: UnixDatagram,
}

impl Server {
    /// Binds both sockets, opens the log and begins to accept.
    ///
    /// # Errors
    /// A code and message: the socket, port, log or kernel is not as needed; nothing is left behind.
    pub fn start(broker: &Arc<Broker>, inherited: Option<Inherited>) -> Result<Self, StartError> {
        let settings = &broker.settings;
        if !pidfd::is_supported() {
            return Err(("kernel_unsupported", "processes cannot be told apart; Linux 6.14 or newer is needed".into()));
        }
        let (socket, peer, relay) = match inherited {
            Some(Inherited { out, out_lock, peer, relay, forward }) => {
                (BoundSocket::inherit(&settings.out_socket, out, out_lock)?, peer, Some((relay, forward)))
            }
            None => {
                let socket = socket::bind(&settings.out_socket, settings.out_socket_mode)?;
                let peer = TcpListener::bind(settings.peer_listen)
                    .map_err(|error| listen_error(settings.peer_listen, &error))?;
                (socket, peer, None)
            }
        };
        let bound = peer.local_addr().map_err(|error| listen_error(settings.peer_listen, &error))?;
        let (log_thread, store) = open_log(broker, bound)?;
        tell_of_descriptors(broker);
        let failed = |error: io::Error| ("start_failed", error.to_string());
        let out = socket.listener.try_clone().map_err(failed)?;
        peer.set_nonblocking(true).map_err(failed)?;
        let Some(Started { log, .. }) = broker.started.get() else { return Err(failed(io::Error::other("no log"))) };
        let runtime = log.serve(|at_rest| Running::start(settings.worker_threads, at_rest)).map_err(failed)?;
        if let Some((relay, forward)) = relay {
            let handle = runtime.handle.clone();
            let predecessor = Predecessor::serve(broker, relay, store.clone(), handle).map_err(failed)?;
            runtime.handle.spawn(relay::accept_forwarded(Arc::clone(broker), forward, predecessor.gone.clone()));
            if !predecessor.wait_ready(HANDLES_TIMEOUT) {
                broker.events.push(Weight::Required, &json!({"event": "handover_slow"}));
            }
        }
        let accepted = peer.try_clone().map_err(failed)?;
        runtime.handle.spawn(unix_server::accept(Arc::clone(broker), out));
        runtime.handle.spawn(accept_peers(Arc::clone(broker), accepted));
        runtime.handle.spawn(sweep(Arc::clone(broker)));
        let watched = Arc::clone(broker);
        runtime.handle.spawn(async move { watched.streams.watch(&watched.shutdown).await });
        runtime.handle.spawn(judge_by_the_clock(Arc::clone(broker)));
        Ok(Self {
            peer_port: bound.port(),
            broker: Arc::clone(broker),
            runtime,
            log_thread,
            socket: Some(socket),
            peer,
            store,
        })
    }

    /// What a process that takes over needs before the switch: `out.sock`, its lock, the peer port.
    pub fn descriptors(&self) -> Option<[BorrowedFd<'_>; 3]> {
        let (out, lock) = self.socket.as_ref()?.descriptors();
        Some([out, lock, self.peer.as_fd()])
    }

    /// The switch: from now on another process accepts and writes the log; it needs the two sockets.
    ///
    /// # Errors
    /// There is no descriptor or thread left, or it was done before; this process goes on as it was.
    pub fn hand_over(&mut self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (own, theirs) = UnixStream::pair()?;
        let (forward, forwarded) = UnixDatagram::pair()?;
        let socket = self.socket.take().ok_or_else(|| io::Error::other("handed over before"))?;
        let successor = match Successor::start(own, forward) {
            Ok(successor) => successor,
            Err(error) => {
                self.socket = Some(socket);
                return Err(error);
            }
        };
        self.broker.shutdown.hand_over.cancel();
        socket.leave();
        let _first = self.broker.successor.set(Arc::clone(&successor));
        self.store.exchange(Box::new(RemoteLog(Arc::clone(&successor))));
        if let Some(started) = self.broker.started.get() {
            // The successor answers only when what it appended is witnessed.
            started.log.set_witnessed(u64::MAX);
        }
        let broker = Arc::clone(&self.broker);
        // Those that are made from now on are handed on by whoever makes them.
        std::thread::Builder::new().name("handles".into()).spawn(move || {
            for held in broker.handles.all() {
                let _expired_or_withdrawn_there = successor.ask_blocking(Ask::Keep(Box::new(Kept::new(&held))));
            }
            successor.ask_blocking(Ask::Ready);
        })?;
        self.broker.shutdown.drain_peers.cancel();
        Ok((theirs.into(), forwarded.into()))
    }

    /// Takes nothing new and waits for what is in progress, at most `timeout`.
    pub fn drain(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        if self.broker.successor.get().is_some() {
            // Each connection of a component ends with its next answer, or when it was idle for long.
            let stats = &self.broker.stats;
            while (stats.out_connections.get() > 0 || stats.calls_in_progress.get() > 0) && Instant::now() < deadline {
                std::thread::sleep(DRAIN_POLL);
            }
        }
        let wait_for_none = |calls: &Gauge| {
            while calls.get() > 0 && Instant::now() < deadline {
                std::thread::sleep(DRAIN_POLL);
            }
        };
        self.broker.shutdown.drain.cancel();
        self.socket.take();
        wait_for_none(&self.broker.stats.calls_out_in_progress);
        self.broker.shutdown.drain_peers.cancel();
        wait_for_none(&self.broker.stats.calls_in_progress);
    }

    /// Closes everything at once and flushes the log.
    pub fn stop(mut self) {
        self.broker.shutdown.drain.cancel();
        self.broker.shutdown.drain_peers.cancel();
        self.broker.shutdown.stop.cancel();
        self.socket.take();
        self.runtime.stop();
        if let Some(started) = self.broker.started.get() {
            started.log.close();
        }
        let _panicked_thread_has_nothing_to_flush = self.log_thread.join();
    }
}

/// Connections are fewer than configured if the process may not have the descriptors for them.
fn tell_of_descriptors(broker: &Broker) {
    descriptors::raise_limit();
    let limits = &broker.settings.limits;
    let wanted = limits.out_connections.max(limits.peer_connections);
    let most = descriptors::connections(wanted);
    if most < wanted {
        let few = json!({"event": "descriptors_few", "connections": most, "configured": wanted});
        broker.events.push(Weight::Required, &few);
    }
}

fn listen_error(address: SocketAddr, error: &io::Error) -> StartError {
    let code = if error.kind() == ErrorKind::AddrInUse { "peer_port_in_use" } else { "peer_listen_failed" };
    (code, format!("{address}: {error}"))
}

fn open_log(broker: &Arc<Broker>, bound: SocketAddr) -> Result<(JoinHandle<()>, SharedStore), StartError> {
    let settings = &broker.settings;
    let now = clock::now_s();
    let (files, found) =
        LogFiles::open(&settings.log_dir, now - MAX_SKEW_S, settings.log.segment_bytes).map_err(|error| {
            let code = if error.kind() == ErrorKind::WouldBlock { "log_locked" } else { "log_unavailable" };
            (code, format!("{}: {error}", settings.log_dir.display()))
        })?;
    let complete = found.damaged == 0 && found.accepted.iter().all(|accepted| restore(broker, accepted, now).is_some());
    let store = SharedStore::new(Box::new(files));
    let observer = Arc::new(Observer { events: Arc::clone(&broker.events), stats: Arc::clone(&broker.stats) });
    let beginning = Beginning {
        node: settings.node.clone(),
        next_n: found.next_n,
        certificates: found.certificates,
        latest_exp: found.latest_exp,
    };
    let (log, thread) = Log::start(Box::new(store.clone()), beginning, settings.patience(), observer)
        .map_err(|error| ("log_unavailable", error.to_string()))?;
    if found.damaged > 0 {
        let damaged = json!({"event": "log_damaged", "lines": found.damaged});
        broker.events.push(Weight::Required, &damaged);
    }
    let unlogged = log.append_nowait(Entry::Start { node: settings.node.clone() }, Vec::new());
    unlogged.map_err(|error| ("log_unavailable", format!("{error:?}")))?;
    let trusted_from = if complete { 0 } else { now + MAX_SKEW_S };
    let started = Started { log, peer_address: loopback(bound), trusted_from };
    broker.started.set(started).map_err(|_| ("started_twice", "a data plane starts once".to_owned()))?;
    broker.log_bundles();
    Ok((thread, store))
}

/// Remembers one accepted record; None if the log's claims cannot be read or there is no room.
fn restore(broker: &Broker, accepted: &Accepted, now: i64) -> Option<()> {
    let iss = SpiffeId::parse(&accepted.iss)?;
    let (jti, cid) = (RandomId::parse(&accepted.jti)?, RandomId::parse(&accepted.cid)?);
    let used = broker.receiver.restore_used(&iss, jti, accepted.exp, now);
    if used.is_err_and(|rejection| rejection.code == Code::Unavailable) {
        return None;
    }
    if accepted.is_refused {
        return Some(());
    }
    let root = match &accepted.root {
        None => iss,
        Some(sealed) => Record::parse(UnverifiedStatement::parse(sealed).ok()?.claims()).ok()?.iss,
    };
    let _known_already = broker.receiver.restore_root(cid, &root, now);
    Some(())
}

/// Where calls between components of this node go: our own peer port, from inside.
fn loopback(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

struct Observer {
    events: Arc<Events>,
    stats: Arc<Stats>,
}

impl LogObserver for Observer {
    fn failed(&self, detail: &str) {
        self.stats.log_failures.fetch_add(1, Ordering::Relaxed);
        self.stats.set_log_detail(detail);
        self.events.push(Weight::Required, &json!({"event": "log_failed", "detail": detail}));
    }

    fn recovered(&self) {
        self.stats.set_log_detail("");
        self.events.push(Weight::Required, &json!({"event": "log_recovered"}));
    }

    fn roll_failed(&self, detail: &str) {
        self.events.push(Weight::Required, &json!({"event": "log_roll_failed", "detail": detail}));
    }

    fn wrote(&self, entries: usize, seals: usize, bytes: usize, took: Duration) {
        self.stats.log_entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.stats.log_seals.fetch_add(seals as u64, Ordering::Relaxed);
        self.stats.log_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stats.log_write.observe(took);
    }
}

async fn sweep(broker: Arc<Broker>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_INTERVAL) => broker.sweep(),
            () = broker.shutdown.stop.cancelled() => return,
        }
    }
}

/// Policies that read the time are asked again about open calls, twice within the second that a change may take.
async fn judge_by_the_clock(broker: Arc<Broker>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(JUDGE_INTERVAL) => broker.judge_changing(),
            () = broker.shutdown.stop.cancelled() => return,
        }
    }
}

async fn accept_peers(broker: Arc<Broker>, listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let limits = &broker.settings.limits;
    let handshakes = Handshakes::new(limits.handshakes, limits.handshake_queue, Arc::clone(&broker.stats));
    let handshakes = Arc::new(handshakes);
    let places = Places::new(descriptors::connections(limits.peer_connections), limits.peer_connections_per_address);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = broker.shutdown.drain_peers.cancelled() => return,
            () = broker.shutdown.hand_over.cancelled() => return,
        };
        let Ok((tcp, address)) = accepted else {
            broker.stats.count_refused_connection("peer", "accept");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(place) = places.take(address.ip()) else {
            broker.stats.count_refused_connection("peer", "too_many");
            continue;
        };
        let (broker, handshakes) = (Arc::clone(&broker), Arc::clone(&handshakes));
        tokio::spawn(async move {
            if let Err(why) = inbound::serve(Arc::clone(&broker), tcp, address.ip(), handshakes).await {
                broker.stats.count_refused_connection("peer", why);
            }
            drop(place);
        });
    }
}
