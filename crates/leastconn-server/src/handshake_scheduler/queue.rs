//! The order of handshakes, without clock and without I/O.
//!
//! Two resources are scarce when many handshakes arrive at once, and sources share both, in
//! two levels: groups of sources first (an IPv6 /48, which is what one site or one attacker
//! has), then the sources of a group (its /64s).
//!
//! *Permits*, `max` of them, let handshakes start. A group may take one while it has fewer
//! than twice as many as are left. So one flooding group gets at most two thirds of the
//! permits, two get two fifths each, and newcomers find some left. When none is left, the
//! group with the fewest permits is next, and in it the source with the fewest. A handshake
//! that waits for its client lends its permit to others; see [`super::idle`].
//!
//! *Time slices*, as many as there are workers, are CPU time for the signatures of one step.
//! Groups take them round-robin, and so do the sources of a group. While no more than `few`
//! handshakes are in progress there is no need for an order: steps neither wait nor count.
//!
//! Within a source, both are first come, first served. Cost: two hash look-ups; if handshakes
//! wait, also a few steps in trees as deep as there are waiting sources.
//!
//! Source: Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet
//! switches (1998), for the permits; Nagle, RFC 970, for the time slices.

mod group;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
};

use group::Group;

/// A group may have this many times the permits that are left.
const SHARE: usize = 2;

/// A source of handshakes.
pub(super) trait Source: Copy + Ord + Hash {
    /// The group that the source belongs to, named by a source.
    fn group(self) -> Self;
}

/// Identifies a waiting handshake. Later tickets are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// The answer to a request for a permit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Granted.
    Now,
    /// Queued: a later call returns its `W`.
    Wait(Ticket),
}

/// The answer to a request for a time slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Granted without counting, because few handshakes are in progress: do not call
    /// `finish`.
    Free,
    /// Granted and counted: call `finish`.
    Counted,
    /// Queued; counted once granted.
    Wait(Ticket),
}

/// All handshakes in progress and all that wait. `S` is a source; `W` notifies a waiting
/// handshake.
#[derive(Debug)]
pub(super) struct Queue<S, W> {
    max: usize,
    turns: usize,
    few: usize,
    in_progress: usize,
    taken: usize,
    next: u64,
    groups: HashMap<S, Group<S, W>>,
    /// Groups that wait for a permit: the number of permits that each has, the ticket of its
    /// next handshake, and its name.
    entering: BTreeSet<(usize, Ticket, S)>,
    /// Groups that wait for a time slice, in round-robin order.
    ring: BTreeMap<u64, S>,
}

impl<S: Source, W> Queue<S, W> {
    pub(super) fn new(max: usize, turns: usize, few: usize) -> Self {
        Self {
            max: max.max(1),
            turns: turns.max(1),
            few,
            in_progress: 0,
            taken: 0,
            next: 0,
            groups: HashMap::new(),
            entering: BTreeSet::new(),
            ring: BTreeMap::new(),
        }
    }

    /// Changes the limit. Handshakes beyond it continue. Returns the waiters that got a
    /// permit.
    pub(super) fn resize(&mut self, max: usize) -> Vec<W> {
        self.max = max.max(1);
        self.admit()
    }

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether a group that has this many permits may have one more.
    const fn may_have(&self, has: usize) -> bool {
        has < SHARE * self.max.saturating_sub(self.in_progress)
    }

    /// Whether `source` would get a permit at once.
    pub(super) fn may_enter(&self, source: S) -> bool {
        let known = self.groups.get(&source.group());
        self.may_have(known.map_or(0, Group::in_progress))
    }

    /// Whether a handshake waits for a permit.
    pub(super) fn has_entering(&self) -> bool {
        !self.entering.is_empty()
    }

    /// Requests a permit. `waiting` is called if the handshake has to wait.
    pub(super) fn enter(&mut self, source: S, waiting: impl FnOnce() -> W) -> Asked {
        // If others of its group wait, the group may not have one more: nobody is overtaken.
        if self.may_enter(source) {
            self.in_progress += 1;
            self.change(source, |group| group.begin(source));
            return Asked::Now;
        }
        let ticket = Ticket(self.number());
        self.change(source, |group| group.wait(source, ticket, waiting()));
        Asked::Wait(ticket)
    }

    /// Returns a permit of `source`. Returns the waiters that got a permit.
    pub(super) fn leave(&mut self, source: S) -> Vec<W> {
        self.in_progress -= 1;
        self.change(source, |group| group.leave(source));
        self.admit()
    }

    /// The waiters that can have a permit. If any group may have one more, the group with
    /// the fewest may.
    fn admit(&mut self) -> Vec<W> {
        let mut told = Vec::new();
        while let Some(&(has, _, group)) = self.entering.first() {
            if !self.may_have(has) {
                break;
            }
            self.in_progress += 1;
            told.extend(self.change(group, Group::admit));
        }
        told
    }

    /// Removes a waiting handshake. `false`: it has got a permit already.
    pub(super) fn give_up_place(&mut self, source: S, ticket: Ticket) -> bool {
        self.change(source, |group| group.give_up_place(source, ticket))
    }

    /// Changes the group of `source`, and updates `entering` and `groups`.
    fn change<T>(&mut self, source: S, change: impl FnOnce(&mut Group<S, W>) -> T) -> T {
        let name = source.group();
        let group = self.groups.entry(name).or_insert_with(Group::new);
        let before = group.claim(name);
        let changed = change(group);
        let after = group.claim(name);
        if group.is_gone() {
            self.groups.remove(&name);
        }
        if before != after {
            if let Some(before) = before {
                self.entering.remove(&before);
            }
            self.entering.extend(after);
        }
        changed
    }

    /// Requests a time slice for a handshake in progress.
    pub(super) fn step(&mut self, source: S, waiting: impl FnOnce() -> W) -> Step {
        if self.in_progress <= self.few {
            return Step::Free;
        }
        if self.taken < self.turns {
            self.taken += 1;
            return Step::Counted;
        }
        let ticket = Ticket(self.number());
        let is_first = self.change(source, |group| group.step(source, ticket, waiting()));
        if is_first {
            // To the end of the ring.
            self.ring.insert(ticket.0, source.group());
        }
        Step::Wait(ticket)
    }

    /// A counted time slice is over. Returns the waiter that gets it.
    pub(super) fn finish(&mut self) -> Option<W> {
        let next = self.next_in_turn();
        if next.is_none() {
            self.taken -= 1;
        }
        next
    }

    fn next_in_turn(&mut self) -> Option<W> {
        let (_, group) = self.ring.pop_first()?;
        let position = self.number();
        let (waiting, goes_on) = self.change(group, |group| group.next_in_turn(position));
        if goes_on {
            self.ring.insert(position, group);
        }
        waiting
    }

    /// Removes a waiting handshake. `false`: it has got a time slice already.
    pub(super) fn give_up_turn(&mut self, source: S, ticket: Ticket) -> bool {
        let (removed, position) = self.change(source, |group| group.give_up_turn(source, ticket));
        if let Some(position) = position {
            self.ring.remove(&position);
        }
        removed
    }
}

#[cfg(test)]
impl<S, W> Queue<S, W> {
    /// Whether nothing is taken and nothing waits.
    pub(super) fn is_unused(&self) -> bool {
        self.in_progress == 0
            && self.taken == 0
            && self.groups.is_empty()
            && self.entering.is_empty()
            && self.ring.is_empty()
    }
}

#[cfg(test)]
mod tests;
