//! Policies as Python sees them beside a running data plane: the schema, sets that are only looked at, explanations.
//!
//! Owns: the JSON of an explanation of a made decision. Does not own: what an explanation says (see `policy`).

use pyo3::prelude::*;
use serde_json::Value;

use crate::binding::error;
use crate::broker::Broker;
use crate::policy::{self, Policy, Question};

/// The published Cedar schema.
#[pyfunction]
pub fn policy_schema() -> &'static str {
    policy::SCHEMA
}

/// Policy sets and facts that decide nothing: for checks, tests and explanations.
#[pyclass(frozen)]
pub struct PolicySets(Policy);

#[pymethods]
impl PolicySets {
    #[new]
    fn new(py: Python<'_>, sets_json: &str, facts_json: &str) -> PyResult<Self> {
        let built = py.detach(|| Policy::build(sets_json, facts_json, None));
        built.map(Self).map_err(|mistakes| error("policy_invalid", mistakes.join("\n")))
    }

    /// How many policies there are.
    fn __len__(&self) -> usize {
        self.0.rules.rules.len()
    }

    fn explain(&self, py: Python<'_>, question_json: &str) -> PyResult<String> {
        let explained = py.detach(|| Ok(policy::explain(&self.0, &question(question_json)?).to_string()));
        explained.map_err(|why: String| error("question_invalid", why))
    }
}

/// The decision on a question by the policies in force, explained.
///
/// # Errors
/// The question is malformed, or no policies are in force.
pub fn explain(broker: &Broker, question_json: &str) -> Result<String, String> {
    let policy = broker.policy().ok_or("no policies are in force")?;
    Ok(policy::explain(&policy, &question(question_json)?).to_string())
}

/// What is remembered of a decision: what it was, and beside it what the policies in force now make of the same
/// question (`now`).
pub fn decision(broker: &Broker, id: &str) -> Option<String> {
    let made = broker.decisions.find(id)?;
    let now = broker.policy().map(|policy| policy::explain(&policy, &made.open.question));
    let would_deny = made.decision.would_deny.iter().map(|(set, why)| format!("{set}: {why}"));
    let told = serde_json::json!({
        "decision": made.id,
        "at_ms": made.at_ms,
        "allowed": made.decision.allowed,
        "policy": made.decision.policies,
        "detail": made.decision.detail,
        "would_deny": would_deny.collect::<Vec<_>>(),
        "question": made.open.question,
        "now": now.unwrap_or(Value::Null),
    });
    Some(told.to_string())
}

fn question(json: &str) -> Result<Question, String> {
    serde_json::from_str(json).map_err(|error| format!("the question: {error}"))
}
