use leastconn_testkit::Upstream;
use leastconn_testkit::client::read_line;
use serde_json::json;

use crate::page::Page;
use crate::support::{NO_PROBES, Running, Site, connect_from, entry};

const SERVERS: usize = 60;
const CLIENTS: usize = 300;

/// A balancer with 60 servers in two upstreams, and 300 client rules.
async fn site(web: &Upstream) -> Running {
    let servers = |name: &str, count: usize| -> Vec<_> {
        let names = (1..=count).map(|n| format!("{name}{n}"));
        names.map(|name| entry(&name, web.addr(), "")).collect()
    };
    let limited = entry("limited", web.addr(), ", max_conns = 44");
    let mut site = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &servers("web", SERVERS - 11))
        .upstream(
            "db",
            &[NO_PROBES],
            &[servers("db", 10), vec![limited]].concat(),
        );
    for n in 1..=CLIENTS {
        let source = format!("source = \"127.0.{}.{}\"", 10 + n / 250, n % 250);
        site = site.client(&format!("client{n}"), &source, "web", "");
    }
    site.start().await
}

const ROWS: &str =
    "[...document.querySelectorAll('[data-server^=\"web/\"]')].map((row) => row.dataset.server)";
/// Texts that are wider or higher than their elements.
const CUT: &str = "[...document.querySelectorAll('.name, .sub:not(.outage), .toggle, .amount')].filter((one) => one.checkVisibility()
                   && (one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0 || one.scrollHeight > one.clientHeight + 1 && one.clientHeight > 0))
                   .map((one) => one.textContent)";

const ALL: &str = "document.querySelectorAll('[data-server]').length";

#[tokio::test]
async fn servers_are_filtered_sorted_and_collapsed() {
    let web = Upstream::named("web1").await;
    let lb = site(&web).await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    assert_eq!(page.text("#servers-total").await, "60 servers");
    assert_eq!(
        page.text(r#"[data-server="db/limited"] .amount"#).await,
        "0/44"
    );
    let plain = page.text(r#"[data-server="db/db1"] .amount"#).await;
    assert_eq!(plain, "0");

    // Sorting by name fetches all servers, and sorts numbers in names by value.
    let heading = "section[aria-label=\"Upstream web\"] [data-sort=server]";
    page.click(&format!("{heading} button")).await;
    page.wait(&format!("{ALL} === {SERVERS}")).await;
    let rows = page.eval(ROWS).await;
    assert_eq!(
        [&rows[0], &rows[1], &rows[9]],
        ["web/web1", "web/web2", "web/web10"]
    );
    let direction = format!("document.querySelector('{heading}').getAttribute('aria-sort')");
    assert_eq!(page.eval(&direction).await, "ascending");
    page.click(&format!("{heading} button")).await;
    assert_eq!(page.eval(ROWS).await[0], format!("web/web{}", SERVERS - 11));
    assert_eq!(page.eval(&direction).await, "descending");
    page.click(&format!("{heading} button")).await;
    assert_eq!(page.eval(&direction).await, json!(null));

    page.write("#servers-filter", "WEB/WEB4").await;
    page.wait(&format!("{ALL} === 11")).await;
    assert_eq!(page.text("#servers-total").await, "11 matches");
    page.write("#servers-filter", "no such server").await;
    page.wait("!document.getElementById('no-upstreams').hidden")
        .await;
    assert_eq!(page.eval(ALL).await, 0);
    page.write("#servers-filter", "db").await;
    page.wait(&format!("{ALL} === 11")).await;

    // Collapsed upstreams show their totals, also after a reload of the page.
    page.click("section[aria-label=\"Upstream db\"] .toggle")
        .await;
    let body = |name: &str| {
        format!("document.querySelector('section[aria-label=\"Upstream {name}\"] .servers').hidden")
    };
    assert_eq!(page.eval(&body("db")).await, true);
    let head = page.text("section[aria-label=\"Upstream db\"]").await;
    assert!(
        head.contains("11 of 11 available") && head.contains("0 open"),
        "{head}"
    );
    page.send("Page.reload", json!({})).await;
    page.wait("document.readyState === 'complete' && document.body.dataset.shown")
        .await;
    assert_eq!(page.eval(&body("db")).await, true);
    assert_eq!(page.eval(&body("web")).await, false);
    page.click("#collapse-all").await;
    assert_eq!(page.eval(&body("web")).await, true);
    assert_eq!(page.text("#collapse-all").await, "Expand all");
    page.click("#collapse-all").await;
    assert_eq!(page.eval(&body("web")).await, false);
    assert_eq!(page.eval(&body("db")).await, false);
    page.finish(&lb, ()).await;
}

#[tokio::test]
async fn all_clients_are_sorted_by_column() {
    let web = Upstream::named("web1").await;
    let lb = site(&web).await;
    let connect = async |client: usize| {
        let source = [127, 0, 10 + (client / 250) as u8, (client % 250) as u8];
        let mut stream = connect_from(source, lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        stream
    };
    // One rule has an open connection, another one has had more connections.
    let held = connect(299).await;
    for _ in 0..3 {
        drop(connect(150).await);
    }
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    assert_eq!(page.text("#clients-total").await, "300 rules");
    let first = |n: usize| {
        format!(
            "[...document.querySelectorAll('[data-client]')].slice(0, {n}).map((row) => row.dataset.client).join()"
        )
    };
    let wait = async |n: usize, names: &str| {
        page.wait(&format!("{} === '{names}'", first(n))).await;
    };
    // Rules that the page does not show by default are part of every order.
    wait(3, "client299,client150,client1").await;
    page.click("table:has(#clients) [data-sort=connections] button")
        .await;
    wait(3, "client150,client299,client1").await;
    page.click("[data-sort=name] button").await;
    wait(3, "client1,client10,client100").await;
    let sorted = "document.querySelector('[data-sort=name]').getAttribute('aria-sort')";
    assert_eq!(page.eval(sorted).await, "ascending");
    page.click("[data-sort=name] button").await;
    wait(3, "client299,client150,client1").await;
    page.click("#clients-all").await;
    page.wait("document.querySelectorAll('[data-client]').length === 300")
        .await;
    page.finish(&lb, held).await;
}

#[tokio::test]
async fn names_are_complete_on_a_phone() {
    let web = Upstream::named("web1").await;
    let long = "inventory-production-eu-west-1-replica-";
    let names: Vec<_> = (1..=3).map(|n| format!("{long}{n}")).collect();
    let servers: Vec<_> = names
        .iter()
        .map(|name| entry(name, web.addr(), ""))
        .collect();
    let mut site = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(&format!("{long}a"), &[NO_PROBES], &servers)
        .upstream("web", &[NO_PROBES], &servers);
    for n in 1..=3 {
        let source = format!("source = \"127.0.10.{n}\"");
        site = site.client(&format!("{long}client-{n}"), &source, "web", "");
    }
    let lb = site.start().await;
    let mut held = Vec::new();
    for n in [1, 1, 2] {
        let mut stream = connect_from([127, 0, 10, n], lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        held.push(stream);
    }
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    page.wait("document.querySelectorAll('[data-connection]').length === 3")
        .await;
    for width in [390, 360, 1280] {
        page.size(width, 844).await;
        // No text is wider or higher than its element.
        let cut = page.eval(CUT).await;
        assert_eq!(cut, json!([]), "at a width of {width}");
        let hidden = page
            .eval(
                "[...document.querySelectorAll('.name, .sub')].filter((one) => one.checkVisibility()
                   && one.getBoundingClientRect().right > document.documentElement.clientWidth).map((one) => one.textContent)",
            )
            .await;
        assert_eq!(hidden, json!([]), "at a width of {width}");
        // No two rows look the same.
        for rows in [
            "[data-server^='web/']",
            "[data-client]",
            "[data-connection]",
        ] {
            let texts = page
                .eval(&format!(
                    "[...document.querySelectorAll({})].map((row) => row.querySelector('th').innerText)",
                    json!(rows)
                ))
                .await;
            let mut texts = texts.as_array().unwrap().clone();
            let count = texts.len();
            if width < 600 || rows != "[data-connection]" {
                texts.sort_by_key(ToString::to_string);
                texts.dedup();
                assert_eq!(texts.len(), count, "{rows}: {texts:?}");
            }
            assert_eq!(count, 3, "{rows}");
        }
    }
    // The check finds truncated names, so it can fail.
    page.size(390, 844).await;
    page.eval("[...document.styleSheets].at(-1).insertRule('.name { overflow: hidden; white-space: nowrap !important }')")
        .await;
    assert_ne!(page.eval(CUT).await, json!([]));
    page.finish(&lb, held).await;
}
