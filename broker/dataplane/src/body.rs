//! Bodies: requests are buffered whole under a bound and a deadline, long answers stream.
//!
//! Owns: memory and time limits of request bodies, and the answer's body that keeps its call's
//! record until its last byte. Source: custody-wire §7.3; threats.md (Skipper CVE-2026-50197).

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::call::CallRecord;
use crate::problem::Refusal;
use crate::verified::VerifiedBody;
use crate::vouched::VouchedBody;

/// Answers of at most so many bytes, if their end is known, are held back whole until their receipt is there.
pub const WHOLE_BYTES: usize = 64 << 10;

/// Unit in which buffered memory is counted.
const PERMIT_BYTES: usize = 1024;
/// Most of a refused request's body that is read and dropped.
const DRAIN_BYTES: usize = 256 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The memory that buffered bodies may take, all calls together.
#[derive(Clone)]
pub struct BodyMemory {
    permits: Arc<Semaphore>,
    limit_bytes: usize,
    timeout: Duration,
}

/// A whole request body; its share of memory is free again when the last clone is dropped.
pub struct Buffered {
    pub bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

impl BodyMemory {
    pub fn new(total_bytes: usize, limit_bytes: usize, timeout: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(total_bytes.div_ceil(PERMIT_BYTES)));
        Self { permits, limit_bytes, timeout }
    }

    /// Reads a request body to its end.
    ///
    /// # Errors
    /// `body_too_large` over the limit or when it does not end in time; `request_invalid` when its
    /// framing breaks; `overloaded` when other bodies take all memory.
    pub async fn read(&self, headers: &HeaderMap, body: &mut Incoming) -> Result<Buffered, Refusal> {
        if announced_length(headers).is_some_and(|length| length > self.limit_bytes as u64) {
            return Err(Refusal::new("body_too_large", "announced length"));
        }
        match tokio::time::timeout(self.timeout, self.collect(body)).await {
            Ok(read) => read,
            Err(_elapsed) => Err(Refusal::new("body_too_large", "the body did not end in time")),
        }
    }

    async fn collect(&self, body: &mut Incoming) -> Result<Buffered, Refusal> {
        let mut bytes = BytesMut::new();
        let mut memory: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::new("request_invalid", format!("body: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > self.limit_bytes {
                return Err(Refusal::new("body_too_large", "streamed length"));
            }
            self.reserve(&mut memory, bytes.len() + data.len())?;
            bytes.extend_from_slice(&data);
        }
        Ok(Buffered { bytes: bytes.freeze(), _memory: memory })
    }

    /// Grows `memory` so that it covers `bytes`.
    ///
    /// # Errors
    /// `overloaded`.
    pub fn reserve(&self, memory: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Refusal> {
        let held = memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = bytes.div_ceil(PERMIT_BYTES).saturating_sub(held);
        if needed == 0 {
            return Ok(());
        }
        let more =
            u32::try_from(needed).ok().and_then(|needed| Arc::clone(&self.permits).try_acquire_many_owned(needed).ok());
        let more = more.ok_or_else(|| Refusal::new("overloaded", "bodies take all memory"))?;
        match memory {
            Some(memory) => memory.merge(more),
            None => *memory = Some(more),
        }
        Ok(())
    }
}

/// Reads on past a refusal, within bounds: a client that is still writing would lose the answer if
/// the connection closed on it.
pub async fn drain(body: &mut Incoming) {
    let read_on = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _or_too_slow = tokio::time::timeout(DRAIN_TIMEOUT, read_on).await;
}

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

/// The length that `Content-Length` announces.
pub fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

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
    record: CallRecord,
}

impl AnswerBody {
    pub fn new(reply: Reply, record: CallRecord) -> Self {
        let mut answer = Self { reply, record };
        answer.finish_if_ended();
        answer
    }

    fn finish_if_ended(&mut self) {
        if self.is_end_stream() {
            self.record.complete();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        let frame = match &mut this.reply {
            Reply::Whole { data, trailers } => match ready!(Pin::new(data).poll_frame(context)) {
                Some(frame) => Some(frame.map_err(|never| match never {})),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            },
            Reply::Vouched(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
            Reply::Verified(body) => ready!(Pin::new(body.as_mut()).poll_frame(context)),
        };
        match &frame {
            Some(Ok(_)) => this.finish_if_ended(),
            Some(Err(failed)) => this.record.broke_off(failed),
            None => this.record.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.reply {
            Reply::Whole { data, trailers } => data.is_end_stream() && trailers.is_none(),
            Reply::Vouched(body) => body.is_end_stream(),
            Reply::Verified(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reply {
            Reply::Whole { data, .. } => data.size_hint(),
            Reply::Vouched(_) | Reply::Verified(_) => SizeHint::default(),
        }
    }
}
