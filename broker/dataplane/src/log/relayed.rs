//! A line that another process made for this log: it gets a number and a time here.
//!
//! Source: docs/adr/0017.

use hopseal_custody::record::Record;
use hopseal_custody::seal::UnverifiedStatement;
use hopseal_custody::statement::StatementClaims as _;
use serde_json::{Map, Value};

use super::line::{LineStart, ReadLine, checked_json};
use super::scan::Accepted;

/// One entry as JSON, its number and time to be given.
#[derive(Debug, Clone)]
pub struct Relayed {
    form: Form,
    /// The record that it tells of, if it was accepted from a peer.
    accepted: Option<Accepted>,
}

#[derive(Debug, Clone)]
enum Form {
    /// What follows number and time, where these come first.
    Tail(String),
    Members(Map<String, Value>),
}

impl Relayed {
    /// The entry in one line without its newline; None if that is none.
    pub fn parse(line: &str) -> Option<Self> {
        let json = checked_json(line.as_bytes())?;
        let read: ReadLine = serde_json::from_slice(json).ok()?;
        let form = match LineStart::read(json) {
            Some(start) => {
                let mark = format!(",\"type\":\"{}\"", start.r#type);
                let text = std::str::from_utf8(json).ok()?;
                Form::Tail(text.get(text.find(&mark)?..)?.to_owned())
            }
            None => Form::Members(serde_json::from_slice(json).ok()?),
        };
        Some(Self { form, accepted: read.into_used().filter(|used| !used.is_refused) })
    }

    pub fn accepted(&self) -> Option<&Accepted> {
        self.accepted.as_ref()
    }

    /// The JSON of its line.
    pub fn to_json(&self, n: u64, at_ms: u64) -> Vec<u8> {
        match &self.form {
            Form::Tail(tail) => format!("{{\"n\":{n},\"at_ms\":{at_ms}{tail}").into_bytes(),
            Form::Members(members) => {
                let mut members = members.clone();
                members.insert("n".into(), n.into());
                members.insert("at_ms".into(), at_ms.into());
                Value::Object(members).to_string().into_bytes()
            }
        }
    }
}

impl Accepted {
    /// Who began the chain; None if its text cannot be read.
    pub fn root_issuer(&self) -> Option<String> {
        let Some(sealed) = &self.root else { return Some(self.iss.clone()) };
        Some(Record::parse(UnverifiedStatement::parse(sealed).ok()?.claims()).ok()?.iss.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Entry;
    use super::super::samples::received;
    use super::*;

    fn lines(entry: &Entry, n: u64, at_ms: u64) -> String {
        let mut lines = Vec::new();
        entry.write_line(n, at_ms, &mut lines).unwrap();
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn an_entry_is_the_same_under_another_number_and_time() {
        let certificate = Entry::Certificate { x5t: "a".into(), der: "b".into() };
        let tricky = Entry::Start { node: r#",\"type\":\"rec\""#.into() };
        for entry in [received("j", 7), certificate, tricky, Entry::Start { node: "n".into() }] {
            let relayed = Relayed::parse(lines(&entry, 3, 9).trim_end()).unwrap();
            assert_eq!(lines(&Entry::Relayed(relayed), 12, 10), lines(&entry, 12, 10));
        }
    }

    #[test]
    fn only_accepted_records_of_peers_are_used_up() {
        let relayed = Relayed::parse(lines(&received("j", 7), 3, 9).trim_end()).unwrap();
        let accepted = relayed.accepted().unwrap();
        assert_eq!((accepted.jti.as_str(), accepted.exp), ("j", 7));
        assert_eq!(accepted.root_issuer().as_deref(), Some(accepted.iss.as_str()));
        assert_eq!(Entry::Relayed(relayed).replayable_until(), Some(7));
        let start = Relayed::parse(lines(&Entry::Start { node: "n".into() }, 0, 0).trim_end()).unwrap();
        assert!(start.accepted().is_none());
    }

    #[test]
    fn what_is_damaged_is_no_entry() {
        let line = lines(&received("j", 7), 3, 9);
        assert!(Relayed::parse(&line.replace("\"j\"", "\"k\"")).is_none());
        assert!(Relayed::parse("").is_none());
    }
}
