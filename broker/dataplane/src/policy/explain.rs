//! A decision in words, for operators: which rules decided, in which set, and what they saw.
//!
//! Owns: its JSON. Does not own: the decision, which is made by the same code as for a call.

use serde_json::{Value, json};

use super::Policy;
use super::facts::Risk;
use super::question::Question;
use super::verdict::{Reason, Verdict};
use crate::clock;

/// The decision on `question` as JSON: `allowed`, `reason`, `detail`, `rules`, `would_deny`, `considered`, `question`,
/// `facts`.
pub fn explain(policy: &Policy, question: &Question) -> Value {
    let (verdict, slice) = policy.judge(question);
    let would_deny: Vec<Value> = verdict.would_deny.iter().map(|(reason, rules)| told(policy, reason, rules)).collect();
    let mut told = told(policy, &verdict.reason, &verdict.rules);
    told["allowed"] = verdict.allowed.into();
    told["would_deny"] = would_deny.into();
    told["considered"] = slice.as_ref().map_or(0, |slice| slice.considered).into();
    told["reads"] = slice.map(|slice| slice.reads.names().collect::<Vec<_>>()).unwrap_or_default().into();
    told["question"] = json!(question);
    told["facts"] = facts(policy, question);
    told
}

/// The names of the sets that a finding is about.
pub fn sets_of(policy: &Policy, reason: &Reason, rules: &[usize]) -> Vec<String> {
    let mut sets: Vec<String> = rules.iter().map(|place| policy.rules.rules[*place].set.to_string()).collect();
    if sets.is_empty() && *reason == Reason::Unpermitted {
        sets.push("documents".to_owned());
    }
    sets.sort();
    sets.dedup();
    sets
}

fn told(policy: &Policy, reason: &Reason, rules: &[usize]) -> Value {
    let described: Vec<Value> = rules.iter().map(|place| rule(policy, *place)).collect();
    json!({
        "reason": word(reason),
        "detail": policy.describe(reason, rules),
        "sets": sets_of(policy, reason, rules),
        "rules": described,
    })
}

fn rule(policy: &Policy, place: usize) -> Value {
    let rule = &policy.rules.rules[place];
    json!({
        "rule": rule.name,
        "set": *rule.set,
        "layer": rule.layer.as_str(),
        "effect": if rule.forbids() { "forbid" } else { "permit" },
        "observe": rule.observe,
        "guardrail": rule.rail,
        "text": rule.cedar.to_cedar(),
    })
}

fn word(reason: &Reason) -> &'static str {
    match reason {
        Reason::Permitted => "permitted",
        Reason::Forbidden => "forbidden",
        Reason::Unreadable => "unreadable",
        Reason::Unpermitted => "unpermitted",
        Reason::GuardRail(_) => "guard_rail",
        Reason::Failed(_) => "failed",
    }
}

/// What policies see beside the question itself.
fn facts(policy: &Policy, question: &Question) -> Value {
    let now_ms = question.at_ms.unwrap_or_else(clock::signed_ms);
    let entities = policy.facts.about(question).ok();
    let entities = entities.and_then(|(_, _, entities)| {
        let mut text = Vec::new();
        entities.write_to_json(&mut text).ok()?;
        serde_json::from_slice::<Value>(&text).ok()
    });
    let callee = question.resource.id();
    let labels = |list, id: &str| super::facts::label_of(list, id).map(ToOwned::to_owned);
    json!({
        "entities": entities,
        "at_ms": now_ms,
        "risk": policy.facts.risk(question).map(Risk::as_str),
        "evidence_age_s": policy.facts.evidence_age_s(question, now_ms.div_euclid(1000)),
        "caller_location": labels(&policy.facts.text.locations, &question.caller),
        "callee_location": labels(&policy.facts.text.locations, &callee),
        "caller_threat": labels(&policy.facts.text.threats, &question.caller),
        "callee_threat": labels(&policy.facts.text.threats, &callee),
    })
}

impl Policy {
    /// What sets that observe would have denied: each with its set.
    pub(super) fn would_deny(&self, verdict: &Verdict) -> Vec<(String, String)> {
        let found = verdict.would_deny.iter();
        found
            .flat_map(|(reason, rules)| {
                let why = self.describe(reason, rules);
                sets_of(self, reason, rules).into_iter().map(move |set| (set, why.clone()))
            })
            .collect()
    }
}
