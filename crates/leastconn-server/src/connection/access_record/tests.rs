use proptest::prelude::*;
use serde_json::Value;

use leastconn_config::Access;

use super::*;
use crate::{
    registry::{DisplayAddress, Registry},
    telemetry::access_log::AccessLog,
};

proptest! {
    #[test]
    fn lines_with_arbitrary_text_are_one_json_object(
        identity in any::<String>(), serial in any::<String>(), subject in any::<String>(),
        detail in any::<String>(),
    ) {
        drive::drive([&identity, &serial, &subject, &detail]);
    }
}

/// Returns the access log lines and the metrics after `with` has dropped its record.
fn logged(with: impl FnOnce(AccessRecord) + Send + 'static) -> (Vec<Value>, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (log, flusher) = AccessLog::open(&Access::File(path.clone())).unwrap();
    let telemetry = Arc::new(Telemetry::new(log));
    let listener = telemetry.metrics.listener("main");
    let registry = Arc::new(Registry::default());
    let guard = registry.register(
        "main".into(),
        Arc::clone(&listener),
        "[::ffff:10.0.0.7]:9".parse().unwrap(),
        net::now(),
    );
    let record = AccessRecord::open(Arc::clone(&telemetry), listener, guard, net::now());
    // Run `with` in a separate thread, because it may panic.
    let _ = std::thread::spawn(move || with(record)).join();
    drop(flusher);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (
        lines.collect(),
        telemetry
            .metrics
            .encode(crate::telemetry::metrics::Format::Prometheus),
    )
}

#[test]
fn only_the_first_end_counts() {
    let (lines, metrics) = logged(|mut record| {
        record.end(ReasonCode::RateLimited, Some("too fast"));
        record.end(ReasonCode::Ok, None);
    });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["outcome"], "rate_limited");
    assert_eq!(lines[0]["detail"], "too fast");
    // A dual-stack socket reports an IPv4-mapped address.
    assert_eq!(lines[0]["source"], "10.0.0.7:9");
    assert!(metrics.contains("{listener=\"main\",outcome=\"rate_limited\"} 1\n"));
    assert!(metrics.contains("{listener=\"main\",outcome=\"ok\"} 0\n"));
    assert!(metrics.contains("leastconn_connections_active{listener=\"main\"} 0\n"));
}

#[test]
fn unknown_fields_are_left_out() {
    let (lines, _) = logged(|mut record| record.end(ReasonCode::HandshakeTimeout, None));
    let mut fields: Vec<_> = lines[0].as_object().unwrap().keys().collect();
    fields.sort_unstable();
    let known = [
        "bytes_received",
        "bytes_sent",
        "connection",
        "duration_ms",
        "listener",
        "outcome",
        "source",
        "time",
    ];
    assert_eq!(fields, known);
}

/// A longer line could be mixed with the lines of another process that writes to the same pipe.
#[test]
fn long_line_is_shortened() {
    let quotes = |count: usize| "\"".repeat(count);
    for (length, kept) in [(400, 400), (700, 512), (1024, 512)] {
        let (lines, _) = logged(move |mut record| {
            let rejected = leastconn_tls::RejectedCertificate {
                subject: quotes(length),
                issuer: quotes(length),
                serial: "01".to_owned(),
                not_after: None,
            };
            let diagnostics = Diagnostics {
                rejected: Some(Box::new(rejected)),
                ..Diagnostics::default()
            };
            let detail = quotes(length);
            let reason = ReasonCode::UntrustedCertificate;
            record.end_handshake(reason, Some(&detail), Some(Box::new(diagnostics)));
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].to_string().len() < MAX_LINE, "{length}");
        for text in [
            &lines[0]["detail"],
            &lines[0]["certificate"]["subject"],
            &lines[0]["certificate"]["issuer"],
        ] {
            let text = text.as_str().unwrap();
            assert!(
                text.len() <= kept && text.len() > kept - 4,
                "{length}: {text}"
            );
            assert_eq!(text.contains("[cut, "), kept < length, "{text}");
        }
    }
}

#[test]
fn shortened_texts_have_their_original_length() {
    // Two texts fit with 512 bytes each, four only with 128.
    for (count, kept) in [(2, 512), (4, 128)] {
        let lengths: [usize; 4] = [58_000, 2_000, 3_000, 4_000];
        let texts = lengths.map(|length| "\"".repeat(length));
        let (lines, _) = logged(move |mut record| {
            let text = |at: usize| texts[..count].get(at).cloned().unwrap_or_default();
            let rejected = leastconn_tls::RejectedCertificate {
                subject: text(1),
                issuer: text(2),
                serial: text(3),
                not_after: None,
            };
            let diagnostics = Diagnostics {
                rejected: Some(Box::new(rejected)),
                ..Diagnostics::default()
            };
            let reason = ReasonCode::UntrustedCertificate;
            record.end_handshake(reason, Some(&text(0)), Some(Box::new(diagnostics)));
        });
        assert!(lines[0].to_string().len() < MAX_LINE);
        let certificate = &lines[0]["certificate"];
        let fields = [
            &lines[0]["detail"],
            &certificate["subject"],
            &certificate["issuer"],
            &lines[0]["serial"],
        ];
        for (field, length) in fields.into_iter().zip(lengths).take(count) {
            let text = field.as_str().unwrap();
            let mark = format!("…[cut, {length} bytes]");
            assert!(text.len() == kept && text.ends_with(&mark), "{text}");
        }
    }
}

#[test]
fn dropped_record_is_written() {
    let (lines, _) = logged(drop);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["outcome"], "drained");
}

#[test]
fn panic_is_recorded() {
    let (lines, metrics) = logged(|record| {
        let telemetry = Arc::clone(&record.telemetry);
        let mut state = record.connection().state();
        state.set_client("client1", &telemetry.metrics);
        drop(state);
        panic!("a fault");
    });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["outcome"], "killed");
    assert_eq!(lines[0]["client"], "client1");
    assert!(metrics.contains("leastconn_client_connections_active{client=\"client1\"} 0\n"));
}

proptest! {
    #[test]
    fn text_never_leaves_its_line(text in any::<String>()) {
        let escaped = escape(&text);
        prop_assert!(!escaped.chars().any(char::is_control));
        let line = serde_json::to_string(&escaped).unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), escaped);
    }
}

#[test]
fn milliseconds_have_microsecond_precision() {
    assert_eq!(milliseconds(Duration::from_nanos(1_234_567)), 1.235);
    assert_eq!(milliseconds(Duration::ZERO), 0.0);
    assert_eq!(milliseconds(Duration::from_secs(3600)), 3_600_000.0);
}

#[test]
fn time_has_milliseconds() {
    // Several times in the same second, and times in other seconds.
    for time in [
        "2026-11-30T20:19:14.974876Z",
        "2026-11-30T20:19:14.0009Z",
        "2026-11-30T20:19:14Z",
        "2026-11-30T20:19:15.05Z",
        "1970-01-01T00:00:00.1Z",
        "1969-12-31T23:59:59.9876Z",
        "9999-12-30T21:59:59.999999999Z",
    ] {
        let time: Timestamp = time.parse().unwrap();
        assert_eq!(time_text(time), format!("{time:.3}"));
    }
}

/// The first column of the table in `docs/reference/logs.md`.
fn documented() -> Vec<&'static str> {
    let page = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/logs.md"
    ));
    let (_, section) = page.split_once("\n## Access log\n").unwrap();
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('|').nth(1).unwrap().split(','))
        .map(str::trim)
        .collect()
}

#[test]
fn reference_documents_every_field() {
    let full = Line {
        time: String::new(),
        connection: 1,
        listener: "",
        source: DisplayAddress::Unix(String::new()),
        proxy: Some(DisplayAddress::Unix(String::new())),
        client: Some(""),
        identity: Some("".into()),
        serial: Some("".into()),
        sni: Some(""),
        tls_version: Some(""),
        cipher: Some(""),
        resumed: true,
        alpn: Some(""),
        tls_offered: &["1.2"],
        certificate: Some(RejectedCertificate {
            subject: "".into(),
            issuer: "".into(),
            not_after: None,
        }),
        alert_sent: Some(""),
        alert_received: Some(""),
        upstream: Some(""),
        server: Some(""),
        attempts: Some(1),
        bytes_received: 0,
        bytes_sent: 0,
        handshake_ms: Some(0.0),
        queue_ms: Some(0.0),
        connect_ms: Some(0.0),
        duration_ms: 0.0,
        outcome: "ok",
        shadow: Some(Shadow {
            client: "",
            outcome: "ok",
        }),
        detail: Some("".into()),
    };
    let Value::Object(written) = serde_json::to_value(full).unwrap() else {
        unreachable!("a struct is an object");
    };
    let mut written: Vec<_> = written.keys().map(String::as_str).collect();
    let mut documented = documented();
    written.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, written);
}
