//! Health checks and metrics over HTTP, with their documented names.

use leastconn_testkit::client::read_line;
use leastconn_testkit::{Behaviour, DEADLINE, Upstream, metrics};

use crate::metrics_documentation::CONTRACT;
use crate::support::{CLIENT1, NO_PROBES, Site, TLS, entries, refused, talk};

#[tokio::test]
async fn documented_metrics_exist_with_their_labels() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    // All series exist before the first connection: a counter that appears with its first
    // event hides that event from Prometheus.
    let fresh = lb.metrics().await;
    for key in [
        r#"leastconn_connections_total{listener="main",outcome="ok"}"#,
        r#"leastconn_connections_total{listener="main",outcome="rate_limited"}"#,
        r#"leastconn_connections_active{listener="main"}"#,
        r#"leastconn_bytes_total{listener="main",direction="received"}"#,
        r#"leastconn_config_reloads_total{outcome="applied"}"#,
        r#"leastconn_config_reloads_total{outcome="rejected"}"#,
        r#"leastconn_server_connect_failures_total{upstream="web",server="web1"}"#,
    ] {
        assert_eq!(fresh.get(&metrics::normalise(key)), Some(&0.0), "{key}");
    }
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    refused(&lb.client("stranger"), lb.main()).await;
    lb.wait_records(2).await;
    lb.quiet().await;

    let (status, text) = lb.http_get("/metrics").await;
    assert_eq!(status, 200);
    for (name, kind, _) in CONTRACT {
        assert!(
            text.contains(&format!("# TYPE {name} {kind}\n")),
            "{name} in:\n{text}"
        );
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
    let samples = metrics::parse(&text);
    let sample = |key: &str| samples[&metrics::normalise(key)];
    assert_eq!(sample("leastconn_handshake_seconds_count"), 2.0);
    assert_eq!(sample("leastconn_server_connect_seconds_count"), 1.0);
    assert_eq!(
        sample(r#"leastconn_handshake_seconds_bucket{le="+Inf"}"#),
        2.0
    );
    assert_eq!(
        sample(r#"leastconn_server_up{upstream="web",server="web1"}"#),
        1.0
    );
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        sample(&format!("leastconn_build_info{{version=\"{version}\"}}")),
        1.0
    );
    let files = metrics::family(&samples, "leastconn_certificate_not_after_seconds");
    let mut files: Vec<_> = files.map(|(key, _)| key.to_owned()).collect();
    files.sort();
    assert_eq!(files.len(), 2, "{files:?}");
    for (file, name) in files.iter().zip(["ca.crt", "server.crt"]) {
        assert!(file.contains(name), "{file}");
    }
    let mut crls = metrics::family(&samples, "leastconn_crl_next_update_seconds");
    assert!(crls.all(|(file, _)| file.contains("ca.crl")));
}

#[tokio::test]
async fn gauges_and_byte_counters_follow_connections() {
    let web = Upstream::start(Behaviour::Named("web1".to_owned())).await;
    let lb = Site::usual(&[&web]).start().await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    for (name, value) in [
        (r#"leastconn_connections_active{listener="main"}"#, 1.0),
        (r#"leastconn_handshakes_active{listener="main"}"#, 0.0),
        (
            r#"leastconn_client_connections_active{client="client1"}"#,
            1.0,
        ),
        (
            r#"leastconn_server_connections_active{upstream="web",server="web1"}"#,
            1.0,
        ),
        // Bytes are counted while the connection is open.
        (
            r#"leastconn_bytes_total{listener="main",direction="sent"}"#,
            5.0,
        ),
    ] {
        lb.wait_metric(name, value, DEADLINE).await;
    }
    drop(stream);
    lb.quiet().await;
}

/// Row 28 of docs/threats.md: data from clients is never a label.
#[tokio::test]
async fn clients_add_no_metric_series() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("apps", r#"dns = "*.apps.lb.com""#, "web", "")
        .start()
        .await;
    let mut before = None;
    for n in 0..20 {
        let app = lb.ca().leaf("app").dns(&format!("app{n}.apps.lb.com"));
        let sni = format!("name{n}.apps.lb.com");
        let client = lb.client_with(&app.build());
        talk(client.connect_sni(lb.main(), &sni).await.unwrap())
            .await
            .unwrap();
        let stranger = lb.client(&format!("stranger{n}"));
        assert_eq!(refused(&stranger, lb.main()).await, None);
        let records = lb.wait_records(2 * (n + 1)).await;
        let sni_seen = records
            .iter()
            .filter(|record| record["sni"] == sni.as_str());
        assert_eq!(sni_seen.count(), 1);
        let ok = r#"leastconn_client_connections_total{client="apps",outcome="ok"}"#;
        lb.wait_metric(ok, (n + 1) as f64, DEADLINE).await;
        let mut series: Vec<_> = lb.metrics().await.into_keys().collect();
        series.sort();
        // The first connection may add the series of its rule. Later connections must add no
        // series.
        assert_eq!(*before.get_or_insert_with(|| series.clone()), series);
    }
    lb.quiet().await;
}

#[tokio::test]
async fn health_and_readiness_are_served() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    assert_eq!(lb.http_get("/healthz").await.0, 200);
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    assert_eq!(lb.http_get("/metrics/../etc/passwd").await.0, 404);
    assert_eq!(lb.http_get("/nothing").await.0, 404);
    lb.quiet().await;
}

#[tokio::test]
async fn readiness_of_an_upstream_follows_its_servers() {
    let (web, db) = (Upstream::named("web1").await, Upstream::named("db1").await);
    let site = Site::usual(&[&web])
        .upstream("db", &[NO_PROBES], &entries(&[&db]))
        .admin(crate::ctl::SOCKET);
    let lb = site.start().await;
    let ctl = crate::ctl::ctl;
    let status = async |query: &str| lb.http_get(&format!("/readyz{query}")).await.0;
    for query in ["", "?upstream=web", "?upstream=db"] {
        assert_eq!(status(query).await, 200, "{query}");
    }
    ctl(&lb, &["drain", "web/web1"]).await.ok();
    let (code, body) = lb.http_get("/readyz?upstream=web").await;
    assert_eq!(code, 503);
    assert_eq!(body, "no available server in upstream web\n");
    assert_eq!(status("").await, 200);
    assert_eq!(status("?upstream=db").await, 200);
    ctl(&lb, &["ready", "web/web1"]).await.ok();
    assert_eq!(status("?upstream=web").await, 200);
    let (code, body) = lb.http_get("/readyz?upstream=wbe").await;
    assert_eq!(code, 404);
    assert_eq!(body, "no upstream \"wbe\"; there are: web, db\n");
    lb.quiet().await;
}
