//! What the store holds, and what a request does to it. The scripts for Redis do the same in
//! Lua; `cases` has the tests that both must pass. The files in `state` are named as the scripts.
//!
//! Each member writes its own absolute numbers. All times are microseconds of the store's
//! clock.

mod beat;
mod limit;
mod operate;
mod slots;

use std::collections::BTreeMap;

use crate::{
    exchange::{Answer, Request, StoredEntry},
    keys::{ClientKey, ServerKey},
    member::MemberId,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// When each member was last heard.
    members: BTreeMap<MemberId, u64>,
    counts: BTreeMap<MemberId, Vec<u8>>,
    facts: BTreeMap<MemberId, Vec<u8>>,
    progress: BTreeMap<MemberId, Progress>,
    /// When a member joined although no other member was alive.
    since: Option<u64>,
    clients: BTreeMap<ClientKey, Client>,
    slots: BTreeMap<ServerKey, BTreeMap<MemberId, Slot>>,
    operators: BTreeMap<String, StoredEntry>,
    operators_version: OperatorsVersion,
    /// With their IDs: milliseconds and a number.
    events: Vec<((u64, u64), String)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    session: u64,
    sequence: u64,
    batch: u64,
}

#[derive(Clone, Debug, Default)]
struct Client {
    /// Tokens in use at `at`.
    used: f64,
    at: u64,
    open: BTreeMap<MemberId, u32>,
    /// When the key expires.
    expires: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    held: u32,
    want: u32,
}

/// The time of the last change, and how many changes there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct OperatorsVersion {
    changed: u64,
    changes: u64,
}

/// A later request of the same member has been applied already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superseded;

impl State {
    /// Applies a request at time `now`.
    pub(crate) fn apply(&mut self, now: u64, request: &Request) -> Result<Answer, Superseded> {
        let rejected = match &request.operate {
            Some(operate) => self.operate(now, operate),
            None => Vec::new(),
        };
        let beat = self.beat(now, request)?;
        let clients = match &request.limit {
            Some(batch) => self.limit(now, &request.member, batch),
            None => Vec::new(),
        };
        let slots = match &request.slots {
            Some(slots) => self.slots(now, &request.member, slots),
            None => Vec::new(),
        };
        Ok(Answer {
            rejected,
            beat,
            clients,
            slots,
        })
    }

    /// Removes a member that leaves. Its fields of clients and slots count no longer, because it
    /// is not alive.
    pub(crate) fn leave(&mut self, member: &MemberId) {
        self.members.remove(member);
        self.counts.remove(member);
        self.facts.remove(member);
        self.progress.remove(member);
    }

    /// Limited clients that have a key at time `now`.
    pub(crate) fn clients(&self, now: u64) -> usize {
        let live = self.clients.values().filter(|client| client.expires > now);
        live.count()
    }

    /// A typed state cannot hold odd numbers: clients and servers have none then.
    #[cfg(test)]
    pub(crate) fn write_odd_values(&mut self) {
        let odd = "\u{fffd}".to_owned();
        self.clients.clear();
        self.slots.clear();
        self.since = Some(0);
        let entry = StoredEntry {
            field: odd.clone(),
            stamp: 0,
            expires: 0,
            value: odd.clone(),
        };
        self.operators = BTreeMap::from([(odd.clone(), entry)]);
        self.operators_version = OperatorsVersion::default();
        let last = self.events.last().map_or((0, 0), |(id, _)| *id);
        self.events.push(((last.0, last.1 + 1), odd));
    }
}
