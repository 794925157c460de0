//! How many requests are sent again: a part of all calls to a callee, so that one that fails is not
//! hammered by those who try again.
//!
//! Owns: one budget for each callee, shared by all callers of this node. Every call puts a part of a
//! retry into it, every retry takes one out, and a few a second are free, for callees that are seldom
//! called. Does not own: which requests may be sent again (see `send`).
//!
//! Source: the Site Reliability Engineering book, "Handling Overload"; Finagle's and linkerd2-proxy's
//! `RetryBudget`, whose shape this is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Retries that are free in each second, and how many can be saved up.
const FREE_PER_SECOND: f64 = 1.0;
const MOST_FREE: f64 = 10.0;
/// Most that calls can save up.
const MOST_EARNED: f64 = 100.0;
/// Callees whose budget is remembered; full ones are forgotten first, as a new one is full.
const CALLEES: usize = 4096;

/// The budgets of all callees.
pub struct Retries {
    budgets: Mutex<HashMap<String, Budget>>,
    /// Retries that one call earns.
    part: f64,
}

struct Budget {
    earned: f64,
    free: f64,
    filled: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { earned: 0.0, free: MOST_FREE, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * FREE_PER_SECOND;
        self.free = (self.free + gained).min(MOST_FREE);
        self.filled = now;
    }
}

impl Retries {
    /// `percent` of calls may be sent again.
    pub fn new(percent: u32) -> Self {
        Self { budgets: Mutex::default(), part: f64::from(percent) / 100.0 }
    }

    /// A first attempt to `callee`.
    pub fn count_call(&self, callee: &str, now: Instant) {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        // Who was never retried needs no budget yet: what calls earn counts from the first retry on.
        if let Some(budget) = budgets.get_mut(callee) {
            budget.fill(now);
            budget.earned = (budget.earned + self.part).min(MOST_EARNED);
        }
    }

    /// Whether a request to `callee` may be sent again.
    pub fn admits(&self, callee: &str, now: Instant) -> bool {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.len() >= CALLEES && !budgets.contains_key(callee) {
            budgets.retain(|_, budget| {
                budget.fill(now);
                budget.free < MOST_FREE
            });
            if budgets.len() >= CALLEES {
                return false;
            }
        }
        let budget = budgets.entry(callee.to_owned()).or_insert_with(|| Budget::new(now));
        budget.fill(now);
        let from = if budget.free >= 1.0 { &mut budget.free } else { &mut budget.earned };
        let admits = *from >= 1.0;
        if admits {
            *from -= 1.0;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn retried(retries: &Retries, callee: &str, calls: usize, now: Instant) -> usize {
        let attempt = |_: &usize| {
            retries.count_call(callee, now);
            retries.admits(callee, now)
        };
        (0..calls).filter(attempt).count()
    }

    #[test]
    fn a_part_of_all_calls_is_sent_again_beside_a_few() {
        let (retries, now) = (Retries::new(20), Instant::now());
        let some = retried(&retries, "a", 1000, now);
        assert!((200..=215).contains(&some), "{some}");
        assert_eq!(retried(&retries, "b", 5, now), 5);
    }

    #[test]
    fn without_a_part_only_the_free_ones_are_left_and_come_back_with_time() {
        let (retries, now) = (Retries::new(0), Instant::now());
        assert_eq!(retried(&retries, "a", 1000, now), 10);
        assert_eq!(retried(&retries, "a", 1000, now + Duration::from_secs(3)), 3);
    }

    #[test]
    fn budgets_of_many_callees_stay_bounded() {
        let (retries, now) = (Retries::new(20), Instant::now());
        for callee in 0..2 * CALLEES {
            retries.admits(&callee.to_string(), now);
        }
        assert_eq!(retries.budgets.lock().unwrap().len(), CALLEES);
        assert!(retries.admits("new", now + Duration::from_secs(60)));
    }
}
