//! The processes that call `out.sock`, each pinned for as long as it is connected.
//!
//! Owns: which process is behind a connection, and closing it when the process exits or its
//! instance is withdrawn. Does not own: its identity (the control process admits it).
//!
//! Source: runtime.md "Naming a process between broker and attestor"; threats.md section 1.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::events::{Events, Weight};
use crate::instance::InstanceKey;
use crate::pidfd::{PinnedPeer, wait_dead};
use crate::problem::Refusal;
use crate::verdict::{Answer, Verdict};

/// One process.
pub struct Caller {
    pub inode: u64,
    pub pid: i32,
    pub uid: u32,
    /// Cancelled when the process exits or is withdrawn: its connections close at once.
    pub closed: CancellationToken,
    verdict: Verdict,
    connections: AtomicUsize,
}

/// All of them, by pidfd inode.
pub struct Callers {
    known: Mutex<HashMap<u64, Arc<Caller>>>,
    events: Arc<Events>,
    limit: usize,
}

/// One connection's hold on its caller; dropping it may make the caller idle.
pub struct Connected {
    pub caller: Arc<Caller>,
    callers: Weak<Callers>,
}

impl Callers {
    pub fn new(events: Arc<Events>, limit: usize) -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), events, limit })
    }

    /// Registers a connection of `peer`; None if too many processes are known already.
    ///
    /// Must be called inside the runtime: it starts watching the process.
    pub fn connect(self: &Arc<Self>, peer: PinnedPeer) -> Option<Connected> {
        let mut known = self.lock();
        let caller = match known.get(&peer.inode) {
            Some(caller) => Arc::clone(caller),
            None if known.len() >= self.limit => return None,
            None => {
                let caller = Arc::new(Caller {
                    inode: peer.inode,
                    pid: peer.pid,
                    uid: peer.uid,
                    closed: CancellationToken::new(),
                    verdict: Verdict::new(),
                    connections: AtomicUsize::new(0),
                });
                known.insert(peer.inode, Arc::clone(&caller));
                tokio::spawn(watch(Arc::clone(self), Arc::clone(&caller), peer.pidfd));
                caller
            }
        };
        let before = caller.connections.fetch_add(1, Ordering::SeqCst);
        if before == 0 && caller.verdict.admitted().is_some() {
            self.events.push(Weight::Required, &json!({"event": "caller_active", "pidfd_inode": caller.inode}));
        }
        Some(Connected { caller, callers: Arc::downgrade(self) })
    }

    pub fn admit(&self, inode: u64, instance: InstanceKey) {
        if let Some(caller) = self.lock().get(&inode) {
            caller.verdict.admit(instance);
        }
    }

    pub fn refuse(&self, inode: u64, code: &str, try_again: bool) {
        if let Some(caller) = self.lock().get(&inode) {
            caller.verdict.refuse(code, try_again);
        }
    }

    /// The next request of this process asks again.
    pub fn forget(&self, inode: u64) {
        let mut known = self.lock();
        if let Some(caller) = known.get(&inode) {
            caller.verdict.forget();
            if caller.connections.load(Ordering::SeqCst) == 0 {
                caller.closed.cancel();
                known.remove(&inode);
            }
        }
    }

    /// Closes every connection of the processes that act as `instance`.
    pub fn withdraw(&self, instance: &InstanceKey) {
        self.lock().retain(|_, caller| {
            let withdrawn = caller.verdict.admitted().as_ref() == Some(instance);
            if withdrawn {
                caller.closed.cancel();
            }
            !withdrawn
        });
    }

    /// Processes known now.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Caller>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, caller: &Arc<Caller>) {
        let mut known = self.lock();
        if known.get(&caller.inode).is_some_and(|held| Arc::ptr_eq(held, caller)) {
            known.remove(&caller.inode);
        }
    }
}

impl Connected {
    /// The instance, if it is admitted now.
    pub fn admitted(&self) -> Option<InstanceKey> {
        self.caller.verdict.admitted()
    }

    /// The instance that this caller acts as; asks the control process if it is not known.
    ///
    /// # Errors
    /// The caller is refused, or nobody answered in time.
    pub async fn instance(&self, events: &Events, timeout: Duration) -> Result<InstanceKey, Refusal> {
        let caller = &self.caller;
        let ask = || {
            let seen =
                json!({"event": "caller_seen", "pidfd_inode": caller.inode, "pid": caller.pid, "uid": caller.uid});
            events.push(Weight::Required, &seen);
        };
        match caller.verdict.wait(timeout, ask).await {
            Answer::Admitted(instance) => Ok(instance),
            Answer::Refused(code) => Err(Refusal::with_status(code, http::StatusCode::FORBIDDEN, "caller refused")),
            Answer::TryAgain(code) => {
                Err(Refusal::with_status(code, http::StatusCode::SERVICE_UNAVAILABLE, "caller not admitted now"))
            }
            Answer::Silent => Err(Refusal::new("attestor_unavailable", "nobody decided about the caller in time")),
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let Some(callers) = self.callers.upgrade() else { return };
        let mut known = callers.lock();
        if self.caller.connections.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        callers.events.push(Weight::Required, &json!({"event": "caller_idle", "pidfd_inode": self.caller.inode}));
        // What was answered is kept until the control process forgets it or the process exits.
        let is_known = known.get(&self.caller.inode).is_some_and(|held| Arc::ptr_eq(held, &self.caller));
        if is_known && self.caller.verdict.is_unanswered() {
            known.remove(&self.caller.inode);
            self.caller.closed.cancel();
        }
    }
}

/// Closes the caller's connections as soon as the process is dead.
async fn watch(callers: Arc<Callers>, caller: Arc<Caller>, pidfd: OwnedFd) {
    tokio::select! {
        () = wait_dead(pidfd) => {}
        () = caller.closed.cancelled() => {}
    }
    // A process that cannot be watched is not served either.
    caller.closed.cancel();
    callers.remove(&caller);
}
