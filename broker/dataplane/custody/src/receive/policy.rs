//! What a receiver is configured to allow.

use std::sync::Arc;

use crate::authority::AudiencePattern;
use crate::ids::SpiffeId;
use crate::limits::{DEFAULT_AUTHORITY_S, DEFAULT_HOPS, MAX_AUTHORITY_S, MAX_HOPS};
use crate::usertoken::Issuers;

/// What a receiver allows; one immutable value for each configuration.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Who may start a chain on nobody's behalf; empty allows none.
    pub autonomous_roots: Vec<AudiencePattern>,
    /// Nobody of these may have taken part.
    pub forbidden_on_path: Vec<SpiffeId>,
    /// Records in one chain, at most 16.
    pub hops: usize,
    /// Seconds between a root's `iat` and its authority's `exp`, at most 86,400.
    pub authority_s: i64,
    /// Who issues user tokens, with their keys.
    pub issuers: Arc<Issuers>,
    /// Roots of other trust domains that may assert a user whose issuer is not among `issuers`; empty allows none.
    pub unverified_users: Vec<AudiencePattern>,
    /// Who may begin a chain that seals a boundary and hides the one it continues; empty allows none.
    pub sealing_gateways: Vec<AudiencePattern>,
    /// Accept requests whose body the record does not bind; a closing statement must end them (§7.3).
    pub accept_streams: bool,
    /// Accept requests without visible TLS peer.
    pub unsafe_allow_no_peer: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            autonomous_roots: Vec::new(),
            forbidden_on_path: Vec::new(),
            hops: DEFAULT_HOPS,
            authority_s: DEFAULT_AUTHORITY_S,
            issuers: Arc::default(),
            unverified_users: Vec::new(),
            sealing_gateways: Vec::new(),
            accept_streams: false,
            unsafe_allow_no_peer: false,
        }
    }
}

impl Policy {
    pub(super) fn hops(&self) -> usize {
        self.hops.min(MAX_HOPS)
    }

    pub(super) fn authority_s(&self) -> i64 {
        self.authority_s.min(MAX_AUTHORITY_S)
    }
}
