//! Reading the log back at start: where to go on, and what a restarted receiver must remember.
//!
//! Owns: telling a torn tail (cut off, it was never acknowledged) from damage in the middle (kept
//! as it is for the auditor, and the replay store then counts as incomplete).

use std::collections::HashSet;
use std::io::{self, BufRead};

use super::entry::{Direction, ReadLine};

/// An accepted record whose replay must still be refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    pub iss: String,
    pub jti: String,
    pub exp: i64,
    pub cid: String,
    /// Sealed root of the chain, or None if the record itself is the root.
    pub root: Option<String>,
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
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = log.read_until(b'\n', &mut line)?;
        if bytes == 0 {
            return Ok(scan);
        }
        position += bytes as u64;
        let entry = line.strip_suffix(b"\n").and_then(ReadLine::parse);
        let Some(entry) = entry else {
            unreadable_since_good += 1;
            continue;
        };
        scan.damaged += unreadable_since_good;
        unreadable_since_good = 0;
        scan.length = position;
        scan.next_n = scan.next_n.max(entry.n + 1);
        if scan.first_n.is_none() {
            scan.first_n = Some(entry.n);
            scan.before = entry.latest_exp;
            scan.latest_exp = entry.latest_exp.unwrap_or(0);
        }
        scan.remember(entry, since);
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
        if entry.r#type != "rec"
            || entry.dir != Some(Direction::Received)
            || entry.verdict.as_deref() != Some("accepted")
        {
            return;
        }
        if let (Some(iss), Some(jti), Some(exp), Some(cid)) = (entry.iss, entry.jti, entry.exp, entry.cid) {
            self.latest_exp = self.latest_exp.max(exp);
            if exp < since {
                return;
            }
            self.accepted.push(Accepted { iss, jti, exp, cid, root: entry.ancestors.into_iter().next() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Claims, Entry};
    use super::*;

    fn lines(expiries: &[i64]) -> Vec<u8> {
        let mut lines = Vec::new();
        for (n, exp) in expiries.iter().enumerate() {
            let claims = Claims {
                iss: "spiffe://a/b".into(),
                aud: "spiffe://a/c".into(),
                jti: format!("j{n}"),
                exp: *exp,
                cid: "c".into(),
                hop: 0,
                op: None,
            };
            let entry = Entry::Record {
                direction: Direction::Received,
                refused: None,
                detail: None,
                sealed: Some("s".into()),
                ancestors: Vec::new(),
                claims: Some(claims),
            };
            entry.write_line(n as u64, 0, &mut lines).unwrap();
        }
        lines
    }

    #[test]
    fn only_records_that_could_still_be_replayed_are_kept() {
        let found = scan(&lines(&[5, 10, 15])[..], 10).unwrap();
        assert_eq!(found.accepted.iter().map(|a| a.jti.as_str()).collect::<Vec<_>>(), ["j1", "j2"]);
        assert_eq!((found.next_n, found.damaged), (3, 0));
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
}
