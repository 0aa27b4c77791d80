use std::path::Path;

use leastconn_testkit::Upstream;
use leastconn_testkit::client::read_line;
use serde_json::{Value, json};

use crate::page::Page;
use crate::support::upgrading::Stream;
use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, entry};

/// Starts a balancer with long names, and this number of servers in its second upstream.
async fn crowded(web: &Upstream, servers: usize) -> Running {
    let long = format!("{}-web", "a-very-long-name".repeat(3));
    let many: Vec<_> = (0..servers)
        .map(|n| entry(&format!("server{n}"), web.addr(), ""))
        .collect();
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .upstream(&long, &[NO_PROBES], &many)
        .client("client1", &cn(CLIENT1), "web", "max_conns = 7")
        .client(
            &format!("{long}-client"),
            "dns = \"*.apps.lb.com\"",
            "web",
            "",
        )
        .start()
        .await
}

/// Opens the dashboard and one connection, and waits until the page shows it. Returns `None` if
/// there is no browser.
async fn open_connected(lb: &Running) -> Option<(Page, Stream)> {
    let page = Page::open(lb).await?;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    page.wait("document.querySelectorAll('[data-connection]').length === 1")
        .await;
    Some((page, stream))
}

#[tokio::test]
async fn layout_fits_every_width_and_theme() {
    let web = Upstream::named("web1").await;
    let lb = crowded(&web, 300).await;
    let Some((page, stream)) = open_connected(&lb).await else {
        return;
    };
    for (width, height) in [
        (360, 640),
        (390, 844),
        (768, 1024),
        (1440, 900),
        (2560, 1440),
    ] {
        page.size(width, height).await;
        let overflow = page
            .eval("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            .await;
        assert_eq!(overflow, 0, "page at a width of {width}");
    }
    page.size(1440, 900).await;

    // The page shows only some of the servers by default.
    let rows = "document.querySelectorAll('[data-server]').length";
    assert_eq!(page.eval(rows).await, 41);
    page.click("#upstreams .all:not([hidden])").await;
    page.wait(&format!("{rows} === 301")).await;

    let background = "getComputedStyle(document.body).backgroundColor";
    let light = page.eval(background).await;
    page.media("prefers-color-scheme", "dark").await;
    let dark = page.eval(background).await;
    assert_ne!(light, dark);
    page.click("#theme").await;
    assert_eq!(page.text("#theme").await, "Theme: light");
    assert_eq!(page.eval(background).await, light);
    page.click("#theme").await;
    page.media("prefers-color-scheme", "light").await;
    assert_eq!(page.eval(background).await, dark);
    // The selected theme survives a reload of the page.
    page.send("Page.reload", json!({})).await;
    page.wait("document.readyState === 'complete' && document.body.dataset.shown")
        .await;
    assert_eq!(page.eval(background).await, dark);
    page.media("prefers-reduced-motion", "reduce").await;
    let duration = "getComputedStyle(document.querySelector('.fill')).transitionDuration";
    assert_eq!(page.eval(duration).await, "0s");
    page.finish(&lb, stream).await;
}

#[tokio::test]
async fn keyboard_reaches_every_control_in_order() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut reached = Vec::new();
    for _ in 0..16 {
        page.tab().await;
        let at = "(() => { const e = document.activeElement;
            return e.id || e.getAttribute('aria-label') || e.textContent.trim(); })()";
        if page.eval("document.activeElement === document.body").await == true {
            break;
        }
        reached.push(page.eval(at).await.as_str().unwrap().to_owned());
        // The focused element has a visible outline.
        let outline = page
            .eval("getComputedStyle(document.activeElement).outlineStyle")
            .await;
        assert_eq!(outline, "solid", "{reached:?}");
    }
    let wanted = [
        "Skip to content",
        "theme",
        "Set the state of web/web1",
        "clients-search",
        "connections-search",
    ];
    let mut order = reached.iter();
    for name in wanted {
        assert!(order.any(|at| at == name), "{name} in {reached:?}");
    }
    page.assert_no_errors().await;
}

#[tokio::test]
async fn accessibility_tree_is_complete() {
    let web = Upstream::named("web1").await;
    let lb = crowded(&web, 300).await;
    let Some((page, stream)) = open_connected(&lb).await else {
        return;
    };

    let tree = page.send("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().unwrap();
    let seen = nodes.iter().filter(|node| node["ignored"] != true);
    let seen: Vec<_> = seen
        .map(|node| {
            let text = |key: &str| node[key]["value"].as_str().unwrap_or_default();
            (text("role"), text("name"))
        })
        .collect();
    for role in ["banner", "main", "contentinfo", "status"] {
        assert!(seen.iter().any(|one| one.0 == role), "no {role}");
    }
    for (role, name) in &seen {
        if [
            "button",
            "link",
            "searchbox",
            "table",
            "img",
            "region",
            "dialog",
        ]
        .contains(role)
        {
            assert!(!name.is_empty(), "a {role} without a name: {seen:?}");
        }
    }
    for (role, name) in [
        ("table", "Servers of web"),
        ("heading", "Live connections"),
        ("searchbox", "Search clients by name"),
        ("button", "Set the state of web/web1"),
        ("rowheader", "web1"),
    ] {
        let found = |one: &&(&str, &str)| one.0 == role && one.1.starts_with(name);
        assert!(seen.iter().any(|one| found(&one)), "no {role} {name}");
    }
    let chart = seen
        .iter()
        .find(|one| one.1.starts_with("Open connections over"));
    assert!(
        chart.is_some_and(|one| one.1.contains("maximum")),
        "{chart:?}"
    );

    drop((page, stream));
    lb.quiet().await;
}

/// Runs the checks of axe-core if `scripts/setup.sh --browser` has downloaded it.
#[tokio::test]
async fn axe_reports_no_violations() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/browser/axe.min.js");
    let Ok(axe) = std::fs::read_to_string(&file) else {
        eprintln!("skipped: {} does not exist", file.display());
        return;
    };
    let web = Upstream::named("web1").await;
    // axe-core checks each element, and all rows have the same elements.
    let lb = crowded(&web, 3).await;
    let Some((page, stream)) = open_connected(&lb).await else {
        return;
    };
    page.eval(&format!("{axe}; true")).await;
    for (scheme, opened) in [
        ("light", false),
        ("dark", false),
        ("light", true),
        ("dark", true),
    ] {
        page.media("prefers-color-scheme", scheme).await;
        if opened {
            page.click("[data-server=\"web/web1\"] button").await;
            page.wait("document.getElementById('control').open").await;
        }
        // Wait until CSS transitions have finished: before, the contrast is not final.
        let faults = page
            .eval("Promise.all(document.getAnimations().map((a) => a.finished)).then(() => axe.run()).then((found) =>
               found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.failureSummary + n.html).join('; ')}`))")
            .await;
        assert_eq!(
            faults,
            Value::Array(Vec::new()),
            "{scheme}, dialog: {opened}"
        );
        if opened {
            page.click("#control-close").await;
        }
    }
    drop((page, stream));
    lb.quiet().await;
}
