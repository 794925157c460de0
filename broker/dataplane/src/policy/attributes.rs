//! What the context of a call can hold, and which of it a policy reads.
//!
//! Owns: the names, and finding out from a policy's syntax tree which it reads. Only what some policy reads is ever
//! computed, and only decisions that rest on what identifies the request are remembered. Does not own: the values
//! (see `context`).

use serde_json::Value;

/// Every name in the context, in the schema's order.
pub const NAMES: [&str; 34] = [
    "caller",
    "callee",
    "caller_documented",
    "side",
    "protocol",
    "http",
    "operation",
    "method",
    "path",
    "mcp_session",
    "hop",
    "recorded",
    "user",
    "user_issuer",
    "user_verified",
    "on_behalf_of",
    "target",
    "risk",
    "risk_level",
    "caller_location",
    "callee_location",
    "caller_threat",
    "callee_threat",
    // From here on decisions are not remembered.
    "args_hash",
    "a2a_context",
    "chain",
    "task",
    "approvals",
    "approved_by",
    // From here on the answer may change while a call is open and nobody tells.
    "time",
    "hour",
    "weekday",
    "evidence_age_s",
    "",
];
const FIRST_FLEETING: usize = 23;
const FIRST_CHANGING: usize = 29;
/// Stands for a name that the schema does not have.
const UNKNOWN: usize = NAMES.len() - 1;

/// What nobody knows of a body that cannot be read.
const OF_BODY: [&str; 6] = ["operation", "target", "args_hash", "a2a_context", "risk", "risk_level"];

/// A set of context attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads(u64);

impl Reads {
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// What a policy reads, given in Cedar's JSON form.
    pub fn of(policy: &Value) -> Self {
        let mut reads = Self::default();
        reads.walk(&policy["conditions"]);
        reads
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES[..UNKNOWN].iter().enumerate().filter(move |(index, _)| self.has(*index)).map(|(_, name)| *name)
    }

    /// Whether the answer rests on what stands in a request's body.
    pub fn needs_body(self) -> bool {
        OF_BODY.iter().any(|name| NAMES.iter().position(|known| known == name).is_some_and(|index| self.has(index)))
    }

    /// Whether the answer rests on the protocol, which a body that cannot be read may hide.
    pub fn has_protocol(self) -> bool {
        NAMES.iter().position(|name| *name == "protocol").is_some_and(|index| self.has(index))
    }

    /// Whether a decision is the same whenever the same request comes again.
    pub fn is_lasting(self) -> bool {
        self.0 >> FIRST_FLEETING == 0
    }

    /// Whether the answer can change with time alone.
    pub fn is_changing(self) -> bool {
        self.0 >> FIRST_CHANGING != 0
    }

    fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    fn add(&mut self, name: &Value) {
        let index = NAMES.iter().position(|known| name.as_str() == Some(known)).unwrap_or(UNKNOWN);
        self.0 |= 1 << index;
    }

    fn walk(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                for (key, inner) in members {
                    match key.as_str() {
                        "." | "has" if is_context(&inner["left"]) => self.add(&inner["attr"]),
                        // The whole context: compared, or handed to an operator.
                        "Var" if inner == "context" => *self = Self::ALL,
                        _ => self.walk(inner),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            _ => {}
        }
    }
}

fn is_context(value: &Value) -> bool {
    value["Var"] == "context"
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::Policy;

    fn reads(condition: &str) -> Reads {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        Reads::of(&Policy::parse(None, text).unwrap().to_json().unwrap())
    }

    fn names(condition: &str) -> Vec<&'static str> {
        reads(condition).names().collect()
    }

    #[test]
    fn a_policy_reads_what_it_names() {
        assert_eq!(names("context.hop < 3 && context.path like \"/a*\""), ["path", "hop"]);
        assert_eq!(names("context has task && context.task == \"x\""), ["task"]);
        assert_eq!(names("if context.recorded then true else context[\"side\"] == \"x\""), ["side", "recorded"]);
        assert_eq!(names("context.on_behalf_of.subject == \"a\""), ["on_behalf_of"]);
        assert_eq!(names("principal.role == \"connector\""), Vec::<&str>::new());
    }

    #[test]
    fn whoever_takes_the_context_whole_reads_all_of_it() {
        assert_eq!(reads("context == {}"), Reads::ALL);
        assert_eq!(reads("[context].contains({a: 1})"), Reads::ALL);
    }

    #[test]
    fn what_the_schema_does_not_have_is_never_remembered() {
        assert!(!reads("context.absent == 1").is_lasting());
        assert!(reads("context.absent == 1").is_changing());
    }

    #[test]
    fn only_decisions_on_what_identifies_the_request_last() {
        assert!(reads("context.http == \"GET /\" && context has risk").is_lasting());
        for name in ["args_hash", "a2a_context", "chain", "task", "approvals", "approved_by"] {
            assert!(!reads(&format!("context has {name}")).is_lasting(), "{name}");
            assert!(!reads(&format!("context has {name}")).is_changing(), "{name}");
        }
        for name in ["time", "hour", "weekday", "evidence_age_s"] {
            assert!(!reads(&format!("context has {name}")).is_lasting(), "{name}");
            assert!(reads(&format!("context has {name}")).is_changing(), "{name}");
        }
    }

    #[test]
    fn the_names_are_those_of_the_schema() {
        let schema = super::super::rules::SCHEMA;
        let start = schema.find("context: {").unwrap();
        let declared: std::collections::BTreeSet<&str> = schema[start..]
            .lines()
            .skip(1)
            .map_while(|line| (!line.trim().starts_with('}')).then_some(line.trim()))
            .filter(|line| !line.starts_with("//"))
            .filter_map(|line| line.split([':', '?']).next())
            .collect();
        assert_eq!(declared, NAMES[..UNKNOWN].iter().copied().collect());
    }
}
