//! What documents and operators say of components and services, beside the policies.
//!
//! Owns: entities, the risk of tools, labels, and what was measured; one value, replaced as a whole. Does not own: who
//! reads the files (the control process).

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, EvalResult, RestrictedExpression};
use serde::Deserialize;

use super::question::{Question, Resource};
use super::rules::schema;

/// Facts as the control process gives them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FactsText {
    /// Cedar's JSON form. An external service may be named with a wildcard, `*.example.com:443`.
    pub entities: Vec<serde_json::Value>,
    /// Callee's SPIFFE ID to tool name to risk.
    pub risks: HashMap<String, HashMap<String, Risk>>,
    pub locations: Vec<Label>,
    pub threats: Vec<Label>,
    /// SPIFFE ID to what this node's attestor measured.
    pub evidence: HashMap<String, Evidence>,
}

/// How much harm a tool can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    Low,
    Medium,
    High,
    Critical,
}

impl Risk {
    pub fn as_str(self) -> &'static str {
        ["low", "medium", "high", "critical"][self as usize]
    }

    pub fn level(self) -> i64 {
        self as i64
    }
}

/// A label for everything that a pattern names; `*` at its end or beginning stands for any text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    pub pattern: String,
    pub label: String,
}

/// What was measured of the processes of one component.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Seconds since 1970, of the oldest measurement among its processes.
    pub measured_at: i64,
    #[serde(default)]
    pub posture: Option<String>,
}

/// Facts in force.
pub struct Facts {
    entities: Entities,
    pub text: FactsText,
    types: Types,
}

/// The entity types and the action, parsed once.
pub struct Types {
    component: EntityTypeName,
    external: EntityTypeName,
    trust_domain: EntityTypeName,
    pub action: EntityUid,
}

impl Facts {
    /// # Errors
    /// Entities that Cedar does not take, or that do not fit the schema if one is given.
    pub fn build(text: FactsText, schema: Option<&cedar_policy::Schema>) -> Result<Self, String> {
        let json = serde_json::Value::Array(text.entities.clone());
        let entities = Entities::from_json_value(json, schema).map_err(|error| format!("entities: {error}"))?;
        Ok(Self { entities, text, types: Types::parse()? })
    }

    /// Facts from the control process's JSON, whose entities fit the schema.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(json: &str) -> Result<Self, String> {
        let text = serde_json::from_str(json).map_err(|error| format!("facts: {error}"))?;
        Self::build(text, Some(schema()?))
    }

    pub fn types(&self) -> &Types {
        &self.types
    }

    /// The principal and resource of a question, with everything that they are in.
    ///
    /// # Errors
    /// Cedar does not take their attributes.
    pub fn about(&self, question: &Question) -> Result<(EntityUid, EntityUid, Entities), String> {
        let mut found = Vec::new();
        let principal = self.component(&question.caller, question.caller_documented, &mut found)?;
        let resource = match &question.resource {
            Resource::Component(id) => {
                let uid = EntityUid::from_type_name_and_id(self.types.component.clone(), EntityId::new(id));
                let documented = self.entities.get(&uid).is_some();
                self.component(id, documented, &mut found)?
            }
            Resource::External { host, port } => self.external(host, *port, &mut found)?,
        };
        let mut seen = HashSet::new();
        found.retain(|entity: &Entity| seen.insert(entity.uid()));
        let entities = Entities::from_entities(found, None).map_err(|error| error.to_string())?;
        Ok((principal, resource, entities))
    }

    fn component(&self, id: &str, documented: bool, found: &mut Vec<Entity>) -> Result<EntityUid, String> {
        let uid = EntityUid::from_type_name_and_id(self.types.component.clone(), EntityId::new(id));
        let (mut attributes, mut parents) = match self.entities.get(&uid).filter(|_| documented) {
            Some(entity) => {
                let (_, attributes, parents) = entity.clone().into_inner();
                (attributes, parents)
            }
            None => (HashMap::new(), HashSet::new()),
        };
        for parent in &parents {
            found.extend(self.entities.get(parent).cloned());
        }
        let domain = id.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        attributes.insert("documented".into(), RestrictedExpression::new_bool(documented));
        attributes.insert("trust_domain".into(), RestrictedExpression::new_string(domain.to_owned()));
        parents.insert(EntityUid::from_type_name_and_id(self.types.trust_domain.clone(), EntityId::new(domain)));
        if let Some(evidence) = self.text.evidence.get(id) {
            attributes.extend(measured(evidence));
        }
        let entity = Entity::new(uid.clone(), attributes, parents).map_err(|error| error.to_string())?;
        found.push(entity);
        Ok(uid)
    }

    fn external(&self, host: &str, port: u16, found: &mut Vec<Entity>) -> Result<EntityUid, String> {
        let uid_of = |name: &str| EntityUid::from_type_name_and_id(self.types.external.clone(), EntityId::new(name));
        let uid = uid_of(&format!("{host}:{port}"));
        let mut rest = host;
        let wildcards = std::iter::from_fn(|| {
            rest = rest.split_once('.')?.1;
            Some(uid_of(&format!("*.{rest}:{port}")))
        });
        // Whoever lists it with less, or under its own name, takes nothing away from what another document says.
        let listed = std::iter::once(uid.clone()).chain(wildcards).filter_map(|uid| self.entities.get(&uid));
        let described = listed.max_by_key(|entity| match entity.attr("sensitivity_level") {
            Some(Ok(EvalResult::Long(level))) => level,
            _ => -1,
        });
        let mut attributes = described.map(|entity| entity.clone().into_inner().1).unwrap_or_default();
        attributes.insert("host".into(), RestrictedExpression::new_string(host.to_owned()));
        attributes.insert("port".into(), RestrictedExpression::new_long(port.into()));
        found.push(Entity::new(uid.clone(), attributes, HashSet::new()).map_err(|error| error.to_string())?);
        Ok(uid)
    }

    /// The risk of the tool that a question is about; None if nobody declared it.
    pub fn risk(&self, question: &Question) -> Option<Risk> {
        let Resource::Component(callee) = &question.resource else { return None };
        let tool = question.operation.strip_prefix("tools/call ")?;
        self.text.risks.get(callee).filter(|_| question.protocol == "mcp")?.get(tool).copied()
    }

    /// Seconds since the caller was measured here.
    pub fn evidence_age_s(&self, question: &Question, now_s: i64) -> Option<i64> {
        let measured = self.text.evidence.get(&question.caller).map(|evidence| (now_s - evidence.measured_at).max(0));
        question.evidence_age_s.or(measured)
    }
}

fn measured(evidence: &Evidence) -> impl Iterator<Item = (String, RestrictedExpression)> {
    let level = evidence.posture.as_deref().and_then(posture_level).map(RestrictedExpression::new_long);
    let posture = evidence.posture.clone().map(RestrictedExpression::new_string).filter(|_| level.is_some());
    [("posture", posture), ("posture_level", level)]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
}

fn posture_level(posture: &str) -> Option<i64> {
    ["privileged", "baseline", "restricted"].iter().position(|known| *known == posture)?.try_into().ok()
}

/// The label of the most exact pattern that names `id`: itself, else the longest.
pub fn label_of<'a>(labels: &'a [Label], id: &str) -> Option<&'a str> {
    let matching = labels.iter().filter(|label| matches(&label.pattern, id));
    let best = matching.max_by_key(|label| (label.pattern == id, label.pattern.len()));
    best.map(|label| label.label.as_str())
}

fn matches(pattern: &str, id: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => id.ends_with(end),
        (None, Some(start)) => id.starts_with(start),
        (None, None) => pattern == id,
    }
}

impl Types {
    fn parse() -> Result<Self, String> {
        let named = |name: &str| EntityTypeName::from_str(name).map_err(|error| error.to_string());
        let action = EntityUid::from_type_name_and_id(named("Hopseal::Action")?, EntityId::new("call"));
        Ok(Self {
            component: named("Hopseal::Component")?,
            external: named("Hopseal::External")?,
            trust_domain: named("Hopseal::TrustDomain")?,
            action,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> Vec<Label> {
        list.iter().map(|(pattern, label)| Label { pattern: (*pattern).into(), label: (*label).into() }).collect()
    }

    #[test]
    fn the_most_exact_pattern_gives_the_label() {
        let labels =
            labels(&[("*", "z"), ("spiffe://td/agents/*", "y"), ("spiffe://td/agents/a/b", "x"), ("*.eu:443", "e")]);
        for (id, expected) in [
            ("spiffe://td/agents/a/b", "x"),
            ("spiffe://td/agents/a/c", "y"),
            ("spiffe://other/x", "z"),
            ("api.eu:443", "e"),
        ] {
            assert_eq!(label_of(&labels, id), Some(expected), "{id}");
        }
        assert_eq!(label_of(&labels[1..3], "spiffe://other/x"), None);
    }
}
