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
    /// Members that are gone, with the time when each was last heard.
    gone: BTreeMap<MemberId, (u64, Progress)>,
    /// When a member joined although no other member was alive, or noticed that members are missing.
    since: Option<u64>,
    /// When a member noticed that members are missing.
    lost: Option<u64>,
    /// When a member noticed a loss of data.
    wiped: Option<u64>,
    clients: BTreeMap<ClientKey, Client>,
    slots: BTreeMap<ServerKey, BTreeMap<MemberId, Slot>>,
    operators: BTreeMap<String, StoredEntry>,
    operators_version: OperatorsVersion,
    /// With their IDs: milliseconds and a number.
    events: Vec<((u64, u64), String)>,
    last_event: (u64, u64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    session: u64,
    sequence: u64,
    batch: u64,
    gone_after: u64,
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
            Some(limit) => self.limit(now, &request.member, limit),
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
    /// is not alive. A request of the same session that arrives later is ignored.
    pub(crate) fn leave(&mut self, now: u64, member: &MemberId, (session, sequence): (u64, u64)) {
        self.members.remove(member);
        self.counts.remove(member);
        self.facts.remove(member);
        let progress = self.progress.remove(member).unwrap_or_default();
        let last = Progress {
            session,
            sequence,
            ..progress
        };
        self.gone.insert(member.clone(), (now, last));
    }

    /// Whether `time` is less than `settle` ago.
    fn is_settling(time: Option<u64>, settle: u64, now: u64) -> bool {
        let time = time.filter(|time| *time <= now);
        time.is_some_and(|time| now - time < settle)
    }

    /// Limited clients that have a key at time `now`.
    pub(crate) fn clients(&self, now: u64) -> usize {
        let live = self.clients.values().filter(|client| client.expires > now);
        live.count()
    }

    #[cfg(test)]
    pub(crate) fn operator_entry(&self, field: &str) -> Option<String> {
        self.operators.get(field).map(ToString::to_string)
    }

    #[cfg(test)]
    pub(crate) fn set_operator_entry(&mut self, field: &str, text: &str) {
        let entry = StoredEntry::parse(field, text).expect("an entry");
        self.operators.insert(field.to_owned(), entry);
    }

    /// Loses everything. IDs of events keep growing, as on a real server.
    #[cfg(test)]
    pub(crate) fn lose_data(&mut self) {
        *self = Self {
            last_event: self.last_event,
            ..Self::default()
        };
    }

    /// A typed state cannot hold odd numbers: clients and servers have none then.
    #[cfg(test)]
    pub(crate) fn write_odd_values(&mut self) {
        let odd = "\u{fffd}".to_owned();
        self.clients.clear();
        self.slots.clear();
        self.since = Some(0);
        self.lost = None;
        self.wiped = None;
        let entry = StoredEntry {
            field: odd.clone(),
            stamp: 0,
            expires: u64::MAX,
            confirmed: 0,
            value: odd.clone(),
        };
        self.operators = BTreeMap::from([(odd.clone(), entry)]);
        self.operators_version = OperatorsVersion::default();
        self.last_event.1 += 1;
        self.events.push((self.last_event, odd));
    }
}
