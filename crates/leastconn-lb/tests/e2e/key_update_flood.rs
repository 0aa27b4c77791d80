//! Row 20 of docs/threats.md: key updates cost CPU time and carry no data. A client that
//! sends them continuously is slowed down and then disconnected. Other clients are not
//! affected.

use std::io;

use leastconn_testkit::client::{TlsStream, read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, TlsClient, Upstream, within};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{CLIENT1, Records, Running, Site, both_record_layers, talk};

both_record_layers! {
    #[tokio::test]
    occasional_key_updates_are_accepted,
    #[tokio::test]
    key_update_flood_ends_the_connection,
    #[tokio::test]
    data_between_key_updates_does_not_help,
}

/// Number of key updates in a flood. The balancer does not allow this many in the time that
/// the client needs to send them.
const FLOOD: usize = 5000;

type Open = TlsStream<TcpStream>;

/// Queues a key update that requests a key update from the balancer. rustls sends the message
/// with the next data.
fn queue_key_update(stream: &mut Open) -> io::Result<()> {
    let (_, session) = stream.get_mut();
    session.refresh_traffic_keys().map_err(io::Error::other)
}

async fn connect(client: &TlsClient, lb: &Running) -> Open {
    let mut stream = client.connect(lb.main()).await.unwrap();
    assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
    stream
}

/// Sends key updates, each followed by `data`, until the balancer disconnects, and returns
/// the record. Another connection stays open and must not be affected.
async fn flood(lb: &Running, data: &[u8]) -> Value {
    let client = lb.client(CLIENT1).tls13();
    let mut other = connect(&client, lb).await;
    let mut stream = connect(&client, lb).await;
    let flood = async {
        for _ in 0..FLOOD {
            queue_key_update(&mut stream)?;
            stream.write_all(data).await?;
            stream.flush().await?;
        }
        // The balancer may disconnect only after the client has sent everything.
        read_to_close(&mut stream).await
    };
    let end = within(DEADLINE, "the end of the flood", flood).await;
    let echoed = end.map(|bytes| bytes.len());
    assert!(echoed.is_err(), "the flood was accepted: {echoed:?}");
    let record = lb.expect_record(0, "tls_error").await;
    assert_eq!(roundtrip(&mut other, b"on").await.unwrap(), b"on");
    drop(other);
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    record
}

async fn occasional_key_updates_are_accepted(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let mut stream = connect(&lb.client(CLIENT1).tls13(), &lb).await;
    for round in 0..60 {
        queue_key_update(&mut stream).unwrap();
        assert_eq!(roundtrip(&mut stream, &[round]).await.unwrap(), [round]);
    }
    stream.shutdown().await.unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    assert_eq!(lb.expect_record(0, "ok").await["bytes_received"], 60);
    lb.quiet().await;
}

async fn key_update_flood_ends_the_connection(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    assert_eq!(flood(&lb, b"").await["bytes_received"], 0);
    lb.quiet().await;
}

/// Data between key updates resets rustls' counter, but not the balancer's.
async fn data_between_key_updates_does_not_help(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let record = flood(&lb, b"x").await;
    let bytes = record["bytes_received"].as_f64().unwrap();
    // The balancer allows a burst of 100 key updates, then one every 10 ms.
    let most = 101.0 + record["duration_ms"].as_f64().unwrap() / 10.0;
    assert!(
        bytes <= most,
        "{bytes} bytes received, at most {most} allowed: {record}"
    );
    lb.quiet().await;
}
