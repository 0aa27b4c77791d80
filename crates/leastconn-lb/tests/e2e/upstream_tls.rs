//! With `[[upstream]] tls`, data, half-closes and resets are forwarded in the same way as
//! without TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::data::{pattern, sha256_hex};
use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{Behaviour, DEADLINE, Upstream, metrics, within};
use rustls::{ServerConnection, StreamOwned};
use tokio::io::AsyncWriteExt;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::data_integrity::{BLOCK, pump};
use crate::support::tls_servers::{MUTUAL, Servers, VERSIONS};
use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, both_record_layers, entries, entry, reset, tcp,
};

both_record_layers! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    data_is_unchanged_in_both_directions_at_once,
    #[tokio::test]
    half_close_works_in_both_directions,
    #[tokio::test]
    truncation_by_the_server_becomes_a_reset,
    #[tokio::test]
    server_distinguishes_close_from_truncation,
}

async fn start(servers: &Servers, records: Records, web: &Upstream) -> Running {
    servers
        .site(&[NO_PROBES, MUTUAL], &entries(&[web]))
        .records(records)
        .start()
        .await
}

async fn data_is_unchanged_in_both_directions_at_once(records: Records) {
    const BLOCKS: usize = 24;
    let servers = Servers::new();
    for (version, spoken) in VERSIONS {
        let web = servers.mutual(Behaviour::Echo, spoken).await;
        let lb = start(&servers, records, &web).await;
        let tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        pump(tls, BLOCKS, Duration::from_secs(30)).await;
        pump(
            tcp(lb.address("plain")).await,
            BLOCKS,
            Duration::from_secs(30),
        )
        .await;
        for record in lb.wait_records(2).await {
            assert_eq!(record["outcome"], "ok", "{version}");
            assert_eq!(record["bytes_received"], BLOCKS * BLOCK);
            assert_eq!(record["bytes_sent"], BLOCKS * BLOCK);
        }
        lb.quiet().await;
    }
}

async fn half_close_works_in_both_directions(records: Records) {
    let servers = Servers::new();
    for (version, spoken) in VERSIONS {
        let slow = Behaviour::DelayedResponse {
            delay: Duration::from_millis(300),
            bytes: BLOCK as u64,
        };
        let web = servers.mutual(slow, spoken).await;
        let lb = start(&servers, records, &web).await;
        let mut client = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let answer = read_to_close(&mut client).await.unwrap();
        assert!(answer == pattern(0, BLOCK), "{version}: {}", answer.len());
        let record = lb.expect_record(0, "ok").await;
        assert_eq!(record["bytes_received"], 8);

        web.set_behaviour(Behaviour::Source {
            bytes: BLOCK as u64,
        });
        let mut stream = tcp(lb.address("plain")).await;
        let received = read_to_close(&mut stream).await.unwrap();
        assert!(
            received == pattern(0, BLOCK),
            "{version}: {}",
            received.len()
        );
        stream.write_all(&pattern(7, BLOCK)).await.unwrap();
        stream.shutdown().await.unwrap();
        let record = lb.expect_record(1, "ok").await;
        assert_eq!(record["bytes_received"], BLOCK);

        web.set_behaviour(Behaviour::Sink);
        let sent = pattern(0, 3 * BLOCK + 1);
        let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let digest = read_to_close(&mut stream).await.unwrap();
        assert_eq!(String::from_utf8(digest).unwrap(), sha256_hex(&sent));
        lb.expect_record(2, "ok").await;
        lb.quiet().await;
    }
}

async fn truncation_by_the_server_becomes_a_reset(records: Records) {
    let servers = Servers::new();
    for (version, spoken) in VERSIONS {
        let web = servers
            .mutual(Behaviour::Named("web1".to_owned()), spoken)
            .await;
        let lb = start(&servers, records, &web).await;
        let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        let mut plain = tcp(lb.address("plain")).await;
        read_line(&mut tls).await.unwrap();
        read_line(&mut plain).await.unwrap();
        // A killed process or an attacker can send a FIN without `close_notify`, because a
        // FIN is not authenticated.
        web.stop(OpenConnections::Close).await;
        read_to_close(&mut tls).await.unwrap_err();
        let error = read_to_close(&mut plain).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{version}");
        for n in 0..2 {
            let record = lb.expect_record(n, "server_truncated").await;
            let detail = record["detail"].as_str().unwrap();
            assert!(detail.contains("without close_notify"), "{record}");
        }

        web.set_behaviour(Behaviour::ResetAfter(5));
        web.restart().await;
        let mut plain = tcp(lb.address("plain")).await;
        plain.write_all(b"12345").await.unwrap();
        let error = read_to_close(&mut plain).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{version}");
        lb.expect_record(2, "server_reset").await;
        lb.quiet().await;
    }
}

/// Starts a TLS server for one connection. The task returns the received data, and the kind of
/// error that ended the connection, or `None` for an orderly end.
fn accept_one(
    listener: TcpListener,
    servers: &Servers,
) -> JoinHandle<(Vec<u8>, Option<ErrorKind>)> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let cert = servers.cert();
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(cert.chain_der.clone(), cert.key_der.clone_key())
        .unwrap();
    let config = Arc::new(config);
    spawn_blocking(move || {
        let (socket, _): (TcpStream, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let session = ServerConnection::new(config).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        stream.write_all(b"hello\n").unwrap();
        let mut received = Vec::new();
        let end = stream
            .read_to_end(&mut received)
            .err()
            .map(|error| error.kind());
        if end.is_none() {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
        (received, end)
    })
}

async fn server_distinguishes_close_from_truncation(records: Records) {
    let servers = Servers::new();
    for orderly in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = entry("web1", listener.local_addr().unwrap(), "");
        let lb = servers
            .site(&[NO_PROBES, MUTUAL], &[web])
            .records(records)
            .start()
            .await;
        let server = accept_one(listener, &servers);
        let mut client = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        read_line(&mut client).await.unwrap();
        client.write_all(b"some").await.unwrap();
        client.flush().await.unwrap();
        let (outcome, end) = if orderly {
            client.shutdown().await.unwrap();
            ("ok", None)
        } else {
            let seen = r#"leastconn_bytes_total{listener="main",direction="received"}"#;
            lb.wait_metric(seen, 4.0, DEADLINE).await;
            reset(client.into_inner().0);
            ("client_reset", Some(ErrorKind::ConnectionReset))
        };
        let (received, ended) = within(DEADLINE, "the server", server).await.unwrap();
        assert_eq!(ended, end);
        assert!(
            received == b"some" || (!orderly && received.is_empty()),
            "{received:?}"
        );
        lb.expect_record(0, outcome).await;
        lb.quiet().await;
    }
}

#[tokio::test]
async fn expiry_metrics_cover_every_file() {
    let servers = Servers::new();
    let web = servers
        .mutual(Behaviour::Named("web1".to_owned()), VERSIONS[1].1)
        .await;
    let lb = start(&servers, "direct", &web).await;
    let (_, text) = lb.http_get("/metrics").await;
    let samples = metrics::parse(&text);
    let files = metrics::family(&samples, "leastconn_certificate_not_after_seconds");
    let mut files: Vec<_> = files.map(|(key, _)| key.to_owned()).collect();
    files.sort();
    for name in ["lb.crt", "servers.crt"] {
        assert_eq!(
            files.iter().filter(|file| file.contains(name)).count(),
            1,
            "{files:?}"
        );
    }
    lb.quiet().await;
}
