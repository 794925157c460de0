//! The processes that listen on component sockets, each pinned and admitted before it is spoken to.
//!
//! Owns: which process is behind a connection to a component's socket. Does not own: its identity
//! (the control process admits it). After a pre-fork server's last listener died its pidfd is dead
//! although others serve: that state has the inode 0 and is admitted apart, for exactly the socket
//! that was at the path then: another one whose listener died too is another question.
//!
//! Source: runtime.md "Listener check".

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::events::{Events, Weight};
use crate::instance::InstanceKey;
use crate::pidfd::wait_dead;
use crate::problem::Refusal;
use crate::verdict::{Answer, Verdict};

/// Stands for "the process that called `listen()` is dead".
pub const DEAD: u64 = 0;

/// Which socket is at a path: device, inode and change time, which tells a recycled inode apart.
pub type SocketIdentity = (u64, u64, i64, i64);

/// The socket at `path` now.
pub fn socket_at(path: &Path) -> Option<SocketIdentity> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

/// One listening process of one component.
pub struct Listener {
    component: String,
    inode: u64,
    /// The socket that the verdict is about, if the listener is dead.
    socket: Option<SocketIdentity>,
    /// Cancelled when it is withdrawn: connections to it close at once.
    pub closed: CancellationToken,
    verdict: Verdict,
    watched: AtomicBool,
}

/// All of them, by component and pidfd inode.
pub struct Listeners {
    known: Mutex<HashMap<(String, u64), Arc<Listener>>>,
    events: Arc<Events>,
    limit: usize,
}

impl Listener {
    /// The instance, while it is admitted and not withdrawn.
    pub fn admitted(&self) -> Option<InstanceKey> {
        if self.closed.is_cancelled() { None } else { self.verdict.admitted() }
    }
}

impl Listeners {
    pub fn new(events: Arc<Events>, limit: usize) -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), events, limit })
    }

    /// The listener behind a fresh connection.
    ///
    /// Must be called inside the runtime: it starts watching the process.
    pub fn find(self: &Arc<Self>, component: &str, inode: u64, pidfd: OwnedFd) -> Option<Arc<Listener>> {
        let mut known = self.lock();
        if known.len() >= self.limit && !known.contains_key(&(component.to_owned(), inode)) {
            return None;
        }
        let listener = Self::entry(&mut known, component, inode, None);
        if !listener.watched.swap(true, Ordering::SeqCst) {
            tokio::spawn(watch(Arc::clone(self), Arc::clone(&listener), pidfd));
        }
        Some(listener)
    }

    /// The dead listener of the socket `socket`; what was found out about another one at its path is void.
    pub fn find_dead(&self, component: &str, socket: SocketIdentity) -> Option<Arc<Listener>> {
        let mut known = self.lock();
        let key = (component.to_owned(), DEAD);
        if known.get(&key).is_some_and(|listener| listener.socket != Some(socket)) {
            known.remove(&key).inspect(|replaced| replaced.verdict.forget());
        }
        if known.len() >= self.limit && !known.contains_key(&key) {
            return None;
        }
        Some(Self::entry(&mut known, component, DEAD, Some(socket)))
    }

    /// The instance behind `listener`; asks the control process if it is not known.
    ///
    /// # Errors
    /// `callee_unavailable`, whatever the reason: the caller learns nothing about the callee's node.
    pub async fn instance(&self, listener: &Listener, path: &Path, timeout: Duration) -> Result<InstanceKey, Refusal> {
        let ask = || {
            let seen = json!({
                "event": "listener_seen",
                "component": listener.component,
                "path": path,
                "pidfd_inode": listener.inode,
                "dead": listener.inode == DEAD,
            });
            self.events.push(Weight::Required, &seen);
        };
        let why = match listener.verdict.wait(timeout, ask).await {
            Answer::Admitted(instance) => return Ok(instance),
            Answer::Refused(code) | Answer::TryAgain(code) => format!("listener refused: {code}"),
            Answer::Silent => "nobody decided about the listener in time".to_owned(),
        };
        Err(Refusal::new("callee_unavailable", why))
    }

    /// `socket` is at the component's path now; it counts for dead listeners.
    pub fn admit(&self, component: &str, inode: u64, socket: Option<SocketIdentity>, instance: InstanceKey) {
        let mut known = self.lock();
        let socket = socket.filter(|_| inode == DEAD);
        // The control process probes sockets itself, so it may know a listener before any call does.
        if known.len() < self.limit || known.contains_key(&(component.to_owned(), inode)) {
            Self::entry(&mut known, component, inode, socket).verdict.admit(instance);
        }
    }

    pub fn refuse(&self, component: &str, inode: u64, code: &str) {
        if let Some(listener) = self.lock().get(&(component.to_owned(), inode)) {
            listener.verdict.refuse(code, code == "attestor_unavailable");
        }
    }

    pub fn forget(&self, component: &str, inode: u64) {
        let mut known = self.lock();
        let key = (component.to_owned(), inode);
        let Some(listener) = known.get(&key) else { return };
        listener.verdict.forget();
        // A watched one leaves with its process.
        if !listener.watched.load(Ordering::SeqCst) {
            known.remove(&key);
        }
    }

    /// Closes every connection to the processes that act as `instance`.
    pub fn withdraw(&self, instance: &InstanceKey) {
        self.lock().retain(|_, listener| {
            let withdrawn = listener.verdict.admitted().as_ref() == Some(instance);
            if withdrawn {
                listener.closed.cancel();
            }
            !withdrawn
        });
    }

    /// The instance that answers for `component`, if any is admitted.
    pub fn serving(&self, component: &str) -> Option<InstanceKey> {
        let known = self.lock();
        known.values().filter(|listener| listener.component == component).find_map(|listener| listener.admitted())
    }

    /// Listeners known now.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    fn entry(
        known: &mut HashMap<(String, u64), Arc<Listener>>,
        component: &str,
        inode: u64,
        socket: Option<SocketIdentity>,
    ) -> Arc<Listener> {
        let listener = known.entry((component.to_owned(), inode)).or_insert_with(|| {
            Arc::new(Listener {
                component: component.to_owned(),
                inode,
                socket,
                closed: CancellationToken::new(),
                verdict: Verdict::new(),
                watched: AtomicBool::new(false),
            })
        });
        Arc::clone(listener)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, u64), Arc<Listener>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the listener once its process is dead; what it is answering may still come through a
/// worker that shares the socket.
async fn watch(listeners: Arc<Listeners>, listener: Arc<Listener>, pidfd: OwnedFd) {
    tokio::select! {
        () = wait_dead(pidfd) => {}
        () = listener.closed.cancelled() => {}
    }
    let mut known = listeners.lock();
    let key = (listener.component.clone(), listener.inode);
    if known.get(&key).is_some_and(|held| Arc::ptr_eq(held, &listener)) {
        known.remove(&key);
    }
    listener.verdict.forget();
}
