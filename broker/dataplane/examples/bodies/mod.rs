//! Bodies of any length that hold no memory: what the benchmarks send and answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

static PIECE: [u8; 65_536] = [b'x'; 65_536];

/// So many bytes, in pieces of 64 KiB.
pub struct Repeated {
    left: u64,
}

impl Repeated {
    pub const fn of(left: u64) -> Self {
        Self { left }
    }
}

impl Body for Repeated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = usize::try_from(self.left).map_or(PIECE.len(), |left| left.min(PIECE.len()));
        if piece == 0 {
            return Poll::Ready(None);
        }
        self.left -= piece as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PIECE.get(..piece).unwrap_or(&PIECE))))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
