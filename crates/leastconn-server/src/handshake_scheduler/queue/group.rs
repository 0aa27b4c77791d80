//! The sources of one group, and which of them is next.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Source, Ticket};

/// The handshakes of one group.
#[derive(Debug)]
pub(super) struct Group<S, W> {
    in_progress: usize,
    members: HashMap<S, Member<W>>,
    /// Sources that wait for a permit: the number of permits that each has, its oldest
    /// ticket, and its name.
    entering: BTreeSet<(usize, Ticket, S)>,
    /// Sources that wait for a time slice, in round-robin order.
    ring: BTreeMap<u64, S>,
    /// The position of the group in the ring of groups, valid while `ring` is not empty.
    position: u64,
}

/// The handshakes of one source.
#[derive(Debug)]
struct Member<W> {
    in_progress: usize,
    entering: BTreeMap<Ticket, W>,
    stepping: BTreeMap<Ticket, W>,
    /// Its position in the ring, valid while `stepping` is not empty.
    position: u64,
}

impl<W> Member<W> {
    const fn new() -> Self {
        Self {
            in_progress: 0,
            entering: BTreeMap::new(),
            stepping: BTreeMap::new(),
            position: 0,
        }
    }

    /// Its entry in `Group::entering`.
    fn claim<S>(&self, source: S) -> Option<(usize, Ticket, S)> {
        let (&oldest, _) = self.entering.first_key_value()?;
        Some((self.in_progress, oldest, source))
    }

    fn is_gone(&self) -> bool {
        self.in_progress == 0 && self.entering.is_empty() && self.stepping.is_empty()
    }
}

impl<S: Source, W> Group<S, W> {
    pub(super) fn new() -> Self {
        Self {
            in_progress: 0,
            members: HashMap::new(),
            entering: BTreeSet::new(),
            ring: BTreeMap::new(),
            position: 0,
        }
    }

    pub(super) const fn in_progress(&self) -> usize {
        self.in_progress
    }

    /// Its entry in `Queue::entering`.
    pub(super) fn claim(&self, name: S) -> Option<(usize, Ticket, S)> {
        let &(_, ticket, _) = self.entering.first()?;
        Some((self.in_progress, ticket, name))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.members.is_empty()
    }

    /// `source` has one more permit.
    pub(super) fn begin(&mut self, source: S) {
        self.in_progress += 1;
        self.change(source, |member| member.in_progress += 1);
    }

    /// `source` has one permit less.
    pub(super) fn leave(&mut self, source: S) {
        self.in_progress -= 1;
        self.change(source, |member| member.in_progress -= 1);
    }

    /// One more handshake of `source` waits for a permit.
    pub(super) fn wait(&mut self, source: S, ticket: Ticket, waiting: W) {
        self.change(source, |member| member.entering.insert(ticket, waiting));
    }

    /// Gives a permit to the next waiter and returns it.
    pub(super) fn admit(&mut self) -> Option<W> {
        let &(_, _, source) = self.entering.first()?;
        self.in_progress += 1;
        let waiting = self.change(source, |member| {
            member.in_progress += 1;
            member.entering.pop_first()
        });
        waiting.map(|(_, waiting)| waiting)
    }

    /// Removes a waiting handshake. `false`: it does not wait any more.
    pub(super) fn give_up_place(&mut self, source: S, ticket: Ticket) -> bool {
        let removed = self.change(source, |member| member.entering.remove(&ticket));
        removed.is_some()
    }

    /// One more handshake of `source` waits for a time slice. Returns whether it is the only
    /// one of the group.
    pub(super) fn step(&mut self, source: S, ticket: Ticket, waiting: W) -> bool {
        let is_first = self.ring.is_empty();
        let member = self.members.entry(source).or_insert_with(Member::new);
        member.stepping.insert(ticket, waiting);
        if member.stepping.len() == 1 {
            member.position = ticket.0;
            self.ring.insert(ticket.0, source);
        }
        if is_first {
            self.position = ticket.0;
        }
        is_first
    }

    /// The next waiter, and whether others of the group still wait, now at `position`.
    pub(super) fn next_in_turn(&mut self, position: u64) -> (Option<W>, bool) {
        let Some((_, source)) = self.ring.pop_first() else {
            return (None, false);
        };
        let (waiting, goes_on) = self.change(source, |member| {
            let waiting = member.stepping.pop_first();
            member.position = position;
            (waiting, !member.stepping.is_empty())
        });
        if goes_on {
            self.ring.insert(position, source);
        }
        self.position = position;
        (waiting.map(|(_, waiting)| waiting), !self.ring.is_empty())
    }

    /// Removes a waiting handshake. `false`: it does not wait any more. Also returns the
    /// position of the group in the ring of groups if none of the group waits any more.
    pub(super) fn give_up_turn(&mut self, source: S, ticket: Ticket) -> (bool, Option<u64>) {
        let (removed, emptied) = self.change(source, |member| {
            let removed = member.stepping.remove(&ticket).is_some();
            let emptied = removed && member.stepping.is_empty();
            (removed, emptied.then_some(member.position))
        });
        if let Some(position) = emptied {
            self.ring.remove(&position);
        }
        let is_out = emptied.is_some() && self.ring.is_empty();
        (removed, is_out.then_some(self.position))
    }

    /// Changes a source, and updates `entering` and `members`.
    fn change<T>(&mut self, source: S, change: impl FnOnce(&mut Member<W>) -> T) -> T {
        let member = self.members.entry(source).or_insert_with(Member::new);
        let before = member.claim(source);
        let changed = change(member);
        let after = member.claim(source);
        if member.is_gone() {
            self.members.remove(&source);
        }
        if before != after {
            if let Some(before) = before {
                self.entering.remove(&before);
            }
            self.entering.extend(after);
        }
        changed
    }
}
