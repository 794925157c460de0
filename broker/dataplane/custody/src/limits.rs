//! Sizes and counts of custody-wire §12, each with its unit.
//!
//! Owns: the numbers. Does not own: the checks, which stand where the bytes are read.

/// Hops accepted unless configured otherwise: the highest number of records in one chain.
pub const DEFAULT_HOPS: usize = 8;
/// The most hops that any configuration may allow.
pub const MAX_HOPS: usize = 16;
/// Bytes of one sealed record (its ASCII text).
pub const MAX_SEALED_BYTES: usize = 4_096;
/// Statements that our sealers put under one seal.
pub const MAX_SEALED_STATEMENTS: usize = 32;
/// Statements under one seal that a receiver accepts.
pub const MAX_SEAL_LEAVES: u32 = 256;
/// Bytes of the `Custody-Chain` value.
pub const MAX_CHAIN_BYTES: usize = 12_288;
/// Bytes of the `Custody-Certs` value.
pub const MAX_CERTS_BYTES: usize = 8_192;
/// Certificates in one `Custody-Certs` value.
pub const MAX_CERTS: usize = 10;
/// Bytes of one DER certificate.
pub const MAX_CERT_DER_BYTES: usize = 2_048;
/// Bytes of all Custody fields of one request: names and values.
pub const MAX_FIELDS_BYTES: usize = 20_480;
/// Bytes of a SPIFFE ID (the SPIFFE-ID document allows 2,048).
pub const MAX_SPIFFE_ID_BYTES: usize = 256;
/// Bytes of a trust domain name (SPIFFE-ID §2.1).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Bytes of the informative `op` claim.
pub const MAX_OP_BYTES: usize = 128;
/// Bytes of `task.pc`.
pub const MAX_PURPOSE_BYTES: usize = 64;
/// Entries of the `in` claim.
pub const MAX_INPUTS: usize = 8;
/// Entries of `kids` that are listed; more are a tree.
pub const MAX_KIDS: usize = 8;
/// Bytes of a receipt's `dec`.
pub const MAX_DECISION_BYTES: usize = 128;
/// Bytes of a log's origin.
pub const MAX_ORIGIN_BYTES: usize = 256;
/// Bytes of a log's verifier key.
pub const MAX_VKEY_BYTES: usize = 2_048;
/// Entries of the `apv` claim.
pub const MAX_APPROVALS: usize = 4;
/// Levels of nesting in a payload; the top object is the first.
pub const MAX_JSON_DEPTH: usize = 4;
/// Integers in a payload lie within ±(2^53 − 1), so that every JSON reader sees the same one.
pub const MAX_INTEGER: i64 = 9_007_199_254_740_991;
/// Seconds between `iat` and `exp` of a record, at most.
pub const MAX_LIFETIME_S: i64 = 60;
/// Seconds between `iat` and `exp` of the records that we make.
pub const DEFAULT_LIFETIME_S: i64 = 30;
/// Seconds by which two honest clocks may differ (SPIRE's own cushion is the same).
pub const MAX_SKEW_S: i64 = 10;
/// Seconds after which a chain must be resumed by its root.
pub const MAX_CHAIN_AGE_S: i64 = 900;
/// Seconds between a root's `iat` and its authority's `exp`, unless configured otherwise.
pub const DEFAULT_AUTHORITY_S: i64 = 3_600;
/// Seconds between a root's `iat` and its authority's `exp` that any configuration may allow.
pub const MAX_AUTHORITY_S: i64 = 86_400;
/// Bytes of one user token.
pub const MAX_TOKEN_BYTES: usize = 8_192;
/// Levels of nesting in a token's header or claims; the top object is the first.
pub const MAX_TOKEN_JSON_DEPTH: usize = 16;
/// Bytes of a token's `iss`, `sub`, `txn` and workload: they go into records.
pub const MAX_TOKEN_TEXT_BYTES: usize = 256;
/// Entries of a token's `aud`.
pub const MAX_TOKEN_AUDIENCES: usize = 16;
/// Keys of one issuer.
pub const MAX_ISSUER_KEYS: usize = 64;
/// Bytes of a key's name.
pub const MAX_KEY_ID_BYTES: usize = 256;
/// Verified user tokens that are remembered.
pub const TOKEN_CACHE_ENTRIES: usize = 4_096;
/// Entries of the certificate cache.
pub const CERT_CACHE_ENTRIES: usize = 4_096;
/// Entries of the prefix cache.
pub const PREFIX_CACHE_ENTRIES: usize = 8_192;
/// Entries of the verified-seal cache.
pub const SEAL_CACHE_ENTRIES: usize = 65_536;
/// Chains whose root issuer is remembered.
pub const CHAIN_ENTRIES: usize = 65_536;
/// One peer may fill this part of a cache or of the replay store: one over it.
pub const PEER_SHARE: usize = 4;
/// Entries of the certificate cache that may stand between leaf and bundle, kept apart to be found by name.
pub const AUTHORITY_CACHE_ENTRIES: usize = 256;
/// Authorities tried for one path.
pub const MAX_PATH_CANDIDATES: usize = 8;
/// Elements that peers are remembered to hold.
pub const ACKNOWLEDGED_ENTRIES: usize = 32_768;
/// Elements that one peer is remembered to hold: no more than its prefix cache keeps of one caller.
pub const ACKNOWLEDGED_PER_PEER: usize = PREFIX_CACHE_ENTRIES / PEER_SHARE;
/// Peers that are remembered to have lacked what they acknowledged.
pub const FORGETFUL_ENTRIES: usize = 1_024;
/// Seconds in which such a peer is sent everything.
pub const FORGETFUL_S: i64 = 60;
/// Levels of nesting of JSON that has a canonical form; the outermost container is the first.
pub const MAX_CANONICAL_DEPTH: usize = 64;
