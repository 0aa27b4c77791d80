//! Servers that accept connections slowly receive a limited number of connection attempts.

use std::net::SocketAddr;
use std::time::Duration;

use leastconn_testkit::client::read_line;
use leastconn_testkit::metrics::normalise;
use leastconn_testkit::{DEADLINE, Upstream, eventually, within};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{NO_PROBES, Site, entry, tcp};

/// A server whose backlog is full: the kernel answers no further connection attempts.
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
    let active = async |server: &str| {
        let name =
            format!("leastconn_server_connections_active{{upstream=\"web\",server=\"{server}\"}}");
        lb.metrics().await[&normalise(&name)] as usize
    };
    // Without the limit, half of the clients would wait for the slow server. The clients connect
    // one at a time: if both servers were at the limit, the slow one could be picked.
    let (mut connected, mut waiting) = (Vec::new(), Vec::new());
    for clients in 1..=12 {
        let mut stream = tcp(lb.main()).await;
        let picked = eventually(DEADLINE, || async {
            let web2 = active("web2").await;
            let sum = web2 + active("slow").await;
            (sum == clients).then_some(web2).ok_or(sum.to_string())
        });
        if picked.await.unwrap() > connected.len() {
            let server = within(DEADLINE, "a server", read_line(&mut stream)).await;
            assert_eq!(server.unwrap(), "web2");
            connected.push(stream);
        } else {
            waiting.push(stream);
        }
    }
    assert_eq!((connected.len(), waiting.len()), (10, 2));
    drop((connected, waiting, filling, slow));
    lb.idle().await;
}
