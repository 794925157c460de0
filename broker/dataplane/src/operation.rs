//! What a request asks for, in the words that policy uses.
//!
//! Owns: reading the method, path and a JSON-RPC body into one operation. Does not own: the
//! decision. Both brokers derive it from the bytes that are forwarded, never from the record's
//! informative `op`.
//!
//! Rules: a body that two JSON readers could take for different calls (duplicate keys, batches,
//! JSON that does not parse) is `unreadable`, and no MCP pattern matches it.
//!
//! Source: interfaces.md "The Agent document"; custody-wire §8.3.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, Method, header};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Longest MCP method that is taken for one; no registered method comes near.
const MAX_METHOD_BYTES: usize = 64;
/// Longest tool name or resource URI in an operation.
const MAX_NAME_BYTES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Mcp,
    Unreadable,
}

impl Protocol {
    /// The word in the policy context.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mcp => "mcp",
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
    /// `<mcp-method> <mcp-name>` for MCP, else the same as `http`.
    pub name: String,
    /// A GET or DELETE of an MCP endpoint (it carries an MCP header).
    pub mcp_session: bool,
}

impl Operation {
    /// The operation of a request whose path passed [`crate::path::verify_target`].
    pub fn derive(method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Self {
        let http = format!("{method} {path}");
        let mcp_session = (method == Method::GET || method == Method::DELETE)
            && (headers.contains_key("mcp-session-id") || headers.contains_key("mcp-protocol-version"));
        let (protocol, name) = match read_body(method, headers, body) {
            Body::Call(name) => (Protocol::Mcp, name),
            Body::Other => (Protocol::Http, http.clone()),
            Body::Unreadable => (Protocol::Unreadable, http.clone()),
        };
        Self { protocol, http, name, mcp_session }
    }
}

enum Body {
    Call(String),
    Other,
    Unreadable,
}

fn read_body(method: &Method, headers: &HeaderMap, body: &[u8]) -> Body {
    if method != Method::POST || body.is_empty() {
        return Body::Other;
    }
    let says_json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json);
    let coded = headers.contains_key(header::CONTENT_ENCODING);
    let looks_json = body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b'{' | b'['));
    if coded {
        return if says_json { Body::Unreadable } else { Body::Other };
    }
    if !says_json && !looks_json {
        return Body::Other;
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let message = Top.deserialize(&mut reader).and_then(|message| reader.end().map(|()| message));
    match message {
        Ok(message) => message.into_body(),
        Err(_) if says_json => Body::Unreadable,
        Err(_) => Body::Other,
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// The members of a JSON-RPC message that name the call; everything else is skipped.
#[derive(Default)]
struct Message {
    batch: bool,
    ambiguous: bool,
    json_rpc: Option<String>,
    has_json_rpc: bool,
    method: Option<String>,
    name: Option<String>,
    uri: Option<String>,
}

impl Message {
    fn into_body(self) -> Body {
        if self.batch || self.ambiguous {
            return Body::Unreadable;
        }
        if !self.has_json_rpc {
            return Body::Other;
        }
        let Some(method) = self.method else { return Body::Other };
        if self.json_rpc.as_deref() != Some("2.0") || !is_method(&method) {
            return Body::Unreadable;
        }
        let target = if method.starts_with("resources/") { self.uri } else { self.name };
        match target {
            Some(target) if is_name(&target) => Body::Call(format!("{method} {target}")),
            Some(_) => Body::Unreadable,
            None => Body::Call(method),
        }
    }
}

fn is_method(method: &str) -> bool {
    (1..=MAX_METHOD_BYTES).contains(&method.len())
        && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./$".contains(&byte))
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// The top level of the body. Its members are compared after unescaping, so `"m\u0065thod"` is
/// `method`; a second one of any name makes the message ambiguous.
struct Top;

impl<'de> DeserializeSeed<'de> for Top {
    type Value = Message;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Message, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top {
    type Value = Message;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object or array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
        let mut message = Message::default();
        let mut seen: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "jsonrpc" => {
                    message.has_json_rpc = true;
                    message.json_rpc = map.next_value::<Scalar>()?.0;
                }
                "method" => {
                    let method = map.next_value::<Scalar>()?.0;
                    message.ambiguous |= method.is_none();
                    message.method = method;
                }
                "params" => map.next_value_seed(Params(&mut message))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            message.ambiguous |= is_repeated(&mut seen, key);
        }
        message.ambiguous &= message.has_json_rpc;
        Ok(message)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Message, A::Error> {
        let mut batch = false;
        while let Some(element) = sequence.next_element_seed(Element)? {
            batch |= element;
        }
        Ok(Message { batch, ..Message::default() })
    }
}

/// Remembers `key` and says whether it was there before. Messages have few members; a longer list
/// than any real one counts as repeated rather than being searched for ever.
fn is_repeated(seen: &mut Vec<String>, key: Cow<'_, str>) -> bool {
    let repeated = seen.len() >= 64 || seen.iter().any(|other| *other == *key);
    if seen.len() < 64 {
        seen.push(key.into_owned());
    }
    repeated
}

/// `params`: its `name` and `uri` if it is an object.
struct Params<'a>(&'a mut Message);

impl<'de> DeserializeSeed<'de> for Params<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Params<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = Vec::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let slot = match &*key {
                "name" => Some(&mut self.0.name),
                "uri" => Some(&mut self.0.uri),
                _ => None,
            };
            match slot {
                Some(slot) => {
                    *slot = map.next_value::<Scalar>()?.0;
                    self.0.ambiguous |= slot.is_none();
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            self.0.ambiguous |= is_repeated(&mut seen, key);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Text, or `None` for any other JSON value.
struct Scalar(Option<String>);

impl<'de> serde::Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Any {
            Text(String),
            Other(IgnoredAny),
        }
        Ok(match Any::deserialize(deserializer)? {
            Any::Text(text) => Self(Some(text)),
            Any::Other(IgnoredAny) => Self(None),
        })
    }
}

/// One element of a top-level array: whether it looks like a JSON-RPC message.
struct Element;

impl<'de> DeserializeSeed<'de> for Element {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        let value = <serde_json::Value as serde::Deserialize>::deserialize(deserializer)?;
        Ok(value.get("jsonrpc").is_some())
    }
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
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm.lookup","arguments":{"name":"x"}}}"#, "tools/call crm.lookup"),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, "notifications/initialized"),
            (r#" {"params":{"uri":"a://b","name":"no"},"method":"resources/read","jsonrpc":"2.0"} "#, "resources/read a://b"),
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
        ];
        for body in bodies {
            assert_eq!(derive("application/json; charset=utf-8", body).protocol, Protocol::Unreadable, "{body}");
        }
        assert_eq!(derive("application/json", "not json").protocol, Protocol::Unreadable);
    }

    #[test]
    fn other_bodies_are_plain_http() {
        for body in [r#"{"model":"m","messages":[]}"#, "[1,2]", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, ""] {
            assert_eq!(derive("application/json", body).protocol, Protocol::Http, "{body}");
        }
        assert_eq!(derive("text/plain", "hello").name, "POST /mcp");
    }

    #[test]
    fn a_compressed_json_body_is_unreadable() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        let operation = Operation::derive(&Method::POST, "/mcp", &headers, b"\x1f\x8b");
        assert_eq!(operation.protocol, Protocol::Unreadable);
    }

    #[test]
    fn a_get_with_an_mcp_header_belongs_to_a_session() {
        let mut headers = HeaderMap::new();
        assert!(!Operation::derive(&Method::GET, "/mcp", &headers, b"").mcp_session);
        headers.insert("mcp-session-id", "1".parse().unwrap());
        assert!(Operation::derive(&Method::GET, "/mcp", &headers, b"").mcp_session);
        assert!(!Operation::derive(&Method::POST, "/mcp", &headers, b"").mcp_session);
    }
}
