//! An open WebSocket: frames pass both ways, and each direction ends with a statement about it.
//!
//! Owns: moving the frames, holding a peer's Close frame back until the statement behind it was verified, sealing our own
//! behind the component's, and cutting both ends when either is wrong, silent, too long or no longer allowed. Does not
//! own: how it began (see `websocket`), what frames are (crate `hopseal_custody`).
//!
//! Behind its Close frame each broker sends a trailer section as of RFC 9112 §7.1.2: field lines and an empty line. Who
//! closes first waits for nobody: its statement tells of the other direction what was taken until then.
//!
//! Source: custody-wire §7.3.

use std::time::Duration;

use bytes::BytesMut;
use hopseal_custody::fields::{CLOSE, RECEIPT};
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::awaited::Awaited;
use crate::call::CallRecord;
use crate::lifetime::Lifetime;
use crate::opened::Opening;
use crate::passing::Passing;
use crate::problem::Refusal;
use crate::reply::BodyFailed;
use crate::segments::Segments;
use crate::settings::ms;
use crate::upload::Closer;
use crate::voucher::HeadVoucher;

/// How long the other direction may go on once one has ended, and a connection take to become one.
const LAST_WORDS: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 16 << 10;
/// The longest trailer section.
const SECTION_BYTES: usize = 16 << 10;
const SECTION_END: &[u8] = b"\r\n\r\n";

/// What we say of the component's direction.
pub enum Own {
    Closer(Closer),
    Voucher(Box<HeadVoucher>),
}

/// What the peer must say of the other.
pub enum Theirs {
    Receipt(Box<Awaited>),
    Closing(Box<Opening>),
}

/// What a tunnel is made of.
pub struct Parts {
    /// Towards the component.
    pub near: OnUpgrade,
    /// Towards the peer.
    pub far: OnUpgrade,
    pub own: Own,
    pub theirs: Theirs,
    pub segments: Segments,
    /// Ends a connection of its own.
    pub lifetime: Option<Lifetime>,
    /// Ends it with the component that listens.
    pub listener: Option<CancellationToken>,
}

/// A WebSocket that was agreed on.
pub struct Tunnel {
    near: OnUpgrade,
    far: OnUpgrade,
    own: Option<Own>,
    theirs: Option<Theirs>,
    segments: Segments,
    lifetime: Option<Lifetime>,
    ends: Vec<CancellationToken>,
}

type Io = TokioIo<Upgraded>;
type Ended = Result<(), BodyFailed>;

impl Tunnel {
    pub fn new(parts: Parts) -> Self {
        let Parts { near, far, own, theirs, segments, lifetime, listener } = parts;
        let mut ends = vec![segments.leaf.closed.clone(), segments.broker.shutdown.stop.clone()];
        ends.extend(listener);
        Self { near, far, own: Some(own), theirs: Some(theirs), segments, lifetime, ends }
    }

    /// Ends it with the process that calls, too.
    pub fn end_with(&mut self, end: CancellationToken) {
        self.ends.push(end);
    }

    /// Begins to move frames, until it ends; `record` tells how.
    pub fn open(self: Box<Self>, mut record: CallRecord) {
        tokio::spawn(async move {
            let mut tunnel = self;
            match tunnel.run(&mut record).await {
                Ok(()) => record.complete(),
                Err(failed) => record.broke_off(&failed),
            }
            tunnel.abort();
        });
    }

    async fn run(&mut self, record: &mut CallRecord) -> Ended {
        let timeouts = &self.segments.broker.settings.timeouts_ms;
        let (idle, lifetime) = (ms(timeouts.stream_idle), ms(timeouts.stream_lifetime));
        let pulse = record.pulse();
        pulse.touch();
        let silent = pulse.idle(idle);
        let withdrawn = wait_any(self.ends.clone());
        let mut connection = self.lifetime.take();
        let must_close = async {
            match &mut connection {
                Some(connection) => connection.must_close().await,
                None => std::future::pending().await,
            }
        };
        let revoked = record.until_revoked();
        tokio::select! {
            ended = self.carry() => ended,
            () = silent => Err(BodyFailed::new("stream_idle", "nothing passed either way")),
            () = sleep(lifetime) => Err(BodyFailed::new("stream_lifetime", "it lasted too long")),
            () = withdrawn => Err(BodyFailed::new("withdrawn", "an end of it is gone")),
            why = must_close => Err(BodyFailed::new("withdrawn", why)),
            refusal = revoked => Err(BodyFailed::new("policy_revoked", refusal.detail)),
        }
    }

    /// Moves frames both ways until both directions have ended whole.
    async fn carry(&mut self) -> Ended {
        let Self { near, far, own, theirs, segments, .. } = self;
        let (near, far) = (become_stream(near).await?, become_stream(far).await?);
        let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
        let (out, back) = match own {
            Some(Own::Closer(_)) => (&segments.up, &segments.down),
            _ => (&segments.down, &segments.up),
        };
        let outward = outward((near_read, far_write), (out, segments), own);
        let inward = inward((far_read, near_write), (back, segments), theirs);
        let (mut outward, mut inward) = (std::pin::pin!(outward), std::pin::pin!(inward));
        let late = |_| BodyFailed::new("stream_idle", "the other side of it did not close");
        tokio::select! {
            ended = &mut outward => {
                ended?;
                timeout(LAST_WORDS, inward).await.map_err(late)?
            }
            ended = &mut inward => {
                ended?;
                timeout(LAST_WORDS, outward).await.map_err(late)?
            }
            () = segments.run() => Ok(()),
        }
    }

    /// Logs of each direction that did not end that it was cut.
    fn abort(&mut self) {
        let (up, down) = (self.segments.up.so_far(), self.segments.down.so_far());
        match self.own.take() {
            Some(Own::Closer(closer)) => closer.abort(up),
            Some(Own::Voucher(voucher)) => voucher.abort(down),
            None => {}
        }
        // An opening that is dropped logs itself.
        if let Some(Theirs::Receipt(awaited)) = self.theirs.take() {
            awaited.log_missing("the WebSocket was cut");
        }
    }
}

async fn become_stream(upgrade: &mut OnUpgrade) -> Result<Io, BodyFailed> {
    let lost = |why: String| BodyFailed::new("websocket_cut", why);
    let upgraded = timeout(LAST_WORDS, upgrade).await.map_err(|_| lost("it did not begin in time".to_owned()))?;
    upgraded.map(TokioIo::new).map_err(|error| lost(error.to_string()))
}

/// The component's direction: its frames, then our statement of them.
async fn outward(
    (mut from, mut to): (ReadHalf<Io>, WriteHalf<Io>),
    (passing, segments): (&Passing, &Segments),
    own: &mut Option<Own>,
) -> Ended {
    let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
    while !passing.is_closed() {
        buffer.clear();
        read(&mut from, &mut buffer, "the component hung up without a Close frame").await?;
        let passed = take(passing, segments, &buffer)?;
        write(&mut to, &buffer[..passed.frames + passed.close]).await?;
    }
    let (name, sealed) = match own.take() {
        Some(Own::Closer(closer)) => (CLOSE, closer.seal(passing.so_far()).await),
        Some(Own::Voucher(voucher)) => (RECEIPT, voucher.seal(passing.so_far()).await),
        None => return Err(BodyFailed::new("internal", "it was closed before")),
    };
    let sealed = sealed.map_err(BodyFailed::from)?;
    write(&mut to, format!("{name}: {sealed}\r\n\r\n").as_bytes()).await?;
    to.shutdown().await.map_err(|error| BodyFailed::new("websocket_cut", error.to_string()))
}

/// The peer's direction: its frames but for the last, which passes once the statement behind it holds.
async fn inward(
    (mut from, mut to): (ReadHalf<Io>, WriteHalf<Io>),
    (passing, segments): (&Passing, &Segments),
    theirs: &mut Option<Theirs>,
) -> Ended {
    let (mut buffer, mut close) = (BytesMut::with_capacity(BUFFER_BYTES), Vec::new());
    let mut section = Vec::new();
    while !passing.is_closed() {
        buffer.clear();
        read(&mut from, &mut buffer, "the peer hung up without a Close frame").await?;
        let passed = take(passing, segments, &buffer)?;
        write(&mut to, &buffer[..passed.frames]).await?;
        close.extend_from_slice(&buffer[passed.frames..passed.frames + passed.close]);
        section.extend_from_slice(&buffer[passed.frames + passed.close..]);
    }
    let trailers = timeout(LAST_WORDS, read_section(&mut from, section)).await;
    let trailers = trailers.unwrap_or_else(|_| Err(BodyFailed::new("websocket_cut", "no statement came in time")))?;
    match theirs.take() {
        Some(Theirs::Receipt(awaited)) => awaited.settle(&trailers, None, passing.so_far()).map_err(|unverified| {
            if matches!(unverified, crate::awaited::Unverified::Missing) {
                awaited.log_missing("the WebSocket closed without a receipt");
            }
            BodyFailed::from(unverified.into_refusal())
        })?,
        Some(Theirs::Closing(opening)) => opening
            .close(&trailers)
            .map_err(|rejection| BodyFailed::from(Refusal::new("websocket_cut", rejection.detail)))?,
        None => return Err(BodyFailed::new("internal", "it was closed before")),
    }
    write(&mut to, &close).await?;
    to.shutdown().await.map_err(|error| BodyFailed::new("websocket_cut", error.to_string()))
}

fn take(passing: &Passing, segments: &Segments, bytes: &[u8]) -> Result<hopseal_custody::frames::Passed, BodyFailed> {
    let before = passing.messages();
    let passed = passing.update(bytes).map_err(|why| BodyFailed::new("websocket_invalid", why))?;
    segments.went_on(before, passing.messages());
    Ok(passed)
}

async fn read(from: &mut ReadHalf<Io>, buffer: &mut BytesMut, gone: &'static str) -> Ended {
    match from.read_buf(buffer).await {
        Ok(0) => Err(BodyFailed::new("websocket_cut", gone)),
        Ok(_) => Ok(()),
        Err(error) => Err(BodyFailed::new("websocket_cut", error.to_string())),
    }
}

async fn write(to: &mut WriteHalf<Io>, bytes: &[u8]) -> Ended {
    let written = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    written.await.map_err(|error| BodyFailed::new("websocket_cut", error.to_string()))
}

/// The fields behind a Close frame, of which `section` has come already.
async fn read_section(from: &mut ReadHalf<Io>, mut section: Vec<u8>) -> Result<HeaderMap, BodyFailed> {
    let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
    loop {
        if let Some(end) = section.windows(SECTION_END.len()).position(|bytes| bytes == SECTION_END) {
            return parse_section(&section[..end])
                .ok_or_else(|| BodyFailed::new("websocket_invalid", "no trailer section"));
        }
        if section.len() > SECTION_BYTES {
            return Err(BodyFailed::new("websocket_invalid", "a trailer section that is too long"));
        }
        buffer.clear();
        read(from, &mut buffer, "the peer hung up without a statement").await?;
        section.extend_from_slice(&buffer);
    }
}

fn parse_section(section: &[u8]) -> Option<HeaderMap> {
    let mut list = HeaderMap::new();
    for line in std::str::from_utf8(section).ok()?.split("\r\n") {
        let (name, value) = line.split_once(": ")?;
        list.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?);
    }
    Some(list)
}

/// Resolves when one of them is cancelled.
async fn wait_any(tokens: Vec<CancellationToken>) {
    let mut waits: Vec<_> = tokens.into_iter().map(|token| Box::pin(token.cancelled_owned())).collect();
    std::future::poll_fn(|context| {
        let is_over = waits.iter_mut().any(|wait| wait.as_mut().poll(context).is_ready());
        if is_over { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_section_is_lines_of_fields_and_nothing_else() {
        let list = parse_section(b"custody-close: a.b\r\ncustody-certs: :x:").unwrap();
        assert_eq!((list.len(), list["custody-close"].to_str().unwrap()), (2, "a.b"));
        for text in ["", "custody-close", "custody close: x", "a: b\r\n", "a: b\n", "a: \0"] {
            assert!(parse_section(text.as_bytes()).is_none(), "{text:?}");
        }
    }
}
