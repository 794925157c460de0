//! Frames that cost us more than their sender, counted before the HTTP/2 layer sees them.
//!
//! Owns: cutting a connection whose peer resets most of what it opens, or floods it with frames that
//! carry no request. Does not own: HTTP/2 itself, nor the floods that the `h2` crate bounds already
//! (header lists, CONTINUATION, resets before a stream was accepted).
//!
//! Source: RFC 9113 §10.5; CVE-2023-44487 (rapid reset), CVE-2019-9512 (pings), -9515 (settings), -9513
//! (priorities), -9518 (empty frames). The rule for resets is Envoy's: 500 streams, more than half of them
//! reset, within a second there, within [`WINDOW`] here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Length of the client's preface (RFC 9113 §3.4), and of a frame's header.
const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
/// How long what was counted counts.
const WINDOW: Duration = Duration::from_secs(1);
/// Resets within a window that are no flood, however few streams were opened.
const RESETS: u32 = 500;
/// Settings, pings, priorities, empty and unknown frames within a window: no honest peer comes near it.
const IDLE_FRAMES: u32 = 10_000;
/// Window updates: peers send them as they read.
const WINDOW_UPDATES: u32 = 100_000;

/// Which flood it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    Resets,
    Frames,
}

impl Flood {
    /// Why a connection was cut, as counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resets => "h2_resets",
            Self::Frames => "h2_frames",
        }
    }
}

/// What a peer's frames were, within one window.
#[derive(Default)]
struct Counts {
    opened: u32,
    resets: u32,
    idle: u32,
    window_updates: u32,
}

/// Reads frame headers out of a stream of bytes.
struct Scanner {
    /// Bytes until the next frame header.
    skip: usize,
    header: [u8; HEADER_BYTES],
    filled: usize,
    counts: Counts,
    since: Instant,
}

impl Scanner {
    fn new(now: Instant) -> Self {
        Self { skip: PREFACE_BYTES, header: [0; HEADER_BYTES], filled: 0, counts: Counts::default(), since: now }
    }

    /// Counts the frames that begin in `data`.
    ///
    /// # Errors
    /// They are a flood.
    fn push(&mut self, mut data: &[u8], now: Instant) -> Result<(), Flood> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.counts, self.since) = (Counts::default(), now);
        }
        while !data.is_empty() {
            let skipped = self.skip.min(data.len());
            self.skip -= skipped;
            data = &data[skipped..];
            let taken = (HEADER_BYTES - self.filled).min(data.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&data[..taken]);
            self.filled += taken;
            data = &data[taken..];
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                self.count()?;
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Flood> {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skip = length;
        let counts = &mut self.counts;
        match kind {
            0 if length > 0 || flags & 1 == 1 => {}
            9 if length > 0 => {}
            1 => counts.opened += 1,
            3 => counts.resets += 1,
            8 => counts.window_updates += 1,
            _ => counts.idle += 1,
        }
        if counts.resets > RESETS && counts.resets > counts.opened / 2 {
            return Err(Flood::Resets);
        }
        if counts.idle > IDLE_FRAMES || counts.window_updates > WINDOW_UPDATES {
            return Err(Flood::Frames);
        }
        Ok(())
    }
}

/// A connection that is served as HTTP/2; reading from it fails once its peer floods it.
pub struct H2Stream<S> {
    inner: S,
    scanner: Scanner,
    on_flood: Box<dyn Fn(Flood) + Send>,
}

impl<S> H2Stream<S> {
    /// `on_flood` is told once, before the connection ends.
    pub fn new(inner: S, on_flood: impl Fn(Flood) + Send + 'static) -> Self {
        Self { inner, scanner: Scanner::new(Instant::now()), on_flood: Box::new(on_flood) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for H2Stream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        let Err(flood) = this.scanner.push(&buffer.filled()[before..], Instant::now()) else {
            return Poll::Ready(Ok(()));
        };
        (this.on_flood)(flood);
        Poll::Ready(Err(io::Error::other("a flood of frames")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for H2Stream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn fed(bytes: &[u8], step: usize) -> Result<(), Flood> {
        let now = Instant::now();
        let mut scanner = Scanner::new(now);
        scanner.push(&[0; PREFACE_BYTES], now)?;
        bytes.chunks(step).try_for_each(|piece| scanner.push(piece, now))
    }

    #[test]
    fn frames_are_counted_whole_and_in_pieces() {
        let request = [frame(1, 4, b"headers"), frame(3, 0, &[0; 4])].concat();
        for step in [1, 7, 100_000] {
            assert_eq!(fed(&request.repeat(RESETS as usize), step), Ok(()), "{step}");
            assert_eq!(fed(&request.repeat(RESETS as usize + 1), step), Err(Flood::Resets), "{step}");
        }
    }

    #[test]
    fn resets_of_less_than_half_of_the_streams_are_no_flood() {
        let two = [frame(1, 5, b"h"), frame(1, 5, b"h"), frame(1, 5, b"h"), frame(3, 0, &[0; 4])].concat();
        assert_eq!(fed(&two.repeat(5000), 4096), Ok(()));
    }

    #[test]
    fn frames_that_carry_nothing_are_bounded_and_data_is_not() {
        for kind in [0, 2, 4, 6, 9, 250] {
            let idle = frame(kind, 0, if matches!(kind, 0 | 9) { b"" } else { b"payload" });
            assert_eq!(fed(&idle.repeat(IDLE_FRAMES as usize), 4096), Ok(()), "{kind}");
            assert_eq!(fed(&idle.repeat(IDLE_FRAMES as usize + 1), 4096), Err(Flood::Frames), "{kind}");
        }
        assert_eq!(fed(&frame(0, 0, b"data").repeat(100_000), 4096), Ok(()));
        assert_eq!(fed(&frame(8, 0, &[0; 4]).repeat(WINDOW_UPDATES as usize + 1), 4096), Err(Flood::Frames));
    }

    #[test]
    fn what_was_counted_is_forgotten_after_the_window() {
        let start = Instant::now();
        let mut scanner = Scanner::new(start);
        scanner.push(&[0; PREFACE_BYTES], start).unwrap();
        for second in 0..10 {
            let pings = frame(6, 0, b"12345678").repeat(IDLE_FRAMES as usize);
            assert_eq!(scanner.push(&pings, start + WINDOW * second), Ok(()));
        }
    }
}
