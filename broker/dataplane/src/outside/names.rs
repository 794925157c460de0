//! Hosts as requests name them.
//!
//! Owns: the one spelling of a host, and whether two spellings are one.

/// A host in lower case, and its port unless it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub host: String,
    pub port: Option<u16>,
}

impl Named {
    /// The host in an authority; None for user info, addresses in brackets or odd characters.
    pub fn parse(authority: &str) -> Option<Self> {
        let (name, port) = match authority.split_once(':') {
            None => (authority, None),
            Some((name, digits)) => (name, Some(read_port(digits)?)),
        };
        Some(Self { host: read_name(name)?, port: port.filter(|port| !matches!(port, 80 | 443)) })
    }
}

/// A name in lower case; None for an odd character.
pub fn read_name(name: &str) -> Option<String> {
    let is_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (!name.is_empty() && name.bytes().all(is_label)).then(|| name.to_ascii_lowercase())
}

/// One to five digits without leading zero.
pub fn read_port(digits: &str) -> Option<u16> {
    let is_plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_plain_names_and_a_default_port_is_none() {
        let table = [
            ("a.b", "a.b", None),
            ("A.b:80", "a.b", None),
            ("a:443", "a", None),
            ("a:81", "a", Some(81)),
            ("a:65535", "a", Some(65535)),
        ];
        for (text, host, port) in table {
            assert_eq!(Named::parse(text), Some(Named { host: host.into(), port }), "{text}");
        }
        for text in ["", ":80", "u@a", "a b", "a/b", "[::1]", "a_b", "a:80:80", "é", "a:", "a:0", "a:080", "a:65536"] {
            assert_eq!(Named::parse(text), None, "{text}");
        }
    }
}
