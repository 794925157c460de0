//! The tasks that hyper starts for one connection, all ended with it.
//!
//! Owns: that closing a connection also ends what hyper spawned for it. Without this an HTTP/2
//! client connection lives on in a task of hyper's own while any response still streams.

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Spawns tasks that end with their connection.
#[derive(Clone)]
pub struct ConnectionTasks {
    running: TaskTracker,
    end: CancellationToken,
}

impl ConnectionTasks {
    /// An executor, and the guard that ends its tasks when dropped.
    pub fn new() -> (Self, DropGuard) {
        let end = CancellationToken::new();
        (Self { running: TaskTracker::new(), end: end.clone() }, end.drop_guard())
    }

    /// Resolves once every task has ended and no more can come.
    pub async fn wait(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

impl<F> hyper::rt::Executor<F> for ConnectionTasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let end = self.end.clone();
        // Boxed so that it is not moved, and not counted twice, into what waits for it.
        let task = Box::pin(task);
        self.running.spawn(async move {
            tokio::select! {
                _output = task => {}
                () = end.cancelled() => {}
            }
        });
    }
}
