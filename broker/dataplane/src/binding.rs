//! What Python sees: `broker._dataplane`, described by `broker/_dataplane.pyi`.
//!
//! Owns: translating arguments, errors and the interpreter lock. Long calls release it; no thread
//! of the data plane ever needs it.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hopseal_custody::cert::Certificate;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::broker::Broker;
use crate::instance::{InstanceKey, log_certificate};
use crate::listeners::socket_at;
use crate::log::{Artifact, Entry};
use crate::policy_binding;
use crate::server::{Inherited, Server};
use crate::settings::Settings;

create_exception!(_dataplane, DataPlaneError, PyException, "A stable code and a message.");

pub fn error(code: &str, message: impl Into<String>) -> PyErr {
    DataPlaneError::new_err((code.to_owned(), message.into()))
}

/// A descriptor that Python gives away.
#[allow(unsafe_code, reason = "descriptors come from Python as numbers")]
fn owned(fd: i32) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(error("handover_failed", "not a descriptor"));
    }
    // SAFETY: the control process has received it a moment ago, gives it away here and closes it nowhere.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

enum State {
    Made,
    Running(Box<Server>),
    Stopped,
}

/// One data plane; starts once.
#[pyclass(frozen)]
struct DataPlane {
    broker: Arc<Broker>,
    state: Mutex<State>,
}

#[pymethods]
impl DataPlane {
    #[new]
    fn new(settings_json: &str) -> PyResult<Self> {
        let settings = Settings::parse(settings_json).map_err(|why| error("settings_invalid", why))?;
        let broker = Broker::new(settings).map_err(|why| error("start_failed", why.to_string()))?;
        Ok(Self { broker: Arc::new(broker), state: Mutex::new(State::Made) })
    }

    fn start(&self, py: Python<'_>) -> PyResult<u16> {
        let started = py.detach(|| {
            let mut state = self.state();
            if !matches!(*state, State::Made) {
                return Err(("started_twice", "a data plane starts once".to_owned()));
            }
            let server = Server::start(&self.broker, None)?;
            let port = server.peer_port;
            *state = State::Running(Box::new(server));
            Ok(port)
        });
        started.map_err(|(code, message)| error(code, message))
    }

    fn take_over(&self, py: Python<'_>, out: i32, out_lock: i32, peer: i32, relay: i32, forward: i32) -> PyResult<u16> {
        let inherited = Inherited {
            out: owned(out)?.into(),
            out_lock: owned(out_lock)?.into(),
            peer: owned(peer)?.into(),
            relay: owned(relay)?.into(),
            forward: owned(forward)?.into(),
        };
        let started = py.detach(|| {
            let mut state = self.state();
            if !matches!(*state, State::Made) {
                return Err(("started_twice", "a data plane starts once".to_owned()));
            }
            let server = Server::start(&self.broker, Some(inherited))?;
            let port = server.peer_port;
            *state = State::Running(Box::new(server));
            Ok(port)
        });
        started.map_err(|(code, message)| error(code, message))
    }

    fn descriptors(&self) -> PyResult<Vec<i32>> {
        let state = self.state();
        let State::Running(server) = &*state else { return Err(error("not_running", "nothing is served")) };
        let found = server.descriptors().ok_or_else(|| error("handed_over", "another process has taken over"))?;
        Ok(found.iter().map(AsRawFd::as_raw_fd).collect())
    }

    fn hand_over(&self, py: Python<'_>) -> PyResult<(i32, i32)> {
        let given = py.detach(|| match &mut *self.state() {
            State::Running(server) => server.hand_over().map_err(|error| error.to_string()),
            State::Made | State::Stopped => Err("nothing is served".to_owned()),
        });
        let (relay, forward) = given.map_err(|why| error("handover_failed", why))?;
        Ok((relay.into_raw_fd(), forward.into_raw_fd()))
    }

    fn event_fd(&self) -> i32 {
        self.broker.events.fd()
    }

    fn take_calls(&self, py: Python<'_>, end: &str, most: usize) -> (String, Vec<String>) {
        py.detach(|| self.broker.events.take_calls(end, most))
    }

    fn take_events(&self) -> Vec<String> {
        self.broker.events.take()
    }

    fn admit_caller(&self, pidfd_inode: u64, instance: &str, component: &str) {
        self.broker.callers.admit(pidfd_inode, InstanceKey::new(instance, component));
    }

    fn refuse_caller(&self, pidfd_inode: u64, code: &str, retry: bool) {
        self.broker.callers.refuse(pidfd_inode, code, retry);
    }

    fn forget_caller(&self, pidfd_inode: u64) {
        self.broker.callers.forget(pidfd_inode);
    }

    fn admit_listener(&self, component: &str, pidfd_inode: u64, instance: &str) {
        let documented = self.broker.directory.by_qualified(component);
        let socket = documented.and_then(|found| found.listen.as_deref().and_then(socket_at));
        self.broker.listeners.admit(component, pidfd_inode, socket, InstanceKey::new(instance, component));
    }

    fn refuse_listener(&self, component: &str, pidfd_inode: u64, code: &str) {
        self.broker.listeners.refuse(component, pidfd_inode, code);
    }

    fn forget_listener(&self, component: &str, pidfd_inode: u64) {
        self.broker.listeners.forget(component, pidfd_inode);
    }

    #[pyo3(signature = (instance, component, spiffe_id, chain_der, key_pkcs8, expires_at))]
    fn set_identity(
        &self,
        instance: &str,
        component: &str,
        spiffe_id: &str,
        chain_der: Vec<Vec<u8>>,
        key_pkcs8: Vec<u8>,
        expires_at: i64,
    ) -> PyResult<()> {
        let owner = InstanceKey::new(instance, component);
        let set = self.broker.set_identity(&owner, spiffe_id, &chain_der, &key_pkcs8, expires_at);
        set.map_err(|why| error("identity_invalid", why.0))
    }

    fn withdraw(&self, instance: &str, component: &str, code: &str) {
        self.broker.withdraw(&InstanceKey::new(instance, component), code);
    }

    fn set_bundles(&self, bundles: Vec<(String, Vec<Vec<u8>>, u64)>) -> PyResult<()> {
        self.broker.set_bundles(bundles).map_err(|why| error("bundle_invalid", why))
    }

    fn set_components(&self, components_json: &str) -> PyResult<()> {
        self.broker.directory.set_components(components_json).map_err(|why| error("components_invalid", why))?;
        self.broker.note_change();
        Ok(())
    }

    fn set_routes(&self, routes_json: &str) -> PyResult<()> {
        self.broker.directory.set_routes(routes_json).map_err(|why| error("routes_invalid", why))
    }

    fn set_issuers(&self, issuers_json: &str) -> PyResult<()> {
        self.broker.set_issuers(issuers_json).map_err(|why| error("issuers_invalid", why))
    }

    fn set_policies(&self, py: Python<'_>, cedar_text: &str, entities_json: &str) -> PyResult<()> {
        py.detach(|| self.broker.set_policies(cedar_text, entities_json)).map_err(|why| error("policy_invalid", why))
    }

    fn set_policy_sets(&self, py: Python<'_>, sets_json: &str, facts_json: &str) -> PyResult<()> {
        let set = py.detach(|| self.broker.set_policy_sets(sets_json, facts_json));
        set.map_err(|mistakes| error("policy_invalid", mistakes.join("\n")))
    }

    fn set_policy_facts(&self, py: Python<'_>, facts_json: &str) -> PyResult<()> {
        py.detach(|| self.broker.set_policy_facts(facts_json)).map_err(|why| error("policy_invalid", why))
    }

    fn explain(&self, py: Python<'_>, question_json: &str) -> PyResult<String> {
        py.detach(|| policy_binding::explain(&self.broker, question_json)).map_err(|why| error("question_invalid", why))
    }

    fn decision(&self, py: Python<'_>, decision_id: &str) -> Option<String> {
        py.detach(|| policy_binding::decision(&self.broker, decision_id))
    }

    fn log_durable(&self) -> u64 {
        self.broker.started.get().map_or(0, |started| started.log.durable())
    }

    fn take_leaves<'py>(&self, py: Python<'py>, start: u64, end: u64) -> Option<Vec<Bound<'py, PyBytes>>> {
        let leaves = py.detach(|| self.broker.started.get().and_then(|started| started.log.take_leaves(start, end)))?;
        Some(leaves.iter().map(|leaf| PyBytes::new(py, leaf.as_bytes())).collect())
    }

    fn set_witnessed(&self, count: u64) {
        if let Some(started) = self.broker.started.get() {
            started.log.set_witnessed(count);
        }
    }

    #[pyo3(signature = (artifact_json, chain_der=Vec::new()))]
    fn append_artifact(&self, artifact_json: &str, chain_der: Vec<Vec<u8>>) -> PyResult<()> {
        let artifact = Artifact::parse(artifact_json).map_err(|why| error("artifact_invalid", why.to_string()))?;
        let started = self.broker.started.get().ok_or_else(|| error("log_unavailable", "not started"))?;
        let parsed = |der: &Vec<u8>| Certificate::parse(der).map(|certificate| log_certificate(&Arc::new(certificate)));
        let certificates: Option<Vec<_>> = chain_der.iter().map(parsed).collect();
        let certificates = certificates.ok_or_else(|| error("artifact_invalid", "a certificate is not DER"))?;
        let queued = started.log.append_nowait(Entry::Artifact(artifact), certificates);
        queued.map_err(|why| error("log_unavailable", format!("{why:?}")))
    }

    fn stats(&self) -> String {
        self.broker.status().to_string()
    }

    fn drain(&self, py: Python<'_>, timeout_s: f64) {
        let timeout = Duration::try_from_secs_f64(timeout_s).unwrap_or_default();
        py.detach(|| {
            if let State::Running(server) = &mut *self.state() {
                server.drain(timeout);
            }
        });
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.stop_now());
    }
}

impl DataPlane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop_now(&self) {
        let state = std::mem::replace(&mut *self.state(), State::Stopped);
        if let State::Running(server) = state {
            server.stop();
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// The codec's verdict on a message, as JSON; for the tests that compare both implementations.
#[pyfunction]
fn custody_verify(py: Python<'_>, request_json: &str) -> String {
    py.detach(|| hopseal_custody::interop::custody_verify(request_json))
}

/// Sealed statements, as JSON; for the tests that compare both implementations.
#[pyfunction]
fn custody_sign(py: Python<'_>, request_json: &str) -> String {
    py.detach(|| hopseal_custody::interop::custody_sign(request_json))
}

#[pymodule]
fn _dataplane(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("DataPlaneError", module.py().get_type::<DataPlaneError>())?;
    module.add_class::<DataPlane>()?;
    module.add_class::<policy_binding::PolicySets>()?;
    module.add_function(wrap_pyfunction!(policy_binding::policy_schema, module)?)?;
    module.add_function(wrap_pyfunction!(custody_verify, module)?)?;
    module.add_function(wrap_pyfunction!(custody_sign, module)?)
}
