//! Handshakes that wait for their client.
//!
//! They use memory and no CPU. While permits are left they keep theirs. When another
//! handshake needs one, the longest waiting gives its permit up and is *parked*; once its
//! client answers, it requests a permit again. So clients that do not answer cannot keep
//! others from starting.
//!
//! The number of parked handshakes is limited. Beyond the limit, the group with the most of
//! them loses the one that has waited longest.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::queue::Source;

/// Identifies a handshake that waits for its client. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Wait(u64);

/// All handshakes that wait for their clients. `E` ends one.
#[derive(Debug)]
pub(super) struct Idle<S, E> {
    next: u64,
    max_parked: usize,
    /// Handshakes that have a permit.
    placed: BTreeMap<Wait, (S, E)>,
    parked: HashMap<Wait, (S, E)>,
    /// Parked handshakes by group.
    groups: HashMap<S, BTreeSet<Wait>>,
    /// Groups by their number of parked handshakes, with the oldest of each.
    order: BTreeSet<(usize, Reverse<Wait>, S)>,
}

impl<S: Source, E> Idle<S, E> {
    pub(super) fn new(max_parked: usize) -> Self {
        Self {
            next: 0,
            max_parked,
            placed: BTreeMap::new(),
            parked: HashMap::new(),
            groups: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    pub(super) const fn resize(&mut self, max_parked: usize) {
        self.max_parked = max_parked;
    }

    /// A handshake of `source` that has a permit starts to wait.
    pub(super) fn begin(&mut self, source: S, end: E) -> Wait {
        self.next += 1;
        let wait = Wait(self.next);
        self.placed.insert(wait, (source, end));
        wait
    }

    /// Parks the longest waiting handshake with a permit. Returns its source.
    pub(super) fn park(&mut self) -> Option<S> {
        let (wait, (source, end)) = self.placed.pop_first()?;
        self.parked.insert(wait, (source, end));
        self.change(source.group(), |waits| waits.insert(wait));
        Some(source)
    }

    /// The handshake to end if too many are parked.
    pub(super) fn evict(&mut self) -> Option<E> {
        if self.parked.len() <= self.max_parked {
            return None;
        }
        let &(_, Reverse(wait), _) = self.order.last()?;
        self.unpark(wait)
    }

    /// The client has answered, or the handshake is over. Returns whether it still has its
    /// permit.
    pub(super) fn end(&mut self, wait: Wait) -> bool {
        if self.placed.remove(&wait).is_some() {
            return true;
        }
        self.unpark(wait);
        false
    }

    fn unpark(&mut self, wait: Wait) -> Option<E> {
        let (source, end) = self.parked.remove(&wait)?;
        self.change(source.group(), |waits| waits.remove(&wait));
        Some(end)
    }

    fn change(&mut self, group: S, change: impl FnOnce(&mut BTreeSet<Wait>) -> bool) {
        let waits = self.groups.entry(group).or_default();
        let claim = |waits: &BTreeSet<Wait>| Some((waits.len(), Reverse(*waits.first()?), group));
        let before = claim(waits);
        change(waits);
        let after = claim(waits);
        if waits.is_empty() {
            self.groups.remove(&group);
        }
        if let Some(before) = before {
            self.order.remove(&before);
        }
        self.order.extend(after);
    }
}

#[cfg(test)]
impl<S, E> Idle<S, E> {
    pub(super) fn is_unused(&self) -> bool {
        self.placed.is_empty()
            && self.parked.is_empty()
            && self.groups.is_empty()
            && self.order.is_empty()
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
        let mut idle = Idle::new(10);
        let waits = [1_u8, 2, 3].map(|source| idle.begin(source, ()));
        assert!(idle.end(waits[0]));
        assert_eq!(idle.park(), Some(2));
        assert_eq!(idle.park(), Some(3));
        assert_eq!(idle.park(), None);
        assert!(!idle.end(waits[1]));
        assert_eq!(idle.evict(), None);
        assert!(!idle.end(waits[2]));
        assert!(idle.is_unused());
    }

    #[test]
    fn group_with_the_most_loses_its_oldest() {
        let mut idle = Idle::new(4);
        // 10 to 19 are one group.
        let sources = [1_u8, 10, 11, 12, 2, 3];
        let waits = sources.map(|source| idle.begin(source, source));
        while idle.park().is_some() {}
        assert_eq!(idle.evict(), Some(10));
        assert_eq!(idle.evict(), Some(11));
        assert_eq!(idle.evict(), None);
        // One each is left: the oldest goes.
        idle.resize(3);
        assert_eq!(idle.evict(), Some(1));
        for wait in waits {
            assert!(!idle.end(wait));
        }
        assert!(idle.is_unused());
    }
}
