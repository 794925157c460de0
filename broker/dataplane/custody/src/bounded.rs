//! A map that never grows beyond its bound and never lets one peer fill it.
//!
//! Owns: bounding and eviction, oldest first. Does not own: what is stored (see `cache`).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

struct Entry<V> {
    value: V,
    order: u64,
    peer: Arc<str>,
}

/// At most `capacity` entries, at most `quota` for each peer that caused them.
///
/// A peer at its quota replaces its own oldest entry. In a full map the largest holder's oldest goes,
/// or the inserting peer's own if nobody holds more: who has little is never pushed out by who has much,
/// and a newcomer gets a share.
pub(crate) struct BoundedMap<K, V> {
    capacity: usize,
    quota: usize,
    entries: HashMap<K, Entry<V>>,
    by_age: BTreeMap<u64, K>,
    by_peer: HashMap<Arc<str>, VecDeque<u64>>,
    /// How much each peer holds.
    by_share: BTreeSet<(usize, Arc<str>)>,
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
            by_share: BTreeSet::new(),
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
        if held >= self.quota {
            self.evict_oldest_of(peer);
        } else if self.entries.len() >= self.capacity {
            self.make_room(peer, held);
        }
        let peer: Arc<str> = match self.by_peer.get_key_value(peer) {
            Some((known, _)) => Arc::clone(known),
            None => peer.into(),
        };
        let order = self.next;
        self.next += 1;
        self.by_age.insert(order, key.clone());
        let orders = self.by_peer.entry(Arc::clone(&peer)).or_default();
        self.by_share.remove(&(orders.len(), Arc::clone(&peer)));
        orders.push_back(order);
        self.by_share.insert((orders.len(), Arc::clone(&peer)));
        self.entries.insert(key, Entry { value, order, peer });
    }

    /// Removes every entry that `peer` caused.
    pub(crate) fn remove_all_of(&mut self, peer: &str) {
        while self.by_peer.contains_key(peer) {
            self.evict_oldest_of(peer);
        }
    }

    fn evict_oldest_of(&mut self, peer: &str) {
        let oldest = self.by_peer.get(peer).and_then(|orders| orders.front().copied());
        if let Some(order) = oldest {
            self.evict(order);
        }
    }

    /// Evicts one entry for `peer`, which holds `held`.
    fn make_room(&mut self, peer: &str, held: usize) {
        match self.by_share.last().cloned() {
            Some((most, largest)) if most > held && most > 1 => self.evict_oldest_of(&largest),
            _ if held > 0 => self.evict_oldest_of(peer),
            _ => self.evict_oldest(),
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
            self.by_share.remove(&(orders.len(), Arc::clone(&entry.peer)));
            // The oldest of all is also the oldest of its peer, so it stands at the front.
            if orders.front() == Some(&order) {
                orders.pop_front();
            }
            if orders.is_empty() {
                self.by_peer.remove(&entry.peer);
            } else {
                self.by_share.insert((orders.len(), Arc::clone(&entry.peer)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(capacity: usize, quota: usize, insertions: &[(u32, &str)]) -> BoundedMap<u32, ()> {
        let mut map = BoundedMap::new(capacity, quota);
        for (key, peer) in insertions {
            map.insert(*key, (), peer);
            assert!(map.len() <= capacity);
            assert_eq!(map.by_share.iter().map(|(held, _)| held).sum::<usize>(), map.len());
        }
        map
    }

    fn keys(map: &BoundedMap<u32, ()>) -> Vec<u32> {
        map.by_age.values().copied().collect()
    }

    #[test]
    fn in_a_full_map_the_largest_holder_makes_room() {
        let map = filled(4, 4, &[(1, "a"), (2, "b"), (3, "b"), (4, "b"), (5, "c"), (6, "c")]);
        assert_eq!(keys(&map), [1, 4, 5, 6]);
    }

    #[test]
    fn who_holds_as_much_as_anybody_replaces_its_own() {
        let map = filled(4, 4, &[(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "b"), (6, "b")]);
        assert_eq!(keys(&map), [1, 2, 5, 6]);
    }

    #[test]
    fn among_many_small_holders_the_oldest_entry_goes() {
        let map = filled(3, 3, &[(1, "z"), (2, "b"), (3, "c"), (4, "d")]);
        assert_eq!(keys(&map), [2, 3, 4]);
    }

    #[test]
    fn everything_of_one_peer_can_be_removed() {
        let mut map = filled(9, 9, &[(1, "a"), (2, "b"), (3, "a")]);
        map.remove_all_of("a");
        map.remove_all_of("nobody");
        assert_eq!(keys(&map), [2]);
        assert_eq!(map.by_share.len(), 1);
    }

    /// How much each peer holds, counted one by one.
    fn shares(map: &BoundedMap<u32, ()>) -> HashMap<Arc<str>, usize> {
        let mut shares = HashMap::new();
        for entry in map.entries.values() {
            *shares.entry(Arc::clone(&entry.peer)).or_default() += 1;
        }
        shares
    }

    #[test]
    fn whoever_inserts_what_bounds_hold_and_nobody_smaller_loses_anything() {
        let mut state = 0x9E37_79B9_u32;
        let mut below = |bound: u32| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % bound
        };
        for _ in 0..200 {
            let (capacity, quota) = (1 + below(12) as usize, 1 + below(12) as usize);
            let mut map = BoundedMap::new(capacity, quota);
            for _ in 0..60 {
                let peer = format!("p{}", below(5));
                let before = shares(&map);
                let own = before.get(peer.as_str()).copied().unwrap_or_default();
                map.insert(below(40), (), &peer);
                let after = shares(&map);
                assert!(map.len() <= capacity && after.values().all(|held| *held <= quota));
                assert_eq!(map.by_age.len(), map.len());
                let counted: BTreeSet<(usize, Arc<str>)> =
                    after.iter().map(|(peer, held)| (*held, Arc::clone(peer))).collect();
                assert_eq!(map.by_share, counted);
                for (other, held) in before.iter().filter(|(other, _)| ***other != *peer) {
                    let lost = held - after.get(other).copied().unwrap_or_default();
                    assert!(lost == 0 || *held > own, "{peer} with {own} took from {other} with {held}");
                }
            }
        }
    }
}
