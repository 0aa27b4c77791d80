use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use leastconn::{
    Lease, PanicPolicy, PickRequest, Pool, QueuePolicy, Selector, Server, ServerSpec, UpstreamId,
    Waiting, net::now,
};
use leastconn_fleet::{
    FleetSettings, MemberId, SlotReport, View,
    memory::{Faults, InMemory, MemoryServer},
    secret::Secret,
};
use proptest::prelude::*;

use super::*;

const GONE_AFTER: Duration = Duration::from_secs(3);
const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Pools(Mutex<Vec<Pool>>);

impl Upstreams for Pools {
    fn each_pool(&self, visit: &mut dyn FnMut(&Pool)) {
        self.0.lock().iter().for_each(visit);
    }

    fn departed(&self) -> Vec<(UpstreamId, Arc<Server>)> {
        let pools = self.0.lock();
        let departed = pools.iter().flat_map(|pool| {
            let departed = pool.departed().into_iter();
            departed.map(|server| (pool.id().clone(), server))
        });
        departed.collect()
    }
}

fn spec(name: &str, max_conns: u32) -> ServerSpec {
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    ServerSpec::new(name, address).max_conns(NonZeroU32::new(max_conns))
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// A balancer with one upstream.
struct Member {
    id: MemberId,
    pools: Arc<Pools>,
    shared: SharedServers,
    store: InMemory,
    leases: Vec<Lease>,
    /// When the last successful report was sent.
    last_sent: Instant,
    has_joined: bool,
}

impl Member {
    fn new(id: u64, server: &MemoryServer, servers: &[ServerSpec], now: Instant) -> Self {
        let pool = Pool::builder("web")
            .servers(servers.iter().cloned())
            .panic(PanicPolicy::Refuse)
            .queue(QueuePolicy::new(100, Duration::from_secs(10)))
            .seed(id)
            .build();
        let pools = Arc::new(Pools(Mutex::new(vec![pool.unwrap()])));
        let settings = ServerSettings {
            size: number(3),
            gone_after: GONE_AFTER,
            ask_timeout: 20 * MILLISECOND,
            shares_counts: true,
        };
        let fleet = FleetSettings::new("edge", Secret::new(b"secret of the fleet"));
        let upstreams: Arc<dyn Upstreams> = Arc::<Pools>::clone(&pools);
        let shared = SharedServers::new(settings, upstreams, Arc::default());
        shared.cut_off_at(settings.size, now);
        Self {
            id: MemberId::new("lb", id),
            pools,
            shared,
            store: server.connect(&fleet),
            leases: Vec::new(),
            last_sent: now,
            has_joined: false,
        }
    }

    fn report(&self, now: Instant) -> Report {
        let mut report = Report::new(self.id.clone(), MemberStatus::Serving);
        self.shared.report(&mut report, now);
        report
    }

    fn apply(&self, report: &Report, view: &View, now: Instant) {
        self.shared.apply(&Exchange {
            report,
            view,
            sent: now,
            received: now,
            members: number(u32::try_from(view.members.len()).unwrap() + 1),
        });
    }

    /// Returns whether the exchange succeeded.
    fn exchange(&mut self, now: Instant) -> bool {
        let report = self.report(now);
        let view = self.store.exchange_now(&report);
        if let Ok(view) = &view {
            self.apply(&report, view, now);
            self.last_sent = now;
            self.has_joined = true;
        }
        view.is_ok()
    }

    fn with_pool<T>(&self, run: impl FnOnce(&Pool) -> T) -> T {
        run(&self.pools.0.lock()[0])
    }

    fn server(&self, name: &str) -> Arc<Server> {
        self.with_pool(|pool| pool.server(name)).unwrap()
    }

    fn open(&mut self, now: Instant) -> bool {
        let lease = self.with_pool(|pool| pool.pick_for(&pool.all(), &PickRequest::new(now)));
        let is_open = lease.is_some();
        self.leases.extend(lease);
        is_open
    }

    fn in_flight(&self) -> u32 {
        let count = |pool: &Pool| {
            let members = pool.members();
            members.iter().map(|m| m.server.in_flight()).sum::<u32>()
        };
        self.with_pool(count)
    }
}

struct World {
    server: MemoryServer,
    servers: Vec<ServerSpec>,
    now: Instant,
    members: Vec<Member>,
    created: u64,
}

impl World {
    fn new(faults: Faults, servers: &[ServerSpec], members: u64) -> Self {
        let server = MemoryServer::with_faults(faults);
        let start = now();
        let member = |number| Member::new(number, &server, servers, start);
        Self {
            members: (0..members).map(member).collect(),
            servers: servers.to_vec(),
            server,
            now: start,
            created: members,
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.server.advance(time);
    }

    /// Lets each member exchange numbers every 10 ms.
    fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.advance(10 * MILLISECOND);
            for member in &mut self.members {
                member.exchange(self.now);
            }
        }
    }

    /// Waits until the store gives out all slots.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.advance(90 * MILLISECOND);
            self.run(1);
        }
    }

    fn in_flight(&self) -> u32 {
        self.members.iter().map(Member::in_flight).sum()
    }

    fn crash(&mut self, number: usize) {
        self.created += 1;
        self.members[number] = Member::new(self.created, &self.server, &self.servers, self.now);
    }
}

#[test]
fn connections_of_others_are_external_load() {
    let mut world = World::new(Faults::default(), &[spec("a", 0), spec("b", 0)], 3);
    world.run(2);
    for _ in 0..5 {
        world.members[0].open(world.now);
    }
    world.run(2);
    let external = |name: &str| world.members[1].server(name).external_connections();
    let own = |name: &str| world.members[0].server(name).in_flight();
    assert_eq!([external("a"), external("b")], [own("a"), own("b")]);
    assert_eq!(world.members[0].server("a").external_connections(), 0);
    // The third and the fourth connection of the fleet go to the least loaded server.
    let light = if own("a") < own("b") { "a" } else { "b" };
    world.members[1].open(world.now);
    assert_eq!(world.members[1].server(light).in_flight(), 1);
    world.members[1].shared.forget_others();
    assert_eq!(world.members[1].server("a").external_connections(), 0);
}

#[test]
fn counts_are_reported_again_only_when_they_change() {
    let mut world = World::new(Faults::default(), &[spec("a", 0)], 1);
    let member = &mut world.members[0];
    let version = |member: &Member, now| member.report(now).counts.version;
    let first = version(member, world.now);
    assert_eq!(version(member, world.now + MILLISECOND), first);
    member.open(world.now);
    assert_eq!(version(member, world.now + 2 * MILLISECOND), first + 1);
}

#[test]
fn busy_member_gets_unused_slots_until_others_need_them() {
    let mut world = World::new(Faults::default(), &[spec("a", 20)], 3);
    world.settle();
    for _ in 0..100 {
        world.members[0].open(world.now);
        world.run(1);
    }
    assert!(
        (19..=20).contains(&world.in_flight()),
        "{}",
        world.in_flight()
    );
    for _ in 0..200 {
        for number in 0..3 {
            while world.members[number].open(world.now) {}
        }
        world.run(1);
        world.members[0].leases.pop();
    }
    for number in 0..3 {
        while world.members[number].open(world.now) {}
    }
    assert!(
        (18..=20).contains(&world.in_flight()),
        "{}",
        world.in_flight()
    );
    let least = world.members.iter().map(Member::in_flight).min();
    assert!(least >= Some(5), "{least:?}");
}

/// A client that connects again as soon as its connection has ended.
enum Client {
    Closed,
    Waiting(Pin<Box<Waiting>>),
    Open { until: Instant, _lease: Lease },
}

impl Client {
    fn advance(&mut self, member: &Member, now: Instant, hold: Duration) {
        if matches!(self, Self::Open { until, .. } if now >= *until) {
            *self = Self::Closed;
        }
        let lease = match self {
            Self::Open { .. } => return,
            Self::Closed => member.with_pool(|pool| {
                let lease = pool.pick_for(&pool.all(), &PickRequest::new(now));
                lease.ok_or_else(|| pool.enqueue(&Selector::all(), None, None, now).unwrap())
            }),
            Self::Waiting(waiting) => {
                let context = &mut Context::from_waker(Waker::noop());
                match waiting.as_mut().poll(context) {
                    Poll::Ready(lease) => Ok(lease.unwrap()),
                    Poll::Pending => return,
                }
            }
        };
        *self = match lease {
            Ok(lease) => Self::Open {
                until: now + hold,
                _lease: lease,
            },
            Err(waiting) => Self::Waiting(Box::pin(waiting)),
        };
    }
}

/// Clients of all members need more slots than there are.
#[test]
fn server_in_demand_uses_almost_all_slots() {
    let mut world = World::new(Faults::default(), &[spec("a", 20)], 3);
    world.settle();
    let mut clients: Vec<_> = (0..48).map(|_| Client::Closed).collect();
    let mut last_exchanges = [world.now; 3];
    let (mut sum, mut samples) = (0, 0);
    for millis in 0..11_000 {
        world.advance(MILLISECOND);
        for (number, client) in clients.iter_mut().enumerate() {
            // Not all at the same time.
            let hold = Duration::from_millis(280 + number as u64);
            client.advance(&world.members[number % 3], world.now, hold);
        }
        for (member, last) in world.members.iter_mut().zip(&mut last_exchanges) {
            let wake = Arc::clone(&member.shared.wake);
            let spacing = wake.spacing().unwrap_or(Duration::from_millis(100));
            if world.now >= *last + spacing {
                wake.take();
                *last = world.now;
                member.exchange(world.now);
            }
        }
        assert!(world.in_flight() <= 20, "{}", world.in_flight());
        if millis >= 1_000 {
            sum += world.in_flight();
            samples += 1;
        }
    }
    let mean = f64::from(sum) / f64::from(samples);
    assert!(mean >= 19.0, "{mean}");
}

#[test]
fn only_slot_moves_to_the_member_in_need() {
    let mut world = World::new(Faults::default(), &[spec("a", 1)], 3);
    world.settle();
    for number in [0, 1, 2, 1] {
        let mut rounds = 0;
        while !world.members[number].open(world.now) {
            world.run(1);
            rounds += 1;
            assert!(rounds < 10, "member {number}");
        }
        assert_eq!(world.in_flight(), 1);
        world.members[number].leases.clear();
    }
}

/// It always has at least an equal share.
#[test]
fn cut_off_member_keeps_slots_until_they_expire() {
    let mut world = World::new(Faults::default(), &[spec("a", 20)], 3);
    world.settle();
    for _ in 0..20 {
        world.members[0].open(world.now);
        world.run(2);
    }
    let held = world.members[0].server("a").slots(world.now).unwrap();
    assert!(held > 15, "{held}");
    world.members[0].leases.truncate(1);
    world.server.set_reachable(false);
    let cut_off = world.now + Duration::from_secs(1);
    for member in &world.members {
        member.shared.cut_off_at(number(3), cut_off);
    }
    let slots = |number: usize, now| world.members[number].server("a").slots(now).unwrap();
    assert_eq!(slots(0, cut_off), held);
    assert_eq!(slots(1, cut_off), 6);
    assert_eq!(slots(0, world.now + GONE_AFTER), 6);
    assert_eq!(slots(1, world.now + GONE_AFTER), 6);
}

#[test]
fn leaving_the_fleet_removes_all_limits() {
    let mut world = World::new(Faults::default(), &[spec("a", 20)], 2);
    world.members[1].open(world.now);
    world.settle();
    let member = &world.members[0];
    assert!(member.server("a").slots(world.now).is_some());
    member.shared.leave();
    let a = member.server("a");
    assert_eq!((a.slots(world.now), a.external_connections()), (None, 0));
}

#[test]
fn report_after_leaving_limits_nothing() {
    let mut world = World::new(Faults::default(), &[spec("a", 20)], 2);
    world.settle();
    let member = &world.members[0];
    member.shared.leave();
    assert!(member.report(world.now).slots.is_empty());
    assert_eq!(member.server("a").slots(world.now), None);
}

/// Lets member 0 hold most of the slots of `a`, then changes its servers, and checks that member 1
/// gets all slots.
fn others_get_slots_after(servers: &[ServerSpec]) {
    let mut world = World::new(Faults::default(), &[spec("a", 20), spec("b", 1)], 2);
    world.settle();
    let (first, others) = world.members.split_at_mut(1);
    let pick_a = |member: &Member, now| {
        let candidates = member.with_pool(|pool| pool.subset(|server| server.id().as_str() == "a"));
        member.with_pool(|pool| pool.pick_for(&candidates, &PickRequest::new(now)))
    };
    for _ in 0..100 {
        world.now += 10 * MILLISECOND;
        world.server.advance(10 * MILLISECOND);
        first[0].leases.extend(pick_a(&first[0], world.now));
        first[0].exchange(world.now);
        others[0].exchange(world.now);
    }
    assert!(first[0].in_flight() >= 18, "{}", first[0].in_flight());
    first[0].with_pool(|pool| pool.update(servers.iter().cloned()).unwrap());
    first[0].leases.clear();
    for _ in 0..100 {
        world.now += 10 * MILLISECOND;
        world.server.advance(10 * MILLISECOND);
        others[0].leases.extend(pick_a(&others[0], world.now));
        first[0].exchange(world.now);
        others[0].exchange(world.now);
    }
    assert_eq!(others[0].in_flight(), 20);
    let report = first[0].report(world.now);
    assert_eq!(
        report.slots.len(),
        1,
        "returned slots are not reported again"
    );
}

#[test]
fn slots_of_a_removed_server_are_returned() {
    others_get_slots_after(&[spec("b", 1)]);
}

#[test]
fn slots_of_a_server_without_max_conns_are_returned() {
    others_get_slots_after(&[spec("a", 0), spec("b", 1)]);
}

/// The answer that confirms the return of its slots may not have arrived yet.
#[test]
fn server_that_comes_back_waits_for_its_slots() {
    let mut world = World::new(Faults::default(), &[spec("a", 4), spec("b", 1)], 2);
    world.settle();
    let (a, b) = (spec("a", 4), spec("b", 1));
    world.members[0].with_pool(|pool| pool.update([b.clone()]).unwrap());
    let lost = world.members[0].report(world.now);
    let of_a = |slots: &&SlotReport| slots.server == ServerKey::new("web", "a");
    let returned = lost.slots.iter().find(of_a).map(|slots| slots.want);
    assert_eq!(returned, Some(0));
    world.members[0].with_pool(|pool| pool.update([a, b]).unwrap());
    drop(world.members[0].report(world.now));
    assert_eq!(world.members[0].server("a").slots(world.now), Some(0));
    // While the store does not answer, the equal share applies.
    world.members[0].shared.cut_off_at(number(2), world.now);
    drop(world.members[0].report(world.now));
    assert_eq!(world.members[0].server("a").slots(world.now), Some(2));
}

/// A server that was moved to another address has its old connections too.
#[test]
fn servers_of_one_name_share_slots() {
    let mut world = World::new(Faults::default(), &[spec("a", 4)], 1);
    world.settle();
    while world.members[0].open(world.now) {
        world.run(1);
    }
    assert_eq!(world.in_flight(), 4);
    let moved = ServerSpec::new("a", SocketAddr::from(([127, 0, 0, 2], 80)));
    let moved = moved.max_conns(NonZeroU32::new(4));
    world.members[0].with_pool(|pool| pool.update([moved]).unwrap());
    world.run(1);
    assert!(!world.members[0].open(world.now));
    world.members[0].leases.truncate(3);
    world.run(1);
    assert!(world.members[0].open(world.now));
    assert!(!world.members[0].open(world.now));
}

#[test]
fn last_slot_and_failed_picks_request_an_exchange() {
    let mut world = World::new(Faults::default(), &[spec("a", 6)], 3);
    world.settle();
    let member = &mut world.members[0];
    member.shared.wake.take();
    while member.open(world.now) {}
    assert_eq!(member.shared.wake.spacing(), Some(2 * MILLISECOND));
}

#[derive(Clone, Debug)]
enum Op {
    Open(usize),
    Close(usize),
    Exchange(usize),
    Crash(usize),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..3_usize).prop_map(Op::Open),
        4 => (0..3_usize).prop_map(Op::Close),
        8 => (0..3_usize).prop_map(Op::Exchange),
        1 => (0..3_usize).prop_map(Op::Crash),
        3 => (0..300_u64).prop_map(Op::Wait),
    ]
}

fn faults() -> impl Strategy<Value = Faults> {
    let probability = || prop_oneof![Just(0.0), 0.0..0.5];
    let probabilities = [probability(), probability(), probability(), probability()];
    (any::<u64>(), probabilities).prop_map(|(seed, [lost, answer_lost, duplicated, delayed])| {
        Faults {
            seed,
            lost,
            answer_lost,
            duplicated,
            delayed,
            max_delay: Duration::from_secs(1),
            ..Faults::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A member that is silent for two seconds crashes: of connections of a member that cannot
    /// reach the store, the other members know nothing after `gone_after`.
    #[test]
    fn connections_of_all_members_never_exceed_max_conns(
        faults in faults(),
        max in 1..12_u32,
        ops in prop::collection::vec(op(), 0..200),
    ) {
        let mut world = World::new(faults, &[spec("a", max.max(3))], 3);
        world.settle();
        for op in ops {
            match op {
                // A process accepts connections when the store has answered.
                Op::Open(number) if !world.members[number].has_joined => {}
                Op::Open(number) => {
                    world.members[number].open(world.now);
                }
                Op::Close(number) => drop(world.members[number].leases.pop()),
                Op::Exchange(number) => {
                    world.members[number].exchange(world.now);
                }
                Op::Crash(number) => world.crash(number),
                Op::Wait(millis) => world.advance(Duration::from_millis(millis)),
            }
            for number in 0..world.members.len() {
                if world.now > world.members[number].last_sent + Duration::from_secs(2) {
                    world.crash(number);
                }
            }
            prop_assert!(world.in_flight() <= max.max(3), "{} of {max}", world.in_flight());
        }
        // After the faults have ended, all slots can be used.
        world.server.stop_faults();
        world.settle();
        for _ in 0..50 {
            world.members[0].open(world.now);
            world.run(1);
        }
        prop_assert_eq!(world.in_flight(), max.max(3));
    }
}
