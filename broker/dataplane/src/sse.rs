//! The final comment of an event stream that carries a receipt.
//!
//! Owns: taking it off a stream that passes chunk by chunk. Only the very end of the stream counts: a
//! comment like it that something follows is body. Does not own: writing it (crate `hopseal_custody`).
//!
//! Source: custody-wire §7.3 "SSE response".

use bytes::{Bytes, BytesMut};
use hopseal_custody::limits::MAX_SEALED_BYTES;
use http::{HeaderMap, header};

const OPENING: &[u8] = b": custody-receipt ";
const END: &[u8] = b"\n\n";
const MAX_COMMENT_BYTES: usize = OPENING.len() + MAX_SEALED_BYTES + END.len();

/// Whether a receipt can stand in the body: an event stream, as text and not coded.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/event-stream") && !headers.contains_key(header::CONTENT_ENCODING)
}

/// A stream without its final comment.
pub struct Scanner {
    /// What could be the beginning of the comment, else empty.
    held: BytesMut,
    at_line_start: bool,
}

impl Scanner {
    pub fn new() -> Self {
        Self { held: BytesMut::new(), at_line_start: true }
    }

    /// The bytes that are body for certain once `chunk` has come.
    pub fn push(&mut self, chunk: &[u8]) -> Bytes {
        let starts_line = self.at_line_start;
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(chunk);
        let body = all.split_to(comment_at(&all, starts_line).unwrap_or(all.len()));
        self.held = all;
        if let Some(last) = body.last() {
            self.at_line_start = *last == b'\n';
        }
        body.freeze()
    }

    /// At the end of the stream: the receipt in the final comment, or the rest of the body.
    pub fn finish(self) -> Result<String, Bytes> {
        let sealed = self.held.strip_prefix(OPENING).and_then(|rest| rest.strip_suffix(END));
        match sealed.and_then(|sealed| std::str::from_utf8(sealed).ok()).filter(|sealed| !sealed.is_empty()) {
            Some(sealed) => Ok(sealed.to_owned()),
            None => Err(self.held.freeze()),
        }
    }
}

/// Where in `bytes` the final comment may have begun; it reaches to the end of `bytes`.
fn comment_at(bytes: &[u8], starts_line: bool) -> Option<usize> {
    let from = bytes.len().saturating_sub(MAX_COMMENT_BYTES);
    let after_feed = |at: usize| if at == 0 { starts_line } else { bytes[at - 1] == b'\n' };
    (from..bytes.len())
        .filter(|at| bytes[*at] == OPENING[0] && after_feed(*at))
        .find(|at| may_be_comment(&bytes[*at..]))
}

/// Whether `bytes` are the beginning of a comment with a receipt, or all of it, and nothing else.
fn may_be_comment(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(OPENING) else { return OPENING.starts_with(bytes) };
    let is_sealed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let end = rest.iter().position(|byte| !is_sealed(byte)).unwrap_or(rest.len());
    END.starts_with(&rest[end..])
}

#[cfg(test)]
mod tests {
    use hopseal_custody::fields::receipt_comment;

    use super::*;

    /// Body and receipt of `stream`, cut into chunks of `step` bytes.
    fn scan(stream: &[u8], step: usize) -> (Vec<u8>, Option<String>) {
        let mut scanner = Scanner::new();
        let mut body = Vec::new();
        for chunk in stream.chunks(step) {
            body.extend_from_slice(&scanner.push(chunk));
        }
        match scanner.finish() {
            Ok(sealed) => (body, Some(sealed)),
            Err(rest) => ([body, rest.to_vec()].concat(), None),
        }
    }

    #[test]
    fn the_final_comment_is_taken_off_however_it_is_cut() {
        for body in
            ["", "data: 1\n\n", ": custody-receipt early\n\ndata: 2\n\n", ": custody-receipt x\n\n", "\n", "::\n"]
        {
            let stream = [body.as_bytes(), receipt_comment("a.b-c_d").as_bytes()].concat();
            for step in 1..=stream.len() {
                assert_eq!(scan(&stream, step), (body.as_bytes().to_vec(), Some("a.b-c_d".to_owned())), "{body:?}");
            }
        }
    }

    #[test]
    fn what_is_not_exactly_the_final_comment_is_body() {
        for stream in [
            "data: 1\n\n",
            "data: : custody-receipt a\n\n",
            ": custody-receipt a\n\n\n",
            ": custody-receipt a\n",
            ": custody-receipt \n\n",
            ": custody-receipt a b\n\n",
            ": custody-receipt a\r\n\r\n",
            ":custody-receipt a\n\n",
            "x: custody-receipt a\n\n",
            "",
        ] {
            for step in 1..=stream.len().max(1) {
                assert_eq!(scan(stream.as_bytes(), step), (stream.as_bytes().to_vec(), None), "{stream:?}");
            }
        }
    }

    #[test]
    fn an_event_passes_at_once_and_little_is_held() {
        let mut scanner = Scanner::new();
        assert_eq!(scanner.push(b"data: 1\n\n"), "data: 1\n\n");
        assert_eq!(scanner.push(b": custody-receipt "), "");
        let long = scanner.push(&[b'a'; 2 * MAX_COMMENT_BYTES]);
        assert_eq!(long.len(), OPENING.len() + 2 * MAX_COMMENT_BYTES);
    }

    #[test]
    fn coded_and_other_types_are_no_event_streams() {
        let list = |lines: &[(&'static str, &'static str)]| {
            let mut list = HeaderMap::new();
            for (name, value) in lines {
                list.append(*name, http::HeaderValue::from_static(value));
            }
            list
        };
        assert!(is_event_stream(&list(&[("content-type", "Text/Event-Stream; charset=utf-8")])));
        assert!(!is_event_stream(&list(&[("content-type", "text/event-stream"), ("content-encoding", "gzip")])));
        assert!(!is_event_stream(&list(&[("content-type", "text/plain")])));
        assert!(!is_event_stream(&list(&[])));
    }
}
