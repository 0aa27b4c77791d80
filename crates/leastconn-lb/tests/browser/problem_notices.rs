//! Banners and announcements of problems.

use leastconn_testkit::client::read_line;
use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{DEADLINE, Signal, Upstream};

use crate::page::Page;
use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, entry};

/// The dashboard of a balancer with one server. `None`: there is no browser.
async fn open_usual() -> Option<(Upstream, Running, Page)> {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let page = Page::open(&lb).await?;
    Some((web, lb, page))
}

impl Page {
    async fn wait_visible(&self, id: &str) {
        let visible = format!("!document.getElementById('{id}').hidden");
        self.wait(&visible).await;
    }

    async fn wait_hidden(&self, id: &str) {
        let hidden = format!("document.getElementById('{id}').hidden");
        self.wait(&hidden).await;
    }

    async fn wait_text(&self, selector: &str, text: &str) {
        let shown = format!("document.querySelector('{selector}').textContent === '{text}'");
        self.wait(&shown).await;
    }
}

#[tokio::test]
async fn rejected_reload_is_shown_with_reasons() {
    let Some((_web, lb, page)) = open_usual().await else {
        return;
    };
    assert_eq!(page.text("#reload").await, "none");
    let wrong = lb.config().replace("[[client]]", "[[clients]]");
    assert_eq!(lb.reload(&wrong).await, "rejected");
    page.wait_visible("rejected").await;
    assert_eq!(page.text("#reload").await, "rejected");
    let reasons = page.text("#rejected-reasons").await;
    assert!(reasons.contains("clients"), "{reasons}");
    assert!(page.text("#notice").await.contains("rejected"));

    assert_eq!(lb.reload(&lb.config()).await, "applied");
    page.wait_hidden("rejected").await;
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
    page.wait_text(badge, "up").await;
    webs[1].stop(OpenConnections::Close).await;
    page.wait_text(badge, "down").await;
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
    page.wait_text("#outages-title", "No server available: web")
        .await;
    for web in &webs {
        web.restart().await;
    }
    page.wait_hidden("outages").await;
    page.assert_no_errors().await;
}

#[tokio::test]
async fn draining_and_unreachable_balancer_are_shown() {
    let Some((_web, lb, page)) = open_usual().await else {
        return;
    };
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    lb.signal(Signal::TERM);
    page.wait_visible("draining").await;
    assert_eq!(page.text("#phase").await, "draining");
    drop(stream);
    assert!(lb.wait_exit(DEADLINE).await.success());
    page.wait_visible("lost").await;
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
    read_line(&mut stream).await.unwrap();
    page.wait_visible("full").await;
    assert_eq!(
        page.text("#full-upstreams").await,
        "web: 1 of 1, new connections are refused"
    );
    assert_eq!(
        page.text("#upstreams .badge").await,
        "1 of 1 available, all at max_conns"
    );
    drop(stream);
    page.wait_hidden("full").await;
    page.assert_no_errors().await;
}

#[tokio::test]
async fn reached_connection_limit_is_shown() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).process("max_connections = 1");
    let lb = site.start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    page.wait_hidden("limits").await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    page.wait_visible("limits").await;
    let text = page.text("#limits").await;
    assert!(text.ends_with("is reached: 1 connection of 1."), "{text}");
    drop(stream);
    page.wait_hidden("limits").await;
    page.assert_no_errors().await;
}

#[tokio::test]
async fn expiring_crl_has_a_banner_and_a_badge() {
    let Some((_web, lb, page)) = open_usual().await else {
        return;
    };
    // Half of the validity period is left.
    page.wait_hidden("expiring").await;
    let write = |number, since, left| {
        let crl = lb.ca().crl_builder().number(number).validity(since, left);
        std::fs::write(lb.dir().join("ca.crl"), crl.pem()).unwrap();
    };
    let class = async |id: &str| {
        page.eval(&format!("document.getElementById('{id}').className"))
            .await
    };
    let badge = "#certificates tr:first-child .badge";
    write(2, -80_000, 20_000);
    page.wait_text("#expiring-title", "Certificates and CRLs that expire soon")
        .await;
    assert_eq!(class("expiring").await, "banner warn");
    page.wait(&format!(
        "document.querySelector('{badge}').classList.contains('warn')"
    ))
    .await;
    write(3, -95_000, 5_000);
    page.wait("document.getElementById('expiring').className === 'banner bad'")
        .await;
    write(4, -3600, 10);
    page.wait_text("#expiring-title", "Certificates and CRLs that have expired")
        .await;
    write(5, -3600, 86_400);
    page.wait_hidden("expiring").await;
    page.assert_no_errors().await;
}
