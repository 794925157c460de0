//! What a handle adds to every call made with it: less authority, and evidence of approvals.
//!
//! Owns: combining what several requests for narrower handles said, and when such a handle ends. Does not own: reading
//! those requests (see `requests`).
//!
//! Source: custody-wire §8.2 and §8.3.

use hopseal_custody::authority::{Authority, Narrowing};
use hopseal_custody::error::Rejection;
use hopseal_custody::limits::{MAX_APPROVALS, MAX_CHAIN_AGE_S};
use hopseal_custody::record::Approval;

use crate::broker::Continues;

/// Terms of one handle.
#[derive(Clone, Default)]
pub struct Terms {
    /// The `att` of every continuation.
    pub narrowing: Option<Narrowing>,
    /// The `apv` of every record.
    pub approvals: Vec<Approval>,
}

impl Terms {
    /// These terms with `limits` and `approvals` added; what both limit is limited as `limits` says.
    ///
    /// # Errors
    /// More approvals than a record may have.
    pub fn with(&self, limits: Narrowing, approvals: Vec<Approval>) -> Result<Self, &'static str> {
        let approvals = [self.approvals.clone(), approvals].concat();
        if approvals.len() > MAX_APPROVALS {
            return Err("a record has at most four approvals");
        }
        let old = self.narrowing.clone().unwrap_or_default();
        let narrowing = Narrowing {
            scope: limits.scope.or(old.scope),
            exp: limits.exp.or(old.exp),
            hops: limits.hops.or(old.hops),
            aud: limits.aud.or(old.aud),
            ops: limits.ops.or(old.ops),
        };
        Ok(Self { narrowing: (narrowing != Narrowing::default()).then_some(narrowing), approvals })
    }

    /// What `authority` leaves under these terms.
    ///
    /// # Errors
    /// `authority` if they widen it.
    pub fn apply(&self, authority: &Authority) -> Result<Authority, Rejection> {
        self.narrowing.as_ref().map_or_else(|| Ok(authority.clone()), |narrowing| authority.narrow(narrowing))
    }
}

/// What is left for calls that continue this.
///
/// # Errors
/// As [`Terms::apply`].
pub fn authority_left(continues: &Continues, terms: &Terms) -> Result<Authority, Rejection> {
    match continues {
        Continues::Call(chain) => terms.apply(chain.authority()),
        Continues::Task(root) => Ok(root.auth.clone()),
    }
}

/// When a handle for this ends: with its authority, and with the age of its chain.
pub fn expires_at(continues: &Continues, terms: &Terms) -> i64 {
    let end = match continues {
        Continues::Call(chain) => {
            let root_iat = chain.statements().next().map_or(0, |root| root.record().iat);
            chain.authority().exp.min(root_iat + MAX_CHAIN_AGE_S)
        }
        Continues::Task(root) => root.auth.exp,
    };
    terms.narrowing.as_ref().and_then(|narrowing| narrowing.exp).map_or(end, |exp| exp.min(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hopseal_custody::hash::ClaimHash;

    fn approval(id: &str) -> Approval {
        Approval { typ: "ticket".into(), id: id.into(), h: ClaimHash([0; 32]), by: "b".into(), at: 1 }
    }

    #[test]
    fn terms_add_up_and_the_newest_limit_counts() {
        let first = Terms::default()
            .with(Narrowing { hops: Some(3), exp: Some(100), ..Narrowing::default() }, vec![approval("a")])
            .unwrap();
        let second = first.with(Narrowing { hops: Some(2), ..Narrowing::default() }, vec![approval("b")]).unwrap();
        let narrowing = second.narrowing.clone().unwrap();
        assert_eq!((narrowing.hops, narrowing.exp, second.approvals.len()), (Some(2), Some(100), 2));
        assert!(second.with(Narrowing::default(), vec![approval("c"), approval("d"), approval("e")]).is_err());
    }

    #[test]
    fn terms_that_limit_nothing_leave_no_narrowing() {
        let terms = Terms::default().with(Narrowing::default(), vec![approval("a")]).unwrap();
        assert!(terms.narrowing.is_none());
    }
}
