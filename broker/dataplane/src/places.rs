//! Bounds on connections and calls, in all and per origin (user, address or identity).
//!
//! Owns: places, which are refused when there is none, and turns, which are waited for.
//!
//! An origin may have as many places as it leaves free: one alone gets half, a second half of the rest, so
//! however many act together, one that comes later finds some left (the dynamic thresholds of Choudhury and
//! Hahne, IEEE/ACM Transactions on Networking 6(2), 1998, with their factor 1).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::stats::Gauge;

/// One origin has at most this part of all turns, so that the others' come whatever it does.
const ORIGIN_PART: usize = 4;
/// Origins that are remembered before those without a turn are forgotten.
const FORGET_AT: usize = 1024;

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

impl<K: Eq + Hash + Clone> Places<K> {
    pub fn new(limit: usize, limit_per_origin: usize) -> Self {
        Self(Arc::new(PlacesInner { taken: Mutex::default(), total: Gauge::default(), limit, limit_per_origin }))
    }

    /// A place for `origin`, or None at a bound.
    pub fn take(&self, origin: K) -> Option<Place<K>> {
        self.take_if(origin, |own, left| own < left)
    }

    /// The same where others have a hand in what is `free`: origins of another kind share it.
    pub fn take_of(&self, origin: K, free: usize) -> Option<Place<K>> {
        self.take_if(origin, |own, _left| own < free)
    }

    fn take_if(&self, origin: K, may_have_more: impl Fn(usize, usize) -> bool) -> Option<Place<K>> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&origin).copied().unwrap_or(0);
        let total = usize::try_from(self.0.total.get()).unwrap_or(usize::MAX);
        let left = self.0.limit.saturating_sub(total);
        if left == 0 || own >= self.0.limit_per_origin || !may_have_more(own, left) {
            return None;
        }
        taken.insert(origin.clone(), own + 1);
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

/// A bound for each origin, forgotten when nothing of it is held.
pub struct Parts<K, P> {
    make: Box<dyn Fn() -> P + Send + Sync>,
    origins: Mutex<HashMap<K, Weak<P>>>,
}

impl<K: Eq + Hash, P> Parts<K, P> {
    pub fn new(make: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), origins: Mutex::default() }
    }

    /// The part of `origin`.
    pub fn of(&self, origin: K) -> Arc<P> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = origins.get(&origin).and_then(Weak::upgrade) {
            return known;
        }
        if origins.len() >= FORGET_AT {
            origins.retain(|_, each| each.strong_count() > 0);
        }
        let part = Arc::new((self.make)());
        origins.insert(origin, Arc::downgrade(&part));
        part
    }
}

/// Turns at something costly.
pub struct Turns<K> {
    all: Arc<Semaphore>,
    parts: Parts<K, Semaphore>,
}

/// One turn; the next comes when it is dropped.
pub struct Turn {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl<K: Eq + Hash> Turns<K> {
    pub fn new(count: usize) -> Self {
        let part = move || Semaphore::new((count / ORIGIN_PART).max(1));
        Self { all: Arc::new(Semaphore::new(count)), parts: Parts::new(part) }
    }

    /// Waits for a turn of `origin`; None never comes while the turns live.
    pub async fn take(&self, origin: K) -> Option<Turn> {
        let own = self.parts.of(origin).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _own: own, _of_all: of_all })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn one_origin_leaves_turns_to_the_others() {
        let turns = Turns::new(8);
        let first = turns.take(1).await.unwrap();
        let _second = turns.take(1).await.unwrap();
        let mut third = pin!(turns.take(1));
        tokio::select! {
            biased;
            _turn = third.as_mut() => panic!("an origin has more than its part"),
            other = turns.take(2) => assert!(other.is_some()),
        }
        drop(first);
        assert!(third.await.is_some());
    }

    #[tokio::test]
    async fn origins_without_a_turn_are_forgotten() {
        let turns = Turns::new(1);
        for origin in 0..2 * FORGET_AT {
            turns.take(origin).await.unwrap();
        }
        assert!(turns.parts.origins.lock().unwrap().len() <= FORGET_AT);
    }

    #[test]
    fn whoever_comes_later_finds_places_however_many_act_together() {
        let places = Places::new(1024, 1024);
        let mut held = Vec::new();
        for origin in 0..8 {
            let own: Vec<_> = std::iter::from_fn(|| places.take(origin)).collect();
            assert_eq!(own.len(), 512 >> origin);
            held.push(own);
        }
        let free = 1024 - held.iter().map(Vec::len).sum::<usize>();
        assert_eq!(free, 4);
        assert!(places.take(99).is_some());
    }

    #[test]
    fn an_origin_gets_no_more_than_others_leave_free() {
        let places = Places::new(8, 8);
        let _one = places.take_of(1, 2).unwrap();
        let _two = places.take_of(1, 2).unwrap();
        assert!(places.take_of(1, 2).is_none());
        assert!(places.take_of(1, 3).is_some());
        assert!(places.take_of(2, 0).is_none());
    }

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
