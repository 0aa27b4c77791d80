//! The scripts and the in-memory store give the same views for random requests.

use std::{cell::RefCell, sync::Arc, time::Duration};

use leastconn_testkit::{StoreKind, StoreOptions};
use proptest::{prelude::*, test_runner::TestRunner};

use super::real::Real;
use crate::{
    Acknowledgement, Batch, BlockTarget, ClientKey, ClientReport, Command, Counts, MemberStatus,
    MemoryServer, ServerCount, ServerKey, SlotReport,
    cases::{Bench, MEMBERS},
    memory::tests::Memory,
};

#[derive(Clone, Debug)]
enum Step {
    Advance(u32),
    TurnBack(u32),
    /// The store loses its data.
    Restart,
    Disconnect(usize),
    Leave(usize),
    Exchange(usize, Exchange),
}

#[derive(Clone, Debug)]
struct Exchange {
    counts: Option<(u32, bool)>,
    facts: Option<u64>,
    /// Whether the last batch is repeated.
    repeat: bool,
    clients: Vec<ClientReport>,
    slots: Vec<SlotReport>,
    commands: Vec<Command>,
    acknowledge: bool,
}

/// The rate of each client. It must not change: the store keeps a bucket until it is full at the
/// last rate, by its own clock and not by that of the test.
const RATES: [f64; 5] = [0.0, 0.1, 0.37, 10.0, 733.3];

fn client() -> impl Strategy<Value = ClientReport> {
    let numbers = (0..RATES.len(), 0_u32..6, 0_u32..6, 0_u32..8, 0_u32..5);
    let used = proptest::option::of(0.0..10.0);
    (numbers, used).prop_map(
        |((client, admitted, ask, max_conns, open), used)| ClientReport {
            client: ClientKey([client as u8; 16]),
            admitted,
            ask,
            rate: RATES[client],
            burst: 5,
            max_conns,
            open: open + admitted,
            used,
        },
    )
}

fn slot() -> impl Strategy<Value = SlotReport> {
    (0_u64..2, 1_u32..20, 0_u32..20, 0_u32..10).prop_map(|(server, max, want, open)| SlotReport {
        server: ServerKey(server),
        max,
        want: want.max(open),
        open,
    })
}

fn command() -> impl Strategy<Value = Command> {
    let server = || (0..3).prop_map(|server| format!("web{server}"));
    let target = || {
        prop_oneof![
            Just(BlockTarget::Identity("cn:web1".to_owned())),
            Just(BlockTarget::Serial("a1".to_owned())),
        ]
    };
    prop_oneof![
        (server(), prop_oneof!["drain", "maint", "ready"]).prop_map(|(server, state)| {
            Command::State {
                upstream: "web".to_owned(),
                server,
                state,
                grace: Duration::from_secs(1),
            }
        }),
        (server(), prop_oneof!["50%", "100%"]).prop_map(|(server, weight)| Command::Weight {
            upstream: "web".to_owned(),
            server,
            weight,
        }),
        (target(), proptest::option::of(1_u64..20)).prop_map(|(target, seconds)| {
            Command::Block {
                target,
                duration: seconds.map(Duration::from_secs),
            }
        }),
        target().prop_map(|target| Command::Unblock { target }),
        "k[0-9]".prop_map(|id| Command::Kill {
            id,
            filter: "{}".to_owned(),
        }),
    ]
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let numbers = (
        proptest::option::of((0_u32..9, any::<bool>())),
        proptest::option::of(0_u64..3),
        any::<bool>(),
        any::<bool>(),
    );
    let lists = (
        prop::collection::vec(client(), 0..3),
        prop::collection::vec(slot(), 0..3),
        prop::collection::vec(command(), 0..2),
    );
    (numbers, lists).prop_map(
        |((counts, facts, repeat, acknowledge), (clients, slots, commands))| Exchange {
            counts,
            facts,
            repeat,
            clients,
            slots,
            commands,
            acknowledge,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u32..1_500_000).prop_map(Step::Advance),
        1 => (0_u32..40_000_000).prop_map(Step::Advance),
        1 => (0_u32..5_000_000).prop_map(Step::TurnBack),
        1 => Just(Step::Restart),
        1 => (0..MEMBERS).prop_map(Step::Disconnect),
        1 => (0..MEMBERS).prop_map(Step::Leave),
        14 => (0..MEMBERS, exchange()).prop_map(|(member, exchange)| Step::Exchange(member, exchange)),
    ];
    prop::collection::vec(step, 1..60)
}

/// Prepares the report of the next exchange.
fn prepare(bench: &mut Bench, member: usize, number: usize, exchange: &Exchange) {
    if let Some(connections) = exchange.facts {
        bench.set_facts(member, connections);
    }
    let report = bench.report(member);
    if let Some((open, leaving)) = exchange.counts {
        report.counts = Arc::new(Counts {
            version: number as u64 + 2,
            servers: vec![ServerCount {
                server: ServerKey(1),
                open,
                dials_per_second: 0.5,
            }],
        });
        report.status = match leaving {
            true => MemberStatus::Leaving,
            false => MemberStatus::Serving,
        };
    }
    if !exchange.repeat {
        report.batch = (!exchange.clients.is_empty()).then(|| {
            Arc::new(Batch {
                number: number as u64 + 1,
                clients: exchange.clients.clone(),
            })
        });
    }
    report.slots.clone_from(&exchange.slots);
    report.slots.sort_by_key(|slot| slot.server);
    report.slots.dedup_by_key(|slot| slot.server);
    report.commands.clone_from(&exchange.commands);
    report.acknowledgements = match exchange.acknowledge {
        true => vec![Acknowledgement {
            id: "k1".to_owned(),
            killed: 2,
        }],
        false => Vec::new(),
    };
}

/// Everything that the members see, as text.
fn run(bench: &mut Bench, steps: &[Step]) -> Vec<String> {
    let mut seen = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Advance(micros) => bench.advance(f64::from(*micros) / 1e6),
            Step::TurnBack(micros) => bench.turn_back(f64::from(*micros) / 1e6),
            Step::Restart => bench.lose_data(),
            Step::Disconnect(member) => bench.disconnect(*member),
            Step::Leave(member) => bench.leave(*member),
            Step::Exchange(member, exchange) => {
                prepare(bench, *member, number, exchange);
                seen.push(format!("{number}: {:?}", bench.try_beat(*member)));
                bench.report(*member).facts = None;
            }
        }
    }
    seen
}

#[test]
fn same_views_as_in_memory() {
    for kind in StoreKind::installed() {
        let real = RefCell::new(Real::start(StoreOptions::new(kind)));
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            // `PROPTEST_CASES` is for tests without I/O.
            cases: ProptestConfig::default().cases / 8,
            ..ProptestConfig::default()
        });
        let result = runner.run(&steps(), |steps| {
            let server = MemoryServer::new();
            server.set_now(Duration::from_secs(1_000_000));
            let expected = run(&mut Bench::new(Memory::new(&server)), &steps);
            let found = run(&mut Bench::new(real.borrow().empty()), &steps);
            prop_assert_eq!(found, expected);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
}
