//! The lines of the log: a CRC-32 of the JSON in eight hex digits, a space, compact JSON, a newline.
//!
//! Owns: the form of a line, written and read. Does not own: what an entry is (`entry`), or files (`store`, `scan`).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::entry::{About, Claims, Direction, Entry, Unrecorded};

/// Eight digits and a space.
const CHECKSUM_BYTES: usize = 9;

/// The members that lines of records and of statements about them begin with.
#[derive(Serialize)]
struct Head<'a> {
    n: u64,
    at_ms: u64,
    r#type: &'static str,
    dir: Direction,
    verdict: &'static str,
    code: Option<&'a str>,
    detail: Option<&'a str>,
    sealed: Option<&'a str>,
}

impl<'a> Head<'a> {
    fn new(
        (n, at_ms): (u64, u64),
        r#type: &'static str,
        dir: Direction,
        code: Option<&'a str>,
        detail: Option<&'a str>,
        sealed: Option<&'a str>,
    ) -> Self {
        let verdict = if code.is_some() { "refused" } else { "accepted" };
        Self { n, at_ms, r#type, dir, verdict, code, detail, sealed }
    }
}

#[derive(Serialize)]
struct RecordLine<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ancestors: Option<&'a [String]>,
    iss: Option<&'a str>,
    aud: Option<&'a str>,
    jti: Option<&'a str>,
    exp: Option<i64>,
    cid: Option<&'a str>,
    hop: Option<u32>,
    op: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args_hash: Option<&'a str>,
}

#[derive(Serialize)]
struct StatementLine<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    iss: &'a str,
    aud: &'a str,
    cid: &'a str,
    rec: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    st: Option<u16>,
}

#[derive(Serialize)]
struct CallLine<'a> {
    n: u64,
    at_ms: u64,
    r#type: &'static str,
    #[serde(flatten)]
    call: &'a Unrecorded,
}

impl<'a> RecordLine<'a> {
    fn new(head: Head<'a>, ancestors: &'a [String], claims: Option<&'a Claims>) -> Self {
        Self {
            ancestors: (head.dir == Direction::Received).then_some(ancestors),
            head,
            iss: claims.map(|claims| claims.iss.as_str()),
            aud: claims.map(|claims| claims.aud.as_str()),
            jti: claims.map(|claims| claims.jti.as_str()),
            exp: claims.map(|claims| claims.exp),
            cid: claims.map(|claims| claims.cid.as_str()),
            hop: claims.map(|claims| claims.hop),
            op: claims.and_then(|claims| claims.op.as_deref()),
            args_hash: claims.and_then(|claims| claims.args_hash.as_deref()),
        }
    }
}

impl<'a> StatementLine<'a> {
    fn new(head: Head<'a>, about: &'a About) -> Self {
        let About { iss, aud, cid, rec, st } = about;
        Self { head, iss, aud, cid, rec, st: *st }
    }
}

impl Entry {
    /// Appends the line of this entry, numbered `n` and dated `at_ms`, to `lines`.
    ///
    /// # Errors
    /// None in practice: every member is text or a number.
    pub fn write_line(&self, n: u64, at_ms: u64, lines: &mut Vec<u8>) -> serde_json::Result<()> {
        let start = lines.len();
        lines.extend_from_slice(b"00000000 ");
        let json = lines.len();
        if let Err(error) = self.write_json(n, at_ms, lines) {
            lines.truncate(start);
            return Err(error);
        }
        let checksum = format!("{:08x}", crc32fast::hash(&lines[json..]));
        lines[start..start + checksum.len()].copy_from_slice(checksum.as_bytes());
        lines.push(b'\n');
        Ok(())
    }

    fn write_json(&self, n: u64, at_ms: u64, lines: &mut Vec<u8>) -> serde_json::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        let json = match self {
            Self::Record { direction, refused, detail, sealed, ancestors, claims } => {
                let head =
                    Head::new((n, at_ms), "rec", *direction, refused.as_deref(), detail.as_deref(), sealed.as_deref());
                return serde_json::to_writer(lines, &RecordLine::new(head, ancestors, claims.as_ref()));
            }
            Self::Statement { kind, direction, refused, detail, sealed, about } => {
                let head = Head::new(
                    (n, at_ms),
                    kind.as_str(),
                    *direction,
                    refused.as_deref(),
                    detail.as_deref(),
                    sealed.as_deref(),
                );
                return serde_json::to_writer(lines, &StatementLine::new(head, about));
            }
            Self::Artifact(artifact) => {
                lines.extend_from_slice(&artifact.to_json(n, at_ms));
                return Ok(());
            }
            Self::Call(call) => {
                return serde_json::to_writer(lines, &CallLine { n, at_ms, r#type: "call", call });
            }
            Self::Relayed(relayed) => {
                lines.extend_from_slice(&relayed.to_json(n, at_ms));
                return Ok(());
            }
            Self::Certificate { x5t, der } => json!({"n": n, "at_ms": at_ms, "type": "cert", "x5t": x5t, "der": der}),
            Self::Bundle { trust_domain, sequence, x509 } => {
                json!({"n": n, "at_ms": at_ms, "type": "bundle", "td": trust_domain, "sequence": sequence, "x509": x509})
            }
            Self::Token { th, kid, workload, claims } => {
                json!({"n": n, "at_ms": at_ms, "type": "token", "th": th, "kid": kid, "workload": workload, "claims": claims})
            }
            Self::Start { node } => json!({"n": n, "at_ms": at_ms, "type": "start", "node": node, "version": version}),
            Self::Continue { node, latest_exp } => json!(
                {"n": n, "at_ms": at_ms, "type": "start", "node": node, "version": version, "continues": true,
                 "latest_exp": latest_exp}
            ),
        };
        serde_json::to_writer(lines, &json)
    }
}

/// What start-up reads back from a line; other members are skipped.
#[derive(Debug, Deserialize)]
pub struct ReadLine {
    pub n: u64,
    pub r#type: String,
    pub dir: Option<Direction>,
    pub verdict: Option<String>,
    pub code: Option<String>,
    #[serde(default)]
    pub ancestors: Vec<String>,
    pub iss: Option<String>,
    pub jti: Option<String>,
    pub exp: Option<i64>,
    pub cid: Option<String>,
    pub x5t: Option<String>,
    pub latest_exp: Option<i64>,
}

/// The JSON of a whole line.
pub fn json_of(line: &[u8]) -> &[u8] {
    line.get(CHECKSUM_BYTES..line.len().saturating_sub(1)).unwrap_or_default()
}

/// The JSON of one line without its newline, or None if its checksum does not fit.
pub fn checked_json(line: &[u8]) -> Option<&[u8]> {
    let (crc, json) = line.split_at_checked(CHECKSUM_BYTES)?;
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
#[path = "line_tests.rs"]
mod tests;
