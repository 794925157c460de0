//! Which HTTP a local connection speaks: its first bytes say so.
//!
//! Owns: reading at most a preface of HTTP/2 (RFC 9113 §3.4) and giving what was read back. Does not own: deadlines.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    H1,
    /// With prior knowledge: there is no upgrade to it.
    H2,
}

/// A stream whose first bytes were read already.
pub struct Rewound<T> {
    first: [u8; PREFACE.len()],
    /// Those of `first` that are still to be given.
    from: usize,
    until: usize,
    inner: T,
}

/// Reads until the bytes are a preface, or cannot become one.
///
/// # Errors
/// The stream breaks.
pub async fn sniff<T: AsyncRead + Unpin>(mut stream: T) -> io::Result<(Spoken, Rewound<T>)> {
    let mut first = [0; PREFACE.len()];
    let mut until = 0;
    while until < first.len() && first[..until] == PREFACE[..until] {
        match stream.read(&mut first[until..]).await? {
            0 => break,
            read => until += read,
        }
    }
    let spoken = if first == *PREFACE { Spoken::H2 } else { Spoken::H1 };
    Ok((spoken, Rewound { first, from: 0, until, inner: stream }))
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.from < self.until {
            let given = buffer.remaining().min(self.until - self.from);
            buffer.put_slice(&self.first[self.from..self.from + given]);
            self.from += given;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn sniffed(pieces: &[&[u8]]) -> (Spoken, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let (spoken, mut rewound) = sniff(server).await.unwrap();
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await.unwrap();
        (spoken, all)
    }

    #[tokio::test]
    async fn nothing_is_lost_however_the_first_bytes_come() {
        let h2 = [PREFACE.as_slice(), b"frames"].concat();
        for at in 0..h2.len() {
            assert_eq!(sniffed(&[&h2[..at], &h2[at..]]).await, (Spoken::H2, h2.clone()), "{at}");
        }
        for text in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\t", "P", "", "PRI / HTTP/1.1\r\n\r\n"] {
            assert_eq!(sniffed(&[text.as_bytes()]).await, (Spoken::H1, text.as_bytes().to_vec()), "{text}");
        }
    }
}
