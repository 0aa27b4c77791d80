use std::time::Duration;

use leastconn_testkit::client::{read_line, roundtrip};
use leastconn_testkit::{DEADLINE, Upstream};
use serde_json::{Value, json};

use crate::page::Page;
use crate::support::{CLIENT1, Running, Site, cn, refused};

/// Reads all values on the page, and the time of the response that they come from.
const SHOWN: &str = "(() => {
  const value = (e) => Number(e.dataset.value);
  const by = (selector, key, of) => Object.fromEntries(
    [...document.querySelectorAll(selector)].map((e) => [e.dataset[key], value(of(e))]));
  const text = (id) => Number(document.getElementById(id).textContent.replace(/\\u202f/g, ''));
  return {
    time: document.body.dataset.shown,
    open: text('open'), available: text('available'),
    refusals: by('#refusals tr', 'code', (e) => e.querySelector('[data-value]')),
    endings: by('#endings tr', 'code', (e) => e.querySelector('[data-value]')),
    servers: by('[data-server]', 'server', (e) => e.querySelector('b')),
    clients: by('[data-client]', 'client', (e) => e.querySelector('b')),
    connections: value(document.getElementById('connections-total')),
    ids: [...document.querySelectorAll('[data-connection]')].map((e) => Number(e.dataset.connection)),
  };
})()";

/// Returns the values that the page must show after a refresh with these responses.
fn expected(status: &Value, servers: &Value, clients: &Value, connections: &Value) -> Value {
    let outcomes = status["connections"]["outcomes"].as_object().unwrap();
    // `handshake_failed` occurs if the traffic generator stops during a handshake.
    let refusals = ["unknown_client", "rate_limited", "handshake_failed"];
    let refusal = |code: &str| refusals.contains(&code);
    let of = |wanted: bool| -> Value {
        let those = outcomes.iter().filter(|(code, _)| refusal(code) == wanted);
        those
            .map(|(code, n)| (code.clone(), n.clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let list = |answer: &Value, name: &str| answer[name].as_array().unwrap().clone();
    let active = |entries: Vec<Value>, name: fn(&Value) -> String| -> Value {
        let pairs = entries
            .iter()
            .map(|entry| (name(entry), entry["active"].clone()));
        pairs.collect::<serde_json::Map<_, _>>().into()
    };
    json!({
        "time": status["time"],
        "open": status["connections"]["open"],
        "available": status["upstreams"][0]["available"],
        "refusals": of(true),
        "endings": of(false),
        "servers": active(list(servers, "servers"), |one| {
            format!("{}/{}", one["upstream"].as_str().unwrap(), one["server"].as_str().unwrap())
        }),
        "clients": active(list(clients, "clients"), |one| {
            one["client"].as_str().unwrap().to_owned()
        }),
        "connections": connections["total"],
        "ids": list(connections, "connections").iter().map(|one| one["connection"].clone()).collect::<Vec<_>>(),
    })
}

/// Asserts that the page shows the values of the responses that it received, and returns these
/// values.
async fn compare(page: &Page) -> Value {
    let shown = page.eval(SHOWN).await;
    let mut rounds = Vec::new();
    for path in ["status", "servers", "clients", "connections"] {
        rounds.push(page.responses(path).await);
    }
    let at = rounds[0]
        .iter()
        .position(|status| status["time"] == shown["time"]);
    let at = at.unwrap_or_else(|| panic!("no response at {}", shown["time"]));
    let [status, servers, clients, connections] = [0, 1, 2, 3].map(|n| &rounds[n][at]);
    assert_eq!(shown, expected(status, servers, clients, connections));
    shown
}

fn site(webs: &[Upstream]) -> Site {
    let webs: Vec<_> = webs.iter().collect();
    Site::usual(&webs).client(
        "greedy",
        &cn("greedy.lb.com"),
        "web",
        "rate_limit = { rate = 0.001, burst = 3 }",
    )
}

/// Opens and closes connections for as long as this future is polled.
async fn traffic(lb: &Running) {
    let (client, greedy) = (lb.client(CLIENT1), lb.client("greedy.lb.com"));
    let stranger = lb.client("stranger.lb.com");
    for round in 0_u64.. {
        let mut open = Vec::new();
        for _ in 0..5 {
            let mut stream = client.connect(lb.main()).await.unwrap();
            read_line(&mut stream).await.unwrap();
            roundtrip(&mut stream, &[7; 5000]).await.unwrap();
            open.push(stream);
        }
        if round >= 3 {
            refused(&greedy, lb.main()).await;
        } else {
            let mut stream = greedy.connect(lb.main()).await.unwrap();
            read_line(&mut stream).await.unwrap();
        }
        refused(&stranger, lb.main()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn figures_match_the_api() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let lb = site(&webs).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let checks = async {
        page.wait("document.querySelectorAll('#refusals tr').length === 2")
            .await;
        for _ in 0..3 {
            compare(&page).await;
            page.wait_rounds().await;
        }
        // The page computes rates from the newest sample.
        page.wait("Number(document.getElementById('new').dataset.value) > 0")
            .await;
        page.wait("Number(document.getElementById('in').dataset.value) > 0")
            .await;
        page.wait("document.querySelector('#curve-rate').ariaLabel.includes('maximum')")
            .await;
    };
    tokio::select! {
        () = checks => {}
        () = traffic(&lb) => {}
    }

    // Without traffic, a separate API request returns the same values.
    let mut held = Vec::new();
    for _ in 0..7 {
        let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        held.push(stream);
    }
    lb.wait_metric(
        "leastconn_connections_active{listener=\"main\"}",
        7.0,
        DEADLINE,
    )
    .await;
    page.wait_rounds().await;
    let shown = compare(&page).await;
    let (_, body) = lb.http_get("/api/v1/status").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["open"], 7);
    let refusals = &status["connections"]["outcomes"];
    for code in ["unknown_client", "rate_limited"] {
        assert_eq!(shown["refusals"][code], refusals[code], "{body}");
    }
    assert_eq!(shown["servers"].as_object().unwrap().len(), 2);

    // The length of each bar is proportional to its value.
    let bars = page
        .eval("[...document.querySelectorAll('[data-server]')].map((e) => [Number(e.querySelector('b').dataset.value), new DOMMatrix(e.querySelector('.fill').style.transform).a])")
        .await;
    let bars: Vec<(f64, f64)> = serde_json::from_value(bars).unwrap();
    let most = bars.iter().fold(0.0, |most: f64, bar| most.max(bar.0));
    for (active, length) in bars {
        assert!((active / most - length).abs() < 0.001, "{active} {length}");
    }
    page.finish(&lb, held).await;
}

#[tokio::test]
async fn search_filters_connections_and_escapes_html() {
    const HOSTILE: &str = "<img src=x onerror=alert(1)>";
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web])
        .client("hostile", &cn(HOSTILE), "web", "")
        .start()
        .await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut held = Vec::new();
    for name in [CLIENT1, CLIENT1, HOSTILE] {
        let mut stream = lb.client(name).connect(lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        held.push(stream);
    }
    page.wait("document.querySelectorAll('[data-connection]').length === 3")
        .await;
    page.write("#connections-search", "ONERROR").await;
    page.wait("document.querySelectorAll('[data-connection]').length === 1")
        .await;
    let row = page.text("[data-connection]").await;
    assert!(row.contains(&format!("cn:{HOSTILE}")), "{row}");
    assert!(page.text("#connections-total").await.contains("1 match"));
    let images = page
        .eval("document.querySelectorAll('main img').length")
        .await;
    assert_eq!(images, 0);
    page.write("#connections-search", "no such connection")
        .await;
    page.wait("!document.getElementById('no-connections').hidden")
        .await;
    page.write("#clients-search", "host").await;
    page.wait("document.querySelectorAll('[data-client]').length === 1")
        .await;
    let asks = page.text("[data-client] .sub").await;
    assert_eq!(asks, format!("cn={HOSTILE}"));
    page.finish(&lb, held).await;
}
