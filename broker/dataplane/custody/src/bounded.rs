//! A map that never grows beyond its bound and never lets one peer fill it.
//!
//! Owns: bounding and eviction, oldest first. Does not own: what is stored (see `cache`).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

struct Entry<V> {
    value: V,
    order: u64,
    peer: Arc<str>,
}

/// At most `capacity` entries, at most `quota` for each peer that caused them.
///
/// A peer at its quota replaces its own oldest entry; in a full map the oldest of all goes,
/// but the inserting peer's own first if it has any.
pub(crate) struct BoundedMap<K, V> {
    capacity: usize,
    quota: usize,
    entries: HashMap<K, Entry<V>>,
    by_age: BTreeMap<u64, K>,
    by_peer: HashMap<Arc<str>, VecDeque<u64>>,
    next: u64,
}

impl<K: Clone + Eq + Hash, V> BoundedMap<K, V> {
    pub(crate) fn new(capacity: usize, quota: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            quota: quota.max(1),
            entries: HashMap::new(),
            by_age: BTreeMap::new(),
            by_peer: HashMap::new(),
            next: 0,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Stores `value`; an entry already there under `key` is replaced in place.
    pub(crate) fn insert(&mut self, key: K, value: V, peer: &str) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.value = value;
            return;
        }
        let held = self.by_peer.get(peer).map_or(0, VecDeque::len);
        if held >= self.quota || (held > 0 && self.entries.len() >= self.capacity) {
            self.evict_oldest_of(peer);
        } else if self.entries.len() >= self.capacity {
            self.evict_oldest();
        }
        let peer: Arc<str> = match self.by_peer.get_key_value(peer) {
            Some((known, _)) => Arc::clone(known),
            None => peer.into(),
        };
        let order = self.next;
        self.next += 1;
        self.by_age.insert(order, key.clone());
        self.by_peer.entry(Arc::clone(&peer)).or_default().push_back(order);
        self.entries.insert(key, Entry { value, order, peer });
    }

    fn evict_oldest_of(&mut self, peer: &str) {
        let oldest = self.by_peer.get(peer).and_then(|orders| orders.front().copied());
        if let Some(order) = oldest {
            self.evict(order);
        }
    }

    fn evict_oldest(&mut self) {
        let oldest = self.by_age.first_key_value().map(|(order, _)| *order);
        if let Some(order) = oldest {
            self.evict(order);
        }
    }

    fn evict(&mut self, order: u64) {
        let Some(entry) = self.by_age.remove(&order).and_then(|key| self.entries.remove(&key)) else { return };
        debug_assert_eq!(entry.order, order);
        if let Some(orders) = self.by_peer.get_mut(&entry.peer) {
            // The oldest of all is also the oldest of its peer, so it stands at the front.
            if orders.front() == Some(&order) {
                orders.pop_front();
            }
            if orders.is_empty() {
                self.by_peer.remove(&entry.peer);
            }
        }
    }
}
