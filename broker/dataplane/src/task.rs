//! Tasks: the roots that a component may start, and `POST /task` on the broker's own host.
//!
//! Owns: a new root's task and authority, and the strict reading of what a component asks for.
//! Does not own: users' tokens (roots here act on nobody's behalf).
//!
//! Source: runtime.md "Tasks"; custody-wire §8.2, §8.3.

use std::sync::Arc;

use bytes::Bytes;
use hopseal_custody::authority::{Authority, Narrowing};
use hopseal_custody::compose::Root;
use hopseal_custody::fields::HANDLE;
use hopseal_custody::hash::RandomId;
use hopseal_custody::json::{Value, parse_object};
use hopseal_custody::limits::{DEFAULT_HOPS, MAX_CHAIN_AGE_S};
use hopseal_custody::record::Task;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, header};

use crate::body::Buffered;
use crate::broker::{Broker, Context, Continues};
use crate::clock;
use crate::gathered::Gathered;
use crate::headers;
use crate::outbound::Caller;
use crate::problem::Refusal;

/// Longest description of a task that is read.
const MAX_TASK_BYTES: usize = 16 << 10;

/// A fresh root of `caller`, with a random task and the default authority.
///
/// # Errors
/// `may_not_start`.
pub fn new_root(caller: &Caller, now: i64) -> Result<Root, Refusal> {
    start(caller, now, None, &Narrowing::default())
}

/// Answers a request to the broker itself.
///
/// # Errors
/// `not_found`, `request_invalid`, `may_not_start`, `overloaded`.
pub fn answer(
    broker: &Broker,
    caller: &Caller,
    method: &Method,
    target: &PathAndQuery,
    body: &Buffered,
) -> Result<Response<Bytes>, Refusal> {
    if method != Method::POST || target.as_str() != "/task" {
        return Err(Refusal::new("not_found", "only POST /task"));
    }
    let (task, limits) = read(&body.bytes).map_err(|why| Refusal::new("request_invalid", why))?;
    let now = clock::now_s();
    let root = start(caller, now, task, &limits)?;
    let text = serde_json::json!({"task": root.task.id, "cid": root.cid.to_string(), "expires_at": root.auth.exp});
    let handle = issue(broker, caller, root, Arc::default())?;
    let mut response = Response::new(Bytes::from(text.to_string()));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .extend(headers::custody_value(&handle).map(|value| (http::HeaderName::from_static(HANDLE), value)));
    Ok(response)
}

/// A handle for the siblings of `root`, with the receipts obtained so far.
///
/// # Errors
/// `overloaded`: too many handles are in use.
pub fn issue(broker: &Broker, caller: &Caller, root: Root, receipts: Arc<Gathered>) -> Result<String, Refusal> {
    let until = root.auth.exp;
    broker
        .handles
        .issue(&caller.instance, Arc::new(Context { continues: Continues::Task(root), receipts }), until)
        .ok_or_else(|| Refusal::new("overloaded", "too many handles"))
}

fn start(caller: &Caller, now: i64, task: Option<Task>, limits: &Narrowing) -> Result<Root, Refusal> {
    if !caller.component.may_start {
        return Err(Refusal::new("may_not_start", caller.component.qualified.clone()));
    }
    let no_randomness = |_| Refusal::new("internal", "no randomness");
    let task = match task {
        Some(task) => task,
        None => {
            let id = RandomId::generate().map_err(no_randomness)?;
            Task::named(&id.to_string()).ok_or_else(|| Refusal::new("internal", "task id"))?
        }
    };
    // No verifier may depend on an SVID that ended long ago: a chain is not longer than its age limit.
    let ceiling = Authority {
        scope: None,
        exp: now + MAX_CHAIN_AGE_S,
        hops: i64::try_from(DEFAULT_HOPS - 1).unwrap_or(0),
        aud: None,
        ops: None,
    };
    let auth = ceiling.narrow(limits).map_err(|rejection| Refusal::new("request_invalid", rejection.detail))?;
    Ok(Root { cid: RandomId::generate().map_err(no_randomness)?, task, auth, cont: None, user: None })
}

/// `{"task"?: {…}, "authority"?: {…}}`, both as in a root's claims; an empty body asks for nothing.
fn read(body: &[u8]) -> Result<(Option<Task>, Narrowing), String> {
    if body.is_empty() {
        return Ok((None, Narrowing::default()));
    }
    if body.len() > MAX_TASK_BYTES {
        return Err("the body is too large".to_owned());
    }
    let mut task = None;
    let mut limits = Narrowing::default();
    for (name, value) in parse_object(body)? {
        match (name.as_str(), value) {
            ("task", Value::Object(members)) => {
                task = Some(Task::parse(&members).map_err(|rejection| rejection.detail)?);
            }
            ("authority", Value::Object(members)) => {
                limits = Narrowing::parse(&members).map_err(|rejection| rejection.detail)?;
            }
            _ => return Err(format!("{name} is no member of a task request or not an object")),
        }
    }
    Ok((task, limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_requests_are_read_strictly() {
        assert!(read(b"").unwrap().0.is_none());
        let (task, limits) = read(br#"{"task":{"id":"t1"},"authority":{"hops":2}}"#).unwrap();
        assert_eq!((task.unwrap().id.as_str(), limits.hops), ("t1", Some(2)));
        for refused in [
            &b"[]"[..],
            b"{",
            br#"{"other":{}}"#,
            br#"{"task":"t1"}"#,
            br#"{"task":{}}"#,
            br#"{"task":{"id":"a"},"task":{"id":"b"}}"#,
            br#"{"authority":{"unknown":1}}"#,
        ] {
            assert!(read(refused).is_err(), "{}", String::from_utf8_lossy(refused));
        }
    }
}
