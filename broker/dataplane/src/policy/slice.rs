//! The few policies that one caller and callee need, put together once for both and kept.
//!
//! Owns: slices, their bound, and the decisions that they remember. Does not own: how a verdict comes about.
//!
//! A decision is remembered only if every policy of the slice reads nothing but what the key holds: what identifies
//! the request (see `attributes`). Entities and labels are part of the slice, and a change of them makes new ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cedar_policy::{Authorizer, Entities, EntityUid};

use super::attributes::Reads;
use super::context::{context_of, key_of};
use super::facts::Facts;
use super::index::Index;
use super::question::Question;
use super::rules::Rules;
use super::unread::{self, BodyRules, READINGS};
use super::verdict::{Parts, Verdict, request_of};

/// Pairs that are kept; paths of strangers could otherwise fill the memory.
const MAX_SLICES: usize = 8192;
/// Decisions that one pair remembers.
const MAX_REMEMBERED: usize = 256;
/// Longer requests are decided anew each time.
const MAX_KEY_BYTES: usize = 1024;

/// What one caller and callee need.
pub struct Slice {
    caller_documented: bool,
    principal: EntityUid,
    resource: EntityUid,
    entities: Entities,
    parts: Parts,
    of_body: BodyRules,
    pub reads: Reads,
    /// How many policies were looked at.
    pub considered: usize,
    remembered: Mutex<HashMap<String, Arc<Verdict>>>,
}

impl Slice {
    fn build(question: &Question, rules: &Rules, index: &Index, facts: &Facts) -> Result<Self, String> {
        let (principal, resource, entities) = facts.about(question)?;
        let places = index.matching(&rules.rules, (&principal, &facts.types().action, &resource), &entities);
        let reads = places.iter().map(|place| rules.rules[*place].reads());
        Ok(Self {
            caller_documented: question.caller_documented,
            parts: Parts::of(rules, &places)?,
            of_body: BodyRules::of(rules, &places),
            considered: places.len(),
            reads: reads.fold(Reads::default(), Reads::union),
            principal,
            resource,
            entities,
            remembered: Mutex::default(),
        })
    }

    /// The verdict on `question`.
    pub fn judge(&self, authorizer: &Authorizer, question: &Question, facts: &Facts, now_ms: i64) -> Arc<Verdict> {
        let verdict = self.remember(authorizer, question, facts, now_ms);
        if !question.is_unreadable() {
            return verdict;
        }
        let verdict = self.of_body.applied_to(&verdict);
        if !self.reads.has_protocol() {
            return Arc::new(verdict);
        }
        let readings = READINGS.iter().map(|protocol| {
            let question = Question { protocol: (*protocol).into(), ..question.clone() };
            self.remember(authorizer, &question, facts, now_ms)
        });
        Arc::new(unread::restricted_by(verdict, readings))
    }

    /// What the rules say, remembered where that is safe.
    fn remember(&self, authorizer: &Authorizer, question: &Question, facts: &Facts, now_ms: i64) -> Arc<Verdict> {
        if !self.reads.is_lasting() {
            return Arc::new(self.evaluate(authorizer, question, facts, now_ms));
        }
        let key = key_of(question, facts, self.reads);
        if key.len() > MAX_KEY_BYTES {
            return Arc::new(self.evaluate(authorizer, question, facts, now_ms));
        }
        if let Some(known) = self.remembered().get(&key) {
            return Arc::clone(known);
        }
        let verdict = Arc::new(self.evaluate(authorizer, question, facts, now_ms));
        let mut remembered = self.remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, Arc::clone(&verdict));
        verdict
    }

    fn evaluate(&self, authorizer: &Authorizer, question: &Question, facts: &Facts, now_ms: i64) -> Verdict {
        let request = context_of(question, facts, self.reads, now_ms).and_then(|context| {
            request_of(self.principal.clone(), facts.types().action.clone(), self.resource.clone(), context)
        });
        match request {
            Ok(request) => self.parts.judge(authorizer, &request, &self.entities),
            Err(why) => Verdict::failed(why),
        }
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Verdict>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Kept = HashMap<String, HashMap<String, Arc<Slice>>>;

/// The slices in use.
pub struct Slices {
    kept: RwLock<(usize, Kept)>,
    limit: usize,
}

impl Default for Slices {
    fn default() -> Self {
        Self { kept: RwLock::default(), limit: MAX_SLICES }
    }
}

impl Slices {
    /// The slice of a question's two.
    ///
    /// # Errors
    /// There can be none: the question must be denied.
    pub fn of(&self, question: &Question, rules: &Rules, index: &Index, facts: &Facts) -> Result<Arc<Slice>, String> {
        let callee = question.resource.id();
        {
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            let found = kept.1.get(&question.caller).and_then(|of_caller| of_caller.get(callee.as_ref()));
            if let Some(slice) = found.filter(|slice| slice.caller_documented == question.caller_documented) {
                return Ok(Arc::clone(slice));
            }
        }
        let slice = Arc::new(Slice::build(question, rules, index, facts)?);
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.0 >= self.limit {
            *kept = Default::default();
        }
        let of_caller = kept.1.entry(question.caller.clone()).or_default();
        let is_new = of_caller.insert(callee.into_owned(), Arc::clone(&slice)).is_none();
        kept.0 += usize::from(is_new);
        Ok(slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{FactsText, Resource, Side};

    fn question(caller: usize, path: usize) -> Question {
        Question {
            caller: format!("spiffe://td/{caller}"),
            resource: Resource::Component("spiffe://td/callee".into()),
            caller_documented: false,
            side: Side::Callee,
            protocol: "http".into(),
            http: format!("GET /{path}"),
            operation: format!("GET /{path}"),
            method: "GET".into(),
            path: format!("/{path}"),
            mcp_session: false,
            target: None,
            a2a_context: None,
            args_hash: None,
            hop: 0,
            chain: Vec::new(),
            recorded: true,
            task: None,
            approvals: Vec::new(),
            approved_by: Vec::new(),
            user: None,
            at_ms: None,
            evidence_age_s: None,
        }
    }

    #[test]
    fn neither_strangers_nor_paths_without_end_fill_the_memory() {
        let rules =
            Rules::unvalidated("permit(principal, action, resource) when { context.path like \"/1*\" };").unwrap();
        let (index, facts) = (Index::of(&rules.rules), Facts::build(FactsText::default(), None).unwrap());
        let slices = Slices { limit: 4, ..Slices::default() };
        for caller in 0..50 {
            slices.of(&question(caller, 0), &rules, &index, &facts).unwrap();
            let (count, kept) = &*slices.kept.read().unwrap();
            assert!(*count <= 4 && kept.values().map(HashMap::len).sum::<usize>() == *count);
        }
        let slice = slices.of(&question(0, 0), &rules, &index, &facts).unwrap();
        for path in 0..1000 {
            let allowed = slice.judge(&Authorizer::new(), &question(0, path), &facts, 0).allowed;
            assert_eq!(allowed, path.to_string().starts_with('1'), "{path}");
            assert!(slice.remembered().len() <= MAX_REMEMBERED);
        }
        let before = slice.remembered().len();
        let long = Question { path: format!("/1{}", "x".repeat(MAX_KEY_BYTES)), ..question(0, 0) };
        assert!(slice.judge(&Authorizer::new(), &long, &facts, 0).allowed);
        assert_eq!(slice.remembered().len(), before);
    }
}
