//! Bodies that are sequences of messages: gRPC's, each behind five bytes (custody-wire §7.3).
//!
//! Owns: what such a body is, and counting its messages while it streams. Does not own: the frames of a `WebSocket`
//! (see `frames`), digests (see `binding`).

use crate::binding::{HeaderLine, trim};

/// A flag that says whether the message is compressed, and its length.
const PREFIX_BYTES: usize = 5;
const GRPC: &[u8] = b"application/grpc";

/// Whether a message with this head has a body of gRPC messages: one `Content-Type`, `application/grpc`, with a suffix
/// or parameters or without.
#[must_use]
pub fn is_grpc(headers: &[HeaderLine<'_>]) -> bool {
    let mut types = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let (Some((_, value)), None) = (types.next(), types.next()) else { return false };
    let value = trim(value);
    let Some((start, rest)) = value.split_at_checked(GRPC.len()) else { return false };
    start.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// Counts messages of a gRPC body as it comes.
#[derive(Clone, Debug, Default)]
pub struct MessageCounter {
    /// Bytes of a prefix that came.
    prefix: usize,
    /// Its length so far, and then the bytes of the message that are still to come.
    left: u32,
    count: u64,
    malformed: bool,
}

impl MessageCounter {
    /// Takes the next bytes; after a flag that is none nothing counts any more.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((byte, behind)) = rest.split_first()
            && !self.malformed
        {
            rest = if self.prefix < PREFIX_BYTES { self.take_prefix(*byte, behind) } else { self.take_message(rest) };
            if self.prefix == PREFIX_BYTES && self.left == 0 {
                self.count = self.count.saturating_add(1);
                self.prefix = 0;
            }
        }
    }

    /// Whole messages so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether what came is no sequence of messages.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// Whether nothing of a further message came.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.prefix == 0 && !self.malformed
    }

    fn take_prefix<'a>(&mut self, byte: u8, behind: &'a [u8]) -> &'a [u8] {
        if self.prefix == 0 {
            (self.left, self.malformed) = (0, byte > 1);
        } else {
            self.left = (self.left << 8) | u32::from(byte);
        }
        self.prefix += 1;
        behind
    }

    fn take_message<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (taken, behind) = bytes.split_at_checked(most).unwrap_or((bytes, &[]));
        // As many as are left at most, which are a u32.
        self.left -= u32::try_from(taken.len()).unwrap_or(self.left);
        behind
    }
}
