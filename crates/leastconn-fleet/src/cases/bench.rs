//! Members of one fleet on one store, for test cases.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    Batch, ClientReport, ClientView, Command, Counts, Facts, FleetSettings, MemberId, MemberStatus,
    Report, Secret, SlotReport, SlotView, StoreError, View,
};

/// Runs exchanges on a store whose clock the test sets.
pub(crate) trait Executor {
    /// `member` is the index of the connection.
    fn exchange(&mut self, member: usize, report: &Report) -> Result<View, StoreError>;
    fn advance(&mut self, time: Duration);
    fn turn_back(&mut self, time: Duration);
    /// Breaks the connection of a member.
    fn disconnect(&mut self, member: usize);
    fn leave(&mut self, member: usize, id: &MemberId);
    fn set_gone_after(&mut self, member: usize, time: Duration);
    /// Limited clients that have a key.
    fn clients(&mut self) -> usize;
    /// Writes values that no member writes: one state of operators and one event, which count as
    /// invalid, and fields of all hashes, which have no effect.
    fn write_odd_values(&mut self);
    /// What operators have set for one server or client, as the store has it.
    fn entry(&mut self, field: &str) -> Option<String>;
    fn set_entry(&mut self, field: &str, text: &str);
    /// Replaces all keys by keys of another type.
    fn replace_keys(&mut self);
}

pub(crate) const MEMBERS: usize = 4;

pub(crate) fn settings() -> FleetSettings {
    FleetSettings::new("test", Secret::new(b"secret of the test fleet"))
}

pub(crate) struct Bench {
    executor: Box<dyn Executor>,
    reports: Vec<Report>,
    batches: BTreeMap<usize, u64>,
}

impl Bench {
    pub(crate) fn new(executor: impl Executor + 'static) -> Self {
        let reports = (0..MEMBERS).map(|member| Report {
            counts: Arc::new(Counts {
                version: 1,
                servers: Vec::new(),
            }),
            ..Report::new(MemberId::new("lb", member as u64), MemberStatus::Serving)
        });
        Self {
            executor: Box::new(executor),
            reports: reports.collect(),
            batches: BTreeMap::new(),
        }
    }

    /// What the member sends from now on.
    pub(crate) fn report(&mut self, member: usize) -> &mut Report {
        &mut self.reports[member]
    }

    pub(crate) fn try_beat(&mut self, member: usize) -> Result<View, StoreError> {
        self.executor.exchange(member, &self.reports[member])
    }

    pub(crate) fn beat(&mut self, member: usize) -> View {
        let view = self.try_beat(member);
        view.unwrap_or_else(|error| panic!("exchange of member {member}: {error}"))
    }

    pub(crate) fn advance(&mut self, seconds: f64) {
        self.executor.advance(Duration::from_secs_f64(seconds));
    }

    pub(crate) fn turn_back(&mut self, seconds: f64) {
        self.executor.turn_back(Duration::from_secs_f64(seconds));
    }

    pub(crate) fn disconnect(&mut self, member: usize) {
        self.executor.disconnect(member);
    }

    pub(crate) fn leave(&mut self, member: usize) {
        self.executor.leave(member, &self.reports[member].member);
    }

    pub(crate) fn write_odd_values(&mut self) {
        self.executor.write_odd_values();
    }

    pub(crate) fn entry(&mut self, field: &str) -> Option<String> {
        self.executor.entry(field)
    }

    pub(crate) fn set_entry(&mut self, field: &str, text: &str) {
        self.executor.set_entry(field, text);
    }

    pub(crate) fn replace_keys(&mut self) {
        self.executor.replace_keys();
    }

    pub(crate) fn set_gone_after(&mut self, member: usize, seconds: u64) {
        let time = Duration::from_secs(seconds);
        self.executor.set_gone_after(member, time);
    }

    /// The store loses its data, which breaks all connections.
    pub(crate) fn lose_data(&mut self) {
        self.replace_keys();
        (0..MEMBERS).for_each(|member| self.disconnect(member));
    }

    pub(crate) fn clients(&mut self) -> usize {
        self.executor.clients()
    }

    pub(crate) fn set_facts(&mut self, member: usize, connections: u64) {
        self.report(member).facts = Some(Facts {
            version: "0.1.0".to_owned(),
            host: format!("host{member}"),
            config_digest: "9f86d081".to_owned(),
            config_since: 1_700_000_000,
            connections,
        });
    }

    /// Sends a batch with one client.
    pub(crate) fn limit(&mut self, member: usize, client: ClientReport) -> ClientView {
        let number = self.batches.entry(member).or_default();
        *number += 1;
        let number = *number;
        self.batch(member, number, client)
    }

    pub(crate) fn batch(&mut self, member: usize, number: u64, client: ClientReport) -> ClientView {
        self.report(member).batch = Some(Arc::new(Batch {
            number,
            clients: vec![client],
        }));
        let view = self.beat(member);
        self.report(member).batch = None;
        assert_eq!(view.clients.len(), 1);
        view.clients[0]
    }

    pub(crate) fn slots(&mut self, member: usize, slot: SlotReport) -> SlotView {
        self.report(member).slots = vec![slot];
        let view = self.beat(member);
        self.report(member).slots.clear();
        assert_eq!(view.slots.len(), 1);
        view.slots[0]
    }

    pub(crate) fn command(&mut self, member: usize, command: Command) -> View {
        self.report(member).commands = vec![command];
        let view = self.beat(member);
        self.report(member).commands.clear();
        view
    }
}
