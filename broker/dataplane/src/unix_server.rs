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
use crate::answers::{Answers, WatchedBody};
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::callers::Connected;
use crate::descriptors;
use crate::executor::{ConnectionTasks, cut_of_this_task};
use crate::h1_stream::H1Stream;
use crate::h2_stream::H2Stream;
use crate::pidfd::{PinError, pin_peer};
use crate::places::Places;
use crate::preface::{Rewound, Spoken, sniff};
use crate::relay;
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
    let places = Places::new(descriptors::connections(limits.out_connections), limits.out_connections_per_uid);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = broker.shutdown.drain.cancelled() => return,
            () = broker.shutdown.hand_over.cancelled() => return,
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

/// Serves one connection to its end.
pub async fn serve(broker: Arc<Broker>, stream: UnixStream, connected: Connected) {
    broker.stats.out_connections.add(1);
    let serving = Arc::new(Serving {
        closed: connected.caller.closed.clone(),
        connected: Arc::new(connected),
        activity: Activity::new(ms(broker.settings.timeouts_ms.idle)),
        answers: Answers::new(),
        cut: CancellationToken::new(),
    });
    match begin(&broker, stream, &serving.closed).await {
        Some((Spoken::H1, stream)) => serve_h1(&broker, stream, &serving).await,
        Some((Spoken::H2, stream)) => serve_h2(&broker, stream, &serving).await,
        None => {}
    }
    broker.stats.out_connections.add(-1);
}

/// The first bytes; None if there were none in time. Who says nothing yet has sent no header either.
async fn begin(
    broker: &Broker,
    stream: UnixStream,
    closed: &CancellationToken,
) -> Option<(Spoken, Rewound<UnixStream>)> {
    tokio::select! {
        spoken = timeout(ms(broker.settings.timeouts_ms.header_read), sniff(stream)) => spoken.ok()?.ok(),
        () = closed.cancelled() => None,
        () = broker.shutdown.drain.cancelled() => None,
    }
}

/// One connection whose first bytes have come.
struct Serving {
    connected: Arc<Connected>,
    /// The caller exited or was withdrawn.
    closed: CancellationToken,
    activity: Activity,
    answers: Answers,
    /// Ends the connection for one answer that nobody reads.
    cut: CancellationToken,
}

impl Serving {
    /// Answers one request.
    async fn answer(&self, broker: &Arc<Broker>, request: Request<Incoming>) -> Response<WatchedBody> {
        let (answering, busy) = (self.answers.begin(), self.activity.busy());
        let is_h2 = request.version() == Version::HTTP_2;
        let writer = || if is_h2 { cut_of_this_task() } else { self.cut.clone() };
        let answered = relay::answer(broker, &self.connected, request).await;
        answering.watch(answered.map(|answer| answer.holding(busy).watched(&broker.streams, writer)))
    }
}

async fn serve_h1(broker: &Arc<Broker>, stream: Rewound<UnixStream>, serving: &Arc<Serving>) {
    let (limits, head) = (&broker.settings.limits, ms(broker.settings.timeouts_ms.header_read));
    let (stream, said) = H1Stream::new(stream, serving.answers.clone(), head);
    let ended = {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_header_size(limits.component_header_bytes)
            .max_buf_size(buffer_bytes(limits.component_header_bytes))
            .serve_connection(
                TokioIo::new(stream),
                service_fn({
                    let (broker, serving) = (Arc::clone(broker), Arc::clone(serving));
                    move |request: Request<Incoming>| {
                        let (broker, serving) = (Arc::clone(&broker), Arc::clone(&serving));
                        async move { Ok::<_, Infallible>(serving.answer(&broker, request).await) }
                    }
                }),
            )
            .with_upgrades();
        supervise(pin!(served), http1::UpgradeableConnection::graceful_shutdown, broker, serving, None).await
    };
    if let Some(code) = said.get() {
        CallRecord::begin("out", &broker.events, &broker.stats).never_began(code, ended.as_ref());
    }
}

async fn serve_h2(broker: &Arc<Broker>, stream: Rewound<UnixStream>, serving: &Arc<Serving>) {
    let limits = &broker.settings.limits;
    let stats = Arc::clone(&broker.stats);
    let stream = H2Stream::new(stream, move |flood| {
        stats.count_cut_connection("out", flood.as_str());
    });
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
            TokioIo::new(stream),
            service_fn({
                let (broker, serving) = (Arc::clone(broker), Arc::clone(serving));
                move |request: Request<Incoming>| {
                    let (broker, serving) = (Arc::clone(&broker), Arc::clone(&serving));
                    async move { Ok::<_, Infallible>(serving.answer(&broker, request).await) }
                }
            }),
        );
    let idle = Some(&serving.activity);
    let _told_by_its_calls = supervise(pin!(served), http2::Connection::graceful_shutdown, broker, serving, idle).await;
}

/// Serves until the connection ends or its caller does, or lets it finish: unused for long, or because the broker
/// drains. Gives the error that ended it.
async fn supervise<C: Future<Output = hyper::Result<()>>>(
    mut served: Pin<&mut C>,
    finish: fn(Pin<&mut C>),
    broker: &Broker,
    Serving { closed, cut, answers, .. }: &Serving,
    idle: Option<&Activity>,
) -> Option<hyper::Error> {
    let unused = async {
        match idle {
            Some(activity) => activity.unused().await,
            None => pending().await,
        }
    };
    let mut unread = pin!(async {
        tokio::select! {
            () = answers.stalled(ms(broker.settings.timeouts_ms.answer_unread)) => {}
            () = cut.cancelled() => {}
        }
        broker.stats.count_cut_connection("out", "answer_unread");
    });
    let is_unused = tokio::select! {
        ended = served.as_mut() => return ended.err(),
        () = closed.cancelled() => return None,
        () = unread.as_mut() => return None,
        () = broker.shutdown.drain.cancelled() => false,
        // HTTP/2 has a goodbye that loses no request: the next one goes to the broker that takes over.
        () = broker.shutdown.hand_over.cancelled(), if idle.is_some() => false,
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
        ended = served => ended.err(),
        () = closed.cancelled() => None,
        () = unread => None,
        () = broker.shutdown.stop.cancelled() => None,
        () = silent => None,
    }
}
