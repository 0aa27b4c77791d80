use std::{
    cell::RefCell,
    future::poll_fn,
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
    task::Waker,
};

use super::*;

fn source(n: u8) -> IpNet {
    IpNet::of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), Prefixes::default())
}

impl Turns {
    fn is_unused(&self) -> bool {
        let state = self.lock();
        state.queue.is_unused() && state.idle.is_unused()
    }
}

/// Whether it is ready when it is polled for the first time.
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
fn a_few_wait_for_nothing() {
    let (turns, waiting) = (Arc::new(Turns::new(256, 1)), Gauge::default());
    let enter = || at_once(turns.enter(source(1), &waiting)).unwrap();
    let places: Vec<Place> = (0..FEW).map(|_| enter()).collect();
    for place in &places {
        let _turn = at_once(place.turn()).unwrap();
        // And nobody else's either.
        let _other = at_once(places[0].turn()).unwrap();
    }
    let one_more = enter();
    assert!(at_once(one_more.turn()).is_none());
    drop((places, one_more));
    assert!(turns.is_unused());
}

#[tokio::test]
async fn who_gives_up_waiting_for_a_place_leaves_it_to_others() {
    let (turns, waiting) = (Arc::new(Turns::new(1, 1)), Gauge::default());
    let held = turns.enter(source(1), &waiting).await;
    let mut second = Box::pin(turns.enter(source(2), &waiting));
    let mut third = Box::pin(turns.enter(source(3), &waiting));
    assert!(poll_once(second.as_mut()).await.is_none());
    assert!(poll_once(third.as_mut()).await.is_none());
    assert_eq!(waiting.get(), 2);
    // Before it was told.
    drop(second);
    assert_eq!(waiting.get(), 1);
    let mut fourth = Box::pin(turns.enter(source(4), &waiting));
    assert!(poll_once(fourth.as_mut()).await.is_none());
    drop(held);
    // After it was told, and before it knew.
    drop(third);
    let fourth = fourth.await;
    assert_eq!(waiting.get(), 0);
    drop(fourth);
    assert!(turns.is_unused());
}

#[tokio::test]
async fn who_gives_up_waiting_for_a_turn_leaves_it_to_others() {
    let (turns, waiting) = (Arc::new(Turns::new(256, 1)), Gauge::default());
    let mut places = Vec::new();
    for _ in 0..=FEW {
        places.push(turns.enter(source(1), &waiting).await);
    }
    let held = places[0].turn().await;
    let mut second = Box::pin(places[1].turn());
    let mut third = Box::pin(places[2].turn());
    let mut fourth = Box::pin(places[3].turn());
    for waits in [&mut second, &mut third, &mut fourth] {
        assert!(poll_once(waits.as_mut()).await.is_none());
    }
    assert_eq!(waiting.get(), 3);
    drop(second);
    drop(held);
    drop(third);
    let turn = fourth.await;
    assert_eq!(waiting.get(), 0);
    // While it lets others go first, which is after it was told.
    let mut fifth = Box::pin(places[4].turn());
    assert!(poll_once(fifth.as_mut()).await.is_none());
    drop(turn);
    turns.lock().ahead = Duration::ZERO;
    assert!(poll_once(fifth.as_mut()).await.is_none());
    drop(fifth);
    drop(places[5].turn().await);
    drop(places);
    assert!(turns.is_unused());
}

/// On one thread, as on one core: what is counted is steps, not time.
#[tokio::test]
async fn a_newcomer_s_handshake_is_done_after_a_few_steps_of_a_flood() {
    const FLOOD: usize = 80;
    let local = tokio::task::LocalSet::new();
    let turns = Arc::new(Turns::new(256, 1));
    let order = Rc::new(RefCell::new(Vec::new()));
    let handshake = |of: u8| {
        let (turns, order) = (Arc::clone(&turns), Rc::clone(&order));
        async move {
            let place = turns.enter(source(of), &Gauge::default()).await;
            for _ in 0..2 {
                // The network's part.
                Behind { is: false }.await;
                let _turn = place.turn().await;
                order.borrow_mut().push(of);
            }
        }
    };
    for _ in 0..FLOOD {
        local.spawn_local(handshake(1));
        local.spawn_local(handshake(2));
    }
    // The very last in the runtime's row.
    local.spawn_local(handshake(3));
    local.await;
    let order = order.borrow();
    assert_eq!(order.len(), 2 * (2 * FLOOD + 1));
    let last = order.iter().rposition(|&of| of == 3).unwrap();
    // In each round there is one step of each source.
    assert!(last < 12, "its last step was number {last}");
    assert!(turns.is_unused());
}

/// A runtime that never comes to rest still lets handshakes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn others_that_never_pause_do_not_stop_handshakes() {
    let turns = Arc::new(Turns::new(256, 1));
    let left = Arc::new(AtomicUsize::new(60));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (turns, left) = (Arc::clone(&turns), Arc::clone(&left));
        tasks.spawn(async move {
            let place = turns.enter(source(1), &Gauge::default()).await;
            drop(place.turn().await);
            drop(place.turn().await);
            left.fetch_sub(1, Ordering::AcqRel);
        });
    }
    for _ in 0..3 {
        let left = Arc::clone(&left);
        tasks.spawn(async move {
            while left.load(Ordering::Acquire) > 0 {
                Behind { is: false }.await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert!(turns.is_unused());
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
async fn handshakes_that_wait_for_clients_leave_their_places() {
    const MAX: usize = 4;
    let (turns, waiting) = (Arc::new(Turns::new(MAX, 1)), Gauge::default());
    let mut stalled = tokio::task::JoinSet::new();
    let (answer, answered) = tokio::sync::watch::channel(false);
    for n in 0..20 {
        // Each gets a place at once, whoever has it before.
        let place = at_once(turns.enter(source(n), &waiting)).unwrap();
        let mut answered = answered.clone();
        stalled.spawn(async move {
            let client = async { answered.wait_for(|&answered| answered).await.map(drop) };
            place.wait_for(client).await.unwrap().unwrap();
            // With a place again.
            drop(place.turn().await);
        });
        tokio::task::yield_now().await;
    }
    assert!(turns.lock().idle.parked() >= 20 - MAX);
    answer.send(true).unwrap();
    while let Some(ended) = stalled.join_next().await {
        ended.unwrap();
    }
    assert!(turns.is_unused());
}

#[tokio::test]
async fn too_many_parked_handshakes_end_the_longest_waiting() {
    const MAX: usize = 2;
    let (turns, waiting) = (Arc::new(Turns::new(MAX, 1)), Gauge::default());
    let mut stalled = tokio::task::JoinSet::new();
    let one_more = MAX + PARKED * MAX + 1;
    for n in 0..one_more {
        // One network more than the others have, in a /48 of theirs.
        let from = v6(&format!("2001:db8:{}::1", n.min(10)));
        let place = at_once(turns.enter(from, &waiting)).unwrap();
        stalled.spawn(async move {
            let ended = place.wait_for(std::future::pending::<()>()).await;
            assert_eq!(ended, Err(Evicted));
            n
        });
        tokio::task::yield_now().await;
    }
    // The oldest of the network that has most.
    assert_eq!(stalled.join_next().await.unwrap().unwrap(), 10);
    stalled.shutdown().await;
    assert!(turns.is_unused());
}

#[tokio::test]
async fn parked_handshake_that_is_cancelled_leaves_nothing() {
    let (turns, waiting) = (Arc::new(Turns::new(1, 1)), Gauge::default());
    let place = turns.enter(source(1), &waiting).await;
    let mut wait = Box::pin(place.wait_for(std::future::pending::<()>()));
    assert!(poll_once(wait.as_mut()).await.is_none());
    let other = at_once(turns.enter(source(2), &waiting)).unwrap();
    drop(wait);
    drop(place);
    drop(other);
    assert!(turns.is_unused());
}
