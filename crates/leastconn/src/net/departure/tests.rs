use leastconn_testkit::{DEADLINE, tcp_pair, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;

fn reset(client: TcpStream) {
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

async fn reason(stream: &mut TcpStream) -> Reason {
    within(DEADLINE, "the departure", departed(stream))
        .await
        .reason()
}

async fn stays(stream: &mut TcpStream) {
    let left = timeout(2 * GRACE, departed(stream)).await;
    assert!(left.is_err(), "{left:?}");
}

#[tokio::test]
async fn close_and_reset_are_distinguished() {
    let (client, mut accepted) = tcp_pair().await;
    stays(&mut accepted).await;
    drop(client);
    assert_eq!(reason(&mut accepted).await, Reason::ClientClosed);

    let (client, mut accepted) = tcp_pair().await;
    reset(client);
    assert_eq!(reason(&mut accepted).await, Reason::ClientReset);
}

#[tokio::test]
async fn half_close_after_data_is_no_departure() {
    let (mut client, mut accepted) = tcp_pair().await;
    client.write_all(b"request").await.unwrap();
    stays(&mut accepted).await;
    client.shutdown().await.unwrap();
    stays(&mut accepted).await;
    let mut request = Vec::new();
    accepted.read_to_end(&mut request).await.unwrap();
    assert_eq!(request, b"request", "departed() consumes no data");
}

#[tokio::test]
async fn reset_behind_data_is_detected() {
    let (mut client, mut accepted) = tcp_pair().await;
    client.write_all(b"request").await.unwrap();
    stays(&mut accepted).await;
    reset(client);
    assert_eq!(reason(&mut accepted).await, Reason::ClientReset);
}
