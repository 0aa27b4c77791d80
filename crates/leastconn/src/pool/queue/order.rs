//! The order in which waiting connections are served: round robin among clients, and first in,
//! first out for each client.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{pool::selector::SelectorKey, spec::ClientId};

/// A waiting connection.
pub(super) trait Queued {
    /// Identifies connections with the same candidates.
    fn key(&self) -> SelectorKey;
}

/// Waiting connections in fair order.
///
/// Each client with waiting connections has a turn. Turns and tickets are ever-increasing numbers.
/// A client that has been served gets a new turn and thereby goes to the end.
#[derive(Debug)]
pub(super) struct FairOrder<W> {
    lines: HashMap<Option<ClientId>, Line<W>>,
    turns: BTreeMap<u64, Option<ClientId>>,
    /// The number of waiting connections and the turn of each client.
    lengths: BTreeSet<(usize, u64)>,
    /// The number of waiting connections for each selector.
    selectors: HashMap<SelectorKey, usize>,
    /// Whether the last waiting connection of a selector was removed.
    has_lost_selector: bool,
    len: usize,
    next_number: u64,
}

/// One client's waiting connections, by ticket.
#[derive(Debug)]
struct Line<W> {
    turn: u64,
    waiters: BTreeMap<u64, W>,
}

impl<W> Default for FairOrder<W> {
    fn default() -> Self {
        Self {
            lines: HashMap::new(),
            turns: BTreeMap::new(),
            lengths: BTreeSet::new(),
            selectors: HashMap::new(),
            has_lost_selector: false,
            len: 0,
            next_number: 0,
        }
    }
}

impl<W: Queued> FairOrder<W> {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of different selectors among the waiting connections.
    pub(super) fn selectors(&self) -> usize {
        self.selectors.len()
    }

    /// Whether the last waiting connection of any selector was removed since the previous call.
    pub(super) const fn take_lost_selector(&mut self) -> bool {
        std::mem::replace(&mut self.has_lost_selector, false)
    }

    /// Iterates over all waiting connections.
    pub(super) fn iter(&self) -> impl Iterator<Item = &W> {
        self.lines.values().flat_map(|line| line.waiters.values())
    }

    /// Iterates over the oldest waiting connection of each client.
    pub(super) fn oldest(&self) -> impl Iterator<Item = &W> {
        let lines = self.lines.values();
        lines.filter_map(|line| line.waiters.values().next())
    }

    pub(super) fn first_turn(&self) -> Option<u64> {
        self.turns.keys().next().copied()
    }

    pub(super) fn turn_after(&self, turn: u64) -> Option<u64> {
        self.turns.range(turn + 1..).next().map(|(&turn, _)| turn)
    }

    /// Iterates over the waiting connections of the client with this turn, oldest first, with their
    /// tickets.
    pub(super) fn line(&self, turn: u64) -> impl Iterator<Item = (u64, &W)> {
        let line = self.turns.get(&turn).and_then(|key| self.lines.get(key));
        let waiters = line.into_iter().flat_map(|line| &line.waiters);
        waiters.map(|(&ticket, waiter)| (ticket, waiter))
    }

    /// Adds a connection as its client's newest one. Returns its ticket.
    pub(super) fn push(&mut self, client: Option<ClientId>, waiter: W) -> u64 {
        *self.selectors.entry(waiter.key()).or_default() += 1;
        let (turn, ticket) = (self.next_number, self.next_number + 1);
        self.next_number += 2;
        let line = self.lines.entry(client.clone()).or_insert_with(|| {
            self.turns.insert(turn, client);
            Line {
                turn,
                waiters: BTreeMap::new(),
            }
        });
        self.lengths.remove(&(line.waiters.len(), line.turn));
        line.waiters.insert(ticket, waiter);
        self.lengths.insert((line.waiters.len(), line.turn));
        self.len += 1;
        ticket
    }

    /// Removes the connection with this ticket. Its client keeps its turn.
    pub(super) fn remove(&mut self, client: Option<&ClientId>, ticket: u64) -> Option<W> {
        self.take(&client.cloned(), ticket, None)
    }

    /// Removes the connection with this ticket, and moves its client to the end.
    pub(super) fn take_turn(&mut self, turn: u64, ticket: u64) -> Option<W> {
        let client = self.turns.get(&turn)?.clone();
        let next_turn = self.next_number;
        self.next_number += 1;
        self.take(&client, ticket, Some(next_turn))
    }

    /// Removes the connection that must leave a full queue: the newest one of the client with the
    /// most waiting connections. That client does not lose a connection if it would then have fewer
    /// than `client`. In this case, the connection with this `ticket`, the newest of `client`, is
    /// removed instead.
    pub(super) fn displace_for(&mut self, client: Option<&ClientId>, ticket: u64) -> Option<W> {
        let own = client.cloned();
        let own_length = self.lines.get(&own).map_or(0, |line| line.waiters.len());
        let longest = self.lengths.last().copied();
        let longer = longest.filter(|&(length, _)| length > own_length);
        let victim = longer.and_then(|(_, turn)| {
            let client = self.turns.get(&turn)?.clone();
            let (&newest, _) = self.lines.get(&client)?.waiters.last_key_value()?;
            Some((client, newest))
        });
        let (client, ticket) = victim.unwrap_or((own, ticket));
        self.take(&client, ticket, None)
    }

    fn take(
        &mut self,
        client: &Option<ClientId>,
        ticket: u64,
        next_turn: Option<u64>,
    ) -> Option<W> {
        let line = self.lines.get_mut(client)?;
        let waiter = line.waiters.remove(&ticket)?;
        self.len -= 1;
        self.lengths.remove(&(line.waiters.len() + 1, line.turn));
        if line.waiters.is_empty() {
            self.turns.remove(&line.turn);
            self.lines.remove(client);
        } else {
            if let Some(turn) = next_turn {
                self.turns.remove(&line.turn);
                self.turns.insert(turn, client.clone());
                line.turn = turn;
            }
            self.lengths.insert((line.waiters.len(), line.turn));
        }
        let key = waiter.key();
        if let Some(count) = self.selectors.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.selectors.remove(&key);
                self.has_lost_selector = true;
            }
        }
        Some(waiter)
    }
}

#[cfg(test)]
mod tests;
