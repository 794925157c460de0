//! Requests whose body streams, on their way to a peer: opened by a record, closed by a statement.
//!
//! Owns: the bodies of requests to peers and components, and the closing statement of what we streamed:
//! sealed and logged before the end of the stream leaves. Does not own: the opening record (see
//! `outgoing`), what the receiver makes of it (see `opened`).
//!
//! Source: custody-wire §7.3.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hopseal_custody::binding::{BodySum, trailer_binding};
use hopseal_custody::closing::Closing;
use hopseal_custody::compose::closing_payload;
use hopseal_custody::fields::CLOSE;
use hopseal_custody::hash::{ClaimHash, RandomId, StatementHash};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::outcome::Fin;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::{Instant, sleep};

use crate::body::Streamed;
use crate::broker::Broker;
use crate::clock;
use crate::headers;
use crate::instance::Leaf;
use crate::log::{About, Kind, SealRequest, Sealed};
use crate::opened::OpenedBody;
use crate::outgoing::durable;
use crate::passing::Passing;
use crate::problem::{Refusal, refusal_of};
use crate::reply::BodyFailed;

/// Longest sleep between looks at what a peer takes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The body of a request that we send.
pub enum RequestBody {
    Whole(Full<Bytes>),
    /// To a peer.
    Closing(Box<ClosingBody>),
    /// To a component.
    Opened(Box<OpenedBody>),
}

/// Who closes a stream, and which.
pub struct Closer {
    pub broker: Arc<Broker>,
    /// The leaf that sealed the opening record.
    pub leaf: Arc<Leaf>,
    pub callee: SpiffeId,
    pub cid: RandomId,
    /// Statement hash of the opening record.
    pub rec: StatementHash,
}

impl Closer {
    /// The sealed statement of a stream that ended after `body`, once it is durable in the log.
    ///
    /// # Errors
    /// The key may not sign, or the log is away: the stream must not pass as whole.
    pub async fn seal(self, body: BodySum) -> Result<String, Refusal> {
        let broker = Arc::clone(&self.broker);
        let started = broker.started.get().ok_or_else(|| Refusal::new("log_unavailable", "not started"))?;
        let queued = started.log.queue_seal(self.request(body, Fin::Eof)?);
        durable(&broker, queued, "the close").await
    }

    /// Logs that the stream was cut after `body`; nobody waits for it.
    pub fn abort(self, body: BodySum) {
        let broker = Arc::clone(&self.broker);
        if let (Some(started), Ok(request)) = (broker.started.get(), self.request(body, Fin::Abort)) {
            let _the_call_is_lost_anyway = started.log.seal_nowait(request);
        }
    }

    fn request(self, body: BodySum, fin: Fin) -> Result<SealRequest, Refusal> {
        let about = About {
            iss: self.leaf.id.to_string(),
            aud: self.callee.to_string(),
            cid: self.cid.to_string(),
            rec: self.rec.to_string(),
            st: None,
        };
        let receiver_trust_domain = self.callee.trust_domain().to_owned();
        let closing = Closing {
            iss: self.leaf.id.clone(),
            aud: self.callee,
            iat: clock::now_s(),
            jti: RandomId::generate().map_err(|_| Refusal::new("internal", "no randomness"))?,
            cid: self.cid,
            rec: self.rec,
            cd: ClaimHash(body.sha256),
            len: body.len,
            fin,
            n: body.messages,
            tlb: body.trailers.map(ClaimHash),
        };
        let payload = closing_payload(&closing).map_err(refusal_of)?;
        Ok(SealRequest { leaf: self.leaf, payload, receiver_trust_domain, claims: Sealed::Other(Kind::Closing, about) })
    }
}

/// Whether the peer takes what there is of a stream.
#[derive(Default)]
pub struct Progress(Mutex<Option<Instant>>);

impl Progress {
    /// Resolves when the peer has taken nothing for `patience` although there is something.
    pub async fn stalled(&self, patience: Duration) {
        loop {
            let waited = self.lock().map_or(Duration::ZERO, |since| since.elapsed());
            if waited >= patience {
                return;
            }
            sleep((patience - waited).min(LOOK_AGAIN)).await;
        }
    }

    /// The peer is to take the next piece.
    fn offer(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// There is nothing to take now.
    fn pause(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Sealing = Pin<Box<dyn Future<Output = Result<String, Refusal>> + Send>>;

enum State {
    Streaming {
        closer: Closer,
    },
    /// With the trailers that go along.
    Sealing(Sealing, HeaderMap),
    Ended,
}

/// A component's streaming body that ends with its closing statement.
pub struct ClosingBody {
    body: Streamed,
    state: State,
    sum: Passing,
    progress: Arc<Progress>,
    /// The closing statement goes into the log and not along.
    is_kept: bool,
}

impl ClosingBody {
    pub fn new(body: Streamed, closer: Closer, sum: Passing) -> Self {
        let progress = Arc::<Progress>::default();
        progress.offer();
        Self { body, state: State::Streaming { closer }, sum, progress, is_kept: false }
    }

    /// The same towards a party that knows nothing of custody.
    pub fn kept(mut self) -> Self {
        self.is_kept = true;
        self
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let polled = self.poll_piece(context);
        match &polled {
            Poll::Ready(Some(Ok(_))) if !matches!(self.state, State::Ended) => self.progress.offer(),
            _ => self.progress.pause(),
        }
        polled
    }

    /// The component's body is over: begins to seal.
    fn end(&mut self) -> Result<(), BodyFailed> {
        let trailers = self.body.take_trailers();
        let binding = trailer_binding(&headers::lines(&trailers));
        let binding = binding.map_err(|rejection| BodyFailed::new("request_invalid", rejection.detail))?;
        if let State::Streaming { closer } = std::mem::replace(&mut self.state, State::Ended) {
            let sum = self.sum.so_far().followed_by(binding);
            self.state = State::Sealing(Box::pin(closer.seal(sum)), trailers);
        }
        Ok(())
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        loop {
            match &mut self.state {
                State::Streaming { .. } => {
                    match ready!(self.body.poll_data(context)) {
                        Some(Ok(data)) if data.is_empty() => {}
                        Some(Ok(data)) => {
                            let taken = self.sum.update(&data);
                            let taken = taken.map_err(|why| BodyFailed::new("request_invalid", why));
                            return Poll::Ready(Some(taken.map(|_all| Frame::data(data))));
                        }
                        // Dropping the state logs that the stream was cut.
                        Some(Err(error)) => {
                            return Poll::Ready(Some(Err(BodyFailed::new("request_invalid", error))));
                        }
                        None => {
                            if let Err(failed) = self.end() {
                                return Poll::Ready(Some(Err(failed)));
                            }
                        }
                    }
                }
                State::Sealing(sealing, trailers) => {
                    let sealed = ready!(sealing.as_mut().poll(context));
                    let trailers = std::mem::take(trailers);
                    self.state = State::Ended;
                    if self.is_kept && sealed.is_ok() {
                        return Poll::Ready(None);
                    }
                    let fields = sealed.map(|sealed| closing_fields(trailers, &sealed));
                    return Poll::Ready(Some(fields.map_err(BodyFailed::from)));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

fn closing_fields(mut trailers: HeaderMap, sealed: &str) -> Frame<Bytes> {
    trailers.extend(headers::custody_value(sealed).map(|value| (HeaderName::from_static(CLOSE), value)));
    Frame::trailers(trailers)
}

impl Drop for ClosingBody {
    fn drop(&mut self) {
        if let State::Streaming { closer } = std::mem::replace(&mut self.state, State::Ended) {
            closer.abort(self.sum.so_far());
        }
    }
}

impl RequestBody {
    /// Resolves when a stream stands still because its peer takes nothing; never for what is whole.
    pub fn stalled(&self, patience: Duration) -> impl Future<Output = ()> + Send + use<> {
        let progress = match self {
            Self::Closing(body) => Some(Arc::clone(&body.progress)),
            Self::Whole(_) | Self::Opened(_) => None,
        };
        async move {
            match progress {
                Some(progress) => progress.stalled(patience).await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Closing(body) => body.poll(context),
            Self::Opened(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Closing(body) => matches!(body.state, State::Ended),
            Self::Opened(body) => body.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Closing(_) | Self::Opened(_) => SizeHint::default(),
        }
    }
}
