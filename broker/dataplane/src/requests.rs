//! What components ask of the broker itself, under the host `hopseal.local`.
//!
//! Owns: the requests, their strict JSON and their answers. Does not own: roots (see `task`) or terms (see `terms`).
//!
//! | request | what it does |
//! | --- | --- |
//! | `POST /task` | opens a task; with `continues`, one that continues the handle's chain |
//! | `POST /handle` | a handle for the same chain with less authority or with approvals |
//! | `GET /handle` | what the handle stands for |
//!
//! Source: runtime.md "Tasks"; custody-wire §8.2 to §8.4.

use std::sync::Arc;

use bytes::Bytes;
use hopseal_custody::authority::{Authority, Narrowing};
use hopseal_custody::behalf::Behalf;
use hopseal_custody::fields::HANDLE;
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::json::{Value, parse_object};
use hopseal_custody::record::{Approval, Task, User};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value as Json, json};

use crate::body::Buffered;
use crate::broker::{Broker, Context, Continues};
use crate::clock;
use crate::headers;
use crate::outbound::{Caller, context_of};
use crate::problem::{Refusal, refusal_of};
use crate::task::{self, Why};
use crate::terms;
use crate::users;

/// Longest request that is read.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// Answers a request to the broker itself.
///
/// # Errors
/// `not_found`, `request_invalid`, `handle_unknown`, `may_not_start`, `nothing_to_continue`, `user_token_invalid`,
/// `user_token_mismatch`, `issuer_unavailable`, `overloaded`.
pub fn answer(
    broker: &Broker,
    caller: &Caller,
    (method, target): (&Method, &PathAndQuery),
    list: &HeaderMap,
    body: &Buffered,
) -> Result<Response<Bytes>, Refusal> {
    match (method.as_str(), target.as_str()) {
        ("POST", "/task") => open_task(broker, caller, list, &body.bytes),
        ("POST", "/handle") => narrow(broker, caller, list, &body.bytes),
        ("GET", "/handle") => {
            let context = context_of(broker, caller, list)?;
            Ok(respond(StatusCode::OK, &describe(&context)?, None))
        }
        _ => Err(Refusal::new("not_found", "only POST /task, POST /handle and GET /handle")),
    }
}

fn open_task(broker: &Broker, caller: &Caller, list: &HeaderMap, body: &[u8]) -> Result<Response<Bytes>, Refusal> {
    let TaskRequest { task, limits, why } = TaskRequest::read(body).map_err(invalid)?;
    let user = users::opening(broker, caller, list)?;
    let root = match why {
        None => task::open(caller, clock::now_s(), task, &limits, user)?,
        Some(_) if task.is_some() => return Err(invalid("a task that continues another has its task")),
        Some(why) => {
            let context = context_of(broker, caller, list)?;
            task::renew(broker, caller, &context, why, &limits, user)?
        }
    };
    let described = json!({"task": root.task.id, "cid": root.cid.to_string(), "expires_at": root.auth.exp});
    let handle = task::issue(broker, caller, root, Arc::default())?;
    Ok(respond(StatusCode::CREATED, &described, Some(&handle)))
}

/// A handle for the same chain under narrower terms; the handle that it was made from stays as it is.
fn narrow(broker: &Broker, caller: &Caller, list: &HeaderMap, body: &[u8]) -> Result<Response<Bytes>, Refusal> {
    let context = context_of(broker, caller, list)?;
    let (limits, approvals) = read_terms(body).map_err(invalid)?;
    let (continues, terms) = match &context.continues {
        Continues::Call(chain) => {
            let before = context.terms.apply(chain.authority()).map_err(refusal_of)?;
            before.narrow(&limits).map_err(|rejection| invalid(rejection.detail))?;
            (Continues::Call(chain.clone()), context.terms.with(limits, approvals).map_err(invalid)?)
        }
        // A root narrows nothing: its own authority is smaller.
        Continues::Task(root) => {
            let auth = root.auth.narrow(&limits).map_err(|rejection| invalid(rejection.detail))?;
            let terms = context.terms.with(Narrowing::default(), approvals).map_err(invalid)?;
            let root = hopseal_custody::compose::Root { auth, ..root.clone() };
            (Continues::Task(root), terms)
        }
    };
    let narrower = Context { continues, receipts: Arc::clone(&context.receipts), terms };
    let described = describe(&narrower)?;
    let until = terms::expires_at(&narrower.continues, &narrower.terms);
    let handle = broker.handles.issue(&caller.instance, Arc::new(narrower), until);
    let handle = handle.ok_or_else(|| Refusal::new("overloaded", "too many handles"))?;
    Ok(respond(StatusCode::CREATED, &described, Some(&handle)))
}

/// What a handle stands for; the user's token is not told, whoever needs it has it in the request.
fn describe(context: &Context) -> Result<Json, Refusal> {
    let (cid, hop, path, task, user) = match &context.continues {
        Continues::Call(chain) => {
            let path: Vec<&str> = chain.path().map(SpiffeId::as_str).collect();
            let user = chain.behalf().map(|behalf: &Behalf| user_json(behalf.user(), behalf.token().is_some()));
            (chain.cid(), Some(chain.hop()), path, chain.task(), user)
        }
        Continues::Task(root) => {
            let user = root.user.as_ref().map(|token| user_json(token.user(), true));
            (root.cid, None, Vec::new(), &root.task, user)
        }
    };
    let left = terms::authority_left(&context.continues, &context.terms).map_err(refusal_of)?;
    Ok(json!({
        "cid": cid.to_string(),
        "hop": hop,
        "path": path,
        "task": task_json(task),
        "user": user,
        "authority": authority_json(&left),
        "approvals": context.terms.approvals.len(),
        "expires_at": terms::expires_at(&context.continues, &context.terms),
    }))
}

fn user_json(user: &User, verified: bool) -> Json {
    json!({"iss": user.iss, "sub": user.sub, "typ": user.typ, "txn": user.txn, "exp": user.exp, "obo_verified": verified})
}

fn task_json(task: &Task) -> Json {
    let hash = |hash: Option<hopseal_custody::hash::ClaimHash>| hash.map(|hash| hash.to_string());
    json!({"id": task.id, "iss": task.iss, "ih": hash(task.ih), "ah": hash(task.ah), "pc": task.pc})
}

fn authority_json(authority: &Authority) -> Json {
    let scope = authority.scope.as_ref().map(|scope| scope.iter().cloned().collect::<Vec<_>>().join(" "));
    let aud = authority.aud.as_ref().map(|aud| aud.iter().map(|pattern| pattern.text()).collect::<Vec<_>>());
    let ops = authority.ops.as_ref().map(|ops| ops.iter().map(|pattern| pattern.text()).collect::<Vec<_>>());
    json!({"scope": scope, "exp": authority.exp, "hops": authority.hops, "aud": aud, "ops": ops})
}

fn respond(status: StatusCode, body: &Json, handle: Option<&str>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let value = handle.and_then(headers::custody_value);
    response.headers_mut().extend(value.map(|value| (HeaderName::from_static(HANDLE), value)));
    response
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::new("request_invalid", why)
}

/// `{"task"?: {…}, "authority"?: {…}, "continues"?: "resume" | "queue"}`, the objects as in a root's claims; an empty
/// body asks for nothing.
#[derive(Debug, Default)]
struct TaskRequest {
    task: Option<Task>,
    limits: Narrowing,
    why: Option<Why>,
}

impl TaskRequest {
    fn read(body: &[u8]) -> Result<Self, String> {
        let mut request = Self::default();
        for (name, value) in members(body)? {
            match (name.as_str(), value) {
                ("task", Value::Object(members)) => {
                    request.task = Some(Task::parse(&members).map_err(|rejection| rejection.detail)?);
                }
                ("authority", Value::Object(members)) => {
                    request.limits = Narrowing::parse(&members).map_err(|rejection| rejection.detail)?;
                }
                ("continues", Value::Text(why)) => {
                    request.why = Some(Why::parse(&why).ok_or("continues is neither resume nor queue")?);
                }
                _ => return Err(format!("{name} is no member of a task request or of another type")),
            }
        }
        Ok(request)
    }
}

/// `{"authority"?: {…}, "approvals"?: [{…}, …]}`, as `att` and `apv`.
fn read_terms(body: &[u8]) -> Result<(Narrowing, Vec<Approval>), String> {
    let mut limits = Narrowing::default();
    let mut approvals = Vec::new();
    for (name, value) in members(body)? {
        match (name.as_str(), value) {
            ("authority", Value::Object(members)) => {
                limits = Narrowing::parse(&members).map_err(|rejection| rejection.detail)?;
            }
            ("approvals", Value::Array(items)) => {
                approvals = items.iter().map(read_approval).collect::<Result<_, _>>()?;
            }
            _ => return Err(format!("{name} is no member of a request for a handle or of another type")),
        }
    }
    if limits == Narrowing::default() && approvals.is_empty() {
        return Err("nothing is asked for".to_owned());
    }
    Ok((limits, approvals))
}

fn read_approval(value: &Value) -> Result<Approval, String> {
    match value {
        Value::Object(members) => Approval::parse(members).map_err(|rejection| rejection.detail),
        _ => Err("an approval is not an object".to_owned()),
    }
}

fn members(body: &[u8]) -> Result<Vec<(String, Value)>, String> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    if body.len() > MAX_REQUEST_BYTES {
        return Err("the body is too large".to_owned());
    }
    parse_object(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_requests_are_read_strictly() {
        assert!(TaskRequest::read(b"").unwrap().task.is_none());
        let read = TaskRequest::read(br#"{"task":{"id":"t1"},"authority":{"hops":2}}"#).unwrap();
        assert_eq!((read.task.unwrap().id.as_str(), read.limits.hops), ("t1", Some(2)));
        assert!(matches!(TaskRequest::read(br#"{"continues":"queue"}"#).unwrap().why, Some(Why::Queue)));
        for refused in [
            &b"[]"[..],
            b"{",
            br#"{"other":{}}"#,
            br#"{"task":"t1"}"#,
            br#"{"task":{}}"#,
            br#"{"task":{"id":"a"},"task":{"id":"b"}}"#,
            br#"{"authority":{"unknown":1}}"#,
            br#"{"continues":"boundary"}"#,
            br#"{"continues":{}}"#,
        ] {
            assert!(TaskRequest::read(refused).is_err(), "{}", String::from_utf8_lossy(refused));
        }
    }

    #[test]
    fn requests_for_a_handle_are_read_strictly() {
        let approval =
            r#"{"typ":"ticket","id":"CHG-1","h":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","by":"b","at":1}"#;
        let (limits, approvals) =
            read_terms(format!(r#"{{"authority":{{"hops":1}},"approvals":[{approval}]}}"#).as_bytes()).unwrap();
        assert_eq!((limits.hops, approvals.len()), (Some(1), 1));
        for refused in ["", "{}", r#"{"authority":{}}"#, r#"{"approvals":[]}"#, r#"{"approvals":["x"]}"#, r#"{"x":1}"#]
        {
            assert!(read_terms(refused.as_bytes()).is_err(), "{refused}");
        }
        assert!(
            read_terms(format!(r#"{{"approvals":[{}]}}"#, approval.replace("ticket", "rumour")).as_bytes()).is_err()
        );
    }

    #[test]
    fn an_overlong_request_is_refused() {
        let body = format!(r#"{{"task":{{"id":"a","x":"{}"}}}}"#, "x".repeat(MAX_REQUEST_BYTES));
        assert!(TaskRequest::read(body.as_bytes()).is_err());
    }
}
