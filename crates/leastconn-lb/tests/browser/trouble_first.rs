use leastconn_testkit::client::read_line;
use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{DEADLINE, Signal, Upstream};
use serde_json::json;

use crate::page::Page;
use crate::support::{CLIENT1, Site, TLS, cn, entries, refused};

const SERVERS: &str =
    "[...document.querySelectorAll('[data-server]')].map((row) => row.dataset.server)";

#[tokio::test]
async fn servers_and_rules_with_problems_come_first() {
    let webs = [
        Upstream::named("web1").await,
        Upstream::named("web2").await,
        Upstream::named("web3").await,
        Upstream::named("web4").await,
    ];
    let all: Vec<_> = webs.iter().collect();
    let probes = r#"health_check = { type = "tcp", interval = "100ms", fall = 1, rise = 1 }"#;
    let site = Site::new()
        .admin("token = \"token\"")
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[probes], &entries(&all))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("old", &cn("old"), "web", "expires = 2020-01-31T00:00:00Z");
    std::fs::write(site.dir.path().join("token"), "a-long-random-token").unwrap();
    let lb = site.start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let configured = json!(["web/web1", "web/web2", "web/web3", "web/web4"]);
    assert_eq!(page.eval(SERVERS).await, configured);
    page.drain("web/web3", "a-long-random-token").await;
    webs[3].stop(OpenConnections::Close).await;
    let expected = r#"["web/web4","web/web3","web/web1","web/web2"]"#;
    page.wait(&format!("JSON.stringify({SERVERS}) === '{expected}'"))
        .await;
    let note = page.text(r#"[data-server="web/web3"] .slow"#).await;
    assert_eq!(note, "empty");

    // An expired rule precedes one with connections.
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    page.wait(r#"document.querySelector('[data-client="client1"] b').dataset.value === '1'"#)
        .await;
    let rules = "[...document.querySelectorAll('[data-client]')].map((row) => row.dataset.client)";
    assert_eq!(page.eval(rules).await, json!(["old", "client1"]));
    assert_eq!(page.text(r#"[data-client="old"] .badge"#).await, "expired");

    // Red banners are before yellow ones, and the title counts them.
    page.wait("!document.title.includes('problem')").await;
    for web in &webs[..3] {
        web.stop(OpenConnections::Close).await;
    }
    page.wait("document.title.startsWith('1 problem · ')").await;
    // Banners may share a line.
    let place = |id: &str| {
        format!(
            "(({{ top, left }}) => [top, left])(document.getElementById('{id}').getBoundingClientRect())"
        )
    };
    let (red, yellow) = (
        page.eval(&place("outages")).await,
        page.eval(&place("overrides")).await,
    );
    let place = |at: &serde_json::Value| [at[0].as_f64().unwrap(), at[1].as_f64().unwrap()];
    assert!(place(&red) < place(&yellow), "{red} {yellow}");
    page.assert_no_errors().await;
    drop((page, stream));
}

#[tokio::test]
async fn host_name_is_in_title_and_header() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let host = rustix::system::uname();
    let host = host.nodename().to_str().unwrap();
    assert_eq!(page.text("#host").await, host);
    let title = format!("{host} · leastconn");
    page.wait(&format!("document.title === {}", json!(title)))
        .await;
    page.finish(&lb, ()).await;
}

#[tokio::test]
async fn draining_shows_a_countdown() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web])
        .process("drain_timeout = \"1h\"")
        .start()
        .await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    lb.signal(Signal::TERM);
    page.wait("document.getElementById('draining').textContent.includes('1 open connection left')")
        .await;
    let left = r"document.getElementById('draining').textContent.match(/closed in (\d+ min(?: \d+ s)?)/)?.[1]";
    let first = page.wait(left).await;
    page.wait(&format!(
        "(() => {{ const left = {left}; return left && left !== {first}; }})()"
    ))
    .await;
    assert!(
        page.eval("document.title")
            .await
            .as_str()
            .unwrap()
            .starts_with("draining · ")
    );
    drop(stream);
    assert!(lb.wait_exit(DEADLINE).await.success());
}

#[tokio::test]
async fn refusals_show_who_and_when() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    refused(&lb.client("stranger"), lb.main()).await;
    let last = r#"[data-code="unknown_client"] .last-refusal"#;
    page.wait(&format!(
        "document.querySelector({})?.textContent.startsWith('Last: cn:stranger from 127.0.0.1:')",
        json!(last)
    ))
    .await;
    let text = page.text(last).await;
    let time = text.rsplit(' ').next().unwrap();
    assert_eq!(time.matches(':').count(), 2, "{text}");
    let row = page.text("#last-refusals tr").await;
    assert!(
        row.contains("unknown_client") && row.contains("cn:stranger") && row.contains(time),
        "{row}"
    );
    page.finish(&lb, ()).await;
}
