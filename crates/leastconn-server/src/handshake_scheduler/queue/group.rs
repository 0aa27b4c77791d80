//! The order of the sources within one group.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Source, Ticket};

/// The handshakes of one group.
#[derive(Debug)]
pub(super) struct Group<S, W> {
    permits: usize,
    members: HashMap<S, Member<W>>,
    /// Sources with waiters for a permit. Each entry is the number of permits that the source has,
    /// its oldest ticket, and the source.
    permit_order: BTreeSet<(usize, Ticket, S)>,
    /// Sources with waiters for a time slice, by position in the round robin.
    slice_order: BTreeMap<u64, S>,
    /// The group's position in `Queue::slice_order`. Valid while the group's own `slice_order` is
    /// not empty.
    position: u64,
}

/// The handshakes of one source.
#[derive(Debug)]
struct Member<W> {
    permits: usize,
    permit_waiters: BTreeMap<Ticket, W>,
    slice_waiters: BTreeMap<Ticket, W>,
    /// The position in `Group::slice_order`. Valid while `slice_waiters` is not empty.
    position: u64,
}

impl<W> Member<W> {
    const fn new() -> Self {
        Self {
            permits: 0,
            permit_waiters: BTreeMap::new(),
            slice_waiters: BTreeMap::new(),
            position: 0,
        }
    }

    /// The key in `Group::permit_order`, if the source has waiters for a permit.
    fn permit_order_key<S>(&self, source: S) -> Option<(usize, Ticket, S)> {
        let (&oldest, _) = self.permit_waiters.first_key_value()?;
        Some((self.permits, oldest, source))
    }

    fn is_unused(&self) -> bool {
        self.permits == 0 && self.permit_waiters.is_empty() && self.slice_waiters.is_empty()
    }
}

impl<S: Source, W> Group<S, W> {
    pub(super) fn new() -> Self {
        Self {
            permits: 0,
            members: HashMap::new(),
            permit_order: BTreeSet::new(),
            slice_order: BTreeMap::new(),
            position: 0,
        }
    }

    pub(super) const fn permits(&self) -> usize {
        self.permits
    }

    /// The key in `Queue::permit_order`, if the group has waiters for a permit.
    pub(super) fn permit_order_key(&self, group: S) -> Option<(usize, Ticket, S)> {
        let &(_, ticket, _) = self.permit_order.first()?;
        Some((self.permits, ticket, group))
    }

    pub(super) fn is_unused(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn add_permit(&mut self, source: S) {
        self.permits += 1;
        self.update(source, |member| member.permits += 1);
    }

    pub(super) fn remove_permit(&mut self, source: S) {
        self.permits -= 1;
        self.update(source, |member| member.permits -= 1);
    }

    pub(super) fn queue_for_permit(&mut self, source: S, ticket: Ticket, waiter: W) {
        self.update(source, |member| {
            member.permit_waiters.insert(ticket, waiter)
        });
    }

    /// Gives a permit to the next waiter and returns the waiter.
    pub(super) fn grant_permit(&mut self) -> Option<W> {
        let &(_, _, source) = self.permit_order.first()?;
        self.permits += 1;
        let waiter = self.update(source, |member| {
            member.permits += 1;
            member.permit_waiters.pop_first()
        });
        waiter.map(|(_, waiter)| waiter)
    }

    /// Removes a waiter for a permit. Returns `false` if it is no longer queued.
    pub(super) fn cancel_permit(&mut self, source: S, ticket: Ticket) -> bool {
        let removed = self.update(source, |member| member.permit_waiters.remove(&ticket));
        removed.is_some()
    }

    /// Queues a waiter for a time slice. Returns whether it is the group's only waiter for a time
    /// slice.
    pub(super) fn queue_for_slice(&mut self, source: S, ticket: Ticket, waiter: W) -> bool {
        let is_first = self.slice_order.is_empty();
        let member = self.members.entry(source).or_insert_with(Member::new);
        member.slice_waiters.insert(ticket, waiter);
        if member.slice_waiters.len() == 1 {
            member.position = ticket.0;
            self.slice_order.insert(ticket.0, source);
        }
        if is_first {
            self.position = ticket.0;
        }
        is_first
    }

    /// Returns the next waiter for a time slice, and whether the group has more of them. If so,
    /// `position` becomes the group's new position in `Queue::slice_order`.
    pub(super) fn next_slice(&mut self, position: u64) -> (Option<W>, bool) {
        let Some((_, source)) = self.slice_order.pop_first() else {
            return (None, false);
        };
        let (waiter, has_more) = self.update(source, |member| {
            let waiter = member.slice_waiters.pop_first();
            member.position = position;
            (waiter, !member.slice_waiters.is_empty())
        });
        if has_more {
            self.slice_order.insert(position, source);
        }
        self.position = position;
        (
            waiter.map(|(_, waiter)| waiter),
            !self.slice_order.is_empty(),
        )
    }

    /// Removes a waiter for a time slice. Returns whether it was queued, and the group's
    /// position in `Queue::slice_order` if the group has no waiters left.
    pub(super) fn cancel_slice(&mut self, source: S, ticket: Ticket) -> (bool, Option<u64>) {
        let (removed, emptied) = self.update(source, |member| {
            let removed = member.slice_waiters.remove(&ticket).is_some();
            let emptied = removed && member.slice_waiters.is_empty();
            (removed, emptied.then_some(member.position))
        });
        if let Some(position) = emptied {
            self.slice_order.remove(&position);
        }
        let is_last = emptied.is_some() && self.slice_order.is_empty();
        (removed, is_last.then_some(self.position))
    }

    /// Applies `change` to a source, then updates `permit_order` and removes an unused source.
    fn update<T>(&mut self, source: S, change: impl FnOnce(&mut Member<W>) -> T) -> T {
        let member = self.members.entry(source).or_insert_with(Member::new);
        let before = member.permit_order_key(source);
        let changed = change(member);
        let after = member.permit_order_key(source);
        if member.is_unused() {
            self.members.remove(&source);
        }
        if before != after {
            if let Some(before) = before {
                self.permit_order.remove(&before);
            }
            self.permit_order.extend(after);
        }
        changed
    }
}
