//! `Custody-Handle`: what joins an inbound call to the calls made because of it.
//!
//! Owns: the random names, whom they belong to, their expiry and bounds. Does not own: what a
//! handle continues (the type parameter). A handle is good only for the component instance that it
//! was given to; unknown, foreign and expired ones look the same.
//!
//! Source: custody-wire §5.1; runtime.md "Tasks".

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use hopseal_custody::hash::RandomId;

use crate::instance::InstanceKey;

/// 128 random bits.
const HANDLE_BYTES: usize = 16;

type Handle = [u8; HANDLE_BYTES];

struct Entry<T> {
    owner: InstanceKey,
    expires_at: i64,
    continues: Arc<T>,
}

/// One handle with all that is known of it, for another process.
pub struct Held<T> {
    pub handle: String,
    pub owner: InstanceKey,
    pub expires_at: i64,
    pub continues: Arc<T>,
}

struct Store<T> {
    held: HashMap<Handle, Entry<T>>,
    /// Oldest first, per instance: what is dropped when one instance holds too many.
    by_owner: HashMap<InstanceKey, VecDeque<Handle>>,
}

/// All handles of this broker.
pub struct Handles<T> {
    store: Mutex<Store<T>>,
    limit: usize,
    limit_per_instance: usize,
}

impl<T> Handles<T> {
    pub fn new(limit: usize, limit_per_instance: usize) -> Self {
        let store = Store { held: HashMap::new(), by_owner: HashMap::new() };
        Self { store: Mutex::new(store), limit, limit_per_instance }
    }

    /// A new handle of `owner`; None if no randomness is to be had. An instance that holds too many loses
    /// its oldest, and in a full store whoever holds most does: load must not stop all calls.
    pub fn issue(&self, owner: &InstanceKey, continues: Arc<T>, expires_at: i64) -> Option<String> {
        let handle = random()?;
        self.insert(handle, owner, continues, expires_at);
        Some(URL_SAFE_NO_PAD.encode(handle))
    }

    fn insert(&self, handle: Handle, owner: &InstanceKey, continues: Arc<T>, expires_at: i64) {
        let mut guard = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let store = &mut *guard;
        if store.by_owner.get(owner).is_some_and(|own| own.len() >= self.limit_per_instance) {
            store.drop_oldest_of(owner);
        }
        while store.held.len() >= self.limit
            && let Some(largest) = store.largest_owner()
        {
            store.drop_oldest_of(&largest);
        }
        store.by_owner.entry(owner.clone()).or_default().push_back(handle);
        store.held.insert(handle, Entry { owner: owner.clone(), expires_at, continues });
    }

    /// Takes a handle over that another process gave to `owner`.
    pub fn adopt(&self, handle: &str, owner: &InstanceKey, continues: Arc<T>, expires_at: i64) {
        if let Some(handle) = parse(handle) {
            self.insert(handle, owner, continues, expires_at);
        }
    }

    /// Every handle, the oldest of each owner first.
    pub fn all(&self) -> Vec<Held<T>> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.by_owner.values().flatten().filter_map(|handle| store.held_of(*handle)).collect()
    }

    /// One handle of `owner`.
    pub fn kept(&self, handle: &str, owner: &InstanceKey) -> Option<Held<T>> {
        let handle = parse(handle)?;
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.held_of(handle).filter(|held| held.owner == *owner)
    }

    /// What `handle` continues, if it is `owner`'s and has not expired.
    pub fn find(&self, handle: &str, owner: &InstanceKey, now: i64) -> Option<Arc<T>> {
        let handle = parse(handle)?;
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let held = store.held.get(&handle)?;
        (held.owner == *owner && now < held.expires_at).then(|| Arc::clone(&held.continues))
    }

    /// Drops all handles of an instance that was withdrawn.
    pub fn forget_owner(&self, owner: &InstanceKey) {
        let mut guard = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        for handle in guard.by_owner.remove(owner).unwrap_or_default() {
            guard.held.remove(&handle);
        }
    }

    /// Drops expired handles; called now and then so that an idle broker shrinks.
    pub fn purge(&self, now: i64) {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).purge(now);
    }

    /// Handles held now.
    pub fn len(&self) -> usize {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).held.len()
    }
}

impl<T> Store<T> {
    fn held_of(&self, handle: Handle) -> Option<Held<T>> {
        let Entry { owner, expires_at, continues } = self.held.get(&handle)?;
        let (owner, expires_at, continues) = (owner.clone(), *expires_at, Arc::clone(continues));
        Some(Held { handle: URL_SAFE_NO_PAD.encode(handle), owner, expires_at, continues })
    }

    fn drop_oldest_of(&mut self, owner: &InstanceKey) {
        let Some(handles) = self.by_owner.get_mut(owner) else { return };
        if let Some(oldest) = handles.pop_front() {
            self.held.remove(&oldest);
        }
        if handles.is_empty() {
            self.by_owner.remove(owner);
        }
    }

    fn largest_owner(&self) -> Option<InstanceKey> {
        self.by_owner.iter().max_by_key(|(_, handles)| handles.len()).map(|(owner, _)| owner.clone())
    }

    fn purge(&mut self, now: i64) {
        self.held.retain(|_, held| now < held.expires_at);
        let held = &self.held;
        self.by_owner.retain(|_, handles| {
            handles.retain(|handle| held.contains_key(handle));
            !handles.is_empty()
        });
    }
}

fn random() -> Option<Handle> {
    RandomId::generate().ok().map(|id| id.0)
}

/// Only the canonical text of a handle names it.
fn parse(text: &str) -> Option<Handle> {
    let handle: Handle = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    Some(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(instance: &str) -> InstanceKey {
        InstanceKey::new(instance, "agent/component")
    }

    #[test]
    fn a_handle_is_good_for_its_own_instance_until_it_expires() {
        let handles = Handles::new(8, 8);
        let handle = handles.issue(&owner("a"), Arc::new(7), 100).unwrap();
        assert_eq!(handle.len(), 22);
        assert_eq!(handles.find(&handle, &owner("a"), 99).as_deref(), Some(&7));
        assert_eq!(handles.find(&handle, &owner("b"), 99), None);
        assert_eq!(handles.find(&handle, &InstanceKey::new("a", "agent/other"), 99), None);
        assert_eq!(handles.find(&handle, &owner("a"), 100), None);
        assert_eq!(handles.find("", &owner("a"), 0), None);
        assert_eq!(handles.find(&format!("{handle}A"), &owner("a"), 0), None);
    }

    #[test]
    fn one_instance_pushes_out_only_its_own_oldest() {
        let handles = Handles::new(8, 2);
        let other = handles.issue(&owner("b"), Arc::new(0), 100).unwrap();
        let own: Vec<_> = (1..=3).map(|n| handles.issue(&owner("a"), Arc::new(n), 100).unwrap()).collect();
        assert_eq!(handles.find(&own[0], &owner("a"), 0), None);
        assert_eq!(handles.find(&own[2], &owner("a"), 0).as_deref(), Some(&3));
        assert_eq!(handles.find(&other, &owner("b"), 0).as_deref(), Some(&0));
    }

    #[test]
    fn in_a_full_store_whoever_holds_most_loses_the_oldest() {
        let handles = Handles::new(3, 8);
        let first = handles.issue(&owner("a"), Arc::new(0), 100).unwrap();
        let second = handles.issue(&owner("a"), Arc::new(0), 100).unwrap();
        let other = handles.issue(&owner("b"), Arc::new(0), 100).unwrap();
        let newest = handles.issue(&owner("c"), Arc::new(0), 100).unwrap();
        assert!(handles.find(&first, &owner("a"), 0).is_none());
        for (handle, held_by) in [(second, "a"), (other, "b"), (newest, "c")] {
            assert!(handles.find(&handle, &owner(held_by), 0).is_some());
        }
        assert_eq!(handles.len(), 3);
    }

    #[test]
    fn handles_go_to_another_process_with_their_owners() {
        let (handles, next) = (Handles::new(8, 8), Handles::new(8, 8));
        let given: Vec<_> = (0..3).map(|n| handles.issue(&owner("a"), Arc::new(n), 100 + n).unwrap()).collect();
        let all = handles.all();
        assert_eq!(all.iter().map(|held| &held.handle).collect::<Vec<_>>(), given.iter().collect::<Vec<_>>());
        for held in all {
            next.adopt(&held.handle, &held.owner, held.continues, held.expires_at);
        }
        assert_eq!(next.find(&given[2], &owner("a"), 101).as_deref(), Some(&2));
        assert!(next.find(&given[2], &owner("b"), 101).is_none() && next.find(&given[2], &owner("a"), 102).is_none());
        assert!(handles.kept(&given[0], &owner("b")).is_none() && handles.kept(&given[0], &owner("a")).is_some());
    }

    #[test]
    fn a_withdrawn_instance_loses_its_handles() {
        let handles = Handles::new(8, 8);
        let handle = handles.issue(&owner("a"), Arc::new(0), 100).unwrap();
        handles.forget_owner(&owner("a"));
        assert_eq!(handles.find(&handle, &owner("a"), 0), None);
        assert_eq!(handles.len(), 0);
    }
}
