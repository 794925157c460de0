//! A chain that this node accepted before, proven again by the process that goes on.
//!
//! Nothing is taken on trust but that it was accepted: every statement is verified at its own time, as the auditor
//! would, and authority and user are made from the statements again.

use std::sync::Arc;

use super::authenticate::{fold, reverify};
use super::{Policy, Receiver};
use crate::behalf::{Presented, verify_behalf};
use crate::cert::Certificate;
use crate::chain::Chain;
use crate::error::{Code, Rejection, Result, malformed};
use crate::ids::SpiffeId;
use crate::trust::Bundles;

/// A chain as it was kept.
#[derive(Clone, Copy, Debug)]
pub struct KeptChain<'a> {
    /// Sealed texts, the root first.
    pub sealed: &'a [String],
    /// Leaves and intermediates.
    pub certificates: &'a [Arc<Certificate>],
    /// The user's token, in the header field of its type.
    pub presented: &'a Presented,
}

impl Receiver {
    /// The chain in `kept`, which was accepted for `own_id`.
    ///
    /// # Errors
    /// The code of the first check that fails.
    pub fn restore_chain(
        &self,
        kept: KeptChain<'_>,
        (own_id, now): (&SpiffeId, i64),
        bundles: &Bundles,
        policy: &Policy,
    ) -> Result<Chain> {
        let prove = |sealed: &String| reverify(&self.caches, sealed, kept.certificates, bundles);
        let mut statements = kept.sealed.iter().map(prove).collect::<Result<Vec<_>>>()?;
        let linked = statements.windows(2).all(|pair| match pair {
            [before, after] => {
                after.record().prev == Some(before.hash()) && before.record().aud == after.record().iss.as_str()
            }
            _ => false,
        });
        let newest = statements.pop().ok_or_else(|| malformed("a chain without records"))?;
        let root = Arc::clone(statements.first().unwrap_or(&newest));
        let begins = root.record().hop == 0 && root.record().prev.is_none();
        if !linked || !begins || newest.record().aud != own_id.as_str() {
            return Err(Rejection::new(Code::Chain, "the records are no chain that was handed to this component"));
        }
        let (Some(task), Some(ceiling)) = (root.record().task.clone(), root.record().auth.clone()) else {
            return Err(malformed("the root has no task or authority"));
        };
        let peer = newest.record().iss.as_str();
        let behalf = verify_behalf(&root, &ceiling, kept.presented, &policy.issuers, own_id, (peer, now))?;
        let atts = statements.iter().chain([&newest]).map(|statement| statement.record().att.as_ref());
        let authority = fold(&ceiling, atts)?;
        for statement in statements.iter().chain([&newest]) {
            self.caches.remember_statement(statement, statement.record().iss.as_str());
        }
        Ok(Chain::new(statements, newest, task, authority, behalf))
    }
}
