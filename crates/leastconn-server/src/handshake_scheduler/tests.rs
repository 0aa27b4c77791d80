use std::{
    cell::RefCell,
    future::poll_fn,
    net::{IpAddr, Ipv4Addr},
    pin::{Pin, pin},
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use leastconn_tls::permit::Evicted;

use super::{tokio_order::requeue, *};

fn source(n: u8) -> IpNet {
    IpNet::of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), Prefixes::default())
}

impl HandshakeScheduler {
    fn is_unused(&self) -> bool {
        let state = self.lock();
        state.queue.is_unused() && state.client_waits.is_unused()
    }
}

/// Returns the output of the future if it is ready at the first poll.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn few_handshakes_do_not_wait() {
    let (scheduler, waiting) = (Arc::new(HandshakeScheduler::new(256, 1)), Gauge::default());
    let enter = || at_once(scheduler.acquire(source(1), &waiting)).unwrap();
    let permits: Vec<HandshakePermit> = (0..UNSCHEDULED).map(|_| enter()).collect();
    for permit in &permits {
        let _slice = at_once(permit.time_slice()).unwrap();
        // A second handshake gets a time slice immediately, although `permit` still holds a slice.
        let _other = at_once(permits[0].time_slice()).unwrap();
    }
    let one_more = enter();
    assert!(at_once(one_more.time_slice()).is_none());
    drop((permits, one_more));
    assert!(scheduler.is_unused());
}

#[tokio::test]
async fn cancelled_permit_wait_passes_the_permit_on() {
    let (scheduler, waiting) = (Arc::new(HandshakeScheduler::new(1, 1)), Gauge::default());
    let held = scheduler.acquire(source(1), &waiting).await;
    let mut second = Box::pin(scheduler.acquire(source(2), &waiting));
    let mut third = Box::pin(scheduler.acquire(source(3), &waiting));
    assert!(poll_once(second.as_mut()).await.is_none());
    assert!(poll_once(third.as_mut()).await.is_none());
    assert_eq!(waiting.get(), 2);
    // Cancel before the permit is granted.
    drop(second);
    assert_eq!(waiting.get(), 1);
    let mut fourth = Box::pin(scheduler.acquire(source(4), &waiting));
    assert!(poll_once(fourth.as_mut()).await.is_none());
    drop(held);
    // Cancel after the permit is granted, before the task has noticed.
    drop(third);
    let fourth = fourth.await;
    assert_eq!(waiting.get(), 0);
    drop(fourth);
    assert!(scheduler.is_unused());
}

#[tokio::test]
async fn cancelled_slice_wait_passes_the_slice_on() {
    let (scheduler, waiting) = (Arc::new(HandshakeScheduler::new(256, 1)), Gauge::default());
    let mut permits = Vec::new();
    for _ in 0..=UNSCHEDULED {
        permits.push(scheduler.acquire(source(1), &waiting).await);
    }
    let held = permits[0].time_slice().await;
    let mut second = Box::pin(permits[1].time_slice());
    let mut third = Box::pin(permits[2].time_slice());
    let mut fourth = Box::pin(permits[3].time_slice());
    for waits in [&mut second, &mut third, &mut fourth] {
        assert!(poll_once(waits.as_mut()).await.is_none());
    }
    assert_eq!(waiting.get(), 3);
    drop(second);
    drop(held);
    drop(third);
    let slice = fourth.await;
    assert_eq!(waiting.get(), 0);
    // Cancel while the granted slice lets other tasks run first.
    let mut fifth = Box::pin(permits[4].time_slice());
    assert!(poll_once(fifth.as_mut()).await.is_none());
    drop(slice);
    scheduler.lock().credit = Duration::ZERO;
    assert!(poll_once(fifth.as_mut()).await.is_none());
    drop(fifth);
    drop(permits[5].time_slice().await);
    drop(permits);
    assert!(scheduler.is_unused());
}

/// This test runs on one thread, so that the order of steps is the same in each run.
#[tokio::test]
async fn new_source_is_not_delayed_by_a_flood() {
    const FLOOD: usize = 80;
    let local = tokio::task::LocalSet::new();
    let scheduler = Arc::new(HandshakeScheduler::new(256, 1));
    let order = Rc::new(RefCell::new(Vec::new()));
    let handshake = |id: u8| {
        let (scheduler, order) = (Arc::clone(&scheduler), Rc::clone(&order));
        async move {
            let permit = scheduler.acquire(source(id), &Gauge::default()).await;
            for _ in 0..2 {
                // Simulates waiting for the network.
                requeue().await;
                let _slice = permit.time_slice().await;
                order.borrow_mut().push(id);
            }
        }
    };
    for _ in 0..FLOOD {
        local.spawn_local(handshake(1));
        local.spawn_local(handshake(2));
    }
    // Source 3 is spawned last, so the runtime polls its handshake last.
    local.spawn_local(handshake(3));
    local.await;
    let order = order.borrow();
    assert_eq!(order.len(), 2 * (2 * FLOOD + 1));
    let last = order.iter().rposition(|&id| id == 3).unwrap();
    // In each round, every source takes one step, so source 3 is done after a few rounds.
    assert!(last < 12, "the last step of source 3 was number {last}");
    assert!(scheduler.is_unused());
}

/// Handshakes also run on a runtime that always has ready tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn busy_tasks_do_not_stop_handshakes() {
    let scheduler = Arc::new(HandshakeScheduler::new(256, 1));
    let left = Arc::new(AtomicUsize::new(60));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (scheduler, left) = (Arc::clone(&scheduler), Arc::clone(&left));
        tasks.spawn(async move {
            let permit = scheduler.acquire(source(1), &Gauge::default()).await;
            drop(permit.time_slice().await);
            drop(permit.time_slice().await);
            left.fetch_sub(1, Ordering::AcqRel);
        });
    }
    for _ in 0..3 {
        let left = Arc::clone(&left);
        tasks.spawn(async move {
            while left.load(Ordering::Acquire) > 0 {
                requeue().await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert!(scheduler.is_unused());
}

fn v6(text: &str) -> IpNet {
    IpNet::of(text.parse().unwrap(), Prefixes::default())
}

#[test]
fn networks_of_one_ipv6_site_are_one_group() {
    assert_eq!(v6("2001:db8:1:2::3").group(), v6("2001:db8:1:4::5").group());
    assert_ne!(v6("2001:db8:1:2::3").group(), v6("2001:db8:2:2::3").group());
    let site = IpNet::parse("2001:db8::/32").unwrap();
    assert_eq!(site.group(), site);
    assert_ne!(source(1).group(), source(2).group());
}

#[tokio::test]
async fn handshakes_waiting_for_clients_release_permits() {
    const MAX: usize = 4;
    let (scheduler, waiting) = (Arc::new(HandshakeScheduler::new(MAX, 1)), Gauge::default());
    let mut stalled = tokio::task::JoinSet::new();
    let (answer, answered) = tokio::sync::watch::channel(false);
    for n in 0..20 {
        // Each handshake gets a permit immediately, although others are in progress.
        let permit = at_once(scheduler.acquire(source(n), &waiting)).unwrap();
        let mut answered = answered.clone();
        stalled.spawn(async move {
            let client = async { answered.wait_for(|&answered| answered).await.map(drop) };
            permit.wait_for(client).await.unwrap().unwrap();
            // The handshake has a permit again.
            drop(permit.time_slice().await);
        });
        tokio::task::yield_now().await;
    }
    assert!(scheduler.lock().client_waits.parked() >= 20 - MAX);
    answer.send(true).unwrap();
    while let Some(ended) = stalled.join_next().await {
        ended.unwrap();
    }
    assert!(scheduler.is_unused());
}

#[tokio::test]
async fn too_many_parked_handshakes_evict_the_oldest() {
    const MAX: usize = 2;
    let (scheduler, waiting) = (Arc::new(HandshakeScheduler::new(MAX, 1)), Gauge::default());
    let mut stalled = tokio::task::JoinSet::new();
    let one_more = MAX + PARKED * MAX + 1;
    for n in 0..one_more {
        // From number 10 on, all sources are in the same /48, which has the most parked handshakes.
        let from = v6(&format!("2001:db8:{}::1", n.min(10)));
        let permit = at_once(scheduler.acquire(from, &waiting)).unwrap();
        stalled.spawn(async move {
            let ended = permit.wait_for(std::future::pending::<()>()).await;
            assert_eq!(ended, Err(Evicted));
            n
        });
        tokio::task::yield_now().await;
    }
    // The oldest handshake of the /48 with the most parked handshakes is evicted.
    assert_eq!(stalled.join_next().await.unwrap().unwrap(), 10);
    stalled.shutdown().await;
    assert!(scheduler.is_unused());
}

#[tokio::test]
async fn cancelled_parked_handshake_leaves_nothing_behind() {
    let (scheduler, waiting) = (Arc::new(HandshakeScheduler::new(1, 1)), Gauge::default());
    let permit = scheduler.acquire(source(1), &waiting).await;
    let mut wait = Box::pin(permit.wait_for(std::future::pending::<()>()));
    assert!(poll_once(wait.as_mut()).await.is_none());
    let other = at_once(scheduler.acquire(source(2), &waiting)).unwrap();
    drop(wait);
    drop(permit);
    drop(other);
    assert!(scheduler.is_unused());
}
