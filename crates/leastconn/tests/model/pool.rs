//! Sequences of operations on a pool, run against a sequential model of it.
//!
//! The property test beside this and the fuzz targets share it: an operation is
//! read from four bytes, so whatever produces bytes produces sequences. Each
//! step is checked against the laws, and so is the end; see [`World::run`].

#![allow(clippy::expect_used, reason = "a broken law is a panic")]

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use leastconn::{
    AdminState, Balance, Candidates, Lease, Pool, ServerSpec, Source, Tried, Weight,
    health::{ActivePolicy, Availability, Health, PassivePolicy},
};

/// What can happen to a pool. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// A connection comes, from a client that may use the servers in `allowed`.
    Pick {
        /// A bit a server.
        allowed: u8,
        /// A bit a server that it was tried on before.
        tried: u8,
    },
    /// A connection ends.
    Drop(u8),
    /// A connection's dial failed: it is tried on another server.
    Retry(u8),
    /// A connect to a server failed.
    Failed(u8),
    /// A connect to a server succeeded.
    Succeeded(u8),
    /// A probe of a server ended.
    Probed(u8, bool),
    /// The operator wants something of a server.
    Admin(u8, AdminState),
    /// Time passes: seconds.
    Wait(u8),
    /// The configuration changes to the servers in the mask.
    Succeed {
        /// A bit a server; none counts as all.
        members: u8,
        /// Where weights, limits and backups come from.
        seed: u8,
    },
}

impl Op {
    /// Reads an operation; each one comes of some bytes.
    pub(crate) fn from_bytes([kind, a, b, c]: [u8; 4]) -> Self {
        match kind % 16 {
            // The most frequent, or servers would seldom be loaded. Of two
            // random masks, seven in eight servers are allowed, one in four tried.
            0..=5 => Self::Pick {
                allowed: a | b | c,
                tried: b & c,
            },
            6 | 7 => Self::Drop(a),
            8 => Self::Retry(a),
            9 | 10 => Self::Failed(a),
            11 => Self::Succeeded(a),
            12 => Self::Probed(a, b % 2 == 0),
            13 => Self::Admin(
                a,
                [AdminState::Ready, AdminState::Drain, AdminState::Maint][usize::from(b) % 3],
            ),
            14 => Self::Wait(a % 16),
            _ => Self::Succeed {
                members: a,
                seed: b,
            },
        }
    }
}

/// Servers that there are at most; which of them are members changes.
const SERVERS: u8 = 6;

/// A server as the model sees it: what was done to it, and nothing shared.
#[derive(Clone, Debug)]
struct Expected {
    spec: ServerSpec,
    in_flight: u32,
    admin: AdminState,
    health: Health,
    /// It came back, or was added: perhaps it is beginning slowly.
    may_be_slow: bool,
}

impl Expected {
    fn new(spec: ServerSpec, policies: (Option<ActivePolicy>, PassivePolicy)) -> Self {
        Self {
            may_be_slow: false,
            spec,
            in_flight: 0,
            admin: AdminState::Ready,
            health: Health::new(policies.0, policies.1),
        }
    }

    fn is_available(&self, now: Instant) -> bool {
        let full = self
            .spec
            .max_conns
            .is_some_and(|max| self.in_flight >= max.get());
        let healthy = match self.health.availability() {
            Availability::Up => true,
            Availability::Ejected(until) => now >= until,
            Availability::Down => false,
        };
        self.admin == AdminState::Ready && healthy && !full
    }

    /// What happens to its health, and what follows.
    fn change_health(&mut self, change: impl FnOnce(&mut Health)) {
        let before = self.health.availability();
        change(&mut self.health);
        let after = self.health.availability();
        self.may_be_slow |= before != Availability::Up && after == Availability::Up;
    }

    /// What a connection more would weigh, in numbers that have no remainder.
    fn weight_of_one_more(&self) -> f64 {
        f64::from(self.in_flight + 1) / f64::from(self.spec.weight.get())
    }
}

/// A pool, its model, and the connections that are open.
#[derive(Debug)]
pub(crate) struct World {
    pool: Pool,
    /// By server number; those that are not members any more keep their leases.
    expected: Vec<Option<Expected>>,
    leases: Vec<(usize, Lease)>,
    /// Leases of servers that left the configuration.
    orphans: Vec<(usize, Lease)>,
    now: Instant,
}

impl World {
    /// All servers, `seed` decides what they are like.
    pub(crate) fn new(seed: u8, now: Instant) -> Self {
        let policies = policies(seed);
        let (active, passive) = policies;
        let specs: Vec<_> = (0..SERVERS).map(|server| spec(server, seed)).collect();
        let pool = Pool::new("pool", specs.clone(), active, passive, seed.into());
        let pool = pool.expect("there are servers, and their names differ");
        Self {
            pool: choosing(pool, seed),
            expected: specs
                .into_iter()
                .map(|spec| Some(Expected::new(spec, policies)))
                .collect(),
            leases: Vec::new(),
            orphans: Vec::new(),
            now,
        }
    }

    /// Runs all of `ops`, then ends all connections.
    ///
    /// # Panics
    /// When a law is broken:
    /// - a server in drain, in maintenance, down, ejected, full or tried is not picked;
    /// - a backup is picked only when no other server could be;
    /// - with least connections, whoever is picked has the least per weight, but that
    ///   one that is beginning slowly may have less;
    /// - somebody is picked whenever somebody could be;
    /// - a server on trial gets one connection at a time;
    /// - in flight is what there are leases, on each server, and 0 in the end.
    pub(crate) fn run(mut self, ops: impl IntoIterator<Item = Op>) {
        for op in ops {
            self.step(op);
            self.check();
        }
        self.leases.clear();
        self.orphans.clear();
        for member in self.pool.members() {
            assert_eq!(member.server.in_flight(), 0, "{}", member.server.id());
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Pick { allowed, tried } => self.pick(allowed, tried),
            Op::Drop(which) => {
                if let Some((server, lease)) = self.take_lease(which) {
                    self.ended(server);
                    drop(lease);
                }
            }
            Op::Retry(which) => {
                if let Some((server, lease)) = self.take_lease(which) {
                    let now = self.now;
                    lease.server().connect_failed(now);
                    if let Some(expected) = &mut self.expected[server] {
                        expected.change_health(|health| health.connect_failed(now));
                    }
                    let mut tried = Tried::default();
                    tried.add(lease);
                    self.ended(server);
                    self.pick_beside(u8::MAX, 1 << server, &tried);
                }
            }
            Op::Failed(server) => self.on_server(server, |server, expected, now| {
                server.connect_failed(now);
                expected.change_health(|health| health.connect_failed(now));
            }),
            Op::Succeeded(server) => self.on_server(server, |server, expected, _| {
                server.connect_succeeded();
                expected.change_health(Health::connect_succeeded);
            }),
            Op::Probed(server, success) => self.on_server(server, |server, expected, _| {
                server.probed(success);
                expected.change_health(|health| health.probed(success));
            }),
            Op::Admin(server, state) => self.on_server(server, |server, expected, _| {
                server.set_admin(state);
                let comes_back = match expected.admin {
                    AdminState::Ready => false,
                    AdminState::Drain => expected.in_flight == 0,
                    AdminState::Maint => true,
                };
                expected.may_be_slow |= comes_back && state == AdminState::Ready;
                expected.admin = state;
            }),
            Op::Wait(seconds) => self.now += Duration::from_secs(seconds.into()),
            Op::Succeed { members, seed } => self.succeed(members, seed),
        }
    }

    fn pick(&mut self, allowed: u8, tried: u8) {
        // The only way into `Tried` is a lease: pick each such server alone.
        let mut already = Tried::default();
        let mut was_tried = 0;
        for number in servers().filter(|&number| has(tried, number)) {
            let only = self.candidates(1 << number);
            let before = self.expected[number].clone();
            if let Some(lease) = self.pool.pick(&only, &Tried::default(), self.now) {
                let expected = self.expected[number].as_mut();
                let expected = expected.expect("who is picked is a member");
                assert!(expected.is_available(self.now), "picked {before:?}");
                expected.health.start_trial(self.now);
                already.add(lease);
                was_tried |= 1 << number;
            } else {
                let available = before.is_some_and(|expected| expected.is_available(self.now));
                assert!(!available, "server {number} could be picked");
            }
        }
        self.pick_beside(allowed, was_tried, &already);
    }

    fn pick_beside(&mut self, allowed: u8, was_tried: u8, tried: &Tried) {
        let available = |backup: bool| -> Vec<usize> {
            servers()
                .filter(|&number| has(allowed & !was_tried, number))
                .filter(|&number| {
                    self.expected[number].as_ref().is_some_and(|expected| {
                        expected.spec.backup == backup && expected.is_available(self.now)
                    })
                })
                .collect()
        };
        let mut could = available(false);
        if could.is_empty() {
            could = available(true);
        }
        if self.pool.balance() == Balance::LeastConn {
            let expected = |number: &usize| self.expected[*number].as_ref();
            let weight = |number: &usize| {
                expected(number).map_or(f64::INFINITY, Expected::weight_of_one_more)
            };
            let any_slow = !self.pool.slow_start().is_zero();
            let steady = |number: &&usize| {
                !any_slow || expected(number).is_some_and(|expected| !expected.may_be_slow)
            };
            let steady = could.iter().filter(steady);
            let least = steady.map(weight).fold(f64::INFINITY, f64::min);
            could.retain(|number| weight(number) <= least);
        }

        let candidates = self.candidates(allowed).from_source(Source::of(&[allowed]));
        let picked = self
            .pool
            .pick(&candidates, tried, self.now)
            .map(|lease| (number_of(&lease), lease));
        match picked {
            None => assert!(could.is_empty(), "one of {could:?} could be picked"),
            Some((number, lease)) => {
                assert!(could.contains(&number), "picked {number} of {could:?}");
                if let Some(expected) = &mut self.expected[number] {
                    expected.in_flight += 1;
                    expected.health.start_trial(self.now);
                }
                self.leases.push((number, lease));
            }
        }
    }

    fn succeed(&mut self, members: u8, seed: u8) {
        let is_member =
            |number: &u8| members.is_multiple_of(1 << SERVERS) || has(members, (*number).into());
        let specs: Vec<_> = (0..SERVERS)
            .filter(is_member)
            .map(|number| spec(number, seed))
            .collect();
        let policies = policies(seed);
        let (active, passive) = policies;
        let next = self.pool.succeed(specs.clone(), active, passive);
        let was_slow = !self.pool.slow_start().is_zero();
        let next = next.expect("there are servers, and their names differ");
        self.pool = choosing(next, seed);

        let mut before = std::mem::replace(&mut self.expected, vec![None; SERVERS.into()]);
        for spec in specs {
            let number = number_from(spec.id.as_str());
            self.expected[number] = Some(match before[number].take() {
                Some(mut known) => {
                    // Where nothing was slow, nothing is when that changes.
                    known.may_be_slow &= was_slow;
                    known.change_health(|health| health.set_policies(active, passive));
                    Expected { spec, ..known }
                }
                None => {
                    // Who comes back while it has leases goes on with them, and begins
                    // anew otherwise.
                    let (back, stay) = std::mem::take(&mut self.orphans)
                        .into_iter()
                        .partition(|&(orphan, _)| orphan == number);
                    self.orphans = stay;
                    let back: Vec<(usize, Lease)> = back;
                    let in_flight = back.len().try_into().expect("there are few leases");
                    self.leases.extend(back);
                    Expected {
                        may_be_slow: true,
                        in_flight,
                        ..Expected::new(spec, policies)
                    }
                }
            });
        }
        for gone in servers().filter(|&number| before[number].is_some()) {
            let (left, stay) = std::mem::take(&mut self.leases)
                .into_iter()
                .partition(|&(number, _)| number == gone);
            self.leases = stay;
            let left: Vec<(usize, Lease)> = left;
            self.orphans.extend(left);
        }
    }

    fn check(&self) {
        for member in self.pool.members() {
            let number = number_from(member.server.id().as_str());
            let expected = self.expected[number].as_ref();
            let expected = expected.expect("the members are those that are expected");
            let leases = self.leases.iter().filter(|lease| lease.0 == number).count();
            let status = member.server.status();
            assert_eq!(status.in_flight as usize, leases);
            assert_eq!(status.in_flight, expected.in_flight);
            assert_eq!(status.admin, expected.admin);
            assert_eq!(status.availability, expected.health.availability());
        }
    }

    fn candidates(&self, allowed: u8) -> Candidates {
        self.pool
            .subset(|server| has(allowed, number_from(server.id().as_str())))
    }

    fn take_lease(&mut self, which: u8) -> Option<(usize, Lease)> {
        let which = usize::from(which).checked_rem(self.leases.len())?;
        Some(self.leases.swap_remove(which))
    }

    fn ended(&mut self, server: usize) {
        if let Some(expected) = &mut self.expected[server] {
            expected.in_flight -= 1;
        }
    }

    fn on_server(
        &mut self,
        which: u8,
        change: impl FnOnce(&leastconn::Server, &mut Expected, Instant),
    ) {
        let members = self.pool.members();
        let server = &members[usize::from(which) % members.len()].server;
        let expected = self.expected[number_from(server.id().as_str())].as_mut();
        change(
            server,
            expected.expect("the members are those that are expected"),
            self.now,
        );
    }
}

fn servers() -> impl Iterator<Item = usize> {
    0..usize::from(SERVERS)
}

const fn has(mask: u8, number: usize) -> bool {
    mask >> number & 1 == 1
}

fn policies(seed: u8) -> (Option<ActivePolicy>, PassivePolicy) {
    let two = NonZeroU32::MIN.saturating_add(1);
    let active = (seed & 1 == 0).then_some(ActivePolicy {
        rise: two,
        fall: two,
    });
    let passive = PassivePolicy {
        max_fails: u32::from(seed >> 1) % 4,
        fail_timeout: Duration::from_secs(10),
    };
    (active, passive)
}

/// How the pool chooses comes of `seed`: in half of them by least connections, and in
/// half of them servers begin slowly.
fn choosing(pool: Pool, seed: u8) -> Pool {
    let balance = match seed >> 2 & 7 {
        0 => Balance::P2c,
        1 => Balance::RoundRobin,
        2 => Balance::Random,
        3 => Balance::SourceHash,
        _ => Balance::LeastConn,
    };
    pool.with_balance(balance)
        .with_slow_start(Duration::from_secs(u64::from(seed >> 5 & 1) * 7))
}

/// A server whose weight, limit and part as a backup come of `seed`.
fn spec(number: u8, seed: u8) -> ServerSpec {
    let draw = seed.wrapping_mul(37).wrapping_add(number.wrapping_mul(101));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 8_000 + u16::from(number)));
    ServerSpec {
        // Powers of two, so that loads are exact as floating-point numbers.
        weight: Weight::new(1 << (draw % 3)).unwrap_or_default(),
        max_conns: NonZeroU32::new(u32::from(draw / 3 % 4)),
        backup: (draw / 16).is_multiple_of(3),
        ..ServerSpec::new(number.to_string(), address)
    }
}

fn number_of(lease: &Lease) -> usize {
    number_from(lease.server().id().as_str())
}

fn number_from(id: &str) -> usize {
    id.parse().expect("servers are named by their numbers")
}
