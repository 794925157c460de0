//! Bodies of requests: buffered whole under a bound and a deadline, or a stream from there on.
//!
//! Owns: memory and time limits. Source: custody-wire §7.3; threats.md (Skipper CVE-2026-50197).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::headers;
use crate::problem::Refusal;

/// Unit in which buffered memory is counted.
const PERMIT_BYTES: usize = 1024;
/// Piece of what was read before a body began to stream.
const PIECE_BYTES: usize = 64 << 10;
/// Most of a refused request's body that is read and dropped.
const DRAIN_BYTES: usize = 256 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The memory that buffered bodies may take, all calls together.
#[derive(Clone)]
pub struct BodyMemory {
    permits: Arc<Semaphore>,
    total: usize,
    /// What the origin has of it.
    part: Option<Arc<Held>>,
    limit_bytes: usize,
    timeout: Duration,
}

/// A share of memory, free again when dropped.
pub struct Memory {
    all: OwnedSemaphorePermit,
    part: Option<(Arc<Held>, usize)>,
}

/// Permits that one origin holds.
#[derive(Default)]
pub struct Held(AtomicUsize);

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some((held, permits)) = &self.part {
            held.0.fetch_sub(*permits, Ordering::SeqCst);
        }
    }
}

/// A whole request body; its share of memory is free again when the last clone is dropped.
pub struct Buffered {
    pub bytes: Bytes,
    _memory: Option<Memory>,
}

/// A request body that is too long to be buffered, or does not end: what was read of it, and the rest.
pub struct Streamed {
    first: Bytes,
    /// None once it was given up.
    rest: Option<Incoming>,
    memory: Option<Memory>,
    trailers: HeaderMap,
}

impl Streamed {
    /// The next bytes; what was read already comes in pieces like those that follow.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Bytes>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(self.first.split_to(self.first.len().min(PIECE_BYTES)))));
        }
        self.memory = None;
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(rest).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other.map(|frame| frame.map(|_| Bytes::new()))),
        };
        let data = frame.into_data().unwrap_or_else(|frame| {
            self.trailers = frame.into_trailers().unwrap_or_default();
            headers::strip_trailers(&mut self.trailers);
            Bytes::new()
        });
        Poll::Ready(Some(Ok(data)))
    }

    /// What followed the body, without what may not pass.
    pub fn take_trailers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.trailers)
    }
}

/// A request body as it came in.
pub enum Intake {
    Whole(Buffered),
    Stream(Streamed),
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // As in a refusal: who still writes would lose the answer.
        if let (Some(mut rest), Ok(runtime)) = (self.rest.take(), Handle::try_current())
            && !rest.is_end_stream()
        {
            runtime.spawn(async move { drain(&mut rest).await });
        }
    }
}

#[derive(Default)]
struct Reading {
    bytes: BytesMut,
    memory: Option<Memory>,
}

impl BodyMemory {
    pub fn new(total_bytes: usize, limit_bytes: usize, timeout: Duration) -> Self {
        let total = total_bytes.div_ceil(PERMIT_BYTES);
        Self { permits: Arc::new(Semaphore::new(total)), total, part: None, limit_bytes, timeout }
    }

    /// The same memory for bodies that end within `timeout`, or else stream.
    pub fn patient(&self, timeout: Duration) -> Self {
        Self { timeout: timeout.min(self.timeout), ..self.clone() }
    }

    /// The same memory for an origin that has at most as much of it as it leaves free.
    pub fn within(&self, part: Arc<Held>) -> Self {
        Self { part: Some(part), ..self.clone() }
    }

    /// Permits that an origin may have whatever the others have: those of one body, where all is little more.
    fn floor(&self) -> usize {
        let body = self.limit_bytes.div_ceil(PERMIT_BYTES);
        if self.total < 2 * body { body } else { 0 }
    }

    /// Reads a request body to its end.
    ///
    /// # Errors
    /// `body_too_large` over the limit; `body_timeout` when it does not end in time; `request_invalid` when its
    /// framing breaks; `overloaded` when other bodies take all memory.
    pub async fn read(&self, headers: &HeaderMap, body: &mut Incoming) -> Result<Buffered, Refusal> {
        if announced_length(headers).is_some_and(|length| length > self.limit_bytes as u64) {
            return Err(Refusal::new("body_too_large", "announced length"));
        }
        match tokio::time::timeout(self.timeout, self.collect(body)).await {
            Ok(read) => read,
            Err(_elapsed) => Err(Refusal::new("body_timeout", "the body did not end in time")),
        }
    }

    /// Reads a request body to its end, or up to the limit or deadline if it is longer. `body` stays for the caller to
    /// drain unless it is given back as a stream.
    ///
    /// # Errors
    /// As [`Self::read`], but for `body_too_large`; `body_timeout` only if an announced length does not arrive in time.
    pub async fn read_or_stream(&self, headers: &HeaderMap, body: &mut Option<Incoming>) -> Result<Intake, Refusal> {
        let gone = || Refusal::new("internal", "the body was taken");
        let announced = announced_length(headers);
        let mut reading = Reading::default();
        let is_over = if announced.is_some_and(|length| length > self.limit_bytes as u64) {
            true
        } else {
            let body = body.as_mut().ok_or_else(gone)?;
            match tokio::time::timeout(self.timeout, self.fill(&mut reading, body)).await {
                Ok(filled) => !filled?,
                Err(_elapsed) if announced.is_none() => true,
                Err(_elapsed) => return Err(Refusal::new("body_timeout", "the body did not end in time")),
            }
        };
        let Reading { bytes, memory } = reading;
        if is_over {
            let rest = body.take().ok_or_else(gone)?;
            return Ok(Intake::Stream(Streamed {
                first: bytes.freeze(),
                rest: Some(rest),
                memory,
                trailers: HeaderMap::new(),
            }));
        }
        Ok(Intake::Whole(Buffered { bytes: bytes.freeze(), _memory: memory }))
    }

    async fn collect(&self, body: &mut Incoming) -> Result<Buffered, Refusal> {
        let mut reading = Reading::default();
        if !self.fill(&mut reading, body).await? {
            return Err(Refusal::new("body_too_large", "streamed length"));
        }
        Ok(Buffered { bytes: reading.bytes.freeze(), _memory: reading.memory })
    }

    /// Reads on to the end, or to the first piece beyond the limit; true if it was the end. Every piece that was read
    /// is kept: this can be given up at any time.
    async fn fill(&self, reading: &mut Reading, body: &mut Incoming) -> Result<bool, Refusal> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::new("request_invalid", format!("body: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = reading.bytes.len() + data.len();
            self.reserve(&mut reading.memory, length)?;
            reading.bytes.extend_from_slice(&data);
            if length > self.limit_bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Grows `memory` so that it covers `bytes`.
    ///
    /// # Errors
    /// `overloaded`.
    pub fn reserve(&self, memory: &mut Option<Memory>, bytes: usize) -> Result<(), Refusal> {
        let held = memory.as_ref().map_or(0, |memory| memory.all.num_permits());
        let needed = bytes.div_ceil(PERMIT_BYTES).saturating_sub(held);
        if needed == 0 {
            return Ok(());
        }
        let taken =
            u32::try_from(needed).ok().and_then(|all| Arc::clone(&self.permits).try_acquire_many_owned(all).ok());
        let all = taken.ok_or_else(|| Refusal::new("overloaded", "bodies take all memory"))?;
        if let Some(part) = &self.part {
            let own = part.0.fetch_add(needed, Ordering::SeqCst) + needed;
            if own > self.permits.available_permits().max(self.floor()) {
                part.0.fetch_sub(needed, Ordering::SeqCst);
                return Err(Refusal::new("overloaded", "bodies of this one take all memory that it may have"));
            }
        }
        match memory {
            Some(memory) => {
                memory.all.merge(all);
                memory.part.iter_mut().for_each(|(_, permits)| *permits += needed);
            }
            None => *memory = Some(Memory { all, part: self.part.clone().map(|part| (part, needed)) }),
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

/// Whether an answer with this head that gives nothing more, and gave no trailers, may have been cut: HTTP/2 resets a
/// stream without an error, too (RFC 9113 §8.1), and only its body's `is_end_stream` tells. gRPC may end with its head.
pub fn may_be_cut(version: Version, list: &HeaderMap) -> bool {
    version == Version::HTTP_2 && !list.contains_key("grpc-status")
}

/// The length that `Content-Length` announces.
pub fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}
