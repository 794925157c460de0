//! Sealed statements: `payload.path.seal` (custody-wire §4.1, §4.2).
//!
//! Owns: their exact text form. Does not own: claims (see `record`), trust (see `receive`).

use crate::cert::Certificate;
use crate::error::{Code, Rejection, Result, malformed};
use crate::hash::{StatementHash, Thumbprint, decode_base64url, encode_base64url, sha256};
use crate::limits::{MAX_SEAL_LEAVES, MAX_SEALED_BYTES};
use crate::merkle::{Node, path_length, root_of, statement_hash};

/// SHA-256 of a seal's ASCII: what the log and the verified-seal cache know a seal by.
pub type SealHash = [u8; 32];

/// Bytes of an ES256 signature: r and s, RFC 7518 §3.4.
const SIGNATURE_BYTES: usize = 64;

/// One sealed statement whose text has the exact form; no signature was checked.
#[derive(Clone, Debug)]
pub struct UnverifiedStatement {
    text: String,
    claims: Vec<u8>,
    seal: UnverifiedSeal,
    index: u32,
    path: Vec<Node>,
    hash: StatementHash,
}

/// The parts of a seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedSeal {
    pub x5t: Thumbprint,
    pub count: u32,
    pub root: Node,
    signature: Vec<u8>,
}

impl UnverifiedStatement {
    /// The sealed statement in `text`.
    ///
    /// # Errors
    /// `too_large` over 4,096 bytes; `malformed` for anything else than the exact form.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_SEALED_BYTES {
            return Err(Rejection::new(Code::TooLarge, "a sealed statement is over 4,096 bytes"));
        }
        let mut parts = text.split('.');
        let (Some(payload), Some(path), Some(header), Some(body), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("a sealed statement does not have five parts"));
        };
        let seal = parse_seal(header, body, signature)?;
        let claims = decode_base64url(payload)
            .filter(|claims| !claims.is_empty())
            .ok_or_else(|| malformed("the payload is not canonical base64url of claims"))?;
        let (index, path) = parse_path(path, seal.count)?;
        let hash = statement_hash(&seal.x5t, payload);
        Ok(Self { text: text.to_owned(), claims, seal, index, path, hash })
    }

    /// The whole sealed text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The claims as bytes; whether they are JSON is not checked.
    #[must_use]
    pub fn claims(&self) -> &[u8] {
        &self.claims
    }

    /// Which leaf of the seal's tree it is.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    #[must_use]
    pub fn hash(&self) -> StatementHash {
        self.hash
    }

    #[must_use]
    pub fn seal(&self) -> &UnverifiedSeal {
        &self.seal
    }

    /// SHA-256 of the seal's ASCII.
    #[must_use]
    pub fn seal_hash(&self) -> SealHash {
        sha256(self.seal_text().as_bytes())
    }

    /// True if the inclusion path leads from the statement hash to the seal's root.
    #[must_use]
    pub fn path_holds(&self) -> bool {
        root_of(&self.hash, self.index, self.seal.count, &self.path) == Some(self.seal.root)
    }

    /// True if the seal's signature is by `leaf`'s key.
    #[must_use]
    pub fn signature_holds(&self, leaf: &Certificate) -> bool {
        let (signing_input, _) = self.seal_text().rsplit_once('.').unwrap_or_default();
        leaf.verify_signature(signing_input.as_bytes(), &self.seal.signature)
    }

    fn seal_text(&self) -> &str {
        self.text.splitn(3, '.').nth(2).unwrap_or_default()
    }
}

/// Statement hash and seal hash of a sealed statement that was verified or made here; None if it is of another form.
#[must_use]
pub fn hashes_of(sealed: &str) -> Option<(StatementHash, SealHash)> {
    let mut parts = sealed.splitn(3, '.');
    let (payload, _path, seal) = (parts.next()?, parts.next()?, parts.next()?);
    let x5t = parse_header(seal.split('.').next()?)?;
    Some((statement_hash(&x5t, payload), sha256(seal.as_bytes())))
}

/// The exact seal header of a leaf with thumbprint `x5t`.
#[must_use]
pub fn seal_header(x5t: &Thumbprint) -> String {
    format!("{{\"alg\":\"ES256\",\"typ\":\"custody-seal+jwt\",\"x5t#S256\":\"{x5t}\"}}")
}

/// The exact seal body for a tree of `count` statements with `root`.
#[must_use]
pub fn seal_body(count: u32, root: &Node) -> String {
    format!("{{\"v\":1,\"n\":{count},\"root\":\"{}\"}}", encode_base64url(root))
}

/// The path text of leaf `index`; empty for a seal over one statement.
#[must_use]
pub fn path_text(index: u8, nodes: &[Node]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let mut bytes = Vec::with_capacity(1 + nodes.len() * 32);
    bytes.push(index);
    for node in nodes {
        bytes.extend_from_slice(node);
    }
    encode_base64url(&bytes)
}

fn parse_seal(header: &str, body: &str, signature: &str) -> Result<UnverifiedSeal> {
    let x5t = parse_header(header).ok_or_else(|| malformed("the seal's header is not in the exact form"))?;
    let (count, root) = parse_body(body).ok_or_else(|| malformed("the seal's body is not in the exact form"))?;
    let signature = decode_base64url(signature)
        .filter(|bytes| bytes.len() == SIGNATURE_BYTES)
        .ok_or_else(|| malformed("the seal's signature is not canonical base64url of 64 bytes"))?;
    Ok(UnverifiedSeal { x5t, count, root, signature })
}

fn parse_header(text: &str) -> Option<Thumbprint> {
    let decoded = String::from_utf8(decode_base64url(text)?).ok()?;
    let rest = decoded.strip_suffix("\"}")?;
    let x5t = Thumbprint::parse(rest.get(rest.len().checked_sub(43)?..)?)?;
    // Compared with the one text that these values can have: no JSON parser, no second reading.
    (seal_header(&x5t) == decoded).then_some(x5t)
}

fn parse_body(text: &str) -> Option<(u32, Node)> {
    let decoded = String::from_utf8(decode_base64url(text)?).ok()?;
    let rest = decoded.strip_prefix("{\"v\":1,\"n\":")?.strip_suffix("\"}")?;
    let (digits, root) = rest.split_once(",\"root\":\"")?;
    let count: u32 = digits.parse().ok().filter(|count| (1..=MAX_SEAL_LEAVES).contains(count))?;
    let root = StatementHash::parse(root)?.0;
    (seal_body(count, &root) == decoded).then_some((count, root))
}

fn parse_path(text: &str, count: u32) -> Result<(u32, Vec<Node>)> {
    if count == 1 {
        return if text.is_empty() { Ok((0, Vec::new())) } else { Err(malformed("a lone statement has a path")) };
    }
    let bytes = decode_base64url(text).ok_or_else(|| malformed("the path is not canonical base64url"))?;
    let (index, nodes) = bytes.split_first().ok_or_else(|| malformed("the path is empty"))?;
    let index = u32::from(*index);
    if index >= count || nodes.len() != path_length(index, count) * 32 {
        return Err(malformed("the path does not fit index and count"));
    }
    let nodes = nodes.chunks_exact(32).filter_map(|chunk| chunk.try_into().ok()).collect();
    Ok((index, nodes))
}
