//! Handshakes that wait for their clients.
//!
//! Such handshakes use memory but no CPU. While permits are free, they keep their permits. When
//! another handshake needs a permit, the handshake that has waited longest for its client loses its
//! permit and is *parked*. When the client of a parked handshake answers, the handshake asks for a
//! permit again. So silent clients cannot keep other handshakes from starting.
//!
//! The number of parked handshakes is limited. Beyond the limit, the handshake that has been parked
//! longest in the group with the most parked handshakes is evicted.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::queue::Source;

/// Identifies a handshake that waits for its client. Later IDs are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WaitId(u64);

/// All handshakes that wait for their clients. A value of type `E` evicts its handshake.
#[derive(Debug)]
pub(super) struct ClientWaits<S, E> {
    last_id: u64,
    max_parked: usize,
    with_permit: BTreeMap<WaitId, (S, E)>,
    parked: HashMap<WaitId, (S, E)>,
    /// The parked handshakes of each group.
    groups: HashMap<S, BTreeSet<WaitId>>,
    /// The groups in the order of eviction. Each entry is the number of parked handshakes, the
    /// handshake that has been parked longest, and the group.
    eviction_order: BTreeSet<(usize, Reverse<WaitId>, S)>,
}

impl<S: Source, E> ClientWaits<S, E> {
    pub(super) fn new(max_parked: usize) -> Self {
        Self {
            last_id: 0,
            max_parked,
            with_permit: BTreeMap::new(),
            parked: HashMap::new(),
            groups: HashMap::new(),
            eviction_order: BTreeSet::new(),
        }
    }

    pub(super) const fn resize(&mut self, max_parked: usize) {
        self.max_parked = max_parked;
    }

    /// Adds a handshake of `source` that has a permit.
    pub(super) fn begin(&mut self, source: S, evict: E) -> WaitId {
        self.last_id += 1;
        let id = WaitId(self.last_id);
        self.with_permit.insert(id, (source, evict));
        id
    }

    /// Parks the handshake that has waited longest while holding a permit. Returns the source whose
    /// permit is to be released.
    pub(super) fn park(&mut self) -> Option<S> {
        let (id, (source, evict)) = self.with_permit.pop_first()?;
        self.parked.insert(id, (source, evict));
        self.update(source.group(), |parked| parked.insert(id));
        Some(source)
    }

    /// If too many handshakes are parked, removes one and returns the value that evicts it.
    pub(super) fn evict(&mut self) -> Option<E> {
        if self.parked.len() <= self.max_parked {
            return None;
        }
        let &(_, Reverse(id), _) = self.eviction_order.last()?;
        self.unpark(id)
    }

    /// Removes a handshake whose client has answered or that has ended. Returns whether it
    /// still has its permit.
    pub(super) fn end(&mut self, id: WaitId) -> bool {
        if self.with_permit.remove(&id).is_some() {
            return true;
        }
        self.unpark(id);
        false
    }

    fn unpark(&mut self, id: WaitId) -> Option<E> {
        let (source, evict) = self.parked.remove(&id)?;
        self.update(source.group(), |parked| parked.remove(&id));
        Some(evict)
    }

    fn update(&mut self, group: S, change: impl FnOnce(&mut BTreeSet<WaitId>) -> bool) {
        let parked = self.groups.entry(group).or_default();
        let key =
            |parked: &BTreeSet<WaitId>| Some((parked.len(), Reverse(*parked.first()?), group));
        let before = key(parked);
        change(parked);
        let after = key(parked);
        if parked.is_empty() {
            self.groups.remove(&group);
        }
        if let Some(before) = before {
            self.eviction_order.remove(&before);
        }
        self.eviction_order.extend(after);
    }
}

#[cfg(test)]
impl<S, E> ClientWaits<S, E> {
    pub(super) fn is_unused(&self) -> bool {
        self.with_permit.is_empty()
            && self.parked.is_empty()
            && self.groups.is_empty()
            && self.eviction_order.is_empty()
    }

    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_waiting_handshake_is_parked_first() {
        let mut waits = ClientWaits::new(10);
        let ids = [1_u8, 2, 3].map(|source| waits.begin(source, ()));
        assert!(waits.end(ids[0]));
        assert_eq!(waits.park(), Some(2));
        assert_eq!(waits.park(), Some(3));
        assert_eq!(waits.park(), None);
        assert!(!waits.end(ids[1]));
        assert_eq!(waits.evict(), None);
        assert!(!waits.end(ids[2]));
        assert!(waits.is_unused());
    }

    #[test]
    fn group_with_most_parked_loses_its_oldest() {
        let mut waits = ClientWaits::new(4);
        // Sources 10 to 19 are one group.
        let sources = [1_u8, 10, 11, 12, 2, 3];
        let ids = sources.map(|source| waits.begin(source, source));
        while waits.park().is_some() {}
        assert_eq!(waits.evict(), Some(10));
        assert_eq!(waits.evict(), Some(11));
        assert_eq!(waits.evict(), None);
        // Each group now has one parked handshake. The oldest parked handshake is evicted.
        waits.resize(3);
        assert_eq!(waits.evict(), Some(1));
        for id in ids {
            assert!(!waits.end(id));
        }
        assert!(waits.is_unused());
    }
}
