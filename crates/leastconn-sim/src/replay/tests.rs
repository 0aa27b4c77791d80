use std::fs;

use super::*;

/// A line of an access log. `at` and `duration` are in seconds.
fn line(at: u32, server: &str, duration: u32) -> String {
    format!(
        "{{\"time\":\"2026-11-24T06:30:{at:02}.000Z\",\"connection\":1,\"listener\":\"main\",\
         \"source\":\"10.0.0.{at}:50000\",\"upstream\":\"web\",\"server\":\"{server}\",\"attempts\":1,\
         \"handshake_ms\":500,\"duration_ms\":{},\"outcome\":\"ok\"}}\n",
        1000 * duration + 500
    )
}

fn replay(log: &str, config: Option<&str>) -> Result<(Vec<ScenarioReport>, usize), ReplayError> {
    let directory = tempfile::tempdir().unwrap();
    let write = |name, text| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let replay = Replay {
        logs: vec![write("access.log", log)],
        config: config.map(|config| write("leastconn.toml", config)),
        upstream: None,
        seed: 1,
    };
    replay.run()
}

/// A configuration whose upstream has these servers.
fn config_with(servers: &str) -> String {
    format!(
        r#"
        [[listener]]
        name = "main"
        bind = "127.0.0.1:1"
        upstream = "web"
        [[upstream]]
        name = "web"
        servers = [{servers}]
        [[client]]
        name = "all"
        match = {{ source = ["127.0.0.0/8"] }}
        allow = ["web"]
        "#
    )
}

fn values<'a>(report: &'a ScenarioReport, algorithm: &str) -> &'a [f64] {
    let mut rows = report.rows.iter();
    &rows.find(|row| row.algorithm == algorithm).unwrap().values
}

/// Four connections of ten seconds, three of which the recorded balancer sent to one server, and
/// lines without a server.
fn uneven() -> String {
    let refused =
        "{\"time\":\"2026-11-24T06:30:00Z\",\"outcome\":\"unknown_client\",\"duration_ms\":1}\n";
    let lines = ["a", "a", "a", "b"].map(|server| line(1, server, 10));
    lines.concat() + refused + "not JSON\n"
}

#[test]
fn replay_compares_algorithms_with_the_recorded_distribution() {
    let (reports, skipped) = replay(&uneven(), None).unwrap();
    let [report] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!((report.name.as_str(), skipped), ("web", 1));
    // 3 of 4 on one of two servers, and 2 of 4.
    assert_eq!(values(report, "recorded"), [1.5, 3.0, 0.0]);
    let least_conn = values(report, "least_conn");
    assert!((least_conn[0] - 1.0).abs() < 1e-3, "{least_conn:?}");
    assert!((least_conn[1] - 2.0).abs() < 1e-9, "{least_conn:?}");
    assert_eq!(report.rows.len(), 1 + Balance::ALL.len());
}

#[test]
fn replay_uses_weights_and_limits_of_the_configuration() {
    let config = config_with(
        r#"
          { name = "a", address = "127.0.0.1:2", weight = 3 },
          { name = "b", address = "127.0.0.1:3", max_conns = 1 },
        "#,
    );
    let (reports, _) = replay(&uneven(), Some(&config)).unwrap();
    assert_eq!(values(&reports[0], "recorded"), [1.0, 3.0, 0.0]);
    let other = config.replace("\"web\"", "\"other\"");
    let error = replay(&uneven(), Some(&other)).unwrap_err();
    assert!(matches!(error, ReplayError::UnknownUpstream(name) if name == "web"));
}

#[test]
fn log_without_connections_is_an_error() {
    let error = replay("{}\n", None).unwrap_err();
    assert!(matches!(error, ReplayError::NoConnections(_)), "{error}");
}

#[test]
fn connection_of_zero_duration_is_not_counted_as_open() {
    let immediate = line(1, "a", 10).replace("\"duration_ms\":10500", "\"duration_ms\":500");
    let (reports, _) = replay(&(immediate.repeat(5) + &uneven()), None).unwrap();
    // The maximum of open connections and peak/mean are those of `uneven`.
    assert_eq!(values(&reports[0], "recorded"), [1.5, 3.0, 0.0]);
}

#[test]
fn impossible_duration_is_an_error_with_its_line() {
    for (field, value) in [
        ("duration_ms", "1e19"),
        ("duration_ms", "1e300"),
        ("duration_ms", "-1"),
        ("handshake_ms", "1e19"),
    ] {
        let good = line(1, "a", 10);
        let recorded = match field {
            "duration_ms" => "10500",
            _ => "500",
        };
        let bad = good.replace(
            &format!("\"{field}\":{recorded}"),
            &format!("\"{field}\":{value}"),
        );
        assert_ne!(bad, good);
        let error = replay(&(good + "\n" + &bad), None).unwrap_err();
        let text = error.to_string();
        let place = format!("access.log:3: `{field}`");
        assert!(text.contains(&place), "{text}");
    }
}

#[test]
fn configuration_without_listed_servers_is_an_error() {
    let config = config_with(r#"{ dns = "web.example:80" }"#);
    let error = replay(&uneven(), Some(&config)).unwrap_err();
    assert!(matches!(error, ReplayError::NoListedServers(_)), "{error}");
}
