//! Answers of peers on their way to a component: nothing passes as good without its receipt.
//!
//! Owns: holding back. A short answer is held back whole; of a long one with a known length the last
//! piece; of one without, the end itself, so that its reader sees it break off. Does not own: what
//! makes a receipt good (see `awaited`).
//!
//! Source: custody-wire §7.1, §7.3.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hopseal_custody::binding::BodySummer;
use http::{HeaderMap, Response, Version, header, response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::awaited::{Awaited, Sent, Unverified};
use crate::body::announced_length;
use crate::grpc;
use crate::headers;
use crate::problem::{PeerRefusal, Refusal};
use crate::reply::{BodyFailed, Reply, WHOLE_BYTES, is_whole};
use crate::settings::ms;
use crate::sse::{Scanner, is_event_stream};

/// What came back for one request.
pub enum Taken {
    /// An answer whose receipt holds, or that breaks off if it does not.
    Answer(Response<Reply>),
    /// The peer's broker refused before it could give a receipt.
    Refused(PeerRefusal),
}

/// Reads an answer for a reader of HTTP of `version`, which may not be able to tell that a stream broke off.
///
/// # Errors
/// The answer has no receipt that is true of it.
pub async fn take(sent: Sent, response: Response<Incoming>, is_head: bool, version: Version) -> Result<Taken, Refusal> {
    let (mut parts, body) = response.into_parts();
    let awaited = Awaited { sent, status: parts.status, head: parts.headers.clone() };
    let length = announced_length(&parts.headers);
    let (streams, takes_trailers) = (version >= Version::HTTP_11, version >= Version::HTTP_2);
    let events = is_event_stream(&parts.headers);
    headers::strip(&mut parts.headers);
    parts.version = Version::HTTP_11;
    if is_head || is_whole(&awaited.head, &body) || (length.is_none() && !streams) {
        let deadline = ms(awaited.sent.broker.settings.timeouts_ms.response_head);
        let taken = timeout(deadline, take_whole(&awaited, parts, body, (is_head, takes_trailers))).await;
        return taken.unwrap_or_else(|_| Err(Refusal::new("peer_timeout", "a short answer did not end in time")));
    }
    if events {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let stream = VerifiedBody {
        inner: body,
        pending: Some(Pending { sum: grpc::summer_of(&awaited.head), awaited, scanner: events.then(Scanner::new) }),
        takes_trailers,
        tail: None,
        holds_last: parts.headers.contains_key(header::CONTENT_LENGTH),
        held: VecDeque::new(),
    };
    Ok(Taken::Answer(Response::from_parts(parts, Reply::Verified(Box::new(stream)))))
}

async fn take_whole(
    awaited: &Awaited,
    mut parts: response::Parts,
    body: Incoming,
    (is_head, takes_trailers): (bool, bool),
) -> Result<Taken, Refusal> {
    let (mut bytes, mut trailers) = collect(awaited, body).await?;
    let mut comment = None;
    if is_event_stream(&awaited.head) {
        let mut scanner = Scanner::new();
        let certain = scanner.push(&bytes);
        match scanner.finish() {
            Ok(sealed) => (bytes, comment) = (certain, Some(sealed)),
            Err(_all_of_it_is_body) => {}
        }
    }
    match awaited.settle(&trailers, comment.as_deref(), grpc::sum_of(&awaited.head, &bytes)) {
        Ok(()) => {
            if !is_head {
                parts.headers.remove(header::CONTENT_LENGTH);
            }
            headers::strip_trailers(&mut trailers);
            let reply = match takes_trailers && !trailers.is_empty() {
                true => Reply::whole_with_trailers(bytes, trailers),
                false => Reply::whole(bytes),
            };
            Ok(Taken::Answer(Response::from_parts(parts, reply)))
        }
        Err(unverified) => {
            if matches!(unverified, Unverified::Missing) {
                if let Some(refused) = PeerRefusal::read(&parts, &bytes) {
                    return Ok(Taken::Refused(refused));
                }
                awaited.log_missing("the answer brought no receipt");
            }
            Err(unverified.into_refusal())
        }
    }
}

async fn collect(awaited: &Awaited, mut body: Incoming) -> Result<(Bytes, HeaderMap), Refusal> {
    let (mut bytes, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            awaited.log_missing("the answer broke off");
            Refusal::new("receipt_missing", format!("the answer broke off: {error}"))
        })?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > WHOLE_BYTES => {
                return Err(Refusal::new("answer_too_long", "HTTP/1.0 shows no end of a stream, so it gets none"));
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((bytes.freeze(), trailers))
}

struct Pending {
    awaited: Awaited,
    sum: BodySummer,
    scanner: Option<Scanner>,
}

/// A streaming answer; its end passes only once its receipt was verified.
pub struct VerifiedBody {
    inner: Incoming,
    /// None once the receipt was verified or the stream has failed.
    pending: Option<Pending>,
    holds_last: bool,
    held: VecDeque<Bytes>,
    takes_trailers: bool,
    /// Trailers that pass behind the body.
    tail: Option<HeaderMap>,
}

impl VerifiedBody {
    /// Takes in a chunk; gives what may pass on now.
    fn push(&mut self, chunk: Bytes) -> Option<Bytes> {
        let pending = self.pending.as_mut()?;
        let chunk = match &mut pending.scanner {
            Some(scanner) => scanner.push(&chunk),
            None => chunk,
        };
        if chunk.is_empty() {
            return None;
        }
        pending.sum.update(&chunk);
        self.held.push_back(chunk);
        if self.holds_last && self.held.len() == 1 { None } else { self.held.pop_front() }
    }

    /// The peer's answer has ended.
    fn settle(&mut self, trailers: &HeaderMap) -> Result<(), BodyFailed> {
        let Some(Pending { awaited, mut sum, scanner }) = self.pending.take() else { return Ok(()) };
        let mut comment = None;
        match scanner.map(Scanner::finish) {
            Some(Ok(sealed)) => comment = Some(sealed),
            Some(Err(rest)) if !rest.is_empty() => {
                sum.update(&rest);
                self.held.push_back(rest);
            }
            Some(Err(_)) | None => {}
        }
        awaited.settle(trailers, comment.as_deref(), sum.finish()).map_err(|unverified| {
            if matches!(unverified, Unverified::Missing) {
                awaited.log_missing("the answer brought no receipt");
            }
            self.held.clear();
            unverified.into_refusal().into()
        })
    }

    fn break_off(&mut self, error: &hyper::Error) -> BodyFailed {
        if let Some(Pending { awaited, .. }) = self.pending.take() {
            awaited.log_missing("the answer broke off");
        }
        self.held.clear();
        BodyFailed::new("receipt_missing", format!("the answer broke off: {error}"))
    }
}

impl Body for VerifiedBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        while this.pending.is_some() {
            let mut trailers = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match this.push(data) {
                        Some(chunk) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                        None => continue,
                    },
                    Err(frame) => frame.into_trailers().unwrap_or_default(),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(this.break_off(&error)))),
                None => HeaderMap::new(),
            };
            if let Err(failed) = this.settle(&trailers) {
                return Poll::Ready(Some(Err(failed)));
            }
            headers::strip_trailers(&mut trailers);
            this.tail = Some(trailers).filter(|trailers| this.takes_trailers && !trailers.is_empty());
        }
        let data = this.held.pop_front().map(Frame::data);
        Poll::Ready(data.or_else(|| this.tail.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_none() && self.held.is_empty() && self.tail.is_none()
    }
}
