//! A component's answer to a peer without custody: passed on as it is, and its end told to the log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use crate::broker::Broker;
use crate::headers;
use crate::log::{Ended, Entry, Unrecorded};
use crate::problem::Refusal;
use crate::reply::BodyFailed;

/// A call without custody whose line is in the log; its end is told once, however it ends.
pub struct Plain {
    broker: Arc<Broker>,
    line: Option<Unrecorded>,
    status: u16,
    passed: u64,
}

impl Plain {
    pub fn new(broker: Arc<Broker>, line: Unrecorded) -> Self {
        Self { broker, line: Some(line), status: 0, passed: 0 }
    }

    /// The component has begun to answer.
    pub fn answered(mut self, status: StatusCode) -> Self {
        self.status = status.as_u16();
        self
    }

    /// The component got nothing, or did not answer.
    pub fn undelivered(mut self, refusal: &Refusal) {
        self.status = refusal.status.as_u16();
        self.end("abort", &refusal.code);
    }

    fn end(&mut self, fin: &'static str, why: &str) {
        let (Some(mut line), Some(started)) = (self.line.take(), self.broker.started.get()) else { return };
        line.phase = "end";
        line.ended =
            Some(Ended { st: self.status, fin, why: why.to_owned(), received: self.passed, sent: None, address: None });
        // Nobody waits for it: the line that counts was written before the call went on.
        let _counted_by_the_writer = started.log.append_nowait(Entry::Call(Box::new(line)), Vec::new());
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.end("abort", "cancelled");
    }
}

/// The body of such an answer.
pub struct PlainBody {
    inner: Incoming,
    may_be_cut: bool,
    plain: Plain,
}

impl PlainBody {
    pub fn new((inner, may_be_cut): (Incoming, bool), plain: Plain) -> Self {
        let mut body = Self { inner, may_be_cut, plain };
        body.end_if_ended();
        body
    }

    fn end_if_ended(&mut self) {
        if self.inner.is_end_stream() {
            self.plain.end("eof", "closed");
        }
    }
}

impl Body for PlainBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        let mut frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    this.may_be_cut = false;
                    headers::strip_trailers(trailers);
                }
                this.plain.passed += frame.data_ref().map_or(0, |data| data.len() as u64);
                this.end_if_ended();
            }
            Some(Err(_)) => this.plain.end("abort", "callee_unavailable"),
            None if this.may_be_cut && !this.inner.is_end_stream() => {
                this.plain.end("abort", "callee_unavailable");
                let failed = BodyFailed::new("callee_unavailable", "the answer broke off: its stream was reset");
                return Poll::Ready(Some(Err(failed)));
            }
            None => this.plain.end("eof", "closed"),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyFailed::new("callee_unavailable", error.to_string()))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
