//! After all kinds of traffic, a scrape returns exactly the documented metrics. The alert
//! rules and the Grafana dashboard use only these metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use leastconn_testkit::client::read_to_close;
use leastconn_testkit::{DEADLINE, TestCa, TlsClient, Upstream, eventually, metrics};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::{
    CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, entry, refused, refusing_address, talk,
    tcp,
};

/// Name, type and labels.
type Family = (String, String, BTreeSet<String>);

/// Metrics that other programs rely on, with exactly these labels.
pub(crate) const CONTRACT: [(&str, &str, &[&str]); 17] = [
    (
        "leastconn_connections_total",
        "counter",
        &["listener", "outcome"],
    ),
    ("leastconn_connections_active", "gauge", &["listener"]),
    ("leastconn_handshakes_active", "gauge", &["listener"]),
    ("leastconn_handshakes_waiting", "gauge", &["listener"]),
    ("leastconn_handshake_seconds", "histogram", &[]),
    (
        "leastconn_client_connections_total",
        "counter",
        &["client", "outcome"],
    ),
    ("leastconn_client_connections_active", "gauge", &["client"]),
    (
        "leastconn_server_connections_total",
        "counter",
        &["upstream", "server"],
    ),
    (
        "leastconn_server_connections_active",
        "gauge",
        &["upstream", "server"],
    ),
    ("leastconn_server_up", "gauge", &["upstream", "server"]),
    ("leastconn_upstream_panic", "gauge", &["upstream"]),
    ("leastconn_server_connect_seconds", "histogram", &[]),
    (
        "leastconn_server_connect_failures_total",
        "counter",
        &["upstream", "server"],
    ),
    (
        "leastconn_bytes_total",
        "counter",
        &["listener", "direction"],
    ),
    ("leastconn_config_reloads_total", "counter", &["outcome"]),
    (
        "leastconn_certificate_not_after_seconds",
        "gauge",
        &["file"],
    ),
    ("leastconn_build_info", "gauge", &["version"]),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

fn family(name: &str, kind: &str, labels: &[&str]) -> Family {
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    (name.to_owned(), kind.to_owned(), labels)
}

fn labels(sample: &str) -> BTreeSet<String> {
    let inside = sample.split_once('{').map_or("", |(_, labels)| labels);
    // In this test, no label value contains a quote.
    let names = inside.split('"').step_by(2).map(|name| {
        let name = name.trim_matches(|c: char| c == ',' || c == '=' || c == '}' || c == ' ');
        name.split(['=', '}']).next().unwrap_or_default().to_owned()
    });
    names
        .filter(|name| !name.is_empty() && name != "le")
        .collect()
}

/// Returns the metric families of a scrape. All samples of a family must have the same labels.
fn families(text: &str) -> BTreeSet<Family> {
    let mut families: BTreeMap<String, (String, Option<BTreeSet<String>>)> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            let before = families.insert(current.clone(), (kind.to_owned(), None));
            assert_eq!(before, None, "{name} occurs twice");
        } else if !line.starts_with('#') {
            let (sample, _) = line.rsplit_once(' ').unwrap();
            let known = &mut families.get_mut(&current).unwrap().1;
            let found = labels(sample);
            assert_eq!(*known.get_or_insert_with(|| found.clone()), found, "{line}");
        }
    }
    let families = families.into_iter().map(|(name, (kind, labels))| {
        let labels = labels.unwrap_or_else(|| panic!("{name} has no sample"));
        (name, kind, labels)
    });
    families.collect()
}

/// Starts a balancer and sends all kinds of traffic through it.
async fn start_with_traffic() -> (Running, Upstream) {
    let web = Upstream::named("web1").await;
    let dead = ["a", "b"].map(|zone| {
        let zone_of = format!(", zone = \"{zone}\"");
        entry(zone, refusing_address(), &zone_of)
    });
    let file = "{ file = \"more.json\", backup = true }".to_owned();
    let [a, b] = dead;
    let site = Site::new()
        .process("zone = \"a\"")
        // There is no store, but the metrics of a fleet exist anyway.
        .fleet("lb1", "\"unix:///nowhere/store.sock\"", "")
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("plain", &["upstream = \"web\""])
        .listener("dead", &["upstream = \"dead\""])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream(
            "dead",
            &[NO_PROBES, "agent_check = { port = 9 }"],
            &[a, b, file],
        )
        .client("trial", &cn(CLIENT1), "web", "mode = \"shadow\"")
        .client("client1", &cn(CLIENT1), "web", "")
        .client("barred", &cn("barred.lb.com"), "dead", "")
        .client("local", "source = \"127.0.0.0/8\"", "web\", \"dead", "");
    let more = format!(
        "{{\"servers\": [{{\"address\": \"{}\"}}]}}",
        refusing_address()
    );
    std::fs::write(site.dir.path().join("more.json"), more).unwrap();
    let lb = site.start().await;
    let main = lb.main();
    talk(lb.client(CLIENT1).connect(main).await.unwrap())
        .await
        .unwrap();
    talk(tcp(lb.address("plain")).await).await.unwrap();
    let _ = read_to_close(&mut tcp(lb.address("dead")).await).await;
    refused(&lb.client("barred.lb.com"), main).await;
    refused(&TlsClient::new(lb.ca(), None), main).await;
    let foreign = TestCa::new("foreign").leaf(CLIENT1).build();
    refused(&lb.client_with(&foreign), main).await;
    let mut garbage = tcp(main).await;
    garbage.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let _ = read_to_close(&mut garbage).await;
    lb.wait_records(7).await;
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    assert_eq!(lb.reload("nonsense").await, "rejected");
    (lb, web)
}

/// Returns the rows of the table with the heading `| metric | type | labels | …`.
fn documented(page: &str) -> BTreeSet<Family> {
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| metric | type | labels |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let family = |row: &str| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels: Vec<_> = cells[3]
            .split(',')
            .map(|label| label.trim().trim_matches('`'))
            .filter(|label| !label.is_empty())
            .collect();
        family(cells[1].trim_matches('`'), cells[2], &labels)
    };
    rows.map(family).collect()
}

/// Returns the metric names that occur in a text or an expression.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("leastconn_") || word.starts_with("process_"))
        .collect()
}

fn assert_known(text: &str, families: &BTreeSet<Family>) {
    let names: BTreeSet<&str> = families.iter().map(|(name, ..)| &**name).collect();
    let found = named(text);
    assert!(!found.is_empty());
    for name in found {
        let of_histogram = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(
            names.contains(name) || names.contains(of_histogram),
            "no scraped metric is called {name}"
        );
    }
}

#[tokio::test]
async fn documented_metrics_exist_in_a_scrape() {
    let (lb, _web) = start_with_traffic().await;
    let (_, text) = lb.http_get("/metrics").await;
    let scraped = families(&text);
    for (name, kind, labels) in CONTRACT {
        assert!(scraped.contains(&family(name, kind, labels)), "{name}");
    }
    let page = read("docs/reference/metrics.md");
    assert_eq!(
        documented(&page),
        scraped,
        "documented metrics (left), scraped metrics (right)"
    );

    let rules = read("deploy/prometheus/leastconn-rules.yml");
    let runbooks = read("docs/runbooks.md");
    for rule in rules.split("- alert: ").skip(1) {
        let (name, rest) = rule.split_once('\n').unwrap();
        let expression = rest.split("annotations:").next().unwrap();
        if name != "LeastconnDown" {
            assert_known(expression, &scraped);
        }
        // The table lists each alert in the rows of exactly those metrics that the alert uses.
        for (metric, ..) in &scraped {
            let row = format!("| `{metric}` |");
            let row = page.lines().find(|line| line.starts_with(&row)).unwrap();
            let listed = row
                .rsplit('|')
                .nth(1)
                .unwrap()
                .split(", ")
                .any(|listed| listed.trim() == name);
            let subtracted = format!("unless on (job, instance, file) {metric}");
            let uses = named(&expression.replace(&subtracted, "")).contains(&**metric);
            assert_eq!(listed, uses, "{name} and {metric}");
        }
        assert!(
            runbooks.contains(&format!("\n## {name}\n")),
            "docs/runbooks.md does not explain what to do about {name}"
        );
    }

    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/leastconn.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = 0;
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            assert_known(target["expr"].as_str().unwrap(), &scraped);
            queries += 1;
        }
    }
    assert!(queries > 20);
    lb.quiet().await;
}

/// Checks the properties that Grafana requires for an import.
#[test]
fn grafana_dashboard_can_be_imported() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/leastconn.json")).unwrap();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    assert!(
        dashboard["id"].is_null(),
        "the dashboard must have no ID, because Grafana assigns it"
    );
    for field in ["title", "uid"] {
        assert!(!dashboard[field].as_str().unwrap().is_empty(), "{field}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(variables[0]["name"], "datasource");
    assert_eq!(variables[0]["type"], "datasource");
    assert_eq!(variables[0]["query"], "prometheus");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(!panel["title"].as_str().unwrap().is_empty());
        let position = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        assert!(position("x") + position("w") <= 24);
        for x in position("x")..position("x") + position("w") {
            for y in position("y")..position("y") + position("h") {
                assert!(taken.insert((x, y)), "panels overlap: {panel}");
            }
        }
        let targets = panel["targets"].as_array().into_iter().flatten();
        let mut letters = BTreeSet::new();
        for target in targets {
            assert!(letters.insert(target["refId"].as_str().unwrap()));
        }
    }
    // Every variable that a query uses is defined in the dashboard.
    let text = dashboard.to_string();
    let known: Vec<_> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    for name in text.split('$').skip(1) {
        let name = name.trim_start_matches('{');
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &name[..end.unwrap()];
        assert!(name == "__rate_interval" || known.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn every_reason_code_is_documented() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let metrics = lb.metrics().await;
    let codes: BTreeSet<&str> = metrics
        .keys()
        .filter(|key| key.starts_with("leastconn_connections_total{"))
        .filter_map(|key| key.split_once("outcome=\"")?.1.split('"').next())
        .collect();
    assert!(codes.len() > 20, "{codes:?}");
    for page in [
        "docs/reference/reason-codes.md",
        "docs/how-to/troubleshooting.md",
    ] {
        let text = read(page);
        for code in &codes {
            let documented = text
                .lines()
                .any(|line| line.starts_with("| `") && line.contains(&format!("`{code}`")));
            assert!(documented, "{page} has no row for {code}");
        }
    }
    lb.quiet().await;
}

#[tokio::test]
async fn process_metrics_match_the_kernel() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web])
        .process("max_connections = 77")
        .start()
        .await;
    let before = lb.metrics().await;
    assert_eq!(before["leastconn_connections_limit"], 77.0);
    assert_eq!(before["leastconn_ready"], 1.0);
    assert_eq!(before["leastconn_config_last_reload_applied"], 1.0);
    // The scrape counts its own connection. Files that are read after the start may still
    // be open, so retry.
    eventually(DEADLINE, || async {
        let files = lb.metrics().await["process_open_fds"] - 1.0;
        let open = lb.open_fds() as f64;
        (open == files)
            .then_some(())
            .ok_or_else(|| format!("{open}, not {files}"))
    })
    .await
    .unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", lb.pid())).unwrap();
    let limit = format!("Max open files            {}", before["process_max_fds"]);
    assert!(limits.contains(&limit), "{limits}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", lb.pid())).unwrap();
    let kib = |key: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let resident = before["process_resident_memory_bytes"] / 1024.0;
    assert!((resident / kib("VmRSS:") - 1.0).abs() < 0.2, "{resident}");
    let age =
        jiff::Timestamp::now().as_millisecond() as f64 / 1e3 - before["process_start_time_seconds"];
    assert!((0.0..60.0).contains(&age), "{age}");

    let client = lb.client(CLIENT1);
    for _ in 0..5 {
        talk(client.connect(lb.main()).await.unwrap())
            .await
            .unwrap();
    }
    lb.wait_records(5).await;
    assert_eq!(lb.reload("nonsense").await, "rejected");
    let after = lb.metrics().await;
    assert!(after["process_cpu_seconds_total"] > before["process_cpu_seconds_total"]);
    assert_eq!(after["leastconn_config_last_reload_applied"], 0.0);
    let more = lb
        .config()
        .replace("max_connections = 77", "max_connections = 78");
    assert_eq!(lb.reload(&more).await, "applied");
    lb.wait_metric("leastconn_config_last_reload_applied", 1.0, DEADLINE)
        .await;
    lb.wait_metric("leastconn_connections_limit", 78.0, DEADLINE)
        .await;
    // CRLs have their own families.
    for (name, count) in [
        ("certificate_not_after", 0),
        ("certificate_not_before", 0),
        ("crl_next_update", 1),
        ("crl_this_update", 1),
    ] {
        let name = format!("leastconn_{name}_seconds");
        let lists = metrics::family(&after, &name).filter(|(key, _)| key.contains("ca.crl"));
        assert_eq!(lists.count(), count, "{name}");
    }
    let lists = metrics::family(&after, "leastconn_crl_next_update_seconds");
    assert_eq!(lists.count(), 1);
    lb.quiet().await;
}
