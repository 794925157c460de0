//! The policies in force, and what a change of them means for calls that are open.
//!
//! Owns: replacing them as one value. Does not own: what they say (see `policy`), ending calls (see `judge`).

use std::sync::{Arc, PoisonError};

use crate::broker::Broker;
use crate::judge::judge_again;
use crate::policy::{Facts, Policy};

impl Broker {
    /// Takes a new policy set.
    ///
    /// # Errors
    /// It does not parse; the set in force stays.
    pub fn set_policies(&self, cedar_text: &str, entities_json: &str) -> Result<(), String> {
        self.use_policy(Policy::parse(cedar_text, entities_json)?);
        Ok(())
    }

    /// Takes all policy sets and the facts beside them, as one; what `sets` has unchanged is not parsed again.
    ///
    /// # Errors
    /// Every mistake in them; those in force stay.
    pub fn set_policy_sets(&self, sets_json: &str, facts_json: &str) -> Result<(), Vec<String>> {
        let before = self.policy();
        let policy = Policy::build(sets_json, facts_json, before.as_deref().map(|policy| &*policy.rules))?;
        self.use_policy(policy);
        Ok(())
    }

    /// Takes other facts for the policies in force.
    ///
    /// # Errors
    /// What is wrong with them, or that there are no policies yet; those in force stay.
    pub fn set_policy_facts(&self, facts_json: &str) -> Result<(), String> {
        let before = self.policy().ok_or("no policies are in force")?;
        self.use_policy(before.with_facts(Facts::parse(facts_json)?));
        Ok(())
    }

    /// Puts `policy` in force for calls to come and for those that are open.
    fn use_policy(&self, policy: Policy) {
        let policy = Arc::new(policy);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&policy));
        judge_again(self, &policy, false);
    }

    /// Ends open calls that time alone made forbidden.
    pub fn judge_changing(&self) {
        if let Some(policy) = self.policy() {
            judge_again(self, &policy, true);
        }
    }

    /// The policies in force; None means that every call is denied.
    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
