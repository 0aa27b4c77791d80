//! A sequential model of a pool. Tests apply sequences of operations to a pool and compare it
//! with the model.
//!
//! The property test in `pool_model.rs` uses the model. Each operation is decoded from four
//! bytes, so that any sequence of bytes is a sequence of operations. The invariants in
//! [`World::run`] are checked after each operation and at the end.

#![allow(clippy::expect_used, reason = "a violated invariant panics")]

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use leastconn::{
    AdminState, Balance, Candidates, Lease, PanicPolicy, PickRequest, Pool, PoolBuilder,
    ServerSpec, Source, Tried, Weight,
    health::{ActivePolicy, Availability, Health, PassivePolicy, Ratio, Siblings},
};

/// An operation on a pool. Indices are taken modulo the number of servers or leases.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// A client connects that may use the servers in `allowed`.
    Pick {
        /// One bit per server.
        allowed: u8,
        /// One bit per server that was already tried.
        tried: u8,
    },
    /// A connection ends.
    Drop(u8),
    /// Dialling a server failed, and another server is tried.
    Retry(u8),
    /// A connect to a server failed that began this many seconds ago.
    Failed(u8, u8),
    /// A connect to a server succeeded.
    Succeeded(u8),
    /// A probe of a server ended with success or failure.
    Probed(u8, bool),
    /// The operator sets the state of a server.
    Admin(u8, AdminState),
    /// Time passes, in seconds.
    Wait(u8),
    /// Replaces the members with the servers in the mask. The policies do not change.
    Update {
        /// One bit per server. 0: all servers.
        members: u8,
        /// Determines weights, limits and backups.
        seed: u8,
    },
    /// Replaces the pool with a successor that has the servers in the mask.
    Succeed {
        /// One bit per server. 0: all servers.
        members: u8,
        /// Determines weights, limits and backups.
        seed: u8,
    },
}

impl Op {
    /// Decodes an operation. Every operation has an encoding.
    pub(crate) fn from_bytes([kind, a, b, c]: [u8; 4]) -> Self {
        match kind % 16 {
            // Picks are the most frequent operation, so that servers have connections. Two
            // random masks are combined: on average 7/8 of the servers are allowed, and 1/4
            // were already tried.
            0..=5 => Self::Pick {
                allowed: a | b | c,
                tried: b & c,
            },
            6 | 7 => Self::Drop(a),
            8 => Self::Retry(a),
            9 | 10 => Self::Failed(a, b % 16),
            11 => Self::Succeeded(a),
            12 => Self::Probed(a, b % 2 == 0),
            13 => Self::Admin(
                a,
                [AdminState::Ready, AdminState::Drain, AdminState::Maint][usize::from(b) % 3],
            ),
            14 => Self::Wait(a % 16),
            _ if c % 2 == 0 => Self::Update {
                members: a,
                seed: b,
            },
            _ => Self::Succeed {
                members: a,
                seed: b,
            },
        }
    }
}

/// Maximum number of servers.
const SERVERS: u8 = 6;

/// The expected state of a server.
#[derive(Clone, Debug)]
struct Expected {
    spec: ServerSpec,
    in_flight: u32,
    admin: AdminState,
    health: Health,
    /// Whether the server may be in slow start, because it recovered or was added.
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

    fn has_room(&self) -> bool {
        let max = self.spec.max_conns;
        max.is_none_or(|max| self.in_flight < max.get())
    }

    /// Whether the server may be picked while no server is available. If `down` is set,
    /// servers that are down may be picked too.
    fn is_dialled_while_unavailable(&self, down: bool) -> bool {
        let is_down = self.health.availability() == Availability::Down;
        self.admin == AdminState::Ready && self.has_room() && (down || !is_down)
    }

    /// Whether the server may be picked, regardless of the other servers.
    fn is_available(&self, now: Instant) -> bool {
        let healthy = match self.health.availability() {
            Availability::Up => true,
            Availability::Ejected(until) => now >= until,
            Availability::Down => false,
        };
        self.admin == AdminState::Ready && healthy && self.has_room()
    }

    /// Applies `change` to the health. If the server recovers, it may be in slow start
    /// afterwards.
    fn change_health(&mut self, change: impl FnOnce(&mut Health)) {
        let before = self.health.availability();
        change(&mut self.health);
        let after = self.health.availability();
        self.may_be_slow |= before != Availability::Up && after == Availability::Up;
    }

    /// Returns the load per weight after one more connection. The value is exact, because
    /// weights are powers of two.
    fn weight_of_one_more(&self) -> f64 {
        f64::from(self.in_flight + 1) / f64::from(self.spec.weight.get())
    }
}

/// A pool, its model, and the connections that are open.
#[derive(Debug)]
pub(crate) struct World {
    pool: Pool,
    policies: (Option<ActivePolicy>, PassivePolicy),
    /// Indexed by server number. `None`: the server is not a member.
    expected: Vec<Option<Expected>>,
    leases: Vec<(usize, Lease)>,
    /// Leases of servers that are no longer members, with the server number.
    orphans: Vec<(usize, Lease)>,
    now: Instant,
}

impl World {
    /// A pool of all servers. Its settings are derived from `seed`.
    pub(crate) fn new(seed: u8, now: Instant) -> Self {
        let policies = policies(seed);
        let (active, passive) = policies;
        let specs: Vec<_> = (0..SERVERS).map(|server| spec(server, seed)).collect();
        let pool = Pool::builder("pool")
            .servers(specs.clone())
            .active(active)
            .passive(passive)
            .seed(seed.into());
        let pool = choosing(pool, seed).build();
        Self {
            pool: pool.expect("there is at least one server, and names are unique"),
            policies,
            expected: specs
                .into_iter()
                .map(|spec| Some(Expected::new(spec, policies)))
                .collect(),
            leases: Vec::new(),
            orphans: Vec::new(),
            now,
        }
    }

    /// Runs `ops`, then drops all leases.
    ///
    /// # Panics
    /// If an invariant is violated:
    /// - A server that is draining, in maintenance, full or already tried is not picked.
    /// - A server that is ejected or down is picked only if no other server is eligible and
    ///   the pool does not have `PanicPolicy::Refuse`.
    /// - At most the configured share of servers is ejected.
    /// - A backup is picked only if no other server is eligible.
    /// - With least connections, no other eligible server has a lower load per weight than
    ///   the picked server, except for servers in slow start.
    /// - A server is picked whenever one is eligible.
    /// - A server on trial has one connection at a time.
    /// - The number of connections in flight on each server equals the number of its leases,
    ///   and is 0 at the end.
    pub(crate) fn run(mut self, ops: impl IntoIterator<Item = Op>) {
        for op in ops {
            self.step(op);
            self.check();
        }
        self.leases.clear();
        self.orphans.clear();
        for member in self.pool.members().iter() {
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
                    lease.server().connect_failed(now, now);
                    let siblings = self.siblings(server);
                    if let Some(expected) = &mut self.expected[server] {
                        expected.change_health(|health| health.connect_failed(now, now, siblings));
                    }
                    let mut tried = Tried::default();
                    tried.add(lease);
                    self.ended(server);
                    self.pick_beside(u8::MAX, 1 << server, &tried);
                }
            }
            Op::Failed(server, ago) => self.on_server(server, |server, expected, now, siblings| {
                let ago = Duration::from_secs(ago.into());
                let began = now.checked_sub(ago).unwrap_or(now);
                server.connect_failed(began, now);
                expected.change_health(|health| health.connect_failed(began, now, siblings));
            }),
            Op::Succeeded(server) => self.on_server(server, |server, expected, _, _| {
                server.connect_succeeded();
                expected.change_health(Health::connect_succeeded);
            }),
            Op::Probed(server, success) => self.on_server(server, |server, expected, _, all| {
                server.probed(success);
                expected.change_health(|health| health.probed(success, all));
            }),
            Op::Admin(server, state) => self.on_server(server, |server, expected, _, _| {
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
            Op::Update { members, seed } => self.update(members, seed),
            Op::Succeed { members, seed } => self.succeed(members, seed),
        }
    }

    fn pick(&mut self, allowed: u8, tried: u8) {
        // `Tried` can only be built from leases, so pick each of these servers separately.
        let mut already = Tried::default();
        let mut was_tried = 0;
        for number in servers().filter(|&number| has(tried, number)) {
            let only = self.candidates(1 << number);
            let could = self.could_be_picked(1 << number, 0);
            let lease = self.pool.pick(&only, &Tried::default(), self.now);
            assert_eq!(lease.is_some(), !could.is_empty(), "server {number}");
            if let Some(lease) = lease {
                self.was_picked(number);
                already.add(lease);
                was_tried |= 1 << number;
            }
        }
        self.pick_beside(allowed, was_tried, &already);
    }

    /// Returns the eligible servers according to the documentation of `Pool::pick`.
    fn could_be_picked(&self, allowed: u8, was_tried: u8) -> Vec<usize> {
        let among = |mask: u8, may: &dyn Fn(&Expected) -> bool| -> Vec<usize> {
            let is = |number: &usize| self.expected[*number].as_ref().is_some_and(may);
            servers()
                .filter(|&number| has(mask, number))
                .filter(is)
                .collect()
        };
        let tiers = |may: &dyn Fn(&Expected) -> bool| {
            let left = allowed & !was_tried;
            let first = among(left, &|expected| !expected.spec.backup && may(expected));
            if first.is_empty() {
                among(left, may)
            } else {
                first
            }
        };
        let available = tiers(&|expected| expected.is_available(self.now));
        if !available.is_empty() || self.pool.panic() == PanicPolicy::Refuse {
            return available;
        }
        let ejected = tiers(&|expected| expected.is_dialled_while_unavailable(false));
        let is_not_down = |expected: &Expected| {
            expected.admin == AdminState::Ready
                && expected.health.availability() != Availability::Down
        };
        if ejected.is_empty() && among(allowed, &is_not_down).is_empty() {
            return tiers(&|expected| expected.is_dialled_while_unavailable(true));
        }
        ejected
    }

    /// If the ejection of the picked server has expired, starts its trial.
    fn was_picked(&mut self, number: usize) {
        let now = self.now;
        if let Some(expected) = &mut self.expected[number]
            && expected.is_available(now)
        {
            expected.health.start_trial(now);
        }
    }

    /// Returns the state of the upstream that affects the health of `server`.
    fn siblings(&self, server: usize) -> Siblings {
        let members = || self.expected.iter().enumerate();
        let is = |expected: &Expected, availability: fn(Availability) -> bool| {
            availability(expected.health.availability())
        };
        let ejected = members().filter(|(number, expected)| {
            let others = expected.as_ref().filter(|_| *number != server);
            others.is_some_and(|e| is(e, |of| matches!(of, Availability::Ejected(_))))
        });
        let siblings = Siblings::new(members().filter(|m| m.1.is_some()).count(), ejected.count());
        let mut expected = self.expected.iter().flatten();
        if expected.any(|e| e.admin == AdminState::Ready && is(e, |of| of == Availability::Up)) {
            siblings
        } else {
            siblings.none_available()
        }
    }

    fn pick_beside(&mut self, allowed: u8, was_tried: u8, tried: &Tried) {
        let mut could = self.could_be_picked(allowed, was_tried);
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

        let source = Source::of(&[allowed]);
        let request = PickRequest::new(self.now).tried(tried).source(source);
        let picked = self
            .pool
            .pick_for(&self.candidates(allowed), &request)
            .map(|lease| (number_of(&lease), lease));
        match picked {
            None => assert!(could.is_empty(), "one of {could:?} could be picked"),
            Some((number, lease)) => {
                assert!(could.contains(&number), "picked {number} of {could:?}");
                self.was_picked(number);
                if let Some(expected) = &mut self.expected[number] {
                    expected.in_flight += 1;
                }
                self.leases.push((number, lease));
            }
        }
    }

    fn update(&mut self, members: u8, seed: u8) {
        let specs = specs(members, seed);
        let was_slow = !self.pool.slow_start().is_zero();
        let updated = self.pool.update(specs.clone());
        updated.expect("there is at least one server, and names are unique");
        self.replace_members(specs, was_slow);
    }

    fn succeed(&mut self, members: u8, seed: u8) {
        let specs = specs(members, seed);
        self.policies = policies(seed);
        let (active, passive) = self.policies;
        let was_slow = !self.pool.slow_start().is_zero();
        let next = self
            .pool
            .successor()
            .servers(specs.clone())
            .active(active)
            .passive(passive);
        let next = choosing(next, seed).build();
        self.pool = next.expect("there is at least one server, and names are unique");
        self.replace_members(specs, was_slow);
    }

    fn replace_members(&mut self, specs: Vec<ServerSpec>, was_slow: bool) {
        let policies = self.policies;
        let (active, passive) = policies;
        let mut before = std::mem::replace(&mut self.expected, vec![None; SERVERS.into()]);
        let stays = |spec: &ServerSpec| before[number_from(spec.id.as_str())].is_some();
        let some_stay = specs.iter().any(stays);
        for spec in specs {
            let number = number_from(spec.id.as_str());
            self.expected[number] = Some(match before[number].take() {
                Some(mut known) => {
                    // Enabling slow start does not affect existing servers.
                    known.may_be_slow &= was_slow;
                    known.change_health(|health| health.set_policies(active, passive));
                    Expected { spec, ..known }
                }
                None => {
                    // A server that rejoins keeps the leases that are still held. All other
                    // state is reset.
                    let (back, stay) = std::mem::take(&mut self.orphans)
                        .into_iter()
                        .partition(|&(orphan, _)| orphan == number);
                    self.orphans = stay;
                    let back: Vec<(usize, Lease)> = back;
                    let in_flight = back
                        .len()
                        .try_into()
                        .expect("the number of leases is small");
                    self.leases.extend(back);
                    let mut expected = Expected::new(spec, policies);
                    if some_stay {
                        expected.health.require_probe();
                    }
                    Expected {
                        may_be_slow: true,
                        in_flight,
                        ..expected
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
        for member in self.pool.members().iter() {
            let number = number_from(member.server.id().as_str());
            let expected = self.expected[number].as_ref();
            let expected = expected.expect("each member has an expected state");
            let leases = self.leases.iter().filter(|lease| lease.0 == number).count();
            let status = member.server.status();
            assert_eq!(status.in_flight as usize, leases);
            assert_eq!(status.in_flight, expected.in_flight);
            assert_eq!(status.admin, expected.admin);
            assert_eq!(status.availability, expected.health.availability());
        }
        let is = |may: &dyn Fn(&Expected) -> bool| self.expected.iter().flatten().any(may);
        let up = |expected: &Expected| expected.health.availability() == Availability::Up;
        let ready = |expected: &Expected| expected.admin == AdminState::Ready;
        let panic = !is(&|e| ready(e) && up(e)) && is(&|e| ready(e) && !up(e));
        assert_eq!(self.pool.is_panicking(), panic);
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
        change: impl FnOnce(&leastconn::Server, &mut Expected, Instant, Siblings),
    ) {
        let members = self.pool.members();
        let server = &members[usize::from(which) % members.len()].server;
        let number = number_from(server.id().as_str());
        let siblings = self.siblings(number);
        let expected = self.expected[number].as_mut();
        change(
            server,
            expected.expect("each member has an expected state"),
            self.now,
            siblings,
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
    let active = (seed & 1 == 0).then_some(ActivePolicy::new(two, two));
    let mut passive = PassivePolicy::default();
    passive.max_fails = u32::from(seed >> 1) % 4;
    passive.max_ejected = if seed & 1 << 7 == 0 {
        Ratio::HALF
    } else {
        Ratio::ALL
    };
    (active, passive)
}

/// Derives the algorithm, slow start and panic policy from `seed`. Half of the pools use least
/// connections, half use slow start, and half refuse while no server is available.
fn choosing(pool: PoolBuilder<'_>, seed: u8) -> PoolBuilder<'_> {
    let balance = match seed >> 2 & 7 {
        0 => Balance::P2c,
        1 => Balance::RoundRobin,
        2 => Balance::Random,
        3 => Balance::SourceHash,
        _ => Balance::LeastConn,
    };
    let panic = if seed & 1 << 6 == 0 {
        PanicPolicy::Dial
    } else {
        PanicPolicy::Refuse
    };
    pool.balance(balance)
        .panic(panic)
        .slow_start(Duration::from_secs(u64::from(seed >> 5 & 1) * 7))
}

/// Returns the servers in the mask `members`. Returns all servers if the mask is empty.
fn specs(members: u8, seed: u8) -> Vec<ServerSpec> {
    let is_member =
        |number: &u8| members.is_multiple_of(1 << SERVERS) || has(members, (*number).into());
    let numbers = (0..SERVERS).filter(is_member);
    numbers.map(|number| spec(number, seed)).collect()
}

/// A server whose weight, limit and backup flag are derived from `seed`.
fn spec(number: u8, seed: u8) -> ServerSpec {
    let draw = seed.wrapping_mul(37).wrapping_add(number.wrapping_mul(101));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 8_000 + u16::from(number)));
    ServerSpec::new(number.to_string(), address)
        // Weights are powers of two, so that loads are exact as floating-point numbers.
        .weight(Weight::new(1 << (draw % 3)).unwrap_or_default())
        .max_conns(NonZeroU32::new(u32::from(draw / 3 % 4)))
        .backup((draw / 16).is_multiple_of(3))
}

fn number_of(lease: &Lease) -> usize {
    number_from(lease.server().id().as_str())
}

fn number_from(id: &str) -> usize {
    id.parse().expect("servers are named by their numbers")
}
