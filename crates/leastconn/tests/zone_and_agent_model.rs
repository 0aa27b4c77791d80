//! Property test of zones, agent reports, weights and removed servers. Applies random operations to
//! a pool and compares each pick with the documented rules.

#![allow(clippy::unwrap_used, reason = "a violated invariant panics")]

use std::{
    num::NonZeroU32,
    time::{Instant, SystemTime},
};

use leastconn::{
    AdminState, AgentReport, Lease, PanicPolicy, Pool, ServerSpec, Tried, Weight, WeightOverride,
    ZoneId,
};
use proptest::prelude::*;

const SERVERS: usize = 6;

/// Percentages and weights are powers of two, so that loads are exact as floating-point numbers.
const REPORTS: [&str; 12] = [
    "up ready 100% maxconn:0",
    "drain",
    "maint",
    "ready",
    "down #disk full",
    "up",
    "50%",
    "200%",
    "0%",
    "100%",
    "maxconn:1",
    "maxconn:0",
];

#[derive(Clone, Debug)]
enum Op {
    /// A client that may use the servers in the mask connects.
    Pick(u8),
    /// A connection ends.
    End(usize),
    SetAdmin(usize, AdminState),
    /// A server's agent sends one of [`REPORTS`].
    Report(usize, usize),
    SetWeight(usize, Option<WeightOverride>),
    /// Replaces the members with the servers in the mask, or with all servers if it is empty. The
    /// number determines their settings.
    Update(u8, u8),
    /// A successor replaces the pool.
    Succeed(u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let admin = prop_oneof![
        3 => Just(AdminState::Ready),
        1 => Just(AdminState::Drain),
        1 => Just(AdminState::Maint)
    ];
    let weight = prop_oneof![
        2 => Just(None),
        1 => Just(Some(WeightOverride::Absolute(0))),
        1 => Just(Some(WeightOverride::Absolute(8))),
        1 => Just(Some(WeightOverride::Percent(25))),
    ];
    prop_oneof![
        10 => any::<u8>().prop_map(Op::Pick),
        4 => any::<usize>().prop_map(Op::End),
        2 => (0..SERVERS, admin).prop_map(|(server, state)| Op::SetAdmin(server, state)),
        4 => (0..SERVERS, 0..REPORTS.len()).prop_map(|(server, report)| Op::Report(server, report)),
        2 => (0..SERVERS, weight).prop_map(|(server, weight)| Op::SetWeight(server, weight)),
        1 => any::<(u8, u8)>().prop_map(|(members, seed)| Op::Update(members, seed)),
        1 => any::<(u8, u8)>().prop_map(|(members, seed)| Op::Succeed(members, seed)),
    ]
}

/// The expected state of a member.
#[derive(Clone, Debug)]
struct Expected {
    spec: ServerSpec,
    admin: AdminState,
    agent_admin: AdminState,
    is_agent_down: bool,
    agent_percent: Option<u16>,
    agent_max: Option<Option<NonZeroU32>>,
    weight: Option<WeightOverride>,
}

impl Expected {
    fn new(spec: ServerSpec) -> Self {
        Self {
            spec,
            admin: AdminState::Ready,
            agent_admin: AdminState::Ready,
            is_agent_down: false,
            agent_percent: None,
            agent_max: None,
            weight: None,
        }
    }

    fn configured(&self) -> f64 {
        self.spec.weight.get().into()
    }

    /// The operator's weight replaces the agent's.
    fn weight(&self) -> f64 {
        let percent = |percent: u16| self.configured() * f64::from(percent) / 100.0;
        match (self.weight, self.agent_percent) {
            (Some(WeightOverride::Absolute(weight)), _) => weight.into(),
            (Some(WeightOverride::Percent(of)), _) | (None, Some(of)) => percent(of),
            (None, None) => self.configured(),
        }
    }

    fn is_available(&self) -> bool {
        let states = [self.admin, self.agent_admin];
        let is_ready = states.iter().all(|&state| state == AdminState::Ready);
        is_ready && !self.is_agent_down && self.weight() > 0.0
    }

    fn max_conns(&self) -> Option<NonZeroU32> {
        self.agent_max.unwrap_or(self.spec.max_conns)
    }

    /// What the server adds to its zone's capacity.
    fn capacity(&self) -> f64 {
        match self.weight() {
            0.0 => self.configured(),
            weight => weight,
        }
    }
}

fn own_zone() -> ZoneId {
    ZoneId::from("own")
}

fn specs(members: u8, seed: u8) -> Vec<ServerSpec> {
    let is_member =
        |number: &usize| members.is_multiple_of(1 << SERVERS) || members >> number & 1 == 1;
    (0..SERVERS)
        .filter(is_member)
        .map(|number| {
            let draw = seed
                .wrapping_mul(37)
                .wrapping_add((number as u8).wrapping_mul(101));
            let zone = ["own", "own", "other"].get(usize::from(draw / 5 % 4));
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 8_000 + number as u16));
            ServerSpec::new(number.to_string(), address)
                .weight(Weight::new(1 << (draw % 3)).unwrap())
                .max_conns(NonZeroU32::new(u32::from(draw / 3 % 4)))
                .backup((draw / 16).is_multiple_of(4))
                .zone(zone.map(|&zone| ZoneId::from(zone)))
        })
        .collect()
}

struct World {
    pool: Pool,
    /// Indexed by server number. `None`: not a member.
    expected: Vec<Option<Expected>>,
    /// Open connections, including those to servers that are no longer members.
    leases: Vec<(usize, Lease)>,
    now: Instant,
}

impl World {
    fn new(now: Instant) -> Self {
        let specs = specs(0, 0);
        let pool = Pool::builder("pool")
            .servers(specs.clone())
            .panic(PanicPolicy::Refuse)
            .zone(own_zone())
            .seed(1)
            .build()
            .unwrap();
        Self {
            pool,
            expected: specs.into_iter().map(Expected::new).map(Some).collect(),
            leases: Vec::new(),
            now,
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Pick(allowed) => self.pick(allowed),
            Op::End(which) => {
                if let Some(which) = which.checked_rem(self.leases.len()) {
                    drop(self.leases.swap_remove(which));
                }
            }
            Op::SetAdmin(number, state) => {
                if let Some(expected) = &mut self.expected[number] {
                    expected.admin = state;
                    let server = self.pool.server(&number.to_string()).unwrap();
                    server.set_admin(state);
                }
            }
            Op::Report(number, report) => self.report(number, REPORTS[report]),
            Op::SetWeight(number, weight) => {
                let is_member = self.pool.set_weight(&number.to_string(), weight);
                let expected = &mut self.expected[number];
                assert_eq!(is_member, expected.is_some());
                if let Some(expected) = expected {
                    expected.weight = weight;
                }
            }
            Op::Update(members, seed) => {
                let specs = specs(members, seed);
                let _ = self.pool.update(specs.clone()).unwrap();
                self.replace_members(specs);
            }
            Op::Succeed(members, seed) => {
                let specs = specs(members, seed);
                let next = self.pool.successor().servers(specs.clone());
                self.pool = next.build().unwrap();
                self.replace_members(specs);
            }
        }
    }

    fn report(&mut self, number: usize, text: &str) {
        let Some(expected) = &mut self.expected[number] else {
            return;
        };
        let report = AgentReport::parse(text);
        let server = self.pool.server(&number.to_string()).unwrap();
        self.pool
            .agent_reported(&server, &report, SystemTime::UNIX_EPOCH);
        expected.is_agent_down = report.is_up.map_or(expected.is_agent_down, |up| !up);
        expected.agent_admin = report.admin.unwrap_or(expected.agent_admin);
        expected.agent_percent = report.weight_percent.or(expected.agent_percent);
        expected.agent_max = report.max_conns.or(expected.agent_max);
    }

    fn replace_members(&mut self, specs: Vec<ServerSpec>) {
        let mut before = std::mem::replace(&mut self.expected, vec![None; SERVERS]);
        for spec in specs {
            let number: usize = spec.id.as_str().parse().unwrap();
            self.expected[number] = Some(match before[number].take() {
                Some(known) => Expected { spec, ..known },
                // Only a server's connections survive its absence.
                None => Expected::new(spec),
            });
        }
    }

    fn in_flight(&self, number: usize) -> u32 {
        let leases = self.leases.iter().filter(|(of, _)| *of == number);
        u32::try_from(leases.count()).unwrap()
    }

    /// Returns the servers that the rules allow for a pick among the servers in the mask.
    fn eligible(&self, allowed: u8) -> Vec<usize> {
        let members: Vec<(usize, &Expected)> = self
            .expected
            .iter()
            .enumerate()
            .filter_map(|(number, expected)| Some((number, expected.as_ref()?)))
            .filter(|(number, _)| allowed >> number & 1 == 1)
            .collect();
        let own = Some(own_zone());
        let local: Vec<_> = members
            .iter()
            .copied()
            .filter(|(_, expected)| expected.spec.zone == own)
            .collect();
        let is_zoned = !local.is_empty() && local.len() < members.len();
        for backup in [false, true] {
            let open = |of: &[(usize, &Expected)]| -> Vec<usize> {
                of.iter()
                    .filter(|(number, expected)| {
                        let max = expected.max_conns();
                        expected.spec.backup == backup
                            && expected.is_available()
                            && max.is_none_or(|max| self.in_flight(*number) < max.get())
                    })
                    .map(|(number, _)| *number)
                    .collect()
            };
            let capacity = |is_counted: &dyn Fn(&Expected) -> bool| -> f64 {
                let counted = local.iter().map(|(_, expected)| *expected);
                let counted = counted.filter(|e| e.spec.backup == backup && is_counted(e));
                counted.map(Expected::capacity).sum()
            };
            let available = capacity(&Expected::is_available);
            let is_preferred =
                is_zoned && available > 0.0 && 2.0 * available >= capacity(&|_| true);
            let preferred = if is_preferred {
                open(&local)
            } else {
                Vec::new()
            };
            let open = if preferred.is_empty() {
                open(&members)
            } else {
                preferred
            };
            if !open.is_empty() {
                return open;
            }
        }
        Vec::new()
    }

    fn pick(&mut self, allowed: u8) {
        let candidates = self.pool.subset(|server| {
            let number: usize = server.id().as_str().parse().unwrap();
            allowed >> number & 1 == 1
        });
        let mut eligible = self.eligible(allowed);
        let load = |number: &usize| {
            let weight = self.expected[*number].as_ref().unwrap().weight();
            f64::from(self.in_flight(*number) + 1) / weight
        };
        let least = eligible.iter().map(load).fold(f64::INFINITY, f64::min);
        eligible.retain(|number| load(number) <= least);
        match self.pool.pick(&candidates, &Tried::default(), self.now) {
            None => assert!(eligible.is_empty(), "one of {eligible:?} could be picked"),
            Some(lease) => {
                let number: usize = lease.server().id().as_str().parse().unwrap();
                assert!(
                    eligible.contains(&number),
                    "picked {number} of {eligible:?}"
                );
                self.leases.push((number, lease));
            }
        }
    }

    fn check(&self) {
        for member in self.pool.members().iter() {
            let number: usize = member.server.id().as_str().parse().unwrap();
            let expected = self.expected[number].as_ref().unwrap();
            assert_eq!(member.server.in_flight(), self.in_flight(number));
            assert_eq!(member.effective_weight(), expected.weight());
            assert_eq!(member.max_conns, expected.max_conns());
            assert_eq!(member.server.status().is_up(), !expected.is_agent_down);
        }
        let removed = self.pool.departed();
        for server in &removed {
            let number: usize = server.id().as_str().parse().unwrap();
            assert!(self.expected[number].is_none(), "{number} is a member");
            assert_eq!(server.in_flight(), self.in_flight(number));
        }
        let with_leases = |number: &usize| self.in_flight(*number) > 0;
        let absent = (0..SERVERS).filter(|number| self.expected[*number].is_none());
        assert_eq!(removed.len(), absent.filter(with_leases).count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn picks_follow_zones_and_agents(ops in prop::collection::vec(op(), 0..120)) {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant cannot be constructed otherwise"
        )]
        let now = Instant::now();
        let mut world = World::new(now);
        for op in ops {
            world.step(op);
            world.check();
        }
        world.leases.clear();
        world.check();
        prop_assert!(world.pool.departed().is_empty());
    }
}
