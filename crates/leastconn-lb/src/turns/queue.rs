//! Who is next: the order of handshakes, without clock and without I/O.
//!
//! Two things are short when many handshakes come at once, and sources share both.
//!
//! *Places*, `max` of them: what a handshake in progress holds of memory. A source
//! may take one while it has fewer than twice as many as are left. So the places of
//! one that floods come to two thirds, those of two such to two fifths each, and a
//! newcomer finds some left, however long those in progress stall. When none is left,
//! the source with the fewest goes first.
//!
//! *Turns*, as many as there are workers: the processor, for the signatures of one
//! step. Sources take them one each, round and round. While no more than `few` are
//! in progress, there is nothing to order: a step does not wait, and is not counted.
//!
//! Within a source, first come, first served, in both. Cost: a hash look-up; where
//! somebody waits, a few steps in trees as deep as there are sources waiting.
//!
//! Source: Choudhury and Hahne, Dynamic queue length thresholds for shared-memory
//! packet switches (1998), for the places; Nagle, RFC 970, for the turns.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
};

/// How many times what is left a source may have.
const SHARE: usize = 2;

/// Names one who waits.
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

/// All handshakes in progress and those that wait. `S` is a source; `W` is what
/// tells one who waits that it is its turn.
#[derive(Debug)]
pub(super) struct Queue<S, W> {
    max: usize,
    turns: usize,
    few: usize,
    in_progress: usize,
    taken: usize,
    next: u64,
    sources: HashMap<S, Source<W>>,
    /// Those with somebody waiting for a place: the number of places it has, its
    /// oldest ticket, and which it is.
    entering: BTreeSet<(usize, Ticket, S)>,
    /// Those with somebody waiting for a turn, in their order.
    ring: BTreeMap<u64, S>,
}

#[derive(Debug)]
struct Source<W> {
    in_progress: usize,
    entering: BTreeMap<Ticket, W>,
    stepping: BTreeMap<Ticket, W>,
    /// Where it stands in the ring, while `stepping` is not empty.
    position: u64,
}

impl<W> Source<W> {
    const fn new() -> Self {
        Self {
            in_progress: 0,
            entering: BTreeMap::new(),
            stepping: BTreeMap::new(),
            position: 0,
        }
    }

    /// Its entry in `Queue::entering`, if it has one.
    fn claim<S>(&self, source: S) -> Option<(usize, Ticket, S)> {
        let (&oldest, _) = self.entering.first_key_value()?;
        Some((self.in_progress, oldest, source))
    }

    fn is_gone(&self) -> bool {
        self.in_progress == 0 && self.entering.is_empty() && self.stepping.is_empty()
    }
}

impl<S: Copy + Ord + Hash, W> Queue<S, W> {
    pub(super) fn new(max: usize, turns: usize, few: usize) -> Self {
        Self {
            max: max.max(1),
            turns: turns.max(1),
            few,
            in_progress: 0,
            taken: 0,
            next: 0,
            sources: HashMap::new(),
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

    /// Whether a source that has so many places may have one more.
    const fn may_enter(&self, has: usize) -> bool {
        has < SHARE * self.max.saturating_sub(self.in_progress)
    }

    /// `source` asks for a place. `waiting` is called if it has to wait.
    pub(super) fn enter(&mut self, source: S, waiting: impl FnOnce() -> W) -> Asked {
        let known = self.sources.get(&source);
        // Who waits already may not enter either, so nobody is overtaken.
        if self.may_enter(known.map_or(0, |known| known.in_progress)) {
            self.in_progress += 1;
            let known = self.sources.entry(source).or_insert_with(Source::new);
            known.in_progress += 1;
            return Asked::Now;
        }
        let ticket = Ticket(self.number());
        let known = self.sources.entry(source).or_insert_with(Source::new);
        known.entering.insert(ticket, waiting());
        if known.entering.len() == 1 {
            self.entering.extend(known.claim(source));
        }
        Asked::Wait(ticket)
    }

    /// A place of `source` is given back. Returns whom to tell that they have one.
    pub(super) fn leave(&mut self, source: S) -> Vec<W> {
        self.in_progress -= 1;
        self.change(source, |known| known.in_progress -= 1);
        self.admit()
    }

    /// Who waits for a place and can have one. Whoever has the fewest may have one
    /// more if anybody may.
    fn admit(&mut self) -> Vec<W> {
        let mut told = Vec::new();
        while let Some(&(has, _, source)) = self.entering.first() {
            if !self.may_enter(has) {
                break;
            }
            self.in_progress += 1;
            let waiting = self.change(source, |known| {
                known.in_progress += 1;
                known.entering.pop_first()
            });
            told.extend(waiting.flatten().map(|(_, waiting)| waiting));
        }
        told
    }

    /// Who waited for a place goes away. `false`: it has one by now.
    pub(super) fn give_up_place(&mut self, source: S, ticket: Ticket) -> bool {
        let removed = self.change(source, |known| known.entering.remove(&ticket));
        removed.flatten().is_some()
    }

    /// Changes a source, and keeps its claim and its existence true.
    fn change<T>(&mut self, source: S, change: impl FnOnce(&mut Source<W>) -> T) -> Option<T> {
        let known = self.sources.get_mut(&source)?;
        let before = known.claim(source);
        let changed = change(known);
        let after = known.claim(source);
        if known.is_gone() {
            self.sources.remove(&source);
        }
        if before != after {
            if let Some(before) = before {
                self.entering.remove(&before);
            }
            self.entering.extend(after);
        }
        Some(changed)
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
        let known = self.sources.entry(source).or_insert_with(Source::new);
        known.stepping.insert(ticket, waiting());
        if known.stepping.len() == 1 {
            // To the end of the row.
            known.position = ticket.0;
            self.ring.insert(ticket.0, source);
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
        let (_, source) = self.ring.pop_first()?;
        let position = self.number();
        // Who is in the ring has somebody waiting.
        let known = self.sources.get_mut(&source)?;
        let (_, waiting) = known.stepping.pop_first()?;
        if !known.stepping.is_empty() {
            known.position = position;
            self.ring.insert(position, source);
        } else if known.is_gone() {
            self.sources.remove(&source);
        }
        Some(waiting)
    }

    /// Who waited for a turn goes away. `false`: it has one by now.
    pub(super) fn give_up_turn(&mut self, source: S, ticket: Ticket) -> bool {
        let Some(known) = self.sources.get_mut(&source) else {
            return false;
        };
        let removed = known.stepping.remove(&ticket).is_some();
        if removed && known.stepping.is_empty() {
            self.ring.remove(&known.position);
            if known.is_gone() {
                self.sources.remove(&source);
            }
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
            && self.sources.is_empty()
            && self.entering.is_empty()
            && self.ring.is_empty()
    }
}

#[cfg(test)]
mod tests;
