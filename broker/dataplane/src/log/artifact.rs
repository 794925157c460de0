//! Evidence that the control process has and the log keeps: announcements of the log key, user tokens, revocations.
//!
//! Owns: which types may come that way, their bounds, and their lines. Does not own: what they say.

use std::fmt;

use serde_json::{Map, Value};

/// The only types of line that are appended as they come.
const TYPES: [&str; 3] = ["attest", "token", "revoke"];
/// Longest text: a chain of statements and a token's payload fit several times over.
const MAX_BYTES: usize = 64 << 10;

/// One JSON object without `n` and `at_ms`, which the writer adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    members: Map<String, Value>,
}

/// The text is no artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactError(pub &'static str);

impl fmt::Display for ArtifactError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl Artifact {
    /// The artifact in a JSON text.
    ///
    /// # Errors
    /// It is too long, no object, of another type, or names a member that the writer adds.
    pub fn parse(json: &str) -> Result<Self, ArtifactError> {
        if json.len() > MAX_BYTES {
            return Err(ArtifactError("the artifact is too long"));
        }
        let members: Map<String, Value> =
            serde_json::from_str(json).map_err(|_| ArtifactError("the artifact is no JSON object"))?;
        if !members.get("type").and_then(Value::as_str).is_some_and(|kind| TYPES.contains(&kind)) {
            return Err(ArtifactError("the artifact is of a type that is not appended"));
        }
        if members.contains_key("n") || members.contains_key("at_ms") {
            return Err(ArtifactError("number and time are the writer's"));
        }
        Ok(Self { members })
    }

    /// The JSON of its line.
    pub fn to_json(&self, n: u64, at_ms: u64) -> Vec<u8> {
        let mut members = Map::new();
        members.insert("n".into(), n.into());
        members.insert("at_ms".into(), at_ms.into());
        members.extend(self.members.clone());
        Value::Object(members).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_adds_number_and_time_and_nothing_can_break_the_line() {
        let artifact = Artifact::parse("{\"type\":\"token\",\n \"th\":\"a\\nb\\u001b[1m\"}").unwrap();
        let json = String::from_utf8(artifact.to_json(7, 9)).unwrap();
        assert!(!json.contains(char::is_control), "{json:?}");
        let expected = serde_json::json!({"n": 7, "at_ms": 9, "type": "token", "th": "a\nb\u{1b}[1m"});
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), expected);
    }

    #[test]
    fn only_artifacts_are_appended_this_way() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"type":"rec"}"#,
            r#"{"type":"cert"}"#,
            r#"{"type":7}"#,
            r#"{"type":"token","n":1}"#,
            r#"{"type":"token","at_ms":1}"#,
        ] {
            assert!(Artifact::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_artifact_is_bounded() {
        let text = |length: usize| format!(r#"{{"type":"token","th":"{}"}}"#, "a".repeat(length));
        let room = MAX_BYTES - text(0).len();
        assert!(Artifact::parse(&text(room)).is_ok());
        assert!(Artifact::parse(&text(room + 1)).is_err());
    }
}
