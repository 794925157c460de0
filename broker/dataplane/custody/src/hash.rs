//! SHA-256 values under the names that say what was hashed, and strict base64url.
//!
//! Owns: canonical text of hashes and random ids. Does not own: what is hashed (see `merkle`).

use std::cell::RefCell;
use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha256_of(&[bytes])
}

/// SHA-256 of the concatenation of `parts`.
#[must_use]
pub(crate) fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut output = [0_u8; 32];
    output.copy_from_slice(context.finish().as_ref());
    output
}

/// The base64url text of `bytes`, without padding.
#[must_use]
pub fn encode_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of canonical base64url `text`; None for padding, a foreign character or unused bits that are not zero.
#[must_use]
pub fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    // The engine refuses padding and trailing bits, so each value has exactly one accepted text.
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// The base64 text of `bytes`, with padding.
#[must_use]
pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of canonical, padded base64 `text`.
#[must_use]
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn decode_exact<const N: usize>(text: &str, characters: usize) -> Option<[u8; N]> {
    if text.len() != characters {
        return None;
    }
    decode_base64url(text)?.try_into().ok()
}

macro_rules! named_bytes {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $characters:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The value with this canonical base64url text, or None.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                decode_exact(text, $characters).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&encode_base64url(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

named_bytes! {
    /// SHA-256 of a DER certificate (`x5t#S256`, RFC 7515 §4.1.8).
    Thumbprint, 32, 43
}
named_bytes! {
    /// What `prev`, `rec`, `in` and the log call a statement by (custody-wire §4.2).
    StatementHash, 32, 43
}
named_bytes! {
    /// A claim that is SHA-256 of something else: `rqb`, `th`, `ih`, `ah`, `h`.
    ClaimHash, 32, 43
}
named_bytes! {
    /// Sixteen random bytes: `jti` and `cid`.
    RandomId, 16, 22
}

impl Thumbprint {
    /// The thumbprint of a DER certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(sha256(der))
    }
}

/// Random bytes that one thread fetched ahead.
struct Ahead {
    /// The process that fetched them: after a fork both would give out the same.
    process: u32,
    ids: Vec<[u8; 16]>,
}

/// Ids fetched at once: asking for one takes nearly as long as asking for all.
const IDS_AHEAD: usize = 64;

thread_local! {
    static AHEAD: RefCell<Ahead> = const { RefCell::new(Ahead { process: 0, ids: Vec::new() }) };
}

impl RandomId {
    /// A fresh random id.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        AHEAD.with_borrow_mut(|ahead| {
            let process = std::process::id();
            if ahead.process != process || ahead.ids.is_empty() {
                let mut bytes = [0_u8; 16 * IDS_AHEAD];
                aws_lc_rs::rand::fill(&mut bytes)?;
                ahead.process = process;
                ahead.ids = bytes.chunks_exact(16).filter_map(|id| id.try_into().ok()).collect();
            }
            ahead.ids.pop().map(Self).ok_or(aws_lc_rs::error::Unspecified)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_is_given_twice_in_whatever_thread() {
        let ids = || (0..IDS_AHEAD * 3).map(|_| RandomId::generate().ok()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(ids)).collect();
        let all: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect();
        assert_eq!(all.len(), IDS_AHEAD * 9);
        assert_eq!(all.iter().flatten().collect::<HashSet<_>>().len(), all.len());
    }
}
