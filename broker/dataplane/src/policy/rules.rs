//! Policies as they are written: sets in layers, parsed and validated once.
//!
//! Owns: reading sets, their names and layers, strict validation, what is refused. Does not own: which of them bear
//! on a question (see `slice`) or what they make of it (see `verdict`).
//!
//! A set is the documents' rules, or one file. It is observed or enforced as a whole. Pieces whose text did not change
//! are not parsed again.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use cedar_policy::{Effect, Policy as Cedar, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use serde::Deserialize;

use super::attributes::Reads;

/// The published schema.
pub const SCHEMA: &str = include_str!("hopseal.cedarschema");
/// The annotation that names the guard rail to which a permit of the admin layer belongs.
const GUARD_RAIL: &str = "guardrail";

/// Who may say what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Compiled from the Agent documents.
    Documents,
    /// The files of whoever runs the agents.
    Operator,
    /// Constraints that no other layer overrides; it never permits anything by itself.
    Admin,
}

impl Layer {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// One set as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetText {
    pub name: String,
    pub layer: Layer,
    /// Whether what it denies is only told.
    pub observe: bool,
    /// Its text, in pieces that are parsed by themselves.
    pub pieces: Vec<Arc<str>>,
}

/// One policy.
pub struct Rule {
    pub cedar: Cedar,
    /// Its `@id`, else the set and its place there.
    pub name: String,
    pub set: Arc<str>,
    pub layer: Layer,
    pub observe: bool,
    pub rail: Option<String>,
}

impl Rule {
    pub fn forbids(&self) -> bool {
        self.cedar.effect() == Effect::Forbid
    }

    /// What it reads; everything if its form is not known.
    pub fn reads(&self) -> Reads {
        self.cedar.to_json().map_or(Reads::ALL, |form| Reads::of(&form))
    }
}

type Parsed = HashMap<Arc<str>, Arc<Vec<Cedar>>>;
/// The policies of a piece, or its mistakes.
type Outcome = Result<Arc<Vec<Cedar>>, Vec<String>>;

/// Below this, a thread costs more than it saves.
const FEWEST_PIECES: usize = 16;

/// All sets in force.
#[derive(Default)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// Whether the documents' want of a permit is only told.
    pub observes_documents: bool,
    parsed: Parsed,
}

impl Rules {
    /// Parses and validates every set; what `before` has of the same text is taken over.
    ///
    /// # Errors
    /// Every mistake, each with its set.
    pub fn build(sets: Vec<SetText>, before: Option<&Self>) -> Result<Self, Vec<String>> {
        let mut built = Self::default();
        let mut mistakes = Vec::new();
        let mut fresh = parse_all(&sets, before);
        for set in sets {
            built.observes_documents |= set.observe && set.layer == Layer::Documents;
            let name: Arc<str> = set.name.as_str().into();
            let mut place = 0;
            for piece in &set.pieces {
                let known = before.and_then(|before| before.parsed.get(piece)).or_else(|| built.parsed.get(piece));
                let known = known.map(|policies| Ok(Arc::clone(policies)));
                match known.or_else(|| fresh.remove(piece)).unwrap_or_else(|| parse(piece, true).map(Arc::new)) {
                    Ok(policies) => {
                        for cedar in policies.iter() {
                            place += 1;
                            built.add(cedar, &set, &name, place).unwrap_or_else(|why| mistakes.push(why));
                        }
                        built.parsed.insert(Arc::clone(piece), policies);
                    }
                    Err(found) => mistakes.extend(found.into_iter().map(|why| format!("{name}: {why}"))),
                }
            }
        }
        if mistakes.is_empty() { Ok(built) } else { Err(mistakes) }
    }

    /// One enforced set of the operator's layer, not validated.
    ///
    /// # Errors
    /// It does not parse.
    pub fn unvalidated(text: &str) -> Result<Self, String> {
        let set = SetText { name: "policies".into(), layer: Layer::Operator, observe: false, pieces: Vec::new() };
        let mut built = Self::default();
        let parsed = parse(text, false).map_err(|mistakes| mistakes.join("; "))?;
        for (index, cedar) in parsed.iter().enumerate() {
            built.add(cedar, &set, &"policies".into(), index + 1)?;
        }
        Ok(built)
    }

    fn add(&mut self, cedar: &Cedar, set: &SetText, name: &Arc<str>, place: usize) -> Result<(), String> {
        let rail = cedar.annotation(GUARD_RAIL).map(ToOwned::to_owned);
        let id = cedar.annotation("id").map_or_else(|| format!("{name}#{place}"), ToOwned::to_owned);
        let permits = cedar.effect() == Effect::Permit;
        if set.layer == Layer::Admin && permits && rail.as_ref().is_none_or(String::is_empty) {
            return Err(format!(
                "{name}: {id}: a permit of the admin layer widens nothing; name the guard rail it stands for: \
                 @{GUARD_RAIL}(\"name\")"
            ));
        }
        if rail.is_some() && !(set.layer == Layer::Admin && permits) {
            return Err(format!("{name}: {id}: only permits of the admin layer belong to a guard rail"));
        }
        let cedar = cedar.new_id(PolicyId::new(self.rules.len().to_string()));
        let set_name = Arc::clone(name);
        self.rules.push(Rule { cedar, name: id, set: set_name, layer: set.layer, observe: set.observe, rail });
        Ok(())
    }
}

/// What [`parse`] makes of each piece that is new, on all cores: most of the time of a large set goes there.
fn parse_all(sets: &[SetText], before: Option<&Rules>) -> HashMap<Arc<str>, Outcome> {
    let is_new = |piece: &&Arc<str>| before.is_none_or(|before| !before.parsed.contains_key(*piece));
    let pieces: Vec<&Arc<str>> = sets.iter().flat_map(|set| &set.pieces).filter(is_new).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = pieces.len().div_ceil(cores).max(FEWEST_PIECES);
    let parse_some = |some: &[&Arc<str>]| -> Vec<(Arc<str>, Outcome)> {
        some.iter().map(|piece| (Arc::clone(piece), parse(piece, true).map(Arc::new))).collect()
    };
    if pieces.len() <= share {
        return parse_some(&pieces).into_iter().collect();
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = pieces.chunks(share).map(|some| scope.spawn(move || parse_some(some))).collect();
        // What a thread that ended early has not parsed is parsed where it is used.
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    })
}

fn parse(text: &str, validated: bool) -> Result<Vec<Cedar>, Vec<String>> {
    let set = PolicySet::from_str(text).map_err(|error| vec![describe_parse(&error, text)])?;
    if set.num_of_templates() > 0 {
        return Err(vec!["templates are not supported: write the policy out".into()]);
    }
    let mut policies: Vec<Cedar> = set.policies().cloned().collect();
    // Cedar names them policy0, policy1, … in the order of the text.
    policies.sort_by_key(|policy| place_of(policy.id()));
    if validated {
        let result = validator()?.validate(&set, ValidationMode::Strict);
        let mistakes: Vec<String> = result.validation_errors().map(|error| describe(error, &set)).collect();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
    }
    Ok(policies)
}

fn describe_parse(error: &cedar_policy::ParseErrors, text: &str) -> String {
    let mut labels = error.labels().into_iter().flatten();
    let Some(label) = labels.next() else { return error.to_string() };
    let before = text.as_bytes().iter().take(label.offset());
    format!("line {}: {error}", before.filter(|byte| **byte == b'\n').count() + 1)
}

fn describe(error: &cedar_policy::ValidationError, set: &PolicySet) -> String {
    let id = error.policy_id();
    let name = set.annotation(id, "id").map_or_else(|| format!("#{}", place_of(id) + 1), ToOwned::to_owned);
    let text = error.to_string();
    let text = text.strip_prefix(&format!("for policy `{id}`, ")).unwrap_or(&text);
    format!("{name}: {text}")
}

fn place_of(id: &PolicyId) -> usize {
    let id: &str = id.as_ref();
    id.trim_start_matches("policy").parse().unwrap_or(usize::MAX)
}

fn validator() -> Result<&'static Validator, Vec<String>> {
    static VALIDATOR: OnceLock<Result<Validator, String>> = OnceLock::new();
    let made = VALIDATOR.get_or_init(|| schema().map(|schema| Validator::new(schema.clone())));
    made.as_ref().map_err(|why| vec![why.clone()])
}

/// The published schema, parsed once.
///
/// # Errors
/// It is not Cedar's; a test sees to it that it is.
pub fn schema() -> Result<&'static Schema, String> {
    static PARSED: OnceLock<Result<Schema, String>> = OnceLock::new();
    let parsed = PARSED.get_or_init(|| {
        let parsed = Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema);
        parsed.map_err(|error| format!("schema: {error}"))
    });
    parsed.as_ref().map_err(Clone::clone)
}
