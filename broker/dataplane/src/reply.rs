//! Bodies of answers: held back whole, or streaming.
//!
//! Owns: which answers are short, and that a call's record ends with the last byte of its answer. Does
//! not own: receipts (see `vouched`, `verified`).

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::activity::Busy;
use crate::body::announced_length;
use crate::call::CallRecord;
use crate::grpc;
use crate::open_streams::{OpenStreams, Pulse, Stream};
use crate::outside::{ObservedBody, PlainBody};
use crate::problem::{Refusal, status_of};
use crate::tunnel::Tunnel;
use crate::verified::VerifiedBody;
use crate::vouched::VouchedBody;

/// Answers of at most so many bytes, if their end is known, are held back whole until their receipt is there.
pub const WHOLE_BYTES: usize = 64 << 10;

/// Why a stream broke off; whoever reads it sees it end early.
#[derive(Debug, Clone)]
pub struct BodyFailed {
    pub code: Cow<'static, str>,
    pub detail: String,
}

impl BodyFailed {
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code: code.into(), detail: detail.into() }
    }
}

impl From<Refusal> for BodyFailed {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, detail: refusal.detail }
    }
}

impl fmt::Display for BodyFailed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for BodyFailed {}

/// Whether an answer is short enough, and known to end, to be held back until its receipt is there.
pub fn is_whole(headers: &HeaderMap, body: &Incoming) -> bool {
    body.is_end_stream() || announced_length(headers).is_some_and(|length| length <= WHOLE_BYTES as u64)
}

/// The body of an answer.
pub enum Reply {
    Whole {
        data: Full<Bytes>,
        trailers: Option<HeaderMap>,
    },
    /// A component's answer on its way to a peer.
    Vouched(Box<VouchedBody>),
    /// A peer's answer on its way to a component.
    Verified(Box<VerifiedBody>),
    /// No body: a WebSocket begins, which ends the call.
    Upgraded(Box<Tunnel>),
    /// What the broker that has taken over answers.
    Passed(Incoming),
    /// The same of a party without custody.
    Observed(Box<ObservedBody>),
    /// A component's answer on its way to a peer without custody.
    Plain(Box<PlainBody>),
}

impl Reply {
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole { data: Full::new(bytes), trailers: None }
    }

    pub fn whole_with_trailers(bytes: Bytes, trailers: HeaderMap) -> Self {
        Self::Whole { data: Full::new(bytes), trailers: Some(trailers) }
    }
}

/// What a caller gets back, and the record of its call, which ends with the last byte.
pub struct AnswerBody {
    reply: Reply,
    /// None if the call goes on beyond its answer.
    record: Option<CallRecord>,
    /// Whether its reader takes a status at the end for the end.
    is_grpc: bool,
    /// Ends a stream that is no longer allowed.
    revoked: Option<Revoked>,
    stream: Option<Watched>,
}

/// What passes, the wait for its end, and what says why.
type Watched = (Arc<Pulse>, Pin<Box<WaitForCancellationFutureOwned>>, Arc<Stream>);

type Revoked = Pin<Box<dyn Future<Output = Refusal> + Send>>;

impl AnswerBody {
    pub fn new(reply: Reply, record: CallRecord) -> Self {
        let reply = match reply {
            Reply::Upgraded(tunnel) => {
                tunnel.open(record);
                return Self::opening();
            }
            reply => reply,
        };
        let streams = !matches!(reply, Reply::Whole { .. } | Reply::Upgraded(_));
        let revoked = streams.then(|| Box::pin(record.until_revoked()) as Revoked);
        let mut answer = Self { reply, record: Some(record), is_grpc: false, revoked, stream: None };
        answer.finish_if_ended();
        answer
    }

    /// An answer without a body that opens a tunnel: its call ends with that.
    pub fn opening() -> Self {
        Self { reply: Reply::whole(Bytes::new()), record: None, is_grpc: false, revoked: None, stream: None }
    }

    /// Whether the connection, or its stream, is no HTTP any more after it.
    pub fn is_upgrade(&self) -> bool {
        self.record.is_none()
    }

    /// The answer to a gRPC call: if it breaks off, its end says so.
    pub fn in_grpc(self) -> Self {
        Self { is_grpc: true, ..self }
    }

    /// Keeps its connection from counting as unused.
    pub fn holding(mut self, busy: Busy) -> Self {
        if let Some(record) = &mut self.record {
            record.busy = Some(busy);
        }
        self
    }

    /// Watches it, if it streams; `writer` ends whoever writes it.
    pub fn watched(mut self, streams: &OpenStreams, writer: impl FnOnce() -> CancellationToken) -> Self {
        let is_stream = !matches!(self.reply, Reply::Whole { .. } | Reply::Upgraded(_));
        if let Some(record) = self.record.as_mut().filter(|_| is_stream) {
            let pulse = record.pulse();
            pulse.touch();
            let stream = streams.enter(Arc::clone(&pulse), record.revocation(), writer());
            self.stream = Some((pulse, Box::pin(stream.cut.clone().cancelled_owned()), stream));
        }
        self
    }

    /// Why it ends now, whatever of it is still to come.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Option<BodyFailed> {
        if let Some(Poll::Ready(refusal)) = self.revoked.as_mut().map(|revoked| revoked.as_mut().poll(context)) {
            self.revoked = None;
            self.record.iter_mut().for_each(|record| record.refused(&refusal));
            return Some(BodyFailed { code: "policy_revoked".into(), detail: refusal.detail });
        }
        let (_, cut, stream) = self.stream.as_mut()?;
        cut.as_mut().poll(context).is_ready().then(|| stream.failure())
    }

    /// The last that its reader gets.
    fn break_off(&mut self, failed: BodyFailed) -> Result<Frame<Bytes>, BodyFailed> {
        self.record.iter_mut().for_each(|record| record.broke_off(&failed));
        self.reply = Reply::whole(Bytes::new());
        (self.stream, self.revoked) = (None, None);
        if self.is_grpc {
            Ok(Frame::trailers(grpc::trailers(&failed.code, status_of(&failed.code))))
        } else {
            Err(failed)
        }
    }

    fn finish_if_ended(&mut self) {
        if self.is_end_stream()
            && let Some(record) = &mut self.record
        {
            record.complete();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        if let Some(failed) = this.poll_end(context) {
            return Poll::Ready(Some(this.break_off(failed)));
        }
        let frame = match &mut this.reply {
            Reply::Whole { data, trailers } => match ready!(Pin::new(data).poll_frame(context)) {
                Some(frame) => Some(frame.map_err(|never| match never {})),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            },
            Reply::Upgraded(_) => None,
            Reply::Vouched(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
            Reply::Verified(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
            Reply::Passed(body) => ready!(Pin::new(body).poll_frame(context))
                .map(|frame| frame.map_err(|error| BodyFailed::new("handover_failed", error.to_string()))),
            Reply::Observed(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
            Reply::Plain(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
        };
        if let Some(stream) = &this.stream {
            stream.0.touch();
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                this.finish_if_ended();
                Some(Ok(frame))
            }
            Some(Err(failed)) => Some(this.break_off(failed)),
            None => {
                this.record.iter_mut().for_each(CallRecord::complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.reply {
            Reply::Whole { data, trailers } => data.is_end_stream() && trailers.is_none(),
            Reply::Upgraded(_) => true,
            Reply::Vouched(body) => body.is_end_stream(),
            Reply::Verified(body) => body.is_end_stream(),
            Reply::Passed(body) => body.is_end_stream(),
            Reply::Observed(body) => body.is_end_stream(),
            Reply::Plain(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reply {
            Reply::Whole { data, .. } => data.size_hint(),
            Reply::Upgraded(_) => SizeHint::with_exact(0),
            Reply::Passed(body) => body.size_hint(),
            Reply::Vouched(_) | Reply::Verified(_) | Reply::Observed(_) | Reply::Plain(_) => SizeHint::default(),
        }
    }
}
