//! Custody records: codec, sealer and verifier of custody-wire version 1.
//!
//! Owns: the wire format between brokers. Does not own: sockets, TLS, clocks, policy, the log.
//! Every function is pure computation; time and randomness arrive as arguments.
#![forbid(unsafe_code)]

pub mod acknowledged;
pub mod authority;
pub mod behalf;
pub mod binding;
mod bounded;
pub mod cache;
pub mod cert;
pub mod chain;
mod claims;
pub mod closing;
pub mod compose;
pub mod error;
pub mod evidence;
pub mod fields;
pub mod forward;
pub mod frames;
pub mod hash;
pub mod ids;
pub mod interop;
pub mod jcs;
pub mod json;
pub mod jwks;
pub mod kept;
pub mod limits;
pub mod merkle;
pub mod messages;
pub mod observation;
pub mod outcome;
pub mod receipt;
pub mod receive;
pub mod record;
pub mod replay;
pub mod seal;
pub mod sealer;
pub mod segment;
pub mod statement;
mod tokenjson;
pub mod trust;
pub mod usertoken;
