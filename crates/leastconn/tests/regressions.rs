//! Regression tests for bugs in the old program that this project replaced.
//!
//! The old program also accepted any common name in a certificate. The server crate has a test for
//! that bug.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "support/rig.rs"]
mod rig;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use leastconn::{
    Candidates, Limiter, Limits, Pool, RateLimit, Reason, Selector, ServerSpec, Tried,
    UnknownServer,
    health::ActivePolicy,
    net::{Check, ConnectPolicy, Probe, connect, now},
};
use leastconn_testkit::{
    Behaviour, DEADLINE, Upstream,
    client::{read_line, read_to_close, roundtrip},
    eventually,
    upstream::OpenConnections,
    within,
};
use rig::{Rig, builder, raise_descriptor_limit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The old program counted a connection only after dialling, so simultaneous connections all chose
/// the same idle server.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_are_counted_before_dialling() {
    raise_descriptor_limit();
    let mut upstreams = Vec::new();
    for _ in 0..4 {
        upstreams.push(Upstream::start(Behaviour::Stuck).await);
    }
    let servers = upstreams
        .iter()
        .enumerate()
        .map(|(number, upstream)| ServerSpec::new(format!("web{number}"), upstream.addr()));
    let pool = Pool::builder("web")
        .servers(servers)
        .seed(7)
        .build()
        .unwrap();
    let pool = std::sync::Arc::new(pool);
    let mut dialling = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let pool = std::sync::Arc::clone(&pool);
        dialling.spawn(async move {
            let policy = ConnectPolicy::default();
            connect(&pool, &Selector::all(), &policy).await.unwrap()
        });
    }
    let connected = within(DEADLINE, "200 connections", dialling.join_all()).await;
    for member in pool.members().iter() {
        assert_eq!(member.server.in_flight(), 50);
    }
    drop(connected);

    // A connection counts as soon as a server is picked, before the server is dialled.
    let all: Candidates = pool.all();
    let leases: Vec<_> = (0..4)
        .map(|_| pool.pick(&all, &Tried::default(), now()).unwrap())
        .collect();
    for member in pool.members().iter() {
        assert_eq!(member.server.in_flight(), 1);
    }
    drop(leases);
}

/// When connecting failed, the old program closed the client's connection before trying the next
/// server.
#[tokio::test]
async fn client_stays_connected_during_retries() {
    let (dead, well) = (
        Upstream::start(Behaviour::Echo).await,
        Upstream::start(Behaviour::Echo).await,
    );
    dead.stop(OpenConnections::Close).await;
    let mut retried = 0;
    for seed in 0..16 {
        let mut rig = Rig::start(builder([&dead, &well]).seed(seed)).await;
        let mut client = rig.connect().await;
        assert_eq!(roundtrip(&mut client, b"ping").await.unwrap(), b"ping");
        client.shutdown().await.unwrap();
        let transfer = rig.outcome().await.unwrap();
        assert_eq!(transfer.server.as_str(), "web1");
        assert_eq!((transfer.received, transfer.sent), (4, 4));
        assert_eq!(rig.in_flight(), [0, 0]);
        retried += transfer.attempts - 1;
    }
    assert!(retried > 0, "the dead server was never tried first");
}

/// The old program closed both connections as soon as one side had finished sending. A client that
/// half-closed its connection after sending the request therefore lost the response.
#[tokio::test]
async fn half_close_does_not_close_both_sides() {
    let upstream = Upstream::start(Behaviour::DelayedResponse {
        delay: Duration::from_millis(100),
        bytes: 1 << 20,
    })
    .await;
    let mut rig = Rig::start(builder([&upstream])).await;
    let mut client = rig.connect().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let answer = read_to_close(&mut client).await.unwrap();
    assert!(answer == leastconn_testkit::data::pattern(0, 1 << 20));
    assert_eq!(rig.outcome().await.unwrap().reason, Reason::Ok);
}

/// The old program set a read deadline of two seconds on each server connection, and closed the
/// connection when it expired.
#[tokio::test]
async fn server_may_be_silent_for_over_two_seconds() {
    let upstream = Upstream::named("web0").await;
    let mut rig = Rig::start(builder([&upstream])).await;
    let mut client = rig.connect().await;
    assert_eq!(read_line(&mut client).await.unwrap(), "web0");
    let silence = tokio::time::timeout(Duration::from_millis(2500), client.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(roundtrip(&mut client, b"ping").await.unwrap(), b"ping");
    client.shutdown().await.unwrap();
    assert_eq!(rig.outcome().await.unwrap().reason, Reason::Ok);
}

/// The old program did not run its first health check until one interval after the start.
#[tokio::test]
async fn first_health_check_is_immediate() {
    let (dead, well) = (
        Upstream::start(Behaviour::Echo).await,
        Upstream::start(Behaviour::Echo).await,
    );
    dead.stop(OpenConnections::Close).await;
    let mut check = Check::new(Probe::Tcp {
        send: None,
        expect: None,
    });
    check.interval = Duration::from_secs(10);
    let policy = ActivePolicy::new(NonZeroU32::new(2).unwrap(), NonZeroU32::new(3).unwrap());
    let started = now();
    let balancer = builder([&dead, &well])
        .health_check(check, policy)
        .build()
        .unwrap();
    eventually(Duration::from_secs(5), || async {
        let up: Vec<_> = balancer
            .pool()
            .members()
            .iter()
            .map(|m| m.server.status().is_up())
            .collect();
        (up == [false, true]).then_some(()).ok_or(format!("{up:?}"))
    })
    .await
    .unwrap();
    well.wait_accepted(1).await;
    assert!(now() - started < Duration::from_secs(5));
}

/// The old program dereferenced a null pointer if a rule allowed a client to use an upstream that
/// did not exist.
#[tokio::test]
async fn unknown_server_name_is_an_error() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let balancer = builder([&upstream]).build().unwrap();
    let error = balancer.select(["web0", "webapp9"]).unwrap_err();
    assert_eq!(error, UnknownServer("webapp9".to_owned()));
    assert_eq!(error.to_string(), "there is no server named `webapp9`");
}

/// The old program never freed the token buckets of idle clients.
#[test]
fn idle_clients_release_their_buckets() {
    let start: Instant = now();
    let limiter = Limiter::new(1_000_000, start);
    let limits = Limits::default().rate(RateLimit::new(20.0, NonZeroU32::new(20).unwrap()));
    for client in 0..10_000 {
        let client = format!("client{client}").into();
        drop(limiter.admit(&client, &limits, start).unwrap());
    }
    assert_eq!(limiter.len(), 10_000);
    // After 50 ms, the buckets are full again.
    limiter.forget_idle(start + Duration::from_secs(1));
    assert!(limiter.is_empty());
}
