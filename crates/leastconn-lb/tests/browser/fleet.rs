use leastconn_testkit::{StoreKind, StoreServer, Upstream};

use crate::page::Page;
use crate::support::{NO_PROBES, Running, Site, entries};

async fn member(name: &str, store: &StoreServer, web: &Upstream) -> Running {
    Site::new()
        .admin("socket = \"lb.sock\"")
        .fleet(name, &format!("{:?}", store.url()), "")
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await
}

#[tokio::test]
async fn fleet_is_shown_with_its_members() {
    let Some(&kind) = StoreKind::installed().first() else {
        return;
    };
    let web = Upstream::named("web1").await;
    let mut store = StoreServer::start(kind).await;
    let first = member("lb1", &store, &web).await;
    let second = member("lb2", &store, &web).await;
    let Some(page) = Page::open(&first).await else {
        return;
    };
    page.wait("!document.getElementById('fleet').hidden").await;
    page.wait("document.getElementById('fleet-state').textContent === 'joined'")
        .await;
    page.wait("document.querySelectorAll('#fleet-members tr').length === 2")
        .await;
    let own = page.text(r#"[data-member="lb1"]"#).await;
    assert!(own.contains("lb1 (this balancer)"), "{own}");
    page.wait(r#"document.querySelector('[data-member="lb2"]').textContent.includes('another configuration since')"#)
        .await;
    let address = page.text("#fleet-store").await;
    assert!(address.contains(&store.address().to_string()), "{address}");
    assert!(address.contains("round trip"), "{address}");

    store.kill();
    page.wait("!document.getElementById('fleet-problem').hidden")
        .await;
    let problem = page.text("#fleet-problem").await;
    assert!(
        problem.starts_with("Cut off from fleet test since"),
        "{problem}"
    );
    page.wait("document.getElementById('fleet-state').textContent === 'cut off'")
        .await;
    page.assert_no_errors().await;
    drop(page);
    first.quiet().await;
    drop(second);
}
