//! What the data plane is told at construction; parsed strictly, never changed afterwards.
//!
//! Owns: what a node is told beside its bounds. Does not own: bounds (see `bounds`), nor anything that changes at run
//! time (identities, bundles, routes, policies), which arrives through the binding.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hopseal_custody::authority::AudiencePattern;
use hopseal_custody::ids::TrustDomain;
use hopseal_custody::receive::Policy as ReceivePolicy;
use serde::Deserialize;

use crate::bounds::{Limits, Timeouts};
use crate::log::Patience;

/// Settings of one data plane.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The trust domain whose documents this node holds.
    pub trust_domain: String,
    /// This node's name, as in its system identities.
    pub node: String,
    /// Where components call.
    pub out_socket: PathBuf,
    /// Where the attestor makes connections to components that listen on TCP.
    #[serde(default)]
    pub connect_socket: Option<PathBuf>,
    /// Octal text, such as `"0777"`.
    #[serde(default = "default_mode", deserialize_with = "octal")]
    pub out_socket_mode: u32,
    /// Where other brokers call.
    pub peer_listen: SocketAddr,
    /// Folder of `custody.log`.
    pub log_dir: PathBuf,
    /// Largest request body that is buffered and digested (custody-wire §7.3).
    #[serde(default = "default_body_limit")]
    pub body_limit_bytes: usize,
    /// Whether longer ones stream, sent and received.
    #[serde(default)]
    pub streams: Streams,
    /// 1 runs everything on one thread, which is also the cheapest per call.
    #[serde(default = "default_threads")]
    pub worker_threads: usize,
    /// The component, as `agent/component`, that answers connections with an unknown or no SNI.
    #[serde(default)]
    pub default_component: Option<String>,
    /// How chains cross to and from other trust domains, by their names.
    #[serde(default)]
    pub boundaries: HashMap<String, Boundary>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub timeouts_ms: Timeouts,
    #[serde(default)]
    pub log: LogSettings,
    #[serde(default)]
    pub egress: Egress,
}

/// What happens to request bodies that are not buffered (custody-wire §7.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Streams {
    Accept,
    #[default]
    Reject,
}

/// How external services are reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// PEM file of the authorities that count instead of the host's own.
    pub ca_file: Option<PathBuf>,
    /// Names may lead to addresses that are not public.
    pub allow_private: bool,
    /// A tunnel through which nothing passes is closed after this.
    pub tunnel_idle_ms: Option<u64>,
    /// A tunnel is closed after this in any case.
    pub tunnel_life_ms: Option<u64>,
}

/// How the custody log is kept and what calls wait for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// A file that has reached this takes no more entries.
    pub segment_bytes: u64,
    /// Calls wait for a log that cannot be written, as long as `timeouts_ms.log_write`, before they fail.
    pub wait_when_full: bool,
    /// Calls wait until witnesses have confirmed their entry.
    pub strict: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { segment_bytes: 256 << 20, wait_when_full: false, strict: false }
    }
}

/// One boundary (custody-wire §8.4).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boundary {
    /// Calls towards it begin a chain of their own.
    pub sealed: bool,
    /// Patterns of its components that may begin such chains towards us.
    pub gateways: Vec<String>,
    /// Its roots may name users whose issuer is not among ours.
    pub unverified_users: bool,
}

impl Settings {
    /// Settings from the JSON text that the control process gives.
    ///
    /// # Errors
    /// One sentence when a key is unknown, missing, of the wrong type, or a bound is zero.
    pub fn parse(json: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if TrustDomain::parse(&settings.trust_domain).is_none() {
            return Err("trust_domain is malformed".into());
        }
        for (name, boundary) in &settings.boundaries {
            let is_within = |text: &String| text.starts_with(&format!("spiffe://{name}/"));
            let is_pattern = |text: &String| AudiencePattern::parse(text).is_some() && is_within(text);
            if TrustDomain::parse(name).is_none() || !boundary.gateways.iter().all(is_pattern) {
                return Err(format!("boundaries: {name} or one of its gateways is malformed"));
            }
        }
        if settings.worker_threads == 0 || settings.body_limit_bytes == 0 {
            return Err("worker_threads and body_limit_bytes must be positive".into());
        }
        if settings.limits.buffered_bytes < settings.body_limit_bytes {
            return Err("limits.buffered_bytes must be at least body_limit_bytes".into());
        }
        if settings.log.segment_bytes == 0 {
            return Err("log.segment_bytes must be positive".into());
        }
        Ok(settings)
    }

    /// What receivers allow before bundles and issuers are known.
    pub fn receive_policy(&self) -> ReceivePolicy {
        let accept_streams = self.streams == Streams::Accept;
        let mut policy = ReceivePolicy { accept_streams, ..ReceivePolicy::default() };
        for (name, boundary) in &self.boundaries {
            policy.sealing_gateways.extend(boundary.gateways.iter().filter_map(|text| AudiencePattern::parse(text)));
            if boundary.unverified_users {
                policy.unverified_users.extend(AudiencePattern::parse(&format!("spiffe://{name}/*")));
            }
        }
        policy
    }

    /// What calls wait for.
    pub fn patience(&self) -> Patience {
        // The rest of the time is for the write that then succeeds.
        let full = ms(self.timeouts_ms.log_write) * 4 / 5;
        Patience {
            queue: self.limits.log_queue,
            full: if self.log.wait_when_full { full } else { Duration::ZERO },
            witness: self.log.strict.then(|| ms(self.timeouts_ms.log_witness)),
        }
    }
}

/// Milliseconds from [`Timeouts`] as a duration.
pub fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Read buffer for headers of at most `header_bytes`: hyper wants room for a read beyond them.
pub fn buffer_bytes(header_bytes: usize) -> usize {
    (header_bytes * 2).max(16 << 10)
}

fn default_mode() -> u32 {
    0o777
}

fn default_body_limit() -> usize {
    8 << 20
}

fn default_threads() -> usize {
    1
}

fn octal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    u32::from_str_radix(&text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| serde::de::Error::custom("out_socket_mode is not an octal mode such as \"0777\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"trust_domain":"example.org","node":"n1","out_socket":"/run/o.sock",
        "peer_listen":"127.0.0.1:0","log_dir":"/tmp/log"}"#;

    #[test]
    fn the_rest_has_defaults() {
        let settings = Settings::parse(MINIMAL).unwrap();
        assert_eq!(settings.out_socket_mode, 0o777);
        assert_eq!(settings.body_limit_bytes, 8 << 20);
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(Settings::parse(&MINIMAL.replace("node", "nod")).is_err());
        assert!(Settings::parse(&MINIMAL.replace("{\"trust", "{\"limits\":{\"x\":1},\"trust")).is_err());
    }

    #[test]
    fn boundaries_list_gateways_of_their_own_trust_domain() {
        let with = |text: &str| MINIMAL.replace("{\"trust", &format!("{{\"boundaries\":{text},\"trust"));
        let good = r#"{"b.example":{"sealed":true,"gateways":["spiffe://b.example/gw/*"],"unverified_users":true}}"#;
        let policy = Settings::parse(&with(good)).unwrap().receive_policy();
        assert_eq!((policy.sealing_gateways.len(), policy.unverified_users.len()), (1, 1));
        assert!(policy.unverified_users[0].matches("spiffe://b.example/x"));
        assert!(Settings::parse(&with(&good.replace("spiffe://b", "spiffe://c"))).is_err());
        assert!(Settings::parse(&with(&good.replace("{\"b.example", "{\"B.example"))).is_err());
    }

    #[test]
    fn a_mode_beyond_permission_bits_is_refused() {
        assert!(Settings::parse(&MINIMAL.replace("{\"trust", "{\"out_socket_mode\":\"4777\",\"trust")).is_err());
    }
}
