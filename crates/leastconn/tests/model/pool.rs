//! A sequential model of a pool. Tests apply sequences of operations to a pool and compare it with
//! the model.
//!
//! The property test in `pool_model.rs` uses this model. Each operation is decoded from four bytes,
//! so any sequence of bytes is a valid sequence of operations. The invariants in [`World::run`] are
//! checked after each operation and at the end.

#![allow(clippy::expect_used, reason = "a violated invariant panics")]

#[path = "external.rs"]
mod external;
#[path = "op.rs"]
mod op;
#[path = "settings.rs"]
mod settings;

use std::time::{Duration, Instant, SystemTime};

use external::External;
use leastconn::{
    AdminState, Balance, Candidates, Failure, Lease, PanicPolicy, PickRequest, Pool, ServerSpec,
    SlotGrant, Source, Tried,
    health::{ActivePolicy, Availability, Health, PassivePolicy, Siblings},
};
pub(crate) use op::Op;
use settings::{choosing, policies, spec, specs};

/// Maximum number of servers.
const SERVERS: u8 = 6;

/// The expected state of a server.
#[derive(Clone, Debug)]
struct Expected {
    spec: ServerSpec,
    in_flight: u32,
    /// Number of connections in flight that a pool with a dial limit is still dialling.
    connecting: u32,
    /// Whether any connect has succeeded.
    has_connected: bool,
    external: External,
    /// Times of failures.
    failures: Vec<Instant>,
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
            connecting: 0,
            has_connected: false,
            external: External::default(),
            failures: Vec::new(),
            admin: AdminState::Ready,
            health: Health::new(policies.0, policies.1),
        }
    }

    fn has_room(&self) -> bool {
        let max = self.spec.max_conns;
        max.is_none_or(|max| self.in_flight < max.get())
            && self
                .external
                .slots
                .is_none_or(|slots| self.in_flight < slots)
    }

    /// Whether the server may be picked while no server is available. If `down` is set, it may be
    /// picked even if it is down.
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

    /// Applies `change` to the health. If the server recovers, it may be in slow start afterwards.
    fn change_health(&mut self, change: impl FnOnce(&mut Health)) {
        let before = self.health.availability();
        change(&mut self.health);
        let after = self.health.availability();
        self.may_be_slow |= before != Availability::Up && after == Availability::Up;
    }

    /// Returns the load per weight that the server would have with one more connection. The value
    /// is exact, because weights are powers of two. Time passes only in whole seconds, so a failure
    /// counts until the next time that time passes.
    fn weight_of_one_more(&self, now: Instant) -> f64 {
        let failures = self.failures.iter().filter(|&&failure| failure == now);
        (f64::from(self.in_flight + 1 + self.external.connections()) + failures.count() as f64)
            / f64::from(self.spec.weight.get())
    }
}

/// A lease, the number of its server, and whether its connection counts as a dial.
#[derive(Debug)]
struct Held {
    server: usize,
    lease: Lease,
    is_dial: bool,
}

/// A pool, its model, and the open connections.
#[derive(Debug)]
pub(crate) struct World {
    pool: Pool,
    policies: (Option<ActivePolicy>, PassivePolicy),
    /// Indexed by server number. `None`: the server is not a member.
    expected: Vec<Option<Expected>>,
    leases: Vec<Held>,
    /// Leases on servers that are no longer members.
    orphans: Vec<Held>,
    /// The last [`External`] of each server.
    externals: [External; SERVERS as usize],
    now: Instant,
}

impl World {
    /// Creates a pool of all servers. Its settings are derived from `seed`.
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
            externals: [External::default(); SERVERS as usize],
            now,
        }
    }

    /// Runs `ops`, then drops all leases.
    ///
    /// # Panics
    /// If an invariant is violated:
    /// - A server is not picked if it is draining, in maintenance, full, without a free slot or
    ///   already tried.
    /// - A server that is ejected or down is picked only if no other server is eligible and
    ///   the pool does not have `PanicPolicy::Refuse`.
    /// - At most the configured share of servers is ejected.
    /// - A backup is picked only if no other server is eligible.
    /// - A server at the dial limit is picked only if all eligible servers are at the limit.
    /// - With least connections, no other eligible server has a lower load per weight than the
    ///   picked server, except for servers in slow start.
    /// - A server is picked whenever one is eligible.
    /// - A server on trial has only one connection at a time.
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
                drop(self.take_lease(which));
            }
            Op::Retry(which) => {
                if let Some((server, lease)) = self.take_lease(which) {
                    let now = self.now;
                    lease.server().connect_failed(now, now);
                    let siblings = self.siblings(server);
                    if let Some(expected) = &mut self.expected[server] {
                        expected.failures.push(now);
                        expected.change_health(|health| health.connect_failed(now, now, siblings));
                    }
                    let mut tried = Tried::default();
                    tried.add(lease);
                    self.pick_beside(u8::MAX, 1 << server, &tried);
                }
            }
            Op::Failed(server, ago) => self.on_server(server, |server, expected, now, siblings| {
                let began = earlier(now, ago);
                server.connect_failed(began, now);
                expected.failures.push(now);
                expected.change_health(|health| health.connect_failed(began, now, siblings));
            }),
            Op::Succeeded(server) => self.on_server(server, |server, expected, _, _| {
                server.connect_succeeded();
                expected.has_connected = true;
                expected.change_health(Health::connect_succeeded);
            }),
            Op::Connected(which) => {
                if let Some(which) = usize::from(which).checked_rem(self.leases.len()) {
                    let held = &mut self.leases[which];
                    held.lease.connected();
                    if let Some(expected) = &mut self.expected[held.server] {
                        expected.connecting -= u32::from(held.is_dial);
                    }
                    held.is_dial = false;
                }
            }
            Op::FailedEarly(server, ago) => {
                self.on_server(server, |server, expected, now, siblings| {
                    let established = earlier(now, ago);
                    let failure = Failure::new(SystemTime::UNIX_EPOCH, &"closed");
                    server.failed_early(established, now, failure);
                    expected.failures.push(now);
                    expected.change_health(|health| {
                        health.failed_early(established, now, siblings);
                    });
                });
            }
            Op::Served(server, ago) => self.on_server(server, |server, expected, now, _| {
                server.served(earlier(now, ago));
                expected.change_health(|health| health.served(earlier(now, ago)));
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
            Op::ExternalLoad(server, connections, echo) => {
                self.on_server(server, |server, expected, _, _| {
                    server.set_external_load(connections.into(), f64::from(echo) / 4.0);
                    expected.external.load = 256 * u32::from(connections);
                    expected.external.echo = 64 * u32::from(echo).min(32);
                });
            }
            Op::Slots(server, slots) => self.on_server(server, |server, expected, now, _| {
                let slots = slots.checked_sub(1).map(u32::from);
                let open = server.set_slots(slots.map(SlotGrant::new), now);
                assert_eq!(open, expected.in_flight);
                expected.external.slots = slots;
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

    /// Returns the servers that are eligible according to the documentation of `Pool::pick`.
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
        let mut available = tiers(&|expected| expected.is_available(self.now));
        if let Some(max) = self.pool.max_connecting() {
            let is_below = |number: &usize| {
                let expected = self.expected[*number].as_ref();
                expected.is_some_and(|expected| expected.connecting < max.get())
            };
            if available.iter().any(is_below) {
                available.retain(is_below);
            }
        }
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

    /// Adds the echo. If the picked server's ejection has expired, its trial starts.
    fn was_picked(&mut self, number: usize) {
        let now = self.now;
        if let Some(expected) = &mut self.expected[number] {
            expected.external.load += expected.external.echo;
        }
        if let Some(expected) = &mut self.expected[number]
            && expected.is_available(now)
        {
            expected.health.start_trial(now);
        }
    }

    /// Returns the part of the upstream's state that affects the health of `server`.
    fn siblings(&self, server: usize) -> Siblings {
        let members = || self.expected.iter().enumerate();
        let is = |expected: &Expected, availability: fn(Availability) -> bool| {
            availability(expected.health.availability())
        };
        let ejected = members().filter(|(number, expected)| {
            let others = expected.as_ref().filter(|_| *number != server);
            others.is_some_and(|e| is(e, |of| matches!(of, Availability::Ejected(_))))
        });
        let serves = |expected: &Expected| {
            let health = &expected.health;
            expected.admin == AdminState::Ready
                && expected.has_connected
                && health.availability() == Availability::Up
                && !health.is_troubled()
        };
        let mut others = members().filter(|(number, _)| *number != server);
        let another_serves = others.any(|(_, other)| other.as_ref().is_some_and(serves));
        let servers = members().filter(|m| m.1.is_some()).count();
        let mut siblings = Siblings::new(servers, ejected.count());
        siblings.another_serves = another_serves;
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
                let weight = |expected: &Expected| expected.weight_of_one_more(self.now);
                expected(number).map_or(f64::INFINITY, weight)
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
                let is_dial = self.pool.max_connecting().is_some();
                if let Some(expected) = &mut self.expected[number] {
                    expected.in_flight += 1;
                    expected.connecting += u32::from(is_dial);
                }
                self.leases.push(Held {
                    server: number,
                    lease,
                    is_dial,
                });
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
        for (number, server) in before.iter().enumerate() {
            if let Some(server) = server {
                self.externals[number] = server.external;
            }
        }
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
                    // A server that rejoins keeps the leases that are still held. All of its other
                    // state is reset.
                    let (back, stay) = std::mem::take(&mut self.orphans)
                        .into_iter()
                        .partition(|orphan| orphan.server == number);
                    self.orphans = stay;
                    let back: Vec<Held> = back;
                    let count =
                        |count: usize| count.try_into().expect("the number of leases is small");
                    let in_flight = count(back.len());
                    let connecting = count(back.iter().filter(|held| held.is_dial).count());
                    let has_connected = back
                        .first()
                        .is_some_and(|held| held.lease.server().status().connections > 0);
                    let external = match back.is_empty() {
                        true => External::default(),
                        false => self.externals[number],
                    };
                    self.leases.extend(back);
                    let mut expected = Expected::new(spec, policies);
                    if some_stay {
                        expected.health.require_probe();
                    }
                    Expected {
                        may_be_slow: true,
                        in_flight,
                        connecting,
                        has_connected,
                        external,
                        ..expected
                    }
                }
            });
        }
        for gone in servers().filter(|&number| before[number].is_some()) {
            let (left, stay) = std::mem::take(&mut self.leases)
                .into_iter()
                .partition(|held| held.server == gone);
            self.leases = stay;
            let left: Vec<Held> = left;
            self.orphans.extend(left);
        }
    }

    fn check(&self) {
        for member in self.pool.members().iter() {
            let number = number_from(member.server.id().as_str());
            let expected = self.expected[number].as_ref();
            let expected = expected.expect("each member has an expected state");
            let leases = self.leases.iter().filter(|held| held.server == number);
            let leases = leases.count();
            let status = member.server.status();
            assert_eq!(status.in_flight as usize, leases);
            assert_eq!(status.in_flight, expected.in_flight);
            assert_eq!(status.connecting, expected.connecting);
            let external_load = member.server.external_load();
            assert_eq!(external_load, expected.external.connections());
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

    /// Removes a lease from the model. The caller must drop it.
    fn take_lease(&mut self, which: u8) -> Option<(usize, Lease)> {
        let which = usize::from(which).checked_rem(self.leases.len())?;
        let Held {
            server,
            lease,
            is_dial,
        } = self.leases.swap_remove(which);
        if let Some(expected) = &mut self.expected[server] {
            expected.in_flight -= 1;
            expected.connecting -= u32::from(is_dial);
        }
        Some((server, lease))
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

fn earlier(now: Instant, seconds: u8) -> Instant {
    let ago = Duration::from_secs(seconds.into());
    now.checked_sub(ago).unwrap_or(now)
}

fn servers() -> impl Iterator<Item = usize> {
    0..usize::from(SERVERS)
}

const fn has(mask: u8, number: usize) -> bool {
    mask >> number & 1 == 1
}

fn number_of(lease: &Lease) -> usize {
    number_from(lease.server().id().as_str())
}

fn number_from(id: &str) -> usize {
    id.parse().expect("servers are named by their numbers")
}
