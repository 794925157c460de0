//! Endpoints that failed too often in a row, and are left alone for a while.
//!
//! Owns: one circuit for each caller, callee and endpoint: closed, open after so many failures in a row,
//! half open when its time is over, and then one call probes it. Does not own: what a failure is (see
//! `send`). The caller belongs to it because an endpoint may fail one identity only, which must not cost
//! the others their calls.
//!
//! | state | a call | becomes |
//! | --- | --- | --- |
//! | closed | passes | open after `failures` in a row |
//! | open | is refused | half open after its time |
//! | half open | one passes, others are refused | closed if that one is answered, else open for twice as long |

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hopseal_custody::ids::SpiffeId;

/// An endpoint that fails on and on is probed at least so often.
const LONGEST: Duration = Duration::from_secs(60);
/// Circuits that are remembered; beyond it, nothing new is.
const CIRCUITS: usize = 16_384;

/// From whom to whom, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    pub caller: SpiffeId,
    /// A SPIFFE ID, or the host of a service outside.
    pub callee: String,
    pub endpoint: String,
}

/// All circuits.
pub struct Breakers {
    circuits: Mutex<HashMap<Route, Circuit>>,
    failures: u32,
    open: Duration,
}

/// A circuit that is not closed and sound; a route without one is.
struct Circuit {
    failures: u32,
    /// When it opened, and for how long.
    opened: Option<(Instant, Duration)>,
    is_probed: bool,
    touched: Instant,
}

/// One call that was let through; dropped without a verdict, it says nothing about the endpoint.
pub struct Passage {
    breakers: Arc<Breakers>,
    route: Route,
    is_probe: bool,
    is_judged: bool,
}

impl Breakers {
    /// Circuits that open after `failures` in a row, at first for `open`.
    pub fn new(failures: u32, open: Duration) -> Arc<Self> {
        Arc::new(Self { circuits: Mutex::default(), failures, open })
    }

    /// Lets a call through; None while the circuit is open or probed by another call.
    pub fn pass(self: &Arc<Self>, route: Route, now: Instant) -> Option<Passage> {
        let mut is_probe = false;
        if let Some(circuit) = self.lock().get_mut(&route)
            && let Some((since, time)) = circuit.opened
        {
            if circuit.is_probed || now.saturating_duration_since(since) < time {
                return None;
            }
            (circuit.is_probed, is_probe) = (true, true);
        }
        Some(Passage { breakers: Arc::clone(self), route, is_probe, is_judged: false })
    }

    /// Circuits that are open now.
    pub fn open_count(&self) -> usize {
        self.lock().values().filter(|circuit| circuit.opened.is_some()).count()
    }

    /// Forgets circuits that nobody used for long.
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, circuit| now.saturating_duration_since(circuit.touched) < LONGEST * 2);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Route, Circuit>> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passage {
    /// The endpoint that it leads to.
    pub fn endpoint(&self) -> &str {
        &self.route.endpoint
    }

    /// The endpoint has answered.
    pub fn answered(mut self) {
        self.is_judged = true;
        self.breakers.lock().remove(&self.route);
    }

    /// The endpoint could not be reached, or has not answered.
    pub fn failed(mut self, now: Instant) {
        self.is_judged = true;
        let breakers = Arc::clone(&self.breakers);
        let mut circuits = breakers.lock();
        if circuits.len() >= CIRCUITS && !circuits.contains_key(&self.route) {
            return;
        }
        let sound = || Circuit { failures: 0, opened: None, is_probed: false, touched: now };
        let circuit = circuits.entry(self.route.clone()).or_insert_with(sound);
        circuit.failures = circuit.failures.saturating_add(1);
        circuit.touched = now;
        if self.is_probe {
            let before = circuit.opened.map_or(breakers.open, |(_, time)| time);
            circuit.opened = Some((now, (before * 2).min(LONGEST.max(breakers.open))));
            circuit.is_probed = false;
        } else if circuit.failures >= breakers.failures && circuit.opened.is_none() {
            circuit.opened = Some((now, breakers.open));
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.is_probe
            && !self.is_judged
            && let Some(circuit) = self.breakers.lock().get_mut(&self.route)
        {
            circuit.is_probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Duration = Duration::from_secs(5);

    fn route(caller: &str) -> Route {
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://example.org/{name}")).unwrap();
        Route { caller: id(caller), callee: id("callee").to_string(), endpoint: "a:1".into() }
    }

    fn fail(breakers: &Arc<Breakers>, now: Instant) {
        breakers.pass(route("caller"), now).unwrap().failed(now);
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row_and_for_that_caller_only() {
        let (breakers, now) = (Breakers::new(3, OPEN), Instant::now());
        for _ in 0..2 {
            fail(&breakers, now);
        }
        breakers.pass(route("caller"), now).unwrap().answered();
        for _ in 0..3 {
            assert_eq!(breakers.open_count(), 0);
            fail(&breakers, now);
        }
        assert!(breakers.pass(route("caller"), now).is_none());
        assert!(breakers.pass(route("other"), now).is_some());
        assert_eq!(breakers.open_count(), 1);
    }

    #[test]
    fn half_open_lets_one_call_probe() {
        let (breakers, start) = (Breakers::new(1, OPEN), Instant::now());
        fail(&breakers, start);
        let later = start + OPEN;
        assert!(breakers.pass(route("caller"), later - Duration::from_millis(1)).is_none());
        let probe = breakers.pass(route("caller"), later).unwrap();
        assert!(breakers.pass(route("caller"), later).is_none());
        drop(probe);
        breakers.pass(route("caller"), later).unwrap().answered();
        assert_eq!(breakers.open_count(), 0);
        assert!(breakers.pass(route("caller"), later).is_some());
    }

    #[test]
    fn a_probe_that_fails_doubles_the_time_up_to_a_bound() {
        let (breakers, mut now) = (Breakers::new(1, OPEN), Instant::now());
        fail(&breakers, now);
        let mut time = OPEN;
        for _ in 0..8 {
            assert!(breakers.pass(route("caller"), now + time - Duration::from_millis(1)).is_none());
            now += time;
            breakers.pass(route("caller"), now).unwrap().failed(now);
            time = (time * 2).min(LONGEST);
        }
        assert_eq!(time, LONGEST);
    }

    #[test]
    fn calls_that_were_under_way_when_it_opened_keep_it_open_no_longer() {
        let (breakers, now) = (Breakers::new(1, OPEN), Instant::now());
        let late = breakers.pass(route("caller"), now).unwrap();
        fail(&breakers, now);
        late.failed(now + OPEN / 2);
        assert!(breakers.pass(route("caller"), now + OPEN).is_some());
    }

    #[test]
    fn unused_circuits_are_forgotten() {
        let (breakers, now) = (Breakers::new(1, OPEN), Instant::now());
        fail(&breakers, now);
        breakers.sweep(now + LONGEST);
        assert_eq!(breakers.open_count(), 1);
        breakers.sweep(now + LONGEST * 2);
        assert_eq!(breakers.open_count(), 0);
    }
}
