//! Streamed requests of peers on their way to a component: its end passes only once the closing
//! statement was verified.
//!
//! Owns: digesting what streams, holding back the last piece of a body with a known length and the end
//! of any other, and logging the closing statement. Does not own: accepting the opening record (see
//! `admission`), what the receipt then says (see `voucher`).
//!
//! Source: custody-wire §7.3.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hopseal_custody::binding::{BodySum, trailer_binding};
use hopseal_custody::cache::VerifiedStatement;
use hopseal_custody::error::{Code, Rejection};
use hopseal_custody::fields::{CLOSE, ClosingFields};
use hopseal_custody::outcome::{Fin, Taken};
use hopseal_custody::receive::{ExpectedClosing, Peer};
use http::HeaderMap;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::broker::Broker;
use crate::clock;
use crate::headers;
use crate::instance::log_certificate;
use crate::log::{About, Direction, Entry, Kind};
use crate::passing::Passing;
use crate::reply::BodyFailed;

const UNKNOWN: u8 = 0;
const CLOSED: u8 = 1;
const BROKEN: u8 = 2;
const UNREAD: u8 = 3;

/// How a streamed request ended, for its receipt.
pub struct Ending(AtomicU8, Passing);

impl Ending {
    /// Of a request of which nothing passed yet.
    pub fn of(passing: Passing) -> Self {
        Self(AtomicU8::new(UNKNOWN), passing)
    }

    /// What passes of the request.
    pub fn passing(&self) -> &Passing {
        &self.1
    }

    /// What was taken of the request so far.
    pub fn taken(&self) -> Taken {
        Taken::of(&self.1.so_far())
    }

    /// Whether the closing statement was verified.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire) == CLOSED
    }

    /// Whether the stream was cut, or its closing statement is not true of it.
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire) == BROKEN
    }

    /// Whether its component stopped to read it before its end.
    pub fn is_unread(&self) -> bool {
        self.0.load(Ordering::Acquire) == UNREAD
    }
}

/// A request that streams, until its closing statement was judged; that there was none is logged.
pub struct Opening {
    pub broker: Arc<Broker>,
    /// The caller as TLS showed it.
    pub peer: Peer,
    /// The opening record.
    pub record: Arc<VerifiedStatement>,
    pub ending: Arc<Ending>,
}

/// A peer's streaming body.
pub struct OpenedBody {
    inner: Incoming,
    /// None once the stream has ended, well or not.
    pending: Option<Opening>,
    holds_last: bool,
    held: VecDeque<Bytes>,
    /// Trailers that pass behind the body.
    tail: Option<HeaderMap>,
    /// When the call is over: what has not ended by then would be held open by nobody's call.
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl OpenedBody {
    /// The body that follows the accepted `record`; `holds_last` if its reader knows how long it will be, `over` when
    /// the call is.
    pub fn new(inner: Incoming, opening: Opening, holds_last: bool, over: CancellationToken) -> Self {
        let over = Box::pin(over.cancelled_owned());
        Self { inner, pending: Some(opening), holds_last, held: VecDeque::new(), tail: None, over }
    }

    pub fn has_ended(&self) -> bool {
        self.pending.is_none() && self.held.is_empty() && self.tail.is_none()
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        if self.pending.is_some() && self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(self.break_off("the call was over before its request".to_owned()))));
        }
        while let Some(pending) = &mut self.pending {
            let mut trailers = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if let Err(why) = pending.ending.1.update(&data) {
                            return Poll::Ready(Some(Err(self.break_off(why.to_owned()))));
                        }
                        self.held.extend((!data.is_empty()).then_some(data));
                        match self.held.pop_front() {
                            Some(only) if self.holds_last && self.held.is_empty() => self.held.push_front(only),
                            Some(chunk) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                            None => {}
                        }
                        continue;
                    }
                    Err(frame) => frame.into_trailers().unwrap_or_default(),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(self.break_off(error.to_string())))),
                None => HeaderMap::new(),
            };
            if let Some(pending) = self.pending.take()
                && let Err(rejection) = pending.close(&trailers)
            {
                self.held.clear();
                return Poll::Ready(Some(Err(BodyFailed::new(rejection.code.as_str(), rejection.detail))));
            }
            headers::strip_trailers(&mut trailers);
            self.tail = Some(trailers).filter(|trailers| !trailers.is_empty());
        }
        let data = self.held.pop_front().map(Frame::data);
        Poll::Ready(data.or_else(|| self.tail.take().map(Frame::trailers)).map(Ok))
    }

    fn break_off(&mut self, why: String) -> BodyFailed {
        self.held.clear();
        if let Some(pending) = self.pending.take() {
            pending.ending.0.store(BROKEN, Ordering::Release);
            pending.log(Some((Code::Missing.as_str(), "the stream broke off")), None, Vec::new());
        }
        BodyFailed::new(Code::Missing.as_str(), why)
    }
}

impl Opening {
    /// Nothing if the stream, which has ended with these trailers, was closed by who opened it.
    pub fn close(self, trailers: &HeaderMap) -> Result<(), Rejection> {
        let lines = headers::lines(trailers);
        let claimed = trailers.get(CLOSE).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        let verified =
            trailer_binding(&lines).and_then(|tlb| self.verify(&lines, self.ending.1.so_far().followed_by(tlb)));
        match verified {
            Ok(certificates) => {
                self.log(None, claimed, certificates);
                self.ending.0.store(CLOSED, Ordering::Release);
                Ok(())
            }
            Err(rejection) => {
                self.log(Some((rejection.code.as_str(), &rejection.detail)), claimed, Vec::new());
                self.ending.0.store(BROKEN, Ordering::Release);
                Err(rejection)
            }
        }
    }

    fn verify(&self, lines: &[(&str, &[u8])], body: BodySum) -> Result<Vec<(String, String)>, Rejection> {
        let fields = ClosingFields::read(lines)?;
        let expected =
            ExpectedClosing { record: self.record.record(), hash: self.record.hash(), peer: Some(&self.peer), body };
        let bundles = self.broker.trust.current();
        let closing = self.broker.receiver.verify_closing(&fields, &expected, &bundles, clock::now_s())?;
        if closing.claims().fin != Fin::Eof {
            return Err(Rejection::new(Code::Missing, "the caller says that it cut the stream"));
        }
        Ok(closing.certificates().map(log_certificate).collect())
    }

    fn log(&self, refused: Option<(&str, &str)>, sealed: Option<String>, certificates: Vec<(String, String)>) {
        let Some(started) = self.broker.started.get() else { return };
        let record = self.record.record();
        let entry = Entry::Statement {
            kind: Kind::Closing,
            direction: Direction::Received,
            refused: refused.map(|(code, _)| code.to_owned()),
            detail: refused.map(|(_, detail)| detail.to_owned()),
            sealed,
            about: About {
                iss: record.iss.to_string(),
                aud: record.aud.clone(),
                cid: record.cid.to_string(),
                rec: self.record.hash().to_string(),
                st: None,
            },
        };
        // It is written before the receipt, which is waited for.
        let _counted_by_the_writer = started.log.append_nowait(entry, certificates);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.ending.0.compare_exchange(UNKNOWN, UNREAD, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.log(Some((Code::Missing.as_str(), "nobody read the stream to its end")), None, Vec::new());
        }
    }
}
