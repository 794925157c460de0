//! The threads that move bytes.
//!
//! Owns: one current-thread runtime in its own thread, or a pool of workers. One thread is cheaper
//! per call (no work is handed between threads); several use more cores. Both run the same code, and
//! connections are shared by all, which one runtime per core would not allow.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// How long the threads get to end once everything was told to close.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Run whenever all threads have nothing to do.
pub type AtRest = Box<dyn Fn() + Send + Sync>;

/// A running runtime.
pub struct Running {
    pub handle: Handle,
    one: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    many: Option<Runtime>,
}

impl Running {
    /// `threads` threads, which run `at_rest` each time when the last of them runs out of work.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(threads: usize, at_rest: AtRest) -> io::Result<Self> {
        if threads > 1 {
            let busy = Arc::new(AtomicUsize::new(threads));
            let awake = Arc::clone(&busy);
            let runtime = Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name("dataplane")
                .on_thread_park(move || {
                    if busy.fetch_sub(1, Ordering::AcqRel) == 1 {
                        at_rest();
                    }
                })
                .on_thread_unpark(move || {
                    awake.fetch_add(1, Ordering::AcqRel);
                })
                .enable_all()
                .build()?;
            return Ok(Self { handle: runtime.handle().clone(), one: None, many: Some(runtime) });
        }
        let runtime = Builder::new_current_thread().on_thread_park(at_rest).enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("dataplane".into()).spawn(move || {
            let _told_or_dropped = runtime.block_on(ended);
            runtime.shutdown_timeout(STOP_TIMEOUT);
        })?;
        Ok(Self { handle, one: Some((end, thread)), many: None })
    }

    /// Ends the threads; what still runs in them is dropped.
    pub fn stop(self) {
        if let Some((end, thread)) = self.one {
            let _ended_already = end.send(());
            let _panicked = thread.join();
        }
        if let Some(runtime) = self.many {
            runtime.shutdown_timeout(STOP_TIMEOUT);
        }
    }
}
