//! One write being put together: its lines, and who waits for it.

use tokio::sync::oneshot;

use super::entry::Entry;
use super::handle::{LogError, SealOutcome};
use crate::clock;

/// Lines in order, and the calls that go on once they are durable.
#[derive(Default)]
pub struct Batch {
    pub lines: Vec<u8>,
    pub entries: usize,
    pub seals: usize,
    pub new_certificates: Vec<String>,
    pub sealed: Vec<(SealOutcome, String)>,
    pub appended: Vec<oneshot::Sender<Result<u64, LogError>>>,
    pub latest_exp: i64,
}

impl Batch {
    /// Appends one entry's line and counts it.
    pub fn add(&mut self, entry: &Entry, next_n: &mut u64) {
        if entry.write_line(*next_n, clock::now_ms(), &mut self.lines).is_ok() {
            *next_n += 1;
            self.entries += 1;
            self.latest_exp = self.latest_exp.max(entry.replayable_until().unwrap_or(0));
        }
    }

    /// The write held; the log now has `durable` entries.
    pub fn succeed(self, durable: u64) {
        for (done, text) in self.sealed {
            let _caller_gone = done.send(Ok((text, durable)));
        }
        for done in self.appended {
            let _caller_gone = done.send(Ok(durable));
        }
    }

    /// Nothing of the write counts.
    pub fn fail(self, error: &LogError) {
        for (done, _) in self.sealed {
            let _caller_gone = done.send(Err(error.clone()));
        }
        for done in self.appended {
            let _caller_gone = done.send(Err(error.clone()));
        }
    }
}
