//! `out.sock`: connections of local components.
//!
//! Owns: accepting within bounds, pinning the caller at accept, closing when it exits. Does not
//! own: what its requests may do (see `outbound`).

use std::convert::Infallible;
use std::future::pending;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::activity::Activity;
use crate::broker::Broker;
use crate::callers::Connected;
use crate::executor::{ConnectionTasks, cut_of_this_task};
use crate::outbound;
use crate::pidfd::{PinError, pin_peer};
use crate::places::Places;
use crate::preface::{Rewound, Spoken, sniff};
use crate::reply::AnswerBody;
use crate::settings::{buffer_bytes, ms};

/// Pause after accept fails, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Streams that a component may reset before they are answered (CVE-2023-44487).
const RESETS: usize = 64;
/// How long an unused connection may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Accepts until the data plane drains.
pub async fn accept(broker: Arc<Broker>, listener: UnixListener) {
    let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
    let limits = &broker.settings.limits;
    let places = Places::new(limits.out_connections, limits.out_connections_per_uid);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = broker.shutdown.drain.cancelled() => return,
        };
        let Ok((stream, _address)) = accepted else {
            broker.stats.count_refused_connection("out", "accept");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let why = match pin_peer(stream.as_fd()) {
            Ok(peer) => match places.take(peer.uid) {
                Some(place) => match broker.callers.connect(peer) {
                    Some(connected) => {
                        let broker = Arc::clone(&broker);
                        tokio::spawn(async move {
                            serve(broker, stream, connected).await;
                            drop(place);
                        });
                        continue;
                    }
                    None => "too_many_processes",
                },
                None => "too_many",
            },
            Err(PinError::Gone) => "caller_gone",
            Err(PinError::Unsupported | PinError::Io(_)) => "unpinnable",
        };
        broker.stats.count_refused_connection("out", why);
    }
}

async fn serve(broker: Arc<Broker>, stream: UnixStream, connected: Connected) {
    broker.stats.out_connections.add(1);
    let closed = connected.caller.closed.clone();
    // Who says nothing yet has sent no header either.
    let spoken = timeout(ms(broker.settings.timeouts_ms.header_read), sniff(stream));
    let sniffed = tokio::select! {
        spoken = spoken => spoken.ok().and_then(Result::ok),
        () = closed.cancelled() => None,
        () = broker.shutdown.drain.cancelled() => None,
    };
    if let Some((spoken, stream)) = sniffed {
        let serving = Serving {
            activity: Activity::new(ms(broker.settings.timeouts_ms.idle)),
            closed,
            connected: Arc::new(connected),
            cut: CancellationToken::new(),
        };
        let (serving, io) = (Arc::new(serving), TokioIo::new(stream));
        match spoken {
            Spoken::H1 => serve_h1(&broker, io, &serving).await,
            Spoken::H2 => serve_h2(&broker, io, &serving).await,
        }
    }
    broker.stats.out_connections.add(-1);
}

/// One connection whose first bytes have come.
struct Serving {
    connected: Arc<Connected>,
    /// The caller exited or was withdrawn.
    closed: CancellationToken,
    activity: Activity,
    /// Ends the connection for one answer that nobody reads.
    cut: CancellationToken,
}

impl Serving {
    /// Answers one request.
    async fn answer(&self, broker: &Arc<Broker>, request: Request<Incoming>) -> Response<AnswerBody> {
        let (busy, is_h2) = (self.activity.busy(), request.version() == Version::HTTP_2);
        let writer = || if is_h2 { cut_of_this_task() } else { self.cut.clone() };
        let answered = outbound::answer(broker, &self.connected, request).await;
        answered.map(|answer| answer.holding(busy).watched(&broker.streams, writer))
    }
}

type Io = TokioIo<Rewound<UnixStream>>;

async fn serve_h1(broker: &Arc<Broker>, io: Io, serving: &Arc<Serving>) {
    let header_bytes = broker.settings.limits.component_header_bytes;
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ms(broker.settings.timeouts_ms.header_read))
        .max_header_size(header_bytes)
        .max_buf_size(buffer_bytes(header_bytes))
        .serve_connection(
            io,
            service_fn({
                let (broker, serving) = (Arc::clone(broker), Arc::clone(serving));
                move |request: Request<Incoming>| {
                    let (broker, serving) = (Arc::clone(&broker), Arc::clone(&serving));
                    async move { Ok::<_, Infallible>(serving.answer(&broker, request).await) }
                }
            }),
        )
        .with_upgrades();
    supervise(pin!(served), http1::UpgradeableConnection::graceful_shutdown, broker, serving, None).await;
}

async fn serve_h2(broker: &Arc<Broker>, io: Io, serving: &Arc<Serving>) {
    let limits = &broker.settings.limits;
    let window = broker.windows.open();
    let (tasks, _ended_on_return) = ConnectionTasks::new();
    let served = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .initial_stream_window_size(window.stream_bytes)
        .initial_connection_window_size(window.connection_bytes)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(u32::try_from(limits.component_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .serve_connection(
            io,
            service_fn({
                let (broker, serving) = (Arc::clone(broker), Arc::clone(serving));
                move |request: Request<Incoming>| {
                    let (broker, serving) = (Arc::clone(&broker), Arc::clone(&serving));
                    async move { Ok::<_, Infallible>(serving.answer(&broker, request).await) }
                }
            }),
        );
    let idle = Some(&serving.activity);
    supervise(pin!(served), http2::Connection::graceful_shutdown, broker, serving, idle).await;
}

/// Serves until the connection ends or its caller does, or lets it finish: unused for long, or because the broker drains.
async fn supervise<C: Future>(
    mut served: Pin<&mut C>,
    finish: fn(Pin<&mut C>),
    broker: &Broker,
    Serving { closed, cut, .. }: &Serving,
    idle: Option<&Activity>,
) {
    let unused = async {
        match idle {
            Some(activity) => activity.unused().await,
            None => pending().await,
        }
    };
    let is_unused = tokio::select! {
        _ended = served.as_mut() => return,
        () = closed.cancelled() => return,
        () = cut.cancelled() => return,
        () = broker.shutdown.drain.cancelled() => false,
        () = unused => true,
    };
    finish(served.as_mut());
    let silent = async {
        match idle.filter(|_| is_unused) {
            Some(activity) => activity.unused_for(LAST_WORDS).await,
            None => pending().await,
        }
    };
    tokio::select! {
        _ended = served => {}
        () = closed.cancelled() => {}
        () = cut.cancelled() => {}
        () = broker.shutdown.stop.cancelled() => {}
        () = silent => {}
    }
}
