//! The peer port: mTLS connections of other brokers.
//!
//! Owns: handshakes under a deadline and a bound, choosing the component by SNI, the life of a
//! connection. Does not own: what a request on it may do (see `receive`).
//!
//! Source: runtime.md "Between nodes"; threats.md section 4.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use hopseal_custody::ids::SpiffeId;
use hopseal_custody::receive::Peer;

use crate::activity::Activity;
use crate::answers::Answers;
use crate::body::BodyMemory;
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::clock;
use crate::executor::{ConnectionTasks, cut_of_this_task};
use crate::h1_stream::H1Stream;
use crate::h2_stream::H2Stream;
use crate::handshakes::Handshakes;
use crate::headers::MAX_FIELDS;
use crate::instance::Leaf;
use crate::lifetime::Lifetime;
use crate::places::Place;
use crate::receive;
use crate::settings::{buffer_bytes, ms};
use crate::tls::{ALPN_H2, SNI_SUFFIX};
use crate::trust::PeerChain;
use crate::windows::Window;

/// Streams that a peer may reset before they are answered (CVE-2023-44487).
const RESETS: usize = 64;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection with nothing left to do may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One verified connection.
pub struct PeerConnection {
    /// The component that it was opened for, as `agent/component`.
    pub component: String,
    /// The leaf that answered.
    pub leaf: Arc<Leaf>,
    pub chain: PeerChain,
    /// The same as the codec reads it.
    pub peer: Peer,
    pub activity: Activity,
    /// Where the bodies of its requests count.
    pub memory: BodyMemory,
    _place: Place<SpiffeId>,
}

/// Serves one TCP connection to its end.
///
/// # Errors
/// Why it was closed before it carried a request; for the counters.
pub async fn serve(
    broker: Arc<Broker>,
    tcp: TcpStream,
    address: IpAddr,
    handshakes: Arc<Handshakes>,
) -> Result<(), &'static str> {
    let deadline = Instant::now() + ms(broker.settings.timeouts_ms.handshake);
    let opened = timeout_at(deadline, open(&broker, tcp, address, &handshakes));
    let (stream, connection) = opened.await.map_err(|_| "handshake_timeout")??;
    broker.stats.peer_connections.add(1);
    run(&broker, stream, Arc::new(connection)).await;
    broker.stats.peer_connections.add(-1);
    Ok(())
}

async fn open(
    broker: &Arc<Broker>,
    tcp: TcpStream,
    address: IpAddr,
    handshakes: &Handshakes,
) -> Result<(TlsStream<TcpStream>, PeerConnection), &'static str> {
    tcp.set_nodelay(true).map_err(|_| "socket")?;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(|_| "handshake")?;
    // Who says nothing takes nobody's turn: only a hello costs a signature.
    let admitted = handshakes.admit(address).await?;
    let component = component_for(broker, hello.client_hello().server_name()).ok_or("unknown_name")?;
    let preferred = broker.listeners.serving(&component);
    let leaf = broker.instances.serving(&component, preferred.as_ref()).ok_or("no_identity")?;
    let config = broker.tls.server(&leaf).map_err(|_| "tls")?;
    let stream = handshakes.run(&admitted, hello.into_stream(Arc::new(config))).await.map_err(|_| "handshake")?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain = broker.trust.verify(certificates.iter().map(AsRef::as_ref), clock::now_s()).map_err(|_| "untrusted")?;
    let peer = Peer::new(Arc::clone(chain.leaf()), chain.certificates[1..].to_vec());
    let place = broker.peer_connections.take(chain.id.clone()).ok_or("too_many_of_identity")?;
    let activity = Activity::new(ms(broker.settings.timeouts_ms.idle));
    let memory = broker.memory.within(broker.peer_memory.of(chain.id.clone()));
    Ok((stream, PeerConnection { component, leaf, chain, peer, activity, memory, _place: place }))
}

/// The component that a server name asks for; an unknown one only if a default is configured.
fn component_for(broker: &Broker, name: Option<&str>) -> Option<String> {
    let host = name.and_then(|name| name.strip_suffix(SNI_SUFFIX));
    let named = host.and_then(|host| broker.directory.resolve(host, "")).map(|component| component.qualified.clone());
    named.or_else(|| broker.settings.default_component.clone())
}

async fn run(broker: &Arc<Broker>, stream: TlsStream<TcpStream>, connection: Arc<PeerConnection>) {
    let lifetime =
        Lifetime::new(Arc::clone(&connection.leaf), connection.chain.clone(), &broker.trust, broker.shutdown.clone());
    let unread = ms(broker.settings.timeouts_ms.answer_unread);
    let watch = Watch { activity: connection.activity.clone(), answers: Answers::new(), unread };
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
    let caller = connection.chain.id.to_string();
    let cut = CancellationToken::new();
    let service = service_fn({
        let (broker, answers, cut) = (Arc::clone(broker), watch.answers.clone(), cut.clone());
        move |request: Request<Incoming>| {
            let (broker, connection, cut) = (Arc::clone(&broker), Arc::clone(&connection), cut.clone());
            let answering = answers.begin();
            async move {
                let answer = receive::answer(&broker, &connection, request).await;
                let writer = || if is_h2 { cut_of_this_task() } else { cut };
                Ok::<_, Infallible>(answering.watch(answer.map(|answer| answer.watched(&broker.streams, writer))))
            }
        }
    });
    let ended = if is_h2 {
        let (tasks, _ended_on_return) = ConnectionTasks::new();
        let stats = Arc::clone(&broker.stats);
        let stream = H2Stream::new(stream, move |flood| {
            stats.count_cut_connection("peer", flood.as_str());
        });
        let window = broker.windows.open();
        let served = h2_builder(broker, tasks, &window).serve_connection(TokioIo::new(stream), service);
        supervise(pin!(served), http2::Connection::graceful_shutdown, lifetime, &watch).await
    } else {
        let (stream, said) = H1Stream::new(stream, watch.answers.clone(), ms(broker.settings.timeouts_ms.header_read));
        let ended = {
            let mut served = pin!(h1_builder(broker).serve_connection(TokioIo::new(stream), service).with_upgrades());
            tokio::select! {
                ended = supervise(served.as_mut(), http1::UpgradeableConnection::graceful_shutdown, lifetime, &watch) => ended,
                () = cut.cancelled() => Ended::Unread,
            }
        };
        if let Some(code) = said.get() {
            let mut record = CallRecord::begin("in", &broker.events, &broker.stats);
            record.caller = Some(caller);
            record.never_began(code, ended.error());
        }
        ended
    };
    if matches!(ended, Ended::Unread) {
        broker.stats.count_cut_connection("peer", "answer_unread");
    }
}

/// What a connection is watched for.
struct Watch {
    activity: Activity,
    answers: Answers,
    /// How long an answer may wait for its reader.
    unread: Duration,
}

/// How a connection ended.
enum Ended {
    /// By itself, with the error that it ended with, or because nothing was left to do.
    Served(Option<hyper::Error>),
    Closed,
    Unread,
}

impl Ended {
    fn error(&self) -> Option<&hyper::Error> {
        match self {
            Self::Served(error) => error.as_ref(),
            Self::Closed | Self::Unread => None,
        }
    }
}

/// Serves until the connection ends, must close, or should finish and has nothing left to do.
async fn supervise<C: Future<Output = hyper::Result<()>>>(
    mut served: Pin<&mut C>,
    finish: fn(Pin<&mut C>),
    mut lifetime: Lifetime,
    watch: &Watch,
) -> Ended {
    let should_finish = lifetime.should_finish();
    let mut unread = pin!(watch.answers.stalled(watch.unread));
    tokio::select! {
        ended = served.as_mut() => return Ended::Served(ended.err()),
        _why = lifetime.must_close() => return Ended::Closed,
        () = unread.as_mut() => return Ended::Unread,
        () = should_finish => {}
        () = watch.activity.unused() => {}
    }
    finish(served.as_mut());
    // A peer that never finished its preface, or ignores the goodbye, would stay for ever.
    tokio::select! {
        ended = served => Ended::Served(ended.err()),
        _why = lifetime.must_close() => Ended::Closed,
        () = unread => Ended::Unread,
        () = watch.activity.unused_for(LAST_WORDS) => Ended::Served(None),
    }
}

fn h2_builder(broker: &Broker, tasks: ConnectionTasks, window: &Window) -> http2::Builder<ConnectionTasks> {
    let limits = &broker.settings.limits;
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(window.stream_bytes)
        .initial_connection_window_size(window.connection_bytes)
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.peer_header_bytes)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

fn h1_builder(broker: &Broker) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(ms(broker.settings.timeouts_ms.header_read))
        .max_headers(MAX_FIELDS)
        .max_header_size(broker.settings.limits.peer_header_bytes as usize)
        .max_buf_size(buffer_bytes(broker.settings.limits.peer_header_bytes as usize));
    builder
}
