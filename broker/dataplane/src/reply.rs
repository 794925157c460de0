//! Bodies of answers: held back whole, or streaming.
//!
//! Owns: which answers are short, and that a call's record ends with the last byte of its answer. Does
//! not own: receipts (see `vouched`, `verified`).

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::body::announced_length;
use crate::call::CallRecord;
use crate::outside::{ObservedBody, PlainBody};
use crate::problem::Refusal;
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
    /// Ends a stream that is no longer allowed.
    revoked: Option<Revoked>,
}

type Revoked = Pin<Box<dyn Future<Output = Refusal> + Send>>;

impl AnswerBody {
    pub fn new(reply: Reply, record: CallRecord) -> Self {
        let streams = !matches!(reply, Reply::Whole { .. });
        let revoked = streams.then(|| Box::pin(record.until_revoked()) as Revoked);
        let mut answer = Self { reply, record: Some(record), revoked };
        answer.finish_if_ended();
        answer
    }

    /// An answer without a body that opens a tunnel: its call ends with that.
    pub fn opening() -> Self {
        Self { reply: Reply::whole(Bytes::new()), record: None, revoked: None }
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
        if let Some(Poll::Ready(refusal)) = this.revoked.as_mut().map(|revoked| revoked.as_mut().poll(context)) {
            this.revoked = None;
            this.reply = Reply::whole(Bytes::new());
            let failed = BodyFailed { code: "policy_revoked".into(), detail: refusal.detail.clone() };
            if let Some(record) = &mut this.record {
                record.refused(&refusal);
                record.broke_off(&failed);
            }
            return Poll::Ready(Some(Err(failed)));
        }
        let frame = match &mut this.reply {
            Reply::Whole { data, trailers } => match ready!(Pin::new(data).poll_frame(context)) {
                Some(frame) => Some(frame.map_err(|never| match never {})),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            },
            Reply::Vouched(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
            Reply::Verified(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
            Reply::Passed(body) => ready!(Pin::new(body).poll_frame(context))
                .map(|frame| frame.map_err(|error| BodyFailed::new("handover_failed", error.to_string()))),
            Reply::Observed(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
            Reply::Plain(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
        };
        match (&frame, &mut this.record) {
            (Some(Ok(_)), _) => this.finish_if_ended(),
            (Some(Err(failed)), Some(record)) => record.broke_off(failed),
            (None, Some(record)) => record.complete(),
            (_, None) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.reply {
            Reply::Whole { data, trailers } => data.is_end_stream() && trailers.is_none(),
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
            Reply::Passed(body) => body.size_hint(),
            Reply::Vouched(_) | Reply::Verified(_) | Reply::Observed(_) | Reply::Plain(_) => SizeHint::default(),
        }
    }
}
