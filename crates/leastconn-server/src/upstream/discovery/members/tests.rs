//! Sequences of answers in simulated time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const HOLD: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits {
    hold: HOLD,
    max: 256,
};

fn found(name: &str) -> FoundServer {
    FoundServer::new(name.into(), "10.0.0.1:80".parse().unwrap())
}

fn answer(names: &[&str]) -> Answer {
    Answer::complete(names.iter().map(|name| found(name)).collect())
}

fn names(members: &Members) -> Vec<&str> {
    members.servers().map(|server| server.id.as_str()).collect()
}

/// Members that merge answers at given seconds.
struct Simulation {
    start: Instant,
    members: Members,
}

impl Simulation {
    fn new() -> Self {
        Self {
            start: leastconn::net::now(),
            members: Members::default(),
        }
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn merge(&mut self, second: u64, answer: &Answer) -> Result<usize, NoServers> {
        let now = self.at(second);
        self.members.merge(now, answer, LIMITS)
    }
}

#[test]
fn new_servers_join_at_once() {
    let mut simulation = Simulation::new();
    simulation.merge(0, &answer(&["a"])).unwrap();
    simulation.merge(10, &answer(&["b", "a", "c"])).unwrap();
    assert_eq!(names(&simulation.members), ["a", "b", "c"]);
}

#[test]
fn missing_servers_leave_after_hold() {
    let mut simulation = Simulation::new();
    simulation.merge(0, &answer(&["a", "b"])).unwrap();
    simulation.merge(10, &answer(&["a"])).unwrap();
    assert_eq!(
        simulation.members.next_removal(HOLD),
        Some(simulation.at(40))
    );
    simulation.merge(39, &answer(&["a"])).unwrap();
    assert_eq!(names(&simulation.members), ["a", "b"]);
    simulation.merge(40, &answer(&["a"])).unwrap();
    assert_eq!(names(&simulation.members), ["a"]);
    assert_eq!(simulation.members.next_removal(HOLD), None);
}

#[test]
fn a_server_missing_from_every_second_answer_stays() {
    let mut simulation = Simulation::new();
    for step in 0..100 {
        let names: &[&str] = if step % 2 == 0 { &["a", "b"] } else { &["a"] };
        simulation.merge(step * 20, &answer(names)).unwrap();
        assert_eq!(simulation.members.0.len(), 2);
    }
}

#[test]
fn empty_answers_never_remove_servers() {
    let mut simulation = Simulation::new();
    simulation.merge(0, &answer(&["a", "b"])).unwrap();
    for second in [1, 100, 100_000] {
        assert_eq!(simulation.merge(second, &answer(&[])), Err(NoServers));
    }
    assert_eq!(names(&simulation.members), ["a", "b"]);
    // The hold time starts with the first complete answer that lacks the server.
    simulation.merge(100_001, &answer(&["c"])).unwrap();
    assert_eq!(names(&simulation.members), ["a", "b", "c"]);
    simulation.merge(100_031, &answer(&["c"])).unwrap();
    assert_eq!(names(&simulation.members), ["c"]);
}

#[test]
fn incomplete_answers_remove_no_servers() {
    let mut simulation = Simulation::new();
    simulation.merge(0, &answer(&["a", "b"])).unwrap();
    let incomplete = Answer {
        unknown: vec![UnknownServers::V4],
        ..answer(&["a", "c"])
    };
    simulation.merge(10, &incomplete).unwrap();
    simulation.merge(1000, &incomplete).unwrap();
    assert_eq!(names(&simulation.members), ["a", "b", "c"]);
}

#[test]
fn failed_family_does_not_block_removal_of_the_other() {
    let with_address = |name: &str, address: &str| FoundServer {
        address: address.parse().unwrap(),
        ..found(name)
    };
    let mut simulation = Simulation::new();
    let mut all = answer(&["a", "b"]);
    all.servers.push(with_address("c", "[fd00::1]:80"));
    simulation.merge(0, &all).unwrap();
    let v6_failed = Answer {
        unknown: vec![UnknownServers::V6],
        ..answer(&["a"])
    };
    simulation.merge(10, &v6_failed).unwrap();
    simulation.merge(40, &v6_failed).unwrap();
    assert_eq!(names(&simulation.members), ["a", "c"]);
    // The hold time of an IPv6 server starts with the first answer about IPv6.
    simulation.merge(1000, &answer(&["a"])).unwrap();
    assert_eq!(names(&simulation.members), ["a", "c"]);
    simulation.merge(1030, &answer(&["a"])).unwrap();
    assert_eq!(names(&simulation.members), ["a"]);
}

#[test]
fn failed_srv_target_keeps_only_its_servers() {
    let mut simulation = Simulation::new();
    let all = ["web-1", "web-1-10.0.0.9", "web-10", "web-2", "web-1-old"];
    simulation.merge(0, &answer(&all)).unwrap();
    let failed = Answer {
        unknown: vec![UnknownServers::Target("web-1".to_owned())],
        ..answer(&["web-3"])
    };
    simulation.merge(1, &failed).unwrap();
    simulation.merge(31, &failed).unwrap();
    assert_eq!(
        names(&simulation.members),
        ["web-1", "web-1-10.0.0.9", "web-3"]
    );
}

#[test]
fn a_new_address_replaces_the_old_one_at_once() {
    let mut simulation = Simulation::new();
    simulation.merge(0, &answer(&["web-0"])).unwrap();
    let mut moved = answer(&["web-0"]);
    moved.servers[0].address = "10.0.0.9:80".parse().unwrap();
    simulation.merge(1, &moved).unwrap();
    let servers: Vec<_> = simulation.members.servers().collect();
    assert_eq!(servers, [&moved.servers[0]]);
}

#[test]
fn the_first_servers_stay_if_there_are_too_many() {
    let start = leastconn::net::now();
    let limits = Limits { hold: HOLD, max: 2 };
    let mut members = Members::default();
    let merge = |members: &mut Members, second, names: &[&str]| {
        let now = start + Duration::from_secs(second);
        members.merge(now, &answer(names), limits).unwrap()
    };
    assert_eq!(merge(&mut members, 0, &["b", "c"]), 0);
    assert_eq!(merge(&mut members, 1, &["a", "b", "c", "d"]), 2);
    assert_eq!(names(&members), ["b", "c"]);
    // Missing servers do not count, so their replacements can join.
    assert_eq!(merge(&mut members, 2, &["d", "e"]), 0);
    assert_eq!(names(&members), ["b", "c", "d", "e"]);
    // The total is limited to twice the maximum.
    assert_eq!(merge(&mut members, 3, &["f", "g"]), 2);
    assert_eq!(merge(&mut members, 32, &["f", "g"]), 0);
    assert_eq!(names(&members), ["d", "e", "f", "g"]);
}

/// One step of a random sequence: seconds since the previous step, the servers in the answer, and
/// whether the answer is complete. `None` means that the look-up failed.
type Step = (u64, Option<(BTreeSet<u8>, bool)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let servers = prop::collection::btree_set(0_u8..6, 0..6);
    let outcome = prop::option::weighted(0.8, (servers, prop::bool::weighted(0.8)));
    prop::collection::vec((0_u64..25, outcome), 1..60)
}

proptest! {
    /// Compares the members with a model of the rules in the module documentation.
    #[test]
    fn membership_follows_the_rules(steps in steps()) {
        let mut simulation = Simulation::new();
        let mut second = 0;
        // For each member: the time of the first complete answer without it.
        let mut expected: BTreeMap<u8, Option<u64>> = BTreeMap::new();
        for (pause, outcome) in steps {
            second += pause;
            let Some((servers, is_complete)) = outcome else {
                continue;
            };
            let texts: Vec<_> = servers.iter().map(u8::to_string).collect();
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            let merged = simulation.merge(second, &Answer {
                unknown: if is_complete { Vec::new() } else { vec![UnknownServers::V4] },
                ..answer(&texts)
            });
            prop_assert_eq!(merged, if servers.is_empty() { Err(NoServers) } else { Ok(0) });
            if servers.is_empty() {
                continue;
            }
            for server in &servers {
                expected.insert(*server, None);
            }
            if is_complete {
                for (server, missing) in &mut expected {
                    if !servers.contains(server) {
                        missing.get_or_insert(second);
                    }
                }
                expected.retain(|_, missing| {
                    missing.is_none_or(|since| second - since < HOLD.as_secs())
                });
            }
            let actual: BTreeSet<_> = names(&simulation.members)
                .into_iter()
                .map(|name| name.parse::<u8>().unwrap())
                .collect();
            let expected: BTreeSet<_> = expected.keys().copied().collect();
            prop_assert_eq!(&actual, &expected);
            prop_assert!(!actual.is_empty());
            prop_assert_eq!(actual.len(), simulation.members.0.len(), "a name occurs twice");
        }
    }
}
