//! What a party without custody answered, as the caller's own broker saw it.
//!
//! Owns: the observation of an answer, and holding the answer's end back until it is durable. A short answer is held
//! back whole; of a long one with a known length the last piece; of one without, the end itself. An answer that is cut
//! is observed as cut. Does not own: sending the request (see `send`).
//!
//! Source: custody-wire §7.1 (last item).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hopseal_custody::binding::{BodySum, BodySummer, response_binding};
use hopseal_custody::compose::{Payload, observation_payload};
use hopseal_custody::hash::{ClaimHash, RandomId, StatementHash};
use hopseal_custody::observation::Observation;
use hopseal_custody::outcome::{Fin, Kids, Outcome};
use http::{HeaderMap, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::body::announced_length;
use crate::broker::Broker;
use crate::clock;
use crate::gathered::Gathered;
use crate::headers;
use crate::instance::Leaf;
use crate::log::{About, Kind, QueuedSeal, SealRequest, Sealed};
use crate::outgoing::durable;
use crate::problem::{Refusal, refusal_of};
use crate::reply::{BodyFailed, Reply, WHOLE_BYTES, is_whole};
use crate::settings::ms;

/// What is not in the log, in refusals.
const OBSERVATION: &str = "the observation";

/// One request that was sent, as far as the observation of its answer tells of it.
pub struct Asked {
    pub broker: Arc<Broker>,
    /// The leaf that sealed its record.
    pub leaf: Arc<Leaf>,
    pub cid: RandomId,
    /// Statement hash of its record.
    pub rec: StatementHash,
    /// Where it went, as in an origin.
    pub host: String,
    /// Hash of the public key that the server proved to have.
    pub spki: ClaimHash,
    pub receipts: Arc<Gathered>,
    /// The decision that allowed it.
    pub decision: Option<String>,
}

/// The head of an answer as it came from the wire.
struct Head {
    status: StatusCode,
    fields: HeaderMap,
}

impl Asked {
    /// Queues the observation; its place among the receipts under the handle is that in the log.
    fn observe(&self, head: &Head, body: BodySum, fin: Fin) -> Result<QueuedSeal, Refusal> {
        let payload = self.payload(head, body, fin)?;
        let started = self.broker.started.get().ok_or_else(|| Refusal::new("log_unavailable", "not started"))?;
        let hash = payload.statement_hash(&self.leaf.thumbprint());
        let own = self.leaf.id.to_string();
        let about = About {
            iss: own.clone(),
            aud: own,
            cid: self.cid.to_string(),
            rec: self.rec.to_string(),
            st: Some(head.status.as_u16()),
        };
        let request = SealRequest {
            leaf: Arc::<Leaf>::clone(&self.leaf),
            payload,
            receiver_trust_domain: self.leaf.id.trust_domain().to_owned(),
            claims: Sealed::Other(Kind::Observation, about),
        };
        let mut queued = None;
        self.receipts.add(hash, || queued = Some(started.log.queue_seal(request)));
        queued.ok_or_else(|| Refusal::new("internal", "the observation was not queued"))
    }

    fn payload(&self, head: &Head, body: BodySum, fin: Fin) -> Result<Payload, Refusal> {
        let unbound = |_| Refusal::new("egress_answer", "a field of the answer holds bytes that cannot be bound");
        let rsb = response_binding(head.status.as_u16(), &headers::lines(&head.fields)).map_err(unbound)?;
        let outcome = Outcome {
            iss: self.leaf.id.clone(),
            aud: self.leaf.id.clone(),
            iat: clock::now_s(),
            jti: RandomId::generate().map_err(|_| Refusal::new("internal", "no randomness"))?,
            cid: self.cid,
            rec: self.rec,
            st: head.status.as_u16(),
            rsb,
            len: body.len,
            cd: ClaimHash(body.sha256),
            fin,
            kids: Kids::Listed(Vec::new()),
            n: None,
            tlb: None,
            req: None,
            dec: self.decision.clone(),
        };
        observation_payload(&Observation { outcome, host: self.host.clone(), spki: self.spki }).map_err(refusal_of)
    }

    /// Observes that the answer was cut after `body`; nobody waits for it.
    fn abort(&self, head: &Head, body: BodySum) {
        // Its queue is what counts: the call is lost anyway.
        let _queued = self.observe(head, body, Fin::Abort);
    }
}

/// Reads an answer; `streams` says whether its reader could tell that a stream broke off.
///
/// # Errors
/// It broke off, or its observation is not in the log.
pub async fn take(
    asked: Asked,
    response: Response<Incoming>,
    is_head: bool,
    streams: bool,
) -> Result<Response<Reply>, Refusal> {
    let (mut parts, body) = response.into_parts();
    let is_h2 = parts.version == Version::HTTP_2;
    let head = Head { status: parts.status, fields: parts.headers.clone() };
    let length = announced_length(&parts.headers);
    headers::strip(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    if is_head || is_whole(&head.fields, &body) || (length.is_none() && !streams) {
        let deadline = ms(asked.broker.settings.timeouts_ms.response_head);
        let mut cut = Cut { pending: Some(Pending { asked, head, sum: BodySummer::default() }) };
        let read = timeout(deadline, collect(&mut cut, body, is_h2)).await;
        let (bytes, trailers) =
            read.unwrap_or_else(|_| Err(Refusal::new("peer_timeout", "a short answer did not end in time")))?;
        let Some(Pending { asked, head, sum }) = cut.pending.take() else {
            return Err(Refusal::new("internal", "the answer was taken"));
        };
        durable(&asked.broker, asked.observe(&head, sum.finish(), Fin::Eof)?, OBSERVATION).await?;
        if !is_head {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let reply = if trailers.is_empty() { Reply::whole(bytes) } else { Reply::whole_with_trailers(bytes, trailers) };
        return Ok(Response::from_parts(parts, reply));
    }
    let stream = ObservedBody {
        inner: body,
        is_h2,
        holds_last: parts.headers.contains_key(header::CONTENT_LENGTH),
        state: State::Reading(Box::new(Cut { pending: Some(Pending { asked, head, sum: BodySummer::default() }) })),
        held: VecDeque::new(),
        trailers: None,
    };
    Ok(Response::from_parts(parts, Reply::Observed(Box::new(stream))))
}

/// Whether a body that gives nothing more was cut: a stream that is reset without an error has no end of its own.
fn is_cut(body: &Incoming, is_h2: bool) -> bool {
    is_h2 && !body.is_end_stream()
}

async fn collect(cut: &mut Cut, mut body: Incoming, is_h2: bool) -> Result<(Bytes, HeaderMap), Refusal> {
    let aborted = |why: String| Refusal::new("answer_aborted", format!("the answer broke off: {why}"));
    let mut has_trailers = false;
    let (mut bytes, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| aborted(error.to_string()))?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > WHOLE_BYTES => {
                return Err(Refusal::new("answer_too_long", "HTTP/1.0 shows no end of a stream, so it gets none"));
            }
            Ok(data) => {
                cut.update(&data);
                bytes.extend_from_slice(&data);
            }
            Err(frame) => {
                has_trailers = true;
                trailers = stripped(frame.into_trailers().unwrap_or_default());
            }
        }
    }
    if !has_trailers && is_cut(&body, is_h2) {
        return Err(aborted("the stream was reset".to_owned()));
    }
    Ok((bytes.freeze(), trailers))
}

fn stripped(mut trailers: HeaderMap) -> HeaderMap {
    headers::strip_trailers(&mut trailers);
    trailers
}

struct Pending {
    asked: Asked,
    head: Head,
    sum: BodySummer,
}

/// An answer that is being read; whoever drops it before its end has cut it.
struct Cut {
    pending: Option<Pending>,
}

impl Cut {
    fn update(&mut self, data: &[u8]) {
        if let Some(pending) = &mut self.pending {
            pending.sum.update(data);
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(Pending { asked, head, sum }) = self.pending.take() {
            asked.abort(&head, sum.finish());
        }
    }
}

type Writing = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

enum State {
    Reading(Box<Cut>),
    Writing(Writing),
    Ended,
}

/// A streaming answer; its end passes only once its observation is durable.
pub struct ObservedBody {
    inner: Incoming,
    is_h2: bool,
    holds_last: bool,
    state: State,
    held: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl ObservedBody {
    fn push(&mut self, data: Bytes) -> Option<Bytes> {
        if data.is_empty() {
            return None;
        }
        self.held.push_back(data);
        if self.holds_last && self.held.len() == 1 { None } else { self.held.pop_front() }
    }

    /// The answer has ended.
    fn end(&mut self) -> Result<(), Refusal> {
        let State::Reading(mut cut) = std::mem::replace(&mut self.state, State::Ended) else { return Ok(()) };
        let Some(Pending { asked, head, sum }) = cut.pending.take() else { return Ok(()) };
        let queued = asked.observe(&head, sum.finish(), Fin::Eof)?;
        let broker = Arc::clone(&asked.broker);
        let writing = async move { durable(&broker, queued, OBSERVATION).await.map(drop) };
        self.state = State::Writing(Box::pin(writing));
        Ok(())
    }

    fn fail(&mut self, failed: BodyFailed) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        // Dropping what is being read observes that it was cut.
        self.state = State::Ended;
        self.held.clear();
        self.trailers = None;
        Poll::Ready(Some(Err(failed)))
    }
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Reading(cut) => {
                    let ended = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => {
                                cut.update(&data);
                                match this.push(data) {
                                    Some(chunk) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                                    None => continue,
                                }
                            }
                            Err(frame) => {
                                this.trailers = frame.into_trailers().ok().map(stripped);
                                this.end()
                            }
                        },
                        Some(Err(error)) => {
                            let why = format!("the answer broke off: {error}");
                            return this.fail(BodyFailed::new("answer_aborted", why));
                        }
                        None if is_cut(&this.inner, this.is_h2) => {
                            let why = "the answer broke off: the stream was reset";
                            return this.fail(BodyFailed::new("answer_aborted", why));
                        }
                        None => this.end(),
                    };
                    if let Err(refusal) = ended {
                        return this.fail(refusal.into());
                    }
                }
                State::Writing(writing) => match ready!(writing.as_mut().poll(context)) {
                    Ok(()) => this.state = State::Ended,
                    Err(refusal) => return this.fail(refusal.into()),
                },
                State::Ended => {
                    let data = this.held.pop_front().map(Frame::data);
                    return Poll::Ready(data.or_else(|| this.trailers.take().map(Frame::trailers)).map(Ok));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended) && self.held.is_empty() && self.trailers.is_none()
    }
}
