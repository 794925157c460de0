//! Entries for the tests of this folder, and reading them back.

use super::entry::{Claims, Direction, Entry};
use super::line::{ReadLine, checked_json};

/// An accepted record that came in, named `jti`, which ends at `exp`.
pub fn received(jti: &str, exp: i64) -> Entry {
    Entry::Record {
        direction: Direction::Received,
        refused: None,
        detail: None,
        sealed: Some("s".into()),
        ancestors: Vec::new(),
        claims: Some(Claims {
            iss: "spiffe://a/b".into(),
            aud: "spiffe://a/c".into(),
            jti: jti.into(),
            exp,
            cid: "c".into(),
            hop: 0,
            op: None,
            args_hash: None,
        }),
    }
}

impl ReadLine {
    /// The entry in one line without its newline, or None if it is damaged.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(checked_json(line)?).ok()
    }
}
