//! Servers that accept connections slowly get a limited number of connection attempts.

use std::net::SocketAddr;
use std::time::Duration;

use leastconn_testkit::client::read_line;
use leastconn_testkit::{DEADLINE, Upstream, within};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{NO_PROBES, Site, entry, tcp};

/// A server whose backlog is full: the kernel answers no further connects.
async fn overloaded() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut accepted = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        accepted.push(stream.unwrap());
    }
    (listener, accepted)
}

#[tokio::test]
async fn slow_server_gets_at_most_max_connecting_attempts() {
    let (slow, filling) = overloaded().await;
    let web = Upstream::named("web2").await;
    let servers = [
        entry("slow", slow.local_addr().unwrap(), ""),
        entry("web2", web.addr(), ""),
    ];
    let timeout = "connect_timeout = \"1h\"";
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES, "max_connecting = 2", timeout], &servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    // Without the limit, half of the clients would wait for the slow server.
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        let mut stream = tcp(lb.main()).await;
        clients.spawn(async move {
            let server = read_line(&mut stream).await.unwrap();
            (server, stream)
        });
    }
    let mut connected = Vec::new();
    for _ in 0..10 {
        let next = within(DEADLINE, "a server", clients.join_next()).await;
        let (server, stream) = next.unwrap().unwrap();
        assert_eq!(server, "web2");
        connected.push(stream);
    }
    let active = "leastconn_server_connections_active{upstream=\"web\",server=\"slow\"}";
    lb.wait_metric(active, 2.0, DEADLINE).await;
    assert_eq!(clients.len(), 2);
    clients.shutdown().await;
    drop((connected, filling, slow));
    lb.idle().await;
}
