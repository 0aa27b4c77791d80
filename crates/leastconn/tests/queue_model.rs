//! Property test of the queue. Applies random operations to a pool, and checks after each one that
//! no connection waits for a server with a free slot and that no server exceeds its limit.

#![allow(clippy::unwrap_used, reason = "a violated invariant panics")]

use std::{
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use leastconn::{
    AdminState, ClientId, Lease, PanicPolicy, Pool, QueuePolicy, Selector, ServerSpec, SlotGrant,
    Tried, Waiting,
};
use proptest::prelude::*;

const SERVERS: usize = 4;
const QUEUE_SIZE: usize = 6;

#[derive(Clone, Debug)]
enum Op {
    /// A client that may use the servers in the mask connects. It waits if it finds no server.
    Arrive {
        client: u8,
        allowed: u8,
    },
    /// A connection ends.
    End(usize),
    /// A waiting client leaves.
    Leave(usize),
    SetAdmin(usize, AdminState),
    ConnectFailed(usize),
    ConnectSucceeded(usize),
    /// The balancer is granted this many slots of the server. `None`: slots do not limit the
    /// connections.
    Slots(usize, Option<u32>),
    /// Time passes: this many seconds.
    Wait(u8),
    /// Replaces the members. The values are the servers' limits, from 0 (not a member) to 3.
    Update([u8; SERVERS]),
    /// Replaces the pool with a successor that has these limits.
    Succeed([u8; SERVERS]),
}

fn op() -> impl Strategy<Value = Op> {
    let admin = prop_oneof![
        Just(AdminState::Ready),
        Just(AdminState::Drain),
        Just(AdminState::Maint)
    ];
    prop_oneof![
        8 => (0..3u8, any::<u8>()).prop_map(|(client, allowed)| Op::Arrive { client, allowed }),
        6 => any::<usize>().prop_map(Op::End),
        2 => any::<usize>().prop_map(Op::Leave),
        2 => (0..SERVERS, admin).prop_map(|(server, state)| Op::SetAdmin(server, state)),
        1 => (0..SERVERS).prop_map(Op::ConnectFailed),
        1 => (0..SERVERS).prop_map(Op::ConnectSucceeded),
        2 => (0..SERVERS, prop::option::of(0..4u32))
            .prop_map(|(server, slots)| Op::Slots(server, slots)),
        1 => (0..20u8).prop_map(Op::Wait),
        1 => any::<[u8; SERVERS]>().prop_map(Op::Update),
        1 => any::<[u8; SERVERS]>().prop_map(Op::Succeed),
    ]
}

struct World {
    pool: Pool,
    limits: [u32; SERVERS],
    /// The highest count that each server may have. Lowering a limit does not end connections.
    most: [u32; SERVERS],
    /// Selectors, indexed by mask. Clients of one rule share a selector.
    selectors: Vec<Selector>,
    leases: Vec<Lease>,
    waiting: Vec<(u8, Pin<Box<Waiting>>)>,
    now: Instant,
}

fn name(server: usize) -> String {
    format!("s{server}")
}

fn limits_of(seeds: [u8; SERVERS]) -> [u32; SERVERS] {
    let mut limits = seeds.map(|seed| u32::from(seed % 4));
    if limits == [0; SERVERS] {
        limits[0] = 1;
    }
    limits
}

fn specs(limits: [u32; SERVERS]) -> Vec<ServerSpec> {
    let spec = |(server, limit): (usize, u32)| {
        let max = NonZeroU32::new(limit)?;
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
        Some(ServerSpec::new(name(server), address).max_conns(Some(max)))
    };
    limits.into_iter().enumerate().filter_map(spec).collect()
}

impl World {
    fn new(panic: PanicPolicy, now: Instant) -> Self {
        let limits = [1, 2, 1, 3];
        let pool = Pool::builder("web")
            .servers(specs(limits))
            .panic(panic)
            .queue(QueuePolicy::new(QUEUE_SIZE, Duration::from_secs(5)))
            .seed(1);
        let selectors = (0..1u8 << SERVERS).map(|mask| {
            let allowed = (0..SERVERS).filter(|server| mask >> server & 1 == 1);
            Selector::named(allowed.map(name))
        });
        Self {
            pool: pool.build().unwrap(),
            limits,
            most: limits,
            selectors: selectors.collect(),
            leases: Vec::new(),
            waiting: Vec::new(),
            now,
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Arrive { client, allowed } => self.arrive(client, allowed % (1 << SERVERS)),
            Op::End(which) => {
                if let Some(which) = which.checked_rem(self.leases.len()) {
                    drop(self.leases.swap_remove(which));
                }
            }
            Op::Leave(which) => {
                if let Some(which) = which.checked_rem(self.waiting.len()) {
                    drop(self.waiting.swap_remove(which));
                }
            }
            Op::SetAdmin(server, state) => {
                if let Some(server) = self.pool.server(&name(server)) {
                    server.set_admin(state);
                }
            }
            Op::ConnectFailed(server) => {
                if let Some(server) = self.pool.server(&name(server)) {
                    server.connect_failed(self.now, self.now);
                }
            }
            Op::ConnectSucceeded(server) => {
                if let Some(server) = self.pool.server(&name(server)) {
                    server.connect_succeeded();
                }
            }
            Op::Slots(server, slots) => {
                if let Some(server) = self.pool.server(&name(server)) {
                    server.set_slots(slots.map(SlotGrant::new), self.now);
                }
            }
            Op::Wait(seconds) => {
                self.now += Duration::from_secs(seconds.into());
                self.pool.serve_queue(self.now);
            }
            Op::Update(seeds) => {
                self.set_limits(limits_of(seeds));
                self.pool.update(specs(self.limits)).unwrap();
            }
            Op::Succeed(seeds) => {
                self.set_limits(limits_of(seeds));
                let successor = self.pool.successor().servers(specs(self.limits));
                self.pool = successor.build().unwrap();
            }
        }
        self.take_served();
        self.check();
    }

    fn set_limits(&mut self, limits: [u32; SERVERS]) {
        self.limits = limits;
        for (most, limit) in self.most.iter_mut().zip(limits) {
            *most = (*most).max(limit);
        }
    }

    fn arrive(&mut self, client: u8, allowed: u8) {
        let selector = &self.selectors[usize::from(allowed)];
        let candidates = self.pool.candidates(selector);
        if let Some(lease) = self.pool.pick(&candidates, &Tried::default(), self.now) {
            self.leases.push(lease);
            return;
        }
        let client = ClientId::from(client.to_string());
        let waiting = self.pool.enqueue(selector, Some(&client), None, self.now);
        if let Ok(waiting) = waiting {
            self.waiting.push((allowed, Box::pin(waiting)));
        }
    }

    /// Polls all waiting connections.
    fn take_served(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let leases = &mut self.leases;
        self.waiting.retain_mut(
            |(allowed, waiting)| match waiting.as_mut().poll(&mut context) {
                Poll::Pending => true,
                Poll::Ready(Ok(lease)) => {
                    let id = lease.server().id().as_str();
                    let server: usize = id[1..].parse().unwrap();
                    assert_eq!(*allowed >> server & 1, 1, "{id} is not allowed");
                    leases.push(lease);
                    false
                }
                Poll::Ready(Err(_)) => false,
            },
        );
    }

    fn check(&self) {
        assert_eq!(self.pool.queue_status(self.now).waiting, self.waiting.len());
        assert!(self.waiting.len() <= QUEUE_SIZE);
        for member in self.pool.members().iter() {
            let id = member.server.id().as_str();
            let server: usize = id[1..].parse().unwrap();
            let status = member.server.status();
            assert!(status.in_flight <= self.most[server], "{id}");
            let slots = member.server.slots(self.now);
            let has_room = status.in_flight < self.limits[server].min(slots.unwrap_or(u32::MAX));
            if has_room && status.admin == AdminState::Ready && status.is_up() {
                let sleeping = self.waiting.iter().find(|one| one.0 >> server & 1 == 1);
                assert!(sleeping.is_none(), "a connection waits for {id}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_connection_waits_for_a_free_server(
        ops in prop::collection::vec(op(), 0..120),
        dials in any::<bool>(),
    ) {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant cannot be constructed otherwise; only differences are used"
        )]
        let now = Instant::now();
        let panic = if dials { PanicPolicy::Dial } else { PanicPolicy::Refuse };
        let mut world = World::new(panic, now);
        for op in ops {
            world.step(op);
        }
        let World { pool, leases, waiting, .. } = world;
        let servers: Vec<_> = leases.iter().map(|lease| lease.server().id().clone()).collect();
        drop(waiting);
        drop(leases);
        prop_assert_eq!(pool.queue_status(now).waiting, 0);
        for member in pool.members().iter() {
            prop_assert_eq!(member.server.in_flight(), 0, "{:?}", servers);
        }
        prop_assert!(pool.departed().is_empty());
    }
}
