//! Calls whose operation nobody could read, and the rules that would have to read it.
//!
//! Owns: which rules those are, and that such a call is refused where one of them forbids or restricts. Without this a
//! body that is compressed, streams or has two readings would pass every rule about tools. A rule that asks for the
//! protocol alone is asked what it would say of each that such a body may be of. Does not own: reading bodies (see
//! `operation`).

use std::sync::Arc;

use super::rules::{Layer, Rule, Rules};
use super::verdict::{Reason, Verdict};

/// What a body that nobody can read may be to the component.
pub const READINGS: [&str; 3] = ["http", "mcp", "a2a"];

/// Rules of one slice whose answer rests on what stands in the body; by their places.
#[derive(Default)]
pub struct BodyRules {
    /// Enforced forbids and guard rails.
    restricting: Vec<usize>,
    /// Enforced permits of other layers.
    permitting: Vec<usize>,
    /// What observed sets have of the former.
    observed: Vec<usize>,
}

impl BodyRules {
    pub fn of(rules: &Rules, places: &[usize]) -> Self {
        let mut found = Self::default();
        for place in places {
            let rule = &rules.rules[*place];
            if !rule.reads().needs_body() {
                continue;
            }
            match (restricts(rule), rule.observe) {
                (true, false) => found.restricting.push(*place),
                (true, true) => found.observed.push(*place),
                (false, false) => found.permitting.push(*place),
                (false, true) => {}
            }
        }
        found
    }

    /// `verdict` on a call whose operation is not known.
    pub fn applied_to(&self, verdict: &Verdict) -> Verdict {
        let mut verdict = verdict.clone();
        if verdict.allowed && !self.restricting.is_empty() {
            verdict = Verdict {
                allowed: false,
                reason: Reason::Unreadable,
                rules: self.restricting.clone(),
                would_deny: Vec::new(),
            };
        } else if verdict.reason == Reason::Unpermitted && !verdict.allowed && !self.permitting.is_empty() {
            (verdict.reason, verdict.rules) = (Reason::Unreadable, self.permitting.clone());
        } else if verdict.allowed && !self.observed.is_empty() {
            verdict.would_deny.push((Reason::Unreadable, self.observed.clone()));
        }
        verdict
    }
}

/// `verdict` on an unreadable call, given what the rules say of each thing that it may be: whatever restricts one of them
/// restricts it.
pub fn restricted_by(mut verdict: Verdict, readings: impl Iterator<Item = Arc<Verdict>>) -> Verdict {
    for reading in readings {
        if !verdict.allowed {
            break;
        }
        let restricts = matches!(reading.reason, Reason::Forbidden | Reason::GuardRail(_) | Reason::Failed(_));
        if restricts && !reading.allowed {
            let rules = reading.rules.clone();
            verdict = Verdict { allowed: false, reason: Reason::Unreadable, rules, would_deny: Vec::new() };
        } else {
            for (reason, rules) in &reading.would_deny {
                let is_told = verdict.would_deny.iter().any(|(_, known)| known == rules);
                if *reason != Reason::Unpermitted && !is_told {
                    verdict.would_deny.push((Reason::Unreadable, rules.clone()));
                }
            }
        }
    }
    verdict
}

fn restricts(rule: &Rule) -> bool {
    rule.forbids() || rule.layer == Layer::Admin
}
