//! The going broker's end: asks, and waits for answers.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use tokio::sync::oneshot;

use super::forward::Forwarded;
use super::frames::{self, Answered, Ask, Asked, Done};

type Outcome = Result<Done, String>;

/// The broker that has taken over.
pub struct Successor {
    stream: Mutex<UnixStream>,
    /// Connections are passed here, each with whose they are.
    forward: UnixDatagram,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Outcome>>>,
    next: AtomicU64,
    is_lost: AtomicBool,
}

impl Successor {
    /// Begins to listen for answers.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(stream: UnixStream, forward: UnixDatagram) -> io::Result<Arc<Self>> {
        let from = stream.try_clone()?;
        let successor = Arc::new(Self {
            stream: Mutex::new(stream),
            forward,
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
        });
        let listening = Arc::clone(&successor);
        std::thread::Builder::new().name("successor".into()).spawn(move || listening.listen(from))?;
        Ok(successor)
    }

    /// What came of `ask`, or the code of the refusal; None if the successor is gone.
    pub async fn ask(&self, ask: Ask) -> Option<Outcome> {
        self.send(ask).await.ok()
    }

    /// The same for a thread.
    pub fn ask_blocking(&self, ask: Ask) -> Option<Outcome> {
        self.send(ask).blocking_recv().ok()
    }

    /// A connection to the successor as of the process that is named.
    ///
    /// # Errors
    /// The successor is gone, or no descriptors are left.
    pub fn connect(&self, caller: &Forwarded) -> io::Result<UnixStream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let json = serde_json::to_vec(caller)?;
        let passed = [other.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&passed));
        sendmsg(&self.forward, &[io::IoSlice::new(&json)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(UnixStream::from(own))
    }

    fn send(&self, ask: Ask) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, done);
        let sent = frames::write(&mut *self.stream.lock().unwrap_or_else(PoisonError::into_inner), &Asked { id, ask });
        // Checked after it was put there: whoever finds it lost later drops it.
        if sent.is_err() || self.is_lost.load(Ordering::SeqCst) {
            self.lock().remove(&id);
        }
        outcome
    }

    fn listen(&self, mut from: UnixStream) {
        while let Ok(Some(Answered { id, done })) = frames::read(&mut from) {
            let waiting = self.lock().remove(&id);
            if let Some(waiting) = waiting {
                let _nobody_waits_any_more = waiting.send(done);
            }
        }
        self.is_lost.store(true, Ordering::SeqCst);
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Outcome>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
