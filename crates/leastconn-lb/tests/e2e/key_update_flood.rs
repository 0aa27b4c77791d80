//! Row 20 of the matrix of threats: key updates cost work and carry nothing. A client that
//! sends them without end is slowed down, then disconnected; other clients do not notice.

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

/// More than the balancer allows in the time that it takes to send them.
const FLOOD: usize = 5000;

type Open = TlsStream<TcpStream>;

/// New keys for what the client sends, and a request for new ones of the balancer's.
/// It goes out with whatever is sent next.
fn update(stream: &mut Open) -> io::Result<()> {
    let (_, session) = stream.get_mut();
    session.refresh_traffic_keys().map_err(io::Error::other)
}

async fn admitted(client: &TlsClient, lb: &Running) -> Open {
    let mut stream = client.connect(lb.main()).await.unwrap();
    assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
    stream
}

/// Floods with `data` behind each update until it is cut off; the record of that. All
/// the while another connection is open, which must not notice.
async fn cut_off(lb: &Running, data: &[u8]) -> Value {
    let client = lb.client(CLIENT1).tls13();
    let mut other = admitted(&client, lb).await;
    let mut stream = admitted(&client, lb).await;
    let flood = async {
        for _ in 0..FLOOD {
            update(&mut stream)?;
            stream.write_all(data).await?;
            stream.flush().await?;
        }
        // The balancer may have decided when all was on its way.
        read_to_close(&mut stream).await
    };
    let end = within(DEADLINE, "the end of the flood", flood).await;
    let echoed = end.map(|bytes| bytes.len());
    assert!(echoed.is_err(), "it was borne: {echoed:?}");
    let record = lb.nth(0, "tls_error").await;
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
    let mut stream = admitted(&lb.client(CLIENT1).tls13(), &lb).await;
    for round in 0..60 {
        update(&mut stream).unwrap();
        assert_eq!(roundtrip(&mut stream, &[round]).await.unwrap(), [round]);
    }
    stream.shutdown().await.unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    assert_eq!(lb.nth(0, "ok").await["bytes_received"], 60);
    lb.quiet().await;
}

async fn key_update_flood_ends_the_connection(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    assert_eq!(cut_off(&lb, b"").await["bytes_received"], 0);
    lb.quiet().await;
}

/// rustls' own count begins anew with each record of data; the balancer's does not.
async fn data_between_key_updates_does_not_help(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let record = cut_off(&lb, b"x").await;
    let bytes = record["bytes_received"].as_f64().unwrap();
    // A burst of 100, then one each 10 ms.
    let most = 101.0 + record["duration_ms"].as_f64().unwrap() / 10.0;
    assert!(bytes <= most, "{bytes} of at most {most}: {record}");
    lb.quiet().await;
}
