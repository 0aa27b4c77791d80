use leastconn_testkit::Upstream;
use leastconn_testkit::client::read_line;
use serde_json::{Value, json};

use crate::page::Page;
use crate::support::{CLIENT1, NO_PROBES, Site, TLS, cn, entry, refused};

/// A description of the focused element.
const FOCUSED: &str = "(() => { const e = document.activeElement;
    return e.dataset.client ?? e.closest('[data-sort]')?.dataset.sort ?? e.getAttribute('aria-label') ?? e.id; })()";

#[tokio::test]
async fn tables_are_single_tab_stops_with_arrow_keys() {
    let web = Upstream::named("web1").await;
    let servers: Vec<_> = (1..=15)
        .map(|n| entry(&format!("web{n}"), web.addr(), ""))
        .collect();
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &servers)
        .client("client1", &cn(CLIENT1), "web", "")
        .client("client2", &cn("client2"), "web", "")
        .start()
        .await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        held.push(stream);
        refused(&lb.client("stranger"), lb.main()).await;
    }
    page.wait("document.querySelectorAll('[data-connection]').length === 3")
        .await;
    page.wait("document.querySelectorAll('[data-refusal]').length === 3")
        .await;
    let stops = page
        .eval(
            "[...document.querySelectorAll('table:has([data-server], [data-client], [data-refusal], [data-connection])')]
               .map((table) => table.querySelectorAll('[tabindex=\"0\"], button:not([tabindex]), a, input').length)",
        )
        .await;
    assert_eq!(stops, json!([1, 1, 1, 1]));

    // Tab leads into and out of the table.
    page.eval("document.getElementById('collapse-all').focus()")
        .await;
    for expected in ["", "Set the state of web/web1", "Search clients by name"] {
        page.tab().await;
        assert_eq!(page.eval(FOCUSED).await, expected);
    }
    page.eval("document.querySelector('[data-server=\"web/web1\"] button').focus()")
        .await;
    let set = |n: usize| json!(format!("Set the state of web/web{n}"));
    let keys: [(&str, Value); 9] = [
        ("ArrowDown", set(2)),
        ("ArrowDown", set(3)),
        ("ArrowUp", set(2)),
        ("PageDown", set(12)),
        ("End", set(15)),
        ("ArrowDown", set(15)),
        ("Home", set(1)),
        ("ArrowUp", json!("server")),
        ("ArrowRight", json!("state")),
    ];
    for (key, expected) in keys {
        page.press(key).await;
        assert_eq!(page.eval(FOCUSED).await, expected, "{key}");
    }
    // The table remembers its stop.
    page.press("Home").await;
    page.press("ArrowDown").await;
    page.tab().await;
    page.eval("document.querySelector('.toggle').focus()").await;
    page.tab().await;
    assert_eq!(page.eval(FOCUSED).await, set(2));

    // Rows without buttons are stops as well.
    page.eval("document.getElementById('clients-search').focus()")
        .await;
    for (key, expected) in [
        ("Tab", "client1"),
        ("ArrowDown", "client2"),
        ("ArrowUp", "client1"),
        ("ArrowUp", "name"),
    ] {
        page.press(key).await;
        assert_eq!(page.eval(FOCUSED).await, expected, "{key}");
    }
    page.press("Enter").await;
    page.wait(
        "document.querySelector('[data-sort=name]').getAttribute('aria-sort') === 'ascending'",
    )
    .await;

    // If the focused row disappears, the next one gets the focus.
    let ids =
        "[...document.querySelectorAll('[data-connection]')].map((row) => row.dataset.connection)";
    let newest = page.eval(ids).await[0].clone();
    page.eval(&format!(
        "document.querySelector('[data-connection=\"{}\"] button').focus()",
        newest.as_str().unwrap()
    ))
    .await;
    held.pop();
    page.wait("document.querySelectorAll('[data-connection]').length === 2")
        .await;
    let focused = "document.activeElement.closest('[data-connection]')?.dataset.connection";
    assert_eq!(page.eval(focused).await, page.eval(ids).await[0]);
    page.finish(&lb, held).await;
}

#[tokio::test]
async fn skip_links_lead_to_the_sections() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let links = page
        .eval("[...document.querySelectorAll('nav.skip a')].map((link) => link.hash)")
        .await;
    let links = links.as_array().unwrap();
    assert_eq!(links.len(), 5);
    for link in links {
        let link = link.as_str().unwrap();
        page.eval(&format!(
            "document.querySelector('nav.skip a[href=\"{link}\"]').focus()"
        ))
        .await;
        page.press("Enter").await;
        page.wait(&format!("'#' + document.activeElement.id === '{link}'"))
            .await;
    }
    page.finish(&lb, ()).await;
}
