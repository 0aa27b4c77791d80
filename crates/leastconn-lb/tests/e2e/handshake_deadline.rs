//! The handshake has one deadline, which starts at accept. Received bytes do not extend it.

use std::time::Duration;

use leastconn_testkit::{DEADLINE, Upstream, client::read_to_close, within};
use tokio::io::AsyncWriteExt;
use tokio::time::{MissedTickBehavior, interval};

use crate::support::{
    CLIENT1, DEBUG_SLACK, NO_PROBES, Records, Running, Site, TLS, both_record_layers, client_hello,
    cn, entries, talk, tcp,
};

both_record_layers! {
    #[tokio::test]
    silent_sockets_are_closed_at_the_deadline,
    #[tokio::test]
    silent_sockets_do_not_delay_handshakes,
    #[tokio::test]
    dripping_client_hello_does_not_extend_the_deadline,
    #[tokio::test]
    client_silent_after_its_hello_meets_the_deadline,
}

/// Handshake timeout in milliseconds.
const LIMIT: f64 = 700.0;

async fn start(records: Records, web: &Upstream, limit: f64) -> Running {
    let limit = format!("handshake_timeout = \"{limit}ms\"");
    Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", &limit, TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await
}

fn assert_in_time(record: &serde_json::Value, limit: f64) {
    let took = record["duration_ms"].as_f64().unwrap();
    // Allow ten percent, plus delays on a machine that is busy with hundreds of connections.
    let most = limit * 1.1 + 250.0 + DEBUG_SLACK.as_secs_f64() * 1e3;
    assert!((limit..most).contains(&took), "{record}");
}

async fn silent_sockets_are_closed_at_the_deadline(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, LIMIT).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tcp(lb.main()).await);
    }
    for stream in &mut silent {
        let _ = read_to_close(stream).await;
    }
    for record in lb.wait_records(50).await {
        assert_eq!(record["outcome"], "handshake_timeout");
        assert_in_time(&record, LIMIT);
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

/// Row 1 of docs/threats.md: a client opens many connections and sends nothing.
async fn silent_sockets_do_not_delay_handshakes(records: Records) {
    const SILENT: usize = 500;
    const SERVED: usize = 20;
    // The timeout is long enough to open all sockets and to serve a client before the first
    // socket times out.
    const LONGER: f64 = 10_000.0;
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, LONGER).await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(tcp(lb.main()).await);
    }
    let active = r#"leastconn_connections_active{listener="main"}"#;
    lb.wait_metric(active, SILENT as f64, DEADLINE).await;
    let client = lb.client(CLIENT1);
    for _ in 0..SERVED {
        let served = async { talk(client.connect(lb.main()).await?).await };
        let served = within(DEADLINE, "being served", served).await;
        assert_eq!(served.unwrap(), "web1");
    }
    for stream in &mut silent {
        let _ = read_to_close(stream).await;
    }
    let ended = lb.wait_records(SILENT + SERVED).await;
    assert_eq!(
        ended[0]["outcome"], "ok",
        "the client was served only after the timeouts"
    );
    let (ok, late): (Vec<_>, Vec<_>) = ended.iter().partition(|r| r["outcome"] == "ok");
    assert_eq!(ok.len(), SERVED);
    for record in late {
        assert_eq!(record["outcome"], "handshake_timeout");
        assert_in_time(record, LONGER);
    }
    let timed_out = r#"leastconn_connections_total{listener="main",outcome="handshake_timeout"}"#;
    lb.wait_metric(timed_out, SILENT as f64, DEADLINE).await;
    assert_eq!(web.accepted(), SERVED as u64);
    lb.quiet().await;
}

async fn dripping_client_hello_does_not_extend_the_deadline(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, LIMIT).await;
    let hello = client_hello(lb.ca());
    let mut stream = tcp(lb.main()).await;
    let mut tick = interval(Duration::from_millis(50));
    // If the test stalls, the client must not catch up by sending several bytes together.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let drip = async {
        for byte in hello {
            tick.tick().await;
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
        }
        panic!("the balancer accepted the whole ClientHello");
    };
    within(DEADLINE, "the close", drip).await;
    assert_in_time(&lb.expect_record(0, "handshake_timeout").await, LIMIT);
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn client_silent_after_its_hello_meets_the_deadline(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, LIMIT).await;
    let mut stream = tcp(lb.main()).await;
    stream.write_all(&client_hello(lb.ca())).await.unwrap();
    let _ = read_to_close(&mut stream).await;
    assert_in_time(&lb.expect_record(0, "handshake_timeout").await, LIMIT);
    lb.quiet().await;
    // The deadline does not apply after the handshake. The test waits longer than the
    // handshake timeout.
    let lb = start(records, &web, 4000.0).await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(4300)).await;
    talk(&mut stream).await.unwrap();
    lb.expect_record(0, "ok").await;
    lb.quiet().await;
}
