use std::{
    num::NonZeroU32,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake},
};

use super::*;
use crate::{
    AdminState, Lease, Pool, PoolBuilder, QueuePolicy, ServerSpec, SlotGrant, Tried,
    health::{PassivePolicy, Ratio},
    spec::PanicPolicy,
};

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise"
)]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(seconds: u64) -> Instant {
    *START + Duration::from_secs(seconds)
}

fn spec(name: &str, max_conns: u32) -> ServerSpec {
    ServerSpec::new(name, std::net::SocketAddr::from(([127, 0, 0, 1], 80)))
        .max_conns(NonZeroU32::new(max_conns))
}

fn builder(servers: impl IntoIterator<Item = ServerSpec>, size: usize) -> PoolBuilder<'static> {
    let passive = PassivePolicy {
        max_ejected: Ratio::ALL,
        ..PassivePolicy::default()
    };
    Pool::builder("pool")
        .servers(servers)
        .passive(passive)
        .queue(QueuePolicy::new(size, Duration::from_secs(5)))
        .seed(1)
}

fn pool(servers: impl IntoIterator<Item = ServerSpec>, size: usize) -> Pool {
    builder(servers, size).build().unwrap()
}

fn pick(pool: &Pool, now: Instant) -> Option<Lease> {
    pool.pick(&pool.all(), &Tried::default(), now)
}

/// Picks servers until no slot is free.
fn fill(pool: &Pool) -> Vec<Lease> {
    std::iter::from_fn(|| pick(pool, at(0))).collect()
}

#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A waiting connection with a waker that counts wake-ups.
struct Task {
    waiting: std::pin::Pin<Box<Waiting>>,
    wakes: Arc<Wakes>,
}

impl Task {
    fn wait(pool: &Pool, selector: &Selector, client: &str) -> Result<Self, EnqueueError> {
        let client = ClientId::from(client);
        let waiting = pool.enqueue(selector, Some(&client), None, at(0))?;
        let mut task = Self {
            waiting: Box::pin(waiting),
            wakes: Arc::default(),
        };
        task.poll_pending();
        Ok(task)
    }

    fn all(pool: &Pool, client: &str) -> Self {
        Self::wait(pool, &Selector::all(), client).unwrap()
    }

    fn poll(&mut self) -> Poll<Result<Lease, Displaced>> {
        let waker = Arc::clone(&self.wakes).into();
        self.waiting.as_mut().poll(&mut Context::from_waker(&waker))
    }

    fn poll_pending(&mut self) {
        assert!(self.poll().is_pending());
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }

    fn lease(mut self) -> Lease {
        match self.poll() {
            Poll::Ready(Ok(lease)) => lease,
            other => panic!("not served: {other:?}"),
        }
    }
}

fn name(lease: &Lease) -> &str {
    lease.server().id().as_str()
}

#[test]
fn freed_slot_goes_to_exactly_one_waiter() {
    let pool = pool([spec("a", 1)], 10);
    let held = pick(&pool, at(0)).unwrap();
    let mut tasks = [Task::all(&pool, "x"), Task::all(&pool, "x")];
    let status = pool.queue_status(at(3));
    assert_eq!(status.waiting, 2);
    assert_eq!(status.longest_wait, Some(Duration::from_secs(3)));

    drop(held);
    assert_eq!((tasks[0].wakes(), tasks[1].wakes()), (1, 0));
    tasks[1].poll_pending();
    assert_eq!(pool.server("a").unwrap().in_flight(), 1);
    let [first, second] = tasks;
    drop(first.lease());
    drop(second.lease());
    assert_eq!(pool.server("a").unwrap().in_flight(), 0);
    assert_eq!(pool.queue_status(at(3)), QueueStatus::default());
    assert!(pick(&pool, at(0)).is_some(), "the reservation has ended");
}

#[test]
fn slots_are_handed_over_while_the_task_sleeps() {
    let pool = pool([spec("a", 1)], 10);
    let held = pick(&pool, at(0)).unwrap();
    let (first, second) = (Task::all(&pool, "x"), Task::all(&pool, "y"));
    drop(held);
    // The first task's client leaves before the task has taken its lease.
    drop(first);
    assert_eq!(second.wakes(), 1);
    assert_eq!(name(&second.lease()), "a");
}

#[test]
fn new_connections_do_not_overtake() {
    let pool = pool([spec("a", 1), spec("b", 1)], 10);
    let only_a = Selector::named(["a"]);
    let held = fill(&pool);
    let waiting = Task::wait(&pool, &only_a, "x").unwrap();
    // A slot becomes free on `b`, for which no connection is waiting.
    let (a, b): (Vec<_>, Vec<_>) = held.into_iter().partition(|lease| name(lease) == "a");
    drop(b);
    let lease = pick(&pool, at(0)).unwrap();
    assert_eq!(name(&lease), "b");
    drop(a);
    assert!(pick(&pool, at(0)).is_none(), "the slot was handed over");
    assert_eq!(name(&waiting.lease()), "a");
}

#[test]
fn waiter_for_another_server_does_not_block() {
    let pool = pool([spec("a", 1), spec("b", 1)], 10);
    let held = fill(&pool);
    let (only_a, only_b) = (Selector::named(["a"]), Selector::named(["b"]));
    let mut first = Task::wait(&pool, &only_a, "x").unwrap();
    let second = Task::wait(&pool, &only_b, "x").unwrap();
    let (_a, b): (Vec<_>, Vec<_>) = held.into_iter().partition(|lease| name(lease) == "a");
    drop(b);
    first.poll_pending();
    assert_eq!(name(&second.lease()), "b");
}

#[test]
fn clients_share_slots_in_turn() {
    let pool = pool([spec("a", 1)], 10);
    let mut held = pick(&pool, at(0)).unwrap();
    let clients = ["x", "x", "x", "y", "y"];
    let mut tasks: Vec<_> = clients
        .iter()
        .map(|client| Some((*client, Task::all(&pool, client))))
        .collect();
    let mut served = Vec::new();
    for _ in &clients {
        drop(held);
        let next = tasks
            .iter_mut()
            .find(|task| task.as_ref().is_some_and(|task| task.1.wakes() > 0))
            .unwrap();
        let (client, task) = next.take().unwrap();
        served.push(client);
        held = task.lease();
    }
    assert_eq!(served, ["x", "y", "x", "y", "x"]);
}

#[test]
fn full_queue_displaces_the_longest_line() {
    let pool = pool([spec("a", 1)], 3);
    let _held = pick(&pool, at(0)).unwrap();
    let mut greedy: Vec<_> = (0..3).map(|_| Task::all(&pool, "greedy")).collect();
    let all = Selector::all();
    let refused = Task::wait(&pool, &all, "greedy").map(drop);
    assert_eq!(refused, Err(EnqueueError::Full));
    let mut other = Task::all(&pool, "other");
    let mut newest = greedy.pop().unwrap();
    assert_eq!(newest.wakes(), 1);
    assert!(matches!(newest.poll(), Poll::Ready(Err(Displaced))));
    other.poll_pending();
    let refused = Task::wait(&pool, &all, "other").map(drop);
    assert_eq!(refused, Err(EnqueueError::Full));
    assert_eq!(pool.queue_status(at(0)).waiting, 3);
}

#[test]
fn connections_wait_only_for_servers_that_may_serve_them() {
    let pool = pool([spec("a", 1)], 10);
    let enqueue = |pool: &Pool| {
        let waiting = pool.enqueue(&Selector::all(), None, None, at(0));
        waiting.map(drop)
    };
    let _held = pick(&pool, at(0)).unwrap();
    assert_eq!(enqueue(&pool), Ok(()));
    pool.server("a").unwrap().set_admin(AdminState::Drain);
    assert_eq!(enqueue(&pool), Err(EnqueueError::NoServerAvailable));
    let without_queue = pool.successor().queue(QueuePolicy::default());
    let without_queue = without_queue.build().unwrap();
    without_queue
        .server("a")
        .unwrap()
        .set_admin(AdminState::Ready);
    assert_eq!(
        enqueue(&without_queue),
        Err(EnqueueError::NoServerAvailable)
    );
}

#[test]
fn operator_and_health_events_serve_the_queue() {
    let pool = pool([spec("a", 1), spec("b", 1), spec("c", 1)], 10);
    let server = |name| pool.server(name).unwrap();
    server("b").set_admin(AdminState::Maint);
    server("c").connect_failed(at(0), at(0));
    let _held = fill(&pool);
    let (first, second) = (Task::all(&pool, "x"), Task::all(&pool, "x"));
    server("b").set_admin(AdminState::Ready);
    let first = first.lease();
    assert_eq!((name(&first), second.wakes()), ("b", 0));
    server("c").connect_succeeded();
    assert_eq!(name(&second.lease()), "c");
}

#[test]
fn members_and_limits_serve_the_queue() {
    let pool = pool([spec("a", 1)], 10);
    let _held = pick(&pool, at(0)).unwrap();
    let tasks = [
        Task::all(&pool, "x"),
        Task::all(&pool, "x"),
        Task::all(&pool, "x"),
    ];
    let other = Task::wait(&pool, &Selector::named(["b", "a"]), "y").unwrap();
    pool.update([spec("a", 2)]).unwrap();
    let [first, second, third] = tasks;
    let first = first.lease();
    assert_eq!(name(&first), "a");
    // A successor takes over the queue.
    let successor = pool.successor().servers([spec("a", 2), spec("b", 2)]);
    let successor = successor.build().unwrap();
    let other = other.lease();
    let second = second.lease();
    assert_eq!((name(&other), name(&second)), ("b", "b"));
    assert_eq!(successor.queue_status(at(0)).waiting, 1);
    drop(first);
    assert_eq!(name(&third.lease()), "a");
}

#[test]
fn trial_serves_the_queue_once_it_is_due() {
    let pool = builder([spec("a", 1), spec("b", 1)], 10)
        .panic(PanicPolicy::Refuse)
        .build()
        .unwrap();
    pool.server("b").unwrap().connect_failed(at(0), at(0));
    let _held = fill(&pool);
    let mut task = Task::all(&pool, "x");
    let trial = pool.next_trial(&Selector::all());
    assert_eq!(trial, Some(at(10)));
    pool.serve_queue(at(9));
    task.poll_pending();
    assert!(pick(&pool, at(10)).is_none(), "the trial is reserved");
    pool.serve_queue(at(10));
    assert_eq!(name(&task.lease()), "b");
}

#[test]
fn connections_wait_instead_of_dialling_an_ejected_server() {
    let pool = pool([spec("a", 1), spec("b", 0)], 10);
    pool.server("b").unwrap().connect_failed(at(0), at(0));
    let held = pick(&pool, at(0)).unwrap();
    assert!(pick(&pool, at(0)).is_none());
    let task = Task::all(&pool, "x");
    drop(held);
    assert_eq!(name(&task.lease()), "a");
    // No server is available, so the ejected server is the last resort, even while other
    // connections wait.
    let held = pick(&pool, at(0)).unwrap();
    let task = Task::all(&pool, "x");
    pool.server("a").unwrap().connect_failed(at(0), at(0));
    assert!(pool.is_panicking());
    assert_eq!(name(&task.lease()), "b");
    drop(held);
}

#[test]
fn server_without_waiters_is_picked_again() {
    let pool = pool([spec("a", 1), spec("b", 1)], 10);
    let (only_a, only_b) = (Selector::named(["a"]), Selector::named(["b"]));
    let (_a, b): (Vec<_>, Vec<_>) = fill(&pool)
        .into_iter()
        .partition(|lease| name(lease) == "a");
    let first = Task::wait(&pool, &only_a, "x").unwrap();
    let second = Task::wait(&pool, &only_b, "x").unwrap();
    let server = pool.server("b").unwrap();
    server.set_admin(AdminState::Drain);
    drop(b);
    drop(second);
    server.set_admin(AdminState::Ready);
    assert_eq!(pick(&pool, at(0)).as_ref().map(name), Some("b"));
    drop(first);
}

/// The end of a lease carries no time.
#[test]
fn expired_slots_are_not_used_after_a_lease() {
    fn after_pause() -> Instant {
        at(10)
    }
    let pool = builder([spec("a", 2)], 10)
        .clock(after_pause)
        .build()
        .unwrap();
    let a = pool.server("a").unwrap();
    let grant = SlotGrant::new(1).expiring(at(5), 0);
    a.set_slots(Some(grant), at(0));
    let held = pick(&pool, at(0)).unwrap();
    let mut task = Task::all(&pool, "x");
    drop(held);
    task.poll_pending();
    a.set_slots(Some(SlotGrant::new(1)), at(10));
    assert_eq!(name(&task.lease()), "a");
}
