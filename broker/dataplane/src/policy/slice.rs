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
use super::unread::BodyRules;
use super::verdict::{Parts, Verdict, request_of};

/// Pairs that are kept; paths of strangers could otherwise fill the memory.
const MAX_SLICES: usize = 8192;
/// Decisions that one pair remembers.
const MAX_REMEMBERED: usize = 256;

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
        if question.is_unreadable() { Arc::new(self.of_body.applied_to(&verdict)) } else { verdict }
    }

    /// What the rules say, remembered where that is safe.
    fn remember(&self, authorizer: &Authorizer, question: &Question, facts: &Facts, now_ms: i64) -> Arc<Verdict> {
        if !self.reads.is_lasting() {
            return Arc::new(self.evaluate(authorizer, question, facts, now_ms));
        }
        let key = key_of(question, facts, self.reads);
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
#[derive(Default)]
pub struct Slices(RwLock<(usize, Kept)>);

impl Slices {
    /// The slice of a question's two.
    ///
    /// # Errors
    /// There can be none: the question must be denied.
    pub fn of(&self, question: &Question, rules: &Rules, index: &Index, facts: &Facts) -> Result<Arc<Slice>, String> {
        let callee = question.resource.id();
        {
            let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let found = kept.1.get(&question.caller).and_then(|of_caller| of_caller.get(callee.as_ref()));
            if let Some(slice) = found.filter(|slice| slice.caller_documented == question.caller_documented) {
                return Ok(Arc::clone(slice));
            }
        }
        let slice = Arc::new(Slice::build(question, rules, index, facts)?);
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.0 >= MAX_SLICES {
            *kept = Default::default();
        }
        let of_caller = kept.1.entry(question.caller.clone()).or_default();
        let is_new = of_caller.insert(callee.into_owned(), Arc::clone(&slice)).is_none();
        kept.0 += usize::from(is_new);
        Ok(slice)
    }
}
