//! What a component's document says about parties without custody.
//!
//! Owns: matching a host against it. Does not own: the whole directory (see `directory`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hopseal_custody::authority::AudiencePattern;
use hopseal_custody::ids::SpiffeId;
use serde::Deserialize;

use crate::directory::Component;

/// The part of a component's JSON that says this.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Described {
    services: Vec<Service>,
    peers: Vec<DescribedPeer>,
    plain: HashSet<String>,
    accepts: Vec<String>,
}

/// One `external` entry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    /// An exact name, or `*.` and the end of one.
    host: String,
    port: u16,
    /// Only tunnels lead there.
    opaque: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribedPeer {
    name: String,
    spiffe_id: String,
}

/// What one component may reach without custody, and who may call it so.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outside {
    services: Vec<Service>,
    /// Peers that no document describes, by the name that the component calls them.
    peers: HashMap<String, Arc<Component>>,
    /// Documented components, as `agent/component`.
    plain: HashSet<String>,
    accepts: Vec<AudiencePattern>,
}

impl Outside {
    /// What a document says, read.
    ///
    /// # Errors
    /// A SPIFFE ID or pattern is malformed.
    pub fn read(described: Described) -> Result<Self, String> {
        let peers = described.peers.into_iter().map(|peer| {
            let id = SpiffeId::parse(&peer.spiffe_id).ok_or_else(|| format!("{}: malformed", peer.spiffe_id))?;
            Ok((peer.name.clone(), Arc::new(Component::undocumented(peer.name, id))))
        });
        let accepts = described.accepts.iter().map(|text| {
            AudiencePattern::parse(text).ok_or_else(|| format!("{text}: neither a SPIFFE ID nor a pattern"))
        });
        Ok(Self {
            services: described.services,
            peers: peers.collect::<Result<_, String>>()?,
            plain: described.plain,
            accepts: accepts.collect::<Result<_, String>>()?,
        })
    }

    /// The undocumented peer that the component calls `name`.
    pub fn peer(&self, name: &str) -> Option<&Arc<Component>> {
        self.peers.get(name)
    }

    /// Whether `qualified` is called without custody.
    pub fn is_plain(&self, qualified: &str) -> bool {
        self.plain.contains(qualified)
    }

    /// Whether the service may be reached: `opaque` by a tunnel, else by requests that we see.
    pub fn allows(&self, host: &str, port: u16, opaque: bool) -> bool {
        self.services.iter().any(|service| service.opaque == opaque && service.port == port && service.is_for(host))
    }

    /// Whether the peer may call without custody.
    pub fn accepts(&self, peer: &SpiffeId) -> bool {
        self.accepts.iter().any(|pattern| pattern.matches(peer.as_str()))
    }
}

impl Service {
    fn is_for(&self, host: &str) -> bool {
        match self.host.strip_prefix('*') {
            Some(end) => host.len() > end.len() && host.ends_with(end) && !host.starts_with('.'),
            None => self.host == host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside() -> Outside {
        let json = r#"{"services":[{"host":"api.example.com","port":443,"opaque":false},
                {"host":"*.example.net","port":8443,"opaque":false},{"host":"db.example.com","port":5432,"opaque":true}],
            "peers":[{"name":"ledger","spiffe_id":"spiffe://td/ledger"}],"plain":["crm/envoy"],
            "accepts":["spiffe://td/gateway","spiffe://td/edge/*"]}"#;
        Outside::read(serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn a_service_is_one_host_or_those_below_a_name_at_one_port() {
        let outside = outside();
        assert!(outside.allows("api.example.com", 443, false));
        assert!(outside.allows("a.b.example.net", 8443, false));
        for (host, port) in [
            ("example.com", 443),
            ("x.api.example.com", 443),
            ("api.example.com", 8443),
            ("example.net", 8443),
            (".example.net", 8443),
            ("evilexample.net", 8443),
            ("a.example.net", 443),
            ("a.example.net.evil", 8443),
        ] {
            assert!(!outside.allows(host, port, false), "{host}:{port}");
        }
    }

    #[test]
    fn what_is_opaque_is_reached_by_a_tunnel_only_and_nothing_else_is() {
        let outside = outside();
        assert!(outside.allows("db.example.com", 5432, true));
        assert!(!outside.allows("db.example.com", 5432, false));
        assert!(!outside.allows("api.example.com", 443, true));
    }

    #[test]
    fn peers_are_named_and_accepted_one_by_one_or_below_a_prefix() {
        let outside = outside();
        assert_eq!(outside.peer("ledger").unwrap().id.as_str(), "spiffe://td/ledger");
        assert!(outside.peer("ledge").is_none());
        assert!(outside.is_plain("crm/envoy") && !outside.is_plain("crm/tool"));
        let id = |text: &str| SpiffeId::parse(text).unwrap();
        assert!(outside.accepts(&id("spiffe://td/gateway")) && outside.accepts(&id("spiffe://td/edge/a")));
        assert!(!outside.accepts(&id("spiffe://td/edge")) && !outside.accepts(&id("spiffe://td/gateway/a")));
    }
}
