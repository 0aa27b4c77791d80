use std::{num::NonZeroU32, time::Duration};

use leastconn_testkit::{Behaviour, Upstream};
use tokio::time::advance;

use super::*;
use crate::RateLimit;

/// Time is paused, so the test must not wait for sockets. Its only server is in maintenance, so no
/// connection is opened.
#[tokio::test(start_paused = true)]
async fn idle_clients_are_forgotten() {
    let balancer = Balancer::builder("web")
        .server(ServerSpec::new(
            "web1",
            std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        ))
        .limits(Limits {
            rate: RateLimit::new(1.0, NonZeroU32::MIN),
            max_conns: None,
        })
        .build()
        .unwrap();
    for server in balancer.pool().members().iter() {
        server.server.set_admin(crate::AdminState::Maint);
    }
    let connect = async |client: &str| {
        let (stream, _peer) = tokio::net::UnixStream::pair().unwrap();
        let result = balancer
            .balance(stream, &client.into(), &Selector::all())
            .await;
        assert_eq!(result.unwrap_err().reason(), Reason::NoServerAvailable);
    };
    for client in 0..1000 {
        connect(&format!("client{client}")).await;
    }
    assert_eq!(balancer.limiter.len(), 1000);
    advance(Duration::from_secs(SWEEP_INTERVAL)).await;
    connect("another").await;
    assert_eq!(balancer.limiter.len(), 1);
}

#[tokio::test]
async fn connection_waits_in_the_queue_for_a_free_slot() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let server = ServerSpec::new("web1", upstream.addr()).max_conns(NonZeroU32::new(1));
    let balancer = Balancer::builder("web")
        .server(server)
        .queue(QueuePolicy::new(1, Duration::from_secs(60)))
        .build()
        .unwrap();
    let balancer = Arc::new(balancer);
    let connect = |client: &'static str| {
        let (peer, connection) = tokio::net::UnixStream::pair().unwrap();
        let balancer = Arc::clone(&balancer);
        let balancing = tokio::spawn(async move {
            let client = ClientId::from(client);
            balancer
                .balance(connection, &client, &Selector::all())
                .await
        });
        (peer, balancing)
    };
    let waiting = || balancer.pool().queue_status(net::now()).waiting;
    let until = async |count: usize| {
        while waiting() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (first, first_done) = connect("first");
    while balancer.pool().members()[0].server.in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (second, second_done) = connect("second");
    until(1).await;
    let (_third, third_done) = connect("third");
    let refused = third_done.await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), Reason::Overloaded, "the queue is full");
    drop(first);
    assert_eq!(first_done.await.unwrap().unwrap().reason, Reason::Ok);
    until(0).await;
    drop(second);
    assert_eq!(second_done.await.unwrap().unwrap().reason, Reason::Ok);
}

#[tokio::test]
async fn dropped_future_resets_both_sides() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let balancer = Balancer::builder("web")
        .server(ServerSpec::new("web1", server.local_addr().unwrap()))
        .build()
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (connection, _) = listener.accept().await.unwrap();
    let allowed = Selector::all();
    let id = ClientId::from("c");
    let mut balancing = Box::pin(balancer.balance(connection, &id, &allowed));
    let exchange = async {
        let (mut server, _) = server.accept().await.unwrap();
        client.write_all(b"incomplete").await.unwrap();
        let mut bytes = [0; 10];
        server.read_exact(&mut bytes).await.unwrap();
        server
    };
    let mut server = tokio::select! {
        _ = &mut balancing => panic!("the connection ended early"),
        server = exchange => server,
    };
    drop(balancing);
    for stream in [&mut client, &mut server] {
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(balancer.pool().members()[0].server.in_flight(), 0);
}

#[tokio::test]
async fn selecting_an_unknown_server_fails() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let balancer = Balancer::builder("web")
        .server(ServerSpec::new("web1", upstream.addr()))
        .server(ServerSpec::new("web2", upstream.addr()))
        .build()
        .unwrap();
    assert_eq!(
        balancer.select(["web1", "web3"]).unwrap_err(),
        UnknownServer("web3".to_owned())
    );
    let allowed = balancer.select(["web2"]).unwrap();
    let candidates = balancer.pool().candidates(&allowed);
    let names: Vec<_> = candidates
        .members()
        .iter()
        .map(|member| member.server.id().as_str())
        .collect();
    assert_eq!(names, ["web2"]);
    assert!(
        balancer
            .pool()
            .candidates(&balancer.select([]).unwrap())
            .is_empty()
    );
}
