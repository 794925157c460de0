use super::super::entry::Claims;
use super::*;

fn record(refused: Option<&str>) -> Entry {
    Entry::Record {
        direction: Direction::Received,
        refused: refused.map(Into::into),
        detail: None,
        sealed: Some("a.b.c.d.e".into()),
        ancestors: vec!["x".into()],
        claims: Some(Claims {
            iss: "spiffe://a/b".into(),
            aud: "spiffe://a/c".into(),
            jti: "j".into(),
            exp: 7,
            cid: "c".into(),
            hop: 1,
            op: None,
            args_hash: None,
        }),
    }
}

#[test]
fn a_line_reads_back() {
    let mut lines = Vec::new();
    record(None).write_line(3, 9, &mut lines).unwrap();
    assert_eq!(lines.pop(), Some(b'\n'));
    let read = ReadLine::parse(&lines).unwrap();
    assert_eq!((read.n, read.r#type.as_str(), read.jti.as_deref(), read.exp), (3, "rec", Some("j"), Some(7)));
    assert_eq!(read.verdict.as_deref(), Some("accepted"));
}

#[test]
fn a_flipped_bit_anywhere_is_seen() {
    let mut lines = Vec::new();
    record(Some("custody_chain")).write_line(0, 0, &mut lines).unwrap();
    lines.pop();
    for position in 0..lines.len() {
        for bit in 0..8 {
            let mut damaged = lines.clone();
            damaged[position] ^= 1 << bit;
            // Hex digits have two cases; the number is the same.
            if damaged[..8].eq_ignore_ascii_case(&lines[..8]) && damaged[8..] == lines[8..] {
                continue;
            }
            assert!(ReadLine::parse(&damaged).is_none(), "byte {position} bit {bit}");
        }
    }
}

#[test]
fn the_start_of_a_line_says_what_the_whole_line_does() {
    let mut lines = Vec::new();
    record(None).write_line(3, 9, &mut lines).unwrap();
    let json = checked_json(&lines[..lines.len() - 1]).unwrap();
    assert_eq!(LineStart::read(json), Some(LineStart { n: 3, at_ms: 9, r#type: "rec" }));
    for other in ["", "{}", r#"{"n":1}"#, r#"{"n":,"at_ms":1,"type":"rec"}"#, r#"{"n":1,"at_ms":1,"type":"r"#] {
        assert_eq!(LineStart::read(other.as_bytes()), None, "{other}");
    }
}

#[test]
fn a_call_without_a_record_has_a_line_of_its_own_type_that_a_restart_passes_over() {
    use super::super::entry::Ended;
    let call = Unrecorded {
        dir: Direction::Received,
        verdict: "accepted",
        code: None,
        detail: Some("a\n\u{1b}[1m".into()),
        custody: "none",
        kind: "caller",
        phase: "end",
        id: "i".into(),
        iss: "spiffe://a/b".into(),
        aud: "spiffe://a/c".into(),
        op: Some("GET /".into()),
        dec: None,
        x5t: None,
        cid: None,
        rec: None,
        ended: Some(Ended { st: 200, fin: "eof", why: "closed".into(), received: 5, sent: None, address: None }),
    };
    let mut lines = Vec::new();
    Entry::Call(Box::new(call)).write_line(4, 9, &mut lines).unwrap();
    let json = checked_json(&lines[..lines.len() - 1]).unwrap();
    assert!(!json.iter().any(u8::is_ascii_control));
    assert_eq!(LineStart::read(json), Some(LineStart { n: 4, at_ms: 9, r#type: "call" }));
    let value: serde_json::Value = serde_json::from_slice(json).unwrap();
    assert_eq!((&value["custody"], &value["ended"]["received"]), (&"none".into(), &5.into()));
    assert!(value["ended"].get("sent").is_none());
    let found = super::super::scan::scan(&lines[..], 0).unwrap();
    assert_eq!((found.next_n, found.damaged, found.accepted.len()), (5, 0, 0));
}
