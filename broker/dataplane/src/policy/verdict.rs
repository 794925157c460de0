//! What the layers together make of a question.
//!
//! Owns: how permits, forbids, guard rails and observation combine. Does not own: evaluating one policy (Cedar).
//!
//! A call is allowed if and only if
//! 1. no policy that is enforced fails to evaluate,
//! 2. no enforced forbid of any layer holds,
//! 3. a permit of the documents or of an operator's enforced set holds (if the documents are observed, the want of one
//!    is only told),
//! 4. of each guard rail with an enforced permit whose scope covers the call, one such permit holds.
//!
//! What an observed set would have denied is told beside the answer; it never permits anything.

use std::collections::BTreeMap;

use cedar_policy::{Authorizer, Decision, Entities, EntityUid, PolicySet, Request};

use super::rules::{Layer, Rule, Rules};

/// Rules of one slice that are evaluated together.
#[derive(Default)]
struct Part {
    set: PolicySet,
    is_empty: bool,
}

/// The rules of one caller and callee, ready to be evaluated.
pub struct Parts {
    /// Documents and operators, enforced.
    own: Part,
    admin: Part,
    /// Forbids of observed sets, of any layer.
    observed: Part,
    observed_admin: Part,
    rails: Vec<Rail>,
    observes_documents: bool,
}

struct Rail {
    name: String,
    places: Vec<usize>,
    observe: bool,
}

/// Why a call is allowed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// These permits.
    Permitted,
    /// These forbids.
    Forbidden,
    /// No rule permits it.
    Unpermitted,
    /// These rules would have to read the body, and nobody can.
    Unreadable,
    /// The guard rail of this name does not hold.
    GuardRail(String),
    /// A rule, or the question itself, could not be evaluated.
    Failed(String),
}

/// What was found; rules by their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: Reason,
    pub rules: Vec<usize>,
    /// What observed sets would have made of it, each with the rules that decided.
    pub would_deny: Vec<(Reason, Vec<usize>)>,
}

impl Verdict {
    pub fn failed(why: String) -> Self {
        Self { allowed: false, reason: Reason::Failed(why), rules: Vec::new(), would_deny: Vec::new() }
    }
}

impl Parts {
    /// # Errors
    /// Cedar does not take the rules together.
    pub fn of(rules: &Rules, places: &[usize]) -> Result<Self, String> {
        let part = |wanted: &dyn Fn(&Rule) -> bool| {
            let chosen = places.iter().map(|place| &rules.rules[*place]).filter(|rule| wanted(rule));
            let set = PolicySet::from_policies(chosen.map(|rule| rule.cedar.clone()));
            let set = set.map_err(|error| error.to_string())?;
            Ok::<_, String>(Part { is_empty: set.is_empty(), set })
        };
        let is_admin = |rule: &Rule| rule.layer == Layer::Admin;
        let is_own_permit = |rule: &Rule| rule.layer == Layer::Documents && !rule.forbids();
        Ok(Self {
            // Of observed documents the permits still count: they tell which calls would go on being allowed.
            own: part(&|rule| !is_admin(rule) && (!rule.observe || is_own_permit(rule)))?,
            admin: part(&|rule| is_admin(rule) && !rule.observe)?,
            observed: part(&|rule| !is_admin(rule) && rule.observe && rule.forbids())?,
            observed_admin: part(&|rule| is_admin(rule) && rule.observe)?,
            rails: rails_of(rules, places),
            observes_documents: rules.observes_documents,
        })
    }

    /// The verdict on `request`.
    pub fn judge(&self, authorizer: &Authorizer, request: &Request, entities: &Entities) -> Verdict {
        let mut would_deny = Vec::new();
        let (allowed, reason, rules) = self.enforce(authorizer, request, entities, &mut would_deny);
        if allowed {
            self.observe(authorizer, request, entities, &mut would_deny);
        } else {
            would_deny.clear();
        }
        Verdict { allowed, reason, rules, would_deny }
    }

    fn enforce(
        &self,
        authorizer: &Authorizer,
        request: &Request,
        entities: &Entities,
        would_deny: &mut Vec<(Reason, Vec<usize>)>,
    ) -> (bool, Reason, Vec<usize>) {
        let own = self.own.ask(authorizer, request, entities);
        let admin = self.admin.ask(authorizer, request, entities);
        for found in [&own, &admin] {
            if let Some(why) = &found.failed {
                return (false, Reason::Failed(why.clone()), Vec::new());
            }
        }
        if own.forbids || admin.forbids {
            let forbidding = [&own, &admin].into_iter().filter(|found| found.forbids);
            return (false, Reason::Forbidden, forbidding.flat_map(|found| found.rules.clone()).collect());
        }
        if let Some(rail) = self.rails.iter().find(|rail| !rail.observe && !rail.holds(&admin.rules)) {
            return (false, Reason::GuardRail(rail.name.clone()), rail.places.clone());
        }
        if !own.permits && !self.observes_documents {
            return (false, Reason::Unpermitted, Vec::new());
        }
        if !own.permits {
            would_deny.push((Reason::Unpermitted, Vec::new()));
        }
        let reason = if own.permits { Reason::Permitted } else { Reason::Unpermitted };
        (true, reason, [own.rules, admin.rules].concat())
    }

    fn observe(
        &self,
        authorizer: &Authorizer,
        request: &Request,
        entities: &Entities,
        would_deny: &mut Vec<(Reason, Vec<usize>)>,
    ) {
        let own = self.observed.ask(authorizer, request, entities);
        let admin = self.observed_admin.ask(authorizer, request, entities);
        for found in [&own, &admin] {
            if let Some(why) = &found.failed {
                would_deny.push((Reason::Failed(why.clone()), found.failing.clone()));
            }
            if found.forbids {
                would_deny.push((Reason::Forbidden, found.rules.clone()));
            }
        }
        // Rules of an observed rail are among the permits only if nothing forbids: then they are not told.
        if !admin.forbids {
            let broken = self.rails.iter().filter(|rail| rail.observe && !rail.holds(&admin.rules));
            would_deny.extend(broken.map(|rail| (Reason::GuardRail(rail.name.clone()), rail.places.clone())));
        }
    }
}

impl Rail {
    fn holds(&self, satisfied: &[usize]) -> bool {
        self.places.iter().any(|place| satisfied.contains(place))
    }
}

/// Guard rails whose permits cover the pair; an observed permit never helps an enforced rail to hold.
fn rails_of(rules: &Rules, places: &[usize]) -> Vec<Rail> {
    let mut rails: BTreeMap<(&str, bool), Vec<usize>> = BTreeMap::new();
    for place in places {
        let rule = &rules.rules[*place];
        if let Some(rail) = &rule.rail {
            rails.entry((rail, rule.observe)).or_default().push(*place);
        }
    }
    let made = rails.into_iter();
    made.map(|((name, observe), places)| Rail { name: name.to_owned(), places, observe }).collect()
}

/// What one part says.
#[derive(Default)]
struct Found {
    permits: bool,
    forbids: bool,
    rules: Vec<usize>,
    failed: Option<String>,
    failing: Vec<usize>,
}

impl Part {
    fn ask(&self, authorizer: &Authorizer, request: &Request, entities: &Entities) -> Found {
        if self.is_empty {
            return Found::default();
        }
        let response = authorizer.is_authorized(request, &self.set, entities);
        let diagnostics = response.diagnostics();
        let mut rules: Vec<usize> = diagnostics.reason().filter_map(place_of).collect();
        rules.sort_unstable();
        let errors: Vec<String> = diagnostics.errors().map(ToString::to_string).collect();
        let failing = diagnostics.errors().filter_map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => place_of(error.policy_id()),
        });
        let permits = response.decision() == Decision::Allow;
        Found {
            permits,
            forbids: !permits && !rules.is_empty(),
            rules,
            failing: failing.collect(),
            failed: (!errors.is_empty()).then(|| errors.join("; ")),
        }
    }
}

fn place_of(id: &cedar_policy::PolicyId) -> Option<usize> {
    let id: &str = id.as_ref();
    id.parse().ok()
}

/// A request of the one action there is.
///
/// # Errors
/// Cedar does not take it.
pub fn request_of(
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    context: cedar_policy::Context,
) -> Result<Request, String> {
    Request::new(principal, action, resource, context, None).map_err(|error| error.to_string())
}
