//! A bound on how often something that strangers can cause is written down.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A token bucket.
pub struct Throttle {
    bucket: Mutex<Bucket>,
    per_second: f64,
    burst: f64,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Throttle {
    /// At most `per_second` on average and `burst` at once.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { bucket: Mutex::new(Bucket { tokens: burst, filled: Instant::now() }), per_second, burst }
    }

    /// Whether this one may pass.
    pub fn admits(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(bucket.filled).as_secs_f64() * self.per_second;
        bucket.tokens = (bucket.tokens + gained).min(self.burst);
        bucket.filled = now;
        let admits = bucket.tokens >= 1.0;
        if admits {
            bucket.tokens -= 1.0;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let throttle = Throttle::new(10.0, 3.0);
        let start = Instant::now();
        assert_eq!((0..10).filter(|_| throttle.admits(start)).count(), 3);
        assert_eq!((0..10).filter(|_| throttle.admits(start + Duration::from_millis(250))).count(), 2);
    }
}
