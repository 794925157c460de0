//! JSON of tokens, which others write: fractions are allowed, nothing else is looser than in payloads.
//!
//! Owns: no duplicate names, bounded depth, numbers that every reader sees alike. Does not own: what members mean.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};

use crate::limits::{MAX_INTEGER, MAX_TOKEN_JSON_DEPTH};

/// The members of the JSON object in `bytes`.
///
/// # Errors
/// Not UTF-8, not JSON, a duplicate name, a number out of range, too deep, or not an object.
pub(crate) fn parse_token_object(bytes: &[u8]) -> Result<Map<String, Json>, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Unique { depth: 1 }.deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    match value {
        Json::Object(members) => Ok(members),
        _ => Err("the JSON text is not an object".into()),
    }
}

/// An integer that every reader takes for the same number, from 0.
pub(crate) fn exact_integer(value: &Json) -> Option<i64> {
    value.as_i64().filter(|number| (0..=MAX_INTEGER).contains(number))
}

/// The claims as a log line can hold them: a number that not every reader takes alike becomes its text.
pub(crate) fn exact(claims: &Map<String, Json>) -> Map<String, Json> {
    claims.iter().map(|(name, value)| (name.clone(), exact_value(value))).collect()
}

fn exact_value(value: &Json) -> Json {
    match value {
        Json::Number(number) if !number.as_i64().is_some_and(|n| (-MAX_INTEGER..=MAX_INTEGER).contains(&n)) => {
            Json::String(number.to_string())
        }
        Json::Array(items) => Json::Array(items.iter().map(exact_value).collect()),
        Json::Object(members) => Json::Object(exact(members)),
        other => other.clone(),
    }
}

/// Reads one value at nesting `depth`, counted from 1.
#[derive(Clone, Copy)]
struct Unique {
    depth: usize,
}

impl Unique {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth > MAX_TOKEN_JSON_DEPTH {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Json;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let value = access.next_value_seed(inner)?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member name is repeated"));
            }
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_strict_reader_cannot_read_become_text_in_the_log() {
        let claims = br#"{"sub":"u","exp":7,"amr":["a",0.5],"act":{"act":{"n":1.5}},"big":9007199254740993}"#;
        let exact = exact(&parse_token_object(claims).unwrap());
        let expected = serde_json::json!(
            {"sub": "u", "exp": 7, "amr": ["a", "0.5"], "act": {"act": {"n": "1.5"}}, "big": "9007199254740993"}
        );
        assert_eq!(Json::Object(exact), expected);
    }
}
