//! The fields of an access record for each reason code that a client or a server can cause:
//! the record has exactly the fields whose values were known when the connection ended.

use std::collections::BTreeSet;

use leastconn_server::reason_code::ReasonCode;
use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{Behaviour, DEADLINE, TestCa, TlsClient, Upstream};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::access_log::ALWAYS;
use crate::support::{
    CLIENT1, NO_PROBES, Running, Site, TLS, cn, entry, refused, refusing_address, reset, talk, tcp,
};

/// Fields of a connection whose TLS handshake succeeded with SNI and a client certificate.
const TLS_DONE: [&str; 5] = ["serial", "sni", "tls_version", "cipher", "handshake_ms"];

/// Returns the fields of a record with this outcome: the required fields, then `?`, then the
/// optional fields. `TLS` means all fields of [`TLS_DONE`].
fn fields(outcome: &str) -> &'static str {
    match outcome {
        "ok" | "client_reset" | "server_reset" | "client_truncated" | "server_truncated"
        | "tls_error" | "idle_timeout" | "half_close_timeout" | "max_lifetime"
        | "policy_changed" | "drained" => {
            "TLS client identity upstream server attempts connect_ms ? detail"
        }
        "connect_failed" => "TLS client identity upstream attempts ? detail",
        "client_closed" => "TLS client identity upstream attempts ? detail",
        "no_server_available" => "TLS client identity upstream ? attempts detail",
        "rate_limited" | "too_many_connections" => "TLS client identity upstream ? detail",
        "not_allowed" => "TLS client identity ? detail",
        "unknown_client" => "TLS identity ? detail",
        "ambiguous_identity" => "sni tls_version cipher handshake_ms serial certificate ? detail",
        "no_certificate" => "sni alert_sent ? tls_offered tls_version detail",
        "untrusted_certificate" | "expired_certificate" | "revoked_certificate" => {
            "sni serial certificate alert_sent ? tls_offered tls_version detail"
        }
        "handshake_failed" => "? tls_offered alert_sent alert_received tls_version sni detail",
        "not_tls" => "detail ?",
        "handshake_timeout" => "? detail",
        other => panic!("{other}"),
    }
}

fn check(record: &Value) {
    let outcome = record["outcome"].as_str().unwrap();
    let (required, optional) = fields(outcome).split_once('?').unwrap();
    let mut required: BTreeSet<&str> = required.split_whitespace().chain(ALWAYS).collect();
    // Records of a listener without TLS have no TLS fields.
    if required.remove("TLS") && record["listener"] != "plain" {
        required.extend(TLS_DONE);
    }
    let has: BTreeSet<&str> = record
        .as_object()
        .unwrap()
        .keys()
        .map(|key| &**key)
        .collect();
    for field in &required {
        assert!(has.contains(field), "no {field}: {record}");
    }
    for field in has.difference(&required) {
        let optional = optional
            .split_whitespace()
            .any(|optional| optional == *field);
        assert!(optional, "unexpected field {field}: {record}");
    }
}

struct Rig {
    lb: Running,
    _echo: Upstream,
    _silent: Upstream,
    _stuck: Upstream,
    resets: Upstream,
}

async fn start(revoked: &leastconn_testkit::Cert, site: Site) -> Rig {
    let echo = Upstream::named("echo").await;
    let silent = Upstream::start(Behaviour::Silent).await;
    let stuck = Upstream::start(Behaviour::Stuck).await;
    let resets = Upstream::start(Behaviour::ResetAfter(1)).await;
    site.ca.write_crl(&site.dir, &[revoked]);
    let server_entry = |server: &Upstream| [entry("s", server.addr(), "")];
    let lb = site
        .listener("main", &["upstream = \"echo\"", TLS])
        // The listener uses IPv6, because a source rule for 127.0.0.0/8 would also match
        // the TLS clients.
        .listener("plain", &["upstream = \"echo\"", "bind = \"[::1]:0\""])
        .listener(
            "postgres",
            &["upstream = \"echo\"", "starttls = \"postgres\"", TLS],
        )
        .listener(
            "hasty",
            &["upstream = \"echo\"", "handshake_timeout = \"200ms\"", TLS],
        )
        .listener(
            "idle",
            &["upstream = \"silent\"", "idle_timeout = \"200ms\"", TLS],
        )
        .listener(
            "half",
            &[
                "upstream = \"stuck\"",
                "half_close_timeout = \"200ms\"",
                TLS,
            ],
        )
        .listener(
            "brief",
            &["upstream = \"silent\"", "max_lifetime = \"200ms\"", TLS],
        )
        .listener("resets", &["upstream = \"resets\"", TLS])
        .listener("dead", &["upstream = \"dead\"", TLS])
        .listener("full", &["upstream = \"full\"", TLS])
        .upstream("echo", &[NO_PROBES], &server_entry(&echo))
        .upstream("silent", &[NO_PROBES], &server_entry(&silent))
        .upstream("stuck", &[NO_PROBES], &server_entry(&stuck))
        .upstream("resets", &[NO_PROBES], &server_entry(&resets))
        .upstream(
            "dead",
            &[
                NO_PROBES,
                "passive = { max_fails = 1, fail_timeout = \"1h\", max_ejected = 1 }",
                "panic = \"refuse\"\nretry_for = \"0s\"",
            ],
            &[entry("s", refusing_address(), "")],
        )
        .upstream(
            "full",
            &[NO_PROBES],
            &[entry("s", echo.addr(), ", max_conns = 1")],
        )
        .client(
            "client1",
            &cn(CLIENT1),
            "echo\", \"silent\", \"stuck\", \"resets\", \"dead\", \"full",
            "",
        )
        .client("barred", &cn("barred"), "dead", "")
        .client(
            "greedy",
            &cn("greedy"),
            "echo",
            "rate_limit = { rate = 0.001, burst = 1 }",
        )
        .client("single", &cn("single"), "echo", "max_conns = 1")
        .client("leaves", &cn("leaves"), "echo", "")
        .client("local", "source = \"::1\"", "echo", "")
        .start()
        .await;
    Rig {
        lb,
        _echo: echo,
        _silent: silent,
        _stuck: stuck,
        resets,
    }
}

/// Opens connections that are refused by TLS, the rules or the handshake timeout.
async fn refusals(lb: &Running, revoked: &leastconn_testkit::Cert) {
    let main = lb.main();
    refused(&TlsClient::new(lb.ca(), None), main).await;
    let foreign = TestCa::new("foreign").leaf(CLIENT1).build();
    refused(&lb.client_with(&foreign), main).await;
    let old = lb.ca().leaf(CLIENT1).validity(-20, -10).build();
    refused(&lb.client_with(&old), main).await;
    refused(&lb.client_with(revoked), main).await;
    let mut garbage = tcp(main).await;
    garbage.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let _ = read_to_close(&mut garbage).await;
    let _ = read_to_close(&mut tcp(lb.address("hasty")).await).await;
    // Connections refused by the rules.
    let two = lb.ca().leaf(CLIENT1).extra_cn("x").build();
    refused(&lb.client_with(&two), main).await;
    refused(&lb.client("stranger"), main).await;
    refused(&lb.client("barred"), main).await;
}

#[tokio::test]
async fn records_contain_what_was_known_at_the_end() {
    let site = Site::new().process("drain_timeout = \"100ms\"");
    let revoked = site.ca.leaf("client1.lb.com").build();
    let rig = start(&revoked, site).await;
    let lb = &rig.lb;
    let main = lb.main();
    refusals(lb, &revoked).await;

    let client = lb.client(CLIENT1);
    let connect = async |listener: &str| client.connect(lb.address(listener)).await.unwrap();
    // Connections refused by a limit.
    let greedy = lb.client("greedy");
    talk(greedy.connect(main).await.unwrap()).await.unwrap();
    refused(&greedy, main).await;
    let single = lb.client("single");
    let mut first = single.connect(main).await.unwrap();
    read_line(&mut first).await.unwrap();
    refused(&single, main).await;
    first.shutdown().await.unwrap();
    // The first connection to `dead` fails to connect, which ejects the server. The second
    // connection is refused, because no server is available.
    refused(&client, lb.address("dead")).await;
    refused(&client, lb.address("dead")).await;
    let mut first = connect("full").await;
    read_line(&mut first).await.unwrap();
    refused(&client, lb.address("full")).await;
    first.shutdown().await.unwrap();
    // Connections ended by a timeout.
    let _ = read_to_close(&mut connect("idle").await).await;
    let _ = read_to_close(&mut connect("brief").await).await;
    let mut half = connect("half").await;
    half.shutdown().await.unwrap();
    let _ = read_to_close(&mut half).await;
    // Connections that the server or the client aborts.
    let mut server = connect("resets").await;
    server.write_all(b"xx").await.unwrap();
    let _ = read_to_close(&mut server).await;
    let mut broken = connect("main").await;
    read_line(&mut broken).await.unwrap();
    let (socket, _) = broken.into_inner();
    reset(socket);
    let mut truncated = connect("main").await;
    read_line(&mut truncated).await.unwrap();
    drop(truncated.into_inner().0);
    let mut forged = connect("main").await;
    read_line(&mut forged).await.unwrap();
    let (mut socket, _) = forged.into_inner();
    let mut record = vec![23, 3, 3, 0, 32];
    record.resize(5 + 32, 7);
    socket.write_all(&record).await.unwrap();
    let _ = read_to_close(&mut socket).await;
    talk(tcp(lb.address("plain")).await).await.unwrap();
    // An HTTP request at a STARTTLS listener.
    let mut other = tcp(lb.address("postgres")).await;
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = read_to_close(&mut other).await;

    // Connections ended by a reload and by a shutdown.
    let mut leaves = lb.client("leaves").connect(main).await.unwrap();
    read_line(&mut leaves).await.unwrap();
    let without = lb.config().replace("cn = \"leaves\"", "cn = \"nobody\"");
    assert_eq!(lb.reload(&without).await, "applied");
    let _ = read_to_close(&mut leaves).await;
    let mut stays = connect("main").await;
    read_line(&mut stays).await.unwrap();
    assert_eq!(roundtrip(&mut stays, b"x").await.unwrap(), b"x");
    lb.signal(leastconn_testkit::Signal::TERM);
    lb.wait_end(DEADLINE).await;

    let records = lb.records();
    records.iter().for_each(check);
    let seen: BTreeSet<_> = records
        .iter()
        .map(|record| record["outcome"].as_str().unwrap())
        .collect();
    // Other tests cover these outcomes, for example blocks.rs (`blocked`), client_departure.rs
    // (`client_closed`), crl_expiry.rs (`crl_expired`), queue.rs (`queue_timeout`),
    // discovery_file.rs (`server_removed`) and rebalance.rs (`rebalanced`).
    const ELSEWHERE: [&str; 9] = [
        "blocked",
        "overloaded",
        "killed",
        "client_closed",
        "server_truncated",
        "crl_expired",
        "queue_timeout",
        "server_removed",
        "rebalanced",
    ];
    let missing: Vec<_> = ReasonCode::ALL
        .iter()
        .map(|reason| reason.as_str())
        .filter(|reason| !seen.contains(reason) && !ELSEWHERE.contains(reason))
        .collect();
    assert_eq!(missing, [""; 0]);
    assert!(rig.resets.accepted() > 0);
}
