//! The balancer never forwards an aborted connection as an orderly end.

use std::io::ErrorKind;

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{Behaviour, DEADLINE, FaultProxy, Faults, Upstream, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, cn, entries, entry, reset,
    tcp,
};

both_record_layers! {
    #[tokio::test]
    reset_by_the_client_reaches_the_server,
    #[tokio::test]
    fin_without_close_notify_becomes_a_reset,
    #[tokio::test]
    reset_by_the_server_reaches_the_client,
    #[tokio::test]
    reset_during_a_transfer_reaches_the_other_side,
}

/// Starts a balancer in front of a server whose connections the test itself accepts.
async fn start(records: Records) -> (TcpListener, Running) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = [entry("web1", server.local_addr().unwrap(), "")];
    (server, start_with(records, &servers).await)
}

async fn start_with(records: Records, servers: &[String]) -> Running {
    Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("plain", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], servers)
        .client("client1", &cn(CLIENT1), "web", "")
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await
}

async fn accept(server: &TcpListener) -> TcpStream {
    within(DEADLINE, "a connection", server.accept())
        .await
        .unwrap()
        .0
}

/// Returns the data that the server received before its connection was reset.
async fn read_until_reset(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let end = within(DEADLINE, "the end", stream.read_to_end(&mut received)).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    received
}

async fn reset_by_the_client_reaches_the_server(records: Records) {
    let (server, lb) = start(records).await;
    let client = tcp(lb.address("plain")).await;
    let at_server = accept(&server).await;
    reset(client);
    assert!(read_until_reset(at_server).await.is_empty());
    lb.expect_record(0, "client_reset").await;

    let mut client = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    client.write_all(b"some").await.unwrap();
    let mut at_server = accept(&server).await;
    at_server.read_exact(&mut [0; 4]).await.unwrap();
    reset(client.into_inner().0);
    assert!(read_until_reset(at_server).await.is_empty());
    lb.expect_record(1, "client_reset").await;
    lb.quiet().await;
}

async fn fin_without_close_notify_becomes_a_reset(records: Records) {
    let (server, lb) = start(records).await;
    for (n, client) in [lb.client(CLIENT1).tls12(), lb.client(CLIENT1).tls13()]
        .into_iter()
        .enumerate()
    {
        let mut client = client.connect(lb.main()).await.unwrap();
        client.write_all(b"half of a message").await.unwrap();
        let mut at_server = accept(&server).await;
        at_server.read_exact(&mut [0; 17]).await.unwrap();
        // An attacker can send this FIN, because a FIN is not authenticated.
        let mut socket = client.into_inner().0;
        socket.shutdown().await.unwrap();
        assert!(read_until_reset(at_server).await.is_empty());
        let _ = read_to_close(&mut socket).await;
        lb.expect_record(n, "client_truncated").await;
    }
    lb.quiet().await;
}

async fn reset_by_the_server_reaches_the_client(records: Records) {
    let web = Upstream::start(Behaviour::ResetAfter(5)).await;
    let lb = start_with(records, &entries(&[&web])).await;
    let mut plain = tcp(lb.address("plain")).await;
    plain.write_all(b"12345").await.unwrap();
    let error = read_to_close(&mut plain).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    lb.expect_record(0, "server_reset").await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    tls.write_all(b"12345").await.unwrap();
    let error = read_to_close(&mut tls).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    lb.expect_record(1, "server_reset").await;
    lb.quiet().await;
}

async fn reset_during_a_transfer_reaches_the_other_side(records: Records) {
    let web = Upstream::start(Behaviour::Source { bytes: 1 << 24 }).await;
    let broken = Faults {
        budget: Some(100_000),
        ..Faults::default()
    };
    let proxy = FaultProxy::start(web.addr(), Faults::default(), broken).await;
    let lb = start_with(records, &[entry("web1", proxy.addr(), "")]).await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    match read_to_close(&mut tls).await {
        Err(_) => lb.expect_record(0, "server_reset").await,
        // The server connection broke before the balancer had connected, so the client received
        // no data.
        Ok(bytes) => {
            assert_eq!(bytes.len(), 0);
            lb.expect_record(0, "connect_failed").await
        }
    };

    // A reset between the client and the balancer must reach the server.
    let (server, lb2) = start(records).await;
    let proxy = FaultProxy::start(lb2.address("plain"), Faults::default(), Faults::default()).await;
    let mut client = tcp(proxy.addr()).await;
    let mut at_server = accept(&server).await;
    at_server.write_all(b"hello\n").await.unwrap();
    read_line(&mut client).await.unwrap();
    proxy.reset_all();
    read_until_reset(at_server).await;
    lb2.expect_record(0, "client_reset").await;
    lb.quiet().await;
    lb2.quiet().await;
}
