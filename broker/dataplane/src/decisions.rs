//! Ids of decisions, what was decided lately, and how often what.
//!
//! Owns: ids that are unique beyond a restart, a bounded memory of questions for `hopseal policy explain`, counters.
//! Does not own: deciding.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hopseal_custody::hash::RandomId;
use serde_json::{Value, json};

use crate::open_calls::Open;
use crate::policy::Decision;
use crate::stats::metric;

/// Decisions that are remembered: denials do not push out what was allowed, nor the other way round.
const MAX_REMEMBERED: usize = 1024;
/// Questions that are longer are not: whoever asks them could fill the memory. The log has them.
const MAX_QUESTION_BYTES: usize = 16 << 10;

/// One decision that was made.
#[derive(Clone)]
pub struct Made {
    pub id: String,
    pub at_ms: i64,
    pub open: Arc<Open>,
    pub decision: Arc<Decision>,
}

/// Decisions of this process.
pub struct Decisions {
    prefix: String,
    next: AtomicU64,
    allowed: Mutex<VecDeque<Made>>,
    denied: Mutex<VecDeque<Made>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    would_deny: Mutex<BTreeMap<String, u64>>,
}

impl Default for Decisions {
    fn default() -> Self {
        // Unique enough without it: the number goes on counting.
        let prefix = RandomId::generate().map_or_else(|_| "-".to_owned(), |id| id.to_string());
        Self {
            prefix: prefix.chars().take(10).collect(),
            next: AtomicU64::new(1),
            allowed: Mutex::default(),
            denied: Mutex::default(),
            counts: Mutex::default(),
            would_deny: Mutex::default(),
        }
    }
}

impl Decisions {
    pub fn new_id(&self) -> String {
        format!("{}.{:x}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts and remembers a decision on a new call, or that one which was allowed is `revoked`.
    pub fn note(&self, made: Made, revoked: bool) {
        let outcome = match (&*made.decision, revoked) {
            (_, true) => "revoked",
            (Decision { allowed: false, .. }, _) => "deny",
            (Decision { would_deny, .. }, _) if !would_deny.is_empty() => "would_deny",
            _ => "allow",
        };
        *lock(&self.counts).entry(outcome).or_default() += 1;
        for (set, _) in made.decision.would_deny.iter().filter(|_| !revoked) {
            *lock(&self.would_deny).entry(set.clone()).or_default() += 1;
        }
        if made.open.question.size_bytes() > MAX_QUESTION_BYTES {
            return;
        }
        let mut remembered = lock(if outcome == "allow" { &self.allowed } else { &self.denied });
        if remembered.len() >= MAX_REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(made);
    }

    /// The decision of that id, while it is remembered.
    pub fn find(&self, id: &str) -> Option<Made> {
        let newest_of = |list: &Mutex<VecDeque<Made>>| lock(list).iter().rev().find(|made| made.id == id).cloned();
        newest_of(&self.denied).or_else(|| newest_of(&self.allowed))
    }

    /// Metric families as [`crate::stats::Stats::metrics`] has them.
    pub fn metrics(&self) -> Vec<Value> {
        let outcomes: Vec<Value> = ["allow", "deny", "would_deny", "revoked"]
            .into_iter()
            .map(|outcome| sample("outcome", outcome, lock(&self.counts).get(outcome).copied().unwrap_or_default()))
            .collect();
        let sets: Vec<Value> = lock(&self.would_deny).iter().map(|(set, count)| sample("set", set, *count)).collect();
        vec![
            metric(
                "policy_decisions",
                "counter",
                "Policy decisions by outcome; revoked ones ended an open call.",
                outcomes,
            ),
            metric("policy_would_deny", "counter", "Calls that an observed set would have denied.", sets),
        ]
    }
}

fn sample(label: &str, value: &str, count: u64) -> Value {
    json!({"labels": {label: value}, "value": count})
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_calls::OpenCalls;
    use serde_json::json;

    fn made(decisions: &Decisions, allowed: bool, path: &str) -> Made {
        let question = serde_json::from_value(json!({
            "caller": "spiffe://td/a", "resource": {"component": "spiffe://td/b"}, "side": "callee",
            "protocol": "http", "http": "", "operation": "", "method": "GET", "path": path,
        }));
        let open = Arc::clone(&Arc::<OpenCalls>::default().enter(question.unwrap()).open);
        let decision = Decision { allowed, ..Decision::default() };
        Made { id: decisions.new_id(), at_ms: 0, open, decision: Arc::new(decision) }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_denials_stay_beside_a_flood_of_calls() {
        let decisions = Decisions::default();
        let denied = made(&decisions, false, "/");
        decisions.note(denied.clone(), false);
        let first = made(&decisions, true, "/");
        decisions.note(first.clone(), false);
        for _ in 0..MAX_REMEMBERED {
            decisions.note(made(&decisions, true, "/"), false);
        }
        assert!(decisions.find(&denied.id).is_some());
        assert!(decisions.find(&first.id).is_none());
        assert_eq!(lock(&decisions.allowed).len(), MAX_REMEMBERED);
        let long = made(&decisions, false, &"x".repeat(MAX_QUESTION_BYTES));
        decisions.note(long.clone(), false);
        assert!(decisions.find(&long.id).is_none());
        assert_eq!(lock(&decisions.counts).get("deny"), Some(&2), "it is counted all the same");
    }
}
