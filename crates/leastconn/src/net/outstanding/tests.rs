#![cfg(target_os = "linux")]

use leastconn_testkit::{DEADLINE, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Duration, sleep, timeout},
};

use super::*;

async fn pair(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Connect over IPv4 to a listener on `[::]`, so that the socket has IPv4-mapped addresses.
    let host = if address.starts_with("[::]") {
        "127.0.0.1"
    } else {
        address.rsplit_once(':').unwrap().0
    };
    let connecting = TcpStream::connect(format!("{host}:{port}"));
    let (connected, accepted) = tokio::join!(connecting, listener.accept());
    (accepted.unwrap().0, connected.unwrap())
}

/// Writes until the send buffer is full.
async fn fill(stream: &mut TcpStream) {
    let piece = vec![7; 64 * 1024];
    while timeout(Duration::from_millis(50), stream.write(&piece))
        .await
        .is_ok()
    {}
}

async fn until_nothing(socket: &TcpStream, is_nothing: impl Fn(&TcpStream) -> bool) {
    let waiting = async {
        while !is_nothing(socket) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    within(DEADLINE, "the acknowledgement", waiting).await;
}

#[tokio::test]
async fn unacknowledged_bytes_are_counted_per_address_family() {
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let (mut sender, mut receiver) = pair(address).await;
        assert_eq!(outstanding(&sender), Outstanding::Nothing, "{address}");
        fill(&mut sender).await;
        let Outstanding::Bytes(count) = outstanding(&sender) else {
            panic!("{address}: no unacknowledged bytes");
        };
        assert!(
            (1..u32::MAX).contains(&count),
            "{address}: {count}: netlink is not available"
        );
        let drain = tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while receiver
                .read(&mut buffer)
                .await
                .is_ok_and(|count| count > 0)
            {}
        });
        until_nothing(&sender, |socket| {
            outstanding(socket) == Outstanding::Nothing
        })
        .await;
        drain.abort();
    }
}

#[tokio::test]
async fn writability_is_the_fallback_without_netlink() {
    let (mut sender, mut receiver) = pair("127.0.0.1:0").await;
    fill(&mut sender).await;
    assert!(!is_sent(&sender));
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while receiver
            .read(&mut buffer)
            .await
            .is_ok_and(|count| count > 0)
        {}
    });
    until_nothing(&sender, is_sent).await;
    drain.abort();
}

#[tokio::test]
async fn nothing_is_outstanding_on_a_reset_connection() {
    let (mut sender, receiver) = pair("127.0.0.1:0").await;
    fill(&mut sender).await;
    receiver.set_zero_linger().unwrap();
    drop(receiver);
    until_nothing(&sender, |socket| {
        outstanding(socket) == Outstanding::Nothing
    })
    .await;
}
