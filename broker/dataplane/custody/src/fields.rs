//! The Custody fields of raw header lists: of requests, responses and trailers (custody-wire §4.1, §6.1 to 6.3).
//!
//! Owns: names, counts, sizes and list syntax, before anything is decoded.

use crate::binding::{HeaderLine, trim};
use crate::error::{Code, Rejection, Result, malformed};
use crate::hash::decode_base64;
use crate::limits::{
    MAX_CERT_DER_BYTES, MAX_CERTS, MAX_CERTS_BYTES, MAX_CHAIN_BYTES, MAX_FIELDS_BYTES, MAX_SEALED_BYTES,
};

/// Request field with the newest record.
pub const RECORD: &str = "custody-record";
/// Request field with the ancestors, oldest first.
pub const CHAIN: &str = "custody-chain";
/// Field with certificates.
pub const CERTS: &str = "custody-certs";
/// Response field with the receipt.
pub const RECEIPT: &str = "custody-receipt";
/// Request trailer with the closing statement.
pub const CLOSE: &str = "custody-close";
/// Local field that names an inbound record to extend; never forwarded.
pub const HANDLE: &str = "custody-handle";
const PREFIX: &str = "custody-";
/// What stands before a receipt in the final comment of an event stream (custody-wire §7.3).
const COMMENT_START: &str = ": custody-receipt ";
const COMMENT_END: &str = "\n\n";

/// The Custody fields of a request: sizes and counts are within bounds, nothing is parsed.
#[derive(Debug)]
pub struct CustodyFields<'a> {
    /// The newest record's sealed text.
    pub record: &'a str,
    /// The ancestors' sealed texts, oldest first.
    pub chain: Vec<&'a str>,
    certs: Certificates<'a>,
}

/// The receipt of a response, in whichever of its three places, and certificates that came along.
#[derive(Debug)]
pub struct ReceiptFields<'a> {
    /// The receipt's sealed text.
    pub receipt: &'a str,
    certs: Certificates<'a>,
}

/// The closing statement of a request's trailers, and certificates that came along.
#[derive(Debug)]
pub struct ClosingFields<'a> {
    /// The closing statement's sealed text.
    pub closing: &'a str,
    certs: Certificates<'a>,
}

/// A certificate list within its limits, each element `:` base64 `:`.
#[derive(Debug)]
struct Certificates<'a>(Vec<&'a str>);

impl<'a> CustodyFields<'a> {
    /// The fields of `headers`; at most `hops` records.
    ///
    /// # Errors
    /// As custody-wire §6.1 and 6.2, in their order.
    pub fn read(headers: &[HeaderLine<'a>], hops: usize) -> Result<Self> {
        check_names(headers)?;
        let record = value_of(headers, RECORD);
        let Some(record) = record else {
            return Err(Rejection::new(Code::Missing, "the request has no Custody-Record"));
        };
        if is_early(headers) {
            return Err(Rejection::new(Code::EarlyData, "the request came as early data"));
        }
        let chain = value_of(headers, CHAIN);
        let certs = value_of(headers, CERTS);
        check_sizes(headers, RECORD, record, certs)?;
        if chain.is_some_and(|value| value.len() > MAX_CHAIN_BYTES) {
            return Err(too_large("Custody-Chain"));
        }
        let certs = split(certs);
        check_certificates(&certs)?;
        let chain = split(chain);
        if chain.iter().any(|element| element.len() > MAX_SEALED_BYTES) {
            return Err(too_large("an ancestor"));
        }
        if chain.len() + 1 > hops {
            return Err(Rejection::new(Code::TooLong, "the chain has too many records"));
        }
        Ok(Self {
            record: as_text(trim(record))?,
            chain: chain.into_iter().map(as_text).collect::<Result<_>>()?,
            certs: Certificates::of(certs)?,
        })
    }

    /// The certificates as DER bytes; whether each is a certificate is not checked.
    ///
    /// # Errors
    /// `malformed`.
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>> {
        self.certs.decode()
    }
}

impl<'a> ReceiptFields<'a> {
    /// The receipt of a response with this head and these trailers, None if there is none and none is `required`.
    ///
    /// `comment` is what [`split_comment`] found at the end of an event stream.
    ///
    /// # Errors
    /// `receipt_unavailable` if there is no receipt, `duplicate` if there are two or a Custody field has two lines,
    /// `malformed`, `too_large`.
    pub fn read(
        head: &[HeaderLine<'a>],
        trailers: &[HeaderLine<'a>],
        comment: Option<&'a str>,
        required: bool,
    ) -> Result<Option<Self>> {
        let mut headers: Vec<HeaderLine<'a>> = head.iter().chain(trailers).copied().collect();
        // Third of the places, and like the others in every check.
        headers.extend(comment.map(|comment| (RECEIPT, comment.as_bytes())));
        check_names(&headers)?;
        match value_of(&headers, RECEIPT) {
            Some(receipt) => {
                let (receipt, certs) = read_later(&headers, RECEIPT, receipt)?;
                Ok(Some(Self { receipt, certs }))
            }
            None if required => Err(Rejection::new(Code::ReceiptUnavailable, "the response has no receipt")),
            None => Ok(None),
        }
    }

    /// As [`CustodyFields::certificates`].
    ///
    /// # Errors
    /// `malformed`.
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>> {
        self.certs.decode()
    }
}

impl<'a> ClosingFields<'a> {
    /// The closing statement of a request with these trailers.
    ///
    /// # Errors
    /// `missing` if there is none, `duplicate`, `malformed`, `too_large`.
    pub fn read(trailers: &[HeaderLine<'a>]) -> Result<Self> {
        check_names(trailers)?;
        let closing = value_of(trailers, CLOSE)
            .ok_or_else(|| Rejection::new(Code::Missing, "the streamed request has no Custody-Close"))?;
        let (closing, certs) = read_later(trailers, CLOSE, closing)?;
        Ok(Self { closing, certs })
    }

    /// As [`CustodyFields::certificates`].
    ///
    /// # Errors
    /// `malformed`.
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>> {
        self.certs.decode()
    }
}

/// The statement `sealed` under `name`, and the certificates beside it.
fn read_later<'a>(headers: &[HeaderLine<'a>], name: &str, sealed: &'a [u8]) -> Result<(&'a str, Certificates<'a>)> {
    let certs = value_of(headers, CERTS);
    check_sizes(headers, name, sealed, certs)?;
    let certs = split(certs);
    check_certificates(&certs)?;
    Ok((as_text(trim(sealed))?, Certificates::of(certs)?))
}

/// The final comment of an event stream with this receipt, and the blank line after it.
///
/// It must stand at the beginning of the body or after a line feed.
#[must_use]
pub fn receipt_comment(sealed: &str) -> String {
    format!("{COMMENT_START}{sealed}{COMMENT_END}")
}

/// The bytes before the final receipt comment of a whole event stream, and the sealed text in it.
///
/// `body` may be the end of a stream if it begins before the line of the comment. Without such a comment all of
/// it is body; an earlier comment of that form is body too.
#[must_use]
pub fn split_comment(body: &[u8]) -> (&[u8], Option<&str>) {
    split_at_comment(body).map_or((body, None), |(before, sealed)| (before, Some(sealed)))
}

fn split_at_comment(body: &[u8]) -> Option<(&[u8], &str)> {
    let line = body.strip_suffix(COMMENT_END.as_bytes())?;
    let start = line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (before, line) = (body.get(..start)?, line.get(start..)?);
    let sealed = line.strip_prefix(COMMENT_START.as_bytes())?;
    let is_sealed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !(1..=MAX_SEALED_BYTES).contains(&sealed.len()) || !sealed.iter().all(is_sealed) {
        return None;
    }
    Some((before, std::str::from_utf8(sealed).ok()?))
}

impl<'a> Certificates<'a> {
    fn of(elements: Vec<&'a [u8]>) -> Result<Self> {
        elements.into_iter().map(as_text).collect::<Result<_>>().map(Self)
    }

    fn decode(&self) -> Result<Vec<Vec<u8>>> {
        let decode = |element: &&str| {
            let encoded = element.strip_prefix(':').and_then(|rest| rest.strip_suffix(':'));
            encoded
                .and_then(decode_base64)
                .filter(|der| !der.is_empty())
                .ok_or_else(|| malformed("Custody-Certs is not a list of byte sequences"))
        };
        self.0.iter().map(decode).collect()
    }
}

/// True if a component may not send this field, nor may it reach one (custody-wire §5.2).
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    let folded = name.to_ascii_lowercase().replace('_', "-");
    [PREFIX, "x-forwarded-client-cert", "client-cert"].iter().any(|prefix| folded.starts_with(prefix))
}

/// True for a Custody field under any spelling, known or not.
#[must_use]
pub fn is_custody(name: &str) -> bool {
    name.to_ascii_lowercase().replace('_', "-").starts_with(PREFIX)
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn check_names(headers: &[HeaderLine<'_>]) -> Result<()> {
    let is_twin = |name: &str| name.contains('_') && has_prefix(&name.replace('_', "-"), PREFIX);
    if headers.iter().any(|(name, _)| is_twin(name)) {
        return Err(malformed("a field name is a Custody name but for underscores"));
    }
    let custody: Vec<&str> = headers.iter().map(|(name, _)| *name).filter(|name| has_prefix(name, PREFIX)).collect();
    let mut names: Vec<String> = custody.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
        return Err(Rejection::new(Code::Duplicate, "a Custody field has two lines"));
    }
    Ok(())
}

fn value_of<'a>(headers: &[HeaderLine<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

fn is_early(headers: &[HeaderLine<'_>]) -> bool {
    headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("early-data") && trim(value) == b"1")
}

/// The sizes of all Custody fields together, of the statement under `name`, and of the certificate list.
fn check_sizes(headers: &[HeaderLine<'_>], name: &str, sealed: &[u8], certs: Option<&[u8]>) -> Result<()> {
    let custody = headers.iter().filter(|(name, _)| has_prefix(name, PREFIX));
    let total: usize = custody.map(|(name, value)| name.len() + value.len()).sum();
    if total > MAX_FIELDS_BYTES {
        return Err(too_large("the Custody fields together"));
    }
    if sealed.len() > MAX_SEALED_BYTES {
        return Err(too_large(name));
    }
    if certs.is_some_and(|value| value.len() > MAX_CERTS_BYTES) {
        return Err(too_large("Custody-Certs"));
    }
    Ok(())
}

fn check_certificates(certs: &[&[u8]]) -> Result<()> {
    if certs.len() > MAX_CERTS {
        return Err(too_large("the number of certificates"));
    }
    if certs.iter().any(|element| decoded_length(element) > MAX_CERT_DER_BYTES) {
        return Err(too_large("a certificate"));
    }
    Ok(())
}

/// Bytes that `:` base64 `:` will decode to, from its length alone.
fn decoded_length(element: &[u8]) -> usize {
    let encoded = element.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b":")).unwrap_or(element);
    let padding = encoded.iter().rev().take_while(|byte| **byte == b'=').count();
    (encoded.len() - padding) * 3 / 4
}

fn too_large(what: &str) -> Rejection {
    Rejection::new(Code::TooLarge, format!("{what} exceeds its limit"))
}

fn split(value: Option<&[u8]>) -> Vec<&[u8]> {
    value.map_or_else(Vec::new, |value| value.split(|byte| *byte == b',').map(trim).collect())
}

fn as_text(value: &[u8]) -> Result<&str> {
    if value.is_empty() || !value.is_ascii() {
        return Err(malformed("a Custody field has an empty element or a byte that is not ASCII"));
    }
    std::str::from_utf8(value).map_err(|_| malformed("a Custody field is not ASCII"))
}
