//! The call that a JSON-RPC 2.0 message names, read so that no other reader can see another one.
//!
//! Owns: strictness about duplicate members, batches and types. Does not own: which requests are
//! looked at (see `operation`), and what the members mean to a protocol (see `views`).

use std::borrow::Cow;
use std::fmt;

use hopseal_custody::hash::ClaimHash;
use hopseal_custody::jcs::{self, Fault};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::views;

/// Longest method that is taken for one; no registered method comes near.
const MAX_METHOD_BYTES: usize = 64;

/// Members that say which call it is: of a message, of its `params`, and of an A2A message in them. In lower case.
const OF_MESSAGE: [&str; 3] = ["jsonrpc", "method", "params"];
const OF_PARAMS: [&str; 3] = ["name", "uri", "arguments"];
const OF_TASK: [&str; 5] = ["id", "taskid", "task_id", "contextid", "context_id"];
const OF_A2A: [&str; 1] = ["message"];

const TWO_READINGS: Fault =
    "its JSON can be read in two ways: a member occurs twice, or beside one that differs in case";

/// What a JSON body is.
pub enum Body {
    Call(Call),
    /// No JSON-RPC call.
    Other,
    /// Could be read as different calls; why.
    Unreadable(Fault),
}

/// One call.
pub struct Call {
    pub method: String,
    pub params: Params,
}

/// A member that should be text.
#[derive(Default, Clone, PartialEq, Eq)]
pub enum Field {
    #[default]
    Absent,
    Text(String),
    /// Another JSON value: whether a reader makes text of it is not known.
    Other,
}

/// The members of `params` that say what a call is about.
#[derive(Default)]
pub struct Params {
    pub name: Field,
    pub uri: Field,
    pub id: Field,
    pub task_id: Field,
    /// `taskId` and `contextId` of the member `message`.
    pub message_task: Field,
    pub message_context: Field,
    /// Whether `message` is an object.
    pub has_message: bool,
    /// Whether another reader could see another task or context.
    pub task_is_ambiguous: bool,
    /// Hash of `arguments`, or why it has none.
    pub args_hash: Option<Result<ClaimHash, Fault>>,
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
    json_rpc: Field,
    has_json_rpc: bool,
    method: Field,
    has_params: bool,
    params: Params,
}

impl Message {
    fn into_body(self) -> Body {
        if self.batch {
            return Body::Unreadable("it is a batch of messages");
        }
        if !self.has_json_rpc && !self.looks_like_call() {
            return Body::Other;
        }
        if self.ambiguous {
            return Body::Unreadable(TWO_READINGS);
        }
        let Field::Text(method) = self.method else { return Body::Other };
        if self.json_rpc != Field::Text("2.0".to_owned()) || !is_method(&method) {
            return Body::Unreadable("its JSON-RPC version or method is none that is known");
        }
        Body::Call(Call { method, params: self.params })
    }

    /// Whether a reader that takes the version for granted would see a call: the A2A SDK 0.3 has a default for it.
    fn looks_like_call(&self) -> bool {
        matches!(&self.method, Field::Text(method) if is_method(method)
            && (self.has_params || method.contains('/') || views::is_of_a2a(method)))
    }
}

/// Capitals alone would read as an HTTP operation (`POST /path`) together with the target.
fn is_method(method: &str) -> bool {
    !method.bytes().all(|byte| byte.is_ascii_uppercase())
        && (1..=MAX_METHOD_BYTES).contains(&method.len())
        && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./$".contains(&byte))
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
                    message.json_rpc = map.next_value()?;
                }
                "method" => {
                    message.method = map.next_value()?;
                    message.ambiguous |= message.method == Field::Other;
                }
                "params" => {
                    message.has_params = true;
                    message.ambiguous |= map.next_value_seed(InParams(&mut message.params))?;
                }
                other => {
                    message.ambiguous |= is_lookalike(other, &OF_MESSAGE);
                    message.has_json_rpc |= is_lookalike(other, &OF_MESSAGE[..1]);
                    map.next_value::<IgnoredAny>()?;
                }
            }
            message.ambiguous |= is_repeated(&mut seen, key);
        }
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

/// A value of which only an object is looked at. Whether it could be read in two ways is the result.
macro_rules! reads_object {
    ($seed:ident) => {
        impl<'de> DeserializeSeed<'de> for $seed<'_> {
            type Value = bool;
            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        impl<'de> Visitor<'de> for $seed<'_> {
            type Value = bool;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("any JSON value")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
                self.read(map)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<bool, A::Error> {
                while sequence.next_element::<IgnoredAny>()?.is_some() {}
                Ok(false)
            }
            fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
                Ok(false)
            }
            fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
                Ok(false)
            }
            fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
                Ok(false)
            }
            fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
                Ok(false)
            }
            fn visit_str<E>(self, _: &str) -> Result<bool, E> {
                Ok(false)
            }
            fn visit_unit<E>(self) -> Result<bool, E> {
                Ok(false)
            }
        }
    };
}

/// `params` of a message.
struct InParams<'a>(&'a mut Params);
reads_object!(InParams);

impl InParams<'_> {
    fn read<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let params = self.0;
        let (mut seen, mut ambiguous) = (Vec::new(), false);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "name" => params.name = map.next_value()?,
                "uri" => params.uri = map.next_value()?,
                "id" => params.id = map.next_value()?,
                "taskId" => params.task_id = map.next_value()?,
                "message" => {
                    let twice = map.next_value_seed(InMessage(params))?;
                    params.task_is_ambiguous |= twice;
                }
                "arguments" => {
                    let arguments: &RawValue = map.next_value()?;
                    params.args_hash = Some(jcs::canonical_hash(arguments.get()));
                }
                other => {
                    ambiguous |= is_lookalike(other, &OF_PARAMS);
                    params.task_is_ambiguous |= is_lookalike(other, &OF_TASK) || is_lookalike(other, &OF_A2A);
                    map.next_value::<IgnoredAny>()?;
                }
            }
            ambiguous |= is_repeated(&mut seen, key);
        }
        Ok(ambiguous)
    }
}

/// The `message` of an A2A call.
struct InMessage<'a>(&'a mut Params);
reads_object!(InMessage);

impl InMessage<'_> {
    fn read<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let params = self.0;
        params.has_message = true;
        let (mut seen, mut ambiguous) = (Vec::new(), false);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "taskId" => params.message_task = map.next_value()?,
                "contextId" => params.message_context = map.next_value()?,
                other => {
                    ambiguous |= is_lookalike(other, &OF_TASK[1..]);
                    map.next_value::<IgnoredAny>()?;
                }
            }
            ambiguous |= is_repeated(&mut seen, key);
        }
        Ok(ambiguous)
    }
}

impl<'de> serde::Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Any {
            Text(String),
            Other(IgnoredAny),
        }
        Ok(match Any::deserialize(deserializer)? {
            Any::Text(text) => Self::Text(text),
            Any::Other(IgnoredAny) => Self::Other,
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
