//! The canonical-path check: one spelling of a path for policy, for the record and for forwarding.
//!
//! Owns: which request targets are refused. Nothing is normalised: a path with two readings is
//! refused, so what policy sees is byte for byte what the component gets.
//!
//! Source: runtime.md "Calls inside a node"; threats.md (Istio CVE-2021-31920).

/// Why a request target was refused; for the operator's log.
pub type PathFault = &'static str;

/// Checks the path and query of a request as received.
///
/// # Errors
/// The reason, when another server could read this target as a different path.
pub fn verify_target(path: &str, query: Option<&str>) -> Result<(), PathFault> {
    verify_path(path.as_bytes())?;
    let query = query.unwrap_or_default().as_bytes();
    if query.iter().any(|byte| !(0x21..=0x7e).contains(byte)) {
        return Err("control, space or non-ASCII character in the query");
    }
    Ok(())
}

fn verify_path(path: &[u8]) -> Result<(), PathFault> {
    if path.first() != Some(&b'/') {
        return Err("path does not begin with a slash");
    }
    for segment in path[1..].split(|byte| *byte == b'/') {
        // Servers in Java drop parameters (`..;x`) before they resolve dots.
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        if name == b"." || name == b".." {
            return Err("dot segment");
        }
    }
    if path.windows(2).any(|pair| pair == b"//") {
        return Err("empty segment");
    }
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match byte {
            b'%' => verify_escape(tail)?,
            b'\\' => return Err("backslash"),
            b'#' | b'?' => return Err("query or fragment delimiter inside the path"),
            0x21..=0x7e => tail,
            _ => return Err("control, space or non-ASCII character"),
        };
    }
    Ok(())
}

/// Refuses escapes that a decoder could turn into path structure, and those that have another spelling (RFC 3986 §2.3:
/// unreserved characters, §2.1: digits in lower case): a rule about a path would not know it in the other. Gives what
/// follows one.
fn verify_escape(tail: &[u8]) -> Result<&[u8], PathFault> {
    let (&[high, low], rest) = tail.split_first_chunk::<2>().ok_or("truncated percent escape")?;
    let digit = |character: u8| char::from(character).to_digit(16).ok_or("malformed percent escape");
    if high.is_ascii_lowercase() || low.is_ascii_lowercase() {
        return Err("percent escape in lower case");
    }
    match digit(high)? * 16 + digit(low)? {
        0x2f | 0x5c => Err("escaped slash or backslash"),
        0x2e => Err("escaped dot"),
        0x25 => Err("escaped percent sign"),
        0x00..=0x1f | 0x7f => Err("escaped control character"),
        0x30..=0x39 | 0x41..=0x5a | 0x61..=0x7a | 0x2d | 0x5f | 0x7e => Err("escaped unreserved character"),
        _ => Ok(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_targets_pass() {
        for path in [
            "/",
            "/mcp",
            "/v1/chat/completions",
            "/a/",
            "/a%20b",
            "/%C3%A9",
            "/a%40b%3A%2C",
            "/a..b/.c",
            "/~x;y=1,2@:!$&'()*+",
            "/a;..",
            "/..a;b",
        ] {
            assert_eq!(verify_target(path, None), Ok(()), "{path}");
        }
        assert_eq!(verify_target("/a", Some("x=%2F..//&y=%")), Ok(()));
    }

    #[test]
    fn targets_with_two_readings_are_refused() {
        let refused = [
            "",
            "a",
            "*",
            "//",
            "//admin",
            "/a//b",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/..",
            "/a/..;/b",
            "/a/.;x=1/b",
            "/..;",
            "/%2e",
            "/%2E",
            "/%2E%2E/x",
            "/a%2fb",
            "/a%2Fb",
            "/a%5Cb",
            "/a\\b",
            "/%",
            "/%2",
            "/%zz",
            "/%00",
            "/%0A",
            "/%7F",
            "/%c3%a9",
            "/%C3%a9",
            "/%6Dcp",
            "/%41",
            "/%30",
            "/%2D",
            "/%5F",
            "/%7E",
            "/%252E",
            "/a b",
            "/a\u{7f}",
            "/é",
            "/a#b",
        ];
        for path in refused {
            assert!(verify_target(path, None).is_err(), "{path:?}");
        }
        assert!(verify_target("/a", Some("x y")).is_err());
        assert!(verify_target("/a", Some("é")).is_err());
    }

    #[test]
    fn every_byte_is_judged_in_every_position() {
        for byte in 0u8..=127 {
            let good = matches!(byte, 0x21..=0x7e) && !matches!(byte, b'\\' | b'#' | b'?' | b'%');
            for position in ["/{}b", "/b{}", "/b/{}c"] {
                let path = position.replace("{}", &char::from(byte).to_string());
                let expected = good && !(byte == b'/' && path.contains("//"));
                assert_eq!(verify_target(&path, None).is_ok(), expected, "{path:?}");
            }
        }
    }
}
