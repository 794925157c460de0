//! Cedar decisions: may this component call that one with this operation?
//!
//! Owns: one parsed policy set at a time and the request's shape. Does not own: the policies, which
//! the control process compiles from documents and files. Deny by default; an evaluation error in
//! any policy denies, whatever the others say.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision as Outcome, Entities, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};

use hopseal_custody::record::Approval;

use crate::judge::Requested;

/// Which broker asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Caller,
    Callee,
}

/// Who or what is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// Its SPIFFE ID.
    Component(&'a str),
    /// A service outside, reached by TLS under this lower-case name.
    #[allow(dead_code, reason = "made where calls leave for external services")]
    External { host: &'a str, port: u16 },
}

/// One question; made by `judge` only.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// SPIFFE ID.
    pub caller: &'a str,
    pub resource: Resource<'a>,
    /// Whether a local document names the caller.
    pub caller_documented: bool,
    pub side: Side,
    pub requested: Requested<'a>,
    pub hop: u32,
    /// SPIFFE IDs from the chain's root to the caller.
    pub chain: &'a [&'a str],
    /// Whether a custody record says so; false for a peer without custody.
    pub is_verified: bool,
    pub task: Option<&'a str>,
    pub approvals: &'a [Approval],
    /// The user that the chain acts for.
    pub user: Option<OnBehalf<'a>>,
}

/// A user as policies see one.
#[derive(Debug, Clone, Copy)]
pub struct OnBehalf<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    /// Whether the issuer's token was verified here (custody-wire §8.4).
    pub verified: bool,
}

/// The answer, with the policies that made it (their `@id`, else Cedar's own name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub policies: Vec<String>,
    pub errors: Vec<String>,
}

/// Policies and entities, parsed once.
pub struct Policy {
    policies: PolicySet,
    entities: Entities,
    authorizer: Authorizer,
    component: EntityTypeName,
    external: EntityTypeName,
    action: EntityUid,
}

impl Policy {
    /// Parses policies (Cedar text) and entities (Cedar JSON).
    ///
    /// # Errors
    /// What is wrong with them; the set in use stays.
    pub fn parse(cedar_text: &str, entities_json: &str) -> Result<Self, String> {
        let policies = PolicySet::from_str(cedar_text).map_err(|error| format!("policies: {error}"))?;
        let entities = Entities::from_json_str(entities_json, None).map_err(|error| format!("entities: {error}"))?;
        let component = EntityTypeName::from_str("Hopseal::Component").map_err(|error| error.to_string())?;
        let external = EntityTypeName::from_str("Hopseal::External").map_err(|error| error.to_string())?;
        let action_type = EntityTypeName::from_str("Hopseal::Action").map_err(|error| error.to_string())?;
        let action = EntityUid::from_type_name_and_id(action_type, EntityId::new("call"));
        Ok(Self { policies, entities, authorizer: Authorizer::new(), component, external, action })
    }

    /// Decides one question.
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        let uid = |id: &str| EntityUid::from_type_name_and_id(self.component.clone(), EntityId::new(id));
        let callee = callee_of(question.resource);
        let resource = match question.resource {
            Resource::Component(id) => uid(id),
            Resource::External { .. } => {
                EntityUid::from_type_name_and_id(self.external.clone(), EntityId::new(callee.as_ref()))
            }
        };
        let request = context(question, &callee).and_then(|context| {
            Request::new(uid(question.caller), self.action.clone(), resource, context, None)
                .map_err(|error| error.to_string())
        });
        let request = match request {
            Ok(request) => request,
            Err(error) => return Decision { allowed: false, policies: Vec::new(), errors: vec![error] },
        };
        let response = self.authorizer.is_authorized(&request, &self.policies, &self.entities);
        let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        let policies: BTreeSet<String> = response
            .diagnostics()
            .reason()
            .map(|id| self.policies.annotation(id, "id").map_or_else(|| id.to_string(), ToOwned::to_owned))
            .collect();
        Decision {
            allowed: response.decision() == Outcome::Allow && errors.is_empty(),
            policies: policies.into_iter().collect(),
            errors,
        }
    }
}

/// The id of what is called: a SPIFFE ID, or `host:port`.
fn callee_of(resource: Resource<'_>) -> Cow<'_, str> {
    match resource {
        Resource::Component(id) => Cow::Borrowed(id),
        Resource::External { host, port } => Cow::Owned(format!("{host}:{port}")),
    }
}

fn context(question: &Question<'_>, callee: &str) -> Result<Context, String> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let flag = RestrictedExpression::new_bool;
    let operation = question.requested.operation;
    let side = match question.side {
        Side::Caller => "caller",
        Side::Callee => "callee",
    };
    let user = question.user;
    let texts = |values: &mut dyn Iterator<Item = &str>| RestrictedExpression::new_set(values.map(text));
    let approvals = question.approvals.iter();
    let mut pairs = vec![
        ("chain".to_owned(), texts(&mut question.chain.iter().copied())),
        ("recorded".to_owned(), flag(question.is_verified)),
        ("approvals".to_owned(), texts(&mut approvals.clone().map(|approval| approval.id.as_str()))),
        ("approved_by".to_owned(), texts(&mut approvals.map(|approval| approval.by.as_str()))),
        ("user".to_owned(), text(user.map_or("", |user| user.subject))),
        ("user_issuer".to_owned(), text(user.map_or("", |user| user.issuer))),
        ("user_verified".to_owned(), flag(user.is_some_and(|user| user.verified))),
        ("caller".to_owned(), text(question.caller)),
        ("callee".to_owned(), text(callee)),
        ("caller_documented".to_owned(), flag(question.caller_documented)),
        ("side".to_owned(), text(side)),
        ("protocol".to_owned(), text(operation.protocol.as_str())),
        ("http".to_owned(), text(&operation.http)),
        ("operation".to_owned(), text(&operation.name)),
        ("method".to_owned(), text(question.requested.method)),
        ("path".to_owned(), text(question.requested.path)),
        ("mcp_session".to_owned(), flag(operation.mcp_session)),
        ("hop".to_owned(), RestrictedExpression::new_long(i64::from(question.hop))),
    ];
    pairs.extend(question.task.map(|task| ("task".to_owned(), text(task))));
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Operation;
    use http::{HeaderMap, Method};

    fn decide(policies: &str, path: &str) -> Decision {
        let operation = Operation::derive(&Method::GET, path, &HeaderMap::new(), b"");
        Policy::parse(policies, "[]").unwrap().decide(&Question {
            caller: "spiffe://td/a",
            resource: Resource::Component("spiffe://td/b"),
            caller_documented: true,
            side: Side::Caller,
            requested: Requested { operation: &operation, method: "GET", path },
            hop: 0,
            chain: &["spiffe://td/a"],
            is_verified: true,
            task: None,
            approvals: &[],
            user: None,
        })
    }

    const PERMIT: &str = r#"@id("reads") permit(principal == Hopseal::Component::"spiffe://td/a",
        action == Hopseal::Action::"call", resource == Hopseal::Component::"spiffe://td/b")
        when { context.http like "GET /a*" };"#;

    #[test]
    fn a_call_is_denied_unless_a_policy_permits_it() {
        assert!(!decide("", "/a").allowed);
        assert!(!decide(PERMIT, "/b").allowed);
        let decision = decide(PERMIT, "/a");
        assert!(decision.allowed);
        assert_eq!(decision.policies, ["reads"]);
    }

    #[test]
    fn an_evaluation_error_denies_even_beside_a_permit() {
        let policies = format!("{PERMIT} permit(principal, action, resource) when {{ context.absent == 1 }};");
        let decision = decide(&policies, "/a");
        assert!(!decision.allowed);
        assert_eq!(decision.errors.len(), 1);
    }

    #[test]
    fn policies_that_do_not_parse_are_refused_whole() {
        assert!(Policy::parse("permit(", "[]").is_err());
        assert!(Policy::parse("", "[{]").is_err());
    }
}
