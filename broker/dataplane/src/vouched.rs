//! Answers to peers with their receipt: held back whole if small, else streamed with the receipt at
//! the end.
//!
//! Owns: the place of the receipt (header, trailer, final SSE comment) and digesting what streams.
//! Does not own: what the receipt says (see `voucher`).
//!
//! Source: custody-wire §7.1, §7.3.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hopseal_custody::binding::{BodySum, BodySummer, trailer_binding};
use hopseal_custody::fields::{RECEIPT, receipt_comment};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::body::may_be_cut;
use crate::grpc;
use crate::headers;
use crate::problem::Refusal;
use crate::reply::{BodyFailed, Reply, WHOLE_BYTES, is_whole};
use crate::sse;
use crate::voucher::{HeadVoucher, Voucher, bind_head, receipt_unavailable};

const RESET: &str = "the answer broke off: its stream was reset";

/// What the answer to one request may look like.
pub struct Peer {
    version: Version,
    is_head: bool,
    takes_trailers: bool,
    /// Most bytes of an answer that are held back for a receipt in the header.
    limit_bytes: usize,
}

impl Peer {
    pub fn of(method: &Method, version: Version, list: &HeaderMap, limit_bytes: usize) -> Self {
        let te = list.get(header::TE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let says_trailers = te.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
        let takes_trailers = version == Version::HTTP_2 || (version == Version::HTTP_11 && says_trailers);
        Self { version, is_head: method == Method::HEAD, takes_trailers, limit_bytes }
    }

    /// Whether a request of this peer can end with a closing statement.
    pub fn can_stream(&self) -> bool {
        self.is_h2()
    }

    fn is_h2(&self) -> bool {
        self.version == Version::HTTP_2
    }
}

/// The component's answer with a receipt by `voucher`.
///
/// # Errors
/// The component's answer broke off before anything of it left, which the voucher is still good to tell; or there
/// will be no receipt.
pub async fn vouch(
    voucher: &mut Option<Voucher>,
    peer: &Peer,
    response: Response<Incoming>,
) -> Result<Response<Reply>, Refusal> {
    let (mut parts, body) = response.into_parts();
    let is_bodiless = peer.is_head || has_no_body(parts.status);
    let in_comment = !peer.is_h2() && sse::is_event_stream(&parts.headers);
    let head = bind_head(parts.status, &parts.headers)?;
    let unspent = voucher.take().ok_or_else(|| receipt_unavailable("the call was vouched for"))?;
    let head = HeadVoucher::new(unspent, head);
    if is_bodiless || is_whole(&parts.headers, &body) || !(peer.takes_trailers || in_comment) {
        let may_be_cut = !is_bodiless && may_be_cut(parts.version, &parts.headers);
        let (head, bytes, mut trailers) = hold_back(voucher, head, peer, (body, may_be_cut)).await?;
        let place = if is_bodiless { Place::Header } else { peer.whole_place() };
        if matches!(place, Place::Header) {
            trailers.clear();
        }
        if !peer.is_head {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let sum = grpc::sum_of(&parts.headers, &bytes).followed_by(bind_trailers(&trailers)?);
        let sealed = head.seal(sum).await?;
        return Ok(place.put(sealed, trailers, Response::from_parts(parts, bytes)));
    }
    if in_comment {
        parts.headers.remove(header::CONTENT_LENGTH);
    } else if !peer.is_h2() {
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert(header::TRAILER, HeaderValue::from_static(RECEIPT));
    }
    let sum = grpc::summer_of(&parts.headers);
    let may_be_cut = may_be_cut(parts.version, &parts.headers);
    let stream = VouchedBody::new((body, may_be_cut), head, sum, in_comment, peer.is_h2());
    Ok(Response::from_parts(parts, Reply::Vouched(Box::new(stream))))
}

/// All bytes of an answer; if they do not come, `voucher` is good for a refusal again.
async fn hold_back(
    voucher: &mut Option<Voucher>,
    head: HeadVoucher,
    peer: &Peer,
    (body, may_be_cut): (Incoming, bool),
) -> Result<(HeadVoucher, Bytes, HeaderMap), Refusal> {
    let limit = if peer.takes_trailers { WHOLE_BYTES } else { peer.limit_bytes };
    let deadline = head.deadline();
    let mut unfinished = Unfinished { voucher: Some(head), bytes: BytesMut::new(), trailers: HeaderMap::new() };
    let read = timeout(deadline, unfinished.read((body, may_be_cut), limit)).await;
    let read = read.unwrap_or_else(|_| Err(Refusal::new("callee_timeout", "a short answer did not end in time")));
    let Some(head) = unfinished.voucher.take() else { return Err(receipt_unavailable("the call was vouched for")) };
    match read {
        Ok(()) => {
            let trailers = std::mem::take(&mut unfinished.trailers);
            Ok((head, std::mem::take(&mut unfinished.bytes).freeze(), trailers))
        }
        Err(refusal) => {
            *voucher = Some(head.into_voucher());
            Err(refusal)
        }
    }
}

/// A refusal of ours with a receipt; without one if none can be made, for it is an error anyway.
pub async fn vouch_refusal(voucher: Voucher, peer: &Peer, refusal: &Refusal) -> Response<Reply> {
    let response = refusal.response();
    let body = BodySum::of(response.body());
    let sealed = match bind_head(response.status(), response.headers()) {
        Ok(head) => HeadVoucher::new(voucher, head).seal_refusal(body).await,
        Err(refusal) => Err(refusal),
    };
    match sealed {
        Ok(sealed) if peer.is_head => Place::Header.put(sealed, HeaderMap::new(), response),
        Ok(sealed) => peer.whole_place().put(sealed, HeaderMap::new(), response),
        Err(_no_receipt) => response.map(Reply::whole),
    }
}

/// Statuses whose answers have no body, whatever their header says (RFC 9110 §6.4.1).
fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// An answer that is being read whole; that nobody waits for it any more is logged.
struct Unfinished {
    voucher: Option<HeadVoucher>,
    bytes: BytesMut,
    trailers: HeaderMap,
}

impl Unfinished {
    /// Takes in the whole body, and of its trailers what may pass.
    async fn read(&mut self, (mut body, mut may_be_cut): (Incoming, bool), limit: usize) -> Result<(), Refusal> {
        let memory = self.voucher.as_ref().map(HeadVoucher::memory);
        let mut reserved = None;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Refusal::new("callee_unavailable", format!("the answer broke off: {error}")))?;
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    may_be_cut = false;
                    self.trailers = frame.into_trailers().unwrap_or_default();
                    headers::strip_trailers(&mut self.trailers);
                    continue;
                }
            };
            if self.bytes.len() + data.len() > limit {
                return Err(receipt_unavailable("the answer is too long for a caller that takes no trailers"));
            }
            if let Some(memory) = &memory {
                memory.reserve(&mut reserved, self.bytes.len() + data.len())?;
            }
            self.bytes.extend_from_slice(&data);
        }
        if may_be_cut && !body.is_end_stream() {
            return Err(Refusal::new("callee_unavailable", RESET));
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(voucher) = self.voucher.take() {
            let sum = voucher.sum_of(&self.bytes);
            voucher.abort(sum);
        }
    }
}

/// Where the receipt of a whole answer stands.
#[derive(Clone, Copy)]
enum Place {
    Header,
    Trailer,
}

impl Peer {
    fn whole_place(&self) -> Place {
        if self.is_h2() { Place::Trailer } else { Place::Header }
    }
}

impl Place {
    fn put(self, sealed: String, mut trailers: HeaderMap, response: Response<Bytes>) -> Response<Reply> {
        let (mut parts, bytes) = response.into_parts();
        let fields = receipt_fields(&sealed);
        let body = match self {
            Self::Header => {
                parts.headers.extend(fields);
                Reply::whole(bytes)
            }
            Self::Trailer => {
                trailers.extend(fields);
                Reply::whole_with_trailers(bytes, trailers)
            }
        };
        Response::from_parts(parts, body)
    }
}

fn receipt_fields(sealed: &str) -> HeaderMap {
    let value = headers::custody_value(sealed);
    value.map(|value| (HeaderName::from_static(RECEIPT), value)).into_iter().collect()
}

/// What the receipt says of a component's trailers.
fn bind_trailers(trailers: &HeaderMap) -> Result<Option<[u8; 32]>, Refusal> {
    let binding = trailer_binding(&headers::lines(trailers));
    binding.map_err(|rejection| Refusal::new("callee_unavailable", rejection.detail))
}

type Sealing = Pin<Box<dyn Future<Output = Result<String, Refusal>> + Send>>;

enum State {
    Streaming { voucher: Box<HeadVoucher>, body: BodySummer, at_line_start: bool },
    Sealing(Sealing),
    Ended,
}

/// A streaming answer that ends with its receipt.
pub struct VouchedBody {
    inner: Incoming,
    state: State,
    in_comment: bool,
    takes_trailers: bool,
    may_be_cut: bool,
    /// The component's, as far as they may pass.
    trailers: HeaderMap,
}

impl VouchedBody {
    fn new(
        (inner, may_be_cut): (Incoming, bool),
        voucher: HeadVoucher,
        body: BodySummer,
        in_comment: bool,
        takes_trailers: bool,
    ) -> Self {
        let state = State::Streaming { voucher: Box::new(voucher), body, at_line_start: true };
        Self { inner, state, in_comment, takes_trailers, may_be_cut, trailers: HeaderMap::new() }
    }

    /// The component's answer is over: begins to seal. A comment must begin a line, which then counts as body.
    fn end(&mut self) -> Result<Option<Frame<Bytes>>, Refusal> {
        let binding = bind_trailers(&self.trailers)?;
        let State::Streaming { voucher, mut body, at_line_start } = std::mem::replace(&mut self.state, State::Ended)
        else {
            return Ok(None);
        };
        let feed = (self.in_comment && !at_line_start).then(|| Bytes::from_static(b"\n"));
        if let Some(feed) = &feed {
            body.update(feed);
        }
        self.state = State::Sealing(Box::pin(voucher.seal(body.finish().followed_by(binding))));
        Ok(feed.map(Frame::data))
    }

    fn receipt(&mut self, sealed: &str) -> Frame<Bytes> {
        if self.in_comment {
            Frame::data(receipt_comment(sealed).into())
        } else {
            let mut trailers = std::mem::take(&mut self.trailers);
            trailers.extend(receipt_fields(sealed));
            Frame::trailers(trailers)
        }
    }
}

impl Body for VouchedBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Streaming { body, at_line_start, .. } => {
                    match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                        Some(Ok(frame)) => {
                            let data = match frame.into_data() {
                                Ok(data) => data,
                                Err(frame) if this.takes_trailers => {
                                    this.may_be_cut = false;
                                    this.trailers = frame.into_trailers().unwrap_or_default();
                                    headers::strip_trailers(&mut this.trailers);
                                    continue;
                                }
                                Err(_nobody_takes_them) => {
                                    this.may_be_cut = false;
                                    continue;
                                }
                            };
                            body.update(&data);
                            *at_line_start = data.last().map_or(*at_line_start, |last| *last == b'\n');
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        // Dropping the state logs that the answer was cut.
                        Some(Err(error)) => {
                            return Poll::Ready(Some(Err(BodyFailed::new("callee_unavailable", error.to_string()))));
                        }
                        None if this.may_be_cut && !this.inner.is_end_stream() => {
                            return Poll::Ready(Some(Err(BodyFailed::new("callee_unavailable", RESET))));
                        }
                        None => {
                            if let Some(feed) = this.end().transpose() {
                                return Poll::Ready(Some(feed.map_err(BodyFailed::from)));
                            }
                        }
                    }
                }
                State::Sealing(sealing) => {
                    let sealed = ready!(sealing.as_mut().poll(context));
                    this.state = State::Ended;
                    return Poll::Ready(Some(match sealed {
                        Ok(sealed) => Ok(this.receipt(&sealed)),
                        Err(refusal) => Err(refusal.into()),
                    }));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended)
    }
}

impl Drop for VouchedBody {
    fn drop(&mut self) {
        if let State::Streaming { voucher, body, .. } = std::mem::replace(&mut self.state, State::Ended) {
            voucher.abort(body.finish());
        }
    }
}
