//! Bounds on connections, in all and per origin (user or address).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::stats::Gauge;

/// A bound on connections in all and per origin.
pub struct Places<K>(Arc<PlacesInner<K>>);

struct PlacesInner<K> {
    taken: Mutex<HashMap<K, usize>>,
    total: Gauge,
    limit: usize,
    limit_per_origin: usize,
}

/// One connection's place.
pub struct Place<K: Eq + Hash> {
    origin: K,
    places: Arc<PlacesInner<K>>,
}

impl<K: Eq + Hash + Copy> Places<K> {
    pub fn new(limit: usize, limit_per_origin: usize) -> Self {
        Self(Arc::new(PlacesInner { taken: Mutex::default(), total: Gauge::default(), limit, limit_per_origin }))
    }

    /// A place for a connection from `origin`, or None at either bound.
    pub fn take(&self, origin: K) -> Option<Place<K>> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&origin).copied().unwrap_or(0);
        if own >= self.0.limit_per_origin || self.0.total.get() >= i64::try_from(self.0.limit).unwrap_or(i64::MAX) {
            return None;
        }
        taken.insert(origin, own + 1);
        self.0.total.add(1);
        Some(Place { origin, places: Arc::clone(&self.0) })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        self.places.total.add(-1);
        if let Some(count) = taken.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_places_come_back() {
        let places = Places::new(3, 2);
        let first = places.take(1).unwrap();
        let _second = places.take(1).unwrap();
        assert!(places.take(1).is_none());
        let _third = places.take(2).unwrap();
        assert!(places.take(3).is_none());
        drop(first);
        assert!(places.take(3).is_some());
    }
}
