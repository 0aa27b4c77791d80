//! From accept to authorized there is one deadline, which no byte moves.

use std::time::Duration;

use leastconn_testkit::{Upstream, client::read_to_close, within};
use tokio::io::AsyncWriteExt;
use tokio::time::interval;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, client_hello, cn, entries,
    talk, tcp,
};

both_record_layers! {
    #[tokio::test]
    silent_sockets_are_closed_at_the_deadline,
    #[tokio::test]
    a_hello_that_drips_does_not_move_the_deadline,
    #[tokio::test]
    nor_does_a_client_that_stops_after_its_hello,
}

const LIMIT: f64 = 700.0;

async fn hasty(records: Records, web: &Upstream) -> Running {
    Site::new()
        .records(records)
        .listener(
            "main",
            &["upstream = \"web\"", "handshake_timeout = \"700ms\"", TLS],
        )
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await
}

fn in_time(record: &serde_json::Value) {
    let took = record["duration_ms"].as_f64().unwrap();
    // Ten percent, and what a busy machine adds.
    assert!((LIMIT..LIMIT * 1.1 + 250.0).contains(&took), "{record}");
}

async fn silent_sockets_are_closed_at_the_deadline(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = hasty(records, &web).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tcp(lb.main()).await);
    }
    for stream in &mut silent {
        let _ = read_to_close(stream).await;
    }
    for record in lb.wait_records(50).await {
        assert_eq!(record["outcome"], "handshake_timeout");
        in_time(&record);
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn a_hello_that_drips_does_not_move_the_deadline(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = hasty(records, &web).await;
    let hello = client_hello(lb.ca());
    let mut stream = tcp(lb.main()).await;
    let mut tick = interval(Duration::from_millis(50));
    let drip = async {
        for byte in hello {
            tick.tick().await;
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
        }
        panic!("the balancer took the whole hello");
    };
    within(Duration::from_secs(5), "the close", drip).await;
    in_time(&lb.nth(0, "handshake_timeout").await);
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn nor_does_a_client_that_stops_after_its_hello(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = hasty(records, &web).await;
    let mut stream = tcp(lb.main()).await;
    stream.write_all(&client_hello(lb.ca())).await.unwrap();
    let _ = read_to_close(&mut stream).await;
    in_time(&lb.nth(0, "handshake_timeout").await);
    // The deadline ends with the handshake: an established connection outlives it.
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    talk(&mut stream).await.unwrap();
    lb.nth(1, "ok").await;
    lb.quiet().await;
}
