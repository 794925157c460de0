//! Bytes through a tunnel: counted each way, and how long none have passed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::open_streams::Pulse;

/// What has passed.
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    last: Pulse,
}

impl Traffic {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { sent: AtomicU64::new(0), received: AtomicU64::new(0), last: Pulse::default() })
    }

    /// Bytes that went into the tunnel, and bytes that came back.
    pub fn totals(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// Resolves when nothing has passed for `patience`.
    pub async fn idle(&self, patience: Duration) {
        self.last.idle(patience).await;
    }

    fn count(&self, way: Way, bytes: usize) {
        let total = match way {
            Way::In => &self.sent,
            Way::Back => &self.received,
        };
        total.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last.touch();
    }
}

/// Which way the bytes go that are read from an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Back,
}

/// An end of the tunnel whose reads are counted.
pub struct Counted<S> {
    inner: S,
    way: Way,
    traffic: Arc<Traffic>,
}

impl<S> Counted<S> {
    pub fn new(inner: S, way: Way, traffic: &Arc<Traffic>) -> Self {
        Self { inner, way, traffic: Arc::clone(traffic) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, into))?;
        let bytes = into.filled().len() - before;
        if bytes > 0 {
            self.traffic.count(self.way, bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn bytes_are_counted_and_put_off_the_idle_end() {
        let (mut near, far) = tokio::io::duplex(64);
        let traffic = Traffic::new();
        let mut counted = Counted::new(far, Way::Back, &traffic);
        let began = Instant::now();
        let reading = async {
            sleep(Duration::from_secs(3)).await;
            near.write_all(b"12345").await.unwrap();
            counted.read_exact(&mut [0; 5]).await.unwrap();
        };
        tokio::join!(traffic.idle(Duration::from_secs(5)), reading);
        assert_eq!(traffic.totals(), (0, 5));
        assert_eq!(began.elapsed().as_secs(), 8);
    }
}
