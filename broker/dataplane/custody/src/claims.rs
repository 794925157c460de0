//! Members of a JSON object, read by name and type, and written.
//!
//! Owns: what claims of each form are. Does not own: which claims a statement has.

use crate::error::{Result, malformed};
use crate::hash::StatementHash;
use crate::json::Value;

/// Members of one object, read by name and type.
pub(crate) struct Claims<'a>(pub(crate) &'a [(String, Value)]);

impl<'a> Claims<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(malformed(format!("{name} is not a string"))),
        }
    }

    pub(crate) fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| malformed(format!("{name} is not of its form")))
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Integer(number)) if *number >= 0 => Ok(Some(*number)),
            Some(_) => Err(malformed(format!("{name} is not an integer from 0"))),
        }
    }

    /// A mandatory count of bytes.
    pub(crate) fn length(&self, name: &str) -> Result<u64> {
        let length = self.integer(name)?.and_then(|length| u64::try_from(length).ok());
        required(name, length)
    }

    /// A count that may be absent.
    pub(crate) fn count(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.integer(name)?.and_then(|number| u64::try_from(number).ok()))
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(malformed(format!("{name} is not a boolean"))),
        }
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<&'a [(String, Value)]>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(members)),
            Some(_) => Err(malformed(format!("{name} is not an object"))),
        }
    }

    pub(crate) fn array(&self, name: &str, most: usize) -> Result<&'a [Value]> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) if items.len() <= most => Ok(items),
            Some(_) => Err(malformed(format!("{name} is not an array of at most {most}"))),
        }
    }

    pub(crate) fn only(&self, names: &[&str]) -> Result<()> {
        if self.0.iter().all(|(name, _)| names.contains(&name.as_str())) {
            return Ok(());
        }
        Err(malformed("an object has a member that is not understood"))
    }
}

/// Members of one object that is written.
#[derive(Default)]
pub(crate) struct Members(Vec<(String, Value)>);

impl Members {
    pub(crate) fn add(&mut self, name: &str, value: Value) -> &mut Self {
        self.0.push((name.to_owned(), value));
        self
    }

    pub(crate) fn maybe(&mut self, name: &str, value: Option<Value>) -> &mut Self {
        self.0.extend(value.map(|value| (name.to_owned(), value)));
        self
    }

    pub(crate) fn into_vec(self) -> Vec<(String, Value)> {
        self.0
    }
}

pub(crate) fn text<T: ToString + ?Sized>(value: &T) -> Value {
    Value::Text(value.to_string())
}

pub(crate) fn integer(number: i64) -> Value {
    Value::Integer(number)
}

/// A count of bytes or of statements; one that no claim can hold is refused when the payload is made.
pub(crate) fn count(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(crate) fn required<T>(name: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| malformed(format!("{name} is absent")))
}

pub(crate) fn bounded(text: &str, least: usize, most: usize) -> Option<String> {
    (least..=most).contains(&text.len()).then(|| text.to_owned())
}

/// A list of at most `most` statement hashes; absent is empty.
pub(crate) fn parse_hashes(claims: &Claims<'_>, name: &str, most: usize) -> Result<Vec<StatementHash>> {
    let refuse = || malformed(format!("{name} holds something else than hashes"));
    let parse = |item: &Value| match item {
        Value::Text(text) => StatementHash::parse(text).ok_or_else(refuse),
        _ => Err(refuse()),
    };
    claims.array(name, most)?.iter().map(parse).collect()
}
