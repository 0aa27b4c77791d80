use leastconn_testkit::DEADLINE;

use crate::{
    program::replace,
    site::{Site, raise_rate_limit},
};

const UP: &str = "leastconn_server_up{upstream=\"web\",server=\"webapp1\"}";

/// Starts a site whose servers are checked at `/healthz`, with these keys in `health_check`.
async fn start(keys: &str) -> Site {
    Site::start_with(|config| {
        let tcp = "type = \"tcp\", interval = \"10s\", timeout = \"1s\"";
        let http = "type = \"http\", path = \"/healthz\", status = 200, timeout = \"1s\"";
        raise_rate_limit(&replace(&config, tcp, &format!("{http}, {keys}")))
    })
    .await
}

#[tokio::test]
async fn server_answering_503_gets_no_connections() {
    let site = start("interval = \"100ms\"").await;
    let limit = DEADLINE;
    site.balancer.wait_metric(UP, 1.0, limit).await;

    let webs = async |count: usize| {
        let mut pages = Vec::new();
        for _ in 0..count {
            pages.push(site.page("client1").await.ok().stdout);
        }
        pages
    };
    // The balancer breaks ties between idle servers at random. Forty requests reach both.
    let wait_for_webapp1 = async || {
        for _ in 0..40 {
            if webs(1).await == ["webapp1\n"] {
                return;
            }
        }
        panic!("webapp1 served none of 40 requests");
    };
    wait_for_webapp1().await;

    site.web1.set_healthy(false);
    site.balancer.wait_metric(UP, 0.0, limit).await;
    assert_eq!(webs(6).await, ["webapp2\n"; 6]);

    site.web1.set_healthy(true);
    site.balancer.wait_metric(UP, 1.0, limit).await;
    wait_for_webapp1().await;
    site.finish().await;
}

/// Row 31 of docs/threats.md: the process of a server is stopped, and the kernel still accepts
/// connections for it.
#[tokio::test]
async fn stopped_process_is_down_after_failed_probes() {
    let site = start("interval = \"200ms\", fall = 2").await;
    site.balancer.wait_metric(UP, 1.0, DEADLINE).await;
    site.web1.pause();
    site.balancer.wait_metric(UP, 0.0, DEADLINE).await;
    for _ in 0..6 {
        assert_eq!(site.page("client1").await.ok().stdout, "webapp2\n");
    }
    site.web1.resume();
    site.balancer.wait_metric(UP, 1.0, DEADLINE).await;
    site.finish().await;
}
