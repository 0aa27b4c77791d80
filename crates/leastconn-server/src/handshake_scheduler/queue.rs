//! The order of handshakes, without clock and without I/O.
//!
//! Two things are short when many handshakes come at once, and sources share both.
//! Sources are shared in two levels: groups of sources first (an IPv6 /48, which is what
//! one site or one attacker has), then the sources of a group (its /64s).
//!
//! *Places*, `max` of them: handshakes that may begin. A group may take one while it has
//! fewer than twice as many as are left. So the places of a group that floods come to two
//! thirds, those of two such to two fifths each, and a newcomer finds some left. When none
//! is left, the group with the fewest goes first, and in it the source with the fewest. A
//! handshake that waits for its client gives its place up when others need it; see
//! [`super::idle`].
//!
//! *Turns*, as many as there are workers: the processor, for the signatures of one step.
//! Groups take them one each, round and round, and so do the sources of a group. While no
//! more than `few` are in progress, there is nothing to order: a step does not wait, and is
//! not counted.
//!
//! Within a source, first come, first served, in both. Cost: two hash look-ups; where
//! somebody waits, a few steps in trees as deep as there are sources waiting.
//!
//! Source: Choudhury and Hahne, Dynamic queue length thresholds for shared-memory
//! packet switches (1998), for the places; Nagle, RFC 970, for the turns.

mod group;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
};

use group::Group;

/// How many times what is left a group may have.
const SHARE: usize = 2;

/// A source of handshakes.
pub(super) trait Source: Copy + Ord + Hash {
    /// The group that the source belongs to, named by a source.
    fn group(self) -> Self;
}

/// Names one who waits. Later tickets are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// An answer to who asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Go.
    Now,
    /// Later: `W` will be handed back by somebody else's call.
    Wait(Ticket),
}

/// How a step may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// At once: there are few. To be forgotten, not finished.
    Free,
    /// It is counted, and to be finished.
    Counted,
    /// Later, and counted then.
    Wait(Ticket),
}

/// All handshakes that have a place and those that wait. `S` is a source; `W` is what
/// tells one who waits that it is its turn.
#[derive(Debug)]
pub(super) struct Queue<S, W> {
    max: usize,
    turns: usize,
    few: usize,
    in_progress: usize,
    taken: usize,
    next: u64,
    groups: HashMap<S, Group<S, W>>,
    /// Groups with somebody waiting for a place: the number of places that each has, the
    /// ticket of who is next in it, and which it is.
    entering: BTreeSet<(usize, Ticket, S)>,
    /// Groups with somebody waiting for a turn, in their order.
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

    /// There may be `max` in progress from now on. Those beyond go on. Returns whom
    /// to tell that they have a place.
    pub(super) fn resize(&mut self, max: usize) -> Vec<W> {
        self.max = max.max(1);
        self.admit()
    }

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether a group that has so many places may have one more.
    const fn may_have(&self, has: usize) -> bool {
        has < SHARE * self.max.saturating_sub(self.in_progress)
    }

    /// Whether `source` gets a place at once.
    pub(super) fn may_enter(&self, source: S) -> bool {
        let known = self.groups.get(&source.group());
        self.may_have(known.map_or(0, Group::in_progress))
    }

    /// Whether somebody waits for a place.
    pub(super) fn has_entering(&self) -> bool {
        !self.entering.is_empty()
    }

    /// `source` asks for a place. `waiting` is called if it has to wait.
    pub(super) fn enter(&mut self, source: S, waiting: impl FnOnce() -> W) -> Asked {
        // Who of its group waits already may not enter either, so nobody is overtaken.
        if self.may_enter(source) {
            self.in_progress += 1;
            self.change(source, |group| group.begin(source));
            return Asked::Now;
        }
        let ticket = Ticket(self.number());
        self.change(source, |group| group.wait(source, ticket, waiting()));
        Asked::Wait(ticket)
    }

    /// A place of `source` is given back. Returns whom to tell that they have one.
    pub(super) fn leave(&mut self, source: S) -> Vec<W> {
        self.in_progress -= 1;
        self.change(source, |group| group.leave(source));
        self.admit()
    }

    /// Who waits for a place and can have one. The group with the fewest may have one
    /// more if any may.
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

    /// Who waited for a place goes away. `false`: it has one by now.
    pub(super) fn give_up_place(&mut self, source: S, ticket: Ticket) -> bool {
        self.change(source, |group| group.give_up_place(source, ticket))
    }

    /// Changes the group of `source`, and keeps its claim and its existence true.
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

    /// `source`, which has a place, asks for a turn.
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
            // To the end of the row.
            self.ring.insert(ticket.0, source.group());
        }
        Step::Wait(ticket)
    }

    /// A turn that was counted is over. Returns whose it is now.
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

    /// Who waited for a turn goes away. `false`: it has one by now.
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
    /// Nobody has anything, and nobody waits.
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
