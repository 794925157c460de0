//! The canonical form of JSON text: one sequence of bytes for each value (RFC 8785).
//!
//! Owns: reading any JSON that has such a form, and writing it. Does not own: what is done with it (the hash of a tool's
//! arguments, custody-wire §9.6).
//!
//! Rules: names are unique after unescaping; strings are Unicode, so an unpaired surrogate is refused; a number is taken
//! for the nearest double; refused are one that is none (too large, or too small to be told from zero) and an integer
//! whose double is printed as another one (2^53 + 1). What is refused has no canonical form here, and its hash
//! would stand for more than one value.
//!
//! Source: RFC 8785 §3.2; ECMA-262 `Number::toString`.

use std::ops::Range;

use crate::hash::{ClaimHash, sha256};
use crate::json::write_text;
use crate::limits::MAX_CANONICAL_DEPTH;

/// Why JSON text has no canonical form; for the operator.
pub type Fault = &'static str;

const NOT_JSON: Fault = "it is not JSON";

/// The canonical bytes of one JSON value.
///
/// # Errors
/// It is not JSON, or has no canonical form.
pub fn canonicalize(json: &str) -> Result<String, Fault> {
    let mut reader = Reader { json, at: 0, out: String::with_capacity(json.len()) };
    reader.skip_space();
    reader.read_value(1)?;
    reader.skip_space();
    if reader.at == json.len() { Ok(reader.out) } else { Err(NOT_JSON) }
}

/// SHA-256 of the canonical bytes of one JSON value.
///
/// # Errors
/// As [`canonicalize`].
pub fn canonical_hash(json: &str) -> Result<ClaimHash, Fault> {
    Ok(ClaimHash(sha256(canonicalize(json)?.as_bytes())))
}

/// Reads at `at` and appends what it read to `out`.
struct Reader<'a> {
    json: &'a str,
    at: usize,
    out: String,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether the next byte that is no white space is `byte`; it is read then.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn text_to(&self, end: usize) -> Result<&'a str, Fault> {
        self.json.get(self.at..end).ok_or(NOT_JSON)
    }

    fn read_value(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek() {
            Some(b'{' | b'[') if depth > MAX_CANONICAL_DEPTH => Err("its JSON is nested too deep"),
            Some(b'{') => self.read_object(depth),
            Some(b'[') => self.read_array(depth),
            Some(b'"') => {
                let text = self.read_string()?;
                write_text(&text, &mut self.out);
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => self.read_number(),
            _ => self.read_word(),
        }
    }

    fn read_word(&mut self) -> Result<(), Fault> {
        let rest = self.text_to(self.json.len())?;
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word)).ok_or(NOT_JSON)?;
        self.at += word.len();
        self.out.push_str(word);
        Ok(())
    }

    fn read_array(&mut self, depth: usize) -> Result<(), Fault> {
        self.at += 1;
        self.out.push('[');
        if !self.take(b']') {
            loop {
                self.skip_space();
                self.read_value(depth + 1)?;
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(NOT_JSON);
                }
                self.out.push(',');
            }
        }
        self.out.push(']');
        Ok(())
    }

    fn read_object(&mut self, depth: usize) -> Result<(), Fault> {
        self.at += 1;
        let start = self.out.len();
        let mut members: Vec<(String, Range<usize>)> = Vec::new();
        if !self.take(b'}') {
            loop {
                self.skip_space();
                members.push(self.read_member(depth)?);
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(NOT_JSON);
                }
            }
        }
        self.order(start, members)
    }

    /// A member's name, and where its canonical text stands in `out`.
    fn read_member(&mut self, depth: usize) -> Result<(String, Range<usize>), Fault> {
        let start = self.out.len();
        if self.peek() != Some(b'"') {
            return Err(NOT_JSON);
        }
        let name = self.read_string()?;
        write_text(&name, &mut self.out);
        if !self.take(b':') {
            return Err(NOT_JSON);
        }
        self.out.push(':');
        self.skip_space();
        self.read_value(depth + 1)?;
        Ok((name, start..self.out.len()))
    }

    /// Puts the members that `out` holds from `start` into the order of their names as UTF-16, with brackets.
    fn order(&mut self, start: usize, mut members: Vec<(String, Range<usize>)>) -> Result<(), Fault> {
        members.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
        if members.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            return Err("a member of its JSON occurs twice");
        }
        let unordered = self.out.split_off(start);
        self.out.push('{');
        for (position, (_, range)) in members.into_iter().enumerate() {
            if position > 0 {
                self.out.push(',');
            }
            let text = unordered.get(range.start - start..range.end - start);
            self.out.push_str(text.ok_or(NOT_JSON)?);
        }
        self.out.push('}');
        Ok(())
    }

    fn read_string(&mut self) -> Result<String, Fault> {
        let bytes = self.json.as_bytes().get(self.at + 1..).ok_or(NOT_JSON)?;
        let mut escaped = false;
        let length = bytes.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let end = self.at + length.ok_or(NOT_JSON)? + 2;
        let token = self.text_to(end)?;
        self.at = end;
        serde_json::from_str(token).map_err(|_| "a string of its JSON is malformed")
    }

    fn read_number(&mut self) -> Result<(), Fault> {
        let rest = self.text_to(self.json.len())?;
        let is_part = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        let token = rest.get(..rest.bytes().position(|byte| !is_part(byte)).unwrap_or(rest.len())).ok_or(NOT_JSON)?;
        let number = Number::read(token).ok_or(NOT_JSON)?;
        self.at += token.len();
        number.write(&mut self.out)
    }
}

/// A number of JSON's grammar.
struct Number<'a> {
    token: &'a str,
    is_integer: bool,
    /// Whether a digit before the exponent is not zero.
    is_nonzero: bool,
}

impl<'a> Number<'a> {
    /// None unless all of `token` is one number.
    fn read(token: &'a str) -> Option<Self> {
        let unsigned = token.strip_prefix('-').unwrap_or(token);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let exponent_digits = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
        let holds = is_digits(whole)
            && (whole.len() == 1 || !whole.starts_with('0'))
            && fraction.is_none_or(is_digits)
            && exponent_digits.is_none_or(is_digits);
        holds.then(|| Self {
            token,
            is_integer: fraction.is_none() && exponent.is_none(),
            is_nonzero: mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9')),
        })
    }

    fn write(&self, out: &mut String) -> Result<(), Fault> {
        let value: f64 = self.token.parse().map_err(|_| NOT_JSON)?;
        if !value.is_finite() || (value == 0.0) == self.is_nonzero {
            return Err("a number of its JSON is no double");
        }
        let start = out.len();
        write_double(value, out);
        if self.is_integer && self.is_nonzero && out.get(start..) != Some(self.token) {
            return Err("an integer of its JSON is not exact as a double");
        }
        Ok(())
    }
}

/// The fewest digits that lead back to `value` and of those the nearest to it, with an exponent.
fn shortest(value: f64) -> String {
    let shortest = format!("{value:e}");
    let digits = shortest.split('e').next().map_or(0, |mantissa| mantissa.len().saturating_sub(2));
    // Two may be equally near: ECMAScript takes the even one, Rust only where it is told how many digits to print.
    let nearest = format!("{value:.digits$e}");
    if nearest.parse() == Ok(value) { nearest } else { shortest }
}

/// Appends `value` as ECMAScript prints it.
fn write_double(value: f64, out: &mut String) {
    if value == 0.0 {
        out.push('0');
        return;
    }
    if value < 0.0 {
        out.push('-');
    }
    let text = shortest(value.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = mantissa.replace('.', "");
    // ECMA-262 calls the place of the decimal point n: it stands after the n-th digit.
    let point = exponent.parse::<i32>().unwrap_or_default() + 1;
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    let (head, tail) = digits.split_at_checked(usize::try_from(point).unwrap_or_default()).unwrap_or((&digits, ""));
    match point {
        1..=21 if count <= point => out.extend([digits.as_str(), &zeros(point - count)]),
        1..=21 => out.extend([head, ".", tail]),
        -5..=0 => out.extend(["0.", &zeros(-point), &digits]),
        _ => {
            let (first, rest) = digits.split_at_checked(1).unwrap_or((&digits, ""));
            let sign = if point > 0 { "+" } else { "-" };
            let dot = if rest.is_empty() { "" } else { "." };
            out.extend([first, dot, rest, "e", sign, &(point - 1).abs().to_string()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_comes_out_as_it_prints_it() {
        let json = r#"{
          "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
          "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
          "literals": [null, true, false]
        }"#;
        let expected = concat!(
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
            r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
        assert_eq!(canonicalize(json), Ok(expected.to_owned()));
    }

    #[test]
    fn only_json_with_a_canonical_form_has_one() {
        for json in [
            "",
            "nul",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "--1",
            "\"a",
            "\"\\ud800\"",
            "\"\t\"",
            "1 2",
            "{\"a\":1,\"\\u0061\":2}",
            "9007199254740993",
            "1e400",
            "1e-400",
            "NaN",
        ] {
            assert!(canonicalize(json).is_err(), "{json}");
        }
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(canonicalize(&nested(MAX_CANONICAL_DEPTH)).is_ok());
        assert!(canonicalize(&nested(MAX_CANONICAL_DEPTH + 1)).is_err());
    }
}
