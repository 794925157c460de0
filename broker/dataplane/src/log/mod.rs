//! The local custody log: what was sent and received, durable before the call goes on.
//!
//! Owns: the entry format, group commit, sealing in the same write, and the log's files. Does not own: tiles,
//! checkpoints and proofs, which the control process derives from what is durable here (docs/adr/0010).
//!
//! At each write everything that gathered (`queue`) is sealed per leaf and written at once, then `fdatasync`. A call whose entry cannot be
//! written fails; the next write starts at the same offset, so nothing torn stays behind.

mod artifact;
mod batch;
pub mod entry;
mod handle;
mod health;
mod leaf;
mod line;
mod outcomes;
mod queue;
pub mod relayed;
mod reserve;
#[cfg(test)]
mod samples;
pub mod scan;
mod sealing;
mod segments;
pub mod store;
mod witnessed;
pub mod writer;

pub use artifact::Artifact;
pub use entry::{About, Claims, Direction, Ended, Entry, Kind, Unrecorded};
pub use handle::{Log, LogError, Patience, QueuedSeal};
pub use health::LogObserver;
pub use sealing::{SealRequest, Sealed, Sealer};
pub use writer::Beginning;
