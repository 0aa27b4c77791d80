use std::time::Duration;

use leastconn_testkit::metrics::{normalise, parse};

use super::*;
use crate::fleet::FleetState;

#[derive(Debug)]
struct FixedState;

impl Observed for FixedState {
    fn servers(&self) -> Vec<(String, leastconn::Member)> {
        Vec::new()
    }

    fn removed_servers(&self) -> Vec<(String, String, u64)> {
        let removed = |server: &str, open| ("web".to_owned(), server.to_owned(), open);
        vec![removed("web1", 2), removed("web2", 0), removed("web1", 1)]
    }

    fn agents(&self) -> Vec<(String, String, f64)> {
        vec![("web".to_owned(), "web1".to_owned(), 0.25)]
    }

    fn discoveries(&self) -> Vec<DiscoveryState> {
        vec![DiscoveryState {
            upstream: "web".to_owned(),
            servers: 3,
            stale_seconds: 1.5,
            lookups: [("answered", 5), ("empty", 0), ("failed", 2)],
        }]
    }

    fn upstreams(&self) -> Vec<(String, bool)> {
        vec![("web".to_owned(), true)]
    }

    fn queues(&self) -> Vec<(String, usize)> {
        vec![("web".to_owned(), 3)]
    }

    fn own_zones(&self) -> Vec<(String, bool)> {
        vec![("web".to_owned(), false)]
    }

    fn file_validity(&self) -> Vec<FileValidity> {
        let validity = |file: &str, is_crl, ends| FileValidity {
            file: file.to_owned(),
            is_crl,
            ends,
            begins: ends - 4,
        };
        vec![
            validity("a \"b\"\\\n.crt", false, 7),
            // The file is in two `tls` tables, one of which has its previous content.
            validity("ca.pem", true, 9),
            validity("ca.pem", false, 8),
            validity("ca.pem", true, 5),
        ]
    }

    fn predecessors(&self) -> Vec<u64> {
        vec![3, 4]
    }

    fn memory(&self) -> (u64, u64) {
        (5, 9)
    }

    fn blocked_seconds(&self) -> f64 {
        0.0
    }

    fn fleet(&self) -> Option<FleetGauges> {
        Some(FleetGauges {
            state: FleetState::CutOff,
            members: 3,
            elsewhere: vec![("web".to_owned(), "web1".to_owned(), 7)],
        })
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn is_last_reload_applied(&self) -> bool {
        true
    }

    fn lost_log_lines(&self) -> u64 {
        3
    }
}

#[test]
fn text_is_valid_prometheus_format() {
    let metrics = Metrics::new();
    metrics.observe(FixedState);
    let listener = metrics.listener("main");
    listener.active.inc();
    listener.ended(ReasonCode::IdleTimeout);
    metrics.handshake_seconds.observe(Duration::from_millis(10));
    metrics.fleet.exchange_seconds.observe(0.01);
    metrics.fleet.exchange_failed();
    metrics.fleet.asked(AskOutcome::TimedOut, 2);
    let text = metrics.encode(Format::Prometheus);
    assert!(
        !text.contains("# EOF"),
        "OpenMetrics has an end marker, the Prometheus format has none"
    );
    assert!(text.ends_with('\n'));
    let samples = parse(&text);
    let key = r#"leastconn_connections_total{listener="main",outcome="idle_timeout"}"#;
    assert_eq!(samples[&normalise(key)], 1.0);
    assert_eq!(samples["leastconn_handshake_seconds_count"], 1.0);
    assert_eq!(samples["leastconn_access_log_lines_lost_total"], 3.0);
    for (family, ends) in [
        ("certificate_not_after", 8.0),
        ("certificate_not_before", 4.0),
        ("crl_next_update", 5.0),
        ("crl_this_update", 1.0),
    ] {
        let key = format!("leastconn_{family}_seconds{{file=\"ca.pem\"}}");
        assert_eq!(text.matches(&key).count(), 1, "duplicate series");
        assert_eq!(samples[&key], ends);
    }
    let key = normalise(r#"leastconn_server_connections_active{upstream="web",server="web1"}"#);
    assert_eq!(samples[&key], 3.0);
    assert!(
        !text.contains("web2"),
        "series of a server without connections"
    );
    for (series, value) in [
        (r#"leastconn_fleet_state{state="joined"}"#, 0.0),
        (r#"leastconn_fleet_state{state="cut_off"}"#, 1.0),
        ("leastconn_fleet_members", 3.0),
        ("leastconn_fleet_exchange_seconds_count", 1.0),
        ("leastconn_fleet_exchange_failures_total", 1.0),
        (r#"leastconn_fleet_asks_total{outcome="granted"}"#, 0.0),
        (r#"leastconn_fleet_asks_total{outcome="timeout"}"#, 2.0),
        (
            r#"leastconn_server_connections_elsewhere{upstream="web",server="web1"}"#,
            7.0,
        ),
    ] {
        assert_eq!(samples[&normalise(series)], value, "{series}");
    }
    // Quotes in a label value are escaped.
    assert!(text.contains(r#"{file="a \"b\"\\\n.crt"} 7"#), "{text}");

    // Each family starts with HELP and TYPE, followed by its samples.
    let mut family: Option<(&str, &str)> = None;
    let mut helped = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split_once(' ').unwrap().0;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, helped);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = Some((name, kind));
        } else {
            let (name, kind) = family.unwrap();
            let rest = line
                .strip_prefix(name)
                .unwrap_or_else(|| panic!("{line} in {name}"));
            let suffix = rest.split(['{', ' ']).next().unwrap();
            let histogram = ["_bucket", "_sum", "_count"].contains(&suffix);
            assert!(
                suffix.is_empty() || (kind == "histogram" && histogram),
                "{line}"
            );
        }
    }
}

#[test]
fn family_without_samples_keeps_its_type() {
    let text = format::to_prometheus("# HELP a Help.\n# TYPE a counter\n# UNIT a seconds\n# EOF\n");
    assert_eq!(text, "# HELP a_total Help.\n# TYPE a_total counter\n");
}

#[test]
fn listener_outcomes_start_at_zero() {
    let metrics = Metrics::new();
    let _listener = metrics.listener("main");
    let samples = parse(&metrics.encode(Format::Prometheus));
    for reason in ReasonCode::ALL {
        let key = format!("leastconn_connections_total{{listener=\"main\",outcome=\"{reason}\"}}");
        assert_eq!(samples[&key], 0.0);
    }
}

#[test]
fn counted_gauge_is_decremented_on_drop() {
    let gauge = Gauge::default();
    let (one, two) = (GaugeGuard::new(&gauge), GaugeGuard::new(&gauge));
    assert_eq!(gauge.get(), 2);
    drop((one, two));
    assert_eq!(gauge.get(), 0);
}

#[test]
fn unused_series_are_removed() {
    let metrics = Metrics::new();
    let (main, old) = (metrics.listener("main"), metrics.listener("old"));
    old.active.inc();
    let (kept, open) = (metrics.client_or_new("kept"), metrics.client_or_new("open"));
    open.opened();
    metrics
        .client_or_new("gone")
        .count_end(ReasonCode::Ok, false);
    kept.count_end(ReasonCode::Ok, false);
    metrics.client_shadowed("kept", ReasonCode::Ok);
    metrics.client_shadowed("gone", ReasonCode::Ok);
    let prune = |generation| {
        metrics.prune(
            generation,
            |name| name == "old",
            |name| name == "main",
            || HashSet::from(["kept"]),
        );
        let text = metrics.encode(Format::Prometheus);
        ["main", "old", "kept", "open", "gone"].map(|name| text.contains(&format!("\"{name}\"")))
    };
    assert_eq!(prune(0), [true, true, true, true, false]);
    // A series may be created before the configuration with its name is applied.
    let _new = metrics.listener("new");
    old.active.dec();
    open.closed();
    drop(open);
    assert_eq!(prune(1), [true, false, true, false, false]);
    assert!(
        metrics
            .encode(Format::Prometheus)
            .contains("listener=\"new\"")
    );
    assert_eq!(metrics.listener("old").active.get(), 0);
    drop((main, kept));
    assert_eq!(prune(1), [true, false, true, false, false]);
}

#[test]
fn names_are_looked_up_once_per_generation() {
    let metrics = Metrics::new();
    let prune = |generation, names: &dyn Fn() -> HashSet<&'static str>| {
        metrics.prune(generation, |_| false, |_| true, names);
    };
    metrics
        .client_or_new("rule")
        .count_end(ReasonCode::Ok, false);
    prune(3, &|| HashSet::from(["rule"]));
    prune(3, &|| panic!("nothing has changed"));
    prune(4, &HashSet::new);
    assert!(metrics.client("rule").is_none());
}
