//! Which policies bear on a pair of caller and callee, found without looking at all of them.
//!
//! Owns: the index by scope. A policy that it leaves out cannot match, because Cedar's scope is a conjunction of tests
//! on principal, action and resource alone. Does not own: conditions.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, Entities, EntityTypeName, EntityUid, PrincipalConstraint as Principal, ResourceConstraint as Of,
};

use super::rules::Rule;

/// One side of a scope.
enum Constraint {
    Any,
    Is(EntityTypeName),
    Eq(EntityUid),
    In(EntityUid),
    IsIn(EntityTypeName, EntityUid),
}

impl Constraint {
    fn holds(&self, uid: &EntityUid, entities: &Entities) -> bool {
        match self {
            Self::Any => true,
            Self::Is(wanted) => uid.type_name() == wanted,
            Self::Eq(wanted) => uid == wanted,
            Self::In(wanted) => is_in(uid, wanted, entities),
            Self::IsIn(kind, wanted) => uid.type_name() == kind && is_in(uid, wanted, entities),
        }
    }

    /// The one entity that the side must be, or be in.
    fn anchor(&self) -> Option<&EntityUid> {
        match self {
            Self::Any | Self::Is(_) => None,
            Self::Eq(uid) | Self::In(uid) | Self::IsIn(_, uid) => Some(uid),
        }
    }
}

fn is_in(uid: &EntityUid, wanted: &EntityUid, entities: &Entities) -> bool {
    uid == wanted || entities.is_ancestor_of(wanted, uid)
}

/// Policies by what their scope hangs on: the principal, else the resource, else nothing.
#[derive(Default)]
pub struct Index {
    by_principal: HashMap<EntityUid, Vec<usize>>,
    by_resource: HashMap<EntityUid, Vec<usize>>,
    unanchored: Vec<usize>,
}

impl Index {
    pub fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (place, rule) in rules.iter().enumerate() {
            let (principal, resource) = scope_of(rule);
            match (principal.anchor(), resource.anchor()) {
                (Some(uid), _) => index.by_principal.entry(uid.clone()).or_default().push(place),
                (None, Some(uid)) => index.by_resource.entry(uid.clone()).or_default().push(place),
                (None, None) => index.unanchored.push(place),
            }
        }
        index
    }

    /// Places of the rules whose scope holds, in their order.
    pub fn matching(
        &self,
        rules: &[Rule],
        (principal, action, resource): (&EntityUid, &EntityUid, &EntityUid),
        entities: &Entities,
    ) -> Vec<usize> {
        let anchored = |by: &HashMap<EntityUid, Vec<usize>>, uid: &EntityUid| {
            let ancestors = entities.ancestors(uid).into_iter().flatten();
            let places = std::iter::once(uid).chain(ancestors).filter_map(|anchor| by.get(anchor));
            places.flatten().copied().collect::<Vec<usize>>()
        };
        let mut places = anchored(&self.by_principal, principal);
        places.extend(anchored(&self.by_resource, resource));
        places.extend(&self.unanchored);
        places.retain(|place| {
            let (for_principal, for_resource) = scope_of(&rules[*place]);
            for_principal.holds(principal, entities)
                && for_resource.holds(resource, entities)
                && acts(&rules[*place].cedar.action_constraint(), action)
        });
        places.sort_unstable();
        places
    }
}

/// The schema has no groups of actions.
fn acts(constraint: &ActionConstraint, action: &EntityUid) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(wanted) => wanted == action,
        ActionConstraint::In(wanted) => wanted.contains(action),
    }
}

fn scope_of(rule: &Rule) -> (Constraint, Constraint) {
    let principal = match rule.cedar.principal_constraint() {
        Principal::Any => Constraint::Any,
        Principal::Is(kind) => Constraint::Is(kind),
        Principal::Eq(uid) => Constraint::Eq(uid),
        Principal::In(uid) => Constraint::In(uid),
        Principal::IsIn(kind, uid) => Constraint::IsIn(kind, uid),
    };
    let resource = match rule.cedar.resource_constraint() {
        Of::Any => Constraint::Any,
        Of::Is(kind) => Constraint::Is(kind),
        Of::Eq(uid) => Constraint::Eq(uid),
        Of::In(uid) => Constraint::In(uid),
        Of::IsIn(kind, uid) => Constraint::IsIn(kind, uid),
    };
    (principal, resource)
}
