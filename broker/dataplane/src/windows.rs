//! How much HTTP/2 peers may send ahead of what is read: memory of its own bound.
//!
//! Owns: that the windows of all connections together stay within a limit. A connection has wide windows while there is
//! room for them, and else narrow ones, so that it works, slower, and the memory of slow readers stays flat. Does not
//! own: bodies that are buffered (see `body`).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const WIDE: (u32, u32) = (1 << 20, 4 << 20);
/// The least that RFC 9113 §6.5.2 begins with.
const NARROW: (u32, u32) = (65_535, 65_535);
const UNIT_BYTES: u32 = 64 << 10;

/// The room for wide windows.
#[derive(Clone)]
pub struct Windows(Arc<Semaphore>);

/// One connection's windows, theirs until it is dropped.
pub struct Window {
    pub stream_bytes: u32,
    pub connection_bytes: u32,
    _room: Option<OwnedSemaphorePermit>,
}

impl Windows {
    pub fn new(limit_bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(limit_bytes / UNIT_BYTES as usize)))
    }

    /// Windows for one connection.
    pub fn open(&self) -> Window {
        let room = Arc::clone(&self.0).try_acquire_many_owned(WIDE.1 / UNIT_BYTES).ok();
        let (stream_bytes, connection_bytes) = if room.is_some() { WIDE } else { NARROW };
        Window { stream_bytes, connection_bytes, _room: room }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_wide_while_there_is_room_and_narrow_then() {
        let windows = Windows::new(2 * WIDE.1 as usize);
        let first = windows.open();
        let _second = windows.open();
        assert_eq!((first.stream_bytes, first.connection_bytes), WIDE);
        assert_eq!(windows.open().connection_bytes, NARROW.1);
        drop(first);
        assert_eq!(windows.open().connection_bytes, WIDE.1);
    }
}
