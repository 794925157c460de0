//! The local custody log: what was sent and received, durable before the call goes on.
//!
//! Owns: the entry format, group commit and sealing in the same write. Does not own: tiles,
//! checkpoints and proofs, which will be derived from it behind the same [`store::Store`].
//!
//! At each write everything that gathered during the previous one is sealed per leaf and written
//! at once, then `fdatasync`; no timer (custody-wire §4.2 "When"). A call whose entry cannot be
//! written fails; the next write starts at the same offset, so nothing torn stays behind.

mod batch;
pub mod entry;
pub mod scan;
pub mod store;
pub mod writer;

pub use entry::{About, Claims, Direction, Entry, Kind};
pub use writer::{Log, LogError, SealRequest, Sealed, Sealer};
