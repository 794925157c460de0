//! The call that a JSON-RPC 2.0 message names, read so that no other reader can see another one.
//!
//! Owns: strictness about duplicate members, batches and types. Does not own: which requests are
//! looked at (see `operation`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Longest MCP method that is taken for one; no registered method comes near.
const MAX_METHOD_BYTES: usize = 64;
/// Longest tool name or resource URI in an operation.
const MAX_NAME_BYTES: usize = 512;

/// Members that say which call it is: of a message, and of its `params`.
const OF_MESSAGE: [&str; 3] = ["jsonrpc", "method", "params"];
const OF_PARAMS: [&str; 2] = ["name", "uri"];

/// What a JSON body is.
pub enum Body {
    /// One call: `<method> <name>` or `<method>`.
    Call(String),
    /// No JSON-RPC call.
    Other,
    /// Could be read as different calls.
    Unreadable,
}

/// Reads a whole body.
///
/// # Errors
/// It is not one JSON value.
pub fn read(body: &[u8]) -> serde_json::Result<Body> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let message = Top.deserialize(&mut reader)?;
    reader.end()?;
    Ok(message.into_body())
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

/// Capitals alone would read as an HTTP operation (`POST /path`) together with the target.
fn is_method(method: &str) -> bool {
    !method.bytes().all(|byte| byte.is_ascii_uppercase())
        && (1..=MAX_METHOD_BYTES).contains(&method.len())
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
                other => {
                    message.ambiguous |= is_lookalike(other, &OF_MESSAGE);
                    message.has_json_rpc |= is_lookalike(other, &OF_MESSAGE[..1]);
                    map.next_value::<IgnoredAny>()?;
                }
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

/// Whether another reader could take `key` for one of `names`: Go's ignores case as Unicode folds it,
/// readers in C end a name at a zero byte.
fn is_lookalike(key: &str, names: &[&str]) -> bool {
    let read = key.split('\0').next().unwrap_or_default();
    let folded: String =
        read.chars().take(MAX_METHOD_BYTES).flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
    names.contains(&folded.as_str())
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
                None => {
                    self.0.ambiguous |= is_lookalike(&key, &OF_PARAMS);
                    map.next_value::<IgnoredAny>()?;
                }
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
