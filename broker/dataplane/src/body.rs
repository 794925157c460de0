//! Bodies: requests are buffered whole under a bound and a deadline, responses stream.
//!
//! Owns: memory and time limits of request bodies, and the response body that keeps its call's
//! record until its last byte. Source: custody-wire §7.3; threats.md (Skipper CVE-2026-50197).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::call::CallRecord;
use crate::problem::Refusal;

/// Unit in which buffered memory is counted.
const PERMIT_BYTES: usize = 1024;
/// Most of a refused request's body that is read and dropped.
const DRAIN_BYTES: usize = 256 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The memory that request bodies may take, all calls together.
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
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.limit_bytes as u64) {
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

    fn reserve(&self, memory: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Refusal> {
        let held = memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let needed = bytes.div_ceil(PERMIT_BYTES).saturating_sub(held);
        if needed == 0 {
            return Ok(());
        }
        let more =
            u32::try_from(needed).ok().and_then(|needed| Arc::clone(&self.permits).try_acquire_many_owned(needed).ok());
        let more = more.ok_or_else(|| Refusal::new("overloaded", "request bodies take all memory"))?;
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

/// What a caller gets back: a whole answer of ours, or the stream from behind.
pub struct AnswerBody {
    inner: Inner,
    record: Option<CallRecord>,
}

enum Inner {
    Whole(Full<Bytes>),
    Stream(Incoming),
}

impl AnswerBody {
    pub fn whole(bytes: Bytes, record: Option<CallRecord>) -> Self {
        Self { inner: Inner::Whole(Full::new(bytes)), record }
    }

    /// A stream whose call counts as ended with its last byte.
    pub fn stream(body: Incoming, record: CallRecord) -> Self {
        let mut answer = Self { inner: Inner::Stream(body), record: Some(record) };
        answer.finish_if_ended();
        answer
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
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = match &mut this.inner {
            Inner::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Inner::Stream(body) => Pin::new(body).poll_frame(context),
        };
        match polled {
            // Trailers could carry Custody fields of the component; HTTP/1.1 clients cannot use any.
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {
                this.record.iter_mut().for_each(CallRecord::complete);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.finish_if_ended();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.record.iter_mut().for_each(CallRecord::complete);
                Poll::Ready(None)
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Whole(body) => body.is_end_stream(),
            Inner::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Whole(body) => body.size_hint(),
            Inner::Stream(body) => body.size_hint(),
        }
    }
}
