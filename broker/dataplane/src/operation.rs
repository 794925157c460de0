//! What a request asks for, in the words that policy uses.
//!
//! Owns: reading the method, path and a JSON-RPC body into one operation. Does not own: the
//! decision. Both brokers derive it from the bytes that are forwarded, never from the record's
//! informative `op`.
//!
//! Rules: a body that two JSON readers could take for different calls (duplicate keys, keys that
//! differ in case, batches, JSON that does not parse or is coded, anything that streams) is
//! `unreadable`, and no MCP pattern matches it.
//!
//! Source: interfaces.md "The Agent document"; custody-wire §8.3.

use hopseal_custody::hash::ClaimHash;
use hopseal_custody::jcs::Fault;
use hopseal_custody::limits::MAX_OP_BYTES;
use http::{HeaderMap, Method, header};

use crate::grpc;
use crate::jsonrpc::{self, Body};
use crate::views::{View, view};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Mcp,
    A2a,
    Grpc,
    WebSocket,
    /// A tunnel: nothing of what passes is read.
    Connect,
    Unreadable,
}

impl Protocol {
    /// The word in the policy context.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mcp => "mcp",
            Self::A2a => "a2a",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
            Self::Connect => "connect",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One request as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub protocol: Protocol,
    /// `<METHOD> <path>`, always.
    pub http: String,
    /// `<mcp-method> <mcp-name>` for MCP, `<a2a-method> <task id>` for A2A, else the same as `http`.
    pub name: String,
    /// What the method is about: a tool's or prompt's name, a resource's URI, an A2A task's ID.
    pub target: Option<String>,
    /// The A2A context that a message belongs to.
    pub context_id: Option<String>,
    /// SHA-256 of the canonical form (RFC 8785) of `params.arguments`.
    pub args_hash: Option<ClaimHash>,
    /// Why the body could not be read, for the operator; `protocol` is `Unreadable` exactly then.
    pub unreadable: Option<&'static str>,
    /// A GET or DELETE of an MCP endpoint: it carries an MCP header and the path ends in `/mcp`. The
    /// header alone is the caller's word, and would open every other path of the component.
    pub mcp_session: bool,
}

impl Operation {
    /// The operation of a request whose path passed [`crate::path::verify_target`].
    pub fn derive(method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Self {
        let http = format!("{method} {path}");
        let mcp_session = (method == Method::GET || method == Method::DELETE)
            && is_mcp_endpoint(path)
            && (headers.contains_key("mcp-session-id") || headers.contains_key("mcp-protocol-version"));
        let plain = Self { mcp_session, ..Self::of(Protocol::Http, http) };
        match read_body(method, headers, body) {
            Ok(Some(View { protocol, name, target, context_id, args_hash })) => {
                Self { protocol, name, target, context_id, args_hash, ..plain }
            }
            Ok(None) => plain,
            Err(why) => Self { protocol: Protocol::Unreadable, unreadable: Some(why), ..plain },
        }
    }

    /// The operation of a request whose body streams: nobody has read what it asks for.
    pub fn of_stream(method: &Method, path: &str) -> Self {
        let http = format!("{method} {path}");
        if method == Method::POST {
            Self {
                unreadable: Some("its body streams, or is longer than what is read whole"),
                ..Self::of(Protocol::Unreadable, http)
            }
        } else {
            Self::of(Protocol::Http, http)
        }
    }

    /// The claim `op` of a record: the name, else the method alone, whichever has room there.
    pub fn claim(&self) -> Option<&str> {
        let method = self.name.split(' ').next().filter(|_| self.name != self.http);
        [Some(self.name.as_str()), method]
            .into_iter()
            .flatten()
            .find(|text| text.len() <= MAX_OP_BYTES && text.is_ascii())
    }

    /// An operation that its first line says whole: `<METHOD> <path>`.
    pub fn of(protocol: Protocol, http: String) -> Self {
        Self {
            protocol,
            name: http.clone(),
            http,
            target: None,
            context_id: None,
            args_hash: None,
            unreadable: None,
            mcp_session: false,
        }
    }
}

/// The operation of a request, of whose body nothing is here if it streams.
pub fn operation_of(method: &Method, path: &str, headers: &HeaderMap, body: Option<&[u8]>) -> Operation {
    let other = || match body {
        Some(body) => Operation::derive(method, path, headers, body),
        None => Operation::of_stream(method, path),
    };
    grpc::operation(method, path, headers, body).unwrap_or_else(other)
}

fn is_mcp_endpoint(path: &str) -> bool {
    path.strip_suffix('/').unwrap_or(path).ends_with("/mcp")
}

/// The call in a body; None if there is none that a JSON-RPC reader would see.
fn read_body(method: &Method, headers: &HeaderMap, body: &[u8]) -> Result<Option<View>, Fault> {
    if method != Method::POST || body.is_empty() {
        return Ok(None);
    }
    let says_json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json);
    let looks_json =
        body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b'{' | b'['));
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err("its body is compressed or coded");
    }
    if is_json_in_other_encoding(body) {
        return Err("its JSON is in another encoding than UTF-8");
    }
    if !says_json && !looks_json {
        return Ok(None);
    }
    match jsonrpc::read(body) {
        Ok(Body::Call(call)) => view(call, headers).map(Some),
        Ok(Body::Other) => Ok(None),
        Ok(Body::Unreadable(why)) => Err(why),
        Err(_) if says_json || mentions_call(body) => Err("it is not quite JSON"),
        Err(_) => Ok(None),
    }
}

/// Whether a reader that takes more than JSON could see a call in `body`.
fn mentions_call(body: &[u8]) -> bool {
    [b"jsonrpc".as_slice(), b"\\u"]
        .into_iter()
        .any(|mark| body.windows(mark.len()).any(|window| window.eq_ignore_ascii_case(mark)))
}

/// JSON behind a byte order mark or in two or four bytes a character: this reader refuses it, others
/// detect it whatever the content type says.
fn is_json_in_other_encoding(body: &[u8]) -> bool {
    let is_mark = |byte: &u8| matches!(byte, 0 | 0xbb | 0xbf | 0xef | 0xfe | 0xff);
    let Some(start) = body.iter().position(|byte| !is_mark(byte) && !byte.is_ascii_whitespace()) else { return false };
    let opens = matches!(body[start], b'{' | b'[');
    opens && (body[..start].iter().any(is_mark) || body.get(start + 1) == Some(&0))
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(content_type: &str, body: &str) -> Operation {
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        Operation::derive(&Method::POST, "/mcp", &headers, body.as_bytes())
    }

    #[test]
    fn json_rpc_calls_are_named_by_method_and_target() {
        let table = [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm.lookup","arguments":{"name":"x"}}}"#,
                "tools/call crm.lookup",
            ),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, "notifications/initialized"),
            (
                r#" {"params":{"uri":"a://b","name":"no"},"method":"resources/read","jsonrpc":"2.0"} "#,
                "resources/read a://b",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"clientInfo":{"name":"c"}}}"#, "initialize"),
            (r#"{"jsonrpc":"2.0","method":"x","params":[1,"a",null]}"#, "x"),
            (r#"{"jsonrpc":"2.0","m\u0065thod":"ping"}"#, "ping"),
        ];
        for (body, expected) in table {
            for content_type in ["application/json", "", "text/plain"] {
                let operation = derive(content_type, body);
                assert_eq!((operation.protocol, operation.name.as_str()), (Protocol::Mcp, expected), "{body}");
                assert_eq!(operation.http, "POST /mcp");
            }
        }
    }

    #[test]
    fn bodies_with_two_readings_are_unreadable() {
        let bodies = [
            r#"[{"jsonrpc":"2.0","method":"a"}]"#,
            r#"{"jsonrpc":"2.0","method":"a","method":"b"}"#,
            r#"{"jsonrpc":"2.0","method":"a","m\u0065thod":"b"}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":7}}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call crm.lookup"}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a\nb"}}"#,
            r#"{"jsonrpc":"1.0","method":"a"}"#,
            r#"{"jsonrpc":"2.0","method":7}"#,
            r#"{"jsonrpc":"2.0","method":"a"}{"jsonrpc":"2.0","method":"b"}"#,
            r#"{"jsonrpc":"2.0","method":"a""#,
            r#"{"jsonrpc":"2.0","method":"a","Method":"b"}"#,
            r#"{"jsonrpc":"2.0","method":"a","JSONRPC":"1.0"}"#,
            r#"{"JsonRpc":"2.0","method":"a"}"#,
            r#"{"jsonrpc":"2.0","method":"a","method\u0000":"b"}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"},"param\u017f":{"name":"b"}}"#,
            r#"{"jsonrpc":"2.0","method":"POST","params":{"name":"/v1/chat"}}"#,
        ];
        for body in bodies {
            assert_eq!(derive("application/json; charset=utf-8", body).protocol, Protocol::Unreadable, "{body}");
        }
        assert_eq!(derive("application/json", "not json").protocol, Protocol::Unreadable);
        for almost in
            [r#"{"jsonrpc":"2.0","method":"a",}"#, r#"{"JSONRPC":1e999,"method":"a"}"#, r#"{"\u006asonrpc":"2.0",}"#]
        {
            assert_eq!(derive("text/plain", almost).protocol, Protocol::Unreadable, "{almost}");
        }
        assert_eq!(derive("text/plain", "[section]\nkey = value").protocol, Protocol::Http);
    }

    #[test]
    fn other_bodies_are_plain_http() {
        for body in [r#"{"model":"m","messages":[]}"#, "[1,2]", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, ""] {
            assert_eq!(derive("application/json", body).protocol, Protocol::Http, "{body}");
        }
        assert_eq!(derive("text/plain", "hello").name, "POST /mcp");
        for body in [r#"{"method":"card","amount":5}"#, r#"{"method":7,"params":{}}"#, r#"{"params":{"name":"a"}}"#] {
            assert_eq!(derive("application/json", body).protocol, Protocol::Http, "{body}");
        }
    }

    /// The A2A SDK 0.3 takes a call without `jsonrpc` for one: its models have a default there.
    #[test]
    fn a_call_that_does_not_say_json_rpc_is_unreadable() {
        for body in [
            r#"{"id":1,"method":"tasks/cancel","params":{"id":"t"}}"#,
            r#"{"id":1,"method":"message/send","params":{"message":{"messageId":"m"}}}"#,
            r#"{"params":{"name":"crm.delete"},"method":"x"}"#,
            r#"{"method":"agent/getAuthenticatedExtendedCard"}"#,
            r#"{"method":"GetExtendedAgentCard","id":1}"#,
            r#"{"method":"a","method":"tasks/cancel","params":{"id":"t"}}"#,
        ] {
            for content_type in ["application/json", "", "text/plain"] {
                assert_eq!(derive(content_type, body).protocol, Protocol::Unreadable, "{body}");
            }
        }
    }

    #[test]
    fn members_of_arguments_and_of_other_json_may_be_called_anything() {
        let call = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","arguments":{"Name":"b"}}}"#;
        assert_eq!(derive("application/json", call).name, "tools/call a");
        assert_eq!(derive("application/json", r#"{"Method":"a","NAME":"b"}"#).protocol, Protocol::Http);
    }

    #[test]
    fn a_claim_without_room_for_the_name_has_the_method() {
        let named = |name: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","method":"resources/read","params":{{"uri":"{name}"}}}}"#);
            derive("application/json", &body).claim().map(ToOwned::to_owned)
        };
        let longest = "a".repeat(MAX_OP_BYTES - "resources/read ".len());
        assert_eq!(named(&longest), Some(format!("resources/read {longest}")));
        assert_eq!(named(&format!("{longest}a")).as_deref(), Some("resources/read"));
        assert_eq!(named("é").as_deref(), Some("resources/read"));
        let path = format!("/{}", "a".repeat(MAX_OP_BYTES));
        assert_eq!(Operation::of_stream(&Method::GET, &path).claim(), None);
    }

    #[test]
    fn a_coded_body_is_unreadable() {
        for (content_type, coding) in [("application/json", "gzip"), ("text/plain", "identity")] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
            let operation = Operation::derive(&Method::POST, "/mcp", &headers, b"{}");
            assert_eq!(operation.protocol, Protocol::Unreadable);
        }
    }

    #[test]
    fn json_in_another_encoding_is_unreadable_whatever_it_says_it_is() {
        let text = r#" {"jsonrpc":"2.0","method":"a"}"#;
        let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
        let bodies = [
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            wide(u16::to_le_bytes),
            wide(u16::to_be_bytes),
            b"{\0".to_vec(),
        ];
        for body in bodies {
            let operation = Operation::derive(&Method::POST, "/mcp", &HeaderMap::new(), &body);
            assert_eq!(operation.protocol, Protocol::Unreadable, "{body:?}");
        }
        let frame = b"\0\0\0\0\x05\x0a\x03abc";
        assert_eq!(Operation::derive(&Method::POST, "/s/m", &HeaderMap::new(), frame).protocol, Protocol::Http);
    }

    #[test]
    fn a_get_with_an_mcp_header_belongs_to_a_session() {
        let mut headers = HeaderMap::new();
        assert!(!Operation::derive(&Method::GET, "/mcp", &headers, b"").mcp_session);
        headers.insert("mcp-session-id", "1".parse().unwrap());
        assert!(Operation::derive(&Method::GET, "/mcp", &headers, b"").mcp_session);
        assert!(!Operation::derive(&Method::POST, "/mcp", &headers, b"").mcp_session);
        assert!(Operation::derive(&Method::DELETE, "/api/mcp/", &headers, b"").mcp_session);
        for path in ["/", "/admin", "/xmcp", "/mcp/users"] {
            assert!(!Operation::derive(&Method::DELETE, path, &headers, b"").mcp_session, "{path}");
        }
    }
}
