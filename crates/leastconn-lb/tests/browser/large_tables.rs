use leastconn_testkit::Upstream;
use leastconn_testkit::client::read_line;
use serde_json::Value;

use crate::page::Page;
use crate::support::{NO_PROBES, Running, Site, entry, tcp};

// More servers than the page shows by default, but few enough for a debug build to load
// quickly.
const SERVERS: usize = 300;
const RULES: usize = 500;
const CONNECTIONS: usize = 200;

async fn large_site(web: &Upstream) -> Running {
    let servers: Vec<_> = (0..SERVERS)
        .map(|n| entry(&format!("server{n}"), web.addr(), ""))
        .collect();
    let mut site = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "");
    for n in 0..RULES {
        let source = format!("source = \"10.0.{}.{}\"", n / 250, n % 250);
        site = site.client(&format!("client{n}"), &source, "web", "");
    }
    site.start().await
}

/// The page fetches only the rows that it shows.
#[tokio::test]
async fn large_tables_request_only_shown_rows() {
    let web = Upstream::named("web1").await;
    let lb = large_site(&web).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = tcp(lb.main()).await;
        read_line(&mut stream).await.unwrap();
        held.push(stream);
    }
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    page.wait(&format!(
        "Number(document.getElementById('open').dataset.value) === {CONNECTIONS}"
    ))
    .await;
    page.wait_rounds().await;
    for (rows, shown) in [("server", 40), ("client", 12), ("connection", 20)] {
        let rows = format!("document.querySelectorAll('[data-{rows}]').length");
        assert_eq!(page.eval(&rows).await, shown);
    }
    let answers = [("servers", 40), ("clients", 12), ("connections", 20)];
    for (path, shown) in answers {
        let answers = page.responses(path).await;
        let lengths = answers
            .iter()
            .map(|answer| answer[path].as_array().unwrap().len());
        assert!(lengths.into_iter().all(|length| length == shown), "{path}");
    }
    // Show all servers. The next update keeps the existing rows.
    page.click("#upstreams .all").await;
    page.wait(&format!(
        "document.querySelectorAll('[data-server]').length === {SERVERS}"
    ))
    .await;
    page.eval("void (globalThis.row = document.querySelector('[data-server]'))")
        .await;
    page.wait_rounds().await;
    let same = page
        .eval("globalThis.row === document.querySelector('[data-server]')")
        .await;
    assert_eq!(same, Value::Bool(true));
    page.finish(&lb, held).await;
}
