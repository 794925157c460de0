//! Everything that calls share, and the commands that change it.
//!
//! Owns: putting the parts together and what a change of one means for the others (a withdrawal
//! drops the key, closes connections and voids handles). Does not own: sockets (see `server`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use hopseal_custody::acknowledged::Acknowledged;
use hopseal_custody::authority::AudiencePattern;
use hopseal_custody::cache::CacheSizes;
use hopseal_custody::chain::Chain;
use hopseal_custody::compose::Root;
use hopseal_custody::ids::{SpiffeId, TrustDomain};
use hopseal_custody::limits::PEER_SHARE;
use hopseal_custody::receive::{Policy as ReceivePolicy, Receiver};
use hopseal_custody::replay::ReplayStore;
use hopseal_custody::trust::Bundles;
use hopseal_custody::usertoken::Issuers;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use crate::body::{BodyMemory, Held};
use crate::breaker::Breakers;
use crate::callers::Callers;
use crate::clock;
use crate::component::ComponentSockets;
use crate::decisions::Decisions;
use crate::directory::Directory;
use crate::events::{Events, Weight};
use crate::gathered::Gathered;
use crate::handles::Handles;
use crate::instance::{IdentityError, InstanceKey, Instances};
use crate::lifetime::Shutdown;
use crate::listeners::Listeners;
use crate::log::Log;
use crate::logged_bundles::LoggedBundles;
use crate::open_calls::OpenCalls;
use crate::open_streams::OpenStreams;
use crate::outside::{Roots, WebConnections};
use crate::own_records::OwnRecords;
use crate::places::{Parts, Places};
use crate::policy::Policy;
use crate::pool::{Pool, PoolSettings};
use crate::relay::Successor;
use crate::retries::Retries;
use crate::settings::{Settings, ms};
use crate::stats::Stats;
use crate::terms::Terms;
use crate::throttle::Throttle;
use crate::tls::Tls;
use crate::trust::Trust;
use crate::users::LoggedTokens;
use crate::windows::Windows;

/// Refused messages without a proven record that are logged; the others are only counted.
const UNPROVEN_PER_SECOND: f64 = 20.0;
const UNPROVEN_BURST: f64 = 200.0;

/// What a handle continues.
#[derive(Clone)]
pub enum Continues {
    /// An inbound call: the next record is its child.
    Call(Chain),
    /// A task that the component opened: the next record is a sibling root.
    Task(Root),
}

/// What a handle stands for.
pub struct Context {
    pub continues: Continues,
    /// Receipts obtained under it.
    pub receipts: Arc<Gathered>,
    /// What it adds to every call.
    pub terms: Terms,
}

/// What exists only once the sockets are bound and the log is open.
pub struct Started {
    pub log: Log,
    pub peer_address: SocketAddr,
    /// Records with `iat` up to this are refused: the log could not tell all that was accepted.
    pub trusted_from: i64,
}

/// The data plane's shared state.
pub struct Broker {
    pub settings: Settings,
    pub events: Arc<Events>,
    pub stats: Arc<Stats>,
    pub trust: Arc<Trust>,
    pub tls: Tls,
    pub directory: Directory,
    pub instances: Instances,
    pub callers: Arc<Callers>,
    pub listeners: Arc<Listeners>,
    pub receiver: Receiver,
    /// What peers need not be sent again.
    pub acknowledged: Acknowledged,
    pub handles: Handles<Context>,
    /// Records that are durable as sent and whose call is under way.
    pub own_records: Arc<OwnRecords>,
    pub pool: Pool,
    /// Which of the endpoints are left alone, and how often a request may be sent again.
    pub breakers: Arc<Breakers>,
    pub retries: Retries,
    /// Connections to external services.
    pub web: WebConnections,
    pub sockets: ComponentSockets,
    pub memory: BodyMemory,
    /// The part of it that the bodies of one peer may take.
    pub peer_memory: Parts<SpiffeId, Held>,
    /// And those of one of our components.
    pub component_memory: Parts<SpiffeId, Held>,
    pub calls: Arc<Semaphore>,
    /// The part of them that one peer may have: it takes places before its records are looked at.
    pub peer_calls: Places<SpiffeId>,
    /// And the part of one of our components.
    pub component_calls: Places<SpiffeId>,
    /// Connections of one identity to the peer port.
    pub peer_connections: Places<SpiffeId>,
    /// Answers that stream now.
    pub streams: OpenStreams,
    /// What peers and components may send ahead.
    pub windows: Windows,
    pub shutdown: Shutdown,
    pub started: OnceLock<Started>,
    /// Refused messages without a proven record: any peer can send those, and the disk is finite.
    pub unproven: Throttle,
    /// Users' tokens whose line is in the log.
    pub logged_tokens: LoggedTokens,
    /// The process that has taken over from this one.
    pub successor: OnceLock<Arc<Successor>>,
    /// Counts changes of documents and policies: what is open is judged again.
    pub changes: watch::Sender<u64>,
    pub open_calls: Arc<OpenCalls>,
    pub decisions: Decisions,
    /// See `in_force`.
    pub policy: RwLock<Option<Arc<Policy>>>,
    receive_policy: RwLock<Arc<ReceivePolicy>>,
    bundles: Mutex<LoggedBundles>,
}

impl Broker {
    /// A data plane that serves nothing yet.
    ///
    /// # Errors
    /// No eventfd can be opened.
    pub fn new(settings: Settings) -> io::Result<Self> {
        let (limits, timeouts) = (&settings.limits, &settings.timeouts_ms);
        let events = Arc::new(Events::new(limits.events)?);
        let stats = Arc::new(Stats::default());
        let trust = Arc::new(Trust::empty());
        let shutdown = Shutdown::default();
        let windows = Windows::new(limits.window_bytes);
        let pool = Pool::new(
            pool_settings(&settings, &windows),
            Tls::new(Arc::clone(&trust)),
            Arc::clone(&trust),
            shutdown.clone(),
            Arc::clone(&stats),
        );
        let web = WebConnections::new(
            pool_settings(&settings, &windows),
            Roots::new(settings.egress.ca_file.clone()),
            settings.egress.allow_private,
            shutdown.clone(),
            Arc::clone(&stats),
        );
        let listeners = Listeners::new(Arc::clone(&events), limits.processes);
        let sockets = ComponentSockets::new(Arc::clone(&listeners), &settings, shutdown.clone(), windows.clone());
        let replay = ReplayStore::new(limits.replay_entries, limits.replay_entries / PEER_SHARE);
        Ok(Self {
            tls: Tls::new(Arc::clone(&trust)),
            directory: Directory::default(),
            instances: Instances::default(),
            callers: Callers::new(Arc::clone(&events), limits.processes),
            receiver: Receiver::new(&CacheSizes::default(), replay),
            own_records: Arc::default(),
            handles: Handles::new(limits.handles, limits.handles_per_instance),
            peer_memory: Parts::new(Held::default),
            component_memory: Parts::new(Held::default),
            memory: BodyMemory::new(limits.buffered_bytes, settings.body_limit_bytes, ms(timeouts.body_read)),
            calls: Arc::new(Semaphore::new(limits.calls)),
            peer_calls: Places::new(limits.calls, limits.calls),
            component_calls: Places::new(limits.calls, limits.calls),
            peer_connections: Places::new(limits.peer_connections, limits.peer_connections_per_identity),
            breakers: Breakers::new(limits.endpoint_failures.max(1), ms(timeouts.endpoint_open)),
            retries: Retries::new(limits.retry_percent),
            started: OnceLock::new(),
            unproven: Throttle::new(UNPROVEN_PER_SECOND, UNPROVEN_BURST),
            logged_tokens: LoggedTokens::default(),
            successor: OnceLock::new(),
            changes: watch::Sender::new(0),
            open_calls: Arc::default(),
            decisions: Decisions::default(),
            policy: RwLock::default(),
            acknowledged: Acknowledged::default(),
            receive_policy: RwLock::new(Arc::new(settings.receive_policy())),
            bundles: Mutex::default(),
            listeners,
            sockets,
            pool,
            streams: OpenStreams::new(ms(timeouts.stream_idle), ms(timeouts.stream_lifetime)),
            windows,
            web,
            shutdown,
            trust,
            stats,
            events,
            settings,
        })
    }

    /// Gives an instance its first or a rotated SVID, which must not outlive `expires_at`.
    ///
    /// # Errors
    /// Chain, key, SPIFFE ID and end do not fit together; the leaf in use stays.
    pub fn set_identity(
        &self,
        owner: &InstanceKey,
        id: &str,
        chain: &[Vec<u8>],
        key: &[u8],
        expires_at: i64,
    ) -> Result<(), IdentityError> {
        self.instances.set(owner, id, chain, key, expires_at, clock::now_s())
    }

    /// Takes an instance's identity away and closes everything that used it; `code` says why.
    pub fn withdraw(&self, owner: &InstanceKey, code: &str) {
        let had_identity = self.instances.withdraw(owner);
        self.callers.withdraw(owner);
        self.listeners.withdraw(owner);
        self.handles.forget_owner(owner);
        let event =
            json!({"event": "withdrawn", "instance": format!("{owner:?}"), "code": code, "had_identity": had_identity});
        self.events.push(Weight::Required, &event);
    }

    /// Takes the bundles of all trust domains: `(name, authorities as DER, sequence)`.
    ///
    /// # Errors
    /// A name or certificate is malformed; the bundles in force stay.
    pub fn set_bundles(&self, bundles: Vec<(String, Vec<Vec<u8>>, u64)>) -> Result<(), String> {
        let mut parsed = Vec::with_capacity(bundles.len());
        let mut current = HashMap::with_capacity(bundles.len());
        let mut autonomous_roots = Vec::with_capacity(bundles.len());
        for (name, authorities, sequence) in bundles {
            let domain = TrustDomain::parse(&name).ok_or_else(|| format!("{name:?} is no trust domain"))?;
            autonomous_roots.extend(AudiencePattern::parse(&format!("spiffe://{name}/*")));
            parsed.push((domain, authorities.clone()));
            current.insert(name, (authorities, sequence));
        }
        let built = Bundles::build(&parsed).map_err(|error| error.to_string())?;
        // Every trust domain passes here; documents and Cedar decide about each root (see `receive`).
        self.change_receive_policy(|policy| policy.autonomous_roots = autonomous_roots);
        self.trust.publish(built);
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner).replace(current);
        self.log_bundles();
        Ok(())
    }

    /// Takes the issuers of users' tokens with their keys; tokens that the keys before verified are forgotten.
    ///
    /// # Errors
    /// They are malformed; those in force stay.
    pub fn set_issuers(&self, json: &str) -> Result<(), String> {
        let issuers = Issuers::parse(json)?;
        self.change_receive_policy(|policy| policy.issuers = Arc::new(issuers));
        Ok(())
    }

    fn change_receive_policy(&self, change: impl FnOnce(&mut ReceivePolicy)) {
        let mut guard = self.receive_policy.write().unwrap_or_else(PoisonError::into_inner);
        let mut policy = ReceivePolicy::clone(&guard);
        change(&mut policy);
        *guard = Arc::new(policy);
    }

    /// Puts bundles into the log that differ from what it has; before start nothing is logged yet.
    pub fn log_bundles(&self) {
        let Some(started) = self.started.get() else { return };
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner).log_news(&started.log);
    }

    /// Lets what is open look at the documents again.
    pub fn note_change(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub fn receive_policy(&self) -> Arc<ReceivePolicy> {
        Arc::clone(&self.receive_policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Metrics and what `status` shows.
    pub fn status(&self) -> Value {
        let started = self.started.get();
        let [certificates, seals, statements, used] = self.receiver.sizes();
        let checks = self.receiver.signature_checks();
        let counters = [("signature_checks", "Signatures of seals that were checked, not remembered.", checks)];
        let gauges = [
            ("identities", "Component instances with an SVID.", self.instances.len()),
            ("callers", "Processes known as callers.", self.callers.len()),
            ("listeners", "Processes known as listeners.", self.listeners.len()),
            (
                "open_calls",
                "Calls that a change of policy would end if they were no longer allowed.",
                self.open_calls.len(),
            ),
            ("handles", "Custody handles in use.", self.handles.len()),
            ("endpoints_open", "Endpoints that are left alone because they failed.", self.breakers.open_count()),
            ("replay_entries", "Accepted records that are remembered.", used),
            ("certificate_cache_entries", "Certificates remembered.", certificates),
            ("seal_cache_entries", "Verified seals remembered.", seals),
            ("statement_cache_entries", "Verified statements remembered.", statements),
        ];
        let gauges: Vec<(&str, &str, f64)> =
            gauges.iter().map(|(name, help, count)| (*name, *help, *count as f64)).collect();
        let mut metrics = self.stats.metrics(&counters, &gauges);
        metrics.extend(self.decisions.metrics());
        json!({
            "metrics": metrics,
            "log": {
                "healthy": started.is_some_and(|started| started.log.is_healthy()),
                "detail": self.stats.log_detail(),
            },
            "events_dropped": self.events.dropped(),
            "calls_in_progress": self.stats.calls_in_progress.get(),
            "replays_known": started.is_some_and(|started| started.trusted_from == 0),
        })
    }

    /// Housekeeping that no call waits for.
    pub fn sweep(&self) {
        self.pool.sweep();
        self.breakers.sweep(std::time::Instant::now());
        self.web.sweep();
        self.sockets.sweep();
        self.handles.purge(clock::now_s());
        self.log_bundles();
    }
}

fn pool_settings(settings: &Settings, windows: &Windows) -> PoolSettings {
    let timeouts = &settings.timeouts_ms;
    PoolSettings {
        connect: ms(timeouts.connect),
        handshake: ms(timeouts.handshake),
        idle: ms(timeouts.idle),
        idle_connections: settings.limits.idle_connections,
        windows: windows.clone(),
    }
}
