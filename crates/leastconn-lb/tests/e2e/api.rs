//! The answers of `/api/v1` agree with the state of the balancer and with the access log.

use leastconn_testkit::client::{read_line, roundtrip};
use leastconn_testkit::{Behaviour, DEADLINE, Upstream, eventually};
use serde_json::{Value, json};

use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, refused};

async fn get(lb: &Running, path: &str) -> Value {
    let (status, body) = lb.http_get(&format!("/api/v1/{path}")).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn site(servers: &[&Upstream]) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(servers))
        .client(
            "client1",
            &cn(CLIENT1),
            "web",
            "rate_limit = { rate = 2.5, burst = 20 }\nmax_conns = 7",
        )
        .client(
            "apps",
            r#"dns = "*.apps.lb.com", source = "127.0.0.0/8""#,
            "web/web1",
            "",
        )
}

#[tokio::test]
async fn open_connections_match_their_later_records() {
    let web = Upstream::start(Behaviour::Named("web1".to_owned())).await;
    let lb = site(&[&web]).start().await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    roundtrip(&mut stream, b"hello").await.unwrap();
    let shown = eventually(DEADLINE, || async {
        let shown = get(&lb, "connections").await;
        // The balancer counts bytes after it has forwarded them, so the client may receive
        // bytes before they are counted.
        let all = shown["connections"][0]["bytes_sent"] == 10;
        all.then_some(shown.clone()).ok_or(shown.to_string())
    })
    .await
    .unwrap();
    assert_eq!(shown["total"], 1);
    let connection = &shown["connections"][0];
    assert_eq!(connection["stage"], "relaying");
    assert_eq!(connection["client"], "client1");
    assert_eq!(connection["identity"], format!("cn:{CLIENT1}"));
    assert_eq!(connection["upstream"], "web");
    assert_eq!(connection["server"], "web1");

    for (query, matching) in [
        ("client=client1", 1),
        ("client=client", 0),
        ("listener=main", 1),
        ("listener=other", 0),
        ("server=web", 1),
        ("server=web/web1", 1),
        ("server=web/web2", 0),
        ("search=CLIENT1.lb", 1),
        ("search=nobody", 0),
        ("search=127.0.0.1&client=client1&server=web/web1", 1),
    ] {
        let found = get(&lb, &format!("connections?{query}")).await;
        assert_eq!(found["total"], matching, "{query}");
        assert_eq!(found["connections"].as_array().unwrap().len(), matching);
    }
    let none = get(&lb, "connections?limit=0").await;
    assert_eq!(none, json!({ "connections": [], "total": 1 }));

    drop(stream);
    let record = lb.wait_records(1).await.swap_remove(0);
    // An open connection and its access record share these fields.
    for key in [
        "connection",
        "time",
        "listener",
        "source",
        "client",
        "identity",
        "serial",
        "upstream",
        "server",
        "bytes_received",
        "bytes_sent",
    ] {
        if key == "time" {
            // The API computes the start time from the age of the connection. A stall of the
            // balancer makes the result inexact.
            let [shown, logged]: [jiff::Timestamp; 2] =
                [connection, &record].map(|of| of[key].as_str().unwrap().parse().unwrap());
            let off = shown.duration_since(logged).abs();
            assert!(off <= jiff::SignedDuration::from_secs(1), "{off:?}");
        } else {
            assert_eq!(connection[key], record[key], "{key}");
        }
    }
    eventually(DEADLINE, || async {
        let left = get(&lb, "connections").await["total"].clone();
        (left == 0).then_some(()).ok_or(left.to_string())
    })
    .await
    .unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn status_servers_and_clients_add_up() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let lb = site(&[&webs[0], &webs[1]]).start().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        open.push(stream);
    }
    refused(&lb.client("stranger"), lb.main()).await;
    lb.wait_records(1).await;

    let status = eventually(DEADLINE, || async {
        let status = get(&lb, "status").await;
        // The balancer counts bytes after it has forwarded them, so the clients may receive
        // bytes before they are counted.
        let all = status["connections"]["bytes_sent"] == 4 * 5;
        all.then_some(status.clone()).ok_or(status.to_string())
    });
    let status = status.await.unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["phase"], "ready");
    assert_eq!(status["workers"], 2);
    assert_eq!(status["connections"]["open"], 4);
    assert_eq!(status["connections"]["accepted"], 5);
    assert_eq!(
        status["connections"]["outcomes"],
        json!({ "unknown_client": 1 })
    );
    assert_eq!(status["configuration"]["clients"], 2);
    assert_eq!(status["configuration"]["epoch"], 0);
    assert_eq!(status["configuration"]["last_reload"], Value::Null);
    let listener = &status["listeners"][0];
    assert_eq!(listener["addresses"], json!([lb.main().to_string()]));
    assert_eq!(listener["client_certificate"], true);
    assert_eq!(
        status["upstreams"],
        json!([{ "name": "web", "balance": "least_conn", "servers": 2, "unhealthy": 0, "available": 2, "failing": 0, "at_max_conns": 0, "active": 4, "queued": 0, "queue_size": 0 }])
    );
    let files = status["certificates"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    let ends: Vec<_> = files
        .iter()
        .map(|file| file["not_after"].as_str().unwrap())
        .collect();
    assert!(ends.is_sorted(), "{ends:?}");

    let servers = get(&lb, "servers").await;
    for (server, web) in servers["servers"].as_array().unwrap().iter().zip(&webs) {
        assert_eq!(server["address"], web.addr().to_string());
        assert_eq!(server["active"], 2, "{servers}");
        assert_eq!(server["connections"], 2, "{servers}");
        assert_eq!(server["state"], "ready");
        assert_eq!(server["health"], "up");
    }

    let clients = get(&lb, "clients").await;
    assert_eq!(
        clients["clients"][0],
        json!({
            "client": "client1", "match": [format!("cn={CLIENT1}")], "allow": ["web"],
            "mode": "enforce", "rate_limit": { "rate": 2.5, "burst": 20 }, "max_conns": 7,
            "active": 4, "connections": 4, "refused": 0, "failed": 0, "ended": 0, "outcomes": {},
        })
    );
    assert_eq!(
        clients["clients"][1]["match"],
        json!(["dns=*.apps.lb.com", "source=127.0.0.0/8"])
    );
    assert_eq!(clients["clients"][1]["allow"], json!(["web/web1"]));
    let found = get(&lb, "clients?search=app&sort=active").await;
    assert_eq!(found["total"], 1);
    assert_eq!(found["clients"][0]["client"], "apps");

    drop(open);
    lb.wait_records(5).await;
    lb.quiet().await;
    let clients = get(&lb, "clients?sort=active&limit=1").await;
    assert_eq!(clients["total"], 2);
    assert_eq!(clients["clients"].as_array().unwrap().len(), 1);
    assert_eq!(clients["clients"][0]["connections"], 4);
}

#[tokio::test]
async fn last_reload_is_reported() {
    let web = Upstream::named("web1").await;
    let lb = site(&[&web]).start().await;
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    let configuration = get(&lb, "status").await["configuration"].clone();
    assert_eq!(configuration["epoch"], 1);
    assert_eq!(configuration["last_reload"]["outcome"], "applied");
    assert_eq!(
        configuration["applied"],
        configuration["last_reload"]["time"]
    );

    let wrong = lb.config().replace("max_conns = 7", "max_cons = 7");
    assert_eq!(lb.reload(&wrong).await, "rejected");
    let after = get(&lb, "status").await["configuration"].clone();
    assert_eq!(after["epoch"], 1);
    assert_eq!(after["applied"], configuration["applied"]);
    assert_eq!(after["last_reload"]["outcome"], "rejected");
    let reason = after["last_reload"]["reasons"][0].as_str().unwrap();
    assert!(
        reason.contains("max_cons") && reason.contains("max_conns"),
        "{reason}"
    );
    lb.quiet().await;
}

#[tokio::test]
async fn connections_are_sorted() {
    let web = Upstream::start(Behaviour::Named("web1".to_owned())).await;
    let lb = site(&[&web]).start().await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        streams.push(stream);
    }
    let ids = async |query: &str| -> Vec<u64> {
        let found = get(&lb, &format!("connections?{query}")).await;
        let all = found["connections"].as_array().unwrap().iter();
        all.map(|one| one["connection"].as_u64().unwrap()).collect()
    };
    let oldest = ids("sort=oldest").await;
    assert!(oldest.is_sorted() && oldest.len() == 3, "{oldest:?}");
    let newest: Vec<_> = oldest.iter().rev().copied().collect();
    assert_eq!(ids("").await, newest);
    assert_eq!(ids("sort=newest").await, newest);
    roundtrip(&mut streams[1], &[7; 5000]).await.unwrap();
    // The balancer counts bytes after it has forwarded them.
    for order in ["received", "sent"] {
        eventually(DEADLINE, || async {
            let first = ids(&format!("sort={order}&limit=1")).await;
            (first == [oldest[1]])
                .then_some(())
                .ok_or(format!("{order}: {first:?}"))
        })
        .await
        .unwrap();
    }
    drop(streams);
    lb.quiet().await;
}

#[tokio::test]
async fn history_covers_the_last_minutes() {
    let web = Upstream::named("web1").await;
    let lb = site(&[&web]).start().await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    refused(&lb.client("stranger"), lb.main()).await;
    lb.wait_records(1).await;
    // The samples up to this point may be older than the connection.
    let earlier = get(&lb, "history").await["samples"]
        .as_array()
        .unwrap()
        .len();
    let history = eventually(DEADLINE, || async {
        let history = get(&lb, "history").await;
        let enough = history["samples"].as_array().unwrap().len() > earlier;
        enough.then_some(history.clone()).ok_or(history.to_string())
    })
    .await
    .unwrap();
    // The samples contain the refused connection at most once. They do not contain it if it
    // was refused before the sampling started. All samples after `earlier` count the open
    // connection.
    let interval = history["interval_seconds"].as_f64().unwrap();
    assert!(interval > 0.0);
    let mut refusals = 0.0;
    for (n, sample) in history["samples"].as_array().unwrap().iter().enumerate() {
        assert!(n < earlier || sample["open"] == 1, "{history}");
        refusals += sample["refused_per_second"].as_f64().unwrap() * interval;
    }
    assert!(refusals < 1.5, "{history}");
    let server = get(&lb, "servers?history=true").await["servers"][0].take();
    assert!(server["history"]["open"].is_array(), "{server}");
    let server = get(&lb, "servers").await["servers"][0].take();
    assert!(server["history"].is_null(), "{server}");
    let none = get(&lb, "history?last=0").await["samples"].clone();
    assert_eq!(none, json!([]));
    let last = get(&lb, "history?last=1").await["samples"].clone();
    assert_eq!(last.as_array().unwrap().len(), 1);
    let all = history["samples"].as_array().unwrap();
    assert!(last[0]["time"].as_str() >= all.last().unwrap()["time"].as_str());
    // Quantiles are those of the last ten seconds, so repeat the handshakes.
    let handshake = eventually(DEADLINE, || async {
        drop(lb.client(CLIENT1).connect(lb.main()).await.unwrap());
        let last = get(&lb, "history?last=1").await["samples"][0]["handshake"].take();
        last.is_object()
            .then_some(last)
            .ok_or_else(|| "no handshakes".to_owned())
    });
    let handshake = handshake.await.unwrap();
    let quantile = |name: &str| handshake[name].as_f64().unwrap();
    assert!(quantile("p50_ms") > 0.0, "{handshake}");
    assert!(quantile("p50_ms") <= quantile("p99_ms"), "{handshake}");
    drop(stream);
    lb.quiet().await;
}

#[tokio::test]
async fn bad_requests_get_json_errors() {
    let web = Upstream::named("web1").await;
    let lb = site(&[&web]).start().await;
    for (path, status, expected) in [
        ("/api/v1/nothing", 404, "no such resource"),
        ("/api/v1/connections?limit=many", 400, "limit"),
        (
            "/api/v1/connections?clients=a",
            400,
            "unknown field `clients`",
        ),
        ("/api/v1/clients?sort=size", 400, "unknown variant `size`"),
    ] {
        let (got, body) = lb.http_get(path).await;
        assert_eq!(got, status, "{path}: {body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert!(
            error["error"].as_str().unwrap().contains(expected),
            "{body}"
        );
    }
    lb.quiet().await;
}
