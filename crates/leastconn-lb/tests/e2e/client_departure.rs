//! Clients that disconnect while a server is being dialled, or while they wait for a
//! server.

use std::{net::SocketAddr, time::Duration};

use leastconn_testkit::{
    Behaviour, DEADLINE, Upstream, client::read_to_close, metrics, upstream::OpenConnections,
};
use socket2::{Domain, Socket, Type};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, cn, entries, entry, reset,
    tcp,
};

both_record_layers! {
    #[tokio::test] departed_clients_free_their_slots,
    #[tokio::test] request_with_half_close_survives_a_retry,
}

/// A listener with a full backlog: further connection attempts get no answer.
struct BlackHole {
    _listener: Socket,
    _fill: TcpStream,
    address: SocketAddr,
}

impl BlackHole {
    async fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        Self {
            _fill: tcp(address).await,
            _listener: listener,
            address,
        }
    }
}

async fn start(records: Records, servers: &[String]) -> Running {
    let limits = "max_conns = 2";
    Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("plain", &["upstream = \"web\""])
        .upstream(
            "web",
            &[NO_PROBES, "connect_timeout = \"1h\"", "retry_for = \"1h\""],
            servers,
        )
        .client("client1", &cn(CLIENT1), "web", limits)
        .client("local", "source = \"127.0.0.0/8\"", "web", limits)
        .start()
        .await
}

/// Waits until this many connections to the server are being dialled or open.
async fn wait_dialling(lb: &Running, count: f64) {
    let active = r#"leastconn_server_connections_active{upstream="web",server="web1"}"#;
    lb.wait_metric(&metrics::normalise(active), count, DEADLINE)
        .await;
}

async fn departed_clients_free_their_slots(records: Records) {
    let hole = BlackHole::new().await;
    let lb = start(records, &[entry("web1", hole.address, "")]).await;
    let client = lb.client(CLIENT1);
    let mut ended = 0;
    // Each round uses all connections that `max_conns` allows. The next round fails unless
    // the balancer has released them.
    for outcome in [
        "client_closed",
        "client_closed",
        "client_reset",
        "client_reset",
    ] {
        let mut tls = client.connect(lb.main()).await.unwrap();
        let mut plain = tcp(lb.address("plain")).await;
        wait_dialling(&lb, 2.0).await;
        if outcome == "client_closed" {
            // The TLS client sends `close_notify` and a FIN, the plain client only a FIN.
            tls.shutdown().await.unwrap();
            drop(tls);
            drop(plain);
        } else {
            // A reset is detected even if the client has sent data before.
            tls.write_all(b"request").await.unwrap();
            plain.write_all(b"request").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            reset(tls.into_inner().0);
            reset(plain);
        }
        wait_dialling(&lb, 0.0).await;
        let all = lb.wait_records(ended + 2).await;
        for record in &all[ended..] {
            assert_eq!(record["outcome"], outcome, "{record}");
            assert_eq!(record["attempts"], 1, "{record}");
        }
        ended += 2;
    }
    // The client sends a FIN without `close_notify`, before any data.
    let tls = client.connect(lb.main()).await.unwrap();
    wait_dialling(&lb, 1.0).await;
    let (mut socket, _session) = tls.into_inner();
    socket.shutdown().await.unwrap();
    wait_dialling(&lb, 0.0).await;
    lb.expect_record(ended, "client_closed").await;
    drop(socket);
    lb.quiet().await;
}

async fn request_with_half_close_survives_a_retry(records: Records) {
    let web = Upstream::start(Behaviour::Echo).await;
    web.stop(OpenConnections::Close).await;
    let lb = start(records, &entries(&[&web])).await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    let mut plain = tcp(lb.address("plain")).await;
    // The request consists of several TLS records. While no server is connected, the balancer
    // reads only part of the request.
    let request = leastconn_testkit::data::pattern(0, 50_000);
    for piece in request.chunks(10_000) {
        tls.write_all(piece).await.unwrap();
        plain.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tls.shutdown().await.unwrap();
    plain.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(lb.records().len(), 0);
    web.restart().await;
    assert!(read_to_close(&mut tls).await.unwrap() == request);
    assert!(read_to_close(&mut plain).await.unwrap() == request);
    for n in 0..2 {
        assert_eq!(lb.expect_record(n, "ok").await["bytes_received"], 50_000);
    }
    drop((tls, plain));
    lb.quiet().await;
}
