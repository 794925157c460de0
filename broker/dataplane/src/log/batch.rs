//! One write being put together: its lines, and who waits for it.

use tokio::sync::oneshot;

use super::entry::Entry;
use super::handle::{LogError, SealOutcome};
use super::leaf::leaf_of;
use super::outcomes::Outcome;
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
    /// Of every entry, if somebody wants them.
    pub leaves: Option<Vec<Option<String>>>,
}

impl Batch {
    /// An empty one, that writes its lines into `buffer` and keeps leaves if they are wanted.
    pub fn new(mut buffer: Vec<u8>, are_leaves_wanted: bool) -> Self {
        buffer.clear();
        Self { lines: buffer, leaves: are_leaves_wanted.then(Vec::new), ..Self::default() }
    }

    /// Appends one entry's line and counts it.
    pub fn add(&mut self, entry: &Entry, next_n: &mut u64) {
        let start = self.lines.len();
        if entry.write_line(*next_n, clock::now_ms(), &mut self.lines).is_ok() {
            *next_n += 1;
            self.entries += 1;
            if let Some(leaves) = &mut self.leaves {
                leaves.push(leaf_of(entry, &self.lines[start..]));
            }
            self.latest_exp = self.latest_exp.max(entry.replayable_until().unwrap_or(0));
        }
    }

    /// What those who wait learn: the log now has so many entries, or nothing of the write counts.
    pub fn into_outcomes(self, durable: Result<u64, &LogError>) -> Vec<Outcome> {
        let durable = durable.map_err(Clone::clone);
        let sealed = self.sealed.into_iter();
        let sealed = sealed.map(|(done, text)| Outcome::Sealed(done, durable.clone().map(|durable| (text, durable))));
        let appended = self.appended.into_iter().map(|done| Outcome::Appended(done, durable.clone()));
        sealed.chain(appended).collect()
    }
}
