//! Tests how each side can end a connection, and what the other side then receives. A matrix of
//! cases combines the ending side, the transports, the record layer, the kind of end and the speed
//! of the reader.

mod matrix;
mod peer;

use std::time::Duration;

use leastconn_testkit::client::{alert, read_to_close};
use leastconn_testkit::data::pattern;
use rustls::AlertDescription;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use self::peer::{End, Rig, Transport};
use crate::support::{Records, both_record_layers, reset};

both_record_layers! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    every_kind_of_end_is_forwarded,
    #[tokio::test]
    truncating_peer_still_receives_pending_data,
    #[tokio::test]
    stalled_receiver_delays_the_end_briefly,
    #[tokio::test]
    reset_by_the_receiver_ends_lingering,
    #[tokio::test]
    early_response_reaches_an_uploading_client,
    #[tokio::test]
    forged_record_gets_an_alert_before_the_reset,
    #[tokio::test]
    fatal_alert_from_client_is_a_tls_error,
}

/// Bytes that a test sends. They fit into the balancer's buffers, but not into the receive
/// buffer of a client or server.
const DATA: usize = 100_000;

async fn every_kind_of_end_is_forwarded(records: Records) {
    matrix::run(records).await;
}

/// The client closes only its sending direction, without `close_notify`.
async fn truncating_peer_still_receives_pending_data(records: Records) {
    let rig = Rig::start(records, &[]).await;
    for version in [Transport::Tls12, Transport::Tls13] {
        let (client, mut server) = rig.connect(version, Transport::Plain, "reset").await;
        let source = client.local_addr();
        server.send(&pattern(0, DATA)).await;
        rig.wait_sent(source, DATA).await;
        let (mut socket, mut session) = client.into_client();
        socket.shutdown().await.unwrap();
        let (_, end) = server.read_to_end().await;
        assert_eq!(end, End::Reset);
        let (bytes, end) = peer::decrypt_to_end(&mut socket, &mut session).await;
        assert!(bytes == pattern(0, DATA), "{version:?}: {}", bytes.len());
        assert_ne!(end, End::Orderly, "{version:?}");
        assert_eq!(rig.record(source).await["outcome"], "client_truncated");
    }
    rig.quiet().await;
}

async fn stalled_receiver_delays_the_end_briefly(records: Records) {
    let rig = Rig::start(records, &["half_close_timeout = \"1s\""]).await;
    for (end, undelivered) in [("truncated", true), ("reset", true), ("idle", false)] {
        let (mut client, server) = rig
            .connect(Transport::Tls13, Transport::Plain, "reset")
            .await;
        let source = client.local_addr();
        if undelivered {
            client.send(&pattern(0, DATA)).await;
            rig.wait_received(source, DATA).await;
        }
        let start = leastconn::net::now();
        let socket = client.into_socket();
        if end == "reset" {
            reset(socket);
        } else {
            drop(socket);
        }
        let record = rig.record(source).await;
        let took = start.elapsed();
        if undelivered {
            assert_eq!(record["outcome"], "half_close_timeout", "{end}: {record}");
            assert!(took >= Duration::from_millis(900), "{end}: {took:?}");
        } else {
            assert_eq!(record["outcome"], "client_truncated", "{record}");
        }
        assert!(took < Duration::from_secs(20), "{end}: {took:?}");
        drop(server);
    }
    rig.quiet().await;
}

async fn reset_by_the_receiver_ends_lingering(records: Records) {
    let rig = Rig::start(records, &["half_close_timeout = \"5m\""]).await;
    for transport in [Transport::Plain, Transport::Tls13] {
        let (mut client, server) = rig.connect(Transport::Tls12, transport, "reset").await;
        let source = client.local_addr();
        client.send(&pattern(0, DATA)).await;
        rig.wait_received(source, DATA).await;
        drop(client.into_socket());
        reset(server.into_socket());
        let record = rig.record(source).await;
        assert_eq!(record["outcome"], "client_truncated", "{record}");
    }
    rig.quiet().await;
}

/// The server responds and closes while the client is still sending, and the client reads late. A
/// process that closes a socket with unread input sends a RST. This RST must not overtake the
/// response.
async fn early_response_reaches_an_uploading_client(records: Records) {
    let rig = Rig::start(records, &[]).await;
    let all = Transport::ALL.into_iter();
    for (transport, half_closes) in all.flat_map(|each| [(each, false), (each, true)]) {
        let (mut client, mut server) = rig.connect(transport, Transport::Plain, "reset").await;
        let source = client.local_addr();
        server.send(&pattern(0, DATA)).await;
        server.finish().await;
        rig.wait_sent(source, DATA).await;
        drop(server);
        // The server answers the first block with a RST. The balancer discards later
        // blocks.
        client.send(&[0; 1000]).await;
        rig.wait_received(source, 1000).await;
        for _ in 0..20 {
            client.send(&[0; 1000]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if half_closes {
            client.finish().await;
        }
        let (bytes, end) = client.read_to_end().await;
        assert!(bytes == pattern(0, DATA), "{transport:?}: {}", bytes.len());
        assert_eq!(end, End::Orderly, "{transport:?}");
        drop(client);
        assert_eq!(rig.record(source).await["outcome"], "server_reset");
    }
    rig.quiet().await;
}

async fn forged_record_gets_an_alert_before_the_reset(records: Records) {
    let rig = Rig::start(records, &[]).await;
    for version in [Transport::Tls12, Transport::Tls13] {
        let (mut client, mut server) = rig.connect(version, Transport::Plain, "reset").await;
        let source = client.local_addr();
        client.send(&pattern(0, DATA)).await;
        let mut record = vec![23, 3, 3, 0, 64];
        record.resize(5 + 64, 7);
        client.socket_mut().write_all(&record).await.unwrap();
        // Let the balancer process the forged record before client and server read.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (bytes, end) = server.read_to_end().await;
        assert!(bytes == pattern(0, DATA), "{version:?}: {}", bytes.len());
        assert_eq!(end, End::Reset);
        let error = client.read_error().await;
        assert_eq!(
            alert(&error),
            Some(AlertDescription::BadRecordMac),
            "{version:?}: {error}"
        );
        let record = rig.record(source).await;
        assert_eq!(record["outcome"], "tls_error", "{record}");
        assert!(detail(&record).starts_with("client: "), "{record}");
    }
    rig.quiet().await;
}

async fn fatal_alert_from_client_is_a_tls_error(records: Records) {
    let rig = Rig::start(records, &[]).await;
    // Make the client process a forged record, so that it sends an alert.
    for version in [Transport::Tls12, Transport::Tls13] {
        let (client, mut server) = rig.connect(version, Transport::Plain, "reset").await;
        let source = client.local_addr();
        let (mut socket, mut session) = client.into_client();
        let mut forged = vec![23, 3, 3, 0, 64];
        forged.resize(5 + 64, 7);
        session.read_tls(&mut &forged[..]).unwrap();
        session.process_new_packets().unwrap_err();
        let mut alert = Vec::new();
        session.write_tls(&mut alert).unwrap();
        socket.write_all(&alert).await.unwrap();
        assert_eq!(server.read_to_end().await.1, End::Reset);
        let record = rig.record(source).await;
        assert_eq!(record["outcome"], "tls_error", "{record}");
        assert!(detail(&record).starts_with("client: "), "{record}");
        let _ = read_to_close(&mut socket).await;
    }
    rig.quiet().await;
}

fn detail(record: &Value) -> &str {
    record["detail"].as_str().unwrap_or_default()
}
