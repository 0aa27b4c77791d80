//! Invariants of access log lines, for property tests and fuzzing.

use std::net::SocketAddr;

use jiff::Timestamp;
use leastconn_config::text::{escape, is_hidden};
use serde_json::Value;

use super::line::{Line, RejectedCertificate};
use crate::registry::DisplayAddress;

/// Maximum length of an escaped field in bytes.
const LONGEST: usize = 1024;

/// Builds a line whose text from certificates and errors is arbitrary. The line must be one JSON
/// object without hidden characters, which contains exactly the escaped text.
pub(crate) fn drive([identity, serial, subject, detail]: [&str; 4]) {
    let rejected = leastconn_tls::RejectedCertificate {
        subject: subject.to_owned(),
        issuer: identity.to_owned(),
        serial: serial.to_owned(),
        not_after: Some(Timestamp::UNIX_EPOCH),
    };
    let line = Line {
        time: format!("{:.3}", Timestamp::UNIX_EPOCH),
        connection: 1,
        listener: "main",
        source: DisplayAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9))),
        proxy: None,
        client: Some("client1"),
        identity: Some(escape(identity).into()),
        serial: Some(escape(serial).into()),
        sni: None,
        tls_version: None,
        cipher: None,
        resumed: false,
        alpn: None,
        tls_offered: &[],
        certificate: Some(RejectedCertificate::new(&rejected, LONGEST)),
        alert_sent: None,
        alert_received: None,
        upstream: None,
        server: None,
        attempts: None,
        bytes_received: 0,
        bytes_sent: 0,
        handshake_ms: None,
        queue_ms: None,
        connect_ms: None,
        duration_ms: 0.0,
        outcome: "ok",
        shadow: None,
        detail: Some(escape(detail).into()),
    };
    let text = line.to_text();
    assert!(text.last() == Some(&b'\n'), "no line break at the end");
    let text = String::from_utf8_lossy(&text[..text.len() - 1]);
    assert!(!text.chars().any(is_hidden), "{text:?}");
    let read: Value = serde_json::from_str(&text).unwrap_or_default();
    assert_eq!(read["outcome"], "ok", "{text}");
    assert_eq!(read["listener"], "main", "{text}");
    assert_eq!(
        read.as_object().map(serde_json::Map::len),
        Some(13),
        "{text}"
    );
    for (field, original) in [
        (&read["identity"], identity),
        (&read["serial"], serial),
        (&read["detail"], detail),
        (&read["certificate"]["subject"], subject),
        (&read["certificate"]["issuer"], identity),
    ] {
        let shown = field.as_str().unwrap_or_default();
        assert!(shown.len() <= LONGEST, "{} bytes", shown.len());
        assert_eq!(shown, escape(original));
        // Text that needs no escapes is not changed.
        let is_plain = original.len() <= LONGEST && !original.chars().any(is_hidden);
        assert!(!is_plain || shown == original);
    }
}
