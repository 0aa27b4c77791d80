//! Connections that wait in the pool's queue.

use std::{num::NonZeroU32, sync::Arc};

use tokio::task::{JoinHandle, JoinSet};

use super::*;
use crate::{ClientId, QueuePolicy};

/// A pool of servers with one slot each.
fn pool_of(addresses: &[SocketAddr], size: usize, timeout: Duration) -> Arc<Pool> {
    let servers = addresses
        .iter()
        .enumerate()
        .map(|(number, &address)| ServerSpec::new(format!("web{number}"), address))
        .map(|server| server.max_conns(NonZeroU32::new(1)));
    let pool = Pool::builder("web")
        .servers(servers)
        .queue(QueuePolicy::new(size, timeout))
        .seed(1)
        .build();
    Arc::new(pool.unwrap())
}

struct Waiter {
    task: JoinHandle<Result<Connected, ConnectError>>,
    attempts: Arc<Attempts>,
}

fn spawn(pool: &Arc<Pool>, client: &str) -> Waiter {
    let attempts = Arc::new(Attempts::default());
    let (pool, client) = (Arc::clone(pool), ClientId::from(client));
    let counted = Arc::clone(&attempts);
    let task = tokio::spawn(async move {
        Connect::new(&pool, &Selector::all(), &POLICY)
            .client(&client)
            .attempts(&counted)
            .run()
            .await
    });
    Waiter { task, attempts }
}

async fn until_waiting(pool: &Pool, count: usize) {
    let reached = async {
        while pool.queue_status(now()).waiting != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(DEADLINE, "waiting connections", reached).await;
}

#[tokio::test]
async fn connection_waits_for_a_free_slot() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let pool = pool_of(&[upstream.addr()], 10, Duration::from_secs(5));
    let first = connect_all(&pool, &POLICY).await.unwrap();
    let waiter = spawn(&pool, "x");
    until_waiting(&pool, 1).await;
    assert_eq!(server(&pool, 0).in_flight(), 1);
    drop(first);
    let connected = within(DEADLINE, "the slot", waiter.task).await;
    let connected = connected.unwrap().unwrap();
    assert_eq!(connected.attempts, 1);
    assert!(waiter.attempts.queued().is_some());
    drop(connected);
    assert_eq!(server(&pool, 0).in_flight(), 0);
    let direct = Attempts::default();
    let selector = Selector::all();
    let connect = Connect::new(&pool, &selector, &POLICY).attempts(&direct);
    connect.run().await.unwrap();
    assert_eq!(direct.queued(), None);
}

#[tokio::test]
async fn all_connections_are_served_within_max_conns() {
    let mut upstreams = Vec::new();
    for _ in 0..3 {
        upstreams.push(Upstream::start(Behaviour::Echo).await);
    }
    let addresses: Vec<_> = upstreams.iter().map(Upstream::addr).collect();
    let pool = pool_of(&addresses, 100, Duration::from_secs(5));
    let mut clients = JoinSet::new();
    for number in 0..60 {
        let pool = Arc::clone(&pool);
        clients.spawn(async move {
            let client = ClientId::from((number % 7).to_string());
            let selector = Selector::all();
            let connect = Connect::new(&pool, &selector, &POLICY).client(&client);
            let connected = connect.run().await.unwrap();
            assert!(connected.lease.server().in_flight() <= 1);
            tokio::time::sleep(Duration::from_millis(2)).await;
        });
    }
    within(DEADLINE, "all clients", clients.join_all()).await;
    assert_eq!(pool.queue_status(now()).waiting, 0);
    assert!((0..3).all(|number| server(&pool, number).in_flight() == 0));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_timeout() {
    let timeout = Duration::from_secs(5);
    let pool = pool_of(&[SocketAddr::from(([127, 0, 0, 1], 9))], 1, timeout);
    let _held = pool.pick(&pool.all(), &Tried::default(), now()).unwrap();
    let start = now();
    let waiter = spawn(&pool, "x");
    until_waiting(&pool, 1).await;
    // The queue is full.
    let error = connect_all(&pool, &POLICY).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Overloaded);
    assert_eq!(error.attempts(), 0);
    let error = waiter.task.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Reason::QueueTimeout);
    assert!(now() - start >= timeout);
    assert!(waiter.attempts.queued().unwrap() >= timeout);
    assert_eq!(pool.queue_status(now()).waiting, 0);
}

#[tokio::test]
async fn cancelled_wait_leaves_the_queue() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let pool = pool_of(&[upstream.addr()], 10, Duration::from_secs(5));
    let first = connect_all(&pool, &POLICY).await.unwrap();
    let (gone, next) = (spawn(&pool, "x"), spawn(&pool, "y"));
    until_waiting(&pool, 2).await;
    gone.task.abort();
    until_waiting(&pool, 1).await;
    assert!(gone.attempts.queued().is_some(), "the wait was measured");
    drop(first);
    within(DEADLINE, "the slot", next.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn trial_of_an_ejected_server_serves_the_queue() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let pool = pool_of(
        &[upstream.addr(), upstream.addr()],
        10,
        Duration::from_secs(60),
    );
    server(&pool, 1).connect_failed(now(), now());
    let start = now();
    let _first = connect_all(&pool, &POLICY).await.unwrap();
    let selector = Selector::all();
    let connecting = connect(&pool, &selector, &POLICY);
    let connected = within(Duration::from_secs(30), "the trial", connecting).await;
    let connected = connected.unwrap();
    assert_eq!(connected.lease.server().id().as_str(), "web1");
    assert!(now() - start >= PassivePolicy::default().fail_timeout);
}
