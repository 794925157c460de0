//! Reading the log back at start: where to go on, and what a restarted receiver must remember.
//!
//! Owns: telling a torn tail (cut off, it was never acknowledged) from damage in the middle (kept
//! as it is for the auditor, and the replay store then counts as incomplete). Lines are written into zeros (`reserve`):
//! an end that is torn can have holes, with whole lines of the same write behind them.

use std::collections::HashSet;
use std::io::{self, BufRead};

use hopseal_custody::limits::{MAX_LIFETIME_S, MAX_SKEW_S};

use super::entry::Direction;
use super::line::{LineStart, ReadLine, checked_json};

/// How long after its line was written a record can be replayed at most; a second more for what milliseconds round.
const REPLAYABLE_S: i64 = MAX_LIFETIME_S + MAX_SKEW_S + 1;

/// More lines than one write has.
const MOST_IN_A_WRITE: u64 = 4096;
/// Lines of one write are dated while it is put together, which takes less.
const LONGEST_WRITE_MS: u64 = 5_000;

/// Codes of refusals that have a receipt (custody-wire §7.1): those behind the proof of who sent the record.
const WITH_RECEIPT: [&str; 3] = ["custody_authority", "custody_chain", "custody_forbidden"];

/// An accepted record whose replay must still be refused, or a refused one that has its one receipt already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub iss: String,
    pub jti: String,
    pub exp: i64,
    pub cid: String,
    /// Sealed root of the chain, or None if the record itself is the root.
    pub root: Option<String>,
    pub is_refused: bool,
}

/// What one file of the log holds, or several in a row.
#[derive(Debug, Default)]
pub struct Scan {
    /// Number of the first readable entry.
    pub first_n: Option<u64>,
    /// Number of the next entry.
    pub next_n: u64,
    /// Bytes of the last file to keep; anything behind is a torn tail.
    pub length: u64,
    /// Thumbprints of the certificates in the last file.
    pub certificates: HashSet<String>,
    /// Latest `exp` of any accepted record, those before the first entry included.
    pub latest_exp: i64,
    /// Latest `exp` of an accepted record before the first entry; None if nothing tells.
    before: Option<i64>,
    /// Accepted records with `exp` not before the given time.
    pub accepted: Vec<Accepted>,
    /// Lines before the tail that cannot be read.
    pub damaged: u64,
}

/// Reads a whole file; keeps the accepted records with `exp >= since`.
///
/// # Errors
/// The underlying read failed.
pub fn scan(mut log: impl BufRead, since: i64) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut position: u64 = 0;
    let mut unreadable_since_good: u64 = 0;
    let mut hole: Option<Hole> = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = log.read_until(b'\n', &mut line)?;
        if bytes == 0 {
            hole.into_iter().for_each(|hole| hole.cut(&mut scan));
            return Ok(scan);
        }
        position += bytes as u64;
        let Some(json) = line.strip_suffix(b"\n").and_then(checked_json) else {
            unreadable_since_good += 1;
            if hole.is_none() && line.contains(&0) {
                hole = Some(Hole::before(&scan));
            }
            continue;
        };
        hole.iter_mut().for_each(|hole| hole.note_behind(json));
        let passed = (!scan.is_empty()).then(|| can_pass(json, since)).flatten();
        let entry = if passed.is_none() { serde_json::from_slice::<ReadLine>(json).ok() } else { None };
        let Some(n) = passed.as_ref().map(|passed| passed.n).or(entry.as_ref().map(|entry| entry.n)) else {
            unreadable_since_good += 1;
            continue;
        };
        scan.damaged += unreadable_since_good;
        unreadable_since_good = 0;
        scan.length = position;
        scan.next_n = scan.next_n.max(n + 1);
        scan.latest_exp = scan.latest_exp.max(passed.map_or(0, |passed| passed.latest_exp));
        let Some(entry) = entry else { continue };
        if scan.first_n.is_none() {
            scan.first_n = Some(entry.n);
            scan.before = entry.latest_exp;
            scan.latest_exp = scan.latest_exp.max(entry.latest_exp.unwrap_or(0));
        }
        scan.remember(entry, since);
    }
}

/// A line that nothing has to be remembered of, so its JSON is not read: most of a file.
struct Passed {
    n: u64,
    /// Not before the `exp` of the record in it.
    latest_exp: i64,
}

/// What is passed over: an old record, and whatever is no record and no certificate.
///
/// A record is accepted only if `iat` is at most the skew ahead and `exp` at most the lifetime after it
/// (custody-wire §6.8): its line's own time bounds it, whatever the clock did since.
fn can_pass(json: &[u8], since: i64) -> Option<Passed> {
    let start = LineStart::read(json)?;
    match start.r#type {
        "cert" => None,
        "rec" => {
            let latest_exp = i64::try_from(start.at_ms / 1000).ok()?.checked_add(REPLAYABLE_S)?;
            (latest_exp < since).then_some(Passed { n: start.n, latest_exp })
        }
        _ => Some(Passed { n: start.n, latest_exp: 0 }),
    }
}

/// Zeros between lines: what stood there before they were written, so that this write was never acknowledged.
struct Hole {
    /// Scanned before it.
    next_n: u64,
    length: u64,
    latest_exp: i64,
    damaged: u64,
    accepted: usize,
    certificates: HashSet<String>,
    lines_behind: u64,
    /// When the first and the last of them, by their dates, were written.
    dates: Option<(u64, u64)>,
}

impl Hole {
    fn before(scan: &Scan) -> Self {
        Self {
            next_n: scan.next_n,
            length: scan.length,
            latest_exp: scan.latest_exp,
            damaged: scan.damaged,
            accepted: scan.accepted.len(),
            certificates: scan.certificates.clone(),
            lines_behind: 0,
            dates: None,
        }
    }

    fn note_behind(&mut self, json: &[u8]) {
        self.lines_behind += 1;
        if let Some(LineStart { at_ms, .. }) = LineStart::read(json) {
            let (first, last) = self.dates.unwrap_or((at_ms, at_ms));
            self.dates = Some((first.min(at_ms), last.max(at_ms)));
        }
    }

    /// Whether one write can have written what stands behind it.
    fn is_in_one_write(&self) -> bool {
        let is_short = self.dates.is_none_or(|(first, last)| last - first <= LONGEST_WRITE_MS);
        is_short && self.lines_behind <= MOST_IN_A_WRITE
    }

    /// Takes back what stands behind it, unless that is more than one write has: then it is damage.
    fn cut(self, scan: &mut Scan) {
        if !self.is_in_one_write() {
            return;
        }
        (scan.next_n, scan.length, scan.damaged) = (self.next_n, self.length, self.damaged);
        scan.latest_exp = self.latest_exp;
        scan.accepted.truncate(self.accepted);
        scan.certificates = self.certificates;
        if self.length == 0 {
            scan.first_n = None;
        }
    }
}

impl Scan {
    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.first_n.is_none()
    }

    /// Whether entries before the first one may have accepted a record with `exp >= since`.
    pub fn may_matter_before(&self, since: i64) -> bool {
        self.first_n.unwrap_or(self.next_n) > 0 && self.before.is_none_or(|latest_exp| latest_exp >= since)
    }

    /// What this file and `later`, which comes right behind it, hold together.
    pub fn followed_by(mut self, later: Self) -> Self {
        let is_gap = later.first_n.is_some_and(|first_n| first_n != self.next_n);
        self.accepted.extend(later.accepted);
        Self {
            first_n: self.first_n.or(later.first_n),
            next_n: later.next_n,
            length: later.length,
            certificates: later.certificates,
            latest_exp: self.latest_exp.max(later.latest_exp),
            before: self.before,
            accepted: self.accepted,
            damaged: self.damaged + later.damaged + u64::from(is_gap),
        }
    }

    fn remember(&mut self, entry: ReadLine, since: i64) {
        if entry.r#type == "cert" {
            self.certificates.extend(entry.x5t);
            return;
        }
        if let Some(used) = entry.into_used() {
            self.latest_exp = self.latest_exp.max(used.exp);
            if used.exp >= since {
                self.accepted.push(used);
            }
        }
    }
}

impl ReadLine {
    /// The record of a peer that it says was used; None if it says no such thing or a claim is missing.
    pub fn into_used(self) -> Option<Accepted> {
        let is_refused = match (self.verdict.as_deref(), self.code.as_deref()) {
            (Some("accepted"), _) => false,
            (Some("refused"), Some(code)) if WITH_RECEIPT.contains(&code) => true,
            _ => return None,
        };
        if self.r#type != "rec" || self.dir != Some(Direction::Received) {
            return None;
        }
        let root = self.ancestors.into_iter().next();
        Some(Accepted { iss: self.iss?, jti: self.jti?, exp: self.exp?, cid: self.cid?, root, is_refused })
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::received;
    use super::*;

    fn line(n: u64, at_s: u64, exp: i64) -> Vec<u8> {
        let mut line = Vec::new();
        received(&format!("j{n}"), exp).write_line(n, at_s * 1000, &mut line).unwrap();
        line
    }

    fn lines(expiries: &[i64]) -> Vec<u8> {
        (0..).zip(expiries).flat_map(|(n, exp)| line(n, 0, *exp)).collect()
    }

    #[test]
    fn only_records_that_could_still_be_replayed_are_kept() {
        let found = scan(&lines(&[5, 10, 15])[..], 10).unwrap();
        assert_eq!(found.accepted.iter().map(|a| a.jti.as_str()).collect::<Vec<_>>(), ["j1", "j2"]);
        assert_eq!((found.next_n, found.damaged), (3, 0));
    }

    #[test]
    fn refusals_that_have_a_receipt_are_kept_and_others_are_not() {
        let mut log = Vec::new();
        let codes = ["custody_forbidden", "custody_malformed", "custody_replayed", "custody_chain"];
        for (n, code) in (0..).zip(codes) {
            let mut entry = received(code, 10);
            if let super::super::Entry::Record { refused, .. } = &mut entry {
                *refused = Some(code.into());
            }
            entry.write_line(n, 0, &mut log).unwrap();
        }
        let found = scan(&log[..], 0).unwrap();
        assert_eq!(found.accepted.iter().map(|a| a.jti.as_str()).collect::<Vec<_>>(), [codes[0], codes[3]]);
        assert!(found.accepted.iter().all(|a| a.is_refused));
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_off_and_the_rest_kept() {
        let whole = lines(&[1, 2, 3]);
        let two = lines(&[1, 2]).len();
        for cut in two..whole.len() {
            let found = scan(&whole[..cut], 0).unwrap();
            assert_eq!((found.length, found.next_n, found.damaged), (two as u64, 2, 0), "cut at {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_counted_and_nothing_is_cut_off() {
        let mut log = lines(&[1, 2, 3]);
        let middle = lines(&[1]).len() + 20;
        log[middle] ^= 1;
        let found = scan(&log[..], 0).unwrap();
        assert_eq!((found.length, found.damaged, found.accepted.len()), (log.len() as u64, 1, 2));
    }

    #[test]
    fn a_write_with_a_hole_was_never_acknowledged_and_is_cut_off_whole() {
        let whole = lines(&[1, 2, 3, 4]);
        let (one, two) = (lines(&[1]).len(), lines(&[1, 2]).len());
        for hole in [one..two, one + 7..two + 9, one..one + 1] {
            let mut log = whole.clone();
            log[hole.clone()].fill(0);
            log.extend([0; 64]);
            let found = scan(&log[..], 0).unwrap();
            assert_eq!((found.length, found.next_n, found.damaged), (one as u64, 1, 0), "{hole:?}");
            assert_eq!((found.accepted.len(), found.latest_exp), (1, 1));
        }
        let mut log = whole;
        log[..3].fill(0);
        let found = scan(&log[..], 0).unwrap();
        assert_eq!((found.length, found.next_n, found.is_empty()), (0, 0, true));
    }

    #[test]
    fn a_hole_before_more_than_one_write_is_damage() {
        let behind = MOST_IN_A_WRITE + 1;
        let mut log: Vec<u8> = (0..behind + 2).flat_map(|n| line(n, 0, 9)).collect();
        log[line(0, 0, 9).len()..][..9].fill(0);
        let found = scan(&log[..], 10).unwrap();
        assert_eq!((found.length, found.next_n, found.damaged), (log.len() as u64, behind + 2, 1));
    }

    #[test]
    fn a_hole_before_lines_of_several_seconds_is_damage() {
        let at = |n: u64, at_s: u64| line(n, at_s, 9);
        let mut log = [at(0, 100), at(1, 101), at(2, 102), at(3, 102 + LONGEST_WRITE_MS / 1000 + 1)].concat();
        let zeroed = at(0, 100).len() + 20;
        log[zeroed] = 0;
        let found = scan(&log[..], 0).unwrap();
        assert_eq!((found.length, found.next_n, found.damaged), (log.len() as u64, 4, 1));
        assert_eq!(found.accepted.iter().map(|a| a.jti.as_str()).collect::<Vec<_>>(), ["j0", "j2", "j3"]);
    }

    #[test]
    fn old_records_are_passed_over_and_count_as_late_as_they_can_be() {
        let log =
            [line(0, 1000, 1030), line(1, 1000, 1030), line(2, 1929, 1990), line(3, 1928, 1998), line(4, 1100, 1130)];
        let found = scan(&log.concat()[..], 2000).unwrap();
        assert_eq!((found.accepted.len(), found.next_n, found.damaged, found.latest_exp), (0, 5, 0, 2000 - 1));
        let found = scan(&log.concat()[..], 1990).unwrap();
        assert_eq!(found.accepted.iter().map(|a| a.jti.as_str()).collect::<Vec<_>>(), ["j2", "j3"]);
    }
}
