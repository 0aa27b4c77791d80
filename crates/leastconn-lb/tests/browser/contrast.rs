use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{Signal, Upstream};
use serde_json::json;

use crate::page::Page;
use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, refused};

const CHECK: &str = include_str!("contrast.js");

/// Asserts that all visible texts have enough contrast, in both themes.
async fn check(page: &Page, what: &str, expected: &str) {
    for scheme in ["light", "dark"] {
        page.media("prefers-color-scheme", scheme).await;
        // Colours are final when transitions have ended.
        page.wait("document.getAnimations().every((one) => one.playState === 'finished')")
            .await;
        let found = page.eval(CHECK).await;
        assert_eq!(found["faults"], json!([]), "{what}, {scheme}");
        assert!(found["texts"].as_u64().unwrap() > 100, "{what}: {found}");
        let visible = page.text("body").await;
        assert!(visible.contains(expected), "{what}: {visible}");
    }
}

/// A balancer with as many states as possible: a server that is down, one in drain, a rejected
/// reload, an expired rule, and refusals.
async fn troubled(webs: &[Upstream]) -> Running {
    let probes = r#"health_check = { type = "tcp", interval = "100ms", fall = 1, rise = 1 }"#;
    let site = Site::new()
        .admin("token = \"token\"")
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[probes], &entries(&[&webs[0], &webs[1]]))
        .upstream("down", &[probes], &entries(&[&webs[1]]))
        .upstream("idle", &[NO_PROBES], &entries(&[&webs[0], &webs[1]]))
        .client("client1", &cn(CLIENT1), "web", "max_conns = 7")
        .client("shadow", &cn("shadow"), "web", "mode = \"shadow\"")
        .client("old", &cn("old"), "web", "expires = 2020-01-31T00:00:00Z");
    std::fs::write(site.dir.path().join("token"), "a-long-random-token").unwrap();
    let lb = site.start().await;
    webs[1].stop(OpenConnections::Close).await;
    refused(&lb.client("stranger"), lb.main()).await;
    let wrong = lb.config().replace("[[client]]", "[[clients]]");
    assert_eq!(lb.reload(&wrong).await, "rejected");
    lb
}

#[tokio::test]
async fn contrast_meets_wcag_aa() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let lb = troubled(&webs).await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    leastconn_testkit::client::read_line(&mut stream)
        .await
        .unwrap();
    page.drain("idle/web1", "a-long-random-token").await;
    for shown in [
        r#"[data-server="web/web2"] .badge.bad"#,
        r#"[data-server="idle/web1"] .badge.warn"#,
        "[data-connection]",
        ".last-refusal:not([hidden])",
        r#"[data-client="old"] .badge.bad"#,
        r#"[data-client="shadow"] .badge.warn"#,
    ] {
        let shown = format!("document.querySelector({})", json!(shown));
        page.wait(&format!("{shown} !== null")).await;
    }
    // The check finds a text with low contrast, so it can fail.
    page.eval(
        "(() => { const p = document.createElement('p'); p.id = 'faint'; p.textContent = 'faint';
           p.style.color = 'rgb(150 150 150 / 60%)'; document.querySelector('main').append(p); })()",
    )
    .await;
    let found = page.eval(CHECK).await;
    let faults = found["faults"].as_array().unwrap();
    assert!(
        faults.len() == 1 && faults[0].as_str().unwrap().starts_with("faint (faint)"),
        "{found}"
    );
    page.eval("document.getElementById('faint').remove()").await;

    check(&page, "page", "No server available: down").await;
    page.click("[data-server=\"web/web1\"] button").await;
    page.wait("document.getElementById('control').open").await;
    check(&page, "dialog", "Admin token").await;
    page.click("#control-close").await;
    page.size(390, 844).await;
    check(&page, "phone", "rejected").await;
    page.size(1440, 900).await;
    lb.signal(Signal::TERM);
    page.wait("!document.getElementById('draining').hidden")
        .await;
    check(&page, "draining", "Draining").await;
    drop(stream);
    page.wait("!document.getElementById('lost').hidden").await;
    check(&page, "lost", "No response from the balancer").await;
}
