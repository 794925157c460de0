use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::super::samples::received;
use super::*;
use tokio::sync::oneshot;

const LONG: Duration = Duration::from_secs(60);

fn awaited() -> Job {
    Job::Append { entry: received("j", 1), certificates: Vec::new(), done: Some(oneshot::channel().0) }
}

fn unawaited() -> Job {
    Job::Append { entry: received("j", 1), certificates: Vec::new(), done: None }
}

fn offer(entrance: &Entrance, jobs: impl IntoIterator<Item = Job>) {
    for job in jobs {
        assert!(entrance.offer(job).is_ok());
    }
}

fn count(next: Next) -> usize {
    match next {
        Next::Batch(jobs) => jobs.len(),
        Next::Nothing | Next::Ended => 0,
    }
}

fn took(exit: &Exit) -> (usize, Duration) {
    let began = Instant::now();
    (count(exit.next(256, LONG)), began.elapsed())
}

/// Runs `change` once the reader, which is another thread, sleeps.
fn while_asleep(exit: Exit, change: impl FnOnce()) -> (usize, Exit) {
    let shared = Arc::clone(&exit.0);
    let reader = thread::spawn(move || (count(exit.next(256, LONG)), exit));
    while matches!(shared.lock().sleeper, Sleeper::Awake) && !reader.is_finished() {
        thread::yield_now();
    }
    change();
    reader.join().unwrap()
}

#[test]
fn where_nobody_tells_of_rests_nothing_waits_for_company() {
    let (entrance, exit) = queue(9);
    offer(&entrance, [awaited()]);
    assert_eq!(took(&exit).0, 1);
}

#[test]
fn a_batch_is_complete_when_the_threads_of_the_calls_rest() {
    let (entrance, exit) = queue(99);
    entrance.expect_rests();
    offer(&entrance, [awaited(), awaited()]);
    entrance.rest();
    // At rest already: it does not sleep.
    assert_eq!(count(exit.next(256, LONG)), 2);
    offer(&entrance, [awaited()]);
    assert!(entrance.0.0.lock().rest == Rest::Busy);
}

#[test]
fn a_batch_is_complete_when_one_seal_is_full() {
    let (entrance, exit) = queue(99);
    entrance.expect_rests();
    offer(&entrance, (0..ENOUGH).map(|_| awaited()));
    assert_eq!(count(exit.next(256, LONG)), ENOUGH);
}

#[test]
fn threads_that_never_rest_hold_no_call_up() {
    let (entrance, exit) = queue(99);
    entrance.expect_rests();
    offer(&entrance, [awaited()]);
    let (jobs, waited) = took(&exit);
    assert!(jobs == 1 && waited >= LINGER, "{waited:?}");
}

#[test]
fn what_nobody_waits_for_is_taken_along_or_goes_alone_soon() {
    let (entrance, exit) = queue(99);
    offer(&entrance, [unawaited(), awaited()]);
    assert_eq!(took(&exit).0, 2);
    offer(&entrance, [unawaited()]);
    let (jobs, waited) = took(&exit);
    assert!(jobs == 1 && waited >= UNAWAITED_LINGER, "{waited:?}");
}

#[test]
fn a_sleeping_reader_is_woken_by_the_first_job_by_a_rest_and_by_the_end() {
    let (entrance, exit) = queue(99);
    let (jobs, exit) = while_asleep(exit, || offer(&entrance, [awaited()]));
    assert_eq!(jobs, 1);
    entrance.expect_rests();
    offer(&entrance, [awaited()]);
    let rested = AtomicBool::new(false);
    let (jobs, exit) = while_asleep(exit, || {
        entrance.rest();
        rested.store(true, Ordering::SeqCst);
    });
    assert_eq!((jobs, rested.load(Ordering::SeqCst)), (1, true));
    let (jobs, exit) = while_asleep(exit, || entrance.end());
    assert_eq!(jobs, 0);
    assert!(matches!(exit.next(256, LONG), Next::Ended));
}

#[test]
fn a_full_queue_gives_the_job_back_and_is_not_waited_for() {
    let (entrance, exit) = queue(2);
    entrance.expect_rests();
    offer(&entrance, [awaited(), awaited()]);
    assert!(matches!(entrance.offer(awaited()), Err(Refused::Full(_))));
    assert_eq!(count(exit.next(256, LONG)), 2);
}

#[test]
fn after_the_end_what_waits_is_given_and_nothing_more_taken_in() {
    let (entrance, exit) = queue(99);
    offer(&entrance, [awaited(), unawaited(), awaited()]);
    entrance.end();
    assert!(matches!(entrance.offer(awaited()), Err(Refused::Ended)));
    assert_eq!((count(exit.next(2, LONG)), count(exit.next(2, LONG))), (2, 1));
    assert!(matches!(exit.next(2, LONG), Next::Ended));
}

#[test]
fn the_queue_ends_with_its_last_entrance_and_with_its_reader() {
    let (entrance, exit) = queue(9);
    drop(entrance.clone());
    offer(&entrance, [awaited()]);
    drop(entrance);
    assert_eq!(count(exit.next(9, LONG)), 1);
    assert!(matches!(exit.next(9, LONG), Next::Ended));
    let (entrance, exit) = queue(9);
    let (done, outcome) = oneshot::channel();
    offer(&entrance, [Job::Append { entry: received("j", 1), certificates: Vec::new(), done: Some(done) }]);
    drop(exit);
    assert!(outcome.blocking_recv().is_err());
    assert!(matches!(entrance.offer(awaited()), Err(Refused::Ended)));
}

#[test]
fn nothing_is_said_when_nothing_came() {
    let (_entrance, exit) = queue(9);
    assert!(matches!(exit.next(9, Duration::from_millis(1)), Next::Nothing));
}
