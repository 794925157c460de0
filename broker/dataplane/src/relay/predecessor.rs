//! The coming broker's end: does what the going one asks, until that is gone.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use hopseal_custody::error::Code;
use hopseal_custody::hash::RandomId;
use hopseal_custody::ids::SpiffeId;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::frames::{self, Answered, Ask, Asked, Done};
use super::kept::Kept;
use super::remote_log::SharedStore;
use crate::broker::Broker;
use crate::clock;
use crate::gathered::Gathered;
use crate::log::Entry;
use crate::log::relayed::Relayed;

type Outcome = Result<Done, String>;
/// Names a record that is accepted.
type Use = (String, String);

/// The broker that this one took over from.
pub struct Predecessor {
    broker: Arc<Broker>,
    /// What the going process and this one obtained under the same handles.
    gathered: Mutex<HashMap<u64, Arc<Gathered>>>,
    /// Records that it asked for and has not logged yet.
    claimed: Mutex<HashSet<Use>>,
    /// Whether it has told of all handles, or is gone.
    is_ready: Mutex<bool>,
    ready: Condvar,
    store: SharedStore,
    /// Cancelled once it is gone.
    pub gone: CancellationToken,
}

impl Predecessor {
    /// Begins to do what is asked on `stream`; the log must be open.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn serve(
        broker: &Arc<Broker>,
        stream: UnixStream,
        store: SharedStore,
        runtime: Handle,
    ) -> io::Result<Arc<Self>> {
        let predecessor = Arc::new(Self {
            broker: Arc::clone(broker),
            gathered: Mutex::default(),
            claimed: Mutex::default(),
            is_ready: Mutex::new(false),
            ready: Condvar::new(),
            store,
            gone: CancellationToken::new(),
        });
        predecessor.store.hold(true);
        let to = Arc::new(Mutex::new(stream.try_clone()?));
        let serving = Arc::clone(&predecessor);
        std::thread::Builder::new().name("predecessor".into()).spawn(move || serving.run(stream, &to, &runtime))?;
        Ok(predecessor)
    }

    /// Waits until all handles are here; false if that takes longer than `timeout`.
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        let ready = self.is_ready.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ready.wait_timeout_while(ready, timeout, |is_ready| !*is_ready);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn run(self: Arc<Self>, mut from: UnixStream, to: &Arc<Mutex<UnixStream>>, runtime: &Handle) {
        while let Ok(Some(Asked { id, ask })) = frames::read(&mut from) {
            let done = match ask {
                // Waits for the disk: the others need not.
                Ask::Append { lines } => {
                    let (this, to) = (Arc::clone(&self), Arc::clone(to));
                    runtime.spawn(async move {
                        let done = this.append(&lines).await;
                        answer(&to, id, done);
                    });
                    continue;
                }
                Ask::Claim { iss, jti, exp, cid, root } => self.claim((iss, jti), exp, &cid, &root),
                Ask::Keep(kept) => self.keep(&kept),
                Ask::Kids { gathered } => self.kids(gathered),
                Ask::Ready => {
                    self.set_ready();
                    Ok(Done::default())
                }
            };
            answer(to, id, done);
        }
        self.set_ready();
        self.store.hold(false);
        lock(&self.gathered).clear();
        self.gone.cancel();
    }

    /// Appends the lines of one write in their order; done when the last one is durable, and so all are.
    async fn append(&self, lines: &str) -> Outcome {
        let unavailable = || Code::Unavailable.as_str().to_owned();
        let relayed: Option<Vec<Relayed>> = lines.split_terminator('\n').map(Relayed::parse).collect();
        let mut relayed = relayed.ok_or_else(|| "malformed".to_owned())?;
        for each in &relayed {
            self.note_accepted(each)?;
        }
        let started = self.broker.started.get().ok_or_else(unavailable)?;
        let Some(last) = relayed.pop() else { return Ok(Done::default()) };
        for each in relayed {
            started.log.append_nowait(Entry::Relayed(each), Vec::new()).map_err(|_| unavailable())?;
        }
        started.log.append(Entry::Relayed(last), Vec::new()).await.map_err(|_| unavailable())?;
        // The going process has no witnesses any more: what waits there waits here.
        let count = started.log.durable();
        started.log.wait_witnessed(count).await.map_err(|_| unavailable())?;
        Ok(Done { count, receipts: Vec::new() })
    }

    /// A record that the going broker accepted without asking was on its way to the log when it handed over.
    fn note_accepted(&self, relayed: &Relayed) -> Result<(), String> {
        let Some(accepted) = relayed.accepted() else { return Ok(()) };
        let of = (accepted.iss.clone(), accepted.jti.clone());
        if lock(&self.claimed).remove(&of) {
            return Ok(());
        }
        let root = accepted.root_issuer().unwrap_or_default();
        self.use_up(of, accepted.exp, &accepted.cid, &root)
    }

    fn claim(&self, of: Use, exp: i64, cid: &str, root: &str) -> Outcome {
        self.use_up(of.clone(), exp, cid, root)?;
        lock(&self.claimed).insert(of);
        Ok(Done::default())
    }

    fn use_up(&self, (iss, jti): Use, exp: i64, cid: &str, root: &str) -> Result<(), String> {
        let now = clock::now_s();
        let parsed = (SpiffeId::parse(&iss), RandomId::parse(&jti), RandomId::parse(cid), SpiffeId::parse(root));
        let (Some(iss), Some(jti), Some(cid), Some(root)) = parsed else { return Err("malformed".to_owned()) };
        let receiver = &self.broker.receiver;
        receiver.restore_used(&iss, jti, exp, now).map_err(|rejection| rejection.code.as_str().to_owned())?;
        receiver.restore_root(cid, &root, now).map_err(|rejection| rejection.code.as_str().to_owned())
    }

    fn keep(&self, kept: &Kept) -> Outcome {
        let gathered = Arc::clone(lock(&self.gathered).entry(kept.gathered).or_default());
        kept.fill(&gathered);
        let context = kept.restore(&self.broker, gathered).map_err(|rejection| rejection.code.as_str().to_owned())?;
        self.broker.handles.adopt(&kept.handle, &kept.owner(), Arc::new(context), kept.expires_at);
        Ok(Done::default())
    }

    fn kids(&self, gathered: u64) -> Outcome {
        let found = lock(&self.gathered).get(&gathered).map(|gathered| gathered.all()).unwrap_or_default();
        Ok(Done { count: 0, receipts: found.iter().map(ToString::to_string).collect() })
    }

    fn set_ready(&self) {
        *lock(&self.is_ready) = true;
        self.ready.notify_all();
    }
}

fn answer(to: &Mutex<UnixStream>, id: u64, done: Outcome) {
    let _it_is_gone = frames::write(&mut *lock(to), &Answered { id, done });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
