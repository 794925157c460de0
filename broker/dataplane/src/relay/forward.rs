//! Requests of components that are still connected to the going broker: the coming one answers them.
//!
//! The connection is not closed under the component's hands: a request that it sends while we close would be lost. Each
//! gets one more answer, which says that the connection ends.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio_util::sync::CancellationToken;

use super::Successor;
use crate::broker::Broker;
use crate::call::CallRecord;
use crate::callers::Connected;
use crate::outbound;
use crate::pidfd::reopen;
use crate::problem::Refusal;
use crate::reply::{AnswerBody, Reply};
use crate::unix_server;

/// Longest message beside a passed connection.
const MAX_CALLER_BYTES: usize = 256;

/// Pause after receiving fails, most likely for want of descriptors.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// Whose connection is passed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarded {
    inode: u64,
    pid: i32,
    uid: u32,
}

/// Answers one request on `out.sock`: here, or through the broker that has taken over.
pub async fn answer(
    broker: &Arc<Broker>,
    connected: &Arc<Connected>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let version = request.version();
    let is_plain = request.method() != Method::CONNECT && !request.headers().contains_key(header::UPGRADE);
    let can_pass = is_plain && version != Version::HTTP_2 && connected.caller.pid > 0;
    let successor = broker.successor.get().filter(|_| can_pass);
    let mut response = match successor.map(|successor| open(successor, connected)) {
        Some(Ok(stream)) => pass_on(broker, stream, request).await,
        Some(Err(_)) | None => outbound::answer(broker, connected, request).await,
    };
    let goes_on = response.body().is_upgrade();
    if broker.shutdown.hand_over.is_cancelled() && version != Version::HTTP_2 && !goes_on {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    super::hand_on_of_caller(broker, connected, response.headers()).await;
    response
}

fn open(successor: &Successor, connected: &Connected) -> io::Result<UnixStream> {
    let caller = &connected.caller;
    successor.connect(&Forwarded { inode: caller.inode, pid: caller.pid, uid: caller.uid })
}

async fn pass_on(broker: &Broker, stream: UnixStream, request: Request<Incoming>) -> Response<AnswerBody> {
    let mut record = CallRecord::begin("out", &broker.events, &broker.stats);
    record.pass_on();
    match exchange(stream, request).await {
        Ok(response) => {
            record.answered(response.status());
            response.map(|body| AnswerBody::new(Reply::Passed(body), record))
        }
        Err(why) => {
            let refusal = Refusal::new("handover_failed", why);
            record.refused(&refusal);
            refusal.response().map(|body| AnswerBody::new(Reply::whole(body), record))
        }
    }
}

async fn exchange(stream: UnixStream, request: Request<Incoming>) -> Result<Response<Incoming>, String> {
    let failed = |error: &dyn std::error::Error| error.to_string();
    let stream = tokio::net::UnixStream::from_std(stream).map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| failed(&error))
}

/// Serves the connections that the going broker passes, until it is gone.
pub async fn accept_forwarded(broker: Arc<Broker>, forward: UnixDatagram, gone: CancellationToken) {
    let taken = forward.set_nonblocking(true).and_then(|()| tokio::net::UnixDatagram::from_std(forward));
    let Ok(forward) = taken else { return };
    loop {
        let received = tokio::select! {
            received = forward.async_io(Interest::READABLE, || receive(&forward)) => received,
            () = gone.cancelled() => return,
            () = broker.shutdown.stop.cancelled() => return,
        };
        match received {
            Ok((caller, stream)) => serve(&broker, &caller, stream),
            Err(_) => {
                broker.stats.count_refused_connection("out", "forwarded");
                tokio::time::sleep(RECEIVE_PAUSE).await;
            }
        }
    }
}

fn serve(broker: &Arc<Broker>, caller: &Forwarded, stream: UnixStream) {
    let peer = reopen(caller.pid, caller.inode, caller.uid);
    let connected = peer.and_then(|peer| broker.callers.connect(peer));
    let stream = tokio::net::UnixStream::from_std(stream).ok();
    match connected.zip(stream) {
        Some((connected, stream)) => {
            tokio::spawn(unix_server::serve(Arc::clone(broker), stream, connected));
        }
        None => broker.stats.count_refused_connection("out", "forwarded"),
    }
}

/// One passed connection.
fn receive(forward: &tokio::net::UnixDatagram) -> io::Result<(Forwarded, UnixStream)> {
    let mut text = [0; MAX_CALLER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(forward, &mut [io::IoSliceMut::new(&mut text)], &mut ancillary, flags)?;
    let passed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
        _ => None,
    });
    let caller: Forwarded = serde_json::from_slice(&text[..received.bytes])?;
    let stream = UnixStream::from(passed.ok_or_else(|| io::Error::other("no connection was passed"))?);
    stream.set_nonblocking(true)?;
    Ok((caller, stream))
}
