//! What a JSON-RPC call means as MCP or as A2A: its name in the words of policy, and what it is about.
//!
//! Owns: the table of A2A's methods, which members name a call's target, and what makes a call unreadable. Does not own:
//! reading JSON (see `jsonrpc`).
//!
//! Rules:
//! 1. A2A 1.0 renamed its methods. They get the names of 0.3 here, so that one policy holds for both.
//! 2. `tasks/get`, `tasks/list` and `tasks/cancel` are methods of both protocols: A2A's name the task by `id`, MCP's by
//!    `taskId`. With both members a call is unreadable.
//! 3. A target that is no text, is empty or has control characters is unreadable: a reader might make another one of it.
//!
//! Source: A2A 0.3.0 §7 and 1.0 §9; MCP 2025-11-25 and 2026-07-28.

use hopseal_custody::hash::ClaimHash;
use hopseal_custody::jcs::Fault;
use http::HeaderMap;

use crate::jsonrpc::{Call, Field, Params};
use crate::operation::Protocol;

/// Longest tool name, resource URI or task ID in an operation.
const MAX_TARGET_BYTES: usize = 512;

/// A call by its protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct View {
    pub protocol: Protocol,
    /// `<method> <target>` or `<method>`.
    pub name: String,
    pub target: Option<String>,
    pub context_id: Option<String>,
    pub args_hash: Option<ClaimHash>,
}

/// Where an A2A method names its task.
#[derive(Clone, Copy)]
#[allow(clippy::enum_variant_names, reason = "a method without a task is the exception")]
enum Names {
    /// `params.message.taskId`.
    TaskOfMessage,
    /// `params.id`.
    TaskById,
    /// `params.taskId`.
    TaskByTaskId,
    NoTask,
}

/// A2A's methods: the name of 0.3, where that names the task, the name of 1.0, where that does.
const A2A: [(&str, Names, &str, Names); 11] = [
    ("message/send", Names::TaskOfMessage, "SendMessage", Names::TaskOfMessage),
    ("message/stream", Names::TaskOfMessage, "SendStreamingMessage", Names::TaskOfMessage),
    ("tasks/get", Names::TaskById, "GetTask", Names::TaskById),
    ("tasks/list", Names::NoTask, "ListTasks", Names::NoTask),
    ("tasks/cancel", Names::TaskById, "CancelTask", Names::TaskById),
    ("tasks/resubscribe", Names::TaskById, "SubscribeToTask", Names::TaskById),
    ("tasks/pushNotificationConfig/set", Names::TaskByTaskId, "CreateTaskPushNotificationConfig", Names::TaskByTaskId),
    ("tasks/pushNotificationConfig/get", Names::TaskById, "GetTaskPushNotificationConfig", Names::TaskByTaskId),
    ("tasks/pushNotificationConfig/list", Names::TaskById, "ListTaskPushNotificationConfigs", Names::TaskByTaskId),
    ("tasks/pushNotificationConfig/delete", Names::TaskById, "DeleteTaskPushNotificationConfig", Names::TaskByTaskId),
    ("agent/getAuthenticatedExtendedCard", Names::NoTask, "GetExtendedAgentCard", Names::NoTask),
];
/// Methods of both protocols.
const SHARED: [&str; 3] = ["tasks/get", "tasks/list", "tasks/cancel"];

/// The view of one call.
///
/// # Errors
/// Why it could be taken for another one.
pub fn view(call: Call, headers: &HeaderMap) -> Result<View, Fault> {
    match a2a_method(&call)? {
        Some((method, task)) => a2a(method, task, call.params),
        None => mcp(&call.method, call.params, headers),
    }
}

/// Whether `method` is one of A2A's.
pub fn is_of_a2a(method: &str) -> bool {
    A2A.iter().any(|(older, _, newer, _)| [*older, *newer].contains(&method))
}

fn a2a_method(call: &Call) -> Result<Option<(&'static str, Names)>, Fault> {
    let method = call.method.as_str();
    let newer = A2A.iter().find(|(_, _, newer, _)| *newer == method).map(|(name, _, _, task)| (*name, *task));
    let older = A2A.iter().find(|(older, ..)| *older == method).map(|(name, task, ..)| (*name, *task));
    if !SHARED.contains(&method) {
        return Ok(newer.or(older));
    }
    match (&call.params.id, &call.params.task_id) {
        (Field::Absent, _) if !call.params.task_is_ambiguous => Ok(None),
        (_, Field::Absent) => Ok(older),
        _ => Err("it names a task as A2A does and as MCP does"),
    }
}

fn a2a(method: &str, task: Names, params: Params) -> Result<View, Fault> {
    if params.task_is_ambiguous {
        return Err("it names its task or context twice, or by a member that differs in case or spelling");
    }
    let (target, context_id) = match task {
        Names::TaskOfMessage if !params.has_message => return Err("it has no message"),
        Names::TaskOfMessage => (text(params.message_task)?, text(params.message_context)?),
        Names::TaskById => (text(params.id)?, None),
        Names::TaskByTaskId => (text(params.task_id)?, None),
        Names::NoTask => (None, None),
    };
    Ok(View { protocol: Protocol::A2a, name: named(method, target.as_deref()), target, context_id, args_hash: None })
}

fn mcp(method: &str, params: Params, headers: &HeaderMap) -> Result<View, Fault> {
    let target = if method.starts_with("resources/") {
        text(params.uri)?
    } else if SHARED.contains(&method) || method == "tasks/result" {
        text(params.task_id)?
    } else {
        text(params.name)?
    };
    if says_other(headers, "mcp-method", method)
        || target.as_deref().is_some_and(|target| says_other(headers, "mcp-name", target))
    {
        return Err("its mcp-method or mcp-name header says something else");
    }
    let args_hash = params.args_hash.transpose()?;
    Ok(View { protocol: Protocol::Mcp, name: named(method, target.as_deref()), target, context_id: None, args_hash })
}

/// Whether a header of MCP 2026-07-28 names another thing than the body. Its coded form (`=?base64?…?=`) is the
/// server's to compare.
fn says_other(headers: &HeaderMap, name: &str, body: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .any(|value| value.as_bytes() != body.as_bytes() && !value.as_bytes().starts_with(b"=?"))
}

fn named(method: &str, target: Option<&str>) -> String {
    target.map_or_else(|| method.to_owned(), |target| format!("{method} {target}"))
}

fn text(field: Field) -> Result<Option<String>, Fault> {
    match field {
        Field::Absent => Ok(None),
        Field::Text(text) if (1..=MAX_TARGET_BYTES).contains(&text.len()) && !text.chars().any(char::is_control) => {
            Ok(Some(text))
        }
        _ => Err("what it is about is no text of one line"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonrpc::{self, Body};

    fn read(body: &str) -> Result<View, Fault> {
        match jsonrpc::read(body.as_bytes()).unwrap() {
            Body::Call(call) => view(call, &HeaderMap::new()),
            Body::Other => Err("no call"),
            Body::Unreadable(why) => Err(why),
        }
    }

    fn call(method: &str, params: &str) -> Result<(Protocol, String), Fault> {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        read(&body).map(|view| (view.protocol, view.name))
    }

    #[test]
    fn both_versions_of_a2a_have_one_name() {
        let message = r#"{"message":{"messageId":"m","taskId":"task-1","contextId":"c-1"}}"#;
        let rows = [
            ("message/send", "SendMessage", message, "message/send task-1"),
            ("message/stream", "SendStreamingMessage", message, "message/stream task-1"),
            ("message/send", "SendMessage", r#"{"message":{"messageId":"m"}}"#, "message/send"),
            ("tasks/get", "GetTask", r#"{"id":"task-1"}"#, "tasks/get task-1"),
            ("tasks/cancel", "CancelTask", r#"{"id":"task-1"}"#, "tasks/cancel task-1"),
            ("tasks/resubscribe", "SubscribeToTask", r#"{"id":"task-1"}"#, "tasks/resubscribe task-1"),
        ];
        for (older, newer, params, name) in rows {
            for method in [older, newer] {
                assert_eq!(call(method, params), Ok((Protocol::A2a, name.to_owned())), "{method} {params}");
            }
        }
        let card = Ok((Protocol::A2a, "agent/getAuthenticatedExtendedCard".to_owned()));
        assert_eq!(call("GetExtendedAgentCard", "{}"), card);
        let listed = Ok((Protocol::A2a, "tasks/list".to_owned()));
        assert_eq!(call("ListTasks", "{}"), listed);
    }

    #[test]
    fn a_push_notification_configuration_belongs_to_its_task_in_both_versions() {
        for (older, newer) in [
            ("get", "GetTaskPushNotificationConfig"),
            ("list", "ListTaskPushNotificationConfigs"),
            ("delete", "DeleteTaskPushNotificationConfig"),
        ] {
            let older = format!("tasks/pushNotificationConfig/{older}");
            let expected = Ok((Protocol::A2a, format!("{older} task-1")));
            assert_eq!(call(&older, r#"{"id":"task-1","pushNotificationConfigId":"p"}"#), expected);
            assert_eq!(call(newer, r#"{"taskId":"task-1","id":"p"}"#), expected);
        }
        let set = "tasks/pushNotificationConfig/set";
        let expected = Ok((Protocol::A2a, format!("{set} task-1")));
        assert_eq!(call(set, r#"{"taskId":"task-1"}"#), expected);
        assert_eq!(call("CreateTaskPushNotificationConfig", r#"{"taskId":"task-1","id":"p"}"#), expected);
    }

    #[test]
    fn the_context_of_a_message_is_known() {
        let body = r#"{"jsonrpc":"2.0","method":"message/send","params":{"message":{"contextId":"c-1"}}}"#;
        let view = read(body).unwrap();
        assert_eq!((view.context_id.as_deref(), view.target), (Some("c-1"), None));
    }

    #[test]
    fn methods_of_both_protocols_are_told_apart_by_how_they_name_the_task() {
        for method in ["tasks/get", "tasks/cancel"] {
            let named = format!("{method} t");
            assert_eq!(call(method, r#"{"taskId":"t"}"#), Ok((Protocol::Mcp, named.clone())));
            assert_eq!(call(method, r#"{"id":"t"}"#), Ok((Protocol::A2a, named)));
            for params in [r#"{"id":"t","taskId":"u"}"#, r#"{"taskId":"t","ID":"u"}"#, r#"{"id":"t","task_id":"u"}"#] {
                assert!(call(method, params).is_err(), "{params}");
            }
        }
        assert_eq!(call("tasks/list", "{}"), Ok((Protocol::Mcp, "tasks/list".to_owned())));
        assert_eq!(call("tasks/result", r#"{"taskId":"t"}"#), Ok((Protocol::Mcp, "tasks/result t".to_owned())));
    }

    #[test]
    fn a_task_that_another_reader_could_miss_makes_the_call_unreadable() {
        for (method, params) in [
            ("message/send", "{}"),
            ("message/send", r#"{"message":"text"}"#),
            ("message/send", r#"{"message":{"taskId":"a","TaskId":"b"}}"#),
            ("message/send", r#"{"message":{"taskId":"a","taskId":"b"}}"#),
            ("message/send", r#"{"message":{"task_id":"b"}}"#),
            ("message/send", r#"{"message":{"contextId":"a","context_id":"b"}}"#),
            ("message/send", r#"{"message":{"taskId":"a"},"Message":{"taskId":"b"}}"#),
            ("message/send", r#"{"message":{"taskId":7}}"#),
            ("message/send", r#"{"message":{"taskId":""}}"#),
            ("message/send", r#"{"message":{"taskId":"a\nb"}}"#),
            ("GetTask", r#"{"id":7}"#),
            ("GetTask", r#"{"id":null}"#),
            ("GetTask", r#"{"Id":"a"}"#),
        ] {
            assert!(call(method, params).is_err(), "{method} {params}");
        }
    }

    #[test]
    fn arguments_are_hashed_in_their_canonical_form() {
        let body = |arguments: &str| {
            format!(r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"name":"a","arguments":{arguments}}}}}"#)
        };
        let hash = |arguments: &str| read(&body(arguments)).map(|view| view.args_hash.map(|hash| hash.to_string()));
        let expected = hopseal_custody::jcs::canonical_hash(r#"{"a":1,"b":"x"}"#).unwrap().to_string();
        for arguments in [r#"{"a":1,"b":"x"}"#, r#" { "b" : "\u0078", "a":1.0 } "#] {
            assert_eq!(hash(arguments), Ok(Some(expected.clone())), "{arguments}");
        }
        for arguments in [r#"{"a":9007199254740993}"#, r#"{"a":1,"a":2}"#, r#"{"a":1e999}"#, r#""\ud800""#] {
            assert!(hash(arguments).is_err(), "{arguments}");
        }
        assert!(read(r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#).unwrap().args_hash.is_none());
    }

    #[test]
    fn headers_that_name_another_call_make_it_unreadable() {
        let body = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#;
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let Body::Call(call) = jsonrpc::read(body.as_bytes()).unwrap() else { panic!("a call") };
            view(call, &headers)
        };
        assert!(with("mcp-method", "tools/call").is_ok() && with("mcp-name", "a").is_ok());
        assert!(with("mcp-name", "=?base64?YQ==?=").is_ok());
        assert!(with("mcp-method", "tools/list").is_err() && with("mcp-name", "b").is_err());
    }
}
