use leastconn_testkit::metrics::{normalise, parse};

use super::*;

#[derive(Debug)]
struct Nothing;

impl Observed for Nothing {
    fn servers(&self) -> Vec<(String, leastconn::Member)> {
        Vec::new()
    }

    fn upstreams(&self) -> Vec<(String, bool)> {
        vec![("web".to_owned(), true)]
    }

    fn dated(&self) -> Vec<Dated> {
        let dated = |file: &str, is_list, ends| Dated {
            file: file.to_owned(),
            is_list,
            ends,
            begins: ends - 4,
        };
        vec![
            dated("a \"b\"\\\n.crt", false, 7),
            // In two tables, of which one still has it as it was; and both at once.
            dated("ca.pem", true, 9),
            dated("ca.pem", false, 8),
            dated("ca.pem", true, 5),
        ]
    }

    fn old_processes(&self) -> Vec<u64> {
        vec![3, 4]
    }

    fn memory(&self) -> (u64, u64) {
        (5, 9)
    }

    fn blocked_seconds(&self) -> f64 {
        0.0
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn is_as_written(&self) -> bool {
        true
    }

    fn lost_log_lines(&self) -> u64 {
        3
    }
}

#[test]
fn the_text_is_what_every_scraper_reads() {
    let metrics = Metrics::new();
    metrics.observe(Nothing);
    let listener = metrics.listener("main");
    listener.active.inc();
    listener.ended(Reason::IdleTimeout);
    metrics.handshake_seconds.observe(0.01);
    let text = metrics.encode();
    assert!(!text.contains("# EOF"), "that is OpenMetrics");
    assert!(text.ends_with('\n'));
    let samples = parse(&text);
    let key = r#"leastconn_connections_total{listener="main",outcome="idle_timeout"}"#;
    assert_eq!(samples[&normalise(key)], 1.0);
    assert_eq!(samples["leastconn_handshake_seconds_count"], 1.0);
    assert_eq!(samples["leastconn_access_log_lines_lost_total"], 3.0);
    for (family, ends) in [("certificate_not_after", 5.0), ("crl_next_update", 5.0)] {
        let key = format!("leastconn_{family}_seconds{{file=\"ca.pem\"}}");
        assert_eq!(
            text.matches(&key).count(),
            1,
            "a scraper takes no series twice"
        );
        assert_eq!(samples[&key], ends);
    }
    // Text in a label cannot end it.
    assert!(text.contains(r#"{file="a \"b\"\\\n.crt"} 7"#), "{text}");

    // Help, then type, then samples of exactly that family.
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
fn a_family_without_samples_keeps_its_type() {
    let text = to_text_format("# HELP a Help.\n# TYPE a counter\n# UNIT a seconds\n# EOF\n");
    assert_eq!(text, "# HELP a_total Help.\n# TYPE a_total counter\n");
}

#[test]
fn each_outcome_of_a_listener_is_there_from_the_start() {
    let metrics = Metrics::new();
    let _listener = metrics.listener("main");
    let samples = parse(&metrics.encode());
    for reason in Reason::ALL {
        let key = format!("leastconn_connections_total{{listener=\"main\",outcome=\"{reason}\"}}");
        assert_eq!(samples[&key], 0.0);
    }
}

#[test]
fn what_is_counted_while_it_lives_is_given_back() {
    let gauge = Gauge::default();
    let (one, two) = (Counted::new(&gauge), Counted::new(&gauge));
    assert_eq!(gauge.get(), 2);
    drop((one, two));
    assert_eq!(gauge.get(), 0);
}
