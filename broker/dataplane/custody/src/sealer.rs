//! Sealing statements in batches with one SVID's key (custody-wire §4.2).
//!
//! Owns: the tree and the signature. Does not own: when a batch is made, nor the log.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::cert::Certificate;
use crate::compose::Payload;
use crate::hash::{StatementHash, Thumbprint, encode_base64url, sha256};
use crate::limits::MAX_SEALED_STATEMENTS;
use crate::merkle::{Node, build};
use crate::seal::{SealHash, path_text, seal_body, seal_header};

/// Seconds before a leaf's end in which nothing more is sealed, unless its life is short.
const LEAF_MARGIN_S: i64 = 30;
/// Part of a leaf's life in which nothing more is sealed, if that is shorter: one over it.
const LEAF_MARGIN_PART: i64 = 6;

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The key is not PKCS#8 of a P-256 key.
    Key,
    /// The leaf is not an X509-SVID leaf, or not the key's.
    Leaf,
    /// Not 1 to 32 statements.
    Count,
    /// The signature could not be made.
    Signature,
}

impl fmt::Display for SealError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Key => "the key is not PKCS#8 of a P-256 key",
            Self::Leaf => "the leaf is not an X509-SVID of the key",
            Self::Count => "a seal covers 1 to 32 statements",
            Self::Signature => "the signature could not be made",
        })
    }
}

impl std::error::Error for SealError {}

/// A statement as it is logged and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedStatement {
    /// `payload.path.seal`.
    pub text: String,
    pub hash: StatementHash,
    pub seal_hash: SealHash,
}

/// One leaf and its key.
pub struct Sealer {
    key: EcdsaKeyPair,
    leaf: Arc<Certificate>,
    random: SystemRandom,
}

impl Sealer {
    /// The sealer of `leaf` with its PKCS#8 DER key.
    ///
    /// # Errors
    /// `Key` or `Leaf`.
    pub fn new(key_pkcs8: &[u8], leaf: Arc<Certificate>) -> Result<Self, SealError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key_pkcs8).map_err(|_| SealError::Key)?;
        if leaf.identity().is_err() || leaf.public_key() != Some(key.public_key().as_ref()) {
            return Err(SealError::Leaf);
        }
        Ok(Self { key, leaf, random: SystemRandom::new() })
    }

    #[must_use]
    pub fn leaf(&self) -> &Arc<Certificate> {
        &self.leaf
    }

    #[must_use]
    pub fn x5t(&self) -> Thumbprint {
        self.leaf.thumbprint()
    }

    /// True while the leaf has begun and does not end within 30 s, or a sixth of its life if that is shorter.
    #[must_use]
    pub fn may_seal_at(&self, now: i64) -> bool {
        let life = self.leaf.not_after() - self.leaf.not_before();
        let margin = LEAF_MARGIN_S.min(life / LEAF_MARGIN_PART);
        self.leaf.not_before() <= now && now < self.leaf.not_after() - margin
    }

    /// The statements with one seal over all, in the order given.
    ///
    /// # Errors
    /// `Count`, `Signature`.
    pub fn seal(&self, payloads: &[Payload]) -> Result<Vec<SealedStatement>, SealError> {
        if payloads.is_empty() || payloads.len() > MAX_SEALED_STATEMENTS {
            return Err(SealError::Count);
        }
        let x5t = self.x5t();
        let hashes: Vec<StatementHash> = payloads.iter().map(|payload| payload.statement_hash(&x5t)).collect();
        let (root, paths) = build(&hashes).ok_or(SealError::Count)?;
        let seal = self.sign(u32::try_from(hashes.len()).map_err(|_| SealError::Count)?, &root)?;
        let seal_hash = sha256(seal.as_bytes());
        let statements = payloads.iter().zip(&hashes).zip(&paths).zip(0_u8..);
        Ok(statements
            .map(|(((payload, hash), path), index)| SealedStatement {
                text: format!("{}.{}.{seal}", payload.text(), path_text(index, path)),
                hash: *hash,
                seal_hash,
            })
            .collect())
    }

    fn sign(&self, count: u32, root: &Node) -> Result<String, SealError> {
        let header = encode_base64url(seal_header(&self.x5t()).as_bytes());
        let body = encode_base64url(seal_body(count, root).as_bytes());
        let input = format!("{header}.{body}");
        let signature = self.key.sign(&self.random, input.as_bytes()).map_err(|_| SealError::Signature)?;
        Ok(format!("{input}.{}", encode_base64url(signature.as_ref())))
    }
}
