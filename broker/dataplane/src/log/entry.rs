//! The lines of the log: a CRC-32 of the JSON in eight hex digits, a space, compact JSON, a newline.

use serde::{Deserialize, Serialize};

use super::artifact::Artifact;

/// Who made the record that an entry tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Sent,
    Received,
}

/// The claims that are repeated beside the sealed text: what a restarted broker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub jti: String,
    pub exp: i64,
    pub cid: String,
    pub hop: u32,
    pub op: Option<String>,
}

/// What is repeated beside the sealed text of a statement about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub iss: String,
    pub aud: String,
    pub cid: String,
    /// Statement hash of the record.
    pub rec: String,
    /// Status of the answer; None for a closing statement.
    pub st: Option<u16>,
}

/// The statements about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Receipt,
    Closing,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Receipt => "rcp",
            Self::Closing => "cls",
        }
    }
}

/// One thing to remember.
#[derive(Debug, Clone)]
pub enum Entry {
    Record {
        direction: Direction,
        /// None if accepted, else the code of the refusal.
        refused: Option<String>,
        /// For the operator; never secret.
        detail: Option<String>,
        /// Sealed text of a readable record, else None.
        sealed: Option<String>,
        /// Oldest first; received records only.
        ancestors: Vec<String>,
        claims: Option<Claims>,
    },
    /// A receipt or closing statement.
    Statement {
        kind: Kind,
        direction: Direction,
        /// None if it holds, else the code.
        refused: Option<String>,
        /// For the operator; never secret.
        detail: Option<String>,
        /// None if none came.
        sealed: Option<String>,
        about: About,
    },
    Certificate {
        x5t: String,
        der: String,
    },
    Bundle {
        trust_domain: String,
        sequence: u64,
        x509: Vec<String>,
    },
    /// What a user's token says, once for each; never its signature.
    Token {
        th: String,
        kid: Option<String>,
        /// What the configuration makes of its client ID.
        workload: Option<String>,
        claims: serde_json::Map<String, serde_json::Value>,
    },
    Start {
        node: String,
    },
    /// The first line of every file but the first: what a reader of this file alone needs of those before.
    Continue {
        node: String,
        /// Latest `exp` of any accepted record before: where a start may stop reading back.
        latest_exp: i64,
    },
    Artifact(Artifact),
}

#[derive(Serialize)]
struct RecordLine<'a> {
    n: u64,
    at_ms: u64,
    r#type: &'static str,
    dir: Direction,
    verdict: &'static str,
    code: Option<&'a str>,
    detail: Option<&'a str>,
    sealed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ancestors: Option<&'a [String]>,
    iss: Option<&'a str>,
    aud: Option<&'a str>,
    jti: Option<&'a str>,
    exp: Option<i64>,
    cid: Option<&'a str>,
    hop: Option<u32>,
    op: Option<&'a str>,
}

#[derive(Serialize)]
struct StatementLine<'a> {
    n: u64,
    at_ms: u64,
    r#type: &'static str,
    dir: Direction,
    verdict: &'static str,
    code: Option<&'a str>,
    detail: Option<&'a str>,
    sealed: Option<&'a str>,
    iss: &'a str,
    aud: &'a str,
    cid: &'a str,
    rec: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    st: Option<u16>,
}

fn verdict(refused: Option<&String>) -> &'static str {
    if refused.is_some() { "refused" } else { "accepted" }
}

impl Entry {
    /// Whether this is a receipt that came in. In one write those stand after the receipts made here: one that came
    /// later must not look as if its receiver had left it out of its own (`kids`).
    pub fn is_receipt_of_peer(&self) -> bool {
        matches!(self, Self::Statement { kind: Kind::Receipt, direction: Direction::Received, .. })
    }

    /// Appends the line of this entry, numbered `n` and dated `at_ms`, to `lines`.
    ///
    /// # Errors
    /// None in practice: every member is text or a number.
    pub fn write_line(&self, n: u64, at_ms: u64, lines: &mut Vec<u8>) -> serde_json::Result<()> {
        let json = self.to_json(n, at_ms)?;
        lines.extend_from_slice(format!("{:08x} ", crc32fast::hash(&json)).as_bytes());
        lines.extend_from_slice(&json);
        lines.push(b'\n');
        Ok(())
    }

    fn to_json(&self, n: u64, at_ms: u64) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Record { direction, refused, detail, sealed, ancestors, claims } => serde_json::to_vec(&RecordLine {
                n,
                at_ms,
                r#type: "rec",
                dir: *direction,
                verdict: verdict(refused.as_ref()),
                code: refused.as_deref(),
                detail: detail.as_deref(),
                sealed: sealed.as_deref(),
                ancestors: (*direction == Direction::Received).then_some(ancestors),
                iss: claims.as_ref().map(|claims| claims.iss.as_str()),
                aud: claims.as_ref().map(|claims| claims.aud.as_str()),
                jti: claims.as_ref().map(|claims| claims.jti.as_str()),
                exp: claims.as_ref().map(|claims| claims.exp),
                cid: claims.as_ref().map(|claims| claims.cid.as_str()),
                hop: claims.as_ref().map(|claims| claims.hop),
                op: claims.as_ref().and_then(|claims| claims.op.as_deref()),
            }),
            Self::Statement { kind, direction, refused, detail, sealed, about } => serde_json::to_vec(&StatementLine {
                n,
                at_ms,
                r#type: kind.as_str(),
                dir: *direction,
                verdict: verdict(refused.as_ref()),
                code: refused.as_deref(),
                detail: detail.as_deref(),
                sealed: sealed.as_deref(),
                iss: &about.iss,
                aud: &about.aud,
                cid: &about.cid,
                rec: &about.rec,
                st: about.st,
            }),
            Self::Certificate { x5t, der } => {
                serde_json::to_vec(&serde_json::json!({"n": n, "at_ms": at_ms, "type": "cert", "x5t": x5t, "der": der}))
            }
            Self::Bundle { trust_domain, sequence, x509 } => serde_json::to_vec(&serde_json::json!(
                {"n": n, "at_ms": at_ms, "type": "bundle", "td": trust_domain, "sequence": sequence, "x509": x509}
            )),
            Self::Token { th, kid, workload, claims } => serde_json::to_vec(&serde_json::json!(
                {"n": n, "at_ms": at_ms, "type": "token", "th": th, "kid": kid, "workload": workload,
                 "claims": claims}
            )),
            Self::Start { node } => serde_json::to_vec(&serde_json::json!(
                {"n": n, "at_ms": at_ms, "type": "start", "node": node, "version": env!("CARGO_PKG_VERSION")}
            )),
            Self::Continue { node, latest_exp } => serde_json::to_vec(&serde_json::json!(
                {"n": n, "at_ms": at_ms, "type": "start", "node": node, "version": env!("CARGO_PKG_VERSION"),
                 "continues": true, "latest_exp": latest_exp}
            )),
            Self::Artifact(artifact) => Ok(artifact.to_json(n, at_ms)),
        }
    }

    /// Until when this entry must be remembered to refuse a replay.
    pub fn replayable_until(&self) -> Option<i64> {
        match self {
            Self::Record { direction: Direction::Received, refused: None, claims, .. } => {
                claims.as_ref().map(|claims| claims.exp)
            }
            _ => None,
        }
    }
}

/// What start-up reads back from a line; other members are skipped.
#[derive(Debug, Deserialize)]
pub struct ReadLine {
    pub n: u64,
    pub r#type: String,
    pub dir: Option<Direction>,
    pub verdict: Option<String>,
    #[serde(default)]
    pub ancestors: Vec<String>,
    pub iss: Option<String>,
    pub jti: Option<String>,
    pub exp: Option<i64>,
    pub cid: Option<String>,
    pub x5t: Option<String>,
    pub latest_exp: Option<i64>,
}

impl ReadLine {
    /// The entry in one line without its newline, or None if it is damaged.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(checked_json(line)?).ok()
    }
}

/// The JSON of one line without its newline, or None if its checksum does not fit.
pub fn checked_json(line: &[u8]) -> Option<&[u8]> {
    let (crc, json) = line.split_at_checked(9)?;
    let crc = std::str::from_utf8(crc).ok()?.strip_suffix(' ')?;
    let expected = u32::from_str_radix(crc, 16).ok()?;
    (crc32fast::hash(json) == expected).then_some(json)
}

/// The members that every line begins with.
#[derive(Debug, PartialEq, Eq)]
pub struct LineStart<'a> {
    pub n: u64,
    pub at_ms: u64,
    pub r#type: &'a str,
}

impl<'a> LineStart<'a> {
    /// The start of a line's JSON as the writer forms it; None for any other form.
    pub fn read(json: &'a [u8]) -> Option<Self> {
        let (n, rest) = read_number(json.strip_prefix(b"{\"n\":")?)?;
        let (at_ms, rest) = read_number(rest.strip_prefix(b",\"at_ms\":")?)?;
        let rest = rest.strip_prefix(b",\"type\":\"")?;
        let end = rest.iter().position(|byte| !byte.is_ascii_lowercase())?;
        let (kind, rest) = rest.split_at(end);
        rest.starts_with(b"\"").then_some(())?;
        Some(Self { n, at_ms, r#type: std::str::from_utf8(kind).ok()? })
    }
}

fn read_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(refused: Option<&str>) -> Entry {
        Entry::Record {
            direction: Direction::Received,
            refused: refused.map(Into::into),
            detail: None,
            sealed: Some("a.b.c.d.e".into()),
            ancestors: vec!["x".into()],
            claims: Some(Claims {
                iss: "spiffe://a/b".into(),
                aud: "spiffe://a/c".into(),
                jti: "j".into(),
                exp: 7,
                cid: "c".into(),
                hop: 1,
                op: None,
            }),
        }
    }

    #[test]
    fn a_line_reads_back() {
        let mut lines = Vec::new();
        record(None).write_line(3, 9, &mut lines).unwrap();
        assert_eq!(lines.pop(), Some(b'\n'));
        let read = ReadLine::parse(&lines).unwrap();
        assert_eq!((read.n, read.r#type.as_str(), read.jti.as_deref(), read.exp), (3, "rec", Some("j"), Some(7)));
        assert_eq!(read.verdict.as_deref(), Some("accepted"));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        let mut lines = Vec::new();
        record(Some("custody_chain")).write_line(0, 0, &mut lines).unwrap();
        lines.pop();
        for position in 0..lines.len() {
            for bit in 0..8 {
                let mut damaged = lines.clone();
                damaged[position] ^= 1 << bit;
                // Hex digits have two cases; the number is the same.
                if damaged[..8].eq_ignore_ascii_case(&lines[..8]) && damaged[8..] == lines[8..] {
                    continue;
                }
                assert!(ReadLine::parse(&damaged).is_none(), "byte {position} bit {bit}");
            }
        }
    }

    #[test]
    fn the_start_of_a_line_says_what_the_whole_line_does() {
        let mut lines = Vec::new();
        record(None).write_line(3, 9, &mut lines).unwrap();
        let json = checked_json(&lines[..lines.len() - 1]).unwrap();
        assert_eq!(LineStart::read(json), Some(LineStart { n: 3, at_ms: 9, r#type: "rec" }));
        for other in ["", "{}", r#"{"n":1}"#, r#"{"n":,"at_ms":1,"type":"rec"}"#, r#"{"n":1,"at_ms":1,"type":"r"#] {
            assert_eq!(LineStart::read(other.as_bytes()), None, "{other}");
        }
    }
}
