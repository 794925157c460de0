//! The tasks that hyper starts for one connection, all ended with it.
//!
//! Owns: that closing a connection also ends what hyper spawned for it. Without this an HTTP/2
//! client connection lives on in a task of hyper's own while any response still streams.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
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
                () = cuttable(task) => {}
                () = end.cancelled() => {}
            }
        });
    }
}

thread_local! {
    static ASKED: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// What ends the task of a [`ConnectionTasks`] that is being polled now, and with it the stream that it writes, even
/// while hyper waits for its reader and asks for nothing.
pub fn cut_of_this_task() -> CancellationToken {
    let cut = CancellationToken::new();
    ASKED.set(Some(cut.clone()));
    cut
}

/// Runs a task that can be ended on its own once it asked how.
async fn cuttable<F: Future>(task: F) {
    let mut task = pin!(task);
    let mut cut: Option<Pin<Box<WaitForCancellationFutureOwned>>> = None;
    poll_fn(|context| {
        if task.as_mut().poll(context).is_ready() {
            ASKED.take();
            return Poll::Ready(());
        }
        if let Some(asked) = ASKED.take() {
            cut = Some(Box::pin(asked.cancelled_owned()));
        }
        cut.as_mut().map_or(Poll::Pending, |cut| cut.as_mut().poll(context))
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor;
    use std::future::pending;

    #[tokio::test]
    async fn one_task_of_a_connection_is_cut_and_the_others_go_on() {
        let (tasks, guard) = ConnectionTasks::new();
        let (asked, asking) = tokio::sync::oneshot::channel();
        tasks.execute(async move {
            let _nobody_waits = asked.send(cut_of_this_task());
            pending::<()>().await;
        });
        tasks.execute(pending::<()>());
        let cut = asking.await.unwrap();
        assert_eq!(tasks.running.len(), 2);
        cut.cancel();
        while tasks.running.len() == 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tasks.running.len(), 1);
        drop(guard);
        tasks.wait().await;
    }
}
