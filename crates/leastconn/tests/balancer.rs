//! Tests of the whole balancer: admission limits, allowed servers, and distribution.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "support/rig.rs"]
mod rig;

use std::num::NonZeroU32;

use leastconn::{BalanceError, ClientId, Limits, RateLimit, Reason, Refusal, Selector};
use leastconn_testkit::{
    Behaviour, Upstream,
    client::{read_line, read_to_close, roundtrip},
};
use rig::{Rig, builder, raise_descriptor_limit};
use tokio::io::AsyncWriteExt;

fn count(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

#[tokio::test]
async fn concurrent_connections_spread_evenly() {
    raise_descriptor_limit();
    let mut upstreams = Vec::new();
    for number in 0..4 {
        upstreams.push(Upstream::named(&format!("web{number}")).await);
    }
    let mut rig = Rig::start(builder(&upstreams)).await;
    let mut arriving = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let connecting = rig.connect().await;
        arriving.spawn(async move {
            let mut stream = connecting;
            // The server sends its name as soon as it has accepted the connection.
            read_line(&mut stream).await.unwrap();
            stream
        });
    }
    let clients = arriving.join_all().await;
    assert_eq!(rig.in_flight(), [125; 4]);
    for upstream in &upstreams {
        assert_eq!((upstream.open(), upstream.accepted()), (125, 125));
    }
    drop(clients);
    for _ in 0..500 {
        assert_eq!(rig.outcome().await.unwrap().reason, Reason::Ok);
    }
    assert_eq!(rig.in_flight(), [0; 4]);
}

/// The balancer uses its default settings.
#[tokio::test]
async fn server_that_closes_at_once_gets_few_connections() {
    for behaviour in [Behaviour::AcceptThenClose, Behaviour::AcceptThenReset] {
        let mut upstreams = vec![Upstream::start(behaviour.clone()).await];
        for number in 1..4 {
            upstreams.push(Upstream::named(&format!("web{number}")).await);
        }
        let rig = Rig::start(builder(&upstreams)).await;
        let mut open = Vec::new();
        for _ in 0..200 {
            let mut stream = rig.connect().await;
            // Either the server sends its name, or the connection ends.
            if let Ok(line) = read_line(&mut stream).await
                && !line.is_empty()
            {
                open.push(stream);
            }
        }
        let failed = 200 - open.len();
        assert!(failed <= 5, "{failed} connections failed: {behaviour:?}");
        let server = rig.balancer.pool().server("web0").unwrap();
        assert!(!server.status().is_up());
        assert_eq!(rig.in_flight()[0], 0);
        let spread: Vec<_> = upstreams[1..].iter().map(Upstream::open).collect();
        let (least, most) = (spread.iter().min().unwrap(), spread.iter().max().unwrap());
        assert!(most - least <= 1, "{spread:?}");
    }
}

/// Simulates a protocol in which the server closes each connection without an answer.
#[tokio::test]
async fn servers_that_all_close_at_once_stay_in_use() {
    let upstreams = [
        Upstream::start(Behaviour::AcceptThenClose).await,
        Upstream::start(Behaviour::AcceptThenClose).await,
        Upstream::start(Behaviour::AcceptThenClose).await,
    ];
    let mut rig = Rig::start(builder(&upstreams)).await;
    for _ in 0..60 {
        let mut stream = rig.connect().await;
        assert!(read_to_close(&mut stream).await.unwrap().is_empty());
        drop(stream);
        assert_eq!(rig.outcome().await.unwrap().reason, Reason::Ok);
    }
    let accepted: Vec<_> = upstreams.iter().map(Upstream::accepted).collect();
    assert!(accepted.iter().all(|&count| count >= 10), "{accepted:?}");
}

#[tokio::test]
async fn rate_limited_client_is_refused_with_retry_after() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let limits = Limits::default().rate(RateLimit::new(0.001, count(2)));
    let mut rig = Rig::start(builder([&upstream]).limits(limits)).await;
    let mut admitted = [rig.connect().await, rig.connect().await];
    for stream in &mut admitted {
        assert_eq!(roundtrip(stream, b"ping").await.unwrap(), b"ping");
    }
    let mut refused = rig.connect().await;
    assert!(read_to_close(&mut refused).await.unwrap().is_empty());
    let error = rig.outcome().await.unwrap_err();
    assert_eq!(error.reason(), Reason::RateLimited);
    let BalanceError::Refused(Refusal::RateLimited { retry_after }) = error else {
        panic!("{error}");
    };
    assert!(
        (900..=1000).contains(&retry_after.as_secs()),
        "{retry_after:?}"
    );
    // The refused client did not reach a server, and the admitted connections continue.
    assert_eq!(upstream.accepted(), 2);
    for stream in &mut admitted {
        assert_eq!(roundtrip(stream, b"pong").await.unwrap(), b"pong");
    }
    let (connection, mut other) = tokio::net::UnixStream::pair().unwrap();
    let (outcome, ()) = tokio::join!(
        async {
            let client = ClientId::from("another");
            let all = Selector::all();
            rig.balancer.balance(connection, &client, &all).await
        },
        async {
            roundtrip(&mut other, b"ping").await.unwrap();
            other.shutdown().await.unwrap();
        }
    );
    assert_eq!(outcome.unwrap().reason, Reason::Ok);
}

#[tokio::test]
async fn client_at_max_conns_is_refused_until_release() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let limits = Limits::default().max_conns(Some(count(1)));
    let mut rig = Rig::start(builder([&upstream]).limits(limits)).await;
    let mut first = rig.connect().await;
    roundtrip(&mut first, b"ping").await.unwrap();
    let mut refused = rig.connect().await;
    assert!(read_to_close(&mut refused).await.unwrap().is_empty());
    let error = rig.outcome().await.unwrap_err();
    assert_eq!(error.reason(), Reason::TooManyConnections);

    first.shutdown().await.unwrap();
    let transfer = rig.outcome().await.unwrap();
    assert_eq!((transfer.received, transfer.sent), (4, 4));
    let mut next = rig.connect().await;
    roundtrip(&mut next, b"ping").await.unwrap();
}

#[tokio::test]
async fn client_reaches_allowed_servers_only() {
    let upstreams = [
        Upstream::start(Behaviour::Echo).await,
        Upstream::start(Behaviour::Echo).await,
    ];
    let balancer = builder(&upstreams).build().unwrap();
    let (client, allowed) = (
        ClientId::from("client2"),
        balancer.select(["web1"]).unwrap(),
    );
    for _ in 0..10 {
        let (connection, mut stream) = tokio::net::UnixStream::pair().unwrap();
        let (outcome, ()) = tokio::join!(balancer.balance(connection, &client, &allowed), async {
            stream.shutdown().await.unwrap()
        });
        assert_eq!(outcome.unwrap().server.as_str(), "web1");
    }
    assert_eq!(upstreams[0].accepted(), 0);
    let none = balancer.select([]).unwrap();
    let (connection, _stream) = tokio::net::UnixStream::pair().unwrap();
    let error = balancer
        .balance(connection, &client, &none)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::NoServerAvailable);
}
