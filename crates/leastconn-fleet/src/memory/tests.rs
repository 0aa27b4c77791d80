use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{Faults, InMemory, MemoryServer};
use crate::{
    Batch, ClientKey, ClientReport, Command, FleetSettings, MemberId, OperatorHistory, Report,
    Secret, ServerKey, SlotReport, Store, StoreError, View,
    cases::{self, Bench, Executor, MEMBERS, settings},
};

pub(crate) struct Memory {
    server: MemoryServer,
    members: Vec<InMemory>,
}

impl Memory {
    pub(crate) fn new(server: &MemoryServer) -> Self {
        Self {
            server: server.clone(),
            members: (0..MEMBERS).map(|_| server.connect(&settings())).collect(),
        }
    }
}

impl Executor for Memory {
    fn exchange(&mut self, member: usize, report: &Report) -> Result<View, StoreError> {
        self.members[member].exchange_now(report)
    }

    fn advance(&mut self, time: Duration) {
        self.server.advance(time);
    }

    fn turn_back(&mut self, time: Duration) {
        self.server.set_now(self.server.now() - time);
    }

    fn disconnect(&mut self, member: usize) {
        self.members[member].connected = false;
    }

    fn leave(&mut self, member: usize, id: &MemberId) {
        let mut leaving = std::pin::pin!(self.members[member].leave(id));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(leaving.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    }

    fn write_odd_values(&mut self) {
        self.server.shared.lock().state.write_odd_values();
    }

    fn entry(&mut self, field: &str) -> Option<String> {
        self.server.shared.lock().state.operator_entry(field)
    }

    fn set_entry(&mut self, field: &str, text: &str) {
        let mut shared = self.server.shared.lock();
        shared.state.set_operator_entry(field, text);
    }

    fn replace_keys(&mut self) {
        self.server.shared.lock().state.lose_data();
    }

    fn set_gone_after(&mut self, member: usize, time: Duration) {
        self.members[member].session.set_gone_after(time);
    }

    fn clients(&mut self) -> usize {
        self.server.clients()
    }
}

#[test]
fn cases_hold() {
    for (name, case) in cases::all() {
        println!("{name}");
        let server = MemoryServer::new();
        server.set_now(Duration::from_secs(1_000_000));
        case(&mut Bench::new(Memory::new(&server)));
    }
}

fn drain(server: &str) -> Command {
    Command::State {
        upstream: "web".to_owned(),
        server: server.to_owned(),
        state: "drain".to_owned(),
        grace: Duration::ZERO,
    }
}

fn drained(view: &View) -> Vec<&str> {
    let states = view
        .operators
        .as_ref()
        .expect("changed states")
        .states
        .iter();
    states.map(|state| state.server.as_str()).collect()
}

#[test]
fn members_restore_operator_states_after_a_restart() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    bench.beat(1);
    bench.command(0, drain("web1"));
    assert_eq!(drained(&bench.beat(1)), ["web1"]);
    server.restart_empty();
    assert!(bench.try_beat(1).is_err());
    let view = bench.beat(1);
    assert!(view.forgotten);
    // No change for the member itself, and a new member receives the state.
    assert_eq!(view.operators, None);
    assert_eq!(drained(&bench.beat(2)), ["web1"]);
}

#[test]
fn failover_does_not_invert_commands() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    bench.beat(1);
    bench.command(0, drain("web1"));
    bench.beat(1);
    server.replicate();
    let ready = Command::State {
        upstream: "web".to_owned(),
        server: "web1".to_owned(),
        state: "ready".to_owned(),
        grace: Duration::ZERO,
    };
    bench.command(0, ready);
    bench.command(0, drain("web2"));
    server.fail_over();
    // This member knows the old state only.
    assert!(bench.try_beat(1).is_err());
    assert_eq!(bench.beat(1).operators, None);
    assert!(bench.try_beat(0).is_err());
    let view = bench.beat(0);
    assert!(view.forgotten);
    assert_eq!(view.operators, None);
    assert_eq!(drained(&bench.beat(1)), ["web2"]);
    assert_eq!(drained(&bench.beat(2)), ["web2"]);
}

#[test]
fn foreign_entries_are_ignored_and_reported() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    bench.beat(0);
    let other = FleetSettings::new("test", Secret::new("another secret"));
    let mut intruder = server.connect(&other);
    let mut report = bench.report(3).clone();
    report.commands = vec![
        drain("web1"),
        Command::Kill {
            id: "k1".to_owned(),
            filter: "{}".to_owned(),
        },
    ];
    intruder.exchange_now(&report).unwrap();
    let view = bench.beat(0);
    assert_eq!(view.invalid_signatures, 2);
    assert_eq!(view.operators, None);
    assert_eq!(view.kills, []);
}

fn with_secret(secret: &str, history: &OperatorHistory) -> FleetSettings {
    FleetSettings {
        history: history.clone(),
        ..FleetSettings::new("test", Secret::new(secret))
    }
}

#[test]
fn operator_states_survive_a_change_of_the_secret() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    let (first, second) = (bench.report(0).clone(), bench.report(1).clone());
    let histories = [OperatorHistory::default(), OperatorHistory::default()];
    let mut one = server.connect(&with_secret("first secret", &histories[0]));
    let mut other = server.connect(&with_secret("first secret", &histories[1]));
    let mut report = first.clone();
    report.commands = vec![drain("web1")];
    one.exchange_now(&report).unwrap();
    assert_eq!(drained(&other.exchange_now(&second).unwrap()), ["web1"]);

    // The first member is reloaded.
    let mut one = server.connect(&with_secret("second secret", &histories[0]));
    assert_eq!(drained(&one.exchange_now(&first).unwrap()), ["web1"]);
    // The other one keeps the state, and its commands are not applied to the first one yet.
    assert_eq!(other.exchange_now(&second).unwrap().operators, None);
    let mut report = second.clone();
    report.commands = vec![drain("web2")];
    assert_eq!(
        drained(&other.exchange_now(&report).unwrap()),
        ["web1", "web2"]
    );
    assert_eq!(one.exchange_now(&first).unwrap().operators, None);

    let mut other = server.connect(&with_secret("second secret", &histories[1]));
    let view = other.exchange_now(&second).unwrap();
    assert_eq!(drained(&view), ["web1", "web2"]);
    assert_eq!(
        drained(&one.exchange_now(&first).unwrap()),
        ["web1", "web2"]
    );
    // A member that starts with the new secret finds no other signature.
    let third = bench.report(2).clone();
    let mut starting = server.connect(&with_secret("second secret", &OperatorHistory::default()));
    let view = starting.exchange_now(&third).unwrap();
    assert_eq!(drained(&view), ["web1", "web2"]);
    assert_eq!(view.invalid_signatures, 0);
}

#[test]
fn operator_states_survive_a_change_of_the_store() {
    let (server, next_server) = (MemoryServer::new(), MemoryServer::new());
    let mut bench = Bench::new(Memory::new(&server));
    let mut report = bench.report(0).clone();
    let history = OperatorHistory::default();
    let settings = with_secret("secret", &history);
    let mut member = server.connect(&settings);
    report.commands = vec![drain("web1")];
    member.exchange_now(&report).unwrap();
    report.commands.clear();
    let mut member = next_server.connect(&settings);
    assert_eq!(drained(&member.exchange_now(&report).unwrap()), ["web1"]);
    // A member that starts receives it from the new store.
    let other = bench.report(1).clone();
    let mut starting = next_server.connect(&with_secret("secret", &OperatorHistory::default()));
    assert_eq!(drained(&starting.exchange_now(&other).unwrap()), ["web1"]);
}

#[test]
fn late_requests_change_nothing() {
    let server = MemoryServer::with_faults(Faults {
        delayed: 1.0,
        max_delay: Duration::from_millis(100),
        ..Faults::default()
    });
    let mut bench = Bench::new(Memory::new(&server));
    let report = ClientReport {
        client: ClientKey([1; 16]),
        admitted: 0,
        ask: 0,
        rate: 0.0,
        burst: 0,
        max_conns: 10,
        open: 8,
        used: None,
    };
    let batch = |number, open| {
        let clients = vec![ClientReport { open, ..report }];
        Some(Arc::new(Batch { number, clients }))
    };
    bench.report(0).batch = batch(1, 8);
    assert!(bench.try_beat(0).is_err());
    server.stop_faults();
    bench.report(0).batch = batch(2, 3);
    bench.beat(0);
    server.advance(Duration::from_secs(1));
    bench.report(1).batch = batch(1, 0);
    assert_eq!(bench.beat(1).clients[0].others_open, 3);
}

#[test]
fn kills_are_not_lost_in_a_failed_exchange() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    for member in [0, 1, 2] {
        bench.beat(member);
    }
    bench.command(0, drain("web1"));
    bench.command(
        0,
        Command::Kill {
            id: "k1".to_owned(),
            filter: "{}".to_owned(),
        },
    );
    // This member does not know the state, so its own command needs a second request, which is
    // lost.
    server.lose_request(2);
    bench.report(1).commands = vec![Command::State {
        upstream: "web".to_owned(),
        server: "web1".to_owned(),
        state: "maint".to_owned(),
        grace: Duration::ZERO,
    }];
    assert!(bench.try_beat(1).is_err());
    let view = bench.beat(1);
    assert_eq!(view.kills.len(), 1);
    assert_eq!(drained(&view), ["web1"]);
}

#[test]
fn view_that_was_not_used_is_repeated() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    bench.beat(0);
    let report = bench.report(1).clone();
    let mut member = server.connect(&settings());
    member.exchange_now(&report).unwrap();
    bench.command(0, drain("web1"));
    assert_eq!(drained(&member.exchange_now(&report).unwrap()), ["web1"]);
    member.disconnect();
    assert_eq!(drained(&member.exchange_now(&report).unwrap()), ["web1"]);
    assert_eq!(member.exchange_now(&report).unwrap().operators, None);
}

#[test]
fn new_session_of_a_member_is_accepted() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    for _ in 0..3 {
        bench.beat(0);
    }
    let report = bench.report(0).clone();
    let mut next = server.connect(&settings());
    assert!(next.exchange_now(&report).unwrap().forgotten);
    assert!(!next.exchange_now(&report).unwrap().forgotten);
}

#[test]
fn the_same_seed_has_the_same_faults() {
    let run = |seed| {
        let server = MemoryServer::with_faults(Faults {
            seed,
            lost: 0.1,
            answer_lost: 0.1,
            duplicated: 0.1,
            delayed: 0.1,
            max_delay: Duration::from_millis(50),
            restart: 0.05,
            failover: 0.05,
            replication: 0.2,
        });
        let mut bench = Bench::new(Memory::new(&server));
        let results = (0..200).map(|i| {
            bench.advance(0.01);
            bench.try_beat(i % 3).is_ok()
        });
        results.collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!(run(1).iter().filter(|ok| **ok).count() > 50);
}

#[tokio::test(start_paused = true)]
async fn latency_and_stalls_follow_the_clock_of_tokio() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    let report = bench.report(0).clone();
    let mut member = server.connect(&settings());
    server.set_latency(Duration::from_millis(3));
    let start = tokio::time::Instant::now();
    member.exchange(&report).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(6));
    server.set_stalled(true);
    let stalled = tokio::time::timeout(Duration::from_secs(9), member.exchange(&report));
    assert!(stalled.await.is_err());
    server.set_stalled(false);
    server.set_reachable(false);
    assert!(member.exchange(&report).await.is_err());
    server.set_reachable(true);
    assert!(!member.exchange(&report).await.unwrap().forgotten);
}

#[test]
fn request_that_arrives_after_leaving_is_ignored() {
    let server = MemoryServer::with_faults(Faults {
        delayed: 1.0,
        max_delay: Duration::from_millis(100),
        ..Faults::default()
    });
    let mut bench = Bench::new(Memory::new(&server));
    assert!(bench.try_beat(0).is_err());
    server.stop_faults();
    bench.leave(0);
    server.advance(Duration::from_secs(1));
    assert!(bench.beat(1).members.is_empty());
    // The same process can return.
    bench.beat(0);
    assert_eq!(bench.beat(1).members.len(), 1);
}

#[test]
fn failover_gives_no_slots_twice() {
    let server = MemoryServer::new();
    let mut bench = Bench::new(Memory::new(&server));
    let slot = |want, open| SlotReport {
        server: ServerKey(1),
        max: 20,
        want,
        open,
    };
    for _ in 0..4 {
        bench.beat(0);
        bench.beat(1);
        server.advance(Duration::from_secs(1));
    }
    bench.slots(0, slot(4, 4));
    assert_eq!(bench.slots(1, slot(5, 5)).held, 5);
    server.replicate();
    assert_eq!(bench.slots(0, slot(15, 15)).held, 15);
    server.fail_over();
    // This member has lost nothing, and the other one has not returned yet.
    assert!(bench.try_beat(1).is_err());
    assert_eq!(bench.slots(1, slot(20, 5)).held, 5);
    assert_eq!(bench.slots(1, slot(20, 5)).held, 5);
    assert!(bench.try_beat(0).is_err());
    assert_eq!(bench.slots(0, slot(15, 15)).held, 15);
    assert_eq!(bench.slots(1, slot(20, 5)).held, 5);
    server.advance(Duration::from_secs(2));
    bench.slots(0, slot(10, 10));
    server.advance(Duration::from_secs(2));
    bench.beat(1);
    assert_eq!(bench.slots(1, slot(20, 5)).held, 10);
}
