//! `out.sock`: connections of local components.
//!
//! Owns: accepting within bounds, pinning the caller at accept, closing when it exits. Does not
//! own: what its requests may do (see `outbound`).

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;

use crate::answers::{Answers, WatchedBody};
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::callers::Connected;
use crate::descriptors;
use crate::h1_stream::H1Stream;
use crate::pidfd::{PinError, pin_peer};
use crate::places::Places;
use crate::relay;
use crate::settings::{buffer_bytes, ms};

/// Pause after accept fails, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    let answers = Answers::new();
    let (stream, said) = H1Stream::new(stream, answers.clone(), ms(broker.settings.timeouts_ms.header_read));
    let error = exchange(&broker, stream, Arc::new(connected), answers).await;
    broker.stats.out_connections.add(-1);
    if let Some(code) = said.get() {
        CallRecord::begin("out", &broker.events, &broker.stats).never_began(code, error.as_ref());
    }
}

/// Serves requests until the connection ends; gives the error that ended it.
async fn exchange(
    broker: &Arc<Broker>,
    stream: H1Stream<UnixStream>,
    connected: Arc<Connected>,
    answers: Answers,
) -> Option<hyper::Error> {
    let closed = connected.caller.closed.clone();
    let service = service_fn({
        let (broker, answers) = (Arc::clone(broker), answers.clone());
        move |request: Request<Incoming>| {
            let (broker, connected, answering) = (Arc::clone(&broker), Arc::clone(&connected), answers.begin());
            async move {
                let answer = relay::answer(&broker, &connected, request).await;
                Ok::<_, Infallible>(answer.map(|body| WatchedBody::new(body, answering)))
            }
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ms(broker.settings.timeouts_ms.header_read))
        .max_header_size(broker.settings.limits.component_header_bytes)
        .max_buf_size(buffer_bytes(broker.settings.limits.component_header_bytes))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(served);
    let shutdown = broker.shutdown.clone();
    let stalled = answers.stalled(ms(broker.settings.timeouts_ms.answer_unread));
    tokio::pin!(stalled);
    tokio::select! {
        ended = served.as_mut() => return ended.err(),
        () = closed.cancelled() => return None,
        () = stalled.as_mut() => {}
        () = shutdown.drain.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served => return ended.err(),
                () = closed.cancelled() => return None,
                () = shutdown.stop.cancelled() => return None,
                () = stalled => {}
            }
        }
    }
    broker.stats.count_cut_connection("out", "answer_unread");
    None
}
