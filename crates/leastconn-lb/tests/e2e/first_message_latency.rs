//! Latency of the first message of a client that leaves Nagle's algorithm enabled.
//!
//! Such a client does not send a small message until its last handshake flight is
//! acknowledged, and the kernel delays acknowledgements by 40 ms if it has no data to
//! send.

use std::time::Duration;

use leastconn_testkit::{Behaviour, TlsClient, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{CLIENT1, NO_PROBES, Records, Running, Site, both_record_layers, cn, entries};

both_record_layers! {
    #[tokio::test]
    first_message_is_not_delayed_by_nagle,
}

/// Minimum time by which Linux delays an acknowledgement.
const DELAYED_ACK: Duration = Duration::from_millis(40);

/// Number of measured connections. On a busy machine, some connections are slow, but the
/// median stays far below the delay.
const CONNECTIONS: usize = 15;

async fn first_echo(client: &TlsClient, lb: &Running) -> Duration {
    let socket = TcpStream::connect(lb.main()).await.unwrap();
    assert!(!socket.nodelay().unwrap());
    let mut stream = client.handshake(socket, "localhost").await.unwrap();
    let start = leastconn::net::now();
    stream.write_all(b"first").await.unwrap();
    stream.flush().await.unwrap();
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).await.unwrap();
    let took = start.elapsed();
    assert_eq!(&echoed, b"first");
    took
}

async fn first_message_is_not_delayed_by_nagle(records: Records) {
    let web = Upstream::start(Behaviour::Echo).await;
    for resumption in [false, true] {
        let on = if resumption {
            ", resumption = \"on\" }"
        } else {
            " }"
        };
        let tls = crate::support::TLS.replace(" }", on);
        let lb = Site::new()
            .records(records)
            .listener("main", &["upstream = \"web\"", &tls])
            .upstream("web", &[NO_PROBES], &entries(&[&web]))
            .client("client1", &cn(CLIENT1), "web", "")
            .start()
            .await;
        let client = lb.client(CLIENT1);
        for client in [client.clone().tls12(), client.tls13()] {
            let client = if resumption {
                client.with_resumption()
            } else {
                client
            };
            let mut took = Vec::new();
            for _ in 0..CONNECTIONS {
                took.push(first_echo(&client, &lb).await);
            }
            took.sort();
            let median = took[CONNECTIONS / 2];
            assert!(
                median < DELAYED_ACK / 2,
                "resumption {resumption}: {took:?}"
            );
        }
    }
}
