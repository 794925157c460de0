//! Bodies that are sequences of messages: gRPC's, each behind five bytes (custody-wire §7.3).
//!
//! Owns: what such a body is, and counting its messages while it streams. Does not own: the messages of WebSockets
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
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// Bytes of the message that are still to come.
    left: u32,
    count: u64,
    malformed: bool,
}

impl MessageCounter {
    /// Takes the next bytes; after a flag that is none nothing counts any more.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.malformed {
            if self.prefix_len == PREFIX_BYTES {
                let (taken, rest) = bytes.split_at(bytes.len().min(self.left as usize));
                // As many as are left at most, which are a u32.
                self.left -= u32::try_from(taken.len()).unwrap_or(self.left);
                bytes = rest;
                self.finish_if_whole();
                continue;
            }
            self.prefix[self.prefix_len] = bytes[0];
            self.prefix_len += 1;
            bytes = &bytes[1..];
            self.malformed = self.prefix[0] > 1;
            if self.prefix_len == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length);
                self.finish_if_whole();
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
        self.prefix_len == 0 && !self.malformed
    }

    fn finish_if_whole(&mut self) {
        if self.left == 0 {
            self.count = self.count.saturating_add(1);
            self.prefix_len = 0;
        }
    }
}
