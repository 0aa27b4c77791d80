use leastconn_testkit::Upstream;
use leastconn_testkit::client::{read_line, roundtrip};
use serde_json::json;

use crate::page::Page;
use crate::support::{CLIENT1, Site};

const SET: &str = "[data-server=\"web/web1\"] button";
const READY: &str = "#control-choices button:nth-child(1)";
const DRAIN: &str = "#control-choices button:nth-child(2)";
const BADGE: &str = "document.querySelector('[data-server=\"web/web1\"] .badge').textContent";

#[tokio::test]
async fn drain_and_ready_buttons_change_server_state() {
    const TOKEN: &str = "a-long-random-token";
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let site = Site::usual(&[&webs[0], &webs[1]]).admin("token = \"token\"");
    std::fs::write(site.dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let lb = site.start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let connect = async || {
        let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        let name = read_line(&mut stream).await.unwrap();
        (name, stream)
    };
    let mut held = vec![connect().await, connect().await];

    page.click(SET).await;
    page.write("#control-token", "a-wrong-token").await;
    page.click(DRAIN).await;
    page.wait("document.getElementById('control-result').textContent.includes('Wrong token')")
        .await;
    page.write("#control-token", TOKEN).await;
    page.click(DRAIN).await;
    page.wait(
        "document.getElementById('control-result').textContent === 'web/web1 is set to drain.'",
    )
    .await;
    page.click("#control-close").await;
    page.wait(&format!("{BADGE} === 'drain'")).await;
    assert!(
        page.text("#override-list")
            .await
            .contains("web/web1 is drain")
    );
    assert_eq!(page.text("#available").await, "1");

    // New connections go to the other server. The open connection continues.
    for _ in 0..5 {
        let (name, stream) = connect().await;
        assert_eq!(name, "web2");
        held.push((name, stream));
    }
    let (_, stream) = held.iter_mut().find(|one| one.0 == "web1").unwrap();
    assert_eq!(roundtrip(stream, b"hello").await.unwrap(), b"hello");

    // The page keeps the token until it is reloaded, and never stores it.
    let asks_for_token = "!document.getElementById('control-token-label').hidden";
    page.click(SET).await;
    assert_eq!(page.eval(asks_for_token).await, false);
    page.send("Page.reload", json!({})).await;
    page.wait("document.readyState === 'complete' && document.body.dataset.shown")
        .await;
    let stored = "sessionStorage.length + localStorage.length + document.cookie.length";
    assert_eq!(page.eval(stored).await, 0);
    page.click(SET).await;
    assert_eq!(page.eval(asks_for_token).await, true);
    page.click(READY).await;
    page.wait("document.getElementById('control-result').textContent === 'Enter the token first.'")
        .await;
    page.write("#control-token", TOKEN).await;
    page.click(READY).await;
    page.wait(&format!("{BADGE} === 'unchecked'")).await;
    page.wait("document.getElementById('overrides').hidden")
        .await;
    let (name, stream) = connect().await;
    assert_eq!(name, "web1");
    page.assert_same_origin_requests().await;
    drop((page, held, stream));
    lb.quiet().await;
}

#[tokio::test]
async fn state_commands_are_shown_without_a_token() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    page.click(SET).await;
    page.wait("document.getElementById('control').open").await;
    assert_eq!(page.text("#control-title").await, "web/web1");
    let file = lb.dir().join("leastconn.toml");
    let commands = page
        .eval("[...document.querySelectorAll('#control-commands code')].map((e) => e.innerText)")
        .await;
    let command = |state| {
        let file = file.display();
        format!("leastconn-lb ctl --config {file} {state} web/web1")
    };
    assert_eq!(commands, json!([command("drain"), command("maint")]));
    let hint = page.text("#control-hint").await;
    assert!(
        hint.contains("Changes are disabled at this address"),
        "{hint}"
    );
    for hidden in ["control-choices", "control-token-label"] {
        let hidden = format!("document.getElementById('{hidden}').hidden");
        assert_eq!(page.eval(&hidden).await, true);
    }

    // After a reload that configures a token, the open dialog offers to change the state.
    std::fs::write(lb.dir().join("token"), "a-long-random-token").unwrap();
    let changed = lb.config().replace("[admin]", "[admin]\ntoken = \"token\"");
    assert_eq!(lb.reload(&changed).await, "applied");
    page.wait("!document.getElementById('control-token-label').hidden")
        .await;
    assert_eq!(page.eval(BADGE).await, "unchecked");
    page.finish(&lb, ()).await;
}
