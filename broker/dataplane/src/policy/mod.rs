//! Cedar decisions: may this component call that one, or that service, with this operation?
//!
//! Owns: one immutable value of policies and facts at a time, and its answers. Does not own: the policies, which the
//! control process compiles from documents and files. Deny by default; what cannot be evaluated is denied.
//!
//! Source: docs/policy.md.

mod attributes;
mod context;
mod explain;
mod facts;
mod index;
mod question;
mod rules;
mod slice;
mod unread;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cedar_policy::Authorizer;

pub use explain::explain;
pub use facts::{Facts, FactsText};
pub use question::{OnBehalf, Question, Resource, Side};
pub use rules::{Rules, SCHEMA, SetText};
pub use verdict::{Reason, Verdict};

use crate::clock;
use index::Index;
use slice::{Slice, Slices};

/// A decision that took longer is a refusal: whoever can make one slow must not gain by it.
const TOO_LONG: Duration = Duration::from_millis(500);

/// The answer, with the names of the policies that made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Rules that decided (their `@id`, else set and place).
    pub policies: Vec<String>,
    /// Why it is denied, for the operator only; empty if it is allowed.
    pub detail: String,
    /// Sets that only observe and would have denied it, each with why.
    pub would_deny: Vec<(String, String)>,
    /// Whether it is denied because rules would have to read a body that nobody can.
    pub is_unreadable: bool,
}

/// Policies and facts, parsed once.
pub struct Policy {
    pub rules: Arc<Rules>,
    pub facts: Arc<Facts>,
    index: Arc<Index>,
    slices: Slices,
    authorizer: Authorizer,
}

impl Policy {
    pub fn new(rules: Rules, facts: Facts) -> Self {
        let index = Arc::new(Index::of(&rules.rules));
        let (rules, facts) = (Arc::new(rules), Arc::new(facts));
        Self { rules, facts, index, slices: Slices::default(), authorizer: Authorizer::new() }
    }

    /// Policies and facts as the control process gives them, validated against the schema; what `before` has of the
    /// same text is taken over.
    ///
    /// # Errors
    /// Every mistake.
    pub fn build(sets_json: &str, facts_json: &str, before: Option<&Rules>) -> Result<Self, Vec<String>> {
        let sets: Vec<SetText> = serde_json::from_str(sets_json).map_err(|error| vec![error.to_string()])?;
        let facts = Facts::parse(facts_json);
        match (Rules::build(sets, before), facts) {
            (Ok(rules), Ok(facts)) => Ok(Self::new(rules, facts)),
            (Err(mistakes), Ok(_)) => Err(mistakes),
            (rules, Err(mistake)) => Err(rules.err().into_iter().flatten().chain([mistake]).collect()),
        }
    }

    /// The same policies with other facts.
    pub fn with_facts(&self, facts: Facts) -> Self {
        Self {
            rules: Arc::clone(&self.rules),
            index: Arc::clone(&self.index),
            facts: Arc::new(facts),
            slices: Slices::default(),
            authorizer: Authorizer::new(),
        }
    }

    /// One set of policies that is not validated, and entities in Cedar's JSON form.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(cedar_text: &str, entities_json: &str) -> Result<Self, String> {
        let entities = serde_json::from_str(entities_json).map_err(|error| format!("entities: {error}"))?;
        let facts = Facts::build(FactsText { entities, ..FactsText::default() }, None)?;
        let rules = Rules::unvalidated(cedar_text).map_err(|error| format!("policies: {error}"))?;
        Ok(Self::new(rules, facts))
    }

    /// Decides one question.
    pub fn decide(&self, question: &Question) -> Decision {
        self.decide_within(question, TOO_LONG)
    }

    fn decide_within(&self, question: &Question, limit: Duration) -> Decision {
        let started = Instant::now();
        let (verdict, _slice) = self.judge(question);
        let mut decision = self.tell(&verdict);
        if started.elapsed() > limit {
            decision.allowed = false;
            decision.detail = format!("the decision took longer than {} ms", limit.as_millis());
        }
        decision
    }

    /// Whether the answer to `question` can change with time alone.
    pub fn is_changing(&self, question: &Question) -> bool {
        let slice = self.slices.of(question, &self.rules, &self.index, &self.facts);
        slice.is_ok_and(|slice| slice.reads.is_changing())
    }

    fn judge(&self, question: &Question) -> (Arc<Verdict>, Option<Arc<Slice>>) {
        match self.slices.of(question, &self.rules, &self.index, &self.facts) {
            Ok(slice) => {
                let now_ms = question.at_ms.unwrap_or_else(clock::signed_ms);
                let verdict = slice.judge(&self.authorizer, question, &self.facts, now_ms);
                (verdict, Some(slice))
            }
            Err(why) => (Arc::new(Verdict::failed(why)), None),
        }
    }

    fn tell(&self, verdict: &Verdict) -> Decision {
        Decision {
            allowed: verdict.allowed,
            policies: self.names(&verdict.rules),
            detail: if verdict.allowed { String::new() } else { self.describe(&verdict.reason, &verdict.rules) },
            would_deny: self.would_deny(verdict),
            is_unreadable: verdict.reason == Reason::Unreadable,
        }
    }

    fn names(&self, places: &[usize]) -> Vec<String> {
        let mut names: Vec<String> = places.iter().map(|place| self.rules.rules[*place].name.clone()).collect();
        names.dedup();
        names
    }

    fn describe(&self, reason: &Reason, places: &[usize]) -> String {
        let named = |place: &usize| {
            let rule = &self.rules.rules[*place];
            format!("\"{}\" of {}", rule.name, rule.set)
        };
        let rules = places.iter().map(named).collect::<Vec<_>>().join(", ");
        match reason {
            Reason::Permitted => format!("permitted by {rules}"),
            Reason::Forbidden => format!("forbidden by {rules}"),
            Reason::Unreadable => format!("the operation cannot be read, and {rules} would have to"),
            Reason::Unpermitted => "no rule permits it".to_owned(),
            Reason::GuardRail(name) => format!("the guard rail \"{name}\" does not hold: none of {rules}"),
            Reason::Failed(why) => format!("cannot be decided: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
