//! The order of handshakes. Uses no clock and no I/O.
//!
//! When many handshakes arrive at the same time, permits and time slices are scarce. Both are
//! shared at two levels: first between groups of sources (an IPv6 /48, because one site or attacker
//! usually has a /48), then between the sources of a group (its /64s).
//!
//! *Permits*: at most `max_permits` handshakes are in progress. A group may take another permit
//! while it holds fewer than twice the number of free permits. One flooding group holds at most
//! two thirds of the permits, and two flooding groups hold at most two fifths each, so a new source
//! finds a free permit. A permit that becomes free goes to the waiting group with the fewest
//! permits, and within the group to the source with the fewest permits. A handshake that waits for
//! its client gives its permit up when others need it; see [`super::client_waits`].
//!
//! *Time slices*: at most `max_slices` handshakes compute at the same time, one for each worker.
//! Slices are granted round robin over the groups and, within a group, round robin over its
//! sources. While no more than `unscheduled` handshakes are in progress, a step neither waits nor
//! is counted.
//!
//! Within a source, permits and time slices are granted in the order of requests. A request costs
//! two hash look-ups. While handshakes wait, it also costs a few operations on trees with one entry
//! for each waiting source.
//!
//! References: Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet
//! switches (1998), for permits; Nagle, RFC 970, for time slices.

mod group;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
};

use group::Group;

/// A group may hold up to this multiple of the free permits.
const SHARE: usize = 2;

/// A source of handshakes.
pub(super) trait Source: Copy + Ord + Hash {
    /// The group that the source belongs to. A group is identified by one of its sources.
    fn group(self) -> Self;
}

/// Identifies a waiting handshake. Later tickets are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// The answer to a request for a permit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PermitAnswer {
    Granted,
    /// The request is queued. A later call returns the waiter once the permit is granted.
    Queued(Ticket),
}

/// The answer to a request for a time slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SliceAnswer {
    /// Few handshakes are in progress: the step starts now and must not be released.
    Unscheduled,
    /// The step starts now and must be released.
    Granted,
    /// The request is queued. A later call returns the waiter once the slice is granted. The slice
    /// must then be released.
    Queued(Ticket),
}

/// All handshakes that have a permit or wait for one. `S` is a source. `W` is a waiter, which is
/// returned when its permit or time slice is granted.
#[derive(Debug)]
pub(super) struct Queue<S, W> {
    max_permits: usize,
    max_slices: usize,
    unscheduled: usize,
    permits: usize,
    slices: usize,
    last_number: u64,
    groups: HashMap<S, Group<S, W>>,
    /// Groups with waiters for a permit. Each entry is the number of permits that the group has,
    /// the ticket of its next waiter, and the group.
    permit_order: BTreeSet<(usize, Ticket, S)>,
    /// Groups with waiters for a time slice, by position in the round robin.
    slice_order: BTreeMap<u64, S>,
}

impl<S: Source, W> Queue<S, W> {
    pub(super) fn new(max_permits: usize, max_slices: usize, unscheduled: usize) -> Self {
        Self {
            max_permits: max_permits.max(1),
            max_slices: max_slices.max(1),
            unscheduled,
            permits: 0,
            slices: 0,
            last_number: 0,
            groups: HashMap::new(),
            permit_order: BTreeSet::new(),
            slice_order: BTreeMap::new(),
        }
    }

    /// Changes the limit. Permits above it remain valid. Returns the waiters that are now granted a
    /// permit.
    pub(super) fn resize(&mut self, max_permits: usize) -> Vec<W> {
        self.max_permits = max_permits.max(1);
        self.grant_permits()
    }

    const fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Whether a group that has `permits` permits may get another one.
    const fn may_have_one_more(&self, permits: usize) -> bool {
        permits < SHARE * self.max_permits.saturating_sub(self.permits)
    }

    /// Whether `source` would get a permit immediately.
    pub(super) fn has_permit_for(&self, source: S) -> bool {
        let group = self.groups.get(&source.group());
        self.may_have_one_more(group.map_or(0, Group::permits))
    }

    pub(super) fn has_permit_waiters(&self) -> bool {
        !self.permit_order.is_empty()
    }

    /// Requests a permit for `source`. `new_waiter` is called if the request has to wait.
    pub(super) fn acquire_permit(
        &mut self,
        source: S,
        new_waiter: impl FnOnce() -> W,
    ) -> PermitAnswer {
        // Granting the permit immediately is fair: while a group has waiters, `has_permit_for`
        // returns false, so no waiter of the group is overtaken.
        if self.has_permit_for(source) {
            self.permits += 1;
            self.update(source, |group| group.add_permit(source));
            return PermitAnswer::Granted;
        }
        let ticket = Ticket(self.next_number());
        self.update(source, |group| {
            group.queue_for_permit(source, ticket, new_waiter());
        });
        PermitAnswer::Queued(ticket)
    }

    /// Releases a permit of `source`. Returns the waiters that now get a permit.
    pub(super) fn release_permit(&mut self, source: S) -> Vec<W> {
        self.permits -= 1;
        self.update(source, |group| group.remove_permit(source));
        self.grant_permits()
    }

    fn grant_permits(&mut self) -> Vec<W> {
        let mut granted = Vec::new();
        // If the group with the fewest permits may not get another permit, no group may.
        while let Some(&(permits, _, group)) = self.permit_order.first() {
            if !self.may_have_one_more(permits) {
                break;
            }
            self.permits += 1;
            granted.extend(self.update(group, Group::grant_permit));
        }
        granted
    }

    /// Removes a waiter for a permit. Returns `false` if the permit was granted already.
    pub(super) fn cancel_permit(&mut self, source: S, ticket: Ticket) -> bool {
        self.update(source, |group| group.cancel_permit(source, ticket))
    }

    /// Applies `change` to the group of `source`, then updates `permit_order` and removes an unused
    /// group.
    fn update<T>(&mut self, source: S, change: impl FnOnce(&mut Group<S, W>) -> T) -> T {
        let id = source.group();
        let group = self.groups.entry(id).or_insert_with(Group::new);
        let before = group.permit_order_key(id);
        let changed = change(group);
        let after = group.permit_order_key(id);
        if group.is_unused() {
            self.groups.remove(&id);
        }
        if before != after {
            if let Some(before) = before {
                self.permit_order.remove(&before);
            }
            self.permit_order.extend(after);
        }
        changed
    }

    /// Requests a time slice for a handshake of `source` that has a permit.
    pub(super) fn acquire_slice(
        &mut self,
        source: S,
        new_waiter: impl FnOnce() -> W,
    ) -> SliceAnswer {
        if self.permits <= self.unscheduled {
            return SliceAnswer::Unscheduled;
        }
        if self.slices < self.max_slices {
            self.slices += 1;
            return SliceAnswer::Granted;
        }
        let ticket = Ticket(self.next_number());
        let is_first = self.update(source, |group| {
            group.queue_for_slice(source, ticket, new_waiter())
        });
        if is_first {
            self.slice_order.insert(ticket.0, source.group());
        }
        SliceAnswer::Queued(ticket)
    }

    /// Releases a time slice. Returns the waiter that gets it.
    pub(super) fn release_slice(&mut self) -> Option<W> {
        let next = self.next_slice();
        if next.is_none() {
            self.slices -= 1;
        }
        next
    }

    fn next_slice(&mut self) -> Option<W> {
        let (_, group) = self.slice_order.pop_first()?;
        let position = self.next_number();
        let (waiter, has_more) = self.update(group, |group| group.next_slice(position));
        if has_more {
            self.slice_order.insert(position, group);
        }
        waiter
    }

    /// Removes a waiter for a time slice. Returns `false` if the slice was granted already.
    pub(super) fn cancel_slice(&mut self, source: S, ticket: Ticket) -> bool {
        let (removed, position) = self.update(source, |group| group.cancel_slice(source, ticket));
        if let Some(position) = position {
            self.slice_order.remove(&position);
        }
        removed
    }
}

#[cfg(test)]
impl<S, W> Queue<S, W> {
    pub(super) fn is_unused(&self) -> bool {
        self.permits == 0
            && self.slices == 0
            && self.groups.is_empty()
            && self.permit_order.is_empty()
            && self.slice_order.is_empty()
    }
}

#[cfg(test)]
mod tests;
