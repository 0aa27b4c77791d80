use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{DEADLINE, Signal, Upstream};

use crate::page::Page;
use crate::support::{CLIENT1, NO_PROBES, Site, TLS, cn, entries, entry};

#[tokio::test]
async fn rejected_reload_is_shown_with_reasons() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    assert_eq!(page.text("#reload").await, "none");
    let wrong = lb.config().replace("[[client]]", "[[clients]]");
    assert_eq!(lb.reload(&wrong).await, "rejected");
    page.wait("!document.getElementById('rejected').hidden")
        .await;
    assert_eq!(page.text("#reload").await, "rejected");
    let reasons = page.text("#rejected-reasons").await;
    assert!(reasons.contains("clients"), "{reasons}");
    assert!(page.text("#notice").await.contains("rejected"));

    assert_eq!(lb.reload(&lb.config()).await, "applied");
    page.wait("document.getElementById('rejected').hidden")
        .await;
    assert_eq!(page.text("#reload").await, "applied");
    page.finish(&lb, ()).await;
}

#[tokio::test]
async fn down_server_is_highlighted_and_announced() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let probes = r#"health_check = { type = "tcp", interval = "100ms", fall = 1, rise = 1 }"#;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[probes], &entries(&[&webs[0], &webs[1]]))
        .upstream("idle", &[NO_PROBES], &entries(&[&webs[0]]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let badge = r#"[data-server="web/web2"] .badge"#;
    page.wait(&format!(
        "document.querySelector('{badge}').textContent === 'up'"
    ))
    .await;
    webs[1].stop(OpenConnections::Close).await;
    page.wait(&format!(
        "document.querySelector('{badge}').textContent === 'down'"
    ))
    .await;
    assert!(page.text("#notice").await.contains("web/web2 is down"));
    assert_eq!(page.text("#available").await, "2");
    assert_eq!(page.text("#available-of").await, "of 3");
    let row = page.text(r#"[data-server="web/web2"] .outage"#).await;
    assert!(
        row.starts_with("down since ") && row.contains("refused"),
        "{row}"
    );
    assert_eq!(page.text("#outages-title").await, "1 server down");
    let listed = page.text("#outages-servers").await;
    assert!(listed.starts_with("web/web2 is down since "), "{listed}");
    webs[0].stop(OpenConnections::Close).await;
    page.wait(
        "document.getElementById('outages-title').textContent === 'No server available: web'",
    )
    .await;
    for web in &webs {
        web.restart().await;
    }
    page.wait("document.getElementById('outages').hidden").await;
    page.assert_no_errors().await;
}

#[tokio::test]
async fn draining_and_unreachable_balancer_are_shown() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    leastconn_testkit::client::read_line(&mut stream)
        .await
        .unwrap();
    lb.signal(Signal::TERM);
    page.wait("!document.getElementById('draining').hidden")
        .await;
    assert_eq!(page.text("#phase").await, "draining");
    drop(stream);
    assert!(lb.wait_exit(DEADLINE).await.success());
    page.wait("!document.getElementById('lost').hidden").await;
    let lost = page.text("#lost").await;
    assert!(
        lost.starts_with("No response from the balancer since"),
        "{lost}"
    );
    assert_eq!(
        page.eval("document.body.classList.contains('stale')").await,
        true
    );
    page.assert_same_origin_requests().await;
}

#[tokio::test]
async fn full_servers_are_shown() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream(
            "web",
            &[NO_PROBES],
            &[entry("web1", web.addr(), ", max_conns = 1")],
        )
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    leastconn_testkit::client::read_line(&mut stream)
        .await
        .unwrap();
    page.wait("!document.getElementById('full').hidden").await;
    assert_eq!(
        page.text("#full-upstreams").await,
        "web: 1 of 1, new connections are refused"
    );
    assert_eq!(
        page.text("#upstreams .badge").await,
        "1 of 1 available, all at max_conns"
    );
    drop(stream);
    page.wait("document.getElementById('full').hidden").await;
    page.assert_no_errors().await;
}

#[tokio::test]
// The certificates of the site expire within a week.
async fn expired_crl_is_called_expired() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let crl = lb.ca().crl_builder().number(2).validity(-3600, 10).pem();
    std::fs::write(lb.dir().join("ca.crl"), crl).unwrap();
    let title =
        |text| format!("document.getElementById('expiring-title').textContent === '{text}'");
    page.wait(&title("Certificates and CRLs that expire soon"))
        .await;
    page.wait(&title(
        "Certificates and CRLs that have expired or expire soon",
    ))
    .await;
    page.assert_no_errors().await;
}
