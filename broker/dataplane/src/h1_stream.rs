//! What hyper says to a malformed request by itself, said as a problem document with a code.
//!
//! Owns: putting ours in the place of hyper's own bare answer, answering a head that never ended, and
//! reading on for a moment after such an answer so that it is not lost to a reset. Does not own: parsing.
//!
//! Theory of operation: whatever is written while no request is under way and everything before was
//! flushed can only be hyper's own answer to bytes that are no request; `Answers` knows when that is so.
//! If an answer to a request is still in the buffer, hyper's own goes out as it is.
//!
//! Source: RFC 9112 §9.5 (closing in stages), RFC 9110 §15.5.9; threats.md section 4.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::answers::Answers;
use crate::problem::Refusal;

/// Most that is read and dropped after such an answer, and for how long.
const LINGER_BYTES: usize = 256 << 10;
const LINGER: Duration = Duration::from_millis(500);

/// What was said to bytes that are no request.
pub type Said = Arc<OnceLock<&'static str>>;

/// A connection that hyper serves as HTTP/1.1.
pub struct H1Stream<S: AsyncRead + AsyncWrite + Unpin> {
    inner: S,
    answers: Answers,
    said: Said,
    /// What is left to be written of our answer.
    ours: Bytes,
    /// Bytes of a head that has not ended.
    unread_head: usize,
    /// Since when a head is waited for, and how long it may take.
    quiet_since: Instant,
    head_timeout: Duration,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> H1Stream<S> {
    /// The stream, and where it will leave the code of what it said.
    pub fn new(inner: S, answers: Answers, head_timeout: Duration) -> (Self, Said) {
        let said = Said::default();
        let stream = Self {
            inner,
            answers,
            said: Arc::clone(&said),
            ours: Bytes::new(),
            unread_head: 0,
            quiet_since: Instant::now(),
            head_timeout,
            lingering: None,
        };
        (stream, said)
    }

    fn say(&mut self, code: &'static str) {
        if self.said.set(code).is_ok() {
            self.ours = encode(&Refusal::new(code, ""));
        }
    }

    fn poll_ours(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ours.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, &self.ours))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ours.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads on until the other side has seen our answer and closes, within bounds.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (until, left) = self.lingering.get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut space = [0; 4096];
        while *left > 0 {
            if until.as_mut().poll(context).is_ready() {
                break;
            }
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => *left = left.saturating_sub(buffer.filled().len()),
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

/// The code of an answer that hyper gives by itself; None for anything else.
fn code_of(theirs: &[u8]) -> Option<&'static str> {
    match theirs.strip_prefix(b"HTTP/1.1 ")?.get(..3)? {
        b"400" => Some("request_malformed"),
        b"414" => Some("target_too_long"),
        b"431" => Some("headers_too_large"),
        _ => None,
    }
}

fn encode(refusal: &Refusal) -> Bytes {
    let response = refusal.response();
    let mut text = format!("HTTP/1.1 {}\r\n", response.status());
    for (name, value) in response.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    text.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", response.body().len()));
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(response.body());
    bytes.into()
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for H1Stream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        // Who has hung up is told nothing.
        this.unread_head = if read > 0 && this.answers.is_quiet() { this.unread_head + read } else { 0 };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for H1Stream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let first = parts.iter().find(|part| !part.is_empty()).filter(|_| this.answers.is_quiet());
        let Some(code) = first.and_then(|theirs| code_of(theirs)) else {
            this.unread_head = 0;
            return Pin::new(&mut this.inner).poll_write_vectored(context, parts);
        };
        this.say(code);
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_ours(context))?;
        ready!(Pin::new(&mut this.inner).poll_flush(context))?;
        if !this.answers.is_quiet() {
            this.answers.flushed();
            this.quiet_since = Instant::now();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(this.poll_ours(context))?;
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
        }
        if this.said.get().is_some() {
            ready!(this.poll_linger(context));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drop for H1Stream<S> {
    /// A head that did not end in time is dropped by hyper without a word.
    fn drop(&mut self) {
        let is_late = self.quiet_since.elapsed() >= self.head_timeout;
        if is_late && self.unread_head > 0 && self.answers.is_quiet() && self.said.get().is_none() {
            self.say("request_head_timeout");
            // It fits into any buffer that is not full, and one that is full is not read.
            let mut context = Context::from_waker(Waker::noop());
            if self.poll_ours(&mut context).is_ready() {
                let _as_far_as_it_goes = Pin::new(&mut self.inner).poll_flush(&mut context);
                let _as_far_as_it_goes = Pin::new(&mut self.inner).poll_shutdown(&mut context);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const THEIRS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn what_is_written_without_a_request_is_ours() {
        let (mut client, server) = duplex(4096);
        let (mut stream, said) = H1Stream::new(server, Answers::new(), Duration::ZERO);
        stream.write_all(THEIRS).await.unwrap();
        stream.flush().await.unwrap();
        let mut buffer = vec![0; 4096];
        let length = client.read(&mut buffer).await.unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n") && text.contains("\"code\":\"request_malformed\""));
        assert_eq!(said.get(), Some(&"request_malformed"));
    }

    #[tokio::test]
    async fn what_is_written_for_a_request_passes_as_it_is() {
        let (mut client, server) = duplex(4096);
        let answers = Answers::new();
        let (mut stream, said) = H1Stream::new(server, answers.clone(), Duration::ZERO);
        drop(answers.begin());
        stream.write_all(THEIRS).await.unwrap();
        stream.flush().await.unwrap();
        let mut buffer = vec![0; 4096];
        let length = client.read(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], said.get()), (THEIRS, None));
    }

    #[tokio::test]
    async fn a_head_that_never_ended_is_told_so_and_silence_is_not() {
        for (sent, expected) in [(&b"GET / HT"[..], Some(&"request_head_timeout")), (b"", None)] {
            let (mut client, server) = duplex(4096);
            let (mut stream, said) = H1Stream::new(server, Answers::new(), Duration::ZERO);
            if !sent.is_empty() {
                client.write_all(sent).await.unwrap();
                assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), sent.len());
            }
            drop(stream);
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            assert_eq!((said.get(), received.starts_with(b"HTTP/1.1 408 ")), (expected, expected.is_some()));
        }
    }

    #[tokio::test]
    async fn after_a_refusal_the_rest_is_read_before_the_end() {
        let (mut client, server) = duplex(64 << 10);
        let (mut stream, _said) = H1Stream::new(server, Answers::new(), Duration::ZERO);
        stream.write_all(THEIRS).await.unwrap();
        let closing = tokio::spawn(async move { stream.shutdown().await });
        client.write_all(&[b'x'; 32 << 10]).await.unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert!(received.starts_with(b"HTTP/1.1 400 "));
        drop(client);
        closing.await.unwrap().unwrap();
    }
}
