//! What a broker knows of calls in progress, as text for the process that follows it on the same node.
//!
//! Owns: the text of roots and limits, and proving a chain again. Does not own: who may give or take it (one broker and
//! its successor, which run as the same user).

use std::sync::Arc;

use crate::authority::{Authority, Narrowing};
use crate::claims::{Claims, Members, required, text};
use crate::compose::Root;
use crate::error::{Result, malformed};
use crate::hash::RandomId;
use crate::json::{Value, parse_object, write_object};
use crate::record::{
    Approval, Continuation, Task, approval_value, authority_value, continuation_value, narrowing_value,
};
use crate::usertoken::UserToken;

/// A root without its user's token.
#[must_use]
pub fn root_text(root: &Root) -> String {
    let mut members = Members::default();
    members.add("cid", text(&root.cid)).add("task", Value::Object(root.task.to_members()));
    members.add("auth", authority_value(&root.auth)).maybe("cont", root.cont.as_ref().map(continuation_value));
    written(&members.into_vec())
}

/// The root in `text`, with its user's token.
///
/// # Errors
/// `malformed`.
pub fn read_root(text: &str, user: Option<Arc<UserToken>>) -> Result<Root> {
    let members = parse_object(text.as_bytes()).map_err(malformed)?;
    let claims = Claims(&members);
    Ok(Root {
        cid: required("cid", claims.parsed("cid", RandomId::parse)?)?,
        task: required("task", claims.object("task")?.map(Task::parse).transpose()?)?,
        auth: required("auth", claims.object("auth")?.map(Authority::parse).transpose()?)?,
        cont: claims.object("cont")?.map(Continuation::parse).transpose()?,
        user,
    })
}

/// What a handle adds to each call.
#[must_use]
pub fn limits_text(narrowing: Option<&Narrowing>, approvals: &[Approval]) -> String {
    let mut members = Members::default();
    members.maybe("att", narrowing.map(narrowing_value));
    members.add("apv", Value::Array(approvals.iter().map(approval_value).collect()));
    written(&members.into_vec())
}

/// The limits and approvals in `text`.
///
/// # Errors
/// `malformed`.
pub fn read_limits(text: &str) -> Result<(Option<Narrowing>, Vec<Approval>)> {
    let members = parse_object(text.as_bytes()).map_err(malformed)?;
    let claims = Claims(&members);
    let narrowing = claims.object("att")?.map(Narrowing::parse).transpose()?;
    let Some(Value::Array(items)) = claims.get("apv") else { return Err(malformed("no approvals")) };
    let approvals = items.iter().map(|item| match item {
        Value::Object(members) => Approval::parse(members),
        _ => Err(malformed("an approval is no object")),
    });
    Ok((narrowing, approvals.collect::<Result<_>>()?))
}

fn written(members: &[(String, Value)]) -> String {
    let mut json = String::new();
    write_object(members, &mut json);
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{AudiencePattern, OperationPattern};
    use crate::hash::{ClaimHash, StatementHash};

    #[test]
    fn roots_and_limits_come_back_as_they_were() {
        let auth = Authority {
            scope: Some(["read".to_owned()].into()),
            exp: 7,
            hops: 3,
            aud: AudiencePattern::parse("spiffe://td/*").map(|pattern| vec![pattern]),
            ops: OperationPattern::parse("tools/call *").map(|pattern| vec![pattern]),
        };
        let cid = RandomId([1; 16]);
        let cont = Continuation { rec: StatementHash([2; 32]), cid, why: "resume".into() };
        for cont in [None, Some(cont)] {
            let task = Task::named("t").map(|task| Task { pc: Some("p".into()), ..task });
            let Some(task) = task else { continue };
            let root = Root { cid, task, auth: auth.clone(), cont, user: None };
            assert_eq!(read_root(&root_text(&root), None).ok(), Some(root));
        }
        let approval = Approval { typ: "ticket".into(), id: "a".into(), h: ClaimHash([3; 32]), by: "b".into(), at: 4 };
        let narrowing = Narrowing { hops: Some(1), ..Narrowing::default() };
        for narrowing in [None, Some(narrowing)] {
            let text = limits_text(narrowing.as_ref(), std::slice::from_ref(&approval));
            assert_eq!(read_limits(&text).ok(), Some((narrowing, vec![approval.clone()])));
        }
        assert!(read_root("{}", None).is_err() && read_limits("{}").is_err());
    }
}
