use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use leastconn_testkit::{DEADLINE, within};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    curl,
    program::{Output, replace, run},
    site::{Site, raise_rate_limit},
};

const UP: &str = "leastconn_server_up{upstream=\"web\",server=\"webapp1\"}";
const LIMIT: Duration = DEADLINE;

#[tokio::test]
async fn stopping_a_server_loses_no_request() {
    let mut site = Site::start_with(|config| {
        let config = raise_rate_limit(&config);
        // With the intervals of the example, the test would take half a minute.
        let fast =
            "interval = \"200ms\", timeout = \"10s\" }\npassive = { fail_timeout = \"500ms\" }\npanic = \"refuse\"\nretry_for = \"0s\"";
        replace(&config, "interval = \"10s\", timeout = \"1s\" }", fast)
    })
    .await;
    site.balancer.wait_metric(UP, 1.0, LIMIT).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut load: JoinSet<Vec<Output>> = JoinSet::new();
    for _ in 0..4 {
        let stop = Arc::clone(&stop);
        let mut curl = curl::get(&site.certs, site.address(), Some("client1"));
        curl.arg("https://lb.com/");
        load.spawn(async move {
            let mut output = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                output.push(run(&mut curl).await);
            }
            output
        });
    }
    let before = site.balancer.records().len();
    site.balancer.wait_records(before + 20).await;
    site.web1.stop();
    site.balancer.wait_metric(UP, 0.0, LIMIT).await;
    let down = site.balancer.records().len();
    site.balancer.wait_records(down + 20).await;
    site.web1.restart().await;
    site.balancer.wait_metric(UP, 1.0, LIMIT).await;
    // The server gets connections again.
    let up = site.balancer.records().len();
    let is_used = |records: &[Value]| {
        records[up..]
            .iter()
            .any(|record| record["server"] == "webapp1")
    };
    within(LIMIT, "connections to the server", async {
        while !is_used(&site.balancer.records()) {
            let now = site.balancer.records().len();
            site.balancer.wait_records(now + 1).await;
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);

    let output = load
        .join_all()
        .await
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    let failed: Vec<_> = output.iter().filter(|output| output.code != 0).collect();
    let records = site.balancer.wait_records(output.len()).await;
    // The balancer cannot retry connections that nginx had already accepted or queued when
    // it stopped. nginx resets them, or closes them without an answer.
    let cut = records
        .iter()
        .filter(|r| r["outcome"] == "server_reset" || r["bytes_sent"] == 0)
        .filter(|r| r["server"] == "webapp1")
        .count();
    assert!(
        failed.len() <= cut && cut <= 4,
        "{failed:#?}\n{:#?}",
        site.balancer.records()
    );
    let bad: Vec<_> = records
        .iter()
        .filter(|r| !["ok", "server_reset"].contains(&r["outcome"].as_str().unwrap()))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    site.finish().await;
}

#[tokio::test]
async fn upstream_without_servers_fails_clients_and_recovers() {
    let mut site = Site::start_with(|config| {
        let fast =
            "interval = \"200ms\", timeout = \"10s\" }\npassive = { fail_timeout = \"500ms\" }";
        replace(&config, "interval = \"10s\", timeout = \"1s\" }", fast)
    })
    .await;
    site.balancer.wait_metric(UP, 1.0, LIMIT).await;
    site.web1.stop();
    site.web2.stop();
    site.balancer.wait_metric(UP, 0.0, LIMIT).await;
    let other = UP.replace("webapp1", "webapp2");
    site.balancer.wait_metric(&other, 0.0, LIMIT).await;

    assert_ne!(site.page("client1").await.code, 0);
    let record = site.refusal().await;
    // If all servers are down, the balancer dials them anyway (`panic = "dial"`), and retries for
    // `retry_for`.
    assert_eq!(record["outcome"], "connect_failed", "{record}");
    assert!(record["attempts"].as_u64() > Some(2), "{record}");
    assert!(record["duration_ms"].as_f64() >= Some(3000.0), "{record}");

    site.web2.restart().await;
    site.balancer.wait_metric(&other, 1.0, LIMIT).await;
    assert_eq!(site.page("client1").await.ok().stdout, "webapp2\n");
    site.finish().await;
}
