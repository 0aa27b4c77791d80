use std::time::Duration;

use leastconn_testkit::client::read_line;
use leastconn_testkit::{DEADLINE, Upstream};
use serde_json::Value;

use crate::page::Page;
use crate::support::{CLIENT1, Site};

#[tokio::test]
async fn latency_is_shown_as_in_the_history() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    assert_eq!(page.text("#handshake-p50").await, "–");
    // Repeat the handshakes: the values are those of the last ten seconds.
    let traffic = async {
        loop {
            let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
            read_line(&mut stream).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let values = page.wait(
        "(() => { const values = ['handshake-p50', 'handshake-p99', 'connect-p50', 'connect-p99']
           .map((id) => Number(document.getElementById(id).dataset.value));
           return values.every((value) => value > 0) && [...values, document.body.dataset.shown]; })()",
    );
    let shown = tokio::select! {
        shown = values => shown,
        () = traffic => unreachable!("endless"),
    };
    let statuses = page.responses("status").await;
    let histories = page.responses("history").await;
    let round = statuses
        .iter()
        .position(|status| status["time"] == shown[4])
        .unwrap();
    let sample = histories[round]["samples"].as_array().unwrap().last();
    let sample = sample.unwrap();
    let expected = ["handshake", "connect"]
        .map(|name| ["p50_ms", "p99_ms"].map(|quantile| sample[name][quantile].as_f64()));
    for (at, expected) in expected.concat().into_iter().enumerate() {
        assert_eq!(shown[at].as_f64(), expected, "{shown} {sample}");
    }
    assert!(
        shown[0].as_f64() <= shown[1].as_f64() && shown[2].as_f64() <= shown[3].as_f64(),
        "{shown}"
    );
    page.wait("document.querySelector('#curve-latency').ariaLabel.includes('handshake p99: now ')")
        .await;
    page.finish(&lb, ()).await;
}

#[tokio::test]
async fn count_axes_have_whole_numbers() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    // With a single connection, an axis that is divided evenly has fractions.
    page.wait("document.getElementById('curve-open').ariaLabel.includes('maximum 1')")
        .await;
    for curve in ["curve-open", "curve-rate"] {
        let ticks = page
            .wait(&format!("document.getElementById('{curve}').dataset.ticks"))
            .await;
        let ticks: Vec<f64> = ticks
            .as_str()
            .unwrap()
            .split(' ')
            .map(|tick| tick.parse().unwrap())
            .collect();
        assert!(ticks.len() >= 2, "{ticks:?}");
        assert!(ticks.iter().all(|tick| tick.fract() == 0.0), "{ticks:?}");
    }
    page.finish(&lb, stream).await;
}

#[tokio::test]
async fn servers_have_a_history() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        held.push(stream);
    }
    lb.wait_metric(
        "leastconn_connections_active{listener=\"main\"}",
        3.0,
        DEADLINE,
    )
    .await;
    let spark = r#"document.querySelector('[data-server="web/web1"] .spark')"#;
    page.wait(&format!(
        "{spark}.getAttribute('aria-label').endsWith(' 3 open')"
    ))
    .await;
    page.wait(&format!(
        "{spark}.querySelector('.line').getAttribute('d').includes('L')"
    ))
    .await;
    page.finish(&lb, held).await;
}

#[tokio::test]
async fn crl_badge_is_relative_to_its_validity() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let (_, body) = lb.http_get("/api/v1/status").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    let files = status["certificates"].as_array().unwrap();
    let crl = files.iter().find(|one| one["kind"] == "crl").unwrap();
    let days = |key: &str| -> jiff::Timestamp { crl[key].as_str().unwrap().parse().unwrap() };
    let validity = (days("not_after").as_second() - days("not_before").as_second()) / 86_400;
    let rows = page.text("#certificates").await;
    assert!(
        validity > 0 && rows.contains(&format!("of {validity} d")),
        "{validity}: {rows}"
    );
    page.finish(&lb, ()).await;
}
