//! Who can be called and where: the documents' components and the routes, as one snapshot each.
//!
//! Owns: name resolution. Does not own: whether the call is allowed (policy) or who listens.
//!
//! Source: runtime.md "Calls inside a node", "Between nodes".

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hopseal_custody::ids::SpiffeId;
use serde::Deserialize;

use crate::outside::{self, Outside};

/// What a component's socket speaks; nothing is negotiated on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenProtocol {
    #[default]
    H1,
    /// HTTP/2 with prior knowledge.
    H2,
}

/// One component of the documents.
#[derive(Debug, PartialEq, Eq)]
pub struct Component {
    /// `agent/component`.
    pub qualified: String,
    pub agent: String,
    /// `<component>.<agent>`, the name on the wire.
    pub host: String,
    pub id: SpiffeId,
    pub listen: Option<PathBuf>,
    pub listen_host: String,
    /// What its socket speaks.
    pub listen_protocol: ListenProtocol,
    pub may_start: bool,
    /// Whether a broker of ours holds its key: such a component brings custody, and is called with it.
    pub brokered: bool,
    /// Parties without custody.
    pub outside: Outside,
}

impl Component {
    /// A peer that no document describes, under the name that its caller gives it.
    pub fn undocumented(name: String, id: SpiffeId) -> Self {
        Self {
            qualified: id.as_str().to_owned(),
            agent: String::new(),
            host: name,
            id,
            listen: None,
            listen_host: String::new(),
            listen_protocol: ListenProtocol::default(),
            may_start: false,
            brokered: false,
            outside: Outside::default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    component: String,
    agent: String,
    name: String,
    spiffe_id: String,
    listen: Option<PathBuf>,
    listen_host: Option<String>,
    #[serde(default)]
    listen_protocol: ListenProtocol,
    may_start: bool,
    /// Of another trust domain: it can be called, and no document of ours says anything about it.
    #[serde(default)]
    partner: bool,
    #[serde(default = "is_brokered")]
    brokered: bool,
    #[serde(default)]
    outside: outside::Described,
}

fn is_brokered() -> bool {
    true
}

#[derive(Default)]
struct Components {
    by_host: HashMap<String, Arc<Component>>,
    by_qualified: HashMap<String, Arc<Component>>,
    by_id: HashMap<String, Arc<Component>>,
}

#[derive(Default)]
struct Route {
    endpoints: Vec<String>,
    next: AtomicUsize,
}

/// The snapshots in force.
#[derive(Default)]
pub struct Directory {
    components: RwLock<Arc<Components>>,
    routes: RwLock<Arc<HashMap<String, Route>>>,
}

impl Directory {
    /// Takes the components of all documents, as JSON.
    ///
    /// # Errors
    /// What is wrong with them; the snapshot in force stays.
    pub fn set_components(&self, json: &str) -> Result<(), String> {
        let described: Vec<Described> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let mut components = Components::default();
        for one in described {
            let id =
                SpiffeId::parse(&one.spiffe_id).ok_or_else(|| format!("{}: malformed SPIFFE ID", one.component))?;
            let outside = Outside::read(one.outside).map_err(|why| format!("{}: {why}", one.component))?;
            let component = Arc::new(Component {
                host: format!("{}.{}", one.name, one.agent),
                qualified: one.component,
                agent: one.agent,
                id,
                listen: one.listen,
                listen_host: one.listen_host.unwrap_or_else(|| "localhost".to_owned()),
                listen_protocol: one.listen_protocol,
                may_start: one.may_start,
                brokered: one.brokered,
                outside,
            });
            components.by_host.insert(component.host.clone(), Arc::clone(&component));
            if !one.partner {
                components.by_id.insert(component.id.as_str().to_owned(), Arc::clone(&component));
            }
            components.by_qualified.insert(component.qualified.clone(), component);
        }
        *self.components.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(components);
        Ok(())
    }

    /// Takes the routes, as JSON `{"agent/component" or SPIFFE ID: ["host:port", …]}`.
    ///
    /// # Errors
    /// What is wrong with them; the snapshot in force stays.
    pub fn set_routes(&self, json: &str) -> Result<(), String> {
        let routes: HashMap<String, Vec<String>> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let routes = routes.into_iter().map(|(name, endpoints)| (name, Route { endpoints, next: AtomicUsize::new(0) }));
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes.collect());
        Ok(())
    }

    /// The component that `host` names for a caller of `agent`: `<component>.<agent>`, or
    /// `<component>` within the agent.
    pub fn resolve(&self, host: &str, agent: &str) -> Option<Arc<Component>> {
        let components = self.components();
        if host.contains('.') {
            return components.by_host.get(host).cloned();
        }
        components.by_host.get(&format!("{host}.{agent}")).cloned()
    }

    /// Whether documents name an agent so: a host below it is a component or nobody.
    pub fn has_agent(&self, agent: &str) -> bool {
        self.components().by_qualified.values().any(|component| component.agent == agent)
    }

    pub fn by_qualified(&self, qualified: &str) -> Option<Arc<Component>> {
        self.components().by_qualified.get(qualified).cloned()
    }

    /// The component that a document of ours describes.
    pub fn by_id(&self, id: &SpiffeId) -> Option<Arc<Component>> {
        self.components().by_id.get(id.as_str()).cloned()
    }

    /// Endpoints of a component elsewhere, beginning with another one each time.
    pub fn endpoints(&self, qualified: &str) -> Vec<String> {
        let routes = Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner));
        let Some(route) = routes.get(qualified).filter(|route| !route.endpoints.is_empty()) else { return Vec::new() };
        let first = route.next.fetch_add(1, Ordering::Relaxed) % route.endpoints.len();
        let (before, after) = route.endpoints.split_at(first);
        after.iter().chain(before).cloned().collect()
    }

    fn components(&self) -> Arc<Components> {
        Arc::clone(&self.components.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        let directory = Directory::default();
        directory
            .set_components(
                r#"[{"component":"crm/tool","agent":"crm","name":"tool","spiffe_id":"spiffe://td/agents/crm/tool",
                    "listen":"/run/t.sock","listen_host":null,"may_start":false}]"#,
            )
            .unwrap();
        directory
    }

    #[test]
    fn short_names_are_resolved_within_the_callers_agent_only() {
        let directory = directory();
        assert!(directory.resolve("tool.crm", "other").is_some());
        assert!(directory.resolve("tool", "crm").is_some());
        assert!(directory.resolve("tool", "other").is_none());
        assert!(directory.resolve("tool.", "crm").is_none());
        assert!(directory.resolve("", "crm").is_none());
    }

    #[test]
    fn endpoints_take_turns() {
        let directory = directory();
        directory.set_routes(r#"{"crm/tool":["a:1","b:1"],"crm/none":[]}"#).unwrap();
        assert_eq!(directory.endpoints("crm/tool"), ["a:1", "b:1"]);
        assert_eq!(directory.endpoints("crm/tool"), ["b:1", "a:1"]);
        assert!(directory.endpoints("crm/none").is_empty());
    }

    #[test]
    fn a_partner_can_be_called_and_is_not_documented() {
        let directory = Directory::default();
        let partner = r#"[{"component":"theirs/tool","agent":"theirs","name":"tool","spiffe_id":"spiffe://b/tool",
            "listen":null,"listen_host":null,"may_start":false,"partner":true}]"#;
        directory.set_components(partner).unwrap();
        let found = directory.resolve("tool.theirs", "crm").unwrap();
        assert_eq!(found.id.as_str(), "spiffe://b/tool");
        assert!(directory.by_id(&found.id).is_none());
    }

    #[test]
    fn a_bad_snapshot_leaves_the_good_one_in_force() {
        let directory = directory();
        assert!(directory.set_components(r#"[{"component":"x"}]"#).is_err());
        assert!(directory.resolve("tool.crm", "").is_some());
    }
}
