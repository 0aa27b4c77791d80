//! The access log has exactly one line per accepted socket, with the documented fields
//! and types, and the counters agree with it.

use std::collections::HashMap;

use leastconn_server::reason_code::ReasonCode;
use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::metrics::{family, normalise};
use leastconn_testkit::{Behaviour, DEADLINE, TestCa, TlsClient, Upstream, eventually};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::{
    CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, entry, refused, refusing_address, reset,
    talk, tcp,
};

fn has_documented_type(field: &str, value: &Value) -> bool {
    let text = value.as_str();
    let milliseconds = value
        .as_f64()
        .is_some_and(|ms| (0.0..60_000.0).contains(&ms));
    match field {
        "time" => text.is_some_and(|text| {
            let shape = |(a, b): (u8, u8)| {
                if b == b'0' {
                    a.is_ascii_digit()
                } else {
                    a == b
                }
            };
            let template = "0000-00-00T00:00:00.000Z";
            text.len() == template.len() && text.bytes().zip(template.bytes()).all(shape)
        }),
        "connection" => value.as_u64().is_some_and(|id| id > 0),
        "source" => text.is_some_and(|text| text.parse::<std::net::SocketAddr>().is_ok()),
        "identity" => text.is_some_and(|text| {
            ["cn:", "dns:", "source:"]
                .iter()
                .any(|kind| text.starts_with(kind))
        }),
        "serial" => {
            text.is_some_and(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        "tls_version" => matches!(text, Some("1.2" | "1.3")),
        "resumed" => value == &Value::Bool(true),
        "tls_offered" => value.as_array().is_some_and(|all| !all.is_empty()),
        "certificate" => ["subject", "issuer", "not_after"]
            .iter()
            .all(|field| value[field].as_str().is_some_and(|text| !text.is_empty())),
        "alert_sent" | "alert_received" => text.is_some_and(|text| {
            text.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        }),
        "attempts" | "bytes_received" | "bytes_sent" => value.is_u64(),
        "handshake_ms" | "connect_ms" | "duration_ms" => milliseconds,
        "outcome" => {
            text.is_some_and(|text| ReasonCode::ALL.iter().any(|reason| reason.as_str() == text))
        }
        "listener" | "client" | "sni" | "cipher" | "upstream" | "server" | "detail" => {
            text.is_some_and(|text| !text.is_empty())
        }
        _ => false,
    }
}

/// Fields of each record.
pub(crate) const ALWAYS: [&str; 8] = [
    "time",
    "connection",
    "listener",
    "source",
    "bytes_received",
    "bytes_sent",
    "duration_ms",
    "outcome",
];

fn check(record: &Value) {
    let fields = record.as_object().unwrap();
    for (field, value) in fields {
        assert!(has_documented_type(field, value), "{field} of {record}");
    }
    for field in ALWAYS {
        assert!(
            fields.contains_key(field),
            "field {field} is missing: {record}"
        );
    }
}

async fn mixed_load(lb: &Running) -> usize {
    let (main, plain) = (lb.main(), lb.address("plain"));
    let good = lb.client(CLIENT1);
    let mut sockets = 0;
    for round in 0..5 {
        talk(good.connect(main).await.unwrap()).await.unwrap();
        talk(tcp(plain).await).await.unwrap();
        refused(&lb.client("stranger"), main).await;
        refused(&lb.client("barred.lb.com"), main).await;
        refused(&TlsClient::new(lb.ca(), None), main).await;
        let foreign = TestCa::new("foreign").leaf(CLIENT1).build();
        refused(&lb.client_with(&foreign), main).await;
        let two = lb.ca().leaf(CLIENT1).extra_cn("x").build();
        refused(&lb.client_with(&two), main).await;
        refused(&lb.client("greedy.lb.com"), main).await;
        let mut garbage = tcp(main).await;
        garbage.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let _ = read_to_close(&mut garbage).await;
        let mut broken = tcp(plain).await;
        read_line(&mut broken).await.unwrap();
        reset(broken);
        let mut dead = tcp(lb.address("dead")).await;
        let _ = read_to_close(&mut dead).await;
        sockets += 11;
        lb.wait_records(sockets).await;
        assert_eq!(lb.records().len(), sockets, "in round {round}");
    }
    sockets
}

#[tokio::test]
async fn records_sockets_and_counters_agree_under_mixed_load() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        // The listener uses IPv6, because a source rule for 127.0.0.0/8 would also match
        // the TLS clients.
        .listener("plain", &["upstream = \"web\"", "bind = \"[::1]:0\""])
        .listener("dead", &["upstream = \"dead\"", "bind = \"[::1]:0\""])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("dead", &[NO_PROBES], &[entry("d", refusing_address(), "")])
        .client("client1", &cn(CLIENT1), "web", "")
        .client("barred", &cn("barred.lb.com"), "dead", "")
        .client(
            "greedy",
            &cn("greedy.lb.com"),
            "dead",
            "rate_limit = { rate = 0.001, burst = 1 }",
        )
        .client("local", "source = \"::1\"", "web\", \"dead", "")
        .start()
        .await;
    let sockets = mixed_load(&lb).await;
    let records = lb.records();
    assert_eq!(records.len(), sockets);
    records.iter().for_each(check);
    let ids: std::collections::HashSet<_> = records
        .iter()
        .map(|r| &r["connection"])
        .map(Value::to_string)
        .collect();
    assert_eq!(ids.len(), sockets, "a connection ID was used twice");
    lb.quiet().await;

    let mut ended: HashMap<String, f64> = HashMap::new();
    let mut bytes = [0.0; 2];
    for record in &records {
        let (listener, outcome) = (&record["listener"], &record["outcome"]);
        let key = format!("leastconn_connections_total{{listener={listener},outcome={outcome}}}");
        *ended.entry(key).or_default() += 1.0;
        if let Some(client) = record.get("client") {
            let key =
                format!("leastconn_client_connections_total{{client={client},outcome={outcome}}}");
            *ended.entry(key).or_default() += 1.0;
        }
        bytes[0] += record["bytes_received"].as_f64().unwrap();
        bytes[1] += record["bytes_sent"].as_f64().unwrap();
    }
    let metrics = lb.metrics().await;
    for name in [
        "leastconn_connections_total",
        "leastconn_client_connections_total",
    ] {
        for (key, value) in family(&metrics, name) {
            assert_eq!(value, ended.remove(key).unwrap_or(0.0), "{key}");
        }
    }
    assert!(
        ended.is_empty(),
        "outcomes in records but not in metrics: {ended:?}"
    );
    for (direction, of_records) in ["received", "sent"].into_iter().zip(bytes) {
        let all = family(&metrics, "leastconn_bytes_total");
        let sum: f64 = all
            .filter(|(key, _)| key.contains(direction))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(sum, of_records, "{direction}");
    }
    let connections = r#"leastconn_server_connections_total{upstream="web",server="web1"}"#;
    assert_eq!(metrics[&normalise(connections)], web.accepted() as f64);
}

#[tokio::test]
async fn successful_connection_has_every_field() {
    let web = Upstream::start(Behaviour::Echo).await;
    let lb = Site::usual(&[&web]).start().await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    roundtrip(&mut stream, b"twelve bytes").await.unwrap();
    let source = stream.get_ref().0.local_addr().unwrap();
    stream.shutdown().await.unwrap();
    read_to_close(&mut stream).await.unwrap();
    let record = lb.expect_record(0, "ok").await;
    check(&record);
    for (field, value) in [
        ("listener", "main"),
        ("client", "client1"),
        ("identity", "cn:client1.lb.com"),
        ("sni", "localhost"),
        ("tls_version", "1.3"),
        ("upstream", "web"),
        ("server", "web1"),
        ("source", &source.to_string()),
    ] {
        assert_eq!(record[field], value, "{field}");
    }
    for field in ["serial", "cipher", "handshake_ms", "connect_ms"] {
        assert!(record.get(field).is_some(), "no {field}: {record}");
    }
    assert_eq!(record["attempts"], 1);
    assert_eq!(record["bytes_received"], 12);
    assert_eq!(record["bytes_sent"], 12);
    assert!(record["handshake_ms"].as_f64() <= record["duration_ms"].as_f64());
    lb.quiet().await;
}

#[tokio::test]
async fn certificate_text_is_escaped_in_log_lines() {
    let web = Upstream::named("web1").await;
    let names = [
        r#"","outcome":"ok","client":"root"#,
        r"back\slash\u0041\n",
        "right\u{202e}to\u{2066}left\u{061c}",
        "line\u{2028}and\u{2029}paragraph",
        "zero\u{200b}width\u{feff}",
        "ümläut 漢字 🙂",
        &"x".repeat(3000),
    ];
    let lb = Site::usual(&[&web]).start().await;
    for (n, name) in names.into_iter().enumerate() {
        let cert = lb.ca().leaf("x").raw_cn_bytes(name.as_bytes()).build();
        assert_eq!(
            refused(&lb.client_with(&cert), lb.main()).await,
            None,
            "{name}"
        );
        let record = lb.expect_record(n, "unknown_client").await;
        let identity = record["identity"].as_str().unwrap();
        let is_deceptive = |c: char| {
            c.is_control()
                || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        };
        assert!(!identity.contains(is_deceptive), "{identity:?}");
        if name.len() > 1024 {
            assert!(identity.len() <= 1024, "{} bytes", identity.len());
            assert!(identity.ends_with(" bytes]"), "{identity}");
        } else if !name.contains(is_deceptive) {
            assert_eq!(identity, format!("cn:{name}"));
        }
        assert!(record.get("client").is_none());
    }
    let records = lb.records();
    assert_eq!(records.len(), names.len());
    records.iter().for_each(check);
    // No metric label contains certificate text.
    let (_, text) = lb.http_get("/metrics").await;
    assert!(!text.contains("root") && !text.contains("xxx") && !text.contains("slash"));
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

#[tokio::test]
async fn access_log_goes_to_a_file_or_nowhere() {
    for access in ["off", "log/access.log"] {
        let web = Upstream::named("web1").await;
        let site = Site::usual(&[&web]).log(&format!("access = \"{access}\""));
        std::fs::create_dir(site.dir.path().join("log")).unwrap();
        let lb = site.start().await;
        talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
            .await
            .unwrap();
        refused(&lb.client("stranger"), lb.main()).await;
        let total = r#"leastconn_connections_total{listener="main",outcome="ok"}"#;
        lb.wait_metric(total, 1.0, DEADLINE).await;
        lb.quiet().await;
        let path = lb.dir().join("log/access.log");
        if access == "off" {
            assert!(!path.exists());
        } else {
            let text = eventually(DEADLINE, || async {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.lines().count() == 2 {
                    Ok(text)
                } else {
                    Err(text)
                }
            });
            for line in text.await.unwrap().lines() {
                check(&serde_json::from_str(line).unwrap());
            }
        }
        assert!(lb.records().is_empty());
    }
}
