//! Digest and length of a body while it streams.

use aws_lc_rs::digest::{Context, SHA256};
use hopseal_custody::hash::ClaimHash;

/// All body bytes so far.
#[derive(Clone)]
pub struct BodyDigest {
    context: Context,
    length: u64,
}

impl Default for BodyDigest {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), length: 0 }
    }
}

impl BodyDigest {
    /// A body that is whole already.
    pub fn of(bytes: &[u8]) -> Self {
        let mut digest = Self::default();
        digest.update(bytes);
        digest
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// SHA-256 and number of the bytes so far.
    pub fn finish(self) -> (ClaimHash, u64) {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.context.finish().as_ref());
        (ClaimHash(hash), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_digest_as_the_whole() {
        let mut digest = BodyDigest::of(b"ab");
        digest.update(b"");
        digest.update(b"c");
        assert_eq!(digest.finish(), (ClaimHash(hopseal_custody::hash::sha256(b"abc")), 3));
    }
}
