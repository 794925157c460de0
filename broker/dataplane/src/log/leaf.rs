//! The leaves of entries that were just written, for the Merkle log that the control process makes of them.
//!
//! Owns: the text of a leaf, and keeping leaves until they are asked for, within a bound. Does not own: the tree.
//! Whoever asks for a leaf that is not here any more reads the journal instead: its lines say the same.
//!
//! Source: custody-wire §10 "Leaf entry".

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hopseal_custody::hash::{decode_base64, encode_base64url, sha256};
use hopseal_custody::seal::hashes_of;

use super::entry::Entry;
use super::line::{LineStart, json_of};

/// Leaves that are kept: what a busy log writes in a good part of a second.
const MOST: usize = 1 << 14;

/// The leaf of `entry`, whose whole line is `line`; None if it cannot be told from these two.
pub fn leaf_of(entry: &Entry, line: &[u8]) -> Option<String> {
    let json = json_of(line);
    let artifact = |kind: &str| format!("custody/v1 {kind} {}\n", encode_base64url(&sha256(json)));
    match entry {
        Entry::Record { refused: Some(_), .. } | Entry::Statement { refused: Some(_), .. } => Some(artifact("refused")),
        Entry::Record { sealed, .. } => statement("rec", sealed.as_deref()?),
        Entry::Statement { kind, sealed, .. } => statement(kind.as_str(), sealed.as_deref()?),
        Entry::Certificate { der, .. } => {
            let hash = sha256(&decode_base64(der)?);
            Some(format!("custody/v1 cert {}\n", encode_base64url(&hash)))
        }
        Entry::Relayed(_) => None,
        _ => LineStart::read(json).map(|start| artifact(start.r#type)),
    }
}

fn statement(kind: &str, sealed: &str) -> Option<String> {
    let (statement, seal) = hashes_of(sealed)?;
    Some(format!("custody/v1 {kind} {statement} {}\n", encode_base64url(&seal)))
}

/// Leaves of the newest durable entries.
#[derive(Debug, Default)]
pub struct Leaves(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Nobody has asked so far: none are kept.
    is_wanted: bool,
    first_n: u64,
    leaves: VecDeque<String>,
}

impl Leaves {
    /// Whether somebody asks for leaves.
    pub fn is_wanted(&self) -> bool {
        self.lock().is_wanted
    }

    /// Takes in the leaves of the entries from `first_n` on, which are durable; one that is not known ends what is kept.
    pub fn add(&self, first_n: u64, leaves: Vec<Option<String>>) {
        let mut held = self.lock();
        if held.end() != first_n {
            held.begin(first_n);
        }
        for leaf in leaves {
            match leaf {
                Some(leaf) => held.leaves.push_back(leaf),
                None => {
                    let next = held.end() + 1;
                    held.begin(next);
                }
            }
        }
        while held.leaves.len() > MOST {
            held.drop_first();
        }
    }

    /// The leaves of entries `start` to `end`, which is not included; None if they are not all here. Those before
    /// `end` are forgotten.
    pub fn take(&self, start: u64, end: u64) -> Option<Vec<String>> {
        let mut held = self.lock();
        held.is_wanted = true;
        if start < held.first_n || end > held.end() || start > end {
            return None;
        }
        while held.first_n < start {
            held.drop_first();
        }
        let count = usize::try_from(end - start).ok()?;
        held.first_n = end;
        Some(held.leaves.drain(..count).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn end(&self) -> u64 {
        self.first_n + self.leaves.len() as u64
    }

    fn begin(&mut self, first_n: u64) {
        self.first_n = first_n;
        self.leaves.clear();
    }

    fn drop_first(&mut self) {
        self.leaves.pop_front();
        self.first_n += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(numbers: std::ops::Range<u64>) -> Vec<Option<String>> {
        numbers.map(|n| Some(n.to_string())).collect()
    }

    #[test]
    fn leaves_are_kept_once_somebody_asked_and_given_once() {
        let held = Leaves::default();
        assert!(!held.is_wanted());
        assert_eq!(held.take(3, 5), None);
        assert!(held.is_wanted());
        held.add(3, leaves(3..9));
        held.add(9, leaves(9..10));
        assert_eq!(held.take(5, 7).unwrap(), ["5", "6"]);
        assert_eq!(held.take(5, 7), None);
        assert_eq!(held.take(7, 11), None);
        assert_eq!(held.take(7, 10).unwrap(), ["7", "8", "9"]);
        assert_eq!(held.take(10, 10).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_gap_or_a_leaf_that_is_not_known_ends_what_was_kept() {
        let held = Leaves::default();
        held.add(0, leaves(0..3));
        held.add(5, leaves(5..6));
        assert_eq!((held.take(0, 3), held.take(5, 6)), (None, Some(vec!["5".to_owned()])));
        held.add(6, vec![Some("6".into()), None, Some("8".into())]);
        assert_eq!((held.take(6, 9), held.take(8, 9)), (None, Some(vec!["8".to_owned()])));
    }

    #[test]
    fn the_oldest_leaves_go_when_there_are_too_many() {
        let held = Leaves::default();
        held.add(0, leaves(0..MOST as u64 + 2));
        assert_eq!(held.take(1, 3), None);
        assert_eq!(held.take(2, 3).unwrap(), ["2"]);
    }
}
